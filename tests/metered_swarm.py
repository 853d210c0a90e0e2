"""Metered sessions and scripted peers on loopback, for tests of exactness."""

import hashlib
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import libtorrent as lt

from engine_plugin.identity import format_handshake, make_peer_id
from engine_plugin.journal import MeterJournal
from engine_plugin.libtorrent_door import EngineSession, NoticeKind, SessionOptions, TorrentFile
from engine_plugin.meter import BLOCK_BYTES, TorrentMeter
from engine_plugin.pump import MeterPump
from engine_plugin.torrents import read_torrent

DEADLINE_SECONDS = 60.0
PIECE_BYTES = 65536
KINDS = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}
HANDSHAKE_BYTES = 68


def noise(seed: int, size: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(8, "little")).digest(size)


def write_show(folder: Path, sizes: Sequence[int]) -> Path:
    """Files of odd sizes, an empty one among them."""
    show = folder / "show"
    (show / "extra").mkdir(parents=True)
    for number, size in enumerate(sizes):
        (show / f"{number}.bin").write_bytes(noise(number, size))
    (show / "extra" / "empty").write_bytes(b"")
    return show


def make_torrent(root: Path, kind: str) -> TorrentFile:
    """A torrent of exactly one kind, over a file or a folder."""
    paths = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    entries = [
        lt.create_file_entry(str(path.relative_to(root.parent)), path.stat().st_size)
        for path in paths
    ]
    creator = lt.create_torrent(entries, PIECE_BYTES, KINDS[kind])
    lt.set_piece_hashes(creator, str(root.parent))
    return read_torrent(bytes(lt.bencode(creator.generate())))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Node:
    """One metered session with its journal."""

    def __init__(self, state: Path, address: str, **options: Any) -> None:
        self.key, self.session_id = secrets.token_bytes(32), secrets.token_bytes(16)
        self.peer_id = make_peer_id(self.key, self.session_id)
        state.mkdir(parents=True, exist_ok=True)
        self.state, self.address = state, address
        listen = f"[{address}]:0" if ":" in address else f"{address}:0"
        self.session = EngineSession(
            SessionOptions(
                listen=listen,
                peer_id=self.peer_id,
                handshake_text=format_handshake(self.key, 7777),
                exchanges_peers=False,
                **options,
            )
        )
        self.journal = MeterJournal(state / "meter.sqlite")
        self.journal.start_run(session_id=self.session_id, session_key=self.key, started_at_ms=1)
        self.pump = MeterPump(self.session, self.journal, current_epoch=lambda: 7)
        self.number = -1
        self.notices: list[NoticeKind] = []
        self.is_gone = False

    def apply(self, **settings: Any) -> None:
        """Settings of libtorrent that an engine does not change itself."""
        self.session._session.apply_settings(settings)

    def add(self, torrent: TorrentFile, **options: Any) -> int:
        folder = options.pop("folder", self.state)
        self.number = self.pump.add(
            torrent, lambda: self.session.add_torrent(torrent.data, folder, **options)
        )
        return self.number

    @property
    def meter(self) -> TorrentMeter:
        return self.pump.meter(self.number)

    @property
    def endpoint(self) -> tuple[str, int]:
        return self.address, self.session.listen_port

    def dial(self, endpoint: tuple[str, int]) -> None:
        self.session.connect_peer(self.number, *endpoint)

    def step(self) -> None:
        self.notices += [notice.kind for notice in self.pump.step(20).notices]

    def firm_of(self, peer_id: bytes) -> int:
        """Content bytes credited to all connections with a peer-id."""
        return sum(
            count
            for peer, count in self.meter.firm.items()
            if self.session.peer_key(peer)[0] == peer_id
        )

    def sent_to(self, peer_id: bytes) -> int:
        return sum(
            count
            for peer, count in self.meter.sent.items()
            if self.session.peer_key(peer)[0] == peer_id
        )

    def vanish(self) -> None:
        """Closes every connection at once."""
        self.is_gone = True
        self.session.close()

    def close(self) -> None:
        if not self.is_gone:
            self.session.close()
        self.journal.close()


def run_until(done: Callable[[], bool], *nodes: Node) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not done():
        assert time.monotonic() < deadline, [
            (node.notices, dict(node.meter.firm) if node.number >= 0 else {}) for node in nodes
        ]
        for node in nodes:
            node.step()


