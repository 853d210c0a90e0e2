"""Exact to the byte on real swarms: every transport and kind, and whatever goes wrong.

Truth is what scripted peers wrote down, or what both ends say; libtorrent's own totals are compared
in every test.
"""

import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest
from metered_swarm import (
    HANDSHAKE_BYTES,
    PIECE_BYTES,
    Node,
    ScriptedPeer,
    files_of,
    finish_download,
    make_torrent,
    noise,
    require_exact,
    run_until,
    write_show,
)

from engine_plugin.libtorrent_door import NoticeKind
from engine_plugin.meter import BLOCK_BYTES

pytestmark = pytest.mark.swarm

SIZES = (1_300_017, 20_001, 1_123_457, 1, 65_536)
Open = Callable[..., Node]


@pytest.fixture
def nodes() -> Iterator[Open]:
    opened: list[Node] = []

    def open_node(*args: Any, **options: Any) -> Node:
        opened.append(Node(*args, **options))
        return opened[-1]

    yield open_node
    for node in opened:
        node.close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedPeer]]:
    started: list[ScriptedPeer] = []

    def start(*args: Any, **options: Any) -> ScriptedPeer:
        started.append(ScriptedPeer(*args, **options))
        return started[-1]

    yield start
    for peer in started:
        peer.close()


def wait_checked(*nodes: Node) -> None:
    run_until(lambda: all(NoticeKind.CHECKED in node.notices for node in nodes), *nodes)


def at_rest(leecher: Node, *others: Node) -> None:
    for _ in range(5):
        for node in (leecher, *others):
            node.step()


FORCED = {
    "out_enc_policy": int(lt.enc_policy.pe_forced),
    "in_enc_policy": int(lt.enc_policy.pe_forced),
    "allowed_enc_level": int(lt.enc_level.pe_rc4),
}


# Scripted peers speak the plain protocol over TCP only.
PLAIN = {"out_enc_policy": int(lt.enc_policy.pe_disabled)}


@pytest.mark.parametrize(
    ("kind", "addresses", "utp", "settings"),
    [
        ("v1", ("127.0.1.1", "127.0.1.2", "127.0.1.3"), False, {}),
        ("v2", ("127.0.1.4", "127.0.1.5", "127.0.1.6"), False, {}),
        ("hybrid", ("127.0.1.7", "127.0.1.8", "127.0.1.9"), True, {}),
        ("v2", ("::1",) * 3, True, {"allow_multiple_connections_per_ip": True}),
        ("v1", ("::1",) * 3, False, {"allow_multiple_connections_per_ip": True}),
        ("hybrid", ("127.0.1.10", "127.0.1.11", "127.0.1.12"), False, FORCED),
        ("v2", ("127.0.1.13", "127.0.1.14", "127.0.1.15"), True, FORCED),
    ],
    ids=["v1", "v2", "hybrid-utp", "v2-utp-ipv6", "v1-ipv6", "hybrid-mse", "v2-utp-mse"],
)
def test_many_files_from_two_seeders_are_credited_to_the_byte(
    tmp_path: Path,
    nodes: Open,
    kind: str,
    addresses: tuple[str, str, str],
    utp: bool,
    settings: dict[str, Any],
) -> None:
    show = write_show(tmp_path / "source", SIZES)
    torrent = make_torrent(show, kind)
    seeders = [
        nodes(tmp_path / f"s{n}", addresses[n], dials_utp=utp, upload_limit=2_000_000)
        for n in range(2)
    ]
    leecher = nodes(tmp_path / "leecher", addresses[2], dials_utp=utp)
    for node in (*seeders, leecher):
        node.apply(**settings, enable_outgoing_tcp=not utp)
    for node in seeders:
        node.add(torrent, folder=show.parent, is_complete=True)
    leecher.add(torrent)
    wait_checked(leecher)
    for node in seeders:
        leecher.dial(node.endpoint)
    run_until(lambda: len(leecher.pump.peers) == 2, leecher, *seeders)
    finish_download(leecher, *seeders)
    at_rest(leecher, *seeders)
    credited = [leecher.firm_of(node.peer_id) for node in seeders]
    sent = [node.sent_to(leecher.peer_id) for node in seeders]
    counters = leecher.session.read_counters()[0]
    assert counters is not None
    for got, handed_out in zip(credited, sent, strict=True):
        assert 0 < got <= handed_out
    # What was handed out and not credited came twice, or was on its way.
    assert sum(sent) - sum(credited) <= counters.redundant_bytes + 64 * BLOCK_BYTES
    require_exact(leecher, torrent)
    assert files_of(leecher.state / "show") == files_of(show)


