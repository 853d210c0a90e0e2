"""The pieces of one content as its readers need them: deadlines, waiting, a small cache.

Every play head says which pieces it needs next and how soon. The desk keeps the earliest wish for
each piece, so several players of one content never undo each other: when one leaves or seeks,
libtorrent's deadlines are forgotten together and those of the others are set again.

A piece is read out of libtorrent once for all who wait for it, and kept while there is room.

At a start with a CDN the order is another (`staging`): a peer that holds the first pieces in its
queue would be waited for, however slow it is.

Not here: which pieces a head needs (`reader`), and what to do when a piece is late.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from engine_plugin.content import SourceBytes
from engine_plugin.errors import EngineError
from engine_plugin.playback.staging import Stage
from engine_plugin.torrents import TorrentFile

CACHE_BYTES: Final = 32 << 20
"""How much of read pieces is kept; the piece read last always is."""

WINDOW_PIECES_MAX: Final = 128
"""Longest window; libtorrent looks at every deadline at every tick."""

START_S: Final = 2.0
"""A start is through when nothing is missing for this time ahead,"""
START_MOST_S: Final = 4.0
"""or after this time in any case."""

_INFLOW_S: Final = 0.25
_INFLOW_STALE_S: Final = 5.0
_SOONER_S: Final = 0.05
"""A wish that is not sooner than the standing one by this much changes nothing."""


class PieceSource(Protocol):
    """What a reader asks of a content; `engine_plugin.content.Content` is one."""

    @property
    def torrent(self) -> TorrentFile:
        """The torrent file's facts."""

    def has_piece(self, piece: int) -> bool:
        """Say whether a piece is here and has passed its hash check."""

    async def wait_for_piece(self, piece: int) -> None:
        """Return when a piece is here."""

    async def read_piece(self, piece: int) -> bytes:
        """Return a whole piece, padding included."""

    def want_piece(self, piece: int, deadline_ms: int) -> None:
        """Ask for a piece before others; milliseconds from now."""

    def forget_deadlines(self) -> None:
        """Take back every `want_piece`."""

    def touched_pieces(self) -> set[int]:
        """Return the missing pieces of which anything was asked for or is here."""

    def set_priorities(self, priorities: Mapping[int, int]) -> None:
        """Set pieces' priorities: 0 = not wanted, 4 = as usual, 7 = first."""

    def bytes_by_source(self) -> SourceBytes:
        """Return what came in so far."""


class PlayHead:
    """One reading position; an identity that its windows are kept under."""

    __slots__ = ("begun_s", "is_started")

    def __init__(self) -> None:
        """Begin without a window."""
        self.begun_s = 0.0
        self.is_started = False


