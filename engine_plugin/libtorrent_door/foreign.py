"""A session that a host application made: metered beside the host's own use of it.

The alert queue of a session has one reader. Either the host goes on reading it and hands every
batch over with `feed`, before its next pop; or the plugin reads it and calls the host back with
each batch. What cannot be had on somebody else's session: the disk backend (its default loses
write reports, so some bytes end ambiguous and are reported so), what happened before the torrent
was handed over, and enforcement (class and address filters are the host's).
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import libtorrent as lt

from engine_plugin.errors import SessionError
from engine_plugin.libtorrent_door.session import EngineSession
from engine_plugin.libtorrent_door.session_options import (
    ALERT_MASK,
    SessionOptions,
    make_settings,
)
from engine_plugin.libtorrent_door.session_records import Drained
from engine_plugin.libtorrent_door.torrent_file import TorrentFile, read_torrent

_KEPT_SETTINGS = (
    "alert_queue_size",
    "close_redundant_connections",
    "allow_multiple_connections_per_pid",
    "peer_fingerprint",
    "handshake_client_version",
)
"""What metering and identity need; everything else stays as the host has it."""

_DIRTY_BYTES = 256 << 10
"""Written to disk soon, so that write reports are lost less often."""

_ALLOWS_MISSING_LAYERS = lt.write_flags.allow_missing_piece_layer

OnAlerts = Callable[[list[Any]], None]
"""Takes a batch of alerts, valid until it returns; called in the meter's thread."""


class ForeignSession(EngineSession):
    """A host's session. `feed`, or a callback: see the module."""

    is_foreign = True

    def __init__(
        self, session: Any, options: SessionOptions, *, on_alerts: OnAlerts | None = None
    ) -> None:
        """Takes a session over for metering; no connection is cut.

        Args:
            session: A `libtorrent.session`.
            options: Peer-id and handshake text are taken from here; they reach new connections
                only.
            on_alerts: The host's callback, if the plugin is to read the queue; None: the host
                reads it and calls `feed`.

        Raises:
            SessionError: It is no session, or refuses a setting.
        """
        if not isinstance(session, lt.session):
            raise SessionError(f"session: got {type(session).__name__}, want a libtorrent.session")
        wanted = make_settings(options)
        settings: dict[str, Any] = {name: wanted[name] for name in _KEPT_SETTINGS}
        mask = int(session.get_settings()["alert_mask"]) | int(ALERT_MASK)
        settings |= {"alert_mask": mask, "max_queued_disk_bytes": _DIRTY_BYTES}
        try:
            session.apply_settings(cast("lt.settings_pack", settings))
        except (RuntimeError, ValueError, KeyError) as error:
            raise SessionError(f"session: {error}") from error
        self._bind(session, replace(options, tells_requests=True))
        self._on_alerts = on_alerts
        self._is_fed = on_alerts is None
        self._lock = threading.Lock()
        self._fed = Drained()
        self._arrived = threading.Event()

    def describe(self, handle: Any) -> TorrentFile:
        """Returns what the torrent file of a host's handle says.

        Raises:
            SessionError: The handle is invalid, or has no metadata yet.
        """
        if not handle.is_valid():
            raise SessionError("torrent: got an invalid handle")
        info = handle.torrent_file()
        if info is None:
            raise SessionError("torrent: got no metadata yet, want a torrent that has it")
        params = lt.add_torrent_params()
        params.ti = info
        # Of a v2 torrent the piece layers may not be here yet; its facts stand without them.
        entry: Any = lt.write_torrent_file(params, _ALLOWS_MISSING_LAYERS)
        return read_torrent(lt.bencode(entry))

    def adopt(self, handle: Any) -> int:
        """Meters a torrent of the host's from here on and returns its number.

        Raises:
            SessionError: It is metered already.
        """
        hashes = handle.info_hashes()
        content = hashes.v2.to_bytes() if hashes.has_v2() else hashes.v1.to_bytes()
        if content in self._torrents:
            raise SessionError("torrent: is metered already")
        return self._number(handle, content)

    def look_at(self, torrent: int) -> tuple[Path, frozenset[int]]:
        """Returns the folder that a torrent is saved in, and the pieces that have passed."""
        status = self._handles[torrent].status()
        here = (n for n, is_here in enumerate(status.pieces) if is_here)
        return Path(status.save_path), frozenset(here)

    def feed(self, alerts: list[Any]) -> None:
        """Takes a batch that the host popped; call it before the host's next pop."""
        copied = self._copy(alerts)
        with self._lock:
            self._fed.events.extend(copied.events)
            self._fed.notices.extend(copied.notices)
            self._fed.reads.extend(copied.reads)
        self._arrived.set()

    def wait(self, timeout_ms: int) -> bool:
        """Waits for alerts, of the queue or fed; says whether there are any."""
        if not self._is_fed:
            return super().wait(timeout_ms)
        return self._arrived.wait(timeout_ms / 1000)

    def drain(self) -> Drained:
        """Returns what came since the last call."""
        if not self._is_fed:
            alerts = self._session.pop_alerts()
            copied = self._copy(alerts)
            if self._on_alerts is not None and alerts:
                self._on_alerts(alerts)
            # An alert that outlives the next pop is a segmentation fault.
            alerts.clear()
            return copied
        self._arrived.clear()
        with self._lock:
            fed, self._fed = self._fed, Drained()
        return fed

    def remove_torrent(self, torrent: int, *, deletes_files: bool = False) -> None:
        """Stops metering a torrent; it goes on in the host's session, with its files."""
        del deletes_files
        handle = self._handles.pop(torrent)
        self._forget_torrent(torrent, handle)

    def pause(self) -> None:
        """Leaves the host's transfers alone."""

    def close(self) -> None:
        """Lets the session go; it is the host's."""
        self._by_handle.clear()
        self._handles.clear()
