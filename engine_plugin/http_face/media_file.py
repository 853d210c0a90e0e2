"""A content's file as the blocking file object that FFmpeg reads, for a thread of its own.

Reads run through the event loop, so they follow the same deadlines as a player's. What is read in
order keeps one play head; a seek begins another. Closing it from the event loop ends a blocked
read with an error.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future

from engine_plugin.playback.reader import Reader


class MediaFile:
    """Read, seek and tell, from any thread but the event loop's."""

    def __init__(self, reader: Reader, loop: asyncio.AbstractEventLoop) -> None:
        """Open at byte 0.

        Args:
            reader: The file.
            loop: Where the reader lives.
        """
        self._reader = reader
        self._loop = loop
        self._at = 0
        self._rest = b""
        self._parts: AsyncGenerator[bytes, None] | None = None
        self._waiting: Future[bytes] | None = None
        self._is_closed = False

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; b"" at the end.

        Raises:
            OSError: It was closed.
            EngineError: A piece could not be read.
        """
        if size < 0:
            size = self._reader.size_bytes - self._at
        if not self._rest and size and self._at < self._reader.size_bytes:
            if self._is_closed:
                raise OSError("closed")
            self._waiting = asyncio.run_coroutine_threadsafe(self._next_part(), self._loop)
            try:
                self._rest = self._waiting.result()
            except FutureCancelledError:
                raise OSError("closed") from None
        part, self._rest = self._rest[:size], self._rest[size:]
        self._at += len(part)
        return part

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; FFmpeg's request for the size (65536) is answered too."""
        if whence == os.SEEK_CUR:
            offset += self._at
        elif whence == os.SEEK_END:
            offset += self._reader.size_bytes
        elif whence != os.SEEK_SET:
            return self._reader.size_bytes
        offset = max(0, offset)
        if offset != self._at:
            skipped = offset - self._at
            if 0 <= skipped <= len(self._rest):
                self._rest = self._rest[skipped:]
            else:
                self._rest = b""
                asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
            self._at = offset
        return self._at

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    async def rest(self) -> None:
        """Give the play head up for now, from the event loop; a later read takes a new one."""
        if self._waiting is None or self._waiting.done():
            await self._leave()

    async def abort(self) -> None:
        """End it, from the event loop; a thread blocked in `read` gets an error."""
        self._is_closed = True
        if self._waiting is not None:
            self._waiting.cancel()
        # The cancelled read must have left the iterator before it can be closed.
        await asyncio.sleep(0)
        await self._leave()

    async def _next_part(self) -> bytes:
        if self._parts is None:
            self._parts = self._reader.read(self._at, self._reader.size_bytes - self._at)
        async for part in self._parts:
            return part
        return b""

    async def _leave(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts.aclose()
