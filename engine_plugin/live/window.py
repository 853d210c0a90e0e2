"""The segments a viewer can play now, as the HTTP face serves them.

Segments come in order; one that was given up is skipped, and the next is marked as a
discontinuity, since a playlist's numbers have no gap. Not here: playlists and HTTP (`http_face`).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine_plugin.http_face.hls import HlsSegment, HlsWindow, SegmentGoneError
from ledger.evidence.segment import Segment
from ledger.evidence.stream import Stream

ReadBytes = Callable[[], Awaitable[bytes]]
"""Returns a segment's bytes."""

_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class _Playable:
    listed: HlsSegment
    read: ReadBytes


class LiveWindow:
    """A sliding window of a stream; an `HlsSource`."""

    def __init__(self, stream: Stream, *, size: int, ready_segments: int = 1) -> None:
        """Begin empty.

        Args:
            stream: The descriptor's.
            size: Segments on offer, ≥ 1.
            ready_segments: Segments to have before a player is let in.
        """
        self._stream = stream
        self._size = size
        self._ready_segments = ready_segments
        self._segments: deque[_Playable] = deque()
        self._next_number = 0
        self._discontinuities = 0
        self._was_skipped = False
        self._is_ended = False
        self._grown = asyncio.Condition()

    @property
    def stream_id(self) -> bytes:
        """The stream's; 32 bytes."""
        return self._stream.stream_id

    @property
    def name(self) -> str:
        """The stream's title."""
        return self._stream.title

    @property
    def is_live(self) -> bool:
        """True: players begin near the end."""
        return True

    async def append(self, segment: Segment, read: ReadBytes) -> None:
        """Offer the next segment."""
        listed = HlsSegment(
            number=self._next_number,
            duration_ms=max(1, segment.media_ms),
            is_discontinuity=segment.is_discontinuous or self._was_skipped,
            program_ms=max(0, segment.cut_at_ms - segment.media_ms),
        )
        async with self._grown:
            self._next_number += 1
            self._was_skipped = False
            self._segments.append(_Playable(listed, read))
            while len(self._segments) > self._size:
                gone = self._segments.popleft()
                self._discontinuities += gone.listed.is_discontinuity
            self._grown.notify_all()

    def skip(self) -> None:
        """Leave a segment out."""
        self._was_skipped = True

    async def end(self) -> None:
        """Say that nothing follows."""
        async with self._grown:
            self._is_ended = True
            self._grown.notify_all()

    async def window(self) -> HlsWindow:
        """Return the segments on offer; waits some seconds until there are enough to begin."""
        try:
            async with asyncio.timeout(_WAIT_S), self._grown:
                await self._grown.wait_for(
                    lambda: self._is_ended or self._next_number >= self._ready_segments
                )
        except TimeoutError:
            pass
        return HlsWindow(
            segments=tuple(playable.listed for playable in self._segments),
            is_ended=self._is_ended,
            target_ms=self._stream.segment_ms,
            discontinuity_sequence=self._discontinuities,
        )

    async def segment(self, number: int) -> bytes:
        """Return a segment's bytes; the one due next is waited for.

        Raises:
            SegmentGoneError: It is not on offer, or did not come in time.
            EngineError: It could not be read.
        """
        if number == self._next_number and not self._is_ended:
            try:
                async with asyncio.timeout(_WAIT_S), self._grown:
                    await self._grown.wait_for(lambda: self._is_ended or self._next_number > number)
            except TimeoutError:
                raise SegmentGoneError(f"segment {number}: did not come in time") from None
        for playable in self._segments:
            if playable.listed.number == number:
                return await playable.read()
        raise SegmentGoneError(f"segment {number}: got a number outside of the window")
