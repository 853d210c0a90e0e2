"""A plain libtorrent session without any metering: what the benchmark compares an engine with.

`python -m engine_plugin.libtorrent_door.unmetered seed|fetch|make …` has libtorrent's own settings
apart from discovery and rates, the smallest alert mask that tells whether a port is open, and
never empties the queue otherwise. It is no part of an engine and shares no code with one.

Prints one JSON object a line: `ready` with the address listened on, `progress_bytes` twenty times
a second while it fetches, `complete` once everything is there. Stops on SIGTERM, or when its
standard input ends.
"""

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libtorrent as lt

from engine_plugin.libtorrent_door.session_options import split_endpoint

_KINDS = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}
_BACKENDS = ("pread", "mmap", "posix")
_POLL_S = 0.05
_PORT_WAIT_S = 10.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exit status 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="unmetered", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("seed", "fetch"):
        command = commands.add_parser(name)
        command.add_argument("torrent", type=Path)
        command.add_argument("--folder", type=Path, required=True)
        command.add_argument("--listen", default="127.0.0.1:0")
        command.add_argument("--peer", action="append", default=[])
        command.add_argument("--backend", choices=_BACKENDS, default="pread")
        command.add_argument("--upload-limit", type=int, default=0)
    make = commands.add_parser("make")
    make.add_argument("content", type=Path)
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--kind", choices=sorted(_KINDS), required=True)
    make.add_argument("--piece-bytes", type=int, default=1 << 20)
    options = parser.parse_args(arguments)
    if options.command == "make":
        _make(options.content, options.out, kind=options.kind, piece_bytes=options.piece_bytes)
    else:
        _run(options)


def _make(content: Path, out: Path, *, kind: str, piece_bytes: int) -> None:
    entries = [lt.create_file_entry(content.name, content.stat().st_size)]
    creator = lt.create_torrent(entries, piece_bytes, _KINDS[kind])
    lt.set_piece_hashes(creator, str(content.parent))
    out.write_bytes(lt.bencode(creator.generate()))


def _run(options: argparse.Namespace) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threading.Thread(target=_wait_for_end, args=(stopping,), daemon=True).start()
    params: Any = lt.session_params()
    params.disk_io_constructor = f"{options.backend}_disk_io_constructor"
    params.settings = {
        "alert_mask": lt.alert.category_t.status_notification,
        "listen_interfaces": options.listen,
        "enable_outgoing_utp": False,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "tick_interval": 100,
        "upload_rate_limit": options.upload_limit,
    }
    session = lt.session(params)
    if options.upload_limit:
        # Connections from loopback have no limit under the default filter.
        everybody = lt.ip_filter()
        # Two halves of all addresses.
        everybody.add_rule("0.0.0.1", "127.255.255.255", 1 << lt.session.global_peer_class_id)
        everybody.add_rule("128.0.0.0", "255.255.255.255", 1 << lt.session.global_peer_class_id)
        session.set_peer_class_filter(everybody)
    add = lt.load_torrent_file(str(options.torrent))
    add.save_path = str(options.folder)
    add.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    add.peers = [split_endpoint(text) for text in options.peer]
    if options.command == "seed":
        add.flags |= lt.torrent_flags.seed_mode
    handle = session.add_torrent(add)
    deadline_s = time.monotonic() + _PORT_WAIT_S
    while not session.listen_port() and time.monotonic() < deadline_s:
        time.sleep(_POLL_S / 5)
    address, _ = split_endpoint(options.listen)
    _tell(event="ready", listen=f"{address}:{session.listen_port()}")
    _watch(handle, stopping, is_told=options.command == "seed")


def _watch(handle: Any, stopping: threading.Event, *, is_told: bool) -> None:
    """Tells how much has come, until all has; then only waits."""
    while not stopping.wait(_POLL_S):
        if is_told:
            continue
        status = handle.status()
        _tell(
            event="progress_bytes", at_s=time.monotonic(), bytes=int(status.total_payload_download)
        )
        if status.is_finished:
            is_told = True
            _tell(event="complete")


def _wait_for_end(stopping: threading.Event) -> None:
    sys.stdin.read()
    stopping.set()


def _tell(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
