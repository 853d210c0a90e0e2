"""Viewing time: played media, at most wall clock, united per viewer, cut by time."""

from dataclasses import replace
from itertools import pairwise

import pytest
from builders import GENESIS_S, heartbeat
from hypothesis import given
from hypothesis import strategies as st

from ledger.books.viewing_time import (
    DAY_MS,
    ViewingRules,
    ViewingTime,
    measure_days,
    measure_viewing,
    split_at_midnight,
)
from ledger.evidence.heartbeat import Heartbeat

BASE = heartbeat().value
START_MS = GENESIS_S * 1000


def beats(
    *script: tuple[int, str, int], session: int = 1, start_ms: int = START_MS
) -> list[Heartbeat]:
    """Heartbeats of one session out of (milliseconds since the start, state, media) rows."""
    return [
        replace(
            BASE,
            session_id=session.to_bytes(16, "big"),
            sequence_number=number,
            timestamp_ms=start_ms + at_ms,
            state=state,
            media_ms_total=media_ms,
        )
        for number, (at_ms, state, media_ms) in enumerate(script)
    ]


def measure(
    heartbeats: list[Heartbeat], start_ms: int = START_MS, length_ms: int = DAY_MS
) -> ViewingTime:
    return measure_viewing(heartbeats, start_ms=start_ms, end_ms_exclusive=start_ms + length_ms)


SCRIPTS = [
    (
        "plain",
        [(0, "s", 0), (40, "p", 0), (10_040, "p", 10_000), (12_040, "e", 12_000)],
        (12_000, 0, 0),
    ),
    (
        "pause",
        [(0, "p", 0), (3000, "a", 3000), (8000, "p", 3000), (9000, "q", 4000)],
        (4000, 0, 5000),
    ),
    ("seek", [(0, "p", 0), (3000, "k", 3000), (3700, "p", 3000), (5700, "q", 5000)], (5000, 0, 0)),
    (
        "stall",
        [(0, "p", 0), (3000, "r", 3000), (5500, "p", 3000), (6500, "q", 4000)],
        (4000, 2500, 0),
    ),
    (
        "media lags behind",
        [(0, "p", 0), (10_000, "p", 9000), (20_000, "q", 18_000)],
        (18_000, 0, 0),
    ),
    ("media runs ahead", [(0, "p", 0), (1000, "p", 60_000), (2000, "q", 120_000)], (2000, 0, 0)),
    ("capped", [(0, "p", 0), (25_000, "q", 25_000)], (20_000, 0, 0)),
    ("silent too long", [(0, "p", 0), (31_000, "p", 31_000), (32_000, "q", 32_000)], (1000, 0, 0)),
    ("no last heartbeat", [(0, "p", 0)], (0, 0, 0)),
]


@pytest.mark.parametrize(
    ("script", "expected"), [row[1:] for row in SCRIPTS], ids=[row[0] for row in SCRIPTS]
)
def test_scripted_playback_counts_what_was_played(
    script: list[tuple[int, str, int]], expected: tuple[int, int, int]
) -> None:
    got = measure(beats(*script))
    assert (got.playing_ms, got.rebuffering_ms, got.paused_ms) == expected


def test_two_tabs_count_wall_clock_once() -> None:
    first = beats((0, "p", 0), (10_000, "p", 10_000), (20_000, "q", 20_000), session=1)
    second = beats((5000, "p", 0), (15_000, "p", 10_000), (25_000, "q", 20_000), session=2)
    got = measure(first + second)
    assert got.playing_ms == 25_000
    assert got.session_count == 2


def test_pause_in_one_tab_is_no_pause_while_another_plays() -> None:
    first = beats((0, "p", 0), (10_000, "q", 10_000), session=1)
    second = beats((4000, "a", 0), (12_000, "q", 0), session=2)
    got = measure(first + second)
    assert (got.playing_ms, got.paused_ms) == (10_000, 2000)


