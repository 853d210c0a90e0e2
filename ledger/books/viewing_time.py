"""Viewing time: how long a viewer watched, out of the heartbeats of all its playback sessions.

A stretch between two heartbeats of one session counts as far as wall clock and played media both
carry it, and never beyond twice the heartbeat period. Stretches are half-open intervals of ledger
time; those of one viewer are united, so two tabs or two devices never exceed wall clock, and a
window (an epoch, a day) cuts them by time, so adjoining windows add up exactly. Nothing is filled
in: heartbeats that are missing are counted and shown.

Not here: whether a heartbeat is to be believed (`heartbeats`), prices per minute.
Source: CTA-5004-B (CMCD version 2) for the states.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ledger.evidence.heartbeat import Heartbeat

DAY_MS = 86_400_000
"""Milliseconds of a UTC day; Unix time knows no leap seconds."""

_PLAYING, _REBUFFERING, _PAUSED = "p", "r", "a"

Span = tuple[int, int]
"""A half-open interval of ledger time in milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewingRules:
    """Parameters of the definition."""

    period_ms: int = 10_000
    """Longest time between two heartbeats while a player plays; a stretch counts at most twice."""

    tolerance_ms: int = 0
    """How much more than its played media a stretch may count for."""

    session_break_ms: int = 30_000
    """After so long without a heartbeat the next one begins anew; the time between is nobody's."""

    def __post_init__(self) -> None:
        if self.period_ms < 1:
            raise ValueError(f"period_ms: got {self.period_ms}, want ≥ 1")
        if self.tolerance_ms < 0:
            raise ValueError(f"tolerance_ms: got {self.tolerance_ms}, want ≥ 0")
        if self.session_break_ms < self.period_ms:
            raise ValueError(f"session_break_ms: got {self.session_break_ms}, want ≥ period_ms")


STANDARD_RULES = ViewingRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewingTime:
    """What one viewer did within one window; the three times never overlap."""

    playing_ms: int
    """Viewing time: media played, at most wall clock."""

    rebuffering_ms: int
    """Waiting for data while nothing else of the viewer played."""

    paused_ms: int
    """Paused while nothing else of the viewer played or waited for data."""

    session_count: int
    """Playback sessions with heartbeats; one that was silent too long counts again."""

    missing_heartbeats: int
    """Sequence numbers that were skipped in sessions that touch the window."""

    unaccounted_ms: int
    """Time beside skipped numbers, within the window, that counts as nothing."""


@dataclass(slots=True)
class _Stretches:
    """The spans of one viewer, not united yet."""

    by_state: dict[str, list[Span]]
    unaccounted: list[Span]
    missing: int = 0
    sessions: int = 0


def measure_viewing(
    heartbeats: Iterable[Heartbeat],
    *,
    start_ms: int,
    end_ms_exclusive: int,
    rules: ViewingRules = STANDARD_RULES,
) -> ViewingTime:
    """Return one viewer's times within a window.

    Args:
        heartbeats: Verified heartbeats of all sessions of one viewer, in any order; the last ones
            before and the first ones after the window belong to it, or its edges count nothing.
        start_ms: Ledger milliseconds.
        end_ms_exclusive: Ledger milliseconds, ≥ `start_ms`.
        rules: Parameters.

    Raises:
        ValueError: The window ends before it begins.
    """
    if end_ms_exclusive < start_ms:
        raise ValueError(f"end_ms_exclusive: got {end_ms_exclusive}, want ≥ {start_ms}")
    stretches = _stretches_of(heartbeats, (start_ms, end_ms_exclusive), rules)
    playing, rebuffering, paused = (
        stretches.by_state[state] for state in (_PLAYING, _REBUFFERING, _PAUSED)
    )
    playing_ms = _union_ms(playing)
    active_ms = _union_ms(playing + rebuffering)
    known_ms = _union_ms(playing + rebuffering + paused)
    return ViewingTime(
        playing_ms=playing_ms,
        rebuffering_ms=active_ms - playing_ms,
        paused_ms=known_ms - active_ms,
        session_count=stretches.sessions,
        missing_heartbeats=stretches.missing,
        unaccounted_ms=_union_ms(playing + rebuffering + paused + stretches.unaccounted) - known_ms,
    )


def find_playing_spans(
    heartbeats: Iterable[Heartbeat],
    *,
    start_ms: int,
    end_ms_exclusive: int,
    rules: ViewingRules = STANDARD_RULES,
) -> list[Span]:
    """Return when one viewer played within a window; their length is its `playing_ms`.

    Args:
        heartbeats: As for `measure_viewing`.
        start_ms: Ledger milliseconds.
        end_ms_exclusive: Ledger milliseconds, ≥ `start_ms`.
        rules: Parameters.

    Raises:
        ValueError: The window ends before it begins.
    """
    if end_ms_exclusive < start_ms:
        raise ValueError(f"end_ms_exclusive: got {end_ms_exclusive}, want ≥ {start_ms}")
    return unite(_stretches_of(heartbeats, (start_ms, end_ms_exclusive), rules).by_state[_PLAYING])


