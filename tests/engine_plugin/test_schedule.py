"""Schedules follow the clock on the wall, through midnight, weeks and changes of the clocks."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.schedule import ScheduleError, parse_schedule

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)


def at(day: int, time: str) -> datetime:
    hour, minute = time.split(":")
    return MONDAY + timedelta(days=day, hours=int(hour), minutes=int(minute))


@pytest.mark.parametrize(
    ("text", "day", "time", "is_open"),
    [
        ("", 3, "12:00", True),
        ("Mon-Fri 22:00-07:00", 0, "21:59", False),
        ("Mon-Fri 22:00-07:00", 0, "22:00", True),
        ("Mon-Fri 22:00-07:00", 1, "06:59", True),
        ("Mon-Fri 22:00-07:00", 1, "07:00", False),
        ("Mon-Fri 22:00-07:00", 5, "06:59", True),
        ("Mon-Fri 22:00-07:00", 5, "22:00", False),
        ("Mon-Fri 22:00-07:00", 0, "06:00", False),
        ("sun 23:00-01:00", 0, "00:30", True),
        ("Fri-Mon 10:00-11:00", 6, "10:00", True),
        ("Fri-Mon 10:00-11:00", 2, "10:00", False),
        ("Sat, Sun 00:00-24:00", 5, "23:59", True),
        ("Sat,Sun 00:00-24:00", 0, "00:00", False),
        ("08:00-09:00", 4, "08:30", True),
        ("08:00-09:00; Wed 12:00-12:01", 2, "12:00", True),
        ("08:00-09:00; Wed 12:00-12:01", 2, "12:01", False),
        ("12:00-12:00", 2, "11:59", True),
    ],
)
def test_window_is_open_when_it_says(text: str, day: int, time: str, is_open: bool) -> None:
    assert parse_schedule(text).is_open(at(day, time)) is is_open


@pytest.mark.parametrize(
    "text",
    ["22-7", "Mon", "Mon 22:00", "Mon 25:00-07:00", "Mon 24:00-07:00", "Mon 10:60-11:00",
     "Mon 10:00-24:01", "Moon 10:00-11:00", "Mon- 10:00-11:00", "Mon,,Tue 10:00-11:00",
     "Mon 10:00-11:00 Tue 10:00-11:00", "x" * 300, "Mon 1٠:00-11:00", "0:00-1:00;" * 33],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_by_field(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"^schedule: got .*, want"):
        parse_schedule(text)


def test_window_through_the_night_the_clocks_change_follows_the_wall() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    schedule = parse_schedule("Sat 22:00-07:00")
    # 2026-03-29, 02:00 becomes 03:00: seven hours of elapsed time later it is 06:30 there.
    begin = datetime(2026, 3, 28, 21, 30, tzinfo=UTC)
    assert schedule.is_open(begin.astimezone(berlin))
    assert schedule.is_open((begin + timedelta(hours=7)).astimezone(berlin))
    assert not schedule.is_open((begin + timedelta(hours=7, minutes=31)).astimezone(berlin))


@given(
    start=st.integers(0, 1439),
    end=st.integers(0, 1440),
    first=st.integers(0, 6),
    minute=st.integers(0, 7 * 1440 - 1),
)
def test_one_window_is_open_for_its_length_from_its_start(
    start: int, end: int, first: int, minute: int
) -> None:
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[first]
    text = f"{day} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    length = end - start if end > start else end - start + 1440
    passed = (minute - (first * 1440 + start)) % (7 * 1440)
    local = MONDAY + timedelta(minutes=minute)
    assert parse_schedule(text).is_open(local) is (passed < length)
