"""Estimated playback: never above wall clock, never above what was read."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.viewing.playback_clock import PlaybackClock
from engine_plugin.viewing.read_pace import QUIET_MOST_MS, ReadPace, TimedReport


def feed(clock: PlaybackClock, reports: list[TimedReport]) -> str:
    for timed in reports:
        clock.take(timed.report, timed.at_ms)
    return "".join(timed.report.state or "" for timed in reports)


def test_player_that_reads_ahead_plays_with_the_wall_clock() -> None:
    pace, clock = ReadPace(), PlaybackClock(0)
    feed(clock, pace.read(0, position_ms=0, media_ms=5000))
    for now_ms in range(1000, 21_000, 1000):
        feed(clock, pace.read(now_ms, position_ms=now_ms + 4000, media_ms=1000))
    feed(clock, pace.close(20_000))
    assert clock.media_ms == 20_000


def test_starved_player_rebuffers_where_its_media_ended() -> None:
    pace, clock = ReadPace(), PlaybackClock(0)
    assert feed(clock, pace.read(0, position_ms=0, media_ms=2000)) == "p"
    assert feed(clock, pace.read(5000, position_ms=2000, media_ms=4000)) == "rp"
    assert feed(clock, pace.close(7000)) == "q"
    assert clock.media_ms == 4000


def test_full_player_that_stops_reading_has_paused() -> None:
    pace, clock = ReadPace(), PlaybackClock(0)
    feed(clock, pace.read(0, position_ms=0, media_ms=600_000))
    assert feed(clock, pace.tick(60_000)) == "a"
    assert clock.media_ms == QUIET_MOST_MS


def test_jump_is_a_seek_and_throws_the_read_media_away() -> None:
    pace, clock = ReadPace(), PlaybackClock(0)
    feed(clock, pace.read(0, position_ms=0, media_ms=60_000))
    assert feed(clock, pace.read(3000, position_ms=300_000, media_ms=2000)) == "kp"
    feed(clock, pace.close(9000))
    assert clock.media_ms == 3000 + 2000


def test_player_that_read_to_the_end_plays_what_it_holds_after_closing() -> None:
    pace, clock = ReadPace(), PlaybackClock(0)
    feed(clock, pace.read(0, position_ms=0, media_ms=25_000, is_last=True))
    feed(clock, pace.close(1000))
    assert feed(clock, pace.tick(60_000)) == "e"
    assert clock.media_ms == 25_000


READS = st.lists(
    st.tuples(
        st.integers(0, 20_000), st.integers(0, 100_000), st.integers(0, 30_000), st.booleans()
    ),
    max_size=30,
)


@given(READS)
def test_estimate_never_exceeds_wall_clock_or_what_was_read(steps: list[Any]) -> None:
    pace, clock, now_ms, read_ms = ReadPace(), PlaybackClock(0), 0, 0
    for wait_ms, position_ms, media_ms, closes in steps:
        now_ms += wait_ms
        if closes:
            feed(clock, pace.close(now_ms))
        else:
            feed(clock, pace.read(now_ms, position_ms=position_ms, media_ms=media_ms))
            read_ms += media_ms
    feed(clock, pace.tick(now_ms))
    feed(clock, pace.close(now_ms))
    assert clock.media_ms <= min(now_ms, read_ms + 1000 * len(steps))
