"""Twice what can be judged: refusals say when to come again, memory stays, no promise is broken."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from killable_api import KillableApi
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import make_entitlement, make_payee_bundle, make_receipt, seed

from ledger.bench.overload import MemoryWatch, Sender, count_lost, count_waiting
from ledger.sealing.judging import judge_bundle

pytestmark = [pytest.mark.postgres, pytest.mark.process]

RECEIPTS = 40
SECONDS = 60.0 if os.environ.get("SWARMLEDGER_LONG_TESTS") == "1" else 8.0
LIMITS = {"backlog_bundles": 40, "broadcaster_percent": 100, "sender_per_s": 10_000}
MEMORY_GROWTH_MOST = 1.25


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(1)
        yield made


@pytest.fixture
def api(scene: ShardScene, database_url: str, tmp_path: Path) -> Iterator[KillableApi]:
    made = KillableApi(database_url, tmp_path, scene.clock.ledger.close_time_s, LIMITS)
    made.start()
    yield made
    made.kill()


def test_overload_is_refused_and_every_promise_is_kept(scene, api):
    ann = make_entitlement(scene.operator, "ann")
    receipts = [make_receipt(ann, "ann", "seeder", 1, 999_983, nonce=n) for n in range(RECEIPTS)]
    sender = Sender(api.url, lambda number: make_payee_bundle("seeder", 1, [ann], receipts, number))
    is_over = threading.Event()

    def judge() -> None:
        """A worker that has time for a bundle now and then."""
        while not is_over.wait(0.2):
            for bundle_id in scene.sweep()[:2]:
                judge_bundle(scene.sessions, bundle_id, attempts_max=5, log_seed=seed("log"))

    worker = threading.Thread(target=judge)
    worker.start()
    with MemoryWatch(api.process.pid) as memory:
        sender.run(SECONDS, lambda: len(sender.load.promised) - count_waiting(scene.sessions))
    is_over.set()
    worker.join()
    load = sender.load
    assert load.faults == []
    assert load.without_wait == 0
    assert set(load.refused) <= {"backlog_full", "sender_backlog_full", "busy"}
    assert load.refused["backlog_full"] + load.refused["sender_backlog_full"] > 0
    assert len(load.promised) + sum(load.refused.values()) == load.offered
    # One process: what it took since the last look is known exactly.
    assert count_waiting(scene.sessions) <= LIMITS["backlog_bundles"]
    while count_waiting(scene.sessions):
        scene.judge_all()
    assert count_lost(scene.sessions, load.promised, RECEIPTS) == 0
    assert memory.growth() < MEMORY_GROWTH_MOST
