"""Field maps: declarations of what a log's fields mean, one TOML file a format.

The shipped maps stand in the folder `maps`; a map of one's own has the same form and is checked as
strictly: an unknown key or a value of another kind is refused, because a misspelt field would read
as "not stated". Keys of a map:

    title, notes           text for people
    layout                 json, tsv, pipe, space or quoted
    columns                names in the order of the line, where the log has no header
    header                 begin of the line that names the columns, such as "#Fields:"
    directive              begin of lines about the log, such as "#"
    hash_directive         begin of a line with the SHA-256 of all lines before it, ends CR LF
    nulls                  texts that mean "not stated"
    sampled                true: the source gives a part of its requests only
    [time]                 fields (joined by a space), format (see `timestamps.TimeFormat`, or
                           "detect": once a job)
    [fields]               request_id, host, path, uri (path with query, or a whole URL), query,
                           request ("GET /path HTTP/1.1"), method, status, body_bytes, total_bytes,
                           content_length, cmcd, session, log_id
    [aborted]              statuses; field and either values or whole_values
    [midgress]             field and either values or edge_values
    [sampling]             field: one in how many requests the line stands for, "10" or "1/10"
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from ledger.cdnlogs.splitting import Layout
from ledger.cdnlogs.timestamps import TimeFormat

SHIPPED: Final = (
    "akamai-datastream2",
    "bunny",
    "cdni",
    "cloudflare",
    "cloudfront",
    "combined",
    "fastly",
    "nginx",
    "w3c",
)
MAP_CHARACTERS_MAX: Final = 64 << 10
DETECT: Final = "detect"

FIELD_NAMES: Final = (
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
    "log_id",
)
_TOP = {
    "title", "notes", "layout", "columns", "header", "directive", "hash_directive", "nulls",
    "sampled", "time", "fields", "aborted", "midgress", "sampling",
}  # fmt: skip


class FieldMapError(Exception):
    """A field map that cannot be used: field, got, want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A field that marks a line by its value."""

    field: str
    """Name of the column; empty: there is none."""

    values: frozenset[str]
    """Lower-case texts that mark the line, or that do not."""

    marks_others: bool
    """False: these values mark the line; True: every other stated value does."""

    def holds(self, value: str | None) -> bool:
        """Tell whether a line with this value is marked; "not stated" (None) marks nothing."""
        if value is None:
            return False
        return (value.lower() in self.values) != self.marks_others


_NO_MARKER: Final = Marker(field="", values=frozenset(), marks_others=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMap:
    """What the fields of one format mean."""

    name: str
    title: str
    notes: str
    layout: Layout
    columns: tuple[str, ...]
    """Empty where a header names them, and for JSON."""

    header: str
    directive: str
    hash_directive: str
    """Empty: the log states no hash of itself."""

    nulls: frozenset[str]
    is_sampled: bool
    time_fields: tuple[str, ...]
    time_format: TimeFormat | None
    """None: detected once a job."""

    fields: Mapping[str, str]
    """Ours (`FIELD_NAMES`) → the log's; absent where the log does not state it."""

    aborted_statuses: frozenset[int]
    aborted: Marker
    midgress: Marker
    sampling_field: str
    """Empty: the log does not state it."""


def load_field_map(name: str) -> FieldMap:
    """Return a shipped field map.

    Raises:
        FieldMapError: There is none of this name.
    """
    if name not in SHIPPED:
        raise FieldMapError(f"format: got {name!r}, want one of {', '.join(SHIPPED)}")
    return _load_shipped(name)


@cache
def _load_shipped(name: str) -> FieldMap:
    text = files("ledger.cdnlogs").joinpath("maps", f"{name}.toml").read_text("utf-8")
    return parse_field_map(text, name=name)


