"""Media time of one playback: exact at changes of state, never above wall clock, never received."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.viewing.cmcd import PlayerReport
from engine_plugin.viewing.playback_clock import (
    ASSUMED_MOST_MS,
    BURST_MOST,
    LEAD_MOST_MS,
    PERIOD_MS,
    Beat,
    PlaybackClock,
)
from engine_plugin.viewing.played_ranges import RANGES_MAX, PlayedRanges


def report(
    state: str | None = None, position_ms: int | None = None, **changes: Any
) -> PlayerReport:
    values: dict[str, Any] = {
        "sid": "s",
        "sequence_number": None,
        "event": "ps",
        "state": state,
        "timestamp_ms": None,
        "position_ms": position_ms,
        "rate_permille": None,
        "starved_ms": 0,
    }
    return PlayerReport(**values | changes)


def play(clock: PlaybackClock, *script: tuple[int, str, int | None]) -> list[Beat]:
    return [
        beat
        for at_ms, state, position_ms in script
        for beat in clock.take(report(state, position_ms), at_ms)
    ]


def test_play_pause_seek_and_stall_count_media_between_exact_positions() -> None:
    clock = PlaybackClock(0)
    beats = play(
        clock,
        (0, "s", 0),
        (50, "p", 0),
        (3050, "a", 3000),
        (9050, "p", 3000),
        (10_050, "p", 4000),
        (10_050, "k", 60_000),
        (10_300, "p", 60_000),
        (12_300, "r", 62_000),
        (15_000, "p", 62_000),
        (16_000, "e", 63_000),
    )
    assert [(beat.state, beat.media_ms) for beat in beats] == [
        ("s", 0),
        ("p", 0),
        ("a", 3000),
        ("p", 3000),
        ("k", 4000),
        ("p", 4000),
        ("r", 6000),
        ("p", 6000),
        ("e", 7000),
    ]


def test_heartbeats_come_at_least_every_period_while_playing() -> None:
    clock = PlaybackClock(0)
    beats = play(clock, (0, "p", 0))
    for now_ms in range(0, 60_000, 250):
        if now_ms % 4000 == 0:
            beats += clock.take(report("p", now_ms), now_ms)
        beats += clock.tick(now_ms)
    gaps = [after.at_ms - before.at_ms for before, after in pairwise(beats)]
    assert max(gaps) <= PERIOD_MS
    assert beats[-1].media_ms == beats[-1].at_ms


def test_claims_stop_when_a_player_falls_silent() -> None:
    clock = PlaybackClock(0)
    beats = play(clock, (0, "p", 0))
    for now_ms in range(0, 120_000, 250):
        beats += clock.tick(now_ms)
    assert beats[-1].media_ms <= ASSUMED_MOST_MS + 250


def test_foreign_player_that_reports_every_half_minute_is_still_counted_in_full() -> None:
    clock = PlaybackClock(0)
    beats = play(clock, (0, "p", 0))
    for now_ms in range(250, 90_001, 250):
        if now_ms % 30_000 == 0:
            beats += clock.take(report("p", now_ms), now_ms)
        beats += clock.tick(now_ms)
    assert clock.media_ms == 90_000
    assert max(b.at_ms - a.at_ms for a, b in pairwise(beats)) <= 2 * PERIOD_MS


def test_assumed_playback_is_mended_by_the_next_report() -> None:
    clock = PlaybackClock(0)
    play(clock, (0, "p", 0))
    assumed = [beat for now_ms in range(0, 9800, 10) for beat in clock.tick(now_ms)]
    assert assumed[-1].media_ms == 9750
    # It had stalled after four seconds, and says so late.
    play(clock, (9800, "r", 4000), (12_000, "p", 4000), (22_000, "a", 14_000))
    assert clock.media_ms == 14_000


def test_media_faster_than_time_is_cut_to_time() -> None:
    clock = PlaybackClock(0)
    play(clock, (0, "p", 0), (1000, "a", 500_000), (2000, "p", 0), (3000, "a", 900_000))
    assert clock.media_ms <= 2000 + 250


def test_jitter_of_reports_is_carried_and_not_lost() -> None:
    clock = PlaybackClock(0)
    play(clock, (0, "p", 0))
    for number in range(1, 9):
        at_ms = number * 8000
        play(clock, (at_ms, "p", at_ms + (20 if number % 2 else 0)))
    assert clock.media_ms == 64_000


def test_media_is_claimed_only_while_heartbeats_say_that_it_plays() -> None:
    clock = PlaybackClock(0)
    beats = play(clock, (0, "p", 0), (1000, "a", 1100), (2000, "p", 1100), (3000, "a", 2000))
    assert [beat.media_ms for beat in beats] == [0, 1000, 1000, 2000]


def test_double_rate_counts_wall_clock_and_half_rate_too() -> None:
    clock = PlaybackClock(0)
    clock.take(report("p", 0, rate_permille=2000), 0)
    clock.take(report("p", 8000, rate_permille=500), 4000)
    clock.take(report("a", 10_000), 8000)
    assert clock.media_ms == 8000


def test_players_without_positions_count_time_less_starvation() -> None:
    clock = PlaybackClock(0)
    clock.take(report("p"), 0)
    clock.take(report("p", starved_ms=1500), 5000)
    clock.take(report("a"), 6000)
    assert clock.media_ms == 4500


def test_position_after_reports_without_one_counts_nothing_twice() -> None:
    clock = PlaybackClock(0)
    clock.take(report("p", 0), 0)
    clock.take(report("p"), 4000)
    clock.take(report("p", 8000), 8000)
    clock.take(report("a", 9000), 9000)
    assert clock.media_ms == 9000


def test_reports_seen_before_are_dropped() -> None:
    clock = PlaybackClock(0)
    clock.take(report("p", 0, sequence_number=0), 0)
    clock.take(report("a", 1000, sequence_number=2), 1000)
    assert clock.take(report("p", 0, sequence_number=1), 1500) == []
    assert clock.take(report("p", 0, sequence_number=2), 1500) == []
    assert clock.state == "a"


def test_late_reports_keep_the_time_at_which_they_were_made() -> None:
    clock = PlaybackClock(0)
    clock.take(report("p", 0, timestamp_ms=5_000_000), 0)
    (beat,) = clock.take(report("a", 3000, timestamp_ms=5_003_000), 3800)
    assert (beat.at_ms, beat.media_ms) == (3000, 3000)


def test_report_that_was_slow_at_the_start_shortens_no_stretch() -> None:
    clock = PlaybackClock(0)
    clock.take(report("s", 0, timestamp_ms=10**6), 100)
    clock.take(report("p", 0, timestamp_ms=10**6 + 300), 400)
    clock.take(report("p", 8000, timestamp_ms=10**6 + 8300), 8310)
    clock.take(report("a", 12_000, timestamp_ms=10**6 + 12_300), 12_305)
    assert clock.media_ms == 12_000


def test_lead_of_a_slow_first_report_counts_for_no_more_than_the_time_since_it() -> None:
    clock = PlaybackClock(200)
    clock.take(report("p", 0, timestamp_ms=10**6), 200)
    clock.take(report("a", 1000, timestamp_ms=10**6 + 1000), 1000)
    assert clock.media_ms == 800


@pytest.mark.parametrize("step_ms", [-3_600_000, -6000, 2000, 3_600_000])
def test_step_of_the_players_clock_changes_no_total(step_ms: int) -> None:
    clock = PlaybackClock(0)
    clock.take(report("p", 0, timestamp_ms=10**9), 0)
    clock.take(report("a", 3000, timestamp_ms=10**9 + 3000), 3000)
    clock.take(report("p", 3000, timestamp_ms=10**9 + 4000 + step_ms), 4000)
    clock.take(report("a", 9000, timestamp_ms=10**9 + 10_000 + step_ms), 10_000)
    assert clock.media_ms == 9000


def test_media_beyond_what_was_received_is_not_counted() -> None:
    received_ms = 2000
    clock = PlaybackClock(0, received_ms=lambda: received_ms)
    play(clock, (0, "p", 0), (5000, "a", 5000))
    assert clock.media_ms == 2000


def test_replay_of_what_was_received_counts() -> None:
    clock = PlaybackClock(0, received_ms=lambda: 2000)
    play(clock, (0, "p", 0), (2000, "k", 0), (2100, "p", 0), (4100, "a", 2000))
    assert clock.media_ms == 4000


def test_flood_of_changes_makes_few_heartbeats_and_loses_no_media() -> None:
    clock = PlaybackClock(0)
    beats = play(clock, (0, "p", 0))
    for now_ms in range(10, 10_001, 10):
        beats += play(clock, (now_ms, "a" if now_ms % 20 else "p", now_ms))
        beats += clock.tick(now_ms)
    assert len(beats) <= BURST_MOST + 11
    assert beats[-1].media_ms <= 10_000


def test_end_says_quit_once_and_nothing_before_a_first_report() -> None:
    clock = PlaybackClock(0)
    assert clock.end(10) == []
    play(clock, (20, "p", 0))
    assert [beat.state for beat in clock.end(1020)] == ["q"]
    assert clock.end(2000) == []
    assert clock.media_ms == 1000


STEPS = st.lists(
    st.tuples(
        st.integers(0, 15_000),
        st.sampled_from([None, *"spkrawefq"]),
        st.one_of(st.none(), st.integers(0, 200_000)),
        st.one_of(st.none(), st.integers(0, 10**6)),
        st.one_of(st.none(), st.sampled_from([0, 250, 1000, 4000])),
        st.booleans(),
    ),
    max_size=60,
)


@given(STEPS, st.one_of(st.none(), st.integers(0, 100_000)))
def test_media_never_falls_and_never_outruns_the_wall_clock(
    steps: list[Any], received_ms: int | None
) -> None:
    clock = PlaybackClock(1000, received_ms=lambda: received_ms)
    now_ms, beats = 1000, [Beat(at_ms=1000, state="", media_ms=0)]
    for wait_ms, state, position_ms, timestamp_ms, rate, is_tick in steps:
        now_ms += wait_ms
        if is_tick:
            beats += clock.tick(now_ms)
        else:
            beats += clock.take(
                report(state, position_ms, timestamp_ms=timestamp_ms, rate_permille=rate), now_ms
            )
    assert clock.media_ms <= now_ms - 1000
    for before, after in pairwise(beats):
        assert before.at_ms <= after.at_ms <= now_ms + LEAD_MOST_MS
        assert 0 <= after.media_ms - before.media_ms <= after.at_ms - before.at_ms
        assert before.state == "p" or after.media_ms == before.media_ms


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=30))
def test_played_ranges_are_the_set_of_what_was_played(drawn: list[tuple[int, int]]) -> None:
    ranges, known = PlayedRanges(), set[int]()
    for begin_ms, length_ms in drawn:
        played = set(range(begin_ms, begin_ms + length_ms))
        assert ranges.add(begin_ms, begin_ms + length_ms) == len(played - known)
        known |= played
    assert ranges.total_ms == len(known)


def test_played_ranges_are_bounded_and_forget_towards_less() -> None:
    ranges = PlayedRanges()
    for place in range(RANGES_MAX + 10):
        ranges.add(place * 10, place * 10 + 5)
    assert ranges.add(0, 5) == 5
