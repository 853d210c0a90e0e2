"""Times in logs to milliseconds since the Unix epoch, in integers.

A job's unit is declared, or detected once from its first row and kept: a row that does not fit is
malformed, never read in another unit. Only times from 2000 to 2099 are believed, which also keeps
seconds, milliseconds, microseconds and nanoseconds apart. Sources: RFC 3339; nginx `$time_local`.
"""

import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Final

DAY_MS: Final = 86_400_000
EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01 00:00 UTC."""

LATEST_MS: Final = 4_102_444_800_000
"""2100-01-01 00:00 UTC; excluded."""

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
    r"(?:[Zz]|([+-])(\d\d):?(\d\d))",
    re.ASCII,
)
_DATE_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?()()()", re.ASCII
)
_COMMON_LOG = re.compile(
    r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)", re.ASCII
)
_UNIX = re.compile(r"(\d{1,19})(?:\.(\d{1,9}))?", re.ASCII)
_MONTHS: Final = {
    "Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6,
    "Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10, "Nov": 11, "Dec": 12,
}  # fmt: skip


class TimeFormat(Enum):
    """How a job writes times."""

    RFC3339 = "rfc3339"
    DATE_TIME = "date-time"
    """"2026-01-31 23:59:59", UTC: the fields `date` and `time` of W3C logs."""

    COMMON_LOG = "common-log"
    """"31/Jan/2026:23:59:59 +0100"."""

    UNIX_S = "unix-s"
    """Seconds; up to nine decimals."""

    UNIX_MS = "unix-ms"
    UNIX_US = "unix-us"
    UNIX_NS = "unix-ns"


_UNIX_PER_S: Final = {
    TimeFormat.UNIX_S: 1,
    TimeFormat.UNIX_MS: 10**3,
    TimeFormat.UNIX_US: 10**6,
    TimeFormat.UNIX_NS: 10**9,
}


class MalformedTimeError(Exception):
    """A text that is no time of its job's format: got, want."""


def day_of(time_ms: int) -> int:
    """Return the UTC day: days since 1970-01-01."""
    return time_ms // DAY_MS


@lru_cache(maxsize=4096)
def days_from_civil(year: int, month: int, day: int) -> int:
    """Return days since 1970-01-01 of a date of the proleptic Gregorian calendar.

    Raises:
        MalformedTimeError: There is no such date.
    """
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    lengths = (31, 29 if is_leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not (1 <= month <= 12 and 1 <= day <= lengths[month - 1]):
        raise MalformedTimeError(f"date: got {year:04d}-{month:02d}-{day:02d}, want a date")
    before = year - 1
    leap_days = before // 4 - before // 100 + before // 400
    return 365 * before + leap_days + sum(lengths[: month - 1]) + day - 719_163


def detect_time_format(text: str) -> TimeFormat:
    """Return the one format in which a text is a believable time.

    Raises:
        MalformedTimeError: There is none.
    """
    for time_format in TimeFormat:
        try:
            parse_time(text, time_format)
        except MalformedTimeError:
            continue
        return time_format
    raise MalformedTimeError(f"time: got {text[:40]!r}, want a time from 2000 to 2099")


@lru_cache(maxsize=4096)
def parse_time(text: str, time_format: TimeFormat) -> int:
    """Return a time in milliseconds since the Unix epoch; smaller fractions are cut off.

    Raises:
        MalformedTimeError: Another format, an impossible time, or one outside 2000 to 2099.
    """
    time_ms = _PARSERS[time_format](text)
    if time_ms is None or not EARLIEST_MS <= time_ms < LATEST_MS:
        raise MalformedTimeError(f"time: got {text[:40]!r}, want {time_format.value}, 2000 to 2099")
    return time_ms


def _parse_unix(text: str, per_second: int) -> int | None:
    match = _UNIX.fullmatch(text)
    if match is None or (match[2] and per_second != 1):
        return None
    if per_second == 1:
        return int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0")[:3])
    return int(match[1]) * 1000 // per_second


def _parse_calendar(match: re.Match[str] | None) -> int | None:
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, zone_h, zone_min = match.groups()
    time_ms = _clock_ms(days_from_civil(int(year), int(month), int(day)), hour, minute, second)
    return time_ms + int((fraction or "").ljust(3, "0")[:3]) - _offset_ms(sign, zone_h, zone_min)


def _parse_common_log(text: str) -> int | None:
    match = _COMMON_LOG.fullmatch(text)
    if match is None or match[2] not in _MONTHS:
        return None
    day, month, year, hour, minute, second, sign, zone_h, zone_min = match.groups()
    days = days_from_civil(int(year), _MONTHS[month], int(day))
    return _clock_ms(days, hour, minute, second) - _offset_ms(sign, zone_h, zone_min)


def _clock_ms(days: int, hour: str, minute: str, second: str) -> int:
    hours, minutes, seconds = int(hour), int(minute), int(second)
    if hours > 23 or minutes > 59 or seconds > 60:
        raise MalformedTimeError(f"time: got {hour}:{minute}:{second}, want a time of day")
    return days * DAY_MS + ((hours * 60 + minutes) * 60 + seconds) * 1000


def _offset_ms(sign: str | None, hours: str | None, minutes: str | None) -> int:
    if not sign:
        return 0
    offset_min = int(hours or 0) * 60 + int(minutes or 0)
    return offset_min * 60_000 * (-1 if sign == "-" else 1)


def _unix_parser(per_second: int) -> Callable[[str], int | None]:
    return lambda text: _parse_unix(text, per_second)


_PARSERS: Final[dict[TimeFormat, Callable[[str], int | None]]] = {
    TimeFormat.RFC3339: lambda text: _parse_calendar(_RFC3339.fullmatch(text)),
    TimeFormat.DATE_TIME: lambda text: _parse_calendar(_DATE_TIME.fullmatch(text)),
    TimeFormat.COMMON_LOG: _parse_common_log,
    **{name: _unix_parser(per_second) for name, per_second in _UNIX_PER_S.items()},
}