def finish_download(leecher: Node, *others: Node) -> None:
    run_until(lambda: NoticeKind.FINISHED in leecher.notices, leecher, *others)


def require_exact(leecher: Node, torrent: TorrentFile, *, downloaded: int | None = None) -> None:
    """Every content byte is somebody's, and libtorrent's own totals say the same."""
    content = torrent.content_bytes if downloaded is None else downloaded
    differences: list[int | None] = []

    def is_explained() -> bool:
        # A block that was asked twice may still be on its way.
        audit = leecher.pump.audit()
        differences.append(None if audit is None else audit.difference_bytes)
        return differences[-1] == 0

    run_until(is_explained, leecher)
    assert leecher.pump.finish(grace_seconds=0.2).journal_error is None
    meter = leecher.meter
    assert sum(meter.firm.values()) == meter.passed_bytes == content
    assert meter.ambiguous_bytes == meter.pending_bytes == 0
    assert not meter.is_estimated
    totals = leecher.journal.totals()
    assert totals.unattested_bytes == content
    assert totals.failed_bytes == sum(meter.failed.values())


class ScriptedPeer:
    """A peer with the whole content that does what it is told, and writes down what it sent.

    Each connection has its own peer-id, and ends after its share of blocks.
    """

    def __init__(
        self,
        address: str,
        torrent: TorrentFile,
        content: bytes,
        *,
        peer_ids: Sequence[bytes],
        shares: Sequence[int],
        bad_pieces: frozenset[int] = frozenset(),
    ) -> None:
        self.sent: list[Counter[tuple[int, int]]] = [Counter() for _ in peer_ids]
        """Blocks sent by each connection."""
        self._torrent, self._content, self._bad = torrent, content, bad_pieces
        self._peer_ids, self._shares = peer_ids, shares
        self._server = socket.create_server((address, 0))
        self._connection: socket.socket | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> tuple[str, int]:
        address, port = self._server.getsockname()
        return address, port

    def sent_bytes(self, number: int) -> int:
        total = len(self._content)
        return sum(
            min(BLOCK_BYTES, total - piece * PIECE_BYTES - begin) * count
            for (piece, begin), count in self.sent[number].items()
        )

    def close(self) -> None:
        # Wakes the thread up from waiting for the next connection.
        self._is_closing = True
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def _serve(self) -> None:
        for number, peer_id in enumerate(self._peer_ids):
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self._connection = connection
                if self._is_closing:
                    return
                connection.settimeout(DEADLINE_SECONDS)
                self._talk(connection, number, peer_id)

    def _talk(self, connection: socket.socket, number: int, peer_id: bytes) -> None:
        reader = connection.makefile("rb")
        reader.read(HANDSHAKE_BYTES)
        pieces = self._torrent.layout.piece_count
        bits = int("1" * pieces, 2) << (-pieces % 8)
        bitfield = bytes([5]) + bits.to_bytes(-(-pieces // 8), "big")
        infohash = self._torrent.infohash_v1
        connection.sendall(
            b"\x13BitTorrent protocol" + bytes(8) + infohash + peer_id
            + len(bitfield).to_bytes(4, "big") + bitfield
            + b"\0\0\0\1\1"
        )  # fmt: skip
        left = self._shares[number]
        try:
            while left and (head := reader.read(4)):
                message = reader.read(int.from_bytes(head, "big"))
                if message[:1] == b"\6":
                    self._answer(connection, number, message)
                    left -= 1
            # All that was sent is to arrive: the other side closes last.
            connection.shutdown(socket.SHUT_WR)
            while reader.read(65536):
                pass
        except OSError:
            return

    def _answer(self, connection: socket.socket, number: int, request: bytes) -> None:
        piece, begin, length = (int.from_bytes(request[i : i + 4], "big") for i in (1, 5, 9))
        offset = piece * PIECE_BYTES + begin
        data = self._content[offset : offset + length]
        if piece in self._bad:
            data = bytes(len(data))
        head = bytes([7]) + request[1:9]
        connection.sendall((len(head) + length).to_bytes(4, "big") + head + data)
        self.sent[number][piece, begin] += 1
