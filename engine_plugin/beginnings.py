"""Torrents that are being started in a thread, while the event loop goes on.

A torrent's first alerts may be quicker than the caller who started it: they are kept until it is
known. A caller may give up meanwhile: what was started for nobody is undone, or it would run on
without anybody who could stop it.
"""

import asyncio
from collections.abc import Callable

PieceEvent = tuple[int, int]
"""Kind and piece."""


class Beginnings:
    """For the event loop's thread."""

    def __init__(self, undo: Callable[[int], None]) -> None:
        """Bind it.

        Args:
            undo: Removes a torrent by its number; called in a thread.
        """
        self._undo = undo
        self._count = 0
        self._early: dict[int, list[PieceEvent]] = {}
        self._undoing: set[asyncio.Task[None]] = set()

    async def run(self, start: Callable[[], int]) -> int:
        """Start a torrent in a thread; `take_early` follows at once.

        Args:
            start: Returns its number.

        Raises:
            EngineError: What `start` raises.
        """
        self._count += 1
        work = asyncio.ensure_future(asyncio.to_thread(start))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._undo_soon)
            raise
        finally:
            self._count -= 1

    def note(self, number: int, event: PieceEvent) -> None:
        """Keep an event of a torrent that nobody knows, if it may be one that is being started."""
        if self._count:
            self._early.setdefault(number, []).append(event)

    def take_early(self, number: int) -> list[PieceEvent]:
        """Return what came of a torrent before it was known."""
        early = self._early.pop(number, [])
        if not self._count:
            self._early.clear()  # of torrents that are gone
        return early

    def _undo_soon(self, work: "asyncio.Future[int]") -> None:
        if not work.cancelled() and work.exception() is None:
            task = asyncio.ensure_future(asyncio.to_thread(self._undo, work.result()))
            self._undoing.add(task)
            task.add_done_callback(self._undoing.discard)
