"""When a live segment is taken from the CDN: peers first, the CDN before the picture would stop.

Pure; times are milliseconds from any one clock. A segment is due when the player would need it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePolicy:
    """How a viewer follows a stream."""

    behind_segments: int = 3
    """How far behind the newest segment a viewer begins to play, ≥ 1: its buffer."""
    cdn_lead_ms: int = 1000
    """The CDN is asked when a segment is due within this time."""
    cdn_rate: int = 1_000_000
    """Bytes per second that a CDN is expected to give: a larger segment needs a longer lead."""
    first_peers_ms: int = 700
    """How long peers alone are waited for when playback has not begun."""
    give_up_ms: int = 8_000
    """A segment that is this late is left out, so that the picture goes on."""
    kept_segments: int = 8
    """Segments that are served to peers and player after they were played."""


def due_in_ms(policy: LivePolicy, *, segment_ms: int, behind: int) -> int:
    """Return in how many milliseconds a segment that was learned of now is due.

    Args:
        policy: The viewer's.
        segment_ms: Media time of a segment.
        behind: Segments between this one and the newest; 0 for the newest itself.
    """
    return max(0, policy.behind_segments - behind) * segment_ms


def cdn_wait_ms(policy: LivePolicy, *, due_ms: int, size_bytes: int, is_playing: bool) -> int:
    """Return how long to wait for peers before the CDN is asked, ≥ 0.

    Args:
        policy: The viewer's.
        due_ms: Until the segment is due.
        size_bytes: Of the segment.
        is_playing: Whether the picture runs already; before, every moment is one of joining.
    """
    if not is_playing:
        return policy.first_peers_ms
    lead_ms = max(policy.cdn_lead_ms, size_bytes * 1000 // policy.cdn_rate)
    return max(0, due_ms - lead_ms)
