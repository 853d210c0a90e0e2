"""Optional inputs of a report: a catalogue of titles, and what a CDN's own log says.

Both are the broadcaster's, prove nothing and change no amount: titles name what the evidence knows
by its content id, and log figures stand beside the signed ones. Both are untrusted text.

    catalogue    {"<64 hex digits>": "title", …}
    CDN log      [{"cdn": "host", "content_id": "<64 hex digits>", "requests": n,
                   "body_bytes": n, "aborted_requests": n}, …]
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ledger.evidence.units import AMOUNT_MAX

INPUT_SIZE_MAX = 64 << 20
"""Longest catalogue or CDN log, in characters."""

TITLE_LENGTH_MAX = 200
HOST_LENGTH_MAX = 64
CDN_LOG_ROWS_MAX = 1_000_000
_HEX_DIGITS = frozenset("0123456789abcdef")
# Control characters and unpaired surrogates; and marks that turn the direction of text, by which
# a title could make the figures beside it read in another order.
_CATEGORIES_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION_MARKS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class ReportInputError(Exception):
    """An input of the report cannot be read: says field, got, want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CdnLogRow:
    """What a CDN's own log says about one content."""

    cdn: str
    """Host, as in the terms."""

    content_id: bytes
    """32 bytes."""

    requests: int
    """Requests answered, whole or in part."""

    body_bytes: int
    """Bytes of bodies sent, aborted requests included."""

    aborted_requests: int
    """Requests whose client left before the end."""


def parse_catalogue(text: str) -> dict[bytes, str]:
    """Return titles by content id.

    Raises:
        ReportInputError: Not such a JSON object, or a title that is empty, too long or holds
            control characters.
    """
    document = _read_json("catalogue", text)
    if not isinstance(document, dict):
        raise ReportInputError(f"catalogue: got {type(document).__name__}, want an object")
    return {
        _content_id("catalogue", name): _plain_text(
            f"catalogue[{name[:16]}…]", title, TITLE_LENGTH_MAX
        )
        for name, title in document.items()
    }


def parse_cdn_log(text: str) -> list[CdnLogRow]:
    """Return the rows of a CDN log summary, by CDN and content.

    Raises:
        ReportInputError: Not such a JSON list, or two rows of one CDN and content.
    """
    document = _read_json("cdn log", text)
    if not isinstance(document, list) or len(document) > CDN_LOG_ROWS_MAX:
        raise ReportInputError(f"cdn log: got {type(document).__name__}, want a list of rows")
    rows = [_cdn_log_row(place, row) for place, row in enumerate(document)]
    rows.sort(key=lambda row: (row.cdn, row.content_id))
    if len({(row.cdn, row.content_id) for row in rows}) != len(rows):
        raise ReportInputError("cdn log: got two rows of one CDN and content, want one each")
    return rows


_COUNTS = ("requests", "body_bytes", "aborted_requests")


def _cdn_log_row(place: int, row: Any) -> CdnLogRow:
    name = f"cdn log[{place}]"
    if not isinstance(row, dict) or set(row) != {"cdn", "content_id", *_COUNTS}:
        raise ReportInputError(f"{name}: got {str(row)[:80]}, want exactly cdn, content_id, counts")
    for field in _COUNTS:
        if type(row[field]) is not int or not 0 <= row[field] <= AMOUNT_MAX:
            raise ReportInputError(f"{name}.{field}: got {row[field]!r}, want 0..2**63-1")
    return CdnLogRow(
        cdn=_plain_text(f"{name}.cdn", row["cdn"], HOST_LENGTH_MAX),
        content_id=_content_id(name, row["content_id"]),
        **{field: row[field] for field in _COUNTS},
    )


def _read_json(name: str, text: str) -> Any:
    if len(text) > INPUT_SIZE_MAX:
        raise ReportInputError(f"{name}: got {len(text)} characters, want ≤ {INPUT_SIZE_MAX}")
    try:
        return json.loads(text, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise ReportInputError(f"{name}: got {error}, want JSON") from None


def _no_repeats(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name that stands twice in one object")
    return dict(pairs)


def _content_id(name: str, text: Any) -> bytes:
    if not isinstance(text, str) or len(text) != 64 or set(text) - _HEX_DIGITS:
        raise ReportInputError(f"{name}: got content id {text!r}, want 64 lower-case hex digits")
    return bytes.fromhex(text)


def _plain_text(name: str, text: Any, length_max: int) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= length_max or text != text.strip():
        raise ReportInputError(f"{name}: got {text!r}, want 1 to {length_max} characters of text")
    refused = [
        character
        for character in text
        if unicodedata.category(character) in _CATEGORIES_REFUSED or character in _DIRECTION_MARKS
    ]
    if refused:
        raise ReportInputError(f"{name}: got {refused[0]!r} in a text, want printable characters")
    return text
