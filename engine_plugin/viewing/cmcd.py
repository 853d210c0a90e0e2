"""Player reports in CMCD version 2, event mode: one object per event, strictly and boundedly read.

Two forms: lines of `key=value` pairs, comma-separated, text in double quotes, keys without a value
true; or JSON, one object or a list of them with the same keys. Keys that are not used here are read
past, whatever they say; a used key with a value out of range refuses the whole body, so nothing of
a damaged body counts. Not here: what an event means (`playback_clock`).
Source: CTA-5004-B, "Event Mode"; keys `e sta sid sn ts pt pr bsd`.
"""

import json
from dataclasses import dataclass
from typing import Any

from engine_plugin.errors import EngineError
from ledger.evidence.heartbeat import STATES

BODY_BYTES_MAX = 16 << 10
"""Largest body; a report needs about 100 bytes."""

REPORTS_MAX = 64
"""Most reports in one body."""

SID_CHARACTERS_MAX = 64
"""Longest session id that CMCD allows."""

_NUMBER_MAX = (1 << 53) - 1
_RATE_PERMILLE_MAX = 16_000
_KEY_CHARACTERS_MAX = 64
_EVENT_CHARACTERS_MAX = 8


class MalformedReportError(EngineError):
    """A body that is no list of CMCD reports: field, got, want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerReport:
    """One event of a player."""

    sid: str
    """The player's own session id; empty when it gives none."""

    sequence_number: int | None
    """CMCD sn; rises with every report of the player's session."""

    event: str
    """CMCD e: `ps` play state, `t` time interval, `pr` rate and so on; empty when not given."""

    state: str | None
    """CMCD sta: one letter; None: as before."""

    timestamp_ms: int | None
    """CMCD ts: the player's clock; only differences are believed."""

    position_ms: int | None
    """CMCD pt: playhead position in media time."""

    rate_permille: int | None
    """CMCD pr × 1000: playback rate; None: as before."""

    starved_ms: int
    """CMCD bsd: rebuffering since the report before."""


def parse_reports(body: bytes, *, is_json: bool) -> list[PlayerReport]:
    """Read a body.

    Raises:
        MalformedReportError: Too large, too many reports, not of its form, or a value is out of
            range.
    """
    if len(body) > BODY_BYTES_MAX:
        raise MalformedReportError(f"body: got {len(body)} bytes, want at most {BODY_BYTES_MAX}")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise MalformedReportError("body: got other bytes, want UTF-8") from None
    objects = _parse_json(text) if is_json else [_parse_line(line) for line in text.splitlines()]
    if not 1 <= len(objects) <= REPORTS_MAX:
        raise MalformedReportError(f"reports: got {len(objects)}, want 1 to {REPORTS_MAX}")
    return [_report_of(values) for values in objects]


def _parse_json(text: str) -> list[dict[str, Any]]:
    try:
        parsed = json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MalformedReportError("body: got no JSON, want an object or a list") from None
    objects = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(values, dict) for values in objects):
        raise MalformedReportError("body: got another value, want objects of reports")
    return objects


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise MalformedReportError("report: got a key twice, want each once")
    return values


def _refuse_constant(name: str) -> None:
    raise MalformedReportError(f"report: got {name}, want a number")


def _parse_line(line: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in _split_outside_quotes(line):
        key, has_value, text = part.partition("=")
        if not 1 <= len(key) <= _KEY_CHARACTERS_MAX or key in values:
            raise MalformedReportError(f"key: got {key[:80]!r}, want a new one")
        values[key] = _parse_value(key, text) if has_value else True
    return values


def _split_outside_quotes(line: str) -> list[str]:
    parts: list[str] = []
    begin, is_quoted, is_escaped = 0, False, False
    for place, character in enumerate(line):
        if is_escaped:
            is_escaped = False
        elif is_quoted and character == "\\":
            is_escaped = True
        elif character == '"':
            is_quoted = not is_quoted
        elif character == "," and not is_quoted:
            parts.append(line[begin:place].strip())
            begin = place + 1
    if is_quoted:
        raise MalformedReportError("line: got an open quotation mark, want a closed one")
    return [*parts, line[begin:].strip()]


def _parse_value(key: str, text: str) -> str | int | float:
    if text.startswith('"'):
        if len(text) < 2 or not text.endswith('"'):
            raise MalformedReportError(f"{key}: got {text[:80]!r}, want text in quotation marks")
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    # Other values are tokens or inner lists: those that are no numbers stay text.
    for kind in (int, float):
        try:
            return kind(text) if len(text) <= 24 and text.isascii() else text
        except ValueError:
            continue
    return text


def _report_of(values: dict[str, Any]) -> PlayerReport:
    state = _text(values, "sta", 1)
    if state is not None and (len(state) != 1 or state not in STATES):
        raise MalformedReportError(f"sta: got {state!r}, want one letter of {STATES}")
    rate = values.get("pr")
    rate_permille = None
    if rate is not None:
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise MalformedReportError(f"pr: got {rate!r:.80}, want a number")
        if not 0 <= rate <= _RATE_PERMILLE_MAX / 1000:
            raise MalformedReportError(f"pr: got {rate}, want 0 to {_RATE_PERMILLE_MAX // 1000}")
        rate_permille = round(rate * 1000)
    return PlayerReport(
        sid=_text(values, "sid", SID_CHARACTERS_MAX) or "",
        sequence_number=_number(values, "sn"),
        event=_text(values, "e", _EVENT_CHARACTERS_MAX) or "",
        state=state,
        timestamp_ms=_number(values, "ts"),
        position_ms=_number(values, "pt"),
        rate_permille=rate_permille,
        starved_ms=_number(values, "bsd") or 0,
    )


def _text(values: dict[str, Any], key: str, characters_max: int) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > characters_max:
        raise MalformedReportError(
            f"{key}: got {value!r:.80}, want text of at most {characters_max} characters"
        )
    return value


def _number(values: dict[str, Any], key: str) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) <= _NUMBER_MAX:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _NUMBER_MAX:
        raise MalformedReportError(f"{key}: got {value!r:.80}, want an integer from 0")
    return value
