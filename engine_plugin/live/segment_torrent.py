"""A live segment's torrent: made from the file when it is cut, or from its entry at a viewer.

Both give the same info dictionary, so no metadata travels between peers. Hybrid (BEP 3, BEP 52),
because libtorrent takes a file's own URL as web seed only for a torrent of exactly one file, and
pads a v2-only one with a second.
"""

from collections.abc import Sequence

from engine_plugin.live.gossip import IndexEntry
from engine_plugin.torrents import TorrentFile, read_torrent
from ledger.evidence.segment import info_of, split_hashes


def torrent_of(entry: IndexEntry, web_seeds: Sequence[str] = ()) -> TorrentFile:
    """Return the torrent of an index entry.

    Args:
        entry: The entry with the hashes of its pieces.
        web_seeds: Full URLs of the file.

    Raises:
        MalformedRecordError: The hashes are not the entry's.
        ContentError: libtorrent refuses it.
    """
    _, root, layer = split_hashes(entry.hashes, entry.segment.piece_bytes)
    layers = b"32:%s%d:%s" % (root, len(layer), layer) if layer else b""
    parts = [b"d4:info", info_of(entry.segment, entry.hashes), b"12:piece layersd", layers, b"e"]
    if web_seeds:
        urls = b"".join(b"%d:%s" % (len(url), url.encode()) for url in web_seeds)
        parts.append(b"8:url-listl" + urls + b"e")
    return read_torrent(b"".join((*parts, b"e")))
