"""Whole engines held to entitlements: caps, revocation, coverage, and viewers that do not pay."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.evidence.bundle import BundleKind

pytestmark = [pytest.mark.swarm, pytest.mark.process]

MIB = 1 << 20


@pytest.fixture
def swarm(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> "Swarm":
    return Swarm(tmp_path, make_operator, start_engine)


class Swarm:
    """One seeder and its viewers, each with an address of its own unless a test says otherwise."""

    def __init__(self, folder: Path, make_operator: Any, start_engine: Any) -> None:
        self.folder = folder
        self._make_operator = make_operator
        self._start = start_engine

    def seed(self, mib: int, *options: object, operator: Any = None) -> Any:
        self.operator = operator or self._make_operator()
        self.size = mib * MIB
        content = self.folder / "film.bin"
        content.write_bytes(random.Random(7).randbytes(self.size))
        (self.folder / "terms").write_bytes(self.operator.terms.raw)
        self.seeder = self._start(
            *("seed", content, "--torrent-out", self.folder / "film.torrent"),
            *("--listen", "127.0.0.2:0", "--state", self.folder / "seeder"),
            *("--terms", self.folder / "terms", *options),
            log="seeder",
        )
        return self.seeder

    def view(self, name: str, address: str, rate: int, *options: object, pays: bool = True) -> Any:
        # Port 9 discards: whoever asks there gets no entitlement and signs nothing.
        url = ("--entitlement-url", self.operator.url if pays else "http://127.0.0.1:9")
        return self._start(
            *("view", self.folder / "film.torrent", "--save", self.folder / name),
            *("--listen", f"{address}:0", "--state", self.folder / f"{name}-state"),
            *("--terms", self.folder / "terms", "--download-limit", rate, *url, *options),
            *("--peer", self.seeder.wait_for("ready")["listen"]),
            log=name,
        )

    def taken(self, viewer: Any) -> int:
        last = viewer.of("progress")[-1]["bytes"]
        return last["p2p_attested"] + last["p2p_unattested"] + last["pending"]


def test_a_viewer_that_signs_nothing_is_held_and_cut_off_and_the_honest_one_is_not_slowed(swarm):
    seeder = swarm.seed(32)
    honest = swarm.view("honest", "127.0.0.3", 4 * MIB)
    cheat = swarm.view("cheat", "127.0.0.4", 4 * MIB, pays=False)
    seeder.wait_for("cut_off", address="127.0.0.4")
    honest.wait_for("complete")
    assert [cut["address"] for cut in seeder.of("cut_off")] == ["127.0.0.4"]
    cheat.wait_for("progress", peers=lambda peers: not any(peer["connected"] for peer in peers))
    # Four MiB, a second of its own rate for patience and reaction, and what loopback buffers.
    assert swarm.taken(cheat) <= 4 * MIB + 4 * MIB + 12 * MIB
    assert honest.stop()["bytes"]["p2p_attested"] == swarm.size


def test_without_enforcement_a_viewer_that_signs_nothing_gets_everything(swarm):
    swarm.seed(12, "--no-enforcement")
    cheat = swarm.view("cheat", "127.0.0.4", 6 * MIB, pays=False)
    cheat.wait_for("complete")
    assert swarm.operator.list_bundles() == []


def test_caps_of_bytes_are_kept_to_the_byte_and_renewed_in_time(swarm):
    operator = swarm._make_operator(entitlement_caps={"max_bytes": 3 * MIB})
    seeder = swarm.seed(10, operator=operator)
    viewer = swarm.view("viewer", "127.0.0.3", 2 * MIB)
    viewer.wait_for("complete")
    end = viewer.stop()
    seeder.stop()
    assert end["unsigned_bytes"] == 0
    totals: dict[bytes, int] = {}
    for receipt in operator.final_receipts(BundleKind.PAYEE).values():
        digest = receipt.entitlement_digest
        totals[digest] = totals.get(digest, 0) + receipt.bytes_total
    assert len(totals) >= 4
    assert max(totals.values()) <= 3 * MIB
    assert sum(totals.values()) == swarm.size
    assert seeder.of("cut_off") == []


def test_a_viewer_whose_cap_is_used_up_says_so_signs_no_more_and_gets_no_more(swarm):
    operator = swarm._make_operator(entitlement_caps={"max_bytes": 2 * MIB}, entitlements_most=1)
    seeder = swarm.seed(20, operator=operator)
    viewer = swarm.view("viewer", "127.0.0.3", 2 * MIB)
    viewer.wait_for(
        "error", where="receipts", detail=lambda text: "used up" in text or "got none" in text
    )
    seeder.wait_for("cut_off", address="127.0.0.3")
    viewer.stop()
    seeder.stop()
    (receipt,) = operator.final_receipts(BundleKind.PAYEE).values()
    # What is signed is cut at a batch of the journal: a quarter of a second's worth at most.
    assert MIB <= receipt.bytes_total <= 2 * MIB
    # The cap, four MiB, and what comes while a key that paid so far is given time to answer.
    assert swarm.taken(viewer) <= 2 * MIB + 4 * MIB + 4 * 2 * MIB


def test_a_revocation_that_one_engine_knows_reaches_the_other_and_ends_its_receipts(swarm):
    operator = swarm._make_operator(epoch_length_s=5)
    binding = operator.bind_issuing_key(last_epoch=0)
    (swarm.folder / "issuing.binding").write_bytes(binding.raw)
    seeder = swarm.seed(
        20, "--issuing-binding", swarm.folder / "issuing.binding", operator=operator
    )
    viewer = swarm.view("viewer", "127.0.0.3", 2 * MIB)
    viewer.wait_for("issuing_key", last_epoch=0)
    viewer.wait_for("error", where="receipts", detail=lambda text: "revoked" in text)
    seeder.wait_for("cut_off")
    viewer.stop()
    seeder.stop()
    epochs = {one.epoch for one in operator.final_receipts(BundleKind.PAYEE).values()}
    assert epochs <= {0}
    # It is not forgotten.
    assert (swarm.folder / "viewer-state" / "issuing.binding").read_bytes() == binding.raw


def test_a_seeder_does_not_start_for_an_escrow_that_covers_too_little(swarm):
    short = {"epoch": 7, "held_stroops": 1_499, "liable_stroops": 1_000}
    operator = swarm._make_operator(coverage=short)
    seeder = swarm.seed(1, "--min-coverage", 150, operator=operator)
    assert seeder.process.wait(60) != 0
    seeder.kill()
    text = seeder.log.read_text()
    assert "got 1499 stroops in escrow for 1000 owed as of epoch 7, want 150 %" in text


def test_a_seeder_serves_while_the_escrow_covers_enough_and_not_before_it_knows(swarm):
    operator = swarm._make_operator()
    seeder = swarm.seed(2, "--min-coverage", 150, operator=operator)
    seeder.wait_for("coverage", serves=False)
    viewer = swarm.view("viewer", "127.0.0.3", 2 * MIB)
    viewer.wait_for("progress", side_channel=lambda side: side["received_bytes"] > 300)
    assert not viewer.of("complete")
    operator.coverage = {"epoch": 8, "held_stroops": 1_500, "liable_stroops": 1_000}
    seeder.wait_for("coverage", serves=True)
    viewer.wait_for("complete")
