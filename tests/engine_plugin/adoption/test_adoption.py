"""What other clients completed is found in their own records, served in place, and left alone."""

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest
from engine_commands import engine
from other_clients import QBittorrent, Transmission

from engine_plugin.adoption import qbittorrent, transmission
from engine_plugin.adoption.found_content import FoundContent
from engine_plugin.errors import ContentError
from engine_plugin.torrents import make_torrent

VECTORS = Path(__file__).parents[2] / "vectors" / "adoption"


def write_films(folder: Path) -> None:
    """The content that the recorded folders were made of."""
    rng = random.Random(7)
    (folder / "series").mkdir(parents=True)
    (folder / "film.bin").write_bytes(rng.randbytes(40_000))
    (folder / "series" / "e1.bin").write_bytes(rng.randbytes(30_000))
    (folder / "series" / "e2.bin").write_bytes(rng.randbytes(20_001))
    rng.randbytes(50_000)
    (folder / "partial.bin").write_bytes(rng.randbytes(50_000))


def make_v1_torrent(path: Path) -> bytes:
    files = [path] if path.is_file() else sorted(path.iterdir())
    entries = [
        lt.create_file_entry(str(f.relative_to(path.parent)), f.stat().st_size) for f in files
    ]
    creator = lt.create_torrent(entries, 16384, lt.create_torrent.v1_only)
    lt.set_piece_hashes(creator, str(path.parent))
    return bytes(lt.bencode(creator.generate()))


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Times and digests of everything below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def media(tmp_path: Path) -> Path:
    write_films(tmp_path / "media" / "films")
    return tmp_path / "media"


def by_name(found: Iterator[FoundContent]) -> dict[str, FoundContent]:
    return {content.name: content for content in found}


def test_recorded_qbittorrent_folder_is_read_with_renames_and_gaps(media: Path) -> None:
    series = media / "films" / "series"
    (series / "e2.bin").rename(series / "second.bin")
    moved = {"/srv/media": str(media)}
    found = by_name(qbittorrent.find_contents(VECTORS / "qbittorrent", moved=moved))
    assert {name: content.obstacle for name, content in found.items()} == {
        "film.bin": "",
        "series": "",
        "partial.bin": "the client has not completed it",
    }
    assert found["series"].save_path == series
    assert found["series"].renamed_files == {0: "e1.bin", 2: "second.bin"}
    # qBittorrent keeps a v2 torrent's piece layers apart from the torrent.
    assert found["series"].needs_check
    assert not found["film.bin"].needs_check


def test_recorded_transmission_folder_is_read_with_renames_and_gaps(media: Path) -> None:
    films = media / "films"
    (films / "series").rename(films / "season-one")
    (films / "season-one" / "e2.bin").rename(films / "season-one" / "second.bin")
    moved = {"/srv/media/": str(media)}
    found = by_name(transmission.find_contents(VECTORS / "transmission", moved=moved))
    assert {name: content.obstacle for name, content in found.items()} == {
        "film.bin": "",
        "series": "",
        "partial.bin": "the client has not completed it",
    }
    assert found["series"].renamed_files == {0: "season-one/e1.bin", 1: "season-one/second.bin"}


@pytest.mark.parametrize("client", ["qbittorrent", "transmission"])
def test_files_that_changed_size_or_went_away_are_told(media: Path, client: str) -> None:
    find: Callable[..., Iterator[FoundContent]] = {
        "qbittorrent": qbittorrent.find_contents,
        "transmission": transmission.find_contents,
    }[client]
    film = media / "films" / "film.bin"
    film.write_bytes(film.read_bytes()[:-1])
    found = by_name(find(VECTORS / client, moved={"/srv/media": str(media)}))
    assert found["film.bin"].obstacle == f"{film}: got 39999 bytes, want 40000"
    film.unlink()
    found = by_name(find(VECTORS / client, moved={"/srv/media": str(media)}))
    assert found["film.bin"].obstacle == f"{film}: No such file or directory"
    # Where the client says the files lie, there is nothing at all.
    found = by_name(find(VECTORS / client, moved={"/srv/med": str(media)}))
    assert found["film.bin"].obstacle.startswith("/srv/media/films/film.bin: No such file")


