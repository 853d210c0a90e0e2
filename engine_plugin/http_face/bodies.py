"""Answers whose bodies go on for as long as a player takes them.

A body ends with its last byte, when the player leaves, when its session ends, when the player takes
nothing for long, or when its bytes cannot be got any more. All but the first close the connection
short of the length promised, so that a player never takes a part for the whole. Nothing is read
ahead of what the player took, but for what the system's socket holds.

Not here: which bytes (`playback.reader`), and headers that depend on the content.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine_plugin.errors import EngineError
from engine_plugin.http_face.sessions import PlaySession, SessionTable

_log = structlog.get_logger(__name__)
_STALL_LOOK_S = 1.0


class MediaBody(Response):
    """A body of media, for one session."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None] | None,
        *,
        table: SessionTable,
        session: PlaySession,
        status_code: int,
        headers: Mapping[str, str],
        note_taken: Callable[[int], None] = lambda _byte_count: None,
        note_closed: Callable[[PlaySession], None] = lambda _session: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare an answer.

        Args:
            parts: The bytes; None: headers only.
            table: Where the session is counted.
            session: Whose answer it is.
            status_code: 200 or 206.
            headers: All of them.
            note_taken: Told how many bytes the player took, part by part.
            note_closed: Told when the body has ended in whatever way.
            clock: Monotonic seconds.
        """
        # Not the base class's constructor: it would set a length of its own.
        self.status_code = status_code
        self.background = None
        self.body = b""
        self.media_type = None
        self.init_headers(headers)
        if "content-length" not in headers:
            del self.headers["content-length"]
        self._parts = parts
        self._table = table
        self._session = session
        self._note_taken = note_taken
        self._note_closed = note_closed
        self._clock = clock
        self._taken_s = clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers and body."""
        if self._parts is None or scope["method"] == "HEAD":
            await self._send_start(send)
            await send({"type": "http.response.body", "body": b""})
            return
        # Refused before the first byte, so that the refusal can still be told.
        with self._table.connection(self._session):
            self._taken_s = self._clock()
            sending = asyncio.create_task(self._send_all(send))
            watches = [
                asyncio.create_task(_wait_gone(receive)),
                asyncio.create_task(_wait_ended(self._session)),
                asyncio.create_task(self._wait_stalled()),
            ]
            try:
                await asyncio.wait([sending, *watches], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _cancel([sending, *watches])
        self._note_closed(self._session)

    async def _send_start(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )

    async def _send_all(self, send: Send) -> None:
        parts = self._parts
        if parts is None:
            return
        await self._send_start(send)
        try:
            async for part in parts:
                # Waits while the player takes nothing.
                await send({"type": "http.response.body", "body": part, "more_body": True})
                self._taken_s = self._clock()
                self._session.sent_bytes += len(part)
                self._note_taken(len(part))
        except EngineError as error:
            _log.warning("body_cut_short", playable=self._session.playable.name, reason=str(error))
            return
        finally:
            await parts.aclose()
        await send({"type": "http.response.body", "body": b""})

    async def _wait_stalled(self) -> None:
        limit_s = self._table.limits.stalled_s
        while self._clock() - self._taken_s < limit_s:
            await asyncio.sleep(_STALL_LOOK_S)


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait_ended(session: PlaySession) -> None:
    await session.ended.wait()


async def _cancel(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
