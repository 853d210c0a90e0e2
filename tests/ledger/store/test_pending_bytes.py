"""What is pending of an epoch counts what can be credited, whatever a viewer signs for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import make_entitlement, make_payee_bundle, make_receipt
from sqlalchemy import text

from ledger.store.coverage_store import sum_pending_bytes

pytestmark = pytest.mark.postgres

CAP = 1_000_003
ABSURD = (1 << 63) - 1


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(0)
        yield made


def deliver(scene: ShardScene, entitlement, viewer: str, payee: str, total: int) -> None:
    receipt = make_receipt(entitlement, viewer, payee, 0, total)
    scene.upload(make_payee_bundle(payee, 0, [entitlement], [receipt]))
    scene.judge_all()


def pending_bytes(scene: ShardScene) -> int:
    with scene.sessions() as session:
        return sum_pending_bytes(session, scene.shard, -1)


def test_lanes_of_an_entitlement_count_up_to_its_cap_and_others_in_full(scene):
    ann = make_entitlement(scene.operator, "ann", max_bytes=CAP)
    bob = make_entitlement(scene.operator, "bob")
    deliver(scene, bob, "bob", "honest seeder", 15_485_863)
    deliver(scene, ann, "ann", "seeder", 600_011)
    assert pending_bytes(scene) == 15_485_863 + 600_011
    deliver(scene, ann, "ann", "seeder 2", 400_009)
    assert pending_bytes(scene) == 15_485_863 + CAP
    for number in range(3):
        deliver(scene, ann, "ann", f"accomplice {number}", ABSURD)
    assert pending_bytes(scene) == 15_485_863 + CAP


def test_entitlement_without_a_cap_counts_for_what_one_seal_may_credit(scene):
    bob = make_entitlement(scene.operator, "bob")
    for number in range(3):
        deliver(scene, bob, "bob", f"accomplice {number}", ABSURD)
    assert pending_bytes(scene) == 1 << 44


def test_rows_of_before_caps_were_kept_count_each_for_itself(scene):
    bob = make_entitlement(scene.operator, "bob")
    for number in range(2):
        deliver(scene, bob, "bob", f"seeder {number}", 7_919)
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE receipts SET entitlement = NULL, cap_bytes = NULL"))
    assert pending_bytes(scene) == 2 * 7_919
