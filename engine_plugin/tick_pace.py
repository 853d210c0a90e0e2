"""How often the accounting is looked at: often while something happens, seldom while all is calm.

A tick looks at every connection and every peer's standing, and costs the same whether anything
changed. Connections that come or go, and torrents that finish, are news: the tick after them comes
at once, and those of the next seconds as often as the quickest bound needs.

Pure but for the event loop's timer. Not here: what a tick does (`engine`), what is calm
(`ledger_side`).
"""

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.25
"""Between two ticks while something happens."""

CALM_TICK_S = 0.5
"""The same while nothing does: every peer that takes something pays for it."""

EARLY_TICK_S = 0.4
"""A calm rest that has lasted so long ends as soon as the process is awake for something else: a
tick that finds the processor's caches warm costs about half."""

LIVELY_S = 3.0
"""How long after the last news something is taken to happen."""


class TickPace:
    """The pace of one engine's ticks; used from the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lively_until_s = clock() + LIVELY_S
        self._nap: asyncio.Future[None] | None = None
        self._nap_since_s = 0.0

    def note_news(self) -> None:
        """Take note that something happened; a calm rest ends in time for the next quick tick."""
        self._lively_until_s = self._clock() + LIVELY_S
        nap = self._nap
        if nap is not None and not nap.done():
            nap.get_loop().call_later(TICK_S, _end, nap)

    def note_awake(self) -> None:
        """Take note that the process was woken and has just worked; a long calm rest ends."""
        nap = self._nap
        if nap is not None and self._clock() - self._nap_since_s >= EARLY_TICK_S:
            _end(nap)

    async def rest(self, *, is_calm: bool) -> None:
        """Wait until the next tick.

        Args:
            is_calm: Whether nothing that a quick tick could change goes on.
        """
        if not is_calm or self._clock() < self._lively_until_s:
            await asyncio.sleep(TICK_S)
            return
        self._nap_since_s = self._clock()
        nap = self._nap = asyncio.get_running_loop().create_future()
        timer = nap.get_loop().call_later(CALM_TICK_S, _end, nap)
        try:
            await nap
        finally:
            timer.cancel()
            self._nap = None


def _end(nap: asyncio.Future[None]) -> None:
    if not nap.done():
        nap.set_result(None)
