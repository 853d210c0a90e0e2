"""Rows: what a line of a CDN's log can turn out to be, and the counters that each line ends in.

Body bytes and total bytes (headers included) are separate columns; neither is inferred from the
other, and both are what was sent, whatever Content-Length or the object's size say.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

FAULTS_KEPT_MAX: Final = 1_000
"""Most malformed lines of a job that are kept with their place; all are counted."""


class Exclusion(Enum):
    """Why a line that reads well is no delivery of this job."""

    BLANK = "blank"
    DIRECTIVE = "directive"
    """A line about the log: field names, version, hash."""

    MIDGRESS = "midgress"
    """Traffic between the CDN's own servers."""

    SAMPLED = "sampled"
    """It stands for another number of requests than was declared; 1, where none was."""

    OTHER_HOST = "other host"
    ROW_LIMIT = "row limit"
    """Beyond the most rows that a file may have."""

    FORGOTTEN = "forgotten day"
    """So late that the request ids of its day are no longer known."""


class LogRow(NamedTuple):
    """One delivery, as the CDN states it. A tuple: there are millions."""

    line: int
    """Line number in its file, from 1."""

    key: bytes
    """Digest of the request id, 16 bytes; empty if the log has none."""

    digest: bytes
    """Digest of the whole line, 16 bytes: same key and other digest is a conflict."""

    time_ms: int
    """Milliseconds since the Unix epoch; the end of the response where the log states it."""

    host: str
    """Lower case; empty if the log does not state it."""

    path: str
    """Without the query, percent-decoded."""

    session_id: bytes
    """CMCD sid, 16 bytes; empty if there is none."""

    method: str
    """Upper case; empty if the log does not state it."""

    status: int
    """0 where the client left before the answer."""

    body_bytes: int | None
    """Bytes of bodies sent; None if the log does not state them."""

    total_bytes: int | None
    """Bytes sent, headers included; None if the log does not state them."""

    content_length: int | None
    """The answer's Content-Length header, never a count of what was sent."""

    is_aborted: bool
    """Whether the client left before the end."""


class ExcludedLine(NamedTuple):
    """A line that is no delivery, with what it says was sent."""

    line: int
    reason: Exclusion
    sent_bytes: int


class MalformedLine(NamedTuple):
    """A line that cannot be read."""

    line: int
    reason: str


Outcome = LogRow | ExcludedLine | MalformedLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Where a malformed line stands."""

    file: str
    line: int
    reason: str


@dataclass(slots=True, kw_only=True)
class Counters:
    """How many lines ended where; each line in exactly one."""

    lines: int = 0
    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    late: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    excluded_bytes: Counter[str] = field(default_factory=Counter)
    """What the excluded lines say was sent."""

    malformed: int = 0
    faults: list[Fault] = field(default_factory=list)
    """The first `FAULTS_KEPT_MAX`."""

    @property
    def sum(self) -> int:
        """Sum of all counters: equals `lines`."""
        counted = self.accepted + self.duplicate + self.conflict + self.late
        return counted + self.excluded.total() + self.malformed

    def exclude(self, line: ExcludedLine) -> None:
        """Count an excluded line."""
        self.lines += 1
        self.excluded[line.reason.value] += 1
        self.excluded_bytes[line.reason.value] += line.sent_bytes

    def note_malformed(self, file: str, line: MalformedLine) -> None:
        """Count a malformed line and keep its place."""
        self.lines += 1
        self.malformed += 1
        if len(self.faults) < FAULTS_KEPT_MAX:
            self.faults.append(Fault(file=file, line=line.line, reason=line.reason))


class LineFigures(NamedTuple):
    """What one delivery adds to the totals of its group."""

    body_bytes: int
    """0 where not stated."""

    has_body: bool
    total_bytes: int
    """0 where not stated."""

    has_total: bool
    header_bytes: int
    """Total less body where both are stated; total less Content-Length where the answer is whole;
    otherwise 0."""

    payload_bytes: int
    """What can be compared with viewers' bytes: the body; where a log states no body, the total
    less the header bytes known."""

    is_aborted: bool


_WHOLE: Final = frozenset({200, 203, 206})


def figures_of(row: LogRow, sampled_one_in: int = 1) -> LineFigures:
    """Return what a row adds.

    Args:
        row: The row.
        sampled_one_in: N of a declared sampling rate of 1/N, ≥ 1: each row stands for N.
    """
    body, total, length = row.body_bytes, row.total_bytes, row.content_length
    header = 0
    if total is not None:
        if body is not None:
            header = max(total - body, 0)
        elif (
            length is not None
            and row.status in _WHOLE
            and not row.is_aborted
            and row.method in {"GET", ""}
        ):
            header = max(total - length, 0)
    payload = body if body is not None else max((total or 0) - header, 0)
    return LineFigures(
        body_bytes=(body or 0) * sampled_one_in,
        has_body=body is not None,
        total_bytes=(total or 0) * sampled_one_in,
        has_total=total is not None,
        header_bytes=header * sampled_one_in,
        payload_bytes=payload * sampled_one_in,
        is_aborted=row.is_aborted,
    )
