"""A libtorrent session set up for exact metering, with plain data going in and out.

It starts and stops torrents, copies alerts into event tuples, takes snapshots of peers and
counters. It counts nothing itself (that is the meter) and starts no thread of its own.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import libtorrent as lt

from engine_plugin.errors import SessionError
from engine_plugin.libtorrent_door.peer_numbers import PeerNumbers
from engine_plugin.libtorrent_door.port_mapping import SidePortMapping
from engine_plugin.libtorrent_door.session_options import (
    SessionOptions,
    buffer_for,
    format_endpoint,
    make_settings,
    queue_for,
)
from engine_plugin.libtorrent_door.session_records import (
    ALL_TORRENTS,
    NO_PEER,
    UNKNOWN_TORRENT,
    Drained,
    Notice,
    NoticeKind,
    PeerSnapshot,
    PieceRead,
    SessionCounters,
)
from engine_plugin.libtorrent_door.tiers import TierTable
from engine_plugin.meter import BLOCK_BYTES, EventKind

_CHECKING_STATES = {
    int(lt.torrent_status.states.checking_files),
    int(lt.torrent_status.states.checking_resume_data),
}
_STATS_WAIT_MS = 2000


_SENT = int(EventKind.SENT)
_UNTOLD = -1
"""Kind of an alert that tells nothing that is wanted."""
_CONNECTION_KINDS = {NoticeKind.CONNECTED, NoticeKind.DISCONNECTED}


class EngineSession:
    """A running session. Methods may be called from any thread, `drain` from one at a time."""

    is_foreign = False
    """Whether a host application made the session and goes on using it."""

    def __init__(self, options: SessionOptions) -> None:
        """Starts the session.

        Raises:
            SessionError: libtorrent refused the settings.
        """
        params: Any = lt.session_params()
        # The only backend that reports every write, and before the piece's hash check: pread (the
        # default) loses reports and, on a kill, data already reported verified; mmap loses the
        # last ones now and then, and costs a third more time of the processor.
        params.disk_io_constructor = "posix_disk_io_constructor"
        # A peer that connects before the tiers are set would be exempt from every limit for as
        # long as it stays, if it is on a local network: so listening comes last.
        params.settings = make_settings(options) | {"listen_interfaces": ""}
        try:
            session = lt.session(params)
        except (RuntimeError, ValueError, KeyError) as error:
            raise SessionError(f"session: {error}") from error
        self._bind(session, options)
        session.apply_settings({"listen_interfaces": options.listen})

    def _bind(self, session: Any, options: SessionOptions) -> None:
        self.options = options
        self._session = session
        self.tiers = TierTable(session) if not self.is_foreign else None
        self._handles: dict[int, Any] = {}
        self._next_number = 0
        self._torrents: dict[bytes, int] = {}
        self._by_handle: dict[Any, int] = {}
        self._peers = PeerNumbers()
        self._connected: dict[tuple[int, tuple[str, int]], int] = {}
        """Number of the peer at the other end of a torrent's connection, until that ends."""
        self._whole_pieces: dict[int, int] = {}
        """How many of a torrent's pieces, from the first on, have blocks of 16 KiB content only."""
        self._only_torrent: int | None = None
        """The one torrent that was ever added; None when there are more, or none."""
        self._counters: SessionCounters | None = None
        maps_ports = options.discovers and not self.is_foreign
        self._bound_port = 0
        self._side_port = SidePortMapping(session, options.handshake_text, is_wanted=maps_ports)
        self._handlers = self._make_handlers()
        self._block_kinds = {
            lt.block_finished_alert: int(EventKind.WRITTEN),
            lt.block_uploaded_alert: int(EventKind.SENT),
        }
        # Every second alert of a download; it cannot be masked without the write reports.
        asked = int(EventKind.ASKED) if options.tells_requests else _UNTOLD
        self._block_kinds[lt.block_downloading_alert] = asked

    @property
    def reports_every_write(self) -> bool:
        """Whether a write report comes for every block before its piece is reported passed."""
        return not self.options.tells_requests

    @property
    def listen_port(self) -> int:
        """The TCP port listened on; 0 while not listening."""
        # libtorrent's own answer turns into the outside port once a router has mapped it.
        return self._bound_port or int(self._session.listen_port())

    def add_torrent(
        self,
        data: bytes,
        save_path: Path,
        *,
        peers: Sequence[tuple[str, int]] = (),
        trackers: Sequence[str] = (),
        exchanges_peers: bool = True,
        is_complete: bool = False,
        is_sequential: bool = False,
        uses_web_seeds: bool = True,
        is_read_only: bool = False,
        renamed_files: Mapping[int, str] | None = None,
    ) -> int:
        """Starts a torrent.

        Args:
            data: The torrent file.
            save_path: Folder that holds, or will hold, the torrent's name.
            peers: Addresses to dial; libtorrent does so at its next full second.
            trackers: Asked at once, whatever else is off; whom the first names is dialled at once.
            exchanges_peers: Whether its peers are told of each other (PEX).
            is_complete: Whether the files are known to be complete, so that no check is needed.
            is_sequential: Whether to prefer pieces in order.
            uses_web_seeds: Whether to download from the torrent's web seeds.
            is_read_only: Whether nothing is ever downloaded, so that no file is written.
            renamed_files: Paths below `save_path` by a file's place in the torrent.

        Returns:
            The torrent's number in this session.

        Raises:
            SessionError: libtorrent refused it, or it runs already.
        """
        flags = lt.torrent_flags
        try:
            params = lt.load_torrent_buffer(data)
            hashes = params.info_hashes
            content = hashes.v2.to_bytes() if hashes.has_v2() else hashes.v1.to_bytes()
            params.save_path = str(save_path)
            params.peers = list(peers)
            params.flags = (
                params.flags & ~(flags.auto_managed | flags.paused) | flags.duplicate_is_error
            )
            if not self.options.discovers:
                params.trackers = []
                params.flags |= flags.disable_dht | flags.disable_lsd
            if trackers:
                params.trackers = [*params.trackers, *trackers]
            if not (exchanges_peers and self.options.exchanges_peers):
                params.flags |= flags.disable_pex
            if is_complete:
                params.flags |= flags.seed_mode
            if is_sequential:
                params.flags |= flags.sequential_download
            if not uses_web_seeds:
                params.url_seeds = []
            if is_read_only:
                # A file found damaged would otherwise be mended, in somebody else's folder.
                params.flags |= flags.upload_mode
            if renamed_files:
                params.renamed_files = dict(renamed_files)
            # Before its first alert can be drained in another thread.
            self._only_torrent = None
            handle = self._session.add_torrent(params)
        except (RuntimeError, ValueError) as error:
            raise SessionError(f"torrent: {error}") from error
        number = self._number(handle, content)
        self._whole_pieces[number] = _count_whole_pieces(params.ti)
        return number

    def _number(self, handle: Any, content: bytes) -> int:
        number, self._next_number = self._next_number, self._next_number + 1
        self._handles[number] = handle
        self._torrents[content] = number
        # The shortcut holds for our own session only: a host's has torrents unknown to us.
        if number == 0 and not self.is_foreign:
            self._only_torrent = number
        return number

    def remove_torrent(self, torrent: int, *, deletes_files: bool = False) -> None:
        """Stops a torrent; its number is not used again.

        Args:
            torrent: Its number.
            deletes_files: Whether its files go too; else they stay.
        """
        handle = self._handles.pop(torrent)
        self._whole_pieces.pop(torrent, None)
        self._forget_torrent(torrent, handle)
        option = lt.session.delete_files if deletes_files else 0
        self._session.remove_torrent(handle, option)

    def _forget_torrent(self, torrent: int, handle: Any) -> None:
        self._by_handle.pop(handle, None)
        self._torrents = {key: kept for key, kept in self._torrents.items() if kept != torrent}
        # Its last disconnections are told of a torrent that nobody knows any more.
        for connection in [named for named in list(self._connected) if named[0] == torrent]:
            self._connected.pop(connection, None)

    def want_piece(self, torrent: int, piece: int, deadline_ms: int) -> None:
        """Asks for a piece within a time from now; nearer deadlines come first."""
        self._handles[torrent].set_piece_deadline(piece, deadline_ms)

    def forget_deadlines(self, torrent: int) -> None:
        """Takes all deadlines of a torrent back."""
        self._handles[torrent].clear_piece_deadlines()

    def set_priorities(self, torrent: int, priorities: Mapping[int, int]) -> None:
        """Sets priorities of pieces: 0 = not wanted, 4 = as usual, 7 = first."""
        self._handles[torrent].prioritize_pieces(list(priorities.items()))

    def touched_pieces(self, torrent: int) -> set[int]:
        """Returns pieces of which blocks were asked for, are being written or are here."""
        return {int(row["piece_index"]) for row in self._handles[torrent].get_download_queue()}

    def read_piece(self, torrent: int, piece: int) -> None:
        """Asks for the bytes of a piece that passed; the queue then holds a `PieceRead`."""
        self._handles[torrent].read_piece(piece)

    def add_web_seed(self, torrent: int, url: str) -> None:
        """Lets a torrent download from a web seed (BEP 19) as well."""
        self._handles[torrent].add_url_seed(url)

    def remove_web_seed(self, torrent: int, url: str) -> None:
        """Stops a torrent's downloads from a web seed and disconnects it."""
        self._handles[torrent].remove_url_seed(url)

    def connect_peer(self, torrent: int, address: str, port: int) -> None:
        """Dials a peer; libtorrent acts at its next tick."""
        self._handles[torrent].connect_peer((address, port))

    def force_recheck(self, torrent: int) -> None:
        """Checks the files on disk again; the queue then tells CHECKING and CHECKED."""
        self._handles[torrent].force_recheck()

    def wait(self, timeout_ms: int) -> bool:
        """Waits for an alert without holding the interpreter's lock; says whether there is one."""
        # The return value is an alert that the next pop frees: it must not be kept.
        return self._session.wait_for_alert(timeout_ms) is not None

    def drain(self) -> Drained:
        """Empties the alert queue. Call it at least every 100 ms while there is traffic."""
        alerts = self._session.pop_alerts()
        drained = self._copy(alerts)
        # An alert that outlives the next pop is a segmentation fault.
        alerts.clear()
        return drained

    def _copy(self, alerts: list[Any]) -> Drained:
        drained = Drained()
        append, handlers, numbers = drained.events.append, self._handlers, self._connected
        block_kinds, whole_pieces = self._block_kinds, self._whole_pieces
        sent: defaultdict[tuple[int, int], int] = defaultdict(int)
        # Every attribute of an alert costs about half a microsecond: a block's are read here, once
        # and no more than needed; whatever comes less often goes through the handlers.
        for alert in alerts:
            kind = block_kinds.get(type(alert))
            if kind == _UNTOLD:
                continue
            if kind is not None:
                torrent = self._only_torrent
                if torrent is None:
                    torrent = self._torrent_of(alert.handle)
                connection = torrent, alert.ep
                peer = numbers.get(connection)
                if peer is None:
                    peer = numbers[connection] = self._peers.number_of(
                        alert.pid.to_bytes(), alert.ep
                    )
                piece = alert.piece_index
                if kind == _SENT and piece < whole_pieces.get(torrent, 0):
                    sent[torrent, peer] += 1
                else:
                    append((kind, torrent, peer, piece, alert.block_index))
            elif handler := handlers.get(type(alert)):
                handler(alert, drained)
        for (torrent, peer), count in sent.items():
            append((EventKind.SENT_BLOCKS, torrent, peer, count, 0))
        return drained

    def peer_key(self, peer: int) -> tuple[bytes, str]:
        """Returns peer-id (20 bytes) and endpoint text of a peer's number."""
        return self._peers.key_of(peer)

    def forget_peers(self, unused: Iterable[int]) -> None:
        """Forgets peers that nobody asks about any more; their numbers are not used again.

        Args:
            unused: Their numbers. Whoever is connected is kept.
        """
        self._peers.forget(unused, kept=set(self._connected.values()))

    def peer_numbers(self) -> list[int]:
        """Returns the numbers of all peers that are remembered."""
        return self._peers.list_numbers()

    def find_peer(self, peer_id: bytes, endpoint: str) -> int | None:
        """Returns the number of a (peer-id, endpoint) pair, or None if it was never seen."""
        return self._peers.find(peer_id, endpoint)

    def peers(self) -> list[PeerSnapshot]:
        """Takes a snapshot of all connections; blocks on the network thread, so once a second."""
        snapshots = []
        for torrent, handle in list(self._handles.items()):
            with suppress(RuntimeError):  # it is removed in this very moment
                snapshots += [self._snapshot(torrent, info) for info in handle.get_peer_info()]
        return snapshots

    def progress(self, torrent: int) -> tuple[int, bool]:
        """Returns bytes done (padding included) and whether everything wanted is there."""
        status = self._handles[torrent].status()
        return int(status.total_wanted_done), bool(status.is_finished)

    def read_counters(self) -> tuple[SessionCounters | None, Drained]:
        """Asks for libtorrent's counters and drains the queue until they arrive.

        Returns:
            The counters, or None if they did not arrive in time; and what else was drained.
        """
        self._counters = None
        self._session.post_session_stats()
        total = Drained()
        waited_ms = 0
        while self._counters is None and waited_ms < _STATS_WAIT_MS:
            self.wait(50)
            waited_ms += 50
            more = self.drain()
            total.events.extend(more.events)
            total.notices.extend(more.notices)
            total.reads.extend(more.reads)
        return self._counters, total

    def set_limits(self, *, upload_limit: int, download_limit: int) -> None:
        """Changes the session's rates; bytes per second, 0 = unlimited."""
        self._session.apply_settings(
            {
                "upload_rate_limit": upload_limit,
                "download_rate_limit": download_limit,
                "send_buffer_watermark": buffer_for(upload_limit),
                "max_allowed_in_request_queue": queue_for(upload_limit),
            }
        )

    def set_serving(self, *, serves: bool) -> None:
        """Serves peers, or chokes all of them; downloads are not affected."""
        slots = self.options.upload_slots if serves else 0
        self._session.apply_settings({"unchoke_slots_limit": slots})

    def flush(self) -> None:
        """Asks libtorrent to write what it holds."""
        for handle in list(self._handles.values()):
            if handle.is_valid():
                handle.flush_cache()

    def pause(self) -> None:
        """Disconnects all peers and stops transfers."""
        self._session.pause()

    def close(self) -> None:
        """Gives the session up; its ports are free about a second later."""
        self._by_handle.clear()
        self._handles.clear()
        # It ends with its last reference, and its helpers hold some.
        self.tiers = None
        del self._side_port
        del self._session

    def _make_handlers(self) -> dict[type[Any], Callable[[Any, Drained], None]]:
        note, kinds = self._note, NoticeKind
        return {
            lt.piece_finished_alert: self._on_piece_finished,
            lt.hash_failed_alert: self._on_hash_failed,
            lt.state_changed_alert: self._on_state_changed,
            lt.torrent_checked_alert: self._on_checked,
            lt.torrent_finished_alert: self._on_finished,
            lt.alerts_dropped_alert: self._on_dropped,
            lt.session_stats_alert: self._on_stats,
            lt.read_piece_alert: self._on_read,
            lt.listen_succeeded_alert: self._on_listening,
            lt.portmap_alert: self._on_port_mapped,
            lt.portmap_error_alert: note(kinds.PORT_MAPPING_FAILED),
            lt.listen_failed_alert: note(kinds.LISTEN_FAILED),
            lt.peer_connect_alert: note(kinds.CONNECTED),
            lt.peer_disconnected_alert: note(kinds.DISCONNECTED),
            # A closing peer posts this or the one above, never both.
            lt.peer_error_alert: note(kinds.DISCONNECTED),
            lt.peer_ban_alert: note(kinds.BANNED),
            lt.url_seed_alert: note(kinds.WEB_SEED_FAILED),
            lt.file_error_alert: note(kinds.FILE_FAILED),
            lt.torrent_error_alert: note(kinds.TORRENT_FAILED),
        }

    def _note(self, kind: NoticeKind) -> Callable[[Any, Drained], None]:
        def copy_notice(alert: Any, drained: Drained) -> None:
            torrent, peer = ALL_TORRENTS, NO_PEER
            if isinstance(alert, lt.torrent_alert):
                torrent = self._torrent_of(alert.handle)
            if isinstance(alert, lt.peer_alert):
                peer = self._peers.number_of(alert.pid.to_bytes(), alert.ep)
                if kind in _CONNECTION_KINDS:
                    # Another peer may be met at this endpoint from here on.
                    self._connected.pop((torrent, alert.ep), None)
            url = alert.server_url() if isinstance(alert, lt.url_seed_alert) else ""
            drained.notices.append(
                Notice(kind=kind, torrent=torrent, peer=peer, text=alert.message(), url=url)
            )

        return copy_notice

    def _on_listening(self, alert: Any, drained: Drained) -> None:
        self._note(NoticeKind.LISTENING)(alert, drained)
        if alert.socket_type == lt.socket_type_t.tcp:
            self._bound_port = self._bound_port or int(alert.port)
            self._side_port.want()

    def _on_port_mapped(self, alert: Any, drained: Drained) -> None:
        self._note(NoticeKind.PORT_MAPPED)(alert, drained)
        self._side_port.take(int(alert.mapping), int(alert.external_port))

    def _on_piece_finished(self, alert: Any, drained: Drained) -> None:
        torrent = self._torrent_of(alert.handle)
        drained.events.append((EventKind.PASSED, torrent, NO_PEER, alert.piece_index, 0))

    def _on_hash_failed(self, alert: Any, drained: Drained) -> None:
        torrent = self._torrent_of(alert.handle)
        drained.events.append((EventKind.FAILED, torrent, NO_PEER, alert.piece_index, 0))
        drained.notices.append(
            Notice(kind=NoticeKind.HASH_FAILED, torrent=torrent, text=alert.message())
        )

    def _on_state_changed(self, alert: Any, drained: Drained) -> None:
        checking = int(alert.state) in _CHECKING_STATES
        kind = EventKind.CHECKING if checking else EventKind.CHECKED
        drained.events.append((kind, self._torrent_of(alert.handle), NO_PEER, 0, 0))

    def _on_checked(self, alert: Any, drained: Drained) -> None:
        torrent = self._torrent_of(alert.handle)
        drained.events.append((EventKind.CHECKED, torrent, NO_PEER, 0, 0))
        drained.notices.append(Notice(kind=NoticeKind.CHECKED, torrent=torrent))

    def _on_finished(self, alert: Any, drained: Drained) -> None:
        torrent = self._torrent_of(alert.handle)
        drained.events.append((EventKind.FINISHED, torrent, NO_PEER, 0, 0))
        drained.notices.append(Notice(kind=NoticeKind.FINISHED, torrent=torrent))

    def _on_dropped(self, alert: Any, drained: Drained) -> None:
        # The end of a connection may be lost too: its endpoint may be somebody else's now. Nothing
        # of this batch is credited, and later blocks are looked up anew.
        self._connected.clear()
        drained.events.append((EventKind.DROPPED, ALL_TORRENTS, NO_PEER, 0, 0))
        drained.notices.append(Notice(kind=NoticeKind.ALERTS_DROPPED, text=alert.message()))

    def _on_read(self, alert: Any, drained: Drained) -> None:
        failed = alert.error.value() != 0
        drained.reads.append(
            PieceRead(
                torrent=self._torrent_of(alert.handle),
                piece=int(alert.piece),
                # The buffer belongs to the alert: it is copied before the next pop.
                data=b"" if failed else bytes(alert.buffer),
                error=alert.error.message() if failed else "",
            )
        )

    def _on_stats(self, alert: Any, _: Drained) -> None:
        values = alert.values
        self._counters = SessionCounters(
            recv_payload_bytes=values["net.recv_payload_bytes"],
            redundant_bytes=values["net.recv_redundant_bytes"],
            failed_bytes=values["net.recv_failed_bytes"],
        )

    def _torrent_of(self, handle: Any) -> int:
        if (number := self._by_handle.get(handle)) is not None:
            return number
        hashes = handle.info_hashes()
        content = hashes.v2.to_bytes() if hashes.has_v2() else hashes.v1.to_bytes()
        number = self._torrents.get(content, UNKNOWN_TORRENT)
        # A removed torrent's handle equals every other removed one's: it must not be remembered.
        if number != UNKNOWN_TORRENT and handle.is_valid():
            self._by_handle[handle] = number
        return number

    def _snapshot(self, torrent: int, info: Any) -> PeerSnapshot:
        peer_id = info.pid.to_bytes()
        number = self._peers.number_of(peer_id, info.ip)
        return PeerSnapshot(
            torrent=torrent,
            peer=number,
            peer_id=peer_id,
            endpoint=format_endpoint(*info.ip),
            # Of a socket that is closing there is no port any more.
            local_endpoint=format_endpoint(*own) if (own := info.local_endpoint())[1] else "",
            client=info.client.decode("utf-8", "replace"),
            is_web_seed=info.connection_type == lt.peer_info.web_seed,
            is_outgoing=bool(info.flags & lt.peer_info.local_connection),
            handshake_done=not info.flags & (lt.peer_info.handshake | lt.peer_info.connecting),
            downloaded_bytes=info.total_download,
            uploaded_bytes=info.total_upload,
        )


def _count_whole_pieces(info: Any) -> int:
    storage = info.layout()
    files = range(storage.num_files())
    has_pads = any(storage.file_flags(n) & lt.file_storage.flag_pad_file for n in files)
    if has_pads or info.piece_length() % BLOCK_BYTES:
        return 0
    return int(info.num_pieces()) - 1