class PieceDesk:
    """One content's readers' common desk. Call it from the event loop's thread."""

    def __init__(
        self,
        source: PieceSource,
        *,
        cache_bytes: int = CACHE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open a desk.

        Args:
            source: The content.
            cache_bytes: How much of read pieces to keep; n ≥ 0.
            clock: Monotonic seconds.
        """
        self.source = source
        self._cache_bytes = cache_bytes
        self._clock = clock
        self._heads: dict[PlayHead, dict[int, float]] = {}
        self._due_s: dict[int, float] = {}
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._reads: dict[int, asyncio.Task[bytes]] = {}
        self._inflow = 0
        self._counted_bytes = 0
        self._counted_s = float("-inf")
        self._stage = Stage(source)
        self.on_start: Callable[[], None] = lambda: None
        """Called when a play head has begun and misses something."""

    @property
    def head_count(self) -> int:
        """How many play heads have a window now."""
        return len(self._heads)

    def move(self, head: PlayHead, pieces: Sequence[int], spacing_ms: int) -> None:
        """Set a head's window.

        Args:
            head: Whose.
            pieces: In playing order; the first is needed now.
            spacing_ms: How much later each next one is needed; n ≥ 0.
        """
        now_s = self._clock()
        is_new = head not in self._heads
        old = self._heads.get(head, {})
        # A piece keeps the deadline it entered the window with: moving on makes nothing later.
        window: dict[int, float] = {}
        for place, piece in enumerate(pieces[:WINDOW_PIECES_MAX]):
            due_s = now_s + place * spacing_ms / 1000
            if piece in old:
                window[piece] = min(old[piece], due_s)
            elif not self.source.has_piece(piece):
                window[piece] = due_s
        self._heads[head] = window
        if is_new:
            head.begun_s = now_s
            if window:
                self.on_start()
        self._order(window, now_s)

    def leave(self, head: PlayHead) -> None:
        """Forget a head's window; the other heads' wishes stand."""
        window = self._heads.pop(head, None)
        if not window:
            return
        self._due_s.clear()
        with suppress(EngineError):  # the content was removed: there is nothing to forget
            self._stage.clear()
            self.source.forget_deadlines()
            self._want_all()

    def is_starting(self) -> bool:
        """Say whether a play head still waits for its first picture."""
        now_s = self._clock()
        for head, window in self._heads.items():
            if not head.is_started:
                due_s = min(self._missing(window).values(), default=now_s + START_S)
                head.is_started = due_s - now_s >= START_S or now_s - head.begun_s >= START_MOST_S
        return any(not head.is_started for head in self._heads)

    def received(self) -> SourceBytes:
        """Return what came in so far."""
        return self.source.bytes_by_source()

    def stage(self, *, is_on: bool) -> None:
        """Order the next pieces for a CDN that begins, or let deadlines order them again.

        Raises:
            ContentError: The content was removed.
        """
        if is_on == self._stage.is_on:
            if is_on:
                self._stage.update(self._next_pieces(), self._clock())
            return
        if not is_on:
            self._stage.clear()
            self._want_all()
        else:
            self._stage.begin(self._next_pieces(), self._clock(), had_deadlines=bool(self._due_s))
            self._due_s.clear()

    def next_due_s(self) -> float | None:
        """Return when the next missing piece is needed, by the desk's clock; None: none is."""
        due_s = [when_s for w in self._heads.values() for when_s in self._missing(w).values()]
        return min(due_s, default=None)

    def inflow_bytes_per_s(self) -> int:
        """Return how fast the content has been coming in lately; a fall is believed slowly."""
        now_s = self._clock()
        passed_s = now_s - self._counted_s
        if passed_s >= _INFLOW_S:
            received = self.source.bytes_by_source()
            count = received.p2p_bytes + received.cdn_bytes
            if passed_s < _INFLOW_STALE_S:
                rate = int((count - self._counted_bytes) / passed_s)
                self._inflow = max(rate, (self._inflow + rate) // 2)
            self._counted_bytes, self._counted_s = count, now_s
        return self._inflow

    def is_ready(self, piece: int) -> bool:
        """Say whether `take` would return a piece without waiting for peers."""
        return piece in self._kept or self.source.has_piece(piece)

    def fetch_ahead(self, piece: int) -> None:
        """Start reading a piece that is here, so that a later `take` finds it."""
        if piece not in self._kept and piece not in self._reads and self.source.has_piece(piece):
            self._start_reading(piece)

    async def take(self, piece: int) -> bytes:
        """Return a piece, waiting until it is here.

        Raises:
            EngineError: libtorrent could not read it.
        """
        if (data := self._kept.get(piece)) is not None:
            self._kept.move_to_end(piece)
            return data
        if not self.source.has_piece(piece):
            await self.source.wait_for_piece(piece)
        task = self._reads.get(piece) or self._start_reading(piece)
        # One who gives up waiting must not take the piece from the others.
        return await asyncio.shield(task)

    def forget_kept(self) -> None:
        """Give the memory of read pieces back, unless somebody is reading."""
        if not self._heads:
            self._kept.clear()
            self._kept_bytes = 0

    async def close(self) -> None:
        """Give up what is being read, and all deadlines."""
        for head in list(self._heads):
            self.leave(head)
        tasks = list(self._reads.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.clear()
        self._kept_bytes = 0

    def _missing(self, window: Mapping[int, float]) -> dict[int, float]:
        return {piece: due_s for piece, due_s in window.items() if not self.source.has_piece(piece)}

    def _next_pieces(self) -> list[int]:
        """Return what is missing of all windows, the earliest due first."""
        due_s: dict[int, float] = {}
        for window in self._heads.values():
            for piece, when_s in self._missing(window).items():
                due_s[piece] = min(when_s, due_s.get(piece, when_s))
        return sorted(due_s, key=lambda piece: (due_s[piece], piece))

    def _order(self, window: dict[int, float], now_s: float) -> None:
        if self._stage.is_on:
            self._stage.update(self._next_pieces(), self._clock())
        else:
            self._want(window, now_s)

    def _want_all(self) -> None:
        now_s = self._clock()
        for window in self._heads.values():
            self._want(self._missing(window), now_s)

    def _want(self, window: dict[int, float], now_s: float) -> None:
        for piece, due_s in window.items():
            if self._due_s.get(piece, float("inf")) - due_s > _SOONER_S:
                self._due_s[piece] = due_s
                self.source.want_piece(piece, max(0, int((due_s - now_s) * 1000)))

    def _start_reading(self, piece: int) -> asyncio.Task[bytes]:
        task = asyncio.get_running_loop().create_task(self._read(piece))
        self._reads[piece] = task
        task.add_done_callback(lambda done: self._end_reading(piece, done))
        return task

    async def _read(self, piece: int) -> bytes:
        data = await self.source.read_piece(piece)
        self._keep(piece, data)
        return data

    def _end_reading(self, piece: int, task: asyncio.Task[bytes]) -> None:
        self._reads.pop(piece, None)
        self._due_s.pop(piece, None)
        if not task.cancelled():
            # Whoever waits gets the error; read ahead for nobody, it must not be reported as lost.
            task.exception()

    def _keep(self, piece: int, data: bytes) -> None:
        self._kept[piece] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > self._cache_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)