@pytest.mark.parametrize("kind", ["v1", "v2", "hybrid"])
def test_file_damaged_on_a_seeders_disk_costs_it_and_nobody_else(
    tmp_path: Path, nodes: Open, kind: str
) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "film.bin").write_bytes(noise(3, 3_000_011))
    torrent = make_torrent(tmp_path / "good" / "film.bin", kind)
    good = nodes(tmp_path / "s0", "127.0.2.1", upload_limit=1_000_000)
    bad = nodes(tmp_path / "s1", "127.0.2.2", upload_limit=1_000_000)
    good.add(torrent, folder=tmp_path / "good", is_complete=True)
    bad.add(torrent, folder=tmp_path / "bad")
    wait_checked(bad)
    # Damaged after its own check, so that it is sent.
    with (tmp_path / "bad" / "film.bin").open("r+b") as film:
        for piece in range(0, 40, 3):
            film.seek(piece * PIECE_BYTES + BLOCK_BYTES + 5)
            film.write(b"damaged")
    leecher = nodes(tmp_path / "leecher", "127.0.2.3")
    leecher.add(torrent)
    wait_checked(leecher)
    leecher.dial(bad.endpoint)
    run_until(lambda: NoticeKind.HASH_FAILED in leecher.notices, leecher, good, bad)
    leecher.dial(good.endpoint)
    finish_download(leecher, good, bad)
    at_rest(leecher, good, bad)
    assert sum(leecher.meter.failed.values()) > 0
    require_exact(leecher, torrent)
    assert files_of(leecher.state)["film.bin"] == (tmp_path / "good/film.bin").read_bytes()


def test_peer_that_sends_garbage_is_charged_and_never_credited_for_it(
    tmp_path: Path, nodes: Open, scripted: Callable[..., ScriptedPeer]
) -> None:
    (tmp_path / "film.bin").write_bytes(content := noise(4, 1_500_000))
    torrent = make_torrent(tmp_path / "film.bin", "v1")
    bad_pieces = frozenset(range(torrent.layout.piece_count))
    liar = scripted(
        "127.0.2.11", torrent, content, peer_ids=[b"L" * 20], shares=[10**6], bad_pieces=bad_pieces
    )
    honest = scripted("127.0.2.12", torrent, content, peer_ids=[b"H" * 20], shares=[10**6])
    leecher = nodes(tmp_path / "leecher", "127.0.2.13", download_limit=1_000_000, dials_utp=False)
    leecher.apply(**PLAIN)
    leecher.add(torrent)
    wait_checked(leecher)
    leecher.dial(liar.endpoint)
    run_until(lambda: NoticeKind.HASH_FAILED in leecher.notices, leecher)
    leecher.dial(honest.endpoint)
    finish_download(leecher)
    assert leecher.firm_of(b"L" * 20) == 0
    assert leecher.firm_of(b"H" * 20) == torrent.content_bytes
    assert sum(leecher.meter.failed.values()) >= PIECE_BYTES
    require_exact(leecher, torrent)