def write_records(folder: Path, torrent: bytes, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    resume = {
        b"save_path": b"/films",
        b"pieces": b"\x01",
        **{k.encode(): v for k, v in fields.items()},
    }
    (folder / "a.torrent").write_bytes(torrent)
    (folder / "a.fastresume").write_bytes(lt.bencode(resume))
    return folder


@pytest.mark.parametrize(
    ("fields", "obstacle"),
    [
        ({"save_path": b""}, "its folder is not recorded"),
        ({"save_path": b"films"}, "its folder is recorded as 'films'"),
        ({"save_path": 7}, "its folder is not recorded"),
        ({"pieces": b"\x00"}, "the client has not completed it"),
        ({"pieces": b""}, "the client has not completed it"),
        ({"pieces": [1]}, "the client has not completed it"),
        ({"mapped_files": [b"../../etc/passwd"]}, "lies outside of its folder"),
        ({"mapped_files": [b"/etc/passwd"]}, "lies outside of its folder"),
    ],
)
def test_records_that_say_something_odd_are_not_followed(
    media: Path, tmp_path: Path, fields: dict[str, Any], obstacle: str
) -> None:
    torrent = make_v1_torrent(media / "films" / "film.bin")
    records = write_records(tmp_path / "BT_backup", torrent, **fields)
    (found,) = qbittorrent.find_contents(records, moved={"/films": str(media / "films")})
    assert obstacle in found.obstacle


def test_records_that_cannot_be_read_do_not_hide_the_others(media: Path, tmp_path: Path) -> None:
    torrent = make_v1_torrent(media / "films" / "film.bin")
    records = write_records(tmp_path / "BT_backup", torrent)
    (records / "b.fastresume").write_bytes(b"not bencoded")
    (records / "c.fastresume").write_bytes(b"de")
    (records / "d.fastresume").write_bytes(b"de")
    (records / "d.torrent").write_bytes(b"d4:infode")
    moved = {"/films": str(media / "films")}
    found = list(qbittorrent.find_contents(records, moved=moved))
    assert [bool(content.obstacle) for content in found] == [False, True, True, True]
    with pytest.raises(ContentError, match=r"no \.fastresume"):
        list(qbittorrent.find_contents(media, moved={}))
    with pytest.raises(ContentError, match="no torrents and resume folder"):
        list(transmission.find_contents(media, moved={}))


def test_dry_run_lists_and_starts_nothing(media: Path, tmp_path: Path) -> None:
    called = engine(
        "adopt", "--qbittorrent", VECTORS / "qbittorrent", "--transmission",
        VECTORS / "transmission", "--moved", f"/srv/media={media}", "--dry-run", "--json",
    )  # fmt: skip
    listed = [(line["client"], line["name"], line["adopts"]) for line in called.lines]
    assert listed == [
        ("qBittorrent", "series", False),
        ("qBittorrent", "partial.bin", False),
        ("qBittorrent", "film.bin", True),
        ("Transmission", "partial.bin", False),
        ("Transmission", "series", False),
        ("Transmission", "film.bin", True),
    ]
    text = engine(
        "adopt", "--qbittorrent", VECTORS / "qbittorrent", "--moved", f"/srv/media={media}",
        "--dry-run",
    )  # fmt: skip
    assert text.code == 0
    assert "film.bin  yes" in text.out
    assert "partial.bin  no: the client has not completed it" in text.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--qbittorrent", "."], 1, "no .fastresume"),
        (["--transmission", "."], 1, "no torrents and resume folder"),
        (["--qbittorrent", "Q", "--moved", "media"], 2, "--moved: got 'media'"),
        (["--qbittorrent", "Q"], 2, "--listen and --state"),
        (["--qbittorrent", "Q", "--listen", "127.0.0.1:0", "--state", "s"], 1, "nothing complete"),
    ],
)
def test_wrong_input_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(VECTORS / "qbittorrent")
    called = engine("adopt", *(folder if text == "Q" else text for text in arguments))
    assert called.code == code
    assert message in called.err


