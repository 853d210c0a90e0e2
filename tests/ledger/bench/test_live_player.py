"""The computed player: stalls exactly where segments came too late or not at all."""

import pytest

from ledger.bench.live_player import Playable, Playback, percentile, play


def segments(*ready: int, first: int = 0) -> list[Playable]:
    return [
        Playable(number=first + at, ready_ms=ready_ms, media_ms=1000, delay_ms=0)
        for at, ready_ms in enumerate(ready)
    ]


def test_segments_in_time_play_without_a_stall() -> None:
    assert play(segments(0, 0, 0, 1000, 2000, 3000), buffered=3) == Playback(
        played_ms=6000, stalled_ms=0
    )


def test_late_segment_stalls_for_as_long_as_it_is_late() -> None:
    playback = play(segments(0, 0, 0, 3400, 3400), buffered=3)
    assert playback == Playback(played_ms=5000, stalled_ms=400)
    assert playback.rebuffer_ratio == pytest.approx(400 / 5400)


def test_missing_segment_counts_as_a_stall_of_its_length() -> None:
    shown = [segment for segment in segments(0, 0, 0, 0, 0) if segment.number != 3]
    assert play(shown, buffered=3) == Playback(played_ms=4000, stalled_ms=1000)


def test_player_that_never_had_enough_saw_nothing() -> None:
    assert play(segments(0, 0), buffered=3) == Playback(played_ms=0, stalled_ms=0)
    assert play([], buffered=1).rebuffer_ratio == 0


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 3
    assert percentile([4, 1, 3, 2], 0.95) == 4
    assert percentile([], 0.5) == 0