def test_connections_at_one_endpoint_are_told_apart_by_their_peer_ids(
    tmp_path: Path, nodes: Open, scripted: Callable[..., ScriptedPeer]
) -> None:
    (tmp_path / "film.bin").write_bytes(content := noise(5, 3_000_000))
    torrent = make_torrent(tmp_path / "film.bin", "v1")
    peer_ids = [bytes([65 + n]) * 20 for n in range(4)]
    # Each leaves in the middle of pieces, at once and between two looks at the table of peers.
    peer = scripted("127.0.2.21", torrent, content, peer_ids=peer_ids, shares=[13, 41, 7, 10**6])
    leecher = nodes(tmp_path / "leecher", "127.0.2.22", dials_utp=False)
    leecher.apply(**PLAIN)
    leecher.apply(min_reconnect_time=1)
    leecher.add(torrent)
    wait_checked(leecher)
    next_s = 0.0
    while NoticeKind.FINISHED not in leecher.notices:
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + 0.3
            leecher.dial(peer.endpoint)
        leecher.step()
    assert [leecher.firm_of(peer_id) for peer_id in peer_ids] == [
        peer.sent_bytes(number) for number in range(4)
    ]
    require_exact(leecher, torrent)


def test_copied_peer_id_takes_nothing_of_the_real_ones_bytes(
    tmp_path: Path, nodes: Open, scripted: Callable[..., ScriptedPeer]
) -> None:
    (tmp_path / "film.bin").write_bytes(content := noise(6, 3_000_000))
    torrent = make_torrent(tmp_path / "film.bin", "v1")
    peers = [
        scripted(f"127.0.2.3{n}", torrent, content, peer_ids=[b"C" * 20], shares=[10**6])
        for n in range(2)
    ]
    leecher = nodes(tmp_path / "leecher", "127.0.2.33", download_limit=2_000_000, dials_utp=False)
    leecher.apply(**PLAIN)
    leecher.add(torrent)
    wait_checked(leecher)
    for peer in peers:
        leecher.dial(peer.endpoint)
    finish_download(leecher)
    by_endpoint = {
        leecher.session.peer_key(number)[1]: count for number, count in leecher.meter.firm.items()
    }
    credited = [by_endpoint.get("{}:{}".format(*peer.endpoint), 0) for peer in peers]
    sent = [peer.sent_bytes(0) for peer in peers]
    assert all(0 < got <= out for got, out in zip(credited, sent, strict=True))
    require_exact(leecher, torrent)


def test_pauses_reconnects_and_a_seeder_that_vanishes_lose_and_repeat_nothing(
    tmp_path: Path, nodes: Open
) -> None:
    (tmp_path / "film.bin").write_bytes(noise(7, 4_000_003))
    torrent = make_torrent(tmp_path / "film.bin", "hybrid")
    seeders = [nodes(tmp_path / f"s{n}", f"127.0.2.4{n}") for n in range(2)]
    for node in seeders:
        node.add(torrent, folder=tmp_path, is_complete=True)
    leecher = nodes(tmp_path / "leecher", "127.0.2.43", download_limit=1_500_000)
    leecher.apply(min_reconnect_time=1)
    leecher.add(torrent)
    wait_checked(leecher)
    leecher.dial(seeders[0].endpoint)
    meter = leecher.meter
    for share in (1, 2):
        enough = share * 500_000
        run_until(lambda enough=enough: meter.passed_bytes > enough, leecher, *seeders)
        leecher.session._session.pause()
        run_until(lambda: NoticeKind.DISCONNECTED in leecher.notices, leecher, *seeders)
        leecher.notices.clear()
        leecher.session._session.resume()
        leecher.dial(seeders[0].endpoint)
    run_until(lambda: meter.passed_bytes > 1_500_000, leecher, *seeders)
    seeders[0].vanish()
    leecher.dial(seeders[1].endpoint)
    finish_download(leecher, seeders[1])
    at_rest(leecher, seeders[1])
    assert leecher.firm_of(seeders[0].peer_id) > 1_000_000
    assert leecher.firm_of(seeders[1].peer_id) > 0
    require_exact(leecher, torrent)


