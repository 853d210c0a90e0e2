"""Viewing time and concurrency against simulated viewers whose real playing time is known."""

import random

import pytest
from simulated_playback import Playback, Viewer, simulate_viewer

from ledger.books.concurrency import count_per_minute, find_peak
from ledger.books.viewing_time import (
    DAY_MS,
    Span,
    find_playing_spans,
    length_of,
    measure_days,
    measure_viewing,
    split_at_epochs,
)

MIDNIGHT_MS = 20_500 * DAY_MS
WINDOW = MIDNIGHT_MS - DAY_MS, MIDNIGHT_MS + DAY_MS
VIEWERS = 120
ERROR_PPM_MAX = 1_000


def within(spans: list[Span], window: Span) -> int:
    return sum(max(0, min(end, window[1]) - max(begin, window[0])) for begin, end in spans)


def measured_ms(viewer: Viewer, rng: random.Random, lost_permille: int = 0) -> int:
    beats = viewer.heartbeats(rng, lost_permille)
    got = measure_viewing(beats, start_ms=WINDOW[0], end_ms_exclusive=WINDOW[1])
    first = min(tab.start_ms for tab in viewer.tabs)
    last = max(beat.timestamp_ms for beat in beats)
    assert got.playing_ms + got.rebuffering_ms + got.paused_ms <= last - first
    return got.playing_ms


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("plain", [("p", 3_600_000)]),
        ("seek", [("p", 61_234), ("k", 900), ("p", 301_001), ("k", 2_000), ("p", 77_000)]),
        ("pause", [("p", 45_678), ("a", 600_000), ("p", 90_001)]),
        ("long pause without a beat in between", [("p", 12_345), ("a", 9_999), ("p", 5_000)]),
        ("stall", [("p", 30_500), ("r", 4_200), ("p", 99_999), ("r", 700), ("p", 31)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_viewer_is_measured_to_the_millisecond(
    name: str, script: list[tuple[str, int]]
) -> None:
    viewer = Viewer(tabs=[Playback(start_ms=MIDNIGHT_MS - 50_000, script=script, name=name)])
    assert measured_ms(viewer, random.Random(1)) == within(viewer.truth(), WINDOW)


@pytest.mark.parametrize("lost_permille", [0, 3])
def test_a_crowd_is_measured_within_a_thousandth(lost_permille: int) -> None:
    seed = 20_261_126
    rng = random.Random(seed)
    viewers = [simulate_viewer(rng, number, around_ms=MIDNIGHT_MS) for number in range(VIEWERS)]
    truth_ms = sum(within(viewer.truth(), WINDOW) for viewer in viewers)
    got_ms = sum(measured_ms(viewer, rng, lost_permille) for viewer in viewers)
    print(f"seed {seed}: truth {truth_ms} ms, measured {got_ms} ms")
    assert got_ms <= truth_ms
    assert (truth_ms - got_ms) * 1_000_000 <= truth_ms * ERROR_PPM_MAX
    if not lost_permille:
        assert got_ms == truth_ms


def test_days_and_epochs_cut_by_time_and_add_up() -> None:
    rng = random.Random(7)
    for number in range(6):
        viewer = simulate_viewer(rng, number, around_ms=MIDNIGHT_MS)
        beats = viewer.heartbeats(rng)
        days = measure_days(beats, start_ms=WINDOW[0], end_ms_exclusive=WINDOW[1])
        for day, times in days:
            window = day * DAY_MS, (day + 1) * DAY_MS
            assert times.playing_ms == within(viewer.truth(), window)
        epochs = [
            measure_viewing(beats, start_ms=begin, end_ms_exclusive=end).playing_ms
            for begin, end in split_at_epochs(
                *WINDOW, genesis_ms=MIDNIGHT_MS - 77_777, length_ms=300_000
            )
        ]
        assert sum(epochs) == within(viewer.truth(), WINDOW)


def test_an_epochs_own_heartbeats_with_one_on_either_side_give_the_epochs_time() -> None:
    rng = random.Random(9)
    viewer = simulate_viewer(rng, 1, around_ms=MIDNIGHT_MS)
    for tab in viewer.tabs:
        beats = tab.heartbeats()
        total_ms = 0
        for begin, end in split_at_epochs(*WINDOW, genesis_ms=0, length_ms=300_000):
            places = [n for n, beat in enumerate(beats) if begin <= beat.timestamp_ms < end]
            if places:
                own = beats[max(0, places[0] - 1) : places[-1] + 2]
                total_ms += length_of(find_playing_spans(own, start_ms=begin, end_ms_exclusive=end))
        assert total_ms == within(tab.truth(), WINDOW)


def test_concurrency_of_a_crowd_is_what_really_played() -> None:
    rng = random.Random(11)
    viewers = [simulate_viewer(rng, number, around_ms=MIDNIGHT_MS) for number in range(60)]
    truth = {str(number).encode(): viewer.truth() for number, viewer in enumerate(viewers)}
    spans = {
        str(number).encode(): find_playing_spans(
            viewer.heartbeats(rng), start_ms=WINDOW[0], end_ms_exclusive=WINDOW[1]
        )
        for number, viewer in enumerate(viewers)
    }
    assert find_peak(spans) == find_peak(truth)
    assert count_per_minute(spans) == count_per_minute(truth)
