"""What a player would have shown: stalls out of the times at which segments became playable.

Pure. The player begins when it has so many segments, then plays on by its clock; a segment that is
not there when its turn comes stops it until it is. One that never comes counts as a stall of its
length.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Playable:
    """One segment at one viewer."""

    number: int
    ready_ms: int
    """When it could be played, by any one clock."""
    media_ms: int
    delay_ms: int
    """From its cut at the source until it could be played here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Playback:
    """What a viewer saw."""

    played_ms: int
    stalled_ms: int

    @property
    def rebuffer_ratio(self) -> float:
        """Stalled time of all time since the picture began; 0 without any."""
        total = self.played_ms + self.stalled_ms
        return self.stalled_ms / total if total else 0.0


def play(segments: Sequence[Playable], *, buffered: int) -> Playback:
    """Play segments in the order of their numbers.

    Args:
        segments: In any order, each number once.
        buffered: Segments the player waits for before it begins, ≥ 1.
    """
    ordered = sorted(segments, key=lambda segment: segment.number)
    if len(ordered) < buffered:
        return Playback(played_ms=0, stalled_ms=0)
    clock_ms = max(segment.ready_ms for segment in ordered[:buffered])
    played_ms = stalled_ms = 0
    expected = ordered[0].number
    for segment in ordered:
        # What was left out would have lasted as long as its neighbour.
        missing_ms = (segment.number - expected) * segment.media_ms
        late_ms = max(0, segment.ready_ms - clock_ms - missing_ms)
        stalled_ms += missing_ms + late_ms
        clock_ms += missing_ms + late_ms + segment.media_ms
        played_ms += segment.media_ms
        expected = segment.number + 1
    return Playback(played_ms=played_ms, stalled_ms=stalled_ms)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of all lies (nearest rank); 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