def parse_field_map(text: str, *, name: str) -> FieldMap:
    """Read a field map.

    Args:
        text: TOML.
        name: What the job calls it.

    Raises:
        FieldMapError: Not such a document.
    """
    if len(text) > MAP_CHARACTERS_MAX:
        raise FieldMapError(f"map: got {len(text)} characters, want ≤ {MAP_CHARACTERS_MAX}")
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FieldMapError(f"map: {error}") from None
    _require_keys("map", document, _TOP)
    time, fields = (_table(document, name) for name in ("time", "fields"))
    aborted, midgress, sampling = (
        _table(document, name) for name in ("aborted", "midgress", "sampling")
    )
    _require_keys("time", time, {"fields", "format"})
    _require_keys("fields", fields, set(FIELD_NAMES))
    _require_keys("aborted", aborted, {"statuses", "field", "values", "whole_values"})
    _require_keys("midgress", midgress, {"field", "values", "edge_values"})
    _require_keys("sampling", sampling, {"field"})
    field_map = FieldMap(
        name=name,
        title=_text(document, "title"),
        notes=_text(document, "notes"),
        layout=_layout(document.get("layout")),
        columns=_texts(document, "columns"),
        header=_text(document, "header"),
        directive=_text(document, "directive"),
        hash_directive=_text(document, "hash_directive"),
        nulls=frozenset(_texts(document, "nulls")),
        is_sampled=_flag(document, "sampled"),
        time_fields=_texts(time, "fields"),
        time_format=_time_format(_text(time, "format")),
        fields={ours: _text(fields, ours) for ours in fields},
        aborted_statuses=_statuses(aborted),
        aborted=_marker(aborted, "values", "whole_values"),
        midgress=_marker(midgress, "values", "edge_values"),
        sampling_field=_text(sampling, "field"),
    )
    _require_usable(field_map)
    return field_map


def _require_usable(field_map: FieldMap) -> None:
    fields = field_map.fields
    if not field_map.time_fields:
        raise FieldMapError("time.fields: got none, want at least one")
    if not {"body_bytes", "total_bytes"} & set(fields):
        raise FieldMapError("fields: got neither body_bytes nor total_bytes, want one at least")
    if "status" not in fields:
        raise FieldMapError("fields.status: got nothing, want the status column")
    if not {"uri", "path", "request"} & set(fields):
        raise FieldMapError("fields: got none of uri, path, request, want one")
    if field_map.layout != Layout.JSON and not (field_map.columns or field_map.header):
        raise FieldMapError("columns: got none and no header, want one of the two")
    if field_map.columns:
        repeated = [n for n in field_map.columns if n and field_map.columns.count(n) > 1]
        if repeated:
            raise FieldMapError(f"columns: got {repeated[0]!r} twice, want each name once")
        named = {*fields.values(), *field_map.time_fields, field_map.aborted.field}
        missing = sorted(named - {""} - set(field_map.columns))
        if missing:
            raise FieldMapError(f"fields: got {missing[0]!r}, want a name of columns")


def _require_keys(place: str, table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise FieldMapError(f"{place}: got key {unknown[0]!r}, want {', '.join(sorted(known))}")


def _table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name, {})
    if not isinstance(found, dict):
        raise FieldMapError(f"{name}: got {type(found).__name__}, want a table")
    return found


def _text(table: Mapping[str, Any], name: str) -> str:
    found = table.get(name, "")
    if not isinstance(found, str):
        raise FieldMapError(f"{name}: got {type(found).__name__}, want text")
    return found


def _texts(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = table.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise FieldMapError(f"{name}: got {str(found)[:40]}, want a list of texts")
    return tuple(found)


def _flag(table: Mapping[str, Any], name: str) -> bool:
    found = table.get(name, False)
    if not isinstance(found, bool):
        raise FieldMapError(f"{name}: got {found!r}, want true or false")
    return found


def _statuses(table: Mapping[str, Any]) -> frozenset[int]:
    found = table.get("statuses", [])
    if not isinstance(found, list) or not all(type(item) is int for item in found):
        raise FieldMapError(f"aborted.statuses: got {str(found)[:40]}, want a list of integers")
    return frozenset(found)


def _layout(found: object) -> Layout:
    names = [layout.value for layout in Layout]
    if found not in names:
        raise FieldMapError(f"layout: got {found!r}, want one of {', '.join(names)}")
    return Layout(found)


def _time_format(text: str) -> TimeFormat | None:
    if text == DETECT:
        return None
    names = [time_format.value for time_format in TimeFormat]
    if text not in names:
        raise FieldMapError(f"time.format: got {text!r}, want {DETECT} or {', '.join(names)}")
    return TimeFormat(text)


def _marker(table: Mapping[str, Any], marking: str, others: str) -> Marker:
    if "field" not in table:
        if marking in table or others in table:
            raise FieldMapError(f"{marking}: got values without a field, want both")
        return _NO_MARKER
    if (marking in table) == (others in table):
        raise FieldMapError(f"field: want exactly one of {marking} and {others} beside it")
    name = marking if marking in table else others
    return Marker(
        field=_text(table, "field"),
        values=frozenset(value.lower() for value in _texts(table, name)),
        marks_others=name == others,
    )
