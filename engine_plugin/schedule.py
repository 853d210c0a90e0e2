"""When an owner lets the engine serve: weekly windows on the clock on the wall.

"Mon-Fri 22:00-07:00; Sat,Sun 00:00-24:00": windows apart by ";", days before times, no days for
every day. A window belongs to the day it begins on; one that ends at or before its beginning ends
on the next day. On the days the clocks change, a window follows the clock on the wall.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from engine_plugin.errors import WrongInputError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
WINDOWS_MAX = 32

_WINDOW = re.compile(r"(?:([a-z,\- ]+?)\s+)?(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)", re.ASCII)
_EXAMPLE = "Mon-Fri 22:00-07:00; Sat,Sun 00:00-24:00"


class ScheduleError(WrongInputError):
    """A text is no schedule; the message names the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some hours of some days of the week."""

    days: frozenset[int]
    """Days it begins on; 0 = Monday to 6 = Sunday."""
    start_minute: int
    """Minute of the day; 0 to 1439."""
    length_minutes: int
    """1 to 1440."""

    def is_open(self, local: datetime) -> bool:
        """Tell whether a local time lies in the window."""
        minute = local.hour * 60 + local.minute
        end = self.start_minute + self.length_minutes
        today, yesterday = local.weekday(), (local.weekday() - 1) % 7
        if today in self.days and self.start_minute <= minute < end:
            return True
        return yesterday in self.days and minute + DAY_MINUTES < end


@dataclass(frozen=True, slots=True)
class Schedule:
    """Windows; without any, it is always open."""

    windows: tuple[Window, ...] = ()

    def is_open(self, local: datetime) -> bool:
        """Tell whether the owner lets the engine serve at a local time."""
        return not self.windows or any(window.is_open(local) for window in self.windows)


def parse_schedule(text: str, field: str = "schedule") -> Schedule:
    """Return a schedule; an empty text is always open.

    Raises:
        ScheduleError: A part is no window.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if len(parts) > WINDOWS_MAX:
        raise ScheduleError(f"{field}: got {len(parts)} windows, want at most {WINDOWS_MAX}")
    return Schedule(tuple(_parse_window(part, field) for part in parts))


def _parse_window(text: str, field: str) -> Window:
    found = _WINDOW.fullmatch(text.lower())
    if found is None:
        raise ScheduleError(f'{field}: got {text!r}, want DAYS HH:MM-HH:MM, as "{_EXAMPLE}"')
    days_text, *numbers = found.groups()
    from_hour, from_minute, to_hour, to_minute = (int(number) for number in numbers)
    start, end = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if from_minute > 59 or to_minute > 59 or start >= DAY_MINUTES or end > DAY_MINUTES:
        raise ScheduleError(f"{field}: got {text!r}, want times from 00:00 to 24:00")
    return Window(
        days=frozenset(range(7)) if days_text is None else _parse_days(days_text, text, field),
        start_minute=start,
        length_minutes=end - start if end > start else end - start + DAY_MINUTES,
    )


def _parse_days(days_text: str, text: str, field: str) -> frozenset[int]:
    days: set[int] = set()
    for part in days_text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ScheduleError(f"{field}: got {text!r}, want days as Mon-Fri or Sat,Sun")
        begin = DAYS.index(first)
        count = (DAYS.index(last) - begin) % 7 + 1 if dash else 1
        days |= {(begin + step) % 7 for step in range(count)}
    return frozenset(days)
