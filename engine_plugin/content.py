"""One torrent of a running engine, as its users see it: pieces, deadlines, sources, peers.

All methods are for the event loop's thread. Bytes read here have passed their hash check. What a
torrent's bytes are worth, and to whom, is the meter's and the accounting's business.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine_plugin.errors import ContentError
from engine_plugin.journal_records import Source
from engine_plugin.libtorrent_door import EngineSession, PeerSnapshot, PieceRead, TorrentFile
from engine_plugin.meter import EventKind
from engine_plugin.pump import MeterPump
from engine_plugin.wire import Endpoint

_FAILURES_MAX = 100

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBytes:
    """Firm content bytes of this run by where they came from."""

    p2p_bytes: int = 0
    """From peers, attested or not."""
    cdn_bytes: int = 0
    """From web seeds."""

    @classmethod
    def of(cls, totals: Mapping[Source, int]) -> "SourceBytes":
        """Return totals by source as fields."""
        return cls(p2p_bytes=totals[Source.P2P], cdn_bytes=totals[Source.CDN])


class Content:
    """A torrent that the engine serves or fetches; made by `Engine.add`."""

    def __init__(
        self,
        *,
        session: EngineSession,
        pump: MeterPump,
        number: int,
        torrent: TorrentFile,
        save_path: Path,
        stream_id: bytes | None,
        pieces_here: Iterable[int],
        peers: tuple[Endpoint, ...],
        name_cdn: Callable[[str], None],
    ) -> None:
        self.number = number
        """Its number in the session."""
        self.torrent = torrent
        self.save_path = save_path
        self.stream_id = stream_id
        self.peers_to_dial = list(peers)
        self._passed = set(pieces_here)
        self.was_complete = len(self._passed) == torrent.layout.piece_count
        """Whether it was handed in complete."""
        self.is_finished = self.was_complete
        """Whether every wanted piece is here."""
        self.is_complete_told = self.was_complete
        self._session = session
        self._pump = pump
        self._name_cdn = name_cdn
        self._waiting: defaultdict[int, list[asyncio.Future[None]]] = defaultdict(list)
        self._reads: defaultdict[int, list[asyncio.Future[bytes]]] = defaultdict(list)
        self._web_seed_bytes: dict[int, int] = {}
        self._failed_web_seeds: list[str] = []
        self._is_removed = False
        self.is_leaving = False
        """Whether it is being removed: the engine's own thread may be past it already."""
        self._final_bytes = SourceBytes()

    @property
    def scope_id(self) -> bytes:
        """What entitlements and receipts name: the stream, else the content itself; 32 bytes."""
        return self.stream_id or self.torrent.content_id

    @property
    def is_settled(self) -> bool:
        """Whether all that was received is attributed and durable."""
        return not self._is_gone and self._pump.is_settled(self.number)

    def has_piece(self, piece: int) -> bool:
        """Tell whether a piece has passed its hash check."""
        return piece in self._passed

    def missing_pieces(self) -> list[int]:
        """Return the pieces that are not here yet, ascending."""
        return [n for n in range(self.torrent.layout.piece_count) if n not in self._passed]

    async def wait_for_piece(self, piece: int) -> None:
        """Wait until a piece has passed.

        Raises:
            ContentError: The content was removed first.
        """
        while piece not in self._passed:
            self._require_here()
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[piece].append(future)
            await future

    async def read_piece(self, piece: int) -> bytes:
        """Return a piece's bytes, padding included; waits until it has passed.

        Raises:
            ContentError: The disk failed, or the content was removed first.
        """
        await self.wait_for_piece(piece)
        self._require_here()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting = self._reads[piece]
        waiting.append(future)
        if len(waiting) == 1:
            self._session.read_piece(self.number, piece)
        return await future

    def want_piece(self, piece: int, deadline_ms: int) -> None:
        """Ask for a piece within a time from now; nearer deadlines come first."""
        self._require_here()
        if piece not in self._passed:
            self._session.want_piece(self.number, piece, deadline_ms)

    def forget_deadlines(self) -> None:
        """Take all deadlines back."""
        self._require_here()
        self._session.forget_deadlines(self.number)

    def set_priorities(self, priorities: Mapping[int, int]) -> None:
        """Set pieces' priorities: 0 = not wanted, 4 = as usual, 7 = first."""
        self._require_here()
        self._session.set_priorities(self.number, priorities)

    def touched_pieces(self) -> set[int]:
        """Return the missing pieces of which anything was asked for or is here."""
        self._require_here()
        return self._session.touched_pieces(self.number)

    def add_web_seed(self, url: str) -> None:
        """Let the content come from a web seed (BEP 19) as well.

        The engine names the CDN behind it when the terms know its host.
        """
        self._require_here()
        self._pump.note_web_seed(self.number, url, is_active=True)
        self._name_cdn(url)
        self._session.add_web_seed(self.number, url)

    def remove_web_seed(self, url: str) -> None:
        """Stop downloads from a web seed."""
        self._require_here()
        self._session.remove_web_seed(self.number, url)
        self._pump.note_web_seed(self.number, url, is_active=False)

    def web_seed_bytes(self) -> int:
        """Return payload bytes that web seeds have delivered, checked or not; never falls.

        As of the last look at the connections, about a second ago; for decisions, not for bills.
        """
        for snapshot in self.peers():
            if snapshot.is_web_seed:
                known = self._web_seed_bytes.get(snapshot.peer, 0)
                self._web_seed_bytes[snapshot.peer] = max(known, snapshot.downloaded_bytes)
        return sum(self._web_seed_bytes.values())

    def take_web_seed_failures(self) -> list[str]:
        """Return the URLs of web seeds that failed since the last call."""
        failed, self._failed_web_seeds = self._failed_web_seeds, []
        return failed

    def note_web_seed_failure(self, url: str) -> None:
        """Take note that a web seed failed; the engine calls it."""
        if url and len(self._failed_web_seeds) < _FAILURES_MAX:
            self._failed_web_seeds.append(url)

    def connect(self, endpoint: Endpoint) -> None:
        """Dial a peer now, and again whenever it is lost."""
        self._require_here()
        if endpoint not in self.peers_to_dial:
            self.peers_to_dial.append(endpoint)
        self._session.connect_peer(self.number, endpoint.ip, endpoint.port)

    def dial_lost_peers(self) -> None:
        """Dial those peers again that are not connected."""
        if self._is_gone:
            return
        connected = {snapshot.endpoint for snapshot in self.peers()}
        for peer in self.peers_to_dial:
            if str(peer) not in connected:
                self._session.connect_peer(self.number, peer.ip, peer.port)

    def peers(self) -> list[PeerSnapshot]:
        """Return the connections of this torrent as of the last look, web seeds included."""
        return [snapshot for snapshot in self._pump.peers if snapshot.torrent == self.number]

    def bytes_by_source(self) -> SourceBytes:
        """Return firm bytes of this run."""
        if self._is_gone:
            return self._final_bytes
        return SourceBytes.of(self._pump.firm_bytes(self.number))

    def take_piece_event(self, kind: int, piece: int) -> None:
        """Take note of a piece that passed or was lost; the engine calls it."""
        if kind == EventKind.PASSED:
            self._passed.add(piece)
            for future in self._waiting.pop(piece, ()):
                _resolve(future, None)
        elif kind == EventKind.FAILED:
            self._passed.discard(piece)
        elif kind == EventKind.CHECKING and not self.was_complete:
            self._passed.clear()
            self.is_finished = False

    def take_read(self, read: PieceRead) -> None:
        """Hand a piece's bytes to whoever waits for them; the engine calls it."""
        for future in self._reads.pop(read.piece, ()):
            if read.error:
                _fail(future, f"{self.torrent.name}: piece {read.piece}: {read.error}")
            else:
                _resolve(future, read.data)

    def begin_leaving(self) -> None:
        """Take note that the content is being removed; the engine calls it."""
        self._final_bytes = self.bytes_by_source()
        self.is_leaving = True

    def note_removed(self, final_bytes: SourceBytes) -> None:
        """End every wait; the engine calls it."""
        self._is_removed = True
        self._final_bytes = final_bytes
        reason = f"{self.torrent.name}: was removed"
        for waiting in self._waiting.values():
            for future in waiting:
                _fail(future, reason)
        for reads in self._reads.values():
            for read in reads:
                _fail(read, reason)
        self._waiting.clear()
        self._reads.clear()

    @property
    def _is_gone(self) -> bool:
        return self.is_leaving or self._is_removed

    def _require_here(self) -> None:
        if self._is_gone:
            raise ContentError(f"{self.torrent.name}: was removed")


def describe_content(content: Content) -> dict[str, Any]:
    """Return a content's fields for an event."""
    torrent = content.torrent
    fields = {
        "content_id": torrent.content_id.hex(),
        "content_bytes": torrent.content_bytes,
        "name": torrent.name,
    }
    if content.stream_id is not None:
        fields["stream_id"] = content.stream_id.hex()
    return fields


def _resolve(future: "asyncio.Future[_T]", value: _T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[None] | asyncio.Future[bytes]", reason: str) -> None:
    if not future.done():
        future.set_exception(ContentError(reason))
