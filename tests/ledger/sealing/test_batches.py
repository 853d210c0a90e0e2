"""Bundles judged in batches by several workers: each once, whoever dies, none with another."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import make_entitlement, make_payee_bundle, make_receipt, seed
from sqlalchemy import text

from ledger.sealing.judging import (
    BATCH_BUNDLES,
    BATCH_BYTES,
    JudgingOutcome,
    judge_bundles,
    make_memory,
    sweep_batches,
)
from ledger.sealing.judging import _batch as batch
from ledger.store.bundle_store import WaitingBundle, claim_bundles, store_verdicts
from ledger.store.raw_store import load_raws
from ledger.store.receipt_store import merge_receipts

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(0)
        yield made


def upload(scene: ShardScene, numbers: range, lanes: int = 3) -> None:
    """Bundles of one payee over the same lanes, each with a higher sequence and more bytes."""
    ann = make_entitlement(scene.operator, "ann")
    for number in numbers:
        receipts = [
            make_receipt(
                ann, "ann", "seeder", 0, 1_000 * (number + 1), sequence=number + 1, nonce=nonce
            )
            for nonce in range(lanes)
        ]
        scene.upload(make_payee_bundle("seeder", 0, [ann], receipts, number))


def kept(scene: ShardScene) -> list[tuple[int, int]]:
    with scene.sessions.begin() as session:
        query = text("SELECT sequence, bytes_total FROM receipts ORDER BY lane")
        return [tuple(row) for row in session.execute(query)]


def states(scene: ShardScene) -> Counter[str]:
    with scene.sessions.begin() as session:
        return Counter(session.scalars(text("SELECT state FROM bundles")))


def judge(scene: ShardScene, ids, attempts_max: int = 5):
    return judge_bundles(
        scene.sessions, ids, attempts_max=attempts_max, log_seed=seed("log"), known=make_memory()
    )


def test_batch_is_judged_with_two_commits_and_keeps_each_lanes_best_receipt(scene):
    upload(scene, range(5))
    ids = scene.sweep()
    assert judge(scene, ids) == dict.fromkeys(ids, JudgingOutcome.JUDGED)
    assert kept(scene) == [(5, 5_000)] * 3
    assert judge(scene, ids) == dict.fromkeys(ids, JudgingOutcome.NOTHING_TO_DO)


def test_order_of_batches_does_not_matter_for_what_is_kept(scene):
    upload(scene, range(3))
    ids = scene.sweep()
    found = set()
    for order in permutations(ids):
        with scene.sessions.begin() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(text("DELETE FROM receipts"))
            session.execute(
                text(
                    "UPDATE bundles SET state = 'received', code = NULL, receipt_codes = NULL,"
                    " payee_account = NULL, vouch = NULL"
                )
            )
        for bundle_id in order:
            judge(scene, [bundle_id], attempts_max=100)
        found.add(tuple(kept(scene)))
    assert found == {((3, 3_000),) * 3}


def test_workers_with_the_same_lanes_in_opposite_order_do_not_wait_for_each_other(scene):
    """Each merges many batches over the same lanes, one upwards, one downwards."""
    upload(scene, range(8), lanes=40)
    ids = scene.sweep()
    judge(scene, ids)
    with scene.sessions.begin() as session:
        claimed = _claimed_again(session, ids)
    failures: list[BaseException] = []

    def merge(order: list[int]) -> None:
        try:
            for _ in range(6):
                for place in order:
                    with scene.sessions.begin() as session:
                        merge_receipts(session, [claimed[place], claimed[-1 - place]])
        except BaseException as error:
            failures.append(error)
            raise

    orders = [list(range(8)), list(range(7, -1, -1)), [3, 5, 1, 7, 0, 6, 2, 4]]
    threads = [threading.Thread(target=merge, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert kept(scene) == [(8, 8_000)] * 40


def test_new_lanes_go_straight_in_and_a_known_one_behind_them_is_merged(scene):
    ann = make_entitlement(scene.operator, "ann")
    receipts = [
        make_receipt(ann, "ann", "seeder", 0, 1_000, sequence=1, nonce=nonce) for nonce in range(3)
    ]
    receipts.sort(key=lambda one: one.value.lane_digest)
    scene.upload(make_payee_bundle("seeder", 0, [ann], receipts[1:], 0))
    better = [
        make_receipt(ann, "ann", "seeder", 0, 2_000, sequence=2, nonce=one.value.nonce)
        for one in receipts
    ]
    # Its first lane is new, so that only the key itself tells that the others are not.
    scene.upload(make_payee_bundle("seeder", 0, [ann], better, 1))
    ids = scene.sweep()
    with scene.sessions.begin() as session:
        first, second = _claimed_again(session, ids)
    with scene.sessions.begin() as session:
        merge_receipts(session, [first])
        assert session.scalar(text("SELECT to_regclass('pg_temp.staged_receipts')")) is None
    assert kept(scene) == [(1, 1_000)] * 2
    with scene.sessions.begin() as session:
        merge_receipts(session, [second])
    assert kept(scene) == [(2, 2_000)] * 3
    with scene.sessions.begin() as session:
        merge_receipts(session, [first])
    assert kept(scene) == [(2, 2_000)] * 3


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_lanes_that_another_worker_is_bringing_just_now_are_merged_with_its(scene, order):
    upload(scene, range(2))
    with scene.sessions.begin() as session:
        claimed = _claimed_again(session, scene.sweep())
    with scene.sessions.begin() as session:
        merge_receipts(session, [claimed[order[0]]])

        def merge_other() -> None:
            with scene.sessions.begin() as other:
                merge_receipts(other, [claimed[order[1]]])

        thread = threading.Thread(target=merge_other)
        thread.start()
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while thread.is_alive() and not session.scalar(waiting):
            time.sleep(0.01)
        assert thread.is_alive()
    thread.join()
    assert kept(scene) == [(2, 2_000)] * 3


def _claimed_again(session, ids):
    from ledger.books.codes import ReceiptCode
    from ledger.evidence.bundle import parse_bundle

    rows = session.execute(
        text(
            "SELECT id, broadcaster_id, sealing_epoch FROM bundles WHERE id = ANY(:ids) ORDER BY 1"
        ),
        {"ids": list(ids)},
    ).all()
    raws = load_raws(session, [(row.sealing_epoch, row.id) for row in rows])
    made = []
    for row in rows:
        bundle = parse_bundle(raws[row.id]).value
        codes = (ReceiptCode.COUNTED,) * bundle.receipt_count
        made.append((row.id, row.broadcaster_id, row.sealing_epoch, bundle, codes))
    return made


def test_many_workers_sent_the_same_bundles_judge_each_once(scene):
    upload(scene, range(12))
    ids = scene.sweep()
    outcomes: list[dict[int, JudgingOutcome]] = []

    def work(order: list[int]) -> None:
        outcomes.extend(judge(scene, order[at : at + 4]) for at in range(0, len(order), 4))

    threads = [
        threading.Thread(target=work, args=(order,))
        for order in (ids, ids[::-1], ids[6:] + ids[:6], ids[::2] + ids[1::2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    judged = Counter(
        bundle_id
        for one in outcomes
        for bundle_id, outcome in one.items()
        if outcome == JudgingOutcome.JUDGED
    )
    assert judged == dict.fromkeys(ids, 1)
    assert states(scene) == {"judged": 12}
    assert kept(scene) == [(12, 12_000)] * 3


def test_bundles_that_another_worker_is_claiming_are_left_to_it(scene):
    upload(scene, range(4))
    ids = scene.sweep()
    with scene.sessions.begin() as session:
        assert [one.id for one in claim_bundles(session, ids[:2])] == sorted(ids[:2])
        outcomes = judge(scene, ids)
    assert [outcomes[one] for one in ids[:2]] == [JudgingOutcome.NOTHING_TO_DO] * 2
    assert [outcomes[one] for one in ids[2:]] == [JudgingOutcome.JUDGED] * 2


def test_verdict_that_another_worker_is_storing_is_not_stored_twice(scene):
    upload(scene, range(2))
    ids = scene.sweep()
    with scene.sessions.begin() as session:
        claimed = claim_bundles(session, ids)
    from ledger.books.bundle_check import check_bundle

    verdicts = [
        (one.id, check_bundle(one.raw, scene.operator.signed_terms, 0), bytes(32))
        for one in claimed
    ]
    with scene.sessions.begin() as first:
        assert store_verdicts(first, verdicts) == set(ids)
        with scene.sessions.begin() as second:
            assert store_verdicts(second, verdicts) == set()
    with scene.sessions.begin() as third:
        assert store_verdicts(third, verdicts) == set()


def test_bundle_that_was_tried_before_is_a_batch_of_its_own():
    fresh = [WaitingBundle(id=number, size_bytes=1_000, attempts=0) for number in range(3)]
    tried = [WaitingBundle(id=number, size_bytes=1_000, attempts=1) for number in (10, 11)]
    assert batch([fresh[0], tried[0], fresh[1], tried[1], fresh[2]]) == [[10], [11], [0, 1, 2]]
    assert batch([]) == []


def test_batches_are_bounded_by_count_and_by_bytes():
    many = [WaitingBundle(id=n, size_bytes=1, attempts=0) for n in range(2 * BATCH_BUNDLES + 1)]
    assert [len(one) for one in batch(many)] == [BATCH_BUNDLES, BATCH_BUNDLES, 1]
    large = [WaitingBundle(id=n, size_bytes=BATCH_BYTES // 2, attempts=0) for n in range(5)]
    assert [len(one) for one in batch(large)] == [2, 2, 1]
    huge = [WaitingBundle(id=n, size_bytes=2 * BATCH_BYTES, attempts=0) for n in range(2)]
    assert batch(huge) == [[0], [1]]


KILLED = """
import os, signal, sys
from ledger.sealing import judging
from ledger.store.engine import open_sessions

