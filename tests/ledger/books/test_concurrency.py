"""Concurrent viewers: each counts once, in every minute it plays in."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.books.concurrency import (
    MINUTE_MS,
    MinuteRun,
    Peak,
    count_per_minute,
    find_busiest_minute,
    find_peak,
)

MINUTE_0 = 29_000_000
START_MS = MINUTE_0 * MINUTE_MS


def spans_at(*spans_s: tuple[int, int]) -> list[tuple[int, int]]:
    return [(START_MS + begin * 1000, START_MS + end * 1000) for begin, end in spans_s]


def test_two_who_never_meet_share_a_minute_and_no_moment() -> None:
    viewers = {b"a": spans_at((0, 20)), b"b": spans_at((20, 59))}
    assert find_peak(viewers) == Peak(viewers=1, at_ms=START_MS)
    runs = count_per_minute(viewers)
    assert runs == [MinuteRun(first_minute=MINUTE_0, last_minute_exclusive=MINUTE_0 + 1, viewers=2)]
    assert find_busiest_minute(runs) == Peak(viewers=2, at_ms=START_MS)


def test_two_tabs_are_one_viewer() -> None:
    assert find_peak({b"a": spans_at((0, 90), (10, 40))}).viewers == 1
    [run] = count_per_minute({b"a": spans_at((0, 90), (10, 40))})
    assert (run.viewers, run.last_minute_exclusive - run.first_minute) == (1, 2)


def test_a_span_that_ends_at_the_full_minute_is_not_in_the_next_one() -> None:
    [run] = count_per_minute({b"a": spans_at((0, 60))})
    assert run.last_minute_exclusive == MINUTE_0 + 1


def test_the_peak_is_where_it_was_first_reached() -> None:
    viewers = {b"a": spans_at((0, 300)), b"b": spans_at((60, 100), (200, 210))}
    assert find_peak(viewers) == Peak(viewers=2, at_ms=START_MS + 60_000)


def test_nobody_has_no_peak() -> None:
    assert find_peak({}) == find_busiest_minute([]) == Peak(viewers=0, at_ms=0)


SPANS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(
        lambda pair: (min(pair) * 25_000, max(pair) * 25_000)
    ),
    max_size=4,
)


@given(st.dictionaries(st.binary(min_size=1, max_size=1), SPANS, max_size=5))
def test_both_counts_are_what_looking_at_every_moment_gives(
    viewers: dict[bytes, list[tuple[int, int]]],
) -> None:
    def playing(at_ms: int) -> int:
        return sum(any(b <= at_ms < e for b, e in spans) for spans in viewers.values())

    moments = range(0, 500_000, 25_000)
    assert find_peak(viewers).viewers == max(map(playing, moments))
    counted = {
        minute: run.viewers
        for run in count_per_minute(viewers)
        for minute in range(run.first_minute, run.last_minute_exclusive)
    }
    for minute in range(9):
        begin, end = minute * MINUTE_MS, (minute + 1) * MINUTE_MS
        want = sum(any(max(b, begin) < min(e, end) for b, e in spans) for spans in viewers.values())
        assert counted.get(minute, 0) == want