def measure_days(
    heartbeats: Sequence[Heartbeat],
    *,
    start_ms: int,
    end_ms_exclusive: int,
    rules: ViewingRules = STANDARD_RULES,
) -> list[tuple[int, ViewingTime]]:
    """Return one viewer's times per UTC day that the window touches.

    Returns:
        (Days since 1970-01-01, times) by ascending day; together they make the whole window.
    """
    return [
        (
            begin_ms // DAY_MS,
            measure_viewing(heartbeats, start_ms=begin_ms, end_ms_exclusive=end_ms, rules=rules),
        )
        for begin_ms, end_ms in split_at_midnight(start_ms, end_ms_exclusive)
    ]


def split_at_midnight(start_ms: int, end_ms_exclusive: int) -> Iterator[Span]:
    """Yield the window in pieces that each lie within one UTC day."""
    return split_at_epochs(start_ms, end_ms_exclusive, genesis_ms=0, length_ms=DAY_MS)


def split_at_epochs(
    start_ms: int, end_ms_exclusive: int, *, genesis_ms: int, length_ms: int
) -> Iterator[Span]:
    """Yield the window in pieces that each lie within one epoch.

    Args:
        start_ms: Ledger milliseconds.
        end_ms_exclusive: Ledger milliseconds.
        genesis_ms: Begin of epoch 0.
        length_ms: Of each epoch, ≥ 1.
    """
    while start_ms < end_ms_exclusive:
        border_ms = ((start_ms - genesis_ms) // length_ms + 1) * length_ms + genesis_ms
        yield start_ms, min(border_ms, end_ms_exclusive)
        start_ms = border_ms


def _stretches_of(heartbeats: Iterable[Heartbeat], window: Span, rules: ViewingRules) -> _Stretches:
    found = _Stretches(by_state={_PLAYING: [], _REBUFFERING: [], _PAUSED: []}, unaccounted=[])
    sessions: dict[bytes, list[Heartbeat]] = {}
    for beat in heartbeats:
        sessions.setdefault(beat.session_id, []).append(beat)
    for beats in sessions.values():
        beats.sort(key=lambda beat: beat.sequence_number)
        if beats[-1].timestamp_ms < window[0] or beats[0].timestamp_ms >= window[1]:
            continue
        found.sessions += 1
        for before, after in pairwise(beats):
            _add_stretch(found, before, after, window, rules)
    return found


def _add_stretch(
    found: _Stretches, before: Heartbeat, after: Heartbeat, window: Span, rules: ViewingRules
) -> None:
    begin_ms, end_ms = before.timestamp_ms, after.timestamp_ms
    if not (begin_ms < end_ms and begin_ms < window[1] and end_ms > window[0]):
        return
    skipped = after.sequence_number - before.sequence_number - 1
    found.missing += max(skipped, 0)
    if end_ms - begin_ms > rules.session_break_ms:
        found.sessions += 1
        return
    counted_ms = _counted_ms(before, after, rules)
    if counted_ms:
        _clip_into(found.by_state[before.state], (begin_ms, begin_ms + counted_ms), window)
    if skipped:
        _clip_into(found.unaccounted, (begin_ms + counted_ms, end_ms), window)


def _counted_ms(before: Heartbeat, after: Heartbeat, rules: ViewingRules) -> int:
    """Return for how much a stretch counts: 0 up to twice the heartbeat period."""
    wall_ms = min(after.timestamp_ms - before.timestamp_ms, 2 * rules.period_ms)
    if before.state == _PLAYING:
        media_ms = after.media_ms_total - before.media_ms_total
        return min(wall_ms, media_ms + rules.tolerance_ms) if media_ms > 0 else 0
    if before.state in {_REBUFFERING, _PAUSED}:
        # Beside a skipped number nobody knows for how long the state held.
        return wall_ms if after.sequence_number == before.sequence_number + 1 else 0
    return 0


def _clip_into(spans: list[Span], span: Span, window: Span) -> None:
    begin_ms, end_ms = max(span[0], window[0]), min(span[1], window[1])
    if begin_ms < end_ms:
        spans.append((begin_ms, end_ms))


def unite(spans: Iterable[Span]) -> list[Span]:
    """Return the union of half-open intervals: ascending, disjoint, none adjoining."""
    united: list[Span] = []
    for begin, end in sorted(spans):
        if begin >= end:
            continue
        if united and begin <= united[-1][1]:
            united[-1] = united[-1][0], max(united[-1][1], end)
        else:
            united.append((begin, end))
    return united


def length_of(spans: Iterable[Span]) -> int:
    """Return the length of disjoint intervals."""
    return sum(end - begin for begin, end in spans)


def _union_ms(spans: Iterable[Span]) -> int:
    """Return the length of the union of half-open intervals."""
    return length_of(unite(spans))
