"""What this engine can play: contents that run, torrents it knows of, live streams it follows.

A torrent that is only known starts when it is first asked for. What a request brings along (a URL,
a magnet link) is added within a bound.

Not here: whether the caller may (`access`), and sessions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from engine_plugin.content import Content
from engine_plugin.http_face.content_query import ContentQuery, QueryKind
from engine_plugin.http_face.errors import BadRequestError, BusyError, ForbiddenError, NotKnownError
from engine_plugin.http_face.hls import HlsSource
from engine_plugin.http_face.media_types import choose_file, is_media, type_of
from engine_plugin.http_face.playables import FilePlayable, LivePlayable, Playable
from engine_plugin.playback.piece_desk import PieceDesk
from engine_plugin.playback.reader import WindowPolicy
from engine_plugin.playback.spans import SpanError
from engine_plugin.torrents import TorrentFile

_HASH_V1_SIZE = 20

StartTorrent = Callable[[TorrentFile], Awaitable[Content]]
FetchTorrent = Callable[[str], Awaitable[TorrentFile]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One thing as a search shows it."""

    infohash: str
    name: str
    category: str
    """"live", "video", "audio" or "other"."""
    availability_ppm: int
    """How much of it can be had at once: 0 to 1,000,000."""
    is_here: bool
    """Whether it plays without waiting: complete, or live."""