where, url, ids = sys.argv[1], sys.argv[2], [int(one) for one in sys.argv[3].split(",")]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(judging, where, die)
judging.judge_bundles(open_sessions(url), ids, attempts_max=5, log_seed=bytes(32))
"""


@pytest.mark.parametrize("where", ["check_bundle", "store_verdicts"])
def test_batch_of_a_killed_worker_is_found_by_the_schedule_and_judged_one_by_one(
    scene, database_url, where
):
    upload(scene, range(3))
    ids = scene.sweep()
    arguments = [sys.executable, "-c", KILLED, where, database_url, ",".join(map(str, ids))]
    killed = subprocess.run(arguments, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    wait_for_no_transaction(scene)
    assert states(scene) == {"received": 3}
    assert kept(scene) == []
    lease = timedelta(seconds=30)
    soon = sweep_batches(scene.sessions, now=scene.now + lease / 2, lease=lease, limit=10)
    assert soon == []
    again = sweep_batches(scene.sessions, now=scene.now + 2 * lease, lease=lease, limit=10)
    assert sorted(again) == [[one] for one in sorted(ids)]
    for one in again:
        judge(scene, one)
    assert states(scene) == {"judged": 3}
    assert kept(scene) == [(3, 3_000)] * 3


def wait_for_no_transaction(scene: ShardScene) -> None:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
    )
    give_up_s = time.monotonic() + 30
    while time.monotonic() < give_up_s:
        with scene.sessions.begin() as session:
            if not session.scalar(query):
                return
        time.sleep(0.05)
    raise AssertionError("a dead worker's transaction is still open")


def test_bundle_that_kills_workers_is_set_aside_alone(scene):
    """Its batch dies with it once; then each is tried alone and only the poison is set aside."""
    upload(scene, range(3))
    ids = scene.sweep()
    poison = ids[1]
    with scene.sessions.begin() as session:
        claim_bundles(session, ids)  # and the worker dies
    for one in ids:
        if one == poison:
            for _ in range(2):
                with scene.sessions.begin() as session:
                    claim_bundles(session, [one])  # and dies again
        outcome = judge(scene, [one], attempts_max=3)[one]
        wanted = JudgingOutcome.POISON if one == poison else JudgingOutcome.JUDGED
        assert outcome == wanted
    assert states(scene) == {"judged": 2, "poison": 1}
    with scene.sessions.begin() as session:
        assert claim_bundles(session, ids) == []


def test_row_that_everybody_forgot_is_found(scene):
    upload(scene, range(1))
    (bundle_id,) = scene.sweep()
    # Its message is lost: no worker ever hears of it. A lease later it is published again.
    assert scene.sweep() == [bundle_id]
    scene.judge_all()
    assert scene.sweep() == []
