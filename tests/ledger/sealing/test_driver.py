"""Epochs from open to settled on a real database: the log verifies, and so do the audit files."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    key,
    make_entitlement,
    make_heartbeats,
    make_payee_bundle,
    make_receipt,
    make_viewer_bundle,
)

from ledger.audit.verify import Verdict, verify_audit_file
from ledger.books.judgement import ReceiptCode
from ledger.evidence.checkpoint import verify_checkpoint
from ledger.evidence.merkle import root_hash
from ledger.evidence.note import parse_verifier_key
from ledger.evidence.tile import check_tiles, read_leaves, root_of_tiles
from ledger.sealing.publishing import log_folder
from ledger.sealing.transitions import close_to_bundles, compute, seal, settle
from ledger.store.bundle_store import find_by_digest, list_refusals
from ledger.store.epoch_store import EpochState, find_epoch, list_epochs, load_closing_state

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def busy_bundles(scene: ShardScene, epoch: int) -> list[bytes]:
    ann = make_entitlement(scene.operator, "ann")
    bob = make_entitlement(scene.operator, "bob")
    return [
        make_payee_bundle(
            "seeder",
            epoch,
            [ann, bob],
            [
                make_receipt(ann, "ann", "seeder", epoch, 7_919_001 + epoch),
                make_receipt(ann, "ann", "seeder", epoch, 7_950_001 + epoch, sequence=2),
                make_receipt(bob, "bob", "seeder", epoch, 15_485_863),
            ],
        ),
        make_payee_bundle("ann", epoch, [bob], [make_receipt(bob, "bob", "ann", epoch, 104_729)]),
        make_viewer_bundle(
            "ann",
            epoch,
            [ann],
            [make_receipt(ann, "ann", "cdn", epoch, 1_299_709)],
            heartbeats=make_heartbeats(scene.operator, ann, "ann", epoch, 6),
        ),
    ]


def state_of(scene: ShardScene, number: int) -> EpochState:
    with scene.sessions.begin() as session:
        return find_epoch(session, scene.shard, number).state


def run_epoch(scene: ShardScene, epoch: int, bundles: list[bytes]) -> None:
    scene.reach_epoch(epoch)
    for raw in bundles:
        scene.upload(raw)
    scene.judge_all()
    scene.end_epoch(epoch)
    scene.advance()


def settle_epoch(scene: ShardScene, epoch: int) -> bytes:
    scene.anchor(epoch, scene.terms.epoch_end_s(epoch) + 7)
    scene.advance()
    return (scene.audit_dir / f"epoch-{epoch}.audit").read_bytes()


def test_epochs_are_sealed_computed_and_settled_and_their_audit_files_are_proven(scene):
    scene.deposit(50_000_000_000, scene.terms.epoch_start_s(0) + 2)
    files = []
    for epoch in range(3):
        run_epoch(scene, epoch, busy_bundles(scene, epoch) if epoch < 2 else [])
        assert state_of(scene, epoch) == EpochState.COMPUTED
        files.append(settle_epoch(scene, epoch))
        assert state_of(scene, epoch) == EpochState.SETTLED
    for data in files:
        report = verify_audit_file(data, scene.operator.trust)
        failed = [step for step in report.steps if step.verdict != Verdict.PROVEN]
        assert not failed
        assert report.verdict == Verdict.PROVEN
        bundles = next(step.detail for step in report.steps if step.name == "bundles")
        assert ("6 heartbeats of 1 viewers verified, 0 refused" in bundles) == (
            data is not files[2]
        )
    with scene.sessions.begin() as session:
        state = load_closing_state(session, scene.shard, 1)
    assert state.head.charged_stroops > 0
    assert state.payees[key("seeder account")].owed_stroops > 0


def test_a_late_receipt_corrects_a_sealed_lane_and_the_audit_file_proves_what_counted(scene):
    scene.deposit(50_000_000_000, scene.terms.epoch_start_s(0) + 2)
    run_epoch(scene, 0, busy_bundles(scene, 0))
    settle_epoch(scene, 0)
    ann = make_entitlement(scene.operator, "ann")
    cat = make_entitlement(scene.operator, "cat")
    late = make_payee_bundle(
        "seeder",
        0,
        [ann, cat],
        [
            make_receipt(ann, "ann", "seeder", 0, 8_000_000, sequence=9),
            make_receipt(cat, "cat", "seeder", 0, 500_009),
        ],
        number=1,
    )
    run_epoch(scene, 1, [late])
    report = verify_audit_file(settle_epoch(scene, 1), scene.operator.trust)
    assert [step for step in report.steps if step.verdict != Verdict.PROVEN] == []
    with scene.sessions.begin() as session:
        state = load_closing_state(session, scene.shard, 1)
    assert sorted(lane.bytes_total for lane in state.corrected_lanes.values()) == [
        500_009,
        8_000_000,
    ]


def test_the_published_log_verifies_with_the_readers_of_the_format(scene):
    for epoch in range(2):
        run_epoch(scene, epoch, busy_bundles(scene, epoch))
    folder = log_folder(scene.log_dir, scene.shard)

    def read_file(path: str) -> bytes | None:
        file = folder / path
        return file.read_bytes() if file.is_file() else None

    log_key = parse_verifier_key((folder / "log.vkey").read_text().rstrip("\n"))
    assert log_key.public_key == key("log")
    verified = verify_checkpoint(
        (folder / "checkpoint").read_bytes(), origin=scene.terms.log_origin, known_keys=[log_key]
    ).checkpoint
    leaves = list(read_leaves(verified.tree_size, read_file))
    assert leaves == scene.leaves()
    assert root_of_tiles(verified.tree_size, read_file) == verified.root_hash == root_hash(leaves)
    assert check_tiles(leaves, read_file) == verified.root_hash


def test_a_lost_log_folder_is_made_again_byte_for_byte(scene):
    for epoch in range(3):
        run_epoch(scene, epoch, busy_bundles(scene, epoch))
    before = {p: p.read_bytes() for p in scene.log_dir.rglob("*") if p.is_file()}
    for path in before:
        path.unlink()
    assert scene.advance() == 3
    assert {p: p.read_bytes() for p in scene.log_dir.rglob("*") if p.is_file()} == before


def test_running_every_transition_again_changes_nothing(scene):
    run_epoch(scene, 0, busy_bundles(scene, 0))
    leaves = scene.leaves()
    assert scene.advance() == 0
    assert not close_to_bundles(scene.sessions, scene.shard, 0)
    assert not seal(scene.sessions, scene.shard, 0, b"\1" * 32)
    assert not compute(scene.sessions, scene.shard, 0, b"\1" * 32)
    assert not settle(scene.sessions, scene.shard, 0)
    assert scene.leaves() == leaves


def test_an_epoch_waits_for_its_last_verdict_and_for_its_grace(scene):
    scene.reach_epoch(0)
    scene.upload(busy_bundles(scene, 0)[0])
    scene.reach(scene.terms.epoch_end_s(0) + scene.terms.grace_s - 1)
    scene.advance()
    assert state_of(scene, 0) == EpochState.OPEN
    scene.end_epoch(0)
    scene.advance()
    assert state_of(scene, 0) == EpochState.SEALING
    scene.judge_all()
    scene.advance()
    assert state_of(scene, 0) == EpochState.COMPUTED


def test_a_bundle_after_the_grace_is_promised_the_next_seal(scene):
    scene.reach_epoch(0)
    scene.end_epoch(0)
    scene.advance()
    promise = scene.upload(busy_bundles(scene, 0)[0]).value
    assert (promise.epoch, promise.sealing_epoch) == (0, 1)


def test_the_order_of_arrival_and_of_judging_does_not_matter(
    scene, postgres_cluster, template_database, tmp_path
):
    import uuid

    import psycopg
    from sqlalchemy import text

    bundles = busy_bundles(scene, 0)
    results = []
    for order in range(3):
        name = f"order_{uuid.uuid4().hex}"
        with psycopg.connect(postgres_cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
        url = postgres_cluster.url(name)
        with make_shard_scene(url, tmp_path / str(order)) as other:
            other.reach_epoch(0)
            other.advance()
            with other.sessions.begin() as session:
                # The salt key is random; here it must be the same in all three databases.
                session.execute(text("ALTER TABLE epochs DISABLE TRIGGER guard_epoch"))
                session.execute(text("UPDATE epochs SET salt_key = :key"), {"key": b"\7" * 32})
                session.execute(text("ALTER TABLE epochs ENABLE TRIGGER guard_epoch"))
            shuffled = bundles[:]
            random.Random(order).shuffle(shuffled)
            run_epoch(other, 0, shuffled)
            results.append(other.leaves())
        with psycopg.connect(postgres_cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 1 + 3 + 1 + 1


def test_a_crash_before_any_commit_leaves_the_state_that_the_next_run_goes_on_from(
    scene, monkeypatch
):
    """Each write of the two large transitions fails once; the log is that of an undisturbed run."""
    from ledger.sealing import transitions

    class CrashError(Exception):
        pass

    scene.reach_epoch(0)
    for raw in busy_bundles(scene, 0):
        scene.upload(raw)
    scene.judge_all()
    scene.end_epoch(0)
    for name, state, leaf_count in [
        ("begin_sealing", EpochState.OPEN, 0),
        ("store_final_codes", EpochState.SEALING, 0),
        ("store_seal", EpochState.SEALING, 0),
        ("store_result", EpochState.SEALED, 5),
        ("store_checkpoint", EpochState.SEALED, 5),
        ("plan_batches", EpochState.SEALED, 5),
        ("plan_anchor", EpochState.SEALED, 5),
    ]:
        real = getattr(transitions, name)

        def crash(*args: object, real=real, **kwargs: object) -> None:
            real(*args, **kwargs)
            raise CrashError

        with monkeypatch.context() as patch:
            patch.setattr(transitions, name, crash)
            with pytest.raises(CrashError):
                scene.advance()
        assert state_of(scene, 0) == state
        assert len(scene.leaves()) == leaf_count
    scene.advance()
    assert state_of(scene, 0) == EpochState.COMPUTED
    report = verify_audit_file(settle_epoch(scene, 0), scene.operator.trust)
    assert report.verdict == Verdict.PROVEN


def test_contradicting_receipts_are_refused_readably_and_the_smaller_total_counts(scene):
    scene.deposit(10**9, scene.terms.genesis_s + 1)
    scene.reach_epoch(0)
    ann = make_entitlement(scene.operator, "ann")
    bundle = make_payee_bundle(
        "seeder",
        0,
        [ann],
        [
            make_receipt(ann, "ann", "seeder", 0, 999_983, sequence=1),
            make_receipt(ann, "ann", "seeder", 0, 500_009, sequence=2),
        ],
    )
    promise = scene.upload(bundle).value
    scene.judge_all()
    scene.end_epoch(0)
    scene.advance()
    with scene.sessions.begin() as session:
        stored = find_by_digest(session, promise.bundle_digest)
        (refusal,) = list_refusals(session, key("seeder"))
    assert stored.state == EpochState.COMPUTED
    assert sorted(stored.receipt_codes) == [ReceiptCode.COUNTED, ReceiptCode.EQUIVOCATION]
    assert (refusal.code, refusal.sequence, refusal.bytes_total) == (
        ReceiptCode.EQUIVOCATION,
        1,
        999_983,
    )


def test_epochs_are_open_ahead_of_the_clock(scene):
    scene.reach_epoch(4)
    scene.advance()
    with scene.sessions.begin() as session:
        numbers = [epoch.number for epoch in list_epochs(session, scene.shard)]
    assert numbers == [0, 1, 2, 3, 4, 5, 6]
