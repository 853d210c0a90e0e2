import hashlib
import os
from pathlib import Path

import pytest

from engine_plugin.errors import ContentError
from engine_plugin.torrents import choose_piece_bytes, make_torrent, read_torrent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "show"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.bin").write_bytes(b"b" * 100_001)
    (folder / "a.bin").write_bytes(b"a" * 20_001)
    (folder / "sub" / "c.bin").write_bytes(b"c")
    (folder / "empty").write_bytes(b"")
    return folder


def test_single_file_is_a_hybrid_torrent_without_padding(tmp_path: Path) -> None:
    path = tmp_path / "film.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    torrent = make_torrent(path, web_seeds=["http://cdn.example/film.bin"], is_private=True)
    assert torrent.name == "film.bin"
    assert torrent.content_bytes == 256_000
    assert torrent.files == (("film.bin", 256_000),)
    assert torrent.layout.pads == ()
    assert torrent.web_seeds == ("http://cdn.example/film.bin",)
    assert torrent.is_private
    assert (len(torrent.infohash_v1), len(torrent.infohash_v2)) == (20, 32)
    assert torrent.content_id == torrent.infohash_v2
    assert read_torrent(torrent.data) == torrent


def test_info_hashes_are_the_hashes_of_the_info_dictionary(folder: Path) -> None:
    torrent = make_torrent(folder)
    start = torrent.data.index(b"4:info") + len(b"4:info")
    end = torrent.data.index(b"12:piece layers")
    info = torrent.data[start:end]
    assert hashlib.sha1(info, usedforsecurity=False).digest() == torrent.infohash_v1
    assert hashlib.sha256(info).digest() == torrent.infohash_v2


def test_folder_counts_file_bytes_and_no_padding(folder: Path) -> None:
    torrent = make_torrent(folder, web_seeds=["http://127.0.0.1:80/"])
    assert torrent.content_bytes == 120_003
    assert dict(torrent.files) == {
        "show/a.bin": 20_001,
        "show/b.bin": 100_001,
        "show/empty": 0,
        "show/sub/c.bin": 1,
    }
    assert torrent.layout.total_bytes > torrent.content_bytes
    assert torrent.layout.content_bytes == torrent.content_bytes


def test_same_names_and_bytes_give_the_same_torrent(folder: Path, tmp_path: Path) -> None:
    first = make_torrent(folder).data
    other = tmp_path / "elsewhere" / "show"
    (other / "sub").mkdir(parents=True)
    for name in ("sub/c.bin", "empty", "a.bin", "b.bin"):
        (other / name).write_bytes((folder / name).read_bytes())
        os.utime(other / name, (1, 1))
    assert make_torrent(other).data == first


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 65536), (64 << 20, 65536), ((64 << 20) + 1, 131072), (1 << 40, 16 << 20)],
)
def test_piece_size_grows_with_the_content(size: int, expected: int) -> None:
    assert choose_piece_bytes(size) == expected


def test_empty_file_folder_and_missing_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").mkdir()
    for name in ("empty.bin", "folder"):
        with pytest.raises(ContentError, match=f"{name}: got no bytes to share"):
            make_torrent(tmp_path / name)
    with pytest.raises(ContentError, match=r"missing\.bin: No such file"):
        make_torrent(tmp_path / "missing.bin")


def test_special_file_and_linked_folder_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(ContentError, match="special file"):
        make_torrent(folder)
    (folder / "pipe").unlink()
    (folder / "loop").symlink_to(folder)
    with pytest.raises(ContentError, match="link to a folder"):
        make_torrent(folder)


def test_dangling_link_is_refused(folder: Path) -> None:
    (folder / "gone").symlink_to(folder / "nowhere")
    with pytest.raises(ContentError, match="gone: No such file"):
        make_torrent(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(folder: Path) -> None:
    (folder / "a.bin").chmod(0)
    with pytest.raises(ContentError, match=r"a\.bin: Permission denied"):
        make_torrent(folder)


def test_name_that_clients_change_or_cannot_print_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "show"
    folder.mkdir()
    raw = os.fsencode(folder) + b"/\xff\xfe"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    with pytest.raises(ContentError, match="UTF-8"):
        make_torrent(folder)
    Path(os.fsdecode(raw)).unlink()
    (folder / "a\x01b").write_bytes(b"x")
    with pytest.raises(ContentError, match="name that BitTorrent clients change"):
        make_torrent(folder)


@pytest.mark.parametrize("url", ["ftp://host/", "http:///", "host/path", "http://host/folder"])
def test_web_seed_that_is_no_url_of_a_folder_is_refused(folder: Path, url: str) -> None:
    with pytest.raises(ContentError, match="web seed"):
        make_torrent(folder, web_seeds=[url])


@pytest.mark.parametrize("piece_bytes", [0, 8192, 100_000])
def test_piece_size_that_is_no_power_of_two_is_refused(folder: Path, piece_bytes: int) -> None:
    with pytest.raises(ContentError, match="piece_bytes"):
        make_torrent(folder, piece_bytes=piece_bytes)


@pytest.mark.parametrize("data", [b"", b"de", b"not a torrent", b"d4:infod4:name1:aee"])
def test_bytes_that_are_no_torrent_are_refused(data: bytes) -> None:
    with pytest.raises(ContentError, match="torrent"):
        read_torrent(data)
