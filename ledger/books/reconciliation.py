"""Reconciliation: viewers' signed bytes, the CDN's own log, and the CDN's invoice, side by side.

Per content, UTC day and CDN the difference between log and signed bytes is cut into causes that the
log or the signatures themselves show; what is left is *unexplained*. Sessions are matched, not
minutes: clocks differ and a log states when an answer ended. Three identities hold to the byte:

    log payload = signed + shifted + aborted + unknown session + unexplained − lost − in conflict
    log payload with a signed counterpart + without = log payload
    invoice = counted by log + missing in the log + unexplained     (`ledger.books.invoices`)

*Lost* is what viewers signed and the log does not show: lines that the CDN's log lost, or bytes
that were signed and never delivered. The log alone cannot tell which. Not here: reading logs.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.books.errors import require_equal
from ledger.cdnlogs.tally import GroupKey, GroupTotals
from ledger.evidence.units import PPM


class SignedKey(NamedTuple):
    """What viewers' signed CDN bytes are summed by."""

    cdn: str
    """Host, as in the terms."""

    content_id: bytes
    """32 bytes."""

    session: bytes
    """The viewer's session key; 32 bytes."""

    day: int
    """UTC day in which the bytes' epoch began, days since 1970-01-01."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSession:
    """What a CMCD session id in a log leads to."""

    session: bytes
    """The viewer's session key; 32 bytes; empty: several keys claim the id."""

    content_id: bytes
    """What it plays; 32 bytes; empty: more than one content."""


def merge_sessions(
    into: dict[bytes, KnownSession], more: Iterable[tuple[bytes, KnownSession]]
) -> None:
    """Add what session ids lead to, in any order.

    An id that two keys claim belongs to nobody: one of them may have copied the other's.
    """
    for session_id, found in more:
        known = into.setdefault(session_id, found)
        if known != found:
            is_same_key = known.session == found.session
            into[session_id] = KnownSession(
                session=known.session if is_same_key else b"", content_id=b""
            )


@dataclass(slots=True, kw_only=True)
class Cell:
    """One content on one day by one CDN; bytes are payload unless the name says otherwise."""

    cdn: str
    content_id: bytes
    """32 bytes; empty: paths that no content is declared for."""

    day: int
    signed_bytes: int = 0
    log_lines: int = 0
    log_lines_known: int = 0
    """Lines with the session id of a signed session."""

    log_bytes: int = 0
    """Payload: bodies where the log states them, else totals less the headers known."""

    log_bytes_known: int = 0
    """Of `log_bytes`: lines with the session id of a signed session."""

    body_bytes: int = 0
    body_lines: int = 0
    total_bytes: int = 0
    total_lines: int = 0
    header_bytes: int = 0
    late_lines: int = 0
    late_bytes: int = 0
    duplicate_lines: int = 0
    duplicate_bytes: int = 0
    conflict_lines: int = 0
    conflict_bytes: int = 0
    """Least payload of the quarantined request ids."""

    shifted_bytes: int = 0
    """In the log of this day, signed in the next to it (or, negative, the other way round)."""

    aborted_bytes: int = 0
    """Sent in answers that the client left, and not signed."""

    unknown_session_bytes: int = 0
    """Sent to sessions of which no signature exists."""

    unexplained_bytes: int = 0
    """Sent in whole answers to sessions that signed, and not signed."""

    lost_bytes: int = 0
    """Signed, and not in the log."""

    quarantined_bytes: int = 0
    """Signed, and in the log only under a request id in conflict."""

    @property
    def difference_bytes(self) -> int:
        """The log's payload beyond the signed bytes; negative where it has less."""
        return self.log_bytes - self.signed_bytes

    @property
    def unmatched_bytes(self) -> int:
        """Delivery that has no signed counterpart."""
        return self.aborted_bytes + self.unknown_session_bytes + self.unexplained_bytes

    def require_identity(self) -> None:
        """Check that the causes add up.

        Raises:
            ConservationError: They do not: an error of this module.
        """
        require_equal(
            f"log payload, {self.cdn}, day {self.day}",
            got=self.signed_bytes
            + self.shifted_bytes
            + self.unmatched_bytes
            - self.lost_bytes
            - self.quarantined_bytes,
            want=self.log_bytes,
        )