def test_two_torrents_with_the_same_peer_are_kept_apart(tmp_path: Path, nodes: Open) -> None:
    for name, size in (("one.bin", 2_000_003), ("two.bin", 1_000_001)):
        (tmp_path / name).write_bytes(noise(size, size))
    torrents = [make_torrent(tmp_path / name, "v2") for name in ("one.bin", "two.bin")]
    seeder = nodes(tmp_path / "s", "127.0.2.51", upload_limit=1_500_000)
    leecher = nodes(tmp_path / "leecher", "127.0.2.52")
    for torrent in torrents:
        seeder.add(torrent, folder=tmp_path, is_complete=True)
    first = leecher.add(torrents[0])
    wait_checked(leecher)
    leecher.dial(seeder.endpoint)
    run_until(lambda: leecher.meter.passed_bytes > 200_000, leecher, seeder)
    # The second one comes while blocks of the first are in the queue.
    second = leecher.add(torrents[1])
    leecher.dial(seeder.endpoint)
    run_until(lambda: leecher.notices.count(NoticeKind.FINISHED) == 2, leecher, seeder)
    at_rest(leecher, seeder)
    audit = leecher.pump.audit()
    assert audit is not None
    assert audit.difference_bytes == 0
    for number, torrent in zip((first, second), torrents, strict=True):
        meter = leecher.pump.meter(number)
        assert sum(meter.firm.values()) == torrent.content_bytes
        assert meter.ambiguous_bytes == 0


def test_write_reports_are_complete_and_come_before_the_pieces_verdict(
    tmp_path: Path, nodes: Open
) -> None:
    # What the meter builds on: see the disk backend in the session.
    (tmp_path / "film.bin").write_bytes(noise(8, 6_000_000))
    for number, kind in enumerate(("v1", "v2", "hybrid")):
        torrent = make_torrent(tmp_path / "film.bin", kind)
        seeder = nodes(tmp_path / f"s{kind}", f"127.0.2.6{number}")
        seeder.add(torrent, folder=tmp_path, is_complete=True)
        leecher = nodes(tmp_path / f"leecher-{kind}", f"127.0.2.7{number}")
        leecher.add(torrent)
        wait_checked(leecher)
        leecher.dial(seeder.endpoint)
        finish_download(leecher, seeder)
        meter = leecher.meter
        assert sum(meter.firm.values()) == torrent.content_bytes
        assert meter.pending_bytes == meter.ambiguous_bytes == 0


def test_more_viewers_than_libtorrents_default_are_answered(tmp_path: Path, nodes: Open) -> None:
    (tmp_path / "film.bin").write_bytes(noise(9, 100_000))
    torrent = make_torrent(tmp_path / "film.bin", "v1")
    seeder = nodes(tmp_path / "s", "127.0.2.81")
    seeder.add(torrent, folder=tmp_path, is_complete=True)
    run_until(lambda: seeder.session.listen_port > 0, seeder)
    greeting = b"\x13BitTorrent protocol" + bytes(8) + torrent.infohash_v1
    viewers = []
    for number in range(260):
        viewer = socket.create_connection(
            seeder.endpoint, 30, source_address=(f"127.0.3.{number % 250 + 1}", 0)
        )
        viewers.append(viewer)
        # One address has one connection, so the last ones come from another net.
        if number >= 250:
            viewer.close()
            viewer = socket.create_connection(
                seeder.endpoint, 30, source_address=(f"127.0.4.{number - 249}", 0)
            )
            viewers[-1] = viewer
        viewer.sendall(greeting + random.Random(number).randbytes(20))
        seeder.step()
    for viewer in viewers:
        viewer.settimeout(30)
        with viewer:
            assert len(viewer.recv(HANDSHAKE_BYTES, socket.MSG_WAITALL)) == HANDSHAKE_BYTES
