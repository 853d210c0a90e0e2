"""The torrent made from an entry is the one that libtorrent would make from the file."""

from pathlib import Path

import builders
import libtorrent as lt
import pytest

from engine_plugin.live.gossip import IndexEntry
from engine_plugin.live.segment_torrent import torrent_of
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.segment import format_info, hash_pieces

URL = "https://cdn.example.net/a/0.ts?token=1"


def their_torrent(folder: Path, name: str, data: bytes, piece_bytes: int) -> dict[bytes, object]:
    (folder / name).write_bytes(data)
    creator = lt.create_torrent([lt.create_file_entry(name, len(data))], piece_bytes)
    lt.set_piece_hashes(creator, str(folder))
    made: dict[bytes, object] = creator.generate()
    return made


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 40_000, 65_536, 700_001])
def test_torrent_is_libtorrents(tmp_path: Path, size: int) -> None:
    data = bytes((at * 7) & 0xFF for at in range(size))
    signed = builders.segment(data=data)
    made = torrent_of(IndexEntry(signed, hash_pieces(data, 16_384)), [URL])
    theirs = their_torrent(tmp_path, signed.value.file_name, data, 16_384)
    hashes = lt.load_torrent_buffer(lt.bencode(theirs)).info_hashes
    assert made.infohash_v2 == signed.value.info_hash == hashes.v2.to_bytes()
    assert made.infohash_v1 == hashes.v1.to_bytes()
    assert lt.bdecode(made.data).get(b"piece layers") == theirs[b"piece layers"]
    assert made.web_seeds == (URL,)
    assert made.content_bytes == size


@pytest.mark.parametrize("piece_bytes", [32_768, 65_536])
@pytest.mark.parametrize("size", [20_000, 60_000, 256_000])
def test_info_of_larger_pieces_is_libtorrents(tmp_path: Path, piece_bytes: int, size: int) -> None:
    data = bytes(range(256)) * (size // 256)
    theirs = their_torrent(tmp_path, "a.ts", data, piece_bytes)
    info = format_info("a.ts", len(data), piece_bytes, hash_pieces(data, piece_bytes))
    assert info == lt.bencode(theirs[b"info"])


def test_hashes_of_other_data_are_refused() -> None:
    entry = IndexEntry(builders.segment(), hash_pieces(b"x" * 40_000, 16_384))
    with pytest.raises(MalformedRecordError, match="hashes"):
        torrent_of(entry)
