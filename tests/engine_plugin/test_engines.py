"""Whole engines: real processes, a real swarm, side channel and signatures."""

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packet_capture import capture, read_flows, require_tools

from engine_plugin.journal_reading import read_peers, read_totals
from engine_plugin.spool import read_spool
from ledger.evidence.bundle import BundleKind
from ledger.evidence.keys import generate_seed, public_key_of
from ledger.evidence.terms import CdnTerms

pytestmark = [pytest.mark.swarm, pytest.mark.process]

MIB = 1 << 20


def make_content(folder: Path, size: int) -> Path:
    folder.mkdir()
    content = folder / "film.bin"
    content.write_bytes(random.Random(7).randbytes(size))
    return content


def start_seeder(start: Any, operator: Any, tmp_path: Path, *extra: object) -> Any:
    (tmp_path / "terms").write_bytes(operator.terms.raw)
    return start(
        "seed",
        tmp_path / "seed" / "film.bin",
        "--torrent-out",
        tmp_path / "film.torrent",
        "--listen",
        "127.0.0.2:0",
        "--state",
        tmp_path / "seeder-state",
        "--terms",
        tmp_path / "terms",
        *extra,
        log="seeder",
    )


def start_viewer(
    start: Any, operator: Any, tmp_path: Path, number: int, *extra: object, listen: str = ""
) -> Any:
    return start(
        "view",
        tmp_path / "film.torrent",
        "--save",
        tmp_path / f"saved-{number}",
        "--listen",
        listen or f"127.0.0.{number}:0",
        "--state",
        tmp_path / f"viewer-state-{number}",
        "--terms",
        tmp_path / "terms",
        "--entitlement-url",
        operator.url,
        *extra,
        log=f"viewer-{number}",
    )


