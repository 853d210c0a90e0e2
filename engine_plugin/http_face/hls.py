"""What can be served as HLS: a list of MPEG-TS segments, on demand or live.

A source names its segments and hands out their bytes; this module writes the playlist. Sources:
`vod_source` for a file of a content, and the engine's live streams.

Spec: RFC 8216, version 3 of the protocol (decimal durations, no byte ranges).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from engine_plugin.errors import EngineError

PLAYLIST_TYPE = "application/vnd.apple.mpegurl"
SEGMENT_TYPE = "video/mp2t"


class SegmentGoneError(EngineError):
    """A segment that the source has not, or no longer, or that did not come in time."""


class MediaError(EngineError):
    """A file that is no video this engine can cut into segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HlsSegment:
    """One segment as a playlist lists it."""

    number: int
    """Its media sequence number; n ≥ 0; neighbours differ by one."""
    duration_ms: int
    """n ≥ 1."""
    is_discontinuity: bool = False
    """Whether clock or coding start anew with it."""
    program_ms: int | None = None
    """Unix time of its first frame in milliseconds, if known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HlsWindow:
    """What a source offers now."""

    segments: tuple[HlsSegment, ...]
    """Ascending, without a gap; may be empty while a stream begins."""
    is_ended: bool
    """Whether no segment will follow."""
    is_growing: bool = False
    """Whether segments are only ever added (RFC 8216, EVENT); False: the window slides."""
    target_ms: int = 0
    """Longest segment to be expected; 0: of those listed."""
    discontinuity_sequence: int = 0
    """Discontinuities that the window slid past; n ≥ 0."""


class HlsSource(Protocol):
    """A file or a live stream in segments. Its methods are called in the event loop's thread."""

    @property
    def stream_id(self) -> bytes:
        """Content id or stream id; 32 bytes."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def is_live(self) -> bool:
        """Whether it is broadcast now, so that players start near the end."""

    async def window(self) -> HlsWindow:
        """Return the segments on offer; a source that has just begun may wait for its first.

        Raises:
            MediaError: It cannot be cut into segments.
        """

    async def segment(self, number: int) -> bytes:
        """Return a segment's MPEG-TS bytes; the one due next is waited for.

        Raises:
            SegmentGoneError: It is not on offer, or did not come in time.
            EngineError: Its bytes could not be read.
        """


def format_playlist(window: HlsWindow, url_of: Callable[[int], str]) -> str:
    """Return a media playlist.

    Args:
        window: What is on offer.
        url_of: Takes a segment's number, returns its URL.
    """
    longest_ms = max([segment.duration_ms for segment in window.segments], default=1000)
    # RFC 8216 §4.3.3.1: no segment's rounded duration exceeds the target.
    target_s = max(1, -(-max(window.target_ms, longest_ms) // 1000))
    first = window.segments[0].number if window.segments else 0
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        f"#EXT-X-TARGETDURATION:{target_s}",
        f"#EXT-X-MEDIA-SEQUENCE:{first}",
    ]
    if window.discontinuity_sequence:
        lines.append(f"#EXT-X-DISCONTINUITY-SEQUENCE:{window.discontinuity_sequence}")
    if window.is_growing:
        lines.append(f"#EXT-X-PLAYLIST-TYPE:{'VOD' if window.is_ended else 'EVENT'}")
    for segment in window.segments:
        if segment.is_discontinuity:
            lines.append("#EXT-X-DISCONTINUITY")
        if segment.program_ms is not None:
            lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{_format_time(segment.program_ms)}")
        whole_s, rest_ms = divmod(segment.duration_ms, 1000)
        lines += [f"#EXTINF:{whole_s}.{rest_ms:03},", url_of(segment.number)]
    if window.is_ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def _format_time(unix_ms: int) -> str:
    moment = datetime.fromtimestamp(unix_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03}Z"
