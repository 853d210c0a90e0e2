"""From a magnet link to its torrent, fetched from peers.

A session of its own that asks for the metadata and nothing else: no payload moves, so nothing is
to be metered. Piece layers of a v2 torrent do not travel with the metadata; they are fetched, or
hashed from the files, once the torrent runs.

Spec: BEP 9 (metadata, magnet links), BEP 53.
"""

import time
from collections.abc import Callable, Sequence
from tempfile import gettempdir
from typing import Any

import libtorrent as lt

from engine_plugin.errors import ContentError, SessionError
from engine_plugin.libtorrent_door.torrent_file import TorrentFile, read_torrent

METADATA_TIMEOUT_S = 120.0
"""How long peers are asked before it is given up."""

_POLL_MS = 200
_REDIAL_S = 3.0


def is_magnet(text: str) -> bool:
    """Tell whether a text means to be a magnet link."""
    return text.lower().startswith("magnet:")


def fetch_torrent(
    link: str,
    *,
    listen_ip: str,
    peers: Sequence[tuple[str, int]],
    discovers: bool,
    is_cancelled: Callable[[], bool] = lambda: False,
    timeout_s: float = METADATA_TIMEOUT_S,
) -> TorrentFile:
    """Fetches the torrent of a magnet link; blocks.

    Args:
        link: The magnet link.
        listen_ip: Address to work from; the port is any free one.
        peers: Addresses to ask, beside those in the link.
        discovers: Whether to find peers by DHT, local discovery and the link's trackers.
        is_cancelled: Asked a few times a second; True gives up.
        timeout_s: Seconds until it is given up; > 0.

    Raises:
        ContentError: The link is none, nobody had its metadata in time, or it was given up.
        SessionError: libtorrent refused the session.
    """
    params = _parse(link)
    params.peers = [*params.peers, *peers]
    if not params.peers and not discovers:
        raise ContentError("magnet: got no peer to ask, want --peer, x.pe= in the link or DHT")
    flags = lt.torrent_flags
    params.flags &= ~(flags.auto_managed | flags.paused)
    # Asks for no piece, so no file is written.
    params.flags |= flags.upload_mode
    if not discovers:
        params.trackers = []
        params.flags |= flags.disable_dht | flags.disable_lsd | flags.disable_pex
    params.save_path = gettempdir()
    web_seeds = list(params.url_seeds)
    trackers = list(params.trackers)
    params.url_seeds = []
    asked = list(params.peers)
    setup: Any = lt.session_params()
    setup.settings = _settings(listen_ip, discovers=discovers)
    try:
        session: Any = lt.session(setup)
        handle = session.add_torrent(params)
    except (RuntimeError, ValueError, KeyError) as error:
        raise SessionError(f"magnet: {error}") from error
    info = _await_metadata(session, handle, asked, is_cancelled, timeout_s)
    described: dict[bytes, Any] = {b"info": lt.bdecode(info)}
    if web_seeds:
        described[b"url-list"] = web_seeds
    if trackers:
        described[b"announce-list"] = [[tracker] for tracker in trackers]
    return read_torrent(bytes(lt.bencode(described)))


def _parse(link: str) -> Any:
    try:
        params = lt.parse_magnet_uri(link)
    except (RuntimeError, ValueError) as error:
        raise ContentError(f"magnet: cannot be read: {error}") from error
    hashes = params.info_hashes
    if not (hashes.has_v1() or hashes.has_v2()):
        raise ContentError("magnet: got no info-hash, want xt=urn:btih: or xt=urn:btmh:")
    return params


def _settings(listen_ip: str, *, discovers: bool) -> dict[str, object]:
    address = f"[{listen_ip}]:0" if ":" in listen_ip else f"{listen_ip}:0"
    return {
        "alert_mask": lt.alert.category_t.status_notification,
        "listen_interfaces": address,
        "enable_dht": discovers,
        "enable_lsd": discovers,
        "enable_upnp": False,
        "enable_natpmp": False,
        "tick_interval": 100,
        "user_agent": "swarmledger",
    }


def _await_metadata(
    session: Any,
    handle: Any,
    peers: Sequence[tuple[str, int]],
    is_cancelled: Callable[[], bool],
    timeout_s: float,
) -> bytes:
    now_s = time.monotonic()
    deadline_s, redial_s = now_s + timeout_s, now_s + _REDIAL_S
    while not handle.status().has_metadata:
        now_s = time.monotonic()
        if is_cancelled():
            raise ContentError("magnet: was given up before its metadata came")
        if now_s >= deadline_s:
            raise ContentError(f"magnet: got no metadata from any peer within {timeout_s:.0f} s")
        if now_s >= redial_s:
            redial_s = now_s + _REDIAL_S
            for peer in peers:
                handle.connect_peer(peer)
        # Alerts must be popped, or waiting returns at once for ever.
        session.wait_for_alert(_POLL_MS)
        alerts = session.pop_alerts()
        alerts.clear()
    return bytes(handle.torrent_file().info_section())
