"""Concurrent viewers: how many watch at one moment, and in each minute, out of their playing spans.

A viewer counts once, however many tabs play. In a minute counts who played at any time of it; *at
once* counts who played at the same moment. Minutes are whole UTC minutes. Not here: whose spans
these are, and how long they last together (`viewing_time`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ledger.books.viewing_time import Span, unite

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A highest number of viewers and when it was first reached."""

    viewers: int
    at_ms: int
    """Ledger milliseconds; 0 if nobody watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteRun:
    """Minutes in a row with the same number of viewers."""

    first_minute: int
    """Minutes since 1970-01-01 00:00 UTC."""

    last_minute_exclusive: int
    viewers: int
    """≥ 1; minutes without viewers have no run."""


def count_per_minute(spans_by_viewer: Mapping[bytes, Iterable[Span]]) -> list[MinuteRun]:
    """Return how many viewers played in each minute, ascending.

    Args:
        spans_by_viewer: Viewer → half-open playing spans in ledger milliseconds, in any order.
    """
    minutes_by_viewer = {
        viewer: [
            (begin_ms // MINUTE_MS, (end_ms - 1) // MINUTE_MS + 1)
            for begin_ms, end_ms in spans
            if begin_ms < end_ms
        ]
        for viewer, spans in spans_by_viewer.items()
    }
    return [
        MinuteRun(first_minute=begin, last_minute_exclusive=end, viewers=viewers)
        for begin, end, viewers in _levels(minutes_by_viewer)
    ]


def find_busiest_minute(runs: Iterable[MinuteRun]) -> Peak:
    """Return the first minute with the most viewers."""
    best = max(runs, key=lambda run: (run.viewers, -run.first_minute), default=None)
    if best is None:
        return Peak(viewers=0, at_ms=0)
    return Peak(viewers=best.viewers, at_ms=best.first_minute * MINUTE_MS)


def find_peak(spans_by_viewer: Mapping[bytes, Iterable[Span]]) -> Peak:
    """Return the most viewers at one moment, and the first moment of that.

    Args:
        spans_by_viewer: Viewer → half-open playing spans in ledger milliseconds, in any order.
    """
    best = max(_levels(spans_by_viewer), key=lambda level: (level[2], -level[0]), default=(0, 0, 0))
    return Peak(viewers=best[2], at_ms=best[0])


def _levels(spans_by_viewer: Mapping[bytes, Iterable[Span]]) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, viewers) wherever the number of viewers is not 0."""
    changes: dict[int, int] = defaultdict(int)
    for spans in spans_by_viewer.values():
        for begin, end in unite(spans):
            changes[begin] += 1
            changes[end] -= 1
    viewers, since = 0, 0
    for at in sorted(changes):
        if not changes[at]:
            continue
        if viewers:
            yield since, at, viewers
        viewers += changes[at]
        since = at
