"""Bytes of one file in order, from wherever a player wants to start.

Each `read` is a play head: a window of deadlines runs ahead of it, so that what is needed next is
fetched next. After a start or a seek it holds what comes in within a moment: less would leave room
for requests of no use now, more would let later pieces compete with the first. It grows by every
piece delivered until it holds the wished time at the rate at which the player takes bytes. A
seek is the end of one `read` and the start of another.

A slow player slows only its own head: nothing is read for it before it asks, beyond a small stock.

Not here: the player's clock and what counts as a stall (`pacing`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from engine_plugin.playback.piece_desk import PieceDesk, PlayHead
from engine_plugin.playback.spans import FileSpan, SpanError, span_of

CHUNK_BYTES = 256 << 10
"""Longest part handed out at once."""

_RATE_FLOOR = 256 << 10
"""Bytes per second assumed of a player that has not taken any yet, or is paused."""

_SPACING_MS_MAX = 1000
_LOOK_S = 0.1
"""How often the window is looked at anew while its first piece is awaited."""

_PIPELINE_MS = 500
"""What peers are asked for at a time: more would let later pieces come before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPolicy:
    """How far ahead of a play head deadlines run.

    Raises:
        ValueError: A field is out of range.
    """

    first_bytes: int = 1 << 20
    """Least window after a start or a seek; n ≥ 1."""
    ahead_ms: int = 10_000
    """Playing time that the window shall hold; n ≥ 1."""
    least_bytes: int = 4 << 20
    """The full window is never smaller; n ≥ 1."""
    most_bytes: int = 32 << 20
    """Nor larger; n ≥ least_bytes."""
    stock_bytes: int = 12 << 20
    """How much of what is here already is read in advance; n ≥ 0."""

    def __post_init__(self) -> None:
        if self.first_bytes < 1:
            raise ValueError(f"first_bytes: got {self.first_bytes}, want n >= 1")
        if self.ahead_ms < 1:
            raise ValueError(f"ahead_ms: got {self.ahead_ms}, want n >= 1")
        if not 1 <= self.least_bytes <= self.most_bytes:
            raise ValueError(
                f"least_bytes: got {self.least_bytes}, want 1..{self.most_bytes} (most_bytes)"
            )
        if self.stock_bytes < 0:
            raise ValueError(f"stock_bytes: got {self.stock_bytes}, want n >= 0")

    def full_bytes(self, rate_bytes_per_s: int) -> int:
        """Return the size of the full window at a player's rate."""
        wished = rate_bytes_per_s * self.ahead_ms // 1000
        return min(max(wished, self.least_bytes), self.most_bytes)


class Reader:
    """Reads one file of a content; any number of `read` at the same time."""

    def __init__(
        self,
        desk: PieceDesk,
        file_index: int,
        *,
        policy: WindowPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bind a file.

        Args:
            desk: The content's desk, the same for all its readers.
            file_index: The file's place among the real files.
            policy: How far deadlines run ahead.
            clock: Monotonic seconds.

        Raises:
            SpanError: The content has no such file.
        """
        torrent = desk.source.torrent
        self.span: FileSpan = span_of(torrent, file_index)
        self._desk = desk
        self._piece_bytes = torrent.layout.piece_bytes
        self._policy = policy or WindowPolicy()
        self._clock = clock

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self.span.size_bytes

    async def read(self, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """Yield a range of the file in order, in parts of at most 256 KiB.

        Close the iterator (`contextlib.aclosing`) to give the position up at once.

        Args:
            offset: First byte within the file; 0 to its size.
            length: n ≥ 0; the range must end within the file.

        Raises:
            SpanError: The range is not in the file.
            EngineError: A piece could not be read.
        """
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise SpanError(
                f"range: got {offset}+{length}, want a range within {self.size_bytes} bytes"
            )
        head = PlayHead()
        at, end = self.span.start + offset, self.span.start + offset + length
        begun_s, first = self._clock(), at
        ahead_bytes = max(self._policy.first_bytes, self._piece_bytes)
        try:
            while at < end:
                rate = max(_RATE_FLOOR, int((at - first) / max(self._clock() - begun_s, 0.1)))
                piece = at // self._piece_bytes
                data = await self._take(head, at, end, ahead_bytes, rate)
                ahead_bytes = min(ahead_bytes + len(data), self._policy.full_bytes(rate))
                base = piece * self._piece_bytes
                stop = min(end, base + len(data))
                while at < stop:
                    upto = min(stop, at + CHUNK_BYTES)
                    yield data[at - base : upto - base]
                    at = upto
        finally:
            self._desk.leave(head)

    async def read_all(self, offset: int, length: int) -> bytes:
        """Return a range of the file as one value; for small ranges.

        Raises:
            SpanError: The range is not in the file.
            EngineError: A piece could not be read.
        """
        return b"".join([part async for part in self.read(offset, length)])

    async def _take(self, head: PlayHead, at: int, end: int, ahead_bytes: int, rate: int) -> bytes:
        """Return the piece at a place; while it is awaited the window follows what comes in."""
        piece = at // self._piece_bytes
        self._look_ahead(head, at, end, ahead_bytes, rate)
        if self._desk.is_ready(piece):
            return await self._desk.take(piece)
        task = asyncio.ensure_future(self._desk.take(piece))
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_S))[0]:
                self._look_ahead(head, at, end, ahead_bytes, rate)
            return task.result()
        finally:
            task.cancel()

    def _look_ahead(self, head: PlayHead, at: int, end: int, ahead_bytes: int, rate: int) -> None:
        pipeline_bytes = self._desk.inflow_bytes_per_s() * _PIPELINE_MS // 1000
        ahead_bytes = min(max(ahead_bytes, pipeline_bytes), self._policy.most_bytes)
        upto = min(end, at + ahead_bytes)
        pieces = range(at // self._piece_bytes, (upto - 1) // self._piece_bytes + 1)
        spacing_ms = min(_SPACING_MS_MAX, self._piece_bytes * 1000 // rate)
        self._desk.move(head, pieces, spacing_ms)
        stock = 1 + self._policy.stock_bytes // self._piece_bytes
        for piece in pieces[1 : 1 + stock]:
            if not self._desk.is_ready(piece):
                break
            self._desk.fetch_ahead(piece)