_SUMMED = tuple(name for name in Cell.__slots__ if name not in {"cdn", "content_id", "day"})


def sum_cells(cells: Iterable[Cell], *, cdn: str, content_id: bytes = b"", day: int = 0) -> Cell:
    """Return the sum of cells under a name of the caller's."""
    total = Cell(cdn=cdn, content_id=content_id, day=day)
    for cell in cells:
        for name in _SUMMED:
            setattr(total, name, getattr(total, name) + getattr(cell, name))
    return total


def ppm_of(part: int, whole: int) -> int | None:
    """Return a share in parts per million, cut towards zero; None of nothing."""
    if whole == 0:
        return None
    share = abs(part) * PPM // abs(whole)
    return -share if (part < 0) != (whole < 0) else share


class _DayOfSession:
    """One session's bytes on one day."""

    __slots__ = ("aborted", "conflict", "lines", "logged", "signed")

    def __init__(self) -> None:
        self.signed = self.logged = self.lines = self.aborted = self.conflict = 0


@dataclass(slots=True)
class _Sessionless:
    """Of one cell: what its log does not attribute to any session."""

    payload: int = 0
    aborted: int = 0
    unmatched_signed: int = 0
    """Lost bytes of sessions without a line on that day: these may be their lines."""


@dataclass(slots=True)
class _Ledger:
    cells: dict[tuple[str, bytes, int], Cell] = field(default_factory=dict)
    sessions: dict[tuple[str, bytes, bytes], dict[int, _DayOfSession]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    sessionless: dict[tuple[str, bytes, int], _Sessionless] = field(
        default_factory=lambda: defaultdict(_Sessionless)
    )

    def cell(self, cdn: str, content_id: bytes, day: int) -> Cell:
        place = cdn, content_id, day
        cell = self.cells.get(place)
        if cell is None:
            cell = self.cells[place] = Cell(cdn=cdn, content_id=content_id, day=day)
        return cell

    def day_of_session(self, cdn: str, content: bytes, session: bytes, day: int) -> _DayOfSession:
        return self.sessions[cdn, content, session].setdefault(day, _DayOfSession())


def reconcile(
    signed: Mapping[SignedKey, int],
    logged: Mapping[str, Iterable[tuple[GroupKey, GroupTotals]]],
    sessions: Mapping[bytes, KnownSession],
) -> list[Cell]:
    """Compare viewers' signed bytes with CDNs' logs.

    Args:
        signed: Bytes that viewers signed for CDNs.
        logged: CDN → totals of its log, by content, session and day, in any order; read once.
        sessions: CMCD session id → what it leads to, out of viewers' signed heartbeats.

    Returns:
        One cell per CDN, content and day, ascending; its causes add up to the byte.
    """
    ledger = _Ledger()
    for key, amount_bytes in signed.items():
        ledger.day_of_session(key.cdn, key.content_id, key.session, key.day).signed += amount_bytes
        ledger.cell(key.cdn, key.content_id, key.day).signed_bytes += amount_bytes
    for cdn, groups in logged.items():
        for group, totals in groups:
            _take_group(ledger, cdn, group, totals, sessions)
    for (cdn, content, _session), days in ledger.sessions.items():
        _explain_session(ledger, cdn, content, days)
    for place, loose in ledger.sessionless.items():
        _explain_sessionless(ledger.cells[place], loose)
    cells = [ledger.cells[place] for place in sorted(ledger.cells)]
    for cell in cells:
        cell.require_identity()
    return cells


def _take_group(
    ledger: _Ledger,
    cdn: str,
    group: GroupKey,
    totals: GroupTotals,
    sessions: Mapping[bytes, KnownSession],
) -> None:
    known = sessions.get(group.session_id) if group.session_id else None
    if known is not None and not known.session:
        known = None
    # A session names its content, where no path was declared.
    content = group.content_id or (known.content_id if known is not None else b"")
    cell = ledger.cell(cdn, content, group.day)
    cell.log_lines += totals.lines
    cell.log_bytes += totals.payload_bytes
    cell.body_bytes += totals.body_bytes
    cell.body_lines += totals.body_lines
    cell.total_bytes += totals.total_bytes
    cell.total_lines += totals.total_lines
    cell.header_bytes += totals.header_bytes
    cell.late_lines += totals.late_lines
    cell.late_bytes += totals.late_bytes
    cell.duplicate_lines += totals.duplicate_lines
    cell.duplicate_bytes += totals.duplicate_bytes
    cell.conflict_lines += totals.conflict_lines
    cell.conflict_bytes += totals.conflict_bytes
    if known is not None:
        cell.log_lines_known += totals.lines
        cell.log_bytes_known += totals.payload_bytes
        day = ledger.day_of_session(cdn, content, known.session, group.day)
        day.logged += totals.payload_bytes
        day.lines += totals.lines + totals.conflict_lines
        day.aborted += totals.aborted_bytes
        day.conflict += totals.conflict_bytes
    elif group.session_id:
        cell.unknown_session_bytes += totals.payload_bytes
    else:
        loose = ledger.sessionless[cdn, content, group.day]
        loose.payload += totals.payload_bytes
        loose.aborted += totals.aborted_bytes


def _explain_session(
    ledger: _Ledger, cdn: str, content: bytes, days: Mapping[int, _DayOfSession]
) -> None:
    """Put a session's differences into the causes of its days' cells."""
    shifts = dict(_shifts_over_midnight(days))
    for day, seen in days.items():
        cell = ledger.cell(cdn, content, day)
        shifted = shifts.get(day, 0)
        cell.shifted_bytes += shifted
        rest = seen.logged - seen.signed - shifted
        # Of an answer that was left the viewer may have signed nothing, a part, or all.
        aborted = max(0, min(rest, seen.aborted))
        cell.aborted_bytes += aborted
        if rest >= 0:
            cell.unexplained_bytes += rest - aborted
            continue
        quarantined = min(-rest, seen.conflict)
        cell.quarantined_bytes += quarantined
        cell.lost_bytes += -rest - quarantined
        if not seen.lines:
            place = cdn, content, day
            if place in ledger.sessionless:
                ledger.sessionless[place].unmatched_signed += -rest


def _shifts_over_midnight(days: Mapping[int, _DayOfSession]) -> Iterator[tuple[int, int]]:
    """Yield (day, bytes) where one day's surplus is its neighbour's deficit; they sum to zero."""
    ordered = sorted(days)
    # Answers that were left are no surplus of whole ones: they hide no shift, and make none.
    rest = {day: days[day].logged - days[day].aborted - days[day].signed for day in ordered}
    shifts: dict[int, int] = defaultdict(int)
    for day in ordered:
        after = rest.get(day + 1, 0)
        if rest[day] * after >= 0:
            continue
        moved = min(abs(rest[day]), abs(after))
        sign = 1 if rest[day] > 0 else -1
        for place, part in ((day, sign * moved), (day + 1, -sign * moved)):
            shifts[place] += part
            rest[place] -= part
    yield from shifts.items()


def _explain_sessionless(cell: Cell, loose: _Sessionless) -> None:
    """Match lines without a session id with signed sessions that have no line, in sum only."""
    matched = min(loose.payload, loose.unmatched_signed)
    cell.lost_bytes -= matched
    rest = loose.payload - matched
    aborted = min(rest, loose.aborted)
    cell.aborted_bytes += aborted
    cell.unknown_session_bytes += rest - aborted