class Catalogue:
    """Names to things that can be played. Call it from the event loop's thread."""

    def __init__(
        self,
        contents: Mapping[int, Content],
        *,
        start: StartTorrent,
        fetch: FetchTorrent,
        resolve_magnet: FetchTorrent | None,
        policy: WindowPolicy,
        added_max: int,
    ) -> None:
        """Open a catalogue.

        Args:
            contents: The engine's own, as it changes.
            start: Starts a torrent.
            fetch: Returns the torrent that a URL leads to.
            resolve_magnet: Returns the torrent of a magnet link from peers; None: not possible.
            policy: How far deadlines run ahead of a player.
            added_max: How many torrents requests may add; n ≥ 0.
        """
        self._contents = contents
        self._start = start
        self._fetch = fetch
        self._resolve_magnet = resolve_magnet
        self._policy = policy
        self._added_max = added_max
        self._known: dict[bytes, TorrentFile] = {}
        self._added: set[bytes] = set()
        self._by_url: dict[str, bytes] = {}
        self._live: dict[bytes, LivePlayable] = {}
        self._desks: dict[int, PieceDesk] = {}
        self._files: dict[tuple[int, int], FilePlayable] = {}
        self._starting = asyncio.Lock()

    def add_torrent(self, torrent: TorrentFile) -> None:
        """Know a torrent; it starts when it is asked for."""
        self._known[torrent.content_id] = torrent

    def add_live(self, source: HlsSource) -> None:
        """Know a live stream."""
        stream_id = source.stream_id
        self._live[stream_id] = LivePlayable(source, lambda: self._contents_of(stream_id))

    def remove_live(self, stream_id: bytes) -> None:
        """Forget a live stream."""
        self._live.pop(stream_id, None)

    async def open(self, query: ContentQuery, *, may_add: bool) -> Playable:
        """Return what a query names, started.

        Args:
            query: What a request asks for.
            may_add: Whether the caller may add and start contents.

        Raises:
            FaceError: It is not known and cannot be added.
            EngineError: It cannot be started.
        """
        if query.hash and (live := self._find_live(query.hash)) is not None:
            return live
        content = self._find_running(query.hash or self._by_url.get(query.text, b""))
        if content is None:
            if not may_add:
                raise ForbiddenError("content: not playing here; a page may not start it")
            content = await self._add(query)
        return self._file_of(content, query.file_index)

    def search(
        self, text: str, category: str, *, page: int, page_size: int
    ) -> tuple[int, list[Listing]]:
        """Return how many things fit, and one page of them by name.

        Args:
            text: Words that the name must hold, in any case; "": all.
            category: As in `Listing.category`; "": all.
            page: n ≥ 0.
            page_size: n ≥ 1.
        """
        words = text.casefold().split()
        fitting = [
            listing
            for listing in self._list()
            if all(word in listing.name.casefold() for word in words)
            and category in {"", listing.category}
        ]
        fitting.sort(key=lambda listing: (listing.name.casefold(), listing.infohash))
        return len(fitting), fitting[page * page_size : (page + 1) * page_size]

    def find_hls(self, infohash: bytes, file_index: int | None) -> Playable:
        """Return what runs under a hash; nothing is started.

        Raises:
            NotKnownError: Nothing of that name runs.
        """
        if (live := self._find_live(infohash)) is not None:
            return live
        content = self._find_running(infohash)
        if content is None:
            raise NotKnownError("content: not playing here")
        return self._file_of(content, file_index)

    def desk_of(self, content: Content) -> PieceDesk:
        """Return the desk that all readers of a content share."""
        desk = self._desks.get(content.number)
        if desk is None or desk.source is not content:
            desk = self._desks[content.number] = PieceDesk(content)
        return desk

    async def close(self) -> None:
        """Close all files and give their deadlines up."""
        for playable in self._files.values():
            await playable.rest()
        for desk in self._desks.values():
            await desk.close()

    async def _add(self, query: ContentQuery) -> Content:
        # A player asks for range after range by the same URL; its torrent is fetched once.
        known = query.hash or self._by_url.get(query.text, b"")
        torrent = self._find_known(known)
        is_new = torrent is None
        if torrent is None:
            torrent = await self._obtain(query)
        async with self._starting:
            # Somebody else may have started it while this one waited.
            if (content := self._find_running(torrent.content_id)) is not None:
                return content
            if is_new:
                self._admit(query, torrent)
            return await self._start(torrent)

    def _admit(self, query: ContentQuery, torrent: TorrentFile) -> None:
        if torrent.content_id not in self._added and len(self._added) >= self._added_max:
            raise BusyError(f"contents: got {self._added_max} added by requests already")
        self._added.add(torrent.content_id)
        self.add_torrent(torrent)
        if query.kind is QueryKind.URL:
            self._by_url[query.text] = torrent.content_id

    async def _obtain(self, query: ContentQuery) -> TorrentFile:
        if query.kind is QueryKind.URL:
            return await self._fetch(query.text)
        for url in query.sources:
            torrent = await self._fetch(url)
            if not _is_named(torrent, query.hash):
                raise BadRequestError("magnet: its source is another torrent than its info-hash")
            return torrent
        if self._resolve_magnet is None:
            raise NotKnownError("content: not known to this engine")
        text = query.text or f"magnet:?xt=urn:btih:{query.hash[:_HASH_V1_SIZE].hex()}"
        return await self._resolve_magnet(text)

    def _file_of(self, content: Content, file_index: int | None) -> FilePlayable:
        if file_index is None:
            file_index = choose_file(content.torrent.files)
        known = self._files.get((content.number, file_index))
        if known is not None and known.content is content:
            return known
        try:
            playable = FilePlayable(content, self.desk_of(content), file_index, policy=self._policy)
        except SpanError as error:
            raise NotKnownError(str(error)) from None
        self._files[content.number, file_index] = playable
        return playable

    def _find_running(self, wanted: bytes) -> Content | None:
        for content in self._contents.values():
            if content.stream_id is None and _is_named(content.torrent, wanted):
                return content
        return None

    def _find_known(self, wanted: bytes) -> TorrentFile | None:
        for torrent in self._known.values():
            if _is_named(torrent, wanted):
                return torrent
        return None

    def _find_live(self, wanted: bytes) -> LivePlayable | None:
        for stream_id, live in self._live.items():
            if wanted in {stream_id, stream_id[:_HASH_V1_SIZE]}:
                return live
        return None

    def _contents_of(self, stream_id: bytes) -> list[Content]:
        return [each for each in self._contents.values() if each.stream_id == stream_id]

    def _list(self) -> list[Listing]:
        running = {
            content.torrent.content_id: content
            for content in self._contents.values()
            if content.stream_id is None
        }
        torrents = self._known | {key: content.torrent for key, content in running.items()}
        listings = [
            _list_torrent(torrent, running.get(content_id))
            for content_id, torrent in torrents.items()
        ]
        listings += [
            Listing(
                infohash=live.infohash,
                name=live.name,
                category="live",
                availability_ppm=1_000_000,
                is_here=True,
            )
            for live in self._live.values()
        ]
        return listings


def _list_torrent(torrent: TorrentFile, content: Content | None) -> Listing:
    pieces = torrent.layout.piece_count
    missing = pieces if content is None else len(content.missing_pieces())
    path = torrent.files[choose_file(torrent.files)][0]
    return Listing(
        infohash=(torrent.infohash_v1 or torrent.infohash_v2).hex(),
        name=torrent.name,
        category=_category_of(path),
        availability_ppm=1_000_000 * (pieces - missing) // pieces,
        is_here=not missing,
    )


def _category_of(path: str) -> str:
    if not is_media(path):
        return "other"
    return type_of(path).partition("/")[0]


def _is_named(torrent: TorrentFile, wanted: bytes) -> bool:
    names = {torrent.content_id, torrent.infohash_v1, torrent.infohash_v2}
    # In v1's places (trackers, DHT, old players) a v2 hash stands cut to 20 bytes: BEP 52.
    names.add(torrent.infohash_v2[:_HASH_V1_SIZE])
    return bool(wanted) and wanted in names