@pytest.mark.swarm
@pytest.mark.process
def test_damaged_content_is_neither_mended_nor_written(
    media: Path, tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    """Seeding somebody else's folder must not fetch into it, even where a good peer is at hand."""
    film = media / "films" / "film.bin"
    torrent = make_v1_torrent(film)
    (tmp_path / "film.torrent").write_bytes(torrent)
    good = tmp_path / "good"
    good.mkdir()
    shutil.copy(film, good)
    damaged = bytearray(film.read_bytes())
    damaged[20_000] ^= 1
    film.write_bytes(damaged)
    records = write_records(tmp_path / "BT_backup", torrent)
    before = snapshot(media), snapshot(records)
    listen = ("--listen", "127.0.0.1:0")
    healthy = start_engine(
        "seed", tmp_path / "film.torrent", "--save", good, "--state", tmp_path / "g", *listen
    )
    healthy_at = healthy.wait_for("ready")["listen"]
    for name, options in (("lazy", ()), ("verified", ("--verify",))):
        adopting = start_engine(
            "adopt", "--qbittorrent", records, "--moved", f"/films={media / 'films'}", *options,
            "--state", tmp_path / name, "--peer", healthy_at, *listen, log=name,
        )  # fmt: skip
        at = adopting.wait_for("ready")["listen"]
        viewer = start_engine(
            "view", tmp_path / "film.torrent", "--save", tmp_path / f"{name}-saved", "--state",
            tmp_path / f"{name}-viewer", "--peer", at, "--peer", healthy_at, "--no-entitlement",
            *listen, log=f"{name}-viewer",
        )  # fmt: skip
        viewer.wait_for("complete")
        viewer.stop()
        adopting.stop()
        assert (tmp_path / f"{name}-saved" / "film.bin").read_bytes() == (
            good / "film.bin"
        ).read_bytes()
        assert (snapshot(media), snapshot(records)) == before


@pytest.mark.swarm
@pytest.mark.process
@pytest.mark.skipif(
    shutil.which("qbittorrent-nox") is None, reason="qbittorrent-nox is not installed"
)
def test_what_qbittorrent_completed_is_served_in_place(
    media: Path, tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    films = media / "films"
    hybrid = make_torrent(films / "series", piece_bytes=32768)
    (tmp_path / "series.torrent").write_bytes(hybrid.data)
    client = QBittorrent(tmp_path / "profile", films)
    try:
        client.add(make_v1_torrent(films / "film.bin"), films)
        client.add(hybrid.data, films / "series", contentLayout="NoSubfolder")
        torrents = client.wait_until_checked(2)
        (series,) = [one["hash"] for one in torrents if one["name"] == "series"]
        renamed = {"hash": series, "oldPath": "e2.bin", "newPath": "second.bin"}
        client.call("torrents/renameFile", renamed)
    finally:
        client.stop()
    assert (films / "series" / "second.bin").exists()
    before = snapshot(media), snapshot(tmp_path / "profile")
    check_served_in_place(
        start_engine, tmp_path, ("--qbittorrent", client.records), {"film.bin", "series"}
    )
    assert (snapshot(media), snapshot(tmp_path / "profile")) == before


@pytest.mark.swarm
@pytest.mark.process
@pytest.mark.skipif(
    shutil.which("transmission-daemon") is None, reason="transmission-daemon is not installed"
)
def test_what_transmission_completed_is_served_in_place(
    media: Path, tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    films = media / "films"
    torrent = make_v1_torrent(films / "series")
    (tmp_path / "series.torrent").write_bytes(torrent)
    client = Transmission(tmp_path / "profile", films)
    try:
        client.add(make_v1_torrent(films / "film.bin"), films)
        number = client.add(torrent, films)
        client.call("torrent-rename-path", ids=[number], path="series", name="season-one")
        client.call(
            "torrent-rename-path", ids=[number], path="season-one/e2.bin", name="second.bin"
        )
    finally:
        client.stop()
    assert (films / "season-one" / "second.bin").exists()
    before = snapshot(media), snapshot(tmp_path / "profile")
    check_served_in_place(
        start_engine, tmp_path, ("--transmission", tmp_path / "profile"), {"film.bin", "series"}
    )
    assert (snapshot(media), snapshot(tmp_path / "profile")) == before


def check_served_in_place(
    start_engine: Callable[..., Any],
    tmp_path: Path,
    folder: tuple[str, Path],
    names: set[str],
) -> None:
    """Adopt a client's folder and let a viewer fetch `series` from it."""
    listing = engine("adopt", *folder, "--dry-run", "--json")
    assert {line["name"]: line["obstacle"] for line in listing.lines} == dict.fromkeys(names, "")
    listen = ("--listen", "127.0.0.1:0")
    adopting = start_engine("adopt", *folder, "--state", tmp_path / "s", *listen, log="adopting")
    ready = adopting.wait_for("ready")
    assert {content["name"] for content in ready["contents"]} == names
    viewer = start_engine(
        "view", tmp_path / "series.torrent", "--save", tmp_path / "saved", "--state",
        tmp_path / "v", "--peer", ready["listen"], "--no-entitlement", *listen, log="viewer",
    )  # fmt: skip
    viewer.wait_for("complete")
    end = viewer.stop()
    assert end["bytes"]["p2p_unattested"] == 50_001
    assert adopting.stop()["bytes"]["present"] >= 0
    rng = random.Random(7)
    rng.randbytes(40_000)
    assert (tmp_path / "saved" / "series" / "e1.bin").read_bytes() == rng.randbytes(30_000)
    assert (tmp_path / "saved" / "series" / "e2.bin").read_bytes() == rng.randbytes(20_001)