def test_receipts_equal_the_receivers_meters_to_the_byte(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    operator = make_operator()
    content = make_content(tmp_path / "seed", 8 * MIB + 4321)
    size = content.stat().st_size
    seeder = start_seeder(start_engine, operator, tmp_path, "--upload-limit", 4 * MIB)
    seeds_at = seeder.wait_for("ready")["listen"]
    first = start_viewer(start_engine, operator, tmp_path, 3, "--peer", seeds_at)
    first_at = first.wait_for("ready")["listen"]
    second = start_viewer(
        start_engine, operator, tmp_path, 4, "--peer", seeds_at, "--peer", first_at
    )
    for viewer, number in ((first, 3), (second, 4)):
        viewer.wait_for("complete")
        saved = tmp_path / f"saved-{number}" / "film.bin"
        assert saved.read_bytes() == content.read_bytes()
    ends = [second.stop(), first.stop(), seeder.stop()]
    assert ends[0]["bytes"]["p2p_attested"] == size
    assert ends[1]["bytes"]["p2p_attested"] == size
    assert [end["unsigned_bytes"] for end in ends] == [0, 0, 0]
    assert [end["audit_difference_bytes"] for end in ends[:2]] == [0, 0]
    finals = operator.final_receipts(BundleKind.PAYEE)
    by_payee: dict[bytes, int] = {}
    for receipt in finals.values():
        by_payee[receipt.payee_key] = by_payee.get(receipt.payee_key, 0) + receipt.bytes_total
    metered: dict[bytes, int] = {}
    for number in (3, 4):
        for peer in read_peers(tmp_path / f"viewer-state-{number}" / "meter.sqlite"):
            if peer.firm_bytes:
                assert peer.public_key is not None
                metered[peer.public_key] = metered.get(peer.public_key, 0) + peer.firm_bytes
    assert by_payee == metered
    assert sum(by_payee.values()) == 2 * size
    for number in (3, 4):
        totals = read_totals(tmp_path / f"viewer-state-{number}" / "meter.sqlite")
        assert totals.claimed_bytes == totals.delivered_p2p_bytes == size


def bytes_by_epoch(operator: Any, kind: BundleKind) -> dict[int, int]:
    totals: dict[int, int] = {}
    for receipt in operator.final_receipts(kind).values():
        totals[receipt.epoch] = totals.get(receipt.epoch, 0) + receipt.bytes_total
    return totals


def test_epoch_turn_ends_lanes_and_opens_new_ones(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    operator = make_operator(epoch_length_s=3)
    size = make_content(tmp_path / "seed", 7 * MIB).stat().st_size
    seeder = start_seeder(start_engine, operator, tmp_path, "--upload-limit", MIB)
    seeds_at = seeder.wait_for("ready")["listen"]
    viewer = start_viewer(start_engine, operator, tmp_path, 3, "--peer", seeds_at)
    # Bundles of ended epochs come while the transfer goes on.
    seeder.wait_for("bundle", kind="payee")
    viewer.wait_for("complete")
    viewer.stop()
    seeder.stop()
    by_epoch = bytes_by_epoch(operator, BundleKind.PAYEE)
    assert len(by_epoch) >= 3
    assert sum(by_epoch.values()) == size
    for bundle in operator.list_bundles():
        assert {signed.value.epoch for signed in bundle.value.receipts} == {bundle.value.epoch}


def test_web_seed_bytes_become_cdn_receipts_in_the_viewers_own_bundle(
    tmp_path: Path,
    make_operator: Callable[..., Any],
    make_cdn: Callable[[bytes, int], str],
    start_engine: Callable[..., Any],
) -> None:
    content = make_content(tmp_path / "seed", 4 * MIB + 77)
    host = make_cdn(content.read_bytes(), 2 * MIB)
    cdn_key = public_key_of(generate_seed())
    cdn = CdnTerms(
        key=cdn_key, account=bytes(32), price_stroops=0, price_quantity_bytes=1, host=host
    )
    operator = make_operator(epoch_length_s=5, cdns=(cdn,))
    seeder = start_seeder(
        start_engine,
        operator,
        tmp_path,
        "--upload-limit",
        MIB // 4,
        "--web-seed",
        f"http://{host}/film.bin",
    )
    seeds_at = seeder.wait_for("ready")["listen"]
    viewer = start_viewer(start_engine, operator, tmp_path, 3, "--peer", seeds_at)
    viewer.wait_for("complete")
    assert (tmp_path / "saved-3" / "film.bin").read_bytes() == content.read_bytes()
    end = viewer.stop()
    seeder.stop()
    receipts = operator.final_receipts(BundleKind.VIEWER).values()
    assert {receipt.payee_key for receipt in receipts} == {cdn_key}
    assert all(receipt.is_cdn for receipt in receipts)
    from_cdn = sum(bytes_by_epoch(operator, BundleKind.VIEWER).values())
    from_peers = sum(bytes_by_epoch(operator, BundleKind.PAYEE).values())
    assert from_cdn == end["bytes"]["cdn"] > 0
    assert from_peers == end["bytes"]["p2p_attested"]
    assert from_cdn + from_peers + end["bytes"]["ambiguous"] == content.stat().st_size


def test_killed_viewer_goes_on_with_its_lanes_and_loses_open_pieces_only(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    operator = make_operator()
    content = make_content(tmp_path / "seed", 12 * MIB)
    seeder = start_seeder(start_engine, operator, tmp_path, "--upload-limit", 2 * MIB)
    seeds_at = seeder.wait_for("ready")["listen"]
    viewer = start_viewer(start_engine, operator, tmp_path, 3, "--peer", seeds_at)
    viewer.wait_for("acknowledged", sequence=lambda value: value >= 2)
    viewer.kill()
    journal = tmp_path / "viewer-state-3" / "meter.sqlite"
    before = read_totals(journal)
    viewer = start_viewer(start_engine, operator, tmp_path, 3, "--peer", seeds_at)
    viewer.wait_for("complete")
    end = viewer.stop()
    seeder.stop()
    assert (tmp_path / "saved-3" / "film.bin").read_bytes() == content.read_bytes()
    after = read_totals(journal)
    assert after.claimed_bytes >= before.claimed_bytes > 0
    assert end["unsigned_bytes"] == 0
    receipts = operator.final_receipts(BundleKind.PAYEE).values()
    assert len(receipts) == 1
    # Whatever was journalled as proved stands in receipts, no more and no less.
    assert sum(receipt.bytes_total for receipt in receipts) == after.delivered_p2p_bytes
    # A piece is 64 KiB here; bytes of pieces that were open at the kill are nobody's.
    assert after.delivered_p2p_bytes + after.unattested_bytes <= content.stat().st_size + MIB
    assert after.delivered_p2p_bytes >= content.stat().st_size - 2 * MIB


def test_killed_seeder_keeps_what_it_acknowledged_and_is_paid_for_the_rest(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    operator = make_operator()
    content = make_content(tmp_path / "seed", 12 * MIB)
    seeder = start_seeder(start_engine, operator, tmp_path, "--upload-limit", 2 * MIB)
    seeds_at = seeder.wait_for("ready")["listen"]
    viewer = start_viewer(start_engine, operator, tmp_path, 3, "--peer", seeds_at)
    acknowledged = viewer.wait_for("acknowledged", sequence=lambda value: value >= 2)
    seeder.kill()
    seeder = start_engine(
        *("seed", tmp_path / "film.torrent", "--save", tmp_path / "seed"),
        *("--listen", seeds_at, "--state", tmp_path / "seeder-state"),
        *("--terms", tmp_path / "terms"),
        log="seeder-again",
    )
    viewer.wait_for("complete")
    end = viewer.stop()
    seeder.stop()
    finals = operator.final_receipts(BundleKind.PAYEE)
    assert len(finals) == 1
    (total,) = [receipt.bytes_total for receipt in finals.values()]
    assert total == end["bytes"]["p2p_attested"]
    # A block asked of both runs, whose write report was lost, is nobody's.
    assert total + end["bytes"]["ambiguous"] == content.stat().st_size
    assert total > acknowledged["bytes_total"]


def test_unreachable_collector_leaves_bundles_spooled_and_they_are_sent_later(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    operator = make_operator(epoch_length_s=3)
    size = make_content(tmp_path / "seed", 2 * MIB).stat().st_size
    seeder = start_seeder(start_engine, operator, tmp_path)
    seeds_at = seeder.wait_for("ready")["listen"]
    seeder.wait_for("epoch")
    viewer = start_viewer(start_engine, operator, tmp_path, 3, "--peer", seeds_at)
    viewer.wait_for("epoch")
    operator.is_down = True
    viewer.wait_for("complete")
    viewer.stop()
    end = seeder.stop()
    assert operator.list_bundles() == []
    assert end["unsent_bundles"] >= 1
    before = [bundle.raw for bundle in read_spool(tmp_path / "seeder-state/spool.sqlite")[1]]
    operator.is_down = False
    seeder = start_engine(
        *("seed", tmp_path / "film.torrent", "--save", tmp_path / "seed"),
        *("--listen", seeds_at, "--state", tmp_path / "seeder-state"),
        *("--terms", tmp_path / "terms"),
        log="seeder-again",
    )
    seeder.wait_for("bundle")
    assert seeder.stop()["unsent_bundles"] == 0
    # The same bytes under the same number, not a new bundle.
    assert [bundle.raw for bundle in operator.list_bundles()] == before
    assert sum(bytes_by_epoch(operator, BundleKind.PAYEE).values()) == size


def test_plain_swarm_is_metered_without_any_receipt(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    operator = make_operator()
    size = make_content(tmp_path / "seed", MIB).stat().st_size
    seeder = start_seeder(start_engine, operator, tmp_path)
    viewer = start_engine(
        *("view", tmp_path / "film.torrent", "--save", tmp_path / "saved"),
        *("--listen", "127.0.0.3:0", "--state", tmp_path / "viewer-state", "--no-entitlement"),
        *("--peer", seeder.wait_for("ready")["listen"]),
    )
    end = viewer.wait_for("complete")
    assert end["bytes"]["p2p_unattested"] == size
    assert end["bytes"]["p2p_attested"] == 0
    viewer.stop()
    seeder.stop()
    assert operator.list_bundles() == []


HANDSHAKE_BYTES = 68
PIECE = 7
PIECE_HEAD_BYTES = 9
"""Message id, piece, offset (BEP 3)."""


def payload_of(stream: bytes) -> int:
    """Content bytes in one direction of a plain BitTorrent connection (BEP 3)."""
    assert stream.startswith(b"\x13BitTorrent protocol"), stream[:20]
    place, total = HANDSHAKE_BYTES, 0
    while place + 5 <= len(stream):
        (length,) = struct.unpack_from(">I", stream, place)
        if length and stream[place + 4] == PIECE:
            total += length - PIECE_HEAD_BYTES
        place += 4 + length
    return total


def test_trap_13_receipts_are_the_contents_payload_on_the_wire(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    """A counter on the wrong layer saw twice what passed (Tribler's issue 3657)."""
    require_tools("tcpdump")
    operator = make_operator()
    size = make_content(tmp_path / "seed", 32 * MIB + 4321).stat().st_size
    seeder = start_seeder(start_engine, operator, tmp_path)
    seeds_at = seeder.wait_for("ready")["listen"]
    port = int(seeds_at.rsplit(":", 1)[1])
    file = tmp_path / "wire.pcap"
    with capture(port, file):
        viewer = start_viewer(start_engine, operator, tmp_path, 3, "--peer", seeds_at, "--tcp")
        viewer.wait_for("complete")
        viewer.stop()
        seeder.stop()
    flows = read_flows(file)
    wire = sum(payload_of(flow.stream()) for (source, _), flow in flows.items() if source == port)
    receipts = operator.final_receipts(BundleKind.PAYEE).values()
    receipted = sum(receipt.bytes_total for receipt in receipts)
    assert receipted == size
    assert receipted <= wire <= receipted + receipted // 1_000
