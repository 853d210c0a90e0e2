"""Reading: a log's bytes to one outcome a line; nothing in a log makes it raise.

What is one source's alone (whose hosts, which time format, which sampling rate) stands in a `Job`.
The time format is found once, from the first row of the job, where the map does not state it.
Source of the session id: CTA-5004 (CMCD), key `sid`, in the query or in a header's column.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote, urlsplit

from ledger.cdnlogs.field_map import FieldMap, FieldMapError
from ledger.cdnlogs.lines import LINE_BYTES_MAX, ContentDigest, Line, read_lines
from ledger.cdnlogs.rows import ExcludedLine, Exclusion, LogRow, MalformedLine, Outcome
from ledger.cdnlogs.splitting import Layout, Picker, SplitError, make_picker
from ledger.cdnlogs.timestamps import (
    MalformedTimeError,
    TimeFormat,
    detect_time_format,
    parse_time,
)

ROWS_MAX: Final = 50_000_000
"""Most lines of one file that are read; the rest is counted as excluded."""

BYTES_MAX: Final = 1 << 50
"""Most bytes that a line may state, times the requests that it stands for: no answer has them, and
thousands of such lines still add up in the database's 64 bits."""

_DIGITS = re.compile(r"\d{1,19}", re.ASCII)
_REQUEST = re.compile(r"([A-Za-z-]{1,32}) (\S+)(?: HTTP/[\d.]+)?")
_SID = re.compile(r'(?:^|[,&;?= ])sid="([^"]{1,64})"')
# The same with its marks escaped once or twice and a plain value: nearly every one there is.
_ESCAPED_SID = re.compile(
    r"(?:^|[,&;?= ]|%(?:25)?(?:2C|3D|20))sid(?:=|%(?:25)?3D)"
    r'(?:"|%(?:25)?22)([0-9A-Za-z._-]{1,64})(?:"|%(?:25)?22)',
    re.IGNORECASE,
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_REASON_LENGTH_MAX: Final = 160
_COLUMNS_MAX: Final = 256

WANTED: Final = (
    "request_id",
    "host",
    "path",
    "uri",
    "query",
    "request",
    "method",
    "status",
    "body_bytes",
    "total_bytes",
    "content_length",
    "cmcd",
    "session",
)


class _RowError(Exception):
    """A line that is no row: field, got, want."""


class SampledSourceError(Exception):
    """A sampled source without a declared rate: it cannot be billed by."""


@dataclass(slots=True, kw_only=True)
class Job:
    """One source of logs: a CDN's logs in one format, as one broadcaster gets them."""

    field_map: FieldMap
    hosts: frozenset[str] = frozenset()
    """Lower-case hosts whose deliveries count; empty: all."""

    time_format: TimeFormat | None = None
    """Declared or found so far; None: not found yet."""

    sampled_one_in: int = 0
    """N of a declared rate 1/N; 0: none was declared."""

    def __post_init__(self) -> None:
        if self.sampled_one_in < 0:
            raise ValueError(f"sampled_one_in: got {self.sampled_one_in}, want ≥ 0")
        if self.field_map.is_sampled and not self.sampled_one_in:
            raise SampledSourceError(
                f"{self.field_map.name}: got a sampled source, want a declared rate (1/N)"
            )
        if self.time_format is None:
            self.time_format = self.field_map.time_format

    @property
    def weight(self) -> int:
        """For how many requests a row stands."""
        return self.sampled_one_in or 1


def request_key(request_id: str) -> bytes:
    """Return the 16-byte digest under which a request id is known."""
    return blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def session_id_of(text: str) -> bytes:
    """Return a CMCD sid as 16 bytes: a UUID's own, or the digest of any other text."""
    if _UUID.fullmatch(text):
        return bytes.fromhex(text.replace("-", ""))
    return request_key(text)


def read_log(
    chunks: Iterable[bytes],
    job: Job,
    *,
    content: ContentDigest | None = None,
    line_bytes_max: int = LINE_BYTES_MAX,
    rows_max: int = ROWS_MAX,
) -> Iterator[Outcome]:
    """Yield exactly one outcome a line of a file.

    Args:
        chunks: The file's bytes, gzip or plain, cut anywhere.
        job: Its source; the time format is written into it when it is found.
        content: Takes the uncompressed content as it passes.
        line_bytes_max: Longest line to read.
        rows_max: Most lines to read.
    """
    reader = _Reader(job)
    for line in read_lines(chunks, line_bytes_max=line_bytes_max, content=content):
        if line.number > rows_max:
            yield ExcludedLine(line.number, Exclusion.ROW_LIMIT, 0)
        else:
            yield reader.read(line)


@dataclass(slots=True)
class _Reader:
    job: Job
    pick: Picker | None = None
    log_id: str = ""
    _wanted: tuple[str, ...] = field(init=False)
    _hashed: ContentDigest = field(default_factory=ContentDigest)
    """Of all lines so far, for logs that state their hash."""

    def __post_init__(self) -> None:
        field_map = self.job.field_map
        self._wanted = (
            *(field_map.fields.get(name, "") for name in WANTED),
            field_map.aborted.field,
            field_map.midgress.field,
            field_map.sampling_field,
            *field_map.time_fields,
        )
        if field_map.columns or field_map.layout == Layout.JSON:
            self.pick = make_picker(field_map.layout, field_map.columns, self._wanted)

    def read(self, line: Line) -> Outcome:
        """Return what one line is."""
        if line.fault:
            return MalformedLine(line.number, line.fault)
        try:
            return self._read_text(line, line.data.decode("utf-8", "surrogateescape"))
        except (_RowError, SplitError, MalformedTimeError) as error:
            # A reason may quote bytes that are no text, and is stored and printed as text.
            reason = str(error).encode("utf-8", "backslashreplace").decode()
            return MalformedLine(line.number, reason[:_REASON_LENGTH_MAX])

    def _read_text(self, line: Line, text: str) -> Outcome:
        field_map = self.job.field_map
        if not text.strip():
            return ExcludedLine(line.number, Exclusion.BLANK, 0)
        if field_map.hash_directive:
            self._check_hash(text, line.data)
        if field_map.header and text.startswith(field_map.header):
            self._read_header(text[len(field_map.header) :])
            return ExcludedLine(line.number, Exclusion.DIRECTIVE, 0)
        if field_map.directive and text.startswith(field_map.directive):
            if text.upper().startswith("#UUID:"):
                self.log_id = text[len("#UUID:") :].strip().strip('"')
            return ExcludedLine(line.number, Exclusion.DIRECTIVE, 0)
        if not line.is_terminated and field_map.layout != Layout.JSON:
            raise _RowError("line: got no line end, want one: the file may be cut")
        if self.pick is None:
            raise _RowError(f"columns: got none, want a line {field_map.header!r} before")
        return self._read_values(line, self.pick(text))

    def _check_hash(self, text: str, data: bytes) -> None:
        """Hold the log's hash of itself against its lines: RFC 7937 §3.3, SHA256-hash."""
        directive = self.job.field_map.hash_directive
        if text.startswith(directive):
            got, want = self._hashed.digest().hex(), text[len(directive) :].strip().lower()
            if got != want:
                raise _RowError(f"hash: got {got[:16]}…, want {want[:16]}…: the file was changed")
        self._hashed.update(data + b"\r\n")

    def _read_header(self, text: str) -> None:
        columns = text.split()
        if not columns or len(columns) > _COLUMNS_MAX or len(set(columns)) != len(columns):
            self.pick = None
            raise _RowError(f"header: got {len(columns)} names, want different ones, 1 to 256")
        self.pick = make_picker(self.job.field_map.layout, columns, self._wanted)

    def _read_values(self, line: Line, values: Sequence[str | None]) -> Outcome:
        job, field_map = self.job, self.job.field_map
        nulls = field_map.nulls
        stated = [None if value is None or value in nulls else value for value in values]
        (
            request_id, host, path, uri, query, request, method, status, body, total, length, cmcd,
            session,
        ) = stated[: len(WANTED)]  # fmt: skip
        aborted_mark, midgress_mark, sampling, *times = stated[len(WANTED) :]
        if request is not None:
            method, uri = _read_request(request)
        # Empty completion marks are values, not gaps: they are looked at as they stand.
        if aborted_mark is None and field_map.aborted.field:
            aborted_mark = values[len(WANTED)]
        host, path, query = _read_place(host, path, uri, query)
        bytes_max = BYTES_MAX // job.weight
        body_bytes = _read_count("body bytes", body, bytes_max)
        total_bytes = _read_count("total bytes", total, bytes_max)
        if body_bytes is None and total_bytes is None:
            raise _RowError("bytes: got neither body nor total, want one at least")
        content_length = _read_count("content length", length, bytes_max)
        status_code = _read_status(status)
        time_ms = self._read_time(times)
        sent_bytes = total_bytes if total_bytes is not None else body_bytes or 0
        if field_map.midgress.field and field_map.midgress.holds(midgress_mark):
            return ExcludedLine(line.number, Exclusion.MIDGRESS, sent_bytes)
        if job.hosts and host not in job.hosts:
            return ExcludedLine(line.number, Exclusion.OTHER_HOST, sent_bytes)
        if sampling is not None and sampling not in {f"{job.weight}", f"1/{job.weight}"}:
            return ExcludedLine(line.number, Exclusion.SAMPLED, sent_bytes)
        method = (method or "").upper()
        return LogRow(
            line=line.number,
            key=self._key(request_id, line.number),
            digest=blake2b(line.data, digest_size=16).digest(),
            time_ms=time_ms,
            host=host,
            path=path,
            session_id=_find_session(session, cmcd, query),
            method=method,
            status=status_code,
            body_bytes=body_bytes,
            total_bytes=total_bytes,
            content_length=content_length,
            is_aborted=(
                status_code in field_map.aborted_statuses
                or (bool(field_map.aborted.field) and field_map.aborted.holds(aborted_mark))
                or (
                    body_bytes is not None
                    and content_length is not None
                    and body_bytes < content_length
                    and method != "HEAD"
                    and status_code != 304
                )
            ),
        )

    def _key(self, request_id: str | None, number: int) -> bytes:
        if request_id is not None:
            return request_key(request_id)
        # RFC 7937 §3.4.1: a record is named by its file's UUID and its place in it.
        return request_key(f"{self.log_id}\0{number}") if self.log_id else b""

    def _read_time(self, parts: Sequence[str | None]) -> int:
        if None in parts:
            raise _RowError("time: got nothing, want a time")
        text = " ".join(part for part in parts if part is not None)
        if self.job.time_format is None:
            self.job.time_format = detect_time_format(text)
        return parse_time(text, self.job.time_format)


def _read_request(text: str) -> tuple[str, str]:
    match = _REQUEST.fullmatch(text)
    # A client that spoke no HTTP: the bytes of the answer were sent all the same.
    return (match[1], match[2]) if match else ("", "/")


def _read_place(
    host: str | None, path: str | None, uri: str | None, query: str | None
) -> tuple[str, str, str]:
    """Return host, path and query out of the fields that a log has."""
    if uri is not None:
        if "://" in uri:
            try:
                parts = urlsplit(uri)
            except ValueError:
                raise _RowError(f"uri: got {uri[:60]!r}, want a URL") from None
            host, path = host or parts.netloc, parts.path or "/"
            query = query or parts.query
        else:
            path, _, found = uri.partition("?")
            query = query or found
    if path is None:
        raise _RowError("path: got nothing, want one")
    if "%" in path:
        # One CDN logs a path as it came, another escapes it anew: contents are named without.
        path = unquote(path, errors="surrogateescape")
    return (host or "").lower(), path, query or ""


def _read_count(name: str, text: str | None, bytes_max: int) -> int | None:
    if text is None:
        return None
    if not _DIGITS.fullmatch(text) or (count := int(text)) > bytes_max:
        raise _RowError(f"{name}: got {text[:40]!r}, want 0..{bytes_max}")
    return count


def _read_status(text: str | None) -> int:
    if text is None or not (len(text) <= 3 and text.isascii() and text.isdigit()):
        raise _RowError(f"status: got {text if text is None else text[:40]!r}, want 0 to 999")
    return int(text)


def _find_session(session: str | None, cmcd: str | None, query: str) -> bytes:
    """Return the CMCD sid out of a field of its own, the CMCD field, or the query."""
    if session is not None:
        return session_id_of(session.strip('"'))
    for text in (cmcd, query if "CMCD" in query else None):
        if text:
            # Logs write a query as it came, or escape it once more.
            match = (
                _ESCAPED_SID.search(text)
                or _SID.search(unquote(text))
                or _SID.search(unquote(unquote(text)))
            )
            if match:
                return session_id_of(match[1])
    return b""


__all__ = [
    "BYTES_MAX",
    "ROWS_MAX",
    "FieldMapError",
    "Job",
    "SampledSourceError",
    "read_log",
    "request_key",
    "session_id_of",
]
