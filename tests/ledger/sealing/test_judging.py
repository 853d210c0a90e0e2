"""Judging from the queue of rows: once, whatever is lost, repeated or killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import key, make_entitlement, make_payee_bundle, make_receipt, seed
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.audit.verify import Verdict, verify_audit_file
from ledger.books.judgement import BundleCode, ReceiptCode
from ledger.sealing.judging import JudgingOutcome, judge_bundle
from ledger.store.bundle_store import claim_bundle, find_by_digest, list_refusals
from ledger.store.errors import UnprovenError

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(0)
        yield made


def upload(scene: ShardScene, number: int = 0) -> bytes:
    ann = make_entitlement(scene.operator, "ann")
    stranger = make_entitlement(scene.operator, "bob", terms_digest=bytes(32))
    receipts = [
        make_receipt(ann, "ann", "seeder", 0, 999_983),
        make_receipt(stranger, "bob", "seeder", 0, 999_979),
    ]
    raw = make_payee_bundle("seeder", 0, [ann, stranger], receipts, number)
    return scene.upload(raw).value.bundle_digest


def rows(scene: ShardScene, table: str) -> list[tuple]:
    with scene.sessions.begin() as session:
        query = text(f"SELECT * FROM {table} ORDER BY 1, 3")  # noqa: S608 - our own table names
        return [tuple(row) for row in session.execute(query)]


def judge(scene: ShardScene, bundle_id: int, *, attempts_max: int) -> JudgingOutcome:
    return judge_bundle(scene.sessions, bundle_id, attempts_max=attempts_max, log_seed=seed("log"))


def test_judging_twice_changes_nothing(scene):
    upload(scene)
    (bundle_id,) = scene.sweep()
    assert judge(scene, bundle_id, attempts_max=5) == JudgingOutcome.JUDGED
    before = rows(scene, "bundles"), rows(scene, "receipts")
    again = judge(scene, bundle_id, attempts_max=5)
    assert again == JudgingOutcome.NOTHING_TO_DO
    assert (rows(scene, "bundles"), rows(scene, "receipts")) == before
    assert len(before[1]) == 1


def test_the_same_receipt_in_two_bundles_is_stored_once(scene):
    upload(scene)
    upload(scene, number=1)
    scene.judge_all()
    assert len(rows(scene, "receipts")) == 1


def test_a_bundle_in_a_running_transaction_of_another_worker_is_skipped(scene):
    upload(scene)
    (bundle_id,) = scene.sweep()
    with scene.sessions.begin() as session:
        claim_bundle(session, bundle_id)
        outcome = judge(scene, bundle_id, attempts_max=5)
    assert outcome == JudgingOutcome.NOTHING_TO_DO


def test_a_lost_task_is_published_again_after_its_lease_and_not_before(scene):
    upload(scene)
    (bundle_id,) = scene.sweep()
    from datetime import timedelta

    from ledger.sealing.judging import sweep_bundles

    soon = scene.now + timedelta(seconds=29)
    lease = timedelta(seconds=30)
    assert sweep_bundles(scene.sessions, now=soon, lease=lease, limit=10) == []
    assert scene.sweep() == [bundle_id]
    scene.judge_all()
    assert scene.sweep() == []


def test_a_bundle_that_kills_workers_is_set_aside_and_sealed_as_poison(scene):
    digest = upload(scene)
    (bundle_id,) = scene.sweep()
    for _ in range(3):
        with scene.sessions.begin() as session:
            claim_bundle(session, bundle_id)  # and the worker dies
    assert judge(scene, bundle_id, attempts_max=3) == JudgingOutcome.POISON
    scene.end_epoch(0)
    scene.advance()
    with scene.sessions.begin() as session:
        stored = find_by_digest(session, digest)
        (refusal,) = list_refusals(session, key("seeder"))
    assert stored.code == BundleCode.POISON
    assert stored.receipt_codes == (ReceiptCode.BUNDLE_REFUSED,) * 2
    assert (refusal.place, refusal.code) == (None, BundleCode.POISON)
    scene.anchor(0, scene.terms.epoch_end_s(0) + 7)
    scene.advance()
    data = (scene.audit_dir / "epoch-0.audit").read_bytes()
    assert verify_audit_file(data, scene.operator.trust).verdict == Verdict.PROVEN


@pytest.mark.parametrize(
    ("state", "is_blamed"),
    [("53100", False), ("57014", False), ("22003", True), ("23514", True)],
    ids=["disk full", "statement cancelled", "number out of range", "check violated"],
)
def test_only_what_a_bundle_holds_counts_against_it(scene, state, is_blamed):
    digest = upload(scene)
    (bundle_id,) = scene.sweep()
    with scene.sessions.begin() as session:
        session.execute(
            text(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
            )
        )
        session.execute(
            text(
                "CREATE TRIGGER fail BEFORE INSERT ON receipts FOR EACH ROW EXECUTE FUNCTION fail()"
            )
        )
    for _ in range(5):
        with pytest.raises(DBAPIError):
            judge(scene, bundle_id, attempts_max=5)
    with scene.sessions.begin() as session:
        session.execute(text("DROP TRIGGER fail ON receipts"))
    wanted = JudgingOutcome.POISON if is_blamed else JudgingOutcome.JUDGED
    assert judge(scene, bundle_id, attempts_max=5) == wanted
    with scene.sessions.begin() as session:
        is_counted = ReceiptCode.COUNTED in find_by_digest(session, digest).receipt_codes
    assert is_counted is not is_blamed


def test_terms_that_cannot_be_proven_count_against_no_bundle(scene):
    upload(scene)
    (bundle_id,) = scene.sweep()
    flip = "UPDATE terms SET raw = set_byte(raw, 0, get_byte(raw, 0) # 1)"
    in_place = "SET LOCAL session_replication_role = replica"
    with scene.sessions.begin() as session:
        session.execute(text(in_place))
        session.execute(text(flip))
    for _ in range(5):
        with pytest.raises(UnprovenError):
            judge(scene, bundle_id, attempts_max=5)
    with scene.sessions.begin() as session:
        session.execute(text(in_place))
        session.execute(text(flip))
    assert judge(scene, bundle_id, attempts_max=5) == JudgingOutcome.JUDGED


def test_refusals_carry_code_and_numbers_of_each_refused_receipt(scene):
    scene.deposit(10**9, scene.terms.genesis_s + 1)
    upload(scene)
    scene.judge_all()
    scene.end_epoch(0)
    scene.advance()
    with scene.sessions.begin() as session:
        (refusal,) = list_refusals(session, key("seeder"))
        assert list_refusals(session, key("seeder"), after=refusal.id) == []
    assert (refusal.code, refusal.bytes_total) == (ReceiptCode.BAD_ENTITLEMENT, 999_979)
