"""The one door to libtorrent: no other module of the product imports it.

Everything that leaves this package is plain data of ours; alerts, handles and settings stay
inside. Facts about libtorrent that shape the code stand beside the line that needs them; they hold
for the PyPI wheel libtorrent 2.1.1.
"""

from engine_plugin.libtorrent_door.foreign import ForeignSession
from engine_plugin.libtorrent_door.magnet import fetch_torrent, is_magnet
from engine_plugin.libtorrent_door.session import EngineSession
from engine_plugin.libtorrent_door.session_options import SessionOptions
from engine_plugin.libtorrent_door.session_records import (
    Drained,
    Notice,
    NoticeKind,
    PeerSnapshot,
    PieceRead,
    SessionCounters,
)
from engine_plugin.libtorrent_door.torrent_file import (
    TorrentFile,
    TorrentForm,
    build_torrent,
    decode_dictionary,
    list_places,
    read_torrent,
)

__all__ = [
    "Drained",
    "EngineSession",
    "ForeignSession",
    "Notice",
    "NoticeKind",
    "PeerSnapshot",
    "PieceRead",
    "SessionCounters",
    "SessionOptions",
    "TorrentFile",
    "TorrentForm",
    "build_torrent",
    "decode_dictionary",
    "fetch_torrent",
    "is_magnet",
    "list_places",
    "read_torrent",
]
