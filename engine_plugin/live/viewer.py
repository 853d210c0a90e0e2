"""Follows a live stream: learns of segments, fetches them in time, offers them to a player.

Every segment is a torrent of its own under the stream's id. Peers come first; a CDN is added when
the policy says that the segment would come too late; what is too late even so is left out. Nothing
here waits for receipts: the picture goes on whatever the accounting does.

Not here: when to ask the CDN (`policy`), how entries reach us (`index_client`, the side channel),
playlists (`window`, the HTTP face).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from engine_plugin.config import ContentOptions
from engine_plugin.content import Content
from engine_plugin.engine import Engine
from engine_plugin.errors import ContentError, EngineError
from engine_plugin.live.gossip import IndexEntry
from engine_plugin.live.gossip_link import GossipLink
from engine_plugin.live.index_client import Found, IndexClient, IndexUnreachableError
from engine_plugin.live.local_tracker import LocalTracker
from engine_plugin.live.policy import LivePolicy, cdn_wait_ms, due_in_ms
from engine_plugin.live.segment_torrent import torrent_of
from engine_plugin.live.window import LiveWindow
from engine_plugin.wire import Endpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.errors import EvidenceError
from ledger.evidence.segment import Link, Segment, SegmentChain
from ledger.evidence.stream import Stream, is_web_url

ANNOUNCE_S = 3.0
RETRY_S = 0.5
DIAL_AFTER_S = 0.08
"""A peer that has not added a segment yet refuses it: it is given a moment."""

DIAL_AGAIN_AFTER_S = 1.0
"""A segment that is still not here is asked of all neighbours again, and of those told of."""

GOSSIPED_PEERS_MOST = 64

Emit = Callable[..., Any]


@dataclass(slots=True, eq=False)
class _Fetch:
    """One segment on its way."""

    entry: IndexEntry
    learned_s: float
    due_s: float
    content: Content | None = None
    is_ready: bool = False
    is_given_up: bool = False
    ready_at_ms: int = 0
    used_cdn: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def segment(self) -> Segment:
        return self.entry.segment


class LiveViewer:
    """One viewer of one stream, in a running engine."""

    def __init__(
        self,
        *,
        engine: Engine,
        descriptor: Signed[Stream],
        listen: Endpoint,
        folder: Path,
        policy: LivePolicy,
        emit: Emit,
        entitlement: Signed[Entitlement] | None = None,
        peers: Sequence[Endpoint] = (),
        uses_cdn: bool = True,
    ) -> None:
        """Bind a viewer; `run` follows.

        Args:
            engine: Running.
            descriptor: The stream's, verified.
            listen: Where the engine takes BitTorrent connections.
            folder: Where segments lie while they are kept.
            policy: How to follow.
            emit: Takes events.
            entitlement: For the stream, if there is one already.
            peers: Whom to dial beside those that the index names.
            uses_cdn: Whether the CDN may be asked at all.
        """
        stream = descriptor.value
        self.window = LiveWindow(
            stream, size=policy.kept_segments - 2, ready_segments=policy.behind_segments
        )
        """What a player can play."""
        self.chain = SegmentChain(stream)
        """Every entry of which we know, and evidence of forks."""
        self._engine = engine
        self._stream = stream
        self._listen = listen
        self._folder = folder
        self._policy = policy
        self._emit = emit
        self._entitlement = entitlement
        self._given = tuple(peers)
        self._uses_cdn = uses_cdn
        self._found = Found(sources=(), peers=())
        self._gossiped: dict[Endpoint, None] = {}
        self._client = IndexClient(stream.index_urls, wait_ms=max(4000, 4 * stream.segment_ms))
        self._tracker = LocalTracker(lambda: self.neighbours, listen=listen, delay_s=DIAL_AFTER_S)
        self._gossip: GossipLink | None = None
        if engine.ledger is not None:
            self._gossip = GossipLink(
                stream,
                engine.ledger.exchange,
                take_entry=self.take_entry,
                take_peers=self.take_peers,
                clock=time.monotonic,
            )
        self._next = -1
        self._queue: asyncio.Queue[_Fetch] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._kept: deque[_Fetch] = deque()
        self._fetches: set[_Fetch] = set()
        """All whose segment the engine may hold."""
        self._started_s = self._heard_s = 0.0
        self._is_playing = False
        self._forks_told = 0

    @property
    def neighbours(self) -> tuple[Endpoint, ...]:
        """Everybody that this viewer dials: the sources, the given, and its share of viewers."""
        every = (*self._found.sources, *self._given, *self._found.peers)
        return tuple(peer for peer in dict.fromkeys(every) if peer != self._listen)

    @property
    def told_of(self) -> tuple[Endpoint, ...]:
        """Addresses that peers told of, the newest last."""
        return tuple(self._gossiped)

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        self._started_s = self._heard_s = time.monotonic()
        await self._tracker.start()
        try:
            async with asyncio.TaskGroup() as group:
                # Whom to dial first: the first segment's dials depend on it.
                await self._announce()
                group.create_task(self._keep_announcing())
                group.create_task(self._follow())
                group.create_task(self._order())
                group.create_task(self._ask_when_silent())
        finally:
            if self._gossip is not None:
                # Whoever goes on pushing would have segments fetched that nobody drops.
                self._gossip.close()
            for task in self._tasks:
                task.cancel()
            # What is being removed goes on: half of a removal would confuse the engine.
            await asyncio.gather(*self._tasks, *self._removals, return_exceptions=True)
            await self.window.end()
            await self._drop_all()
            try:
                async with asyncio.timeout(1.0):
                    await self._client.announce(self._listen, is_leaving=True)
            except (IndexUnreachableError, TimeoutError):
                pass  # it forgets us by itself
            await self._client.close()
            await self._tracker.stop()

    def take_entry(self, entry: IndexEntry) -> bool:
        """Take an entry from the index or from a peer; return whether it was new.

        Raises:
            EvidenceError: It is not the stream's, or not signed by its index key.
        """
        link = self.chain.take(entry.signed)
        if len(self.chain.forks) > self._forks_told:
            self._forks_told = len(self.chain.forks)
            fork = self.chain.forks[-1]
            self._emit(
                "fork",
                number=entry.segment.number,
                first=fork.first.raw.hex(),
                second=fork.second.raw.hex(),
            )
        is_new = link is Link.NEW or (
            link is Link.FORKED and self.chain.get(entry.segment.number) == entry.signed
        )
        if is_new:
            self._begin(entry)
        return is_new

    def take_peers(self, endpoints: Sequence[Endpoint]) -> None:
        """Take addresses that a peer told; they are dialled when a segment is late.

        The newest are kept: a viewer who was told of long ago has left.
        """
        for endpoint in endpoints:
            if endpoint != self._listen:
                self._gossiped.pop(endpoint, None)
                self._gossiped[endpoint] = None
        for oldest in list(self._gossiped)[:-GOSSIPED_PEERS_MOST]:
            del self._gossiped[oldest]

    async def _keep_announcing(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_S)
            await self._announce()

    async def _ask_when_silent(self) -> None:
        """Ask neighbours for entries whenever none has come for longer than a segment lasts."""
        silence_s = max(2.0, 2.5 * self._stream.segment_ms / 1000)
        while True:
            await asyncio.sleep(0.5)
            if self._gossip is not None and time.monotonic() - self._heard_s > silence_s:
                self._gossip.ask(self.neighbours)

    async def _announce(self) -> None:
        try:
            self._found = await self._client.announce(self._listen)
        except IndexUnreachableError as error:
            self._emit("error", where="index", detail=str(error))

    async def _follow(self) -> None:
        while True:
            try:
                if self._next < 0:
                    entries = await self._client.newest(self._policy.behind_segments)
                    if not entries:
                        entries = await self._client.wait_entries(0)
                else:
                    entries = await self._client.wait_entries(self._next)
            except IndexUnreachableError as error:
                self._emit("error", where="index", detail=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            for entry in entries:
                try:
                    if self.take_entry(entry) and self._gossip is not None:
                        self._gossip.tell(entry)
                except EvidenceError as error:
                    self._emit("error", where="index", detail=str(error))
                    await asyncio.sleep(RETRY_S)

    def _begin(self, entry: IndexEntry) -> None:
        number = entry.segment.number
        if number < self._next:
            return  # told late: the player is past it
        if self._next >= 0 and number > self._next:
            self._emit("gap", first=self._next, last=number - 1, reason="not in the index")
            self.window.skip()
        self._next = number + 1
        now_s = self._heard_s = time.monotonic()
        behind = max(0, self.chain.newest - number)
        due_ms = due_in_ms(self._policy, segment_ms=self._stream.segment_ms, behind=behind)
        fetch = _Fetch(entry, now_s, now_s + due_ms / 1000)
        self._fetches.add(fetch)
        self._queue.put_nowait(fetch)
        _start(self._fetch(fetch), self._tasks)

    async def _order(self) -> None:
        """Offer finished segments in their order, and keep the newest few."""
        while True:
            fetch = await self._queue.get()
            await fetch.done.wait()
            if fetch.is_ready and fetch.content is not None:
                await self.window.append(fetch.segment, _reader_of(fetch.content))
                self._tell_ready(fetch)
            else:
                self.window.skip()
                number = fetch.segment.number
                self._emit("gap", first=number, last=number, reason="did not come in time")
            self._kept.append(fetch)
            while len(self._kept) > self._policy.kept_segments:
                _start(self._drop(self._kept.popleft()), self._removals)

    def _tell_ready(self, fetch: _Fetch) -> None:
        segment = fetch.segment
        if not self._is_playing:
            self._is_playing = True
            join_ms = int(1000 * (time.monotonic() - self._started_s))
            self._emit("joined", number=segment.number, join_ms=join_ms)
        self._emit(
            "segment",
            number=segment.number,
            bytes=segment.size_bytes,
            media_start_ms=segment.media_start_ms,
            media_ms=segment.media_ms,
            delay_ms=fetch.ready_at_ms - segment.cut_at_ms,
            ready_at_ms=fetch.ready_at_ms,
            used_cdn=fetch.used_cdn,
        )

    async def _fetch(self, fetch: _Fetch) -> None:
        try:
            await self._fetch_in_time(fetch)
        except EngineError as error:
            self._emit("error", where="live", detail=str(error))
        finally:
            fetch.ready_at_ms = time.time_ns() // 1_000_000
            fetch.done.set()

    async def _fetch_in_time(self, fetch: _Fetch) -> None:
        segment, policy = fetch.segment, self._policy
        content = fetch.content = await self._engine.add(
            torrent_of(fetch.entry),
            ContentOptions(
                save_path=self._folder,
                uses_web_seeds=False,
                exchanges_peers=False,  # whom to dial is the rendezvous' choice
                trackers=(self._tracker.url,),
                stream_id=segment.stream_id,
                entitlement=self._entitlement,
            ),
        )
        whole = _start(_wait_whole(content), self._tasks)
        steps: list[tuple[float, Callable[[], None]]] = [
            (
                fetch.learned_s + DIAL_AGAIN_AFTER_S,
                lambda: self._dial(content, (*self.neighbours, *self._gossiped)),
            ),
            (
                fetch.learned_s + self._reserve_wait_ms(fetch) / 1000,
                lambda: self._call_reserve(fetch, self._cdn_urls(segment)),
            ),
        ]
        steps.append((fetch.due_s + policy.give_up_ms / 1000, lambda: None))
        for at_s, step in sorted(steps, key=lambda item: item[0]):
            timeout = max(0.0, at_s - time.monotonic())
            done, _ = await asyncio.wait({whole}, timeout=timeout)
            if done:
                break
            step()
        fetch.is_ready = whole.done() and whole.exception() is None
        if not fetch.is_ready:
            whole.cancel()

    def _dial(self, content: Content, peers: Sequence[Endpoint]) -> None:
        for peer in peers:
            if peer not in content.peers_to_dial:
                content.connect(peer)

    def _cdn_urls(self, segment: Segment) -> list[str]:
        if not self._uses_cdn or not segment.path:
            return []
        bases = self._stream.cdn_urls or ("",)
        urls = dict.fromkeys(urljoin(base, segment.path) for base in bases)
        return [url for url in urls if is_web_url(url)]

    def _reserve_wait_ms(self, fetch: _Fetch) -> int:
        return cdn_wait_ms(
            self._policy,
            due_ms=int(1000 * (fetch.due_s - fetch.learned_s)),
            size_bytes=fetch.segment.size_bytes,
            is_playing=self._is_playing,
        )

    def _call_reserve(self, fetch: _Fetch, urls: Sequence[str]) -> None:
        """Ask the CDN; without one the source, whose uplink everybody shares."""
        if fetch.content is None:
            return
        fetch.used_cdn = bool(urls)
        for url in urls:
            fetch.content.add_web_seed(url)
        if not urls:
            self._dial(fetch.content, self._found.reserve)

    async def _drop_all(self) -> None:
        """Take every segment out of the engine: it may go on without this stream."""
        await asyncio.gather(*(self._drop(fetch) for fetch in list(self._fetches)))

    async def _drop(self, fetch: _Fetch) -> None:
        content = fetch.content
        if content is None:
            self._fetches.discard(fetch)
            return
        totals = content.bytes_by_source()
        try:
            await self._engine.remove(content, deletes_files=True)
        except EngineError as error:
            self._emit("error", where="live", detail=str(error))
            # With the next segment it is tried again.
            self._kept.appendleft(fetch)
            return
        self._fetches.discard(fetch)
        self._emit(
            "segment_done",
            number=fetch.segment.number,
            p2p_bytes=totals.p2p_bytes,
            cdn_bytes=totals.cdn_bytes,
        )


def _start(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def _wait_whole(content: Content) -> None:
    for piece in range(content.torrent.layout.piece_count):
        await content.wait_for_piece(piece)


def _reader_of(content: Content) -> Callable[[], Any]:
    size = content.torrent.content_bytes

    async def read() -> bytes:
        pieces = range(content.torrent.layout.piece_count)
        parts = await asyncio.gather(*(content.read_piece(piece) for piece in pieces))
        data = b"".join(parts)[:size]
        if len(data) != size:
            raise ContentError(f"{content.torrent.name}: got {len(data)} bytes, want {size}")
        return data

    return read