def test_midnight_splits_by_time_and_not_by_heartbeat() -> None:
    midnight_ms = (START_MS // DAY_MS + 1) * DAY_MS
    played = beats((0, "p", 0), (10_000, "q", 10_000), start_ms=midnight_ms - 2500)
    days = measure_days(played, start_ms=midnight_ms - 5000, end_ms_exclusive=midnight_ms + 30_000)
    assert [(day * DAY_MS - midnight_ms, times.playing_ms) for day, times in days] == [
        (-DAY_MS, 2500),
        (0, 7500),
    ]


def test_lost_heartbeat_is_reported_and_costs_nothing_within_the_cap() -> None:
    whole = beats(*[(at_ms, "p", at_ms) for at_ms in range(0, 70_000, 10_000)])
    got = measure([beat for beat in whole if beat.sequence_number != 3])
    assert (got.playing_ms, got.missing_heartbeats, got.unaccounted_ms) == (60_000, 1, 0)


def test_two_lost_heartbeats_are_bounded_by_the_cap_and_not_filled() -> None:
    whole = beats(*[(at_ms, "p", at_ms) for at_ms in range(0, 70_000, 10_000)])
    got = measure([beat for beat in whole if beat.sequence_number not in {2, 3}])
    assert (got.playing_ms, got.missing_heartbeats, got.unaccounted_ms) == (50_000, 2, 10_000)


def test_pause_beside_a_lost_heartbeat_counts_as_nothing() -> None:
    whole = beats((0, "a", 0), (5000, "p", 0), (9000, "a", 4000), (10_000, "q", 4000))
    got = measure([whole[0], *whole[2:]])
    assert (got.playing_ms, got.paused_ms, got.unaccounted_ms) == (0, 1000, 9000)


def test_tolerance_lets_a_stretch_count_for_more_than_its_media_but_not_than_its_time() -> None:
    script = beats((0, "p", 0), (1000, "p", 990), (2000, "q", 1000))
    rules = ViewingRules(tolerance_ms=20)
    got = measure_viewing(
        script, start_ms=START_MS, end_ms_exclusive=START_MS + DAY_MS, rules=rules
    )
    assert got.playing_ms == 1000 + 30


def test_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="end_ms_exclusive"):
        measure(beats((0, "p", 0)), length_ms=-1)


STEP = st.tuples(st.integers(0, 40_000), st.sampled_from("spkrawe"), st.integers(0, 40_000))
PLAYBACK = st.tuples(st.integers(0, 60_000), st.lists(STEP, max_size=12))


def playbacks_of(drawn: list[tuple[int, list[tuple[int, str, int]]]]) -> list[Heartbeat]:
    found: list[Heartbeat] = []
    for session, (begin_ms, steps) in enumerate(drawn):
        at_ms, media_ms = begin_ms, 0
        script = [(at_ms, "p", 0)]
        for wait_ms, state, played_ms in steps:
            at_ms, media_ms = at_ms + wait_ms, media_ms + played_ms
            script.append((at_ms, state, media_ms))
        found += beats(*script, session=session)
    return found


@given(st.lists(PLAYBACK, max_size=4))
def test_times_never_exceed_wall_clock_whatever_is_claimed(
    drawn: list[tuple[int, list[tuple[int, str, int]]]],
) -> None:
    heartbeats = playbacks_of(drawn)
    got = measure(heartbeats)
    stamps = [beat.timestamp_ms for beat in heartbeats]
    span_ms = max(stamps) - min(stamps) if stamps else 0
    assert 0 <= got.playing_ms + got.rebuffering_ms + got.paused_ms + got.unaccounted_ms <= span_ms
    assert got.playing_ms <= sum(
        after.media_ms_total - before.media_ms_total
        for before, after in pairwise(heartbeats)
        if before.session_id == after.session_id
    )


@given(st.lists(PLAYBACK, max_size=4), st.lists(st.integers(0, 400_000), max_size=5), st.randoms())
def test_windows_add_up_whatever_the_cuts_and_the_order_of_arrival(
    drawn: list[tuple[int, list[tuple[int, str, int]]]], cuts: list[int], random: object
) -> None:
    heartbeats = playbacks_of(drawn)
    whole = measure(heartbeats)
    random.shuffle(heartbeats)  # type: ignore[attr-defined]
    borders = [0, *sorted(cuts), DAY_MS]
    parts = [
        measure(heartbeats, START_MS + begin_ms, end_ms - begin_ms)
        for begin_ms, end_ms in pairwise(borders)
    ]
    for column in ("playing_ms", "rebuffering_ms", "paused_ms", "unaccounted_ms"):
        assert sum(getattr(part, column) for part in parts) == getattr(whole, column)


@given(st.lists(PLAYBACK, max_size=3), st.sets(st.integers(0, 40)))
def test_losing_heartbeats_never_adds_viewing_time(
    drawn: list[tuple[int, list[tuple[int, str, int]]]], lost: set[int]
) -> None:
    # Media that runs with the wall clock: a loss then takes away, or changes nothing.
    honest = [
        (begin_ms, [(wait_ms, state, wait_ms) for wait_ms, state, _ in steps])
        for begin_ms, steps in drawn
    ]
    heartbeats = playbacks_of(honest)
    left = [beat for place, beat in enumerate(heartbeats) if place not in lost]
    stamps = [beat.timestamp_ms for beat in left]
    assert measure(left).playing_ms <= (max(stamps) - min(stamps) if stamps else 0)


@given(st.integers(0, 10 * DAY_MS), st.integers(0, 3 * DAY_MS))
def test_midnight_cuts_adjoin_and_stay_within_their_day(start_ms: int, length_ms: int) -> None:
    pieces = list(split_at_midnight(start_ms, start_ms + length_ms))
    assert sum(end_ms - begin_ms for begin_ms, end_ms in pieces) == length_ms
    assert all(begin_ms // DAY_MS == (end_ms - 1) // DAY_MS for begin_ms, end_ms in pieces)
    assert all(before[1] == after[0] for before, after in pairwise(pieces))
