"""Tally: totals by content, day and session out of the outcomes of one CDN's logs, in memory.

Every key is a set of lines: the same line again is a duplicate; two different lines under one
request id are a conflict, and then none of its lines counts. What comes out depends on the set of
lines only, not on their order or on how they are cut into files. The database does the same for
logs that do not fit the memory (`ledger.store.cdn_store`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ledger.cdnlogs.contents import Contents
from ledger.cdnlogs.rows import (
    Counters,
    ExcludedLine,
    LineFigures,
    LogRow,
    MalformedLine,
    Outcome,
    figures_of,
)
from ledger.cdnlogs.timestamps import day_of

KEYS_MAX: Final = 20_000_000
"""Most request ids that one tally knows."""


class TallyFullError(Exception):
    """More request ids than a tally may know."""


class GroupKey(NamedTuple):
    """What totals are kept by."""

    content_id: bytes
    """32 bytes; empty: no content is declared for the path."""

    session_id: bytes
    """16 bytes; empty: the line names none."""

    day: int
    """UTC, days since 1970-01-01."""


@dataclass(slots=True, kw_only=True)
class GroupTotals:
    """Deliveries of one content to one session in one day, by one CDN."""

    lines: int = 0
    body_bytes: int = 0
    body_lines: int = 0
    """Lines that state the body."""

    total_bytes: int = 0
    total_lines: int = 0
    """Lines that state the total."""

    header_bytes: int = 0
    payload_bytes: int = 0
    aborted_lines: int = 0
    aborted_bytes: int = 0
    """Payload bytes of aborted answers."""

    late_lines: int = 0
    """Of `lines`: those that came after their day was closed."""

    late_bytes: int = 0
    """Payload bytes of late lines."""

    late_total_bytes: int = 0
    duplicate_lines: int = 0
    duplicate_bytes: int = 0
    """Payload bytes of dropped repeats."""

    conflict_lines: int = 0
    conflict_bytes: int = 0
    """For each request id in conflict, the least payload that one of its lines states."""

    def add(self, figures: LineFigures, *, is_late: bool) -> None:
        """Take one line that counts."""
        self.lines += 1
        self.body_bytes += figures.body_bytes
        self.body_lines += figures.has_body
        self.total_bytes += figures.total_bytes
        self.total_lines += figures.has_total
        self.header_bytes += figures.header_bytes
        self.payload_bytes += figures.payload_bytes
        if figures.is_aborted:
            self.aborted_lines += 1
            self.aborted_bytes += figures.payload_bytes
        if is_late:
            self.late_lines += 1
            self.late_bytes += figures.payload_bytes
            self.late_total_bytes += figures.total_bytes


class _Known(NamedTuple):
    digest: bytes
    group: GroupKey
    figures: LineFigures
    is_late: bool


@dataclass(slots=True, kw_only=True)
class Tally:
    """Takes outcomes of one CDN's logs; `finish` gives what they come to."""

    contents: Contents
    closed_through_day: int = -1
    """Lines of this day and before are late: corrections."""

    sampled_one_in: int = 1
    keys_max: int = KEYS_MAX
    _counters: Counters = field(default_factory=Counters)
    _known: dict[bytes, _Known] = field(default_factory=dict)
    _others: dict[bytes, dict[bytes, _Known]] = field(default_factory=dict)
    """Request id → further lines under it, by digest: a conflict."""

    _repeats: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    _keyless: dict[GroupKey, GroupTotals] = field(default_factory=dict)

    def add(self, file: str, outcomes: Iterable[Outcome]) -> None:
        """Take the outcomes of one file.

        Raises:
            TallyFullError: More request ids than `keys_max`.
        """
        for outcome in outcomes:
            if isinstance(outcome, LogRow):
                self._add_row(outcome)
            elif isinstance(outcome, ExcludedLine):
                self._counters.exclude(outcome)
            elif isinstance(outcome, MalformedLine):
                self._counters.note_malformed(file, outcome)

    def _add_row(self, row: LogRow) -> None:
        self._counters.lines += 1
        group = GroupKey(self.contents.find(row.path), row.session_id, day_of(row.time_ms))
        is_late = group.day <= self.closed_through_day
        figures = figures_of(row, self.sampled_one_in)
        if not row.key:
            # Without a request id two deliveries and one that is logged twice look alike.
            totals = self._keyless.setdefault(group, GroupTotals())
            totals.add(figures, is_late=is_late)
            if is_late:
                self._counters.late += 1
            else:
                self._counters.accepted += 1
            return
        known = self._known.get(row.key)
        if known is None:
            if len(self._known) >= self.keys_max:
                raise TallyFullError(f"request ids: got more than {self.keys_max}")
            self._known[row.key] = _Known(row.digest, group, figures, is_late)
        elif known.digest == row.digest:
            self._repeats[row.key, row.digest] += 1
        else:
            others = self._others.setdefault(row.key, {})
            if row.digest in others:
                self._repeats[row.key, row.digest] += 1
            else:
                others[row.digest] = _Known(row.digest, group, figures, is_late)

    def finish(self) -> tuple[dict[GroupKey, GroupTotals], Counters]:
        """Return totals by group, ascending, and what became of all lines."""
        groups: dict[GroupKey, GroupTotals] = {
            key: GroupTotals(**{name: getattr(totals, name) for name in GroupTotals.__slots__})
            for key, totals in self._keyless.items()
        }
        counters = self._counters
        accepted, late, duplicate, conflict = counters.accepted, counters.late, 0, 0
        for key, known in self._known.items():
            others = self._others.get(key)
            if others is not None:
                conflict += self._quarantine(groups, key, [known, *others.values()])
                continue
            totals = groups.setdefault(known.group, GroupTotals())
            totals.add(known.figures, is_late=known.is_late)
            late += known.is_late
            accepted += not known.is_late
            repeats = self._repeats.get((key, known.digest), 0)
            duplicate += repeats
            totals.duplicate_lines += repeats
            totals.duplicate_bytes += repeats * known.figures.payload_bytes
        counted = Counters(
            lines=counters.lines,
            accepted=accepted,
            duplicate=duplicate,
            conflict=conflict,
            late=late,
            excluded=counters.excluded,
            excluded_bytes=counters.excluded_bytes,
            malformed=counters.malformed,
            faults=sorted(counters.faults, key=lambda fault: (fault.file, fault.line)),
        )
        if counted.sum != counted.lines:
            raise AssertionError(f"counters: got sum {counted.sum}, want {counted.lines}")
        return dict(sorted(groups.items())), counted

    def _quarantine(
        self, groups: dict[GroupKey, GroupTotals], key: bytes, versions: list[_Known]
    ) -> int:
        """Count the lines of a request id in conflict; none of them counts as delivery."""
        least = min(versions, key=lambda line: (line.figures.payload_bytes, line.digest))
        lines = sum(1 + self._repeats.get((key, line.digest), 0) for line in versions)
        totals = groups.setdefault(least.group, GroupTotals())
        totals.conflict_lines += lines
        totals.conflict_bytes += least.figures.payload_bytes
        return lines
