"""Contents that a CDN may help with: each one's driver, run while the face is.

A content with web seeds starts without them; when what a player needs is late, its driver adds one.

Not here: when that is, and which CDN (`playback.hybrid`).
"""

import asyncio
import time

import structlog

from engine_plugin.content import Content
from engine_plugin.errors import EngineError
from engine_plugin.playback.hybrid import HybridDriver, HybridPolicy
from engine_plugin.playback.piece_desk import PieceDesk

_TICK_S = 0.2

_log = structlog.get_logger(__name__)


class CdnWatch:
    """The drivers of one face."""

    def __init__(self, policy: HybridPolicy) -> None:
        """Start without contents.

        Args:
            policy: When a CDN helps out.
        """
        self._policy = policy
        self._drivers: dict[int, HybridDriver] = {}

    def add(self, content: Content, desk: PieceDesk) -> None:
        """Let the CDNs that a torrent names help out with its content."""
        urls = content.torrent.web_seeds
        if urls:
            driver = HybridDriver(
                content, urls, policy=self._policy, next_due_s=desk.next_due_s, desk=desk
            )
            self._drivers[content.number] = driver
            desk.on_start = lambda: driver.tick(time.monotonic())

    def describe(self, content: Content) -> list[dict[str, str | int | float]]:
        """Return the state of each CDN of a content; none without such a content."""
        driver = self._drivers.get(content.number)
        return [] if driver is None else driver.describe(time.monotonic())

    async def run(self) -> None:
        """Drive all until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            for number, driver in list(self._drivers.items()):
                try:
                    driver.tick(time.monotonic())
                except EngineError as error:
                    # The content was removed; another one under the same torrent has its own.
                    _log.info("cdn_watch_ended", reason=str(error))
                    del self._drivers[number]
