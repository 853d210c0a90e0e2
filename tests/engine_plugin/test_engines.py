"""Whole engines: real processes, a real swarm, side channel and signatures."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine_plugin.journal import read_peers, read_totals
from ledger.evidence.bundle import BundleKind

pytestmark = [pytest.mark.swarm, pytest.mark.process]

MIB = 1 << 20


def make_content(folder: Path, size: int) -> Path:
    folder.mkdir()
    content = folder / "film.bin"
    content.write_bytes(random.Random(7).randbytes(size))  # noqa: S311 - content, no secret
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
