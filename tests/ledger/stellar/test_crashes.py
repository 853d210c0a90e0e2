"""SIGKILL of the worker between any two steps of a settlement: everybody is paid exactly once.

Every run kills before and after each kind of commit and submission. With SWARMLEDGER_LONG_TESTS set
the worker also dies at every single step of a whole settlement, which takes minutes.
"""

import json
import os
import pickle
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from settlement_scene import Scene

pytestmark = [pytest.mark.postgres, pytest.mark.process]

Run = Callable[..., dict[str, Any]]
TICKS_MAX = 100
IS_LONG = bool(os.environ.get("SWARMLEDGER_LONG_TESTS"))
MOMENTS = {"before commit", "after commit", "before submission", "after submission"}


@pytest.fixture
def run_worker(scene: Scene, database_url: str, tmp_path: Path) -> Iterator[Run]:
    """Runs workers on the scene, which die at a step's number or name, or come to the end."""
    path = tmp_path / "domain.pickle"
    path.write_bytes(pickle.dumps(scene.domain))
    script = Path(__file__).with_name("crashing_worker.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(path), database_url, scene.devnet.url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def run(*, kill_at: int = 0, kill_in: str = "", ticks: int = TICKS_MAX) -> dict[str, Any]:
        order = {"kill_at": kill_at, "kill_in": kill_in, "ticks": ticks}
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    yield run
    process.communicate()


class Expected:
    """What each payee must have got so far; amounts are primes times a round, so none cancels."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._total = dict.fromkeys(scene.payees, 0)

    def plan(self, factor: int) -> None:
        ann, ben, cay = self._scene.payees
        groups = ({ann: 2 * factor, ben: 3 * factor}, {cay: 5 * factor, ann: 7 * factor})
        for group in groups:
            for account, stroops in group.items():
                self._total[account] += stroops
        self._scene.plan(*groups)

    def require(self) -> None:
        assert self._scene.paid() == self._total
        assert self._scene.balance(self._scene.made.payout) == 0
        assert set(self._scene.states()) == {"paid"}


def test_worker_killed_around_each_kind_of_commit_and_submission_pays_everybody_once(
    scene: Scene, run_worker: Run
) -> None:
    """One worker after the other dies, each at the next kind of step of what is under way."""
    expected = Expected(scene)
    expected.plan(1)
    names: list[str] = run_worker()["names"]
    expected.require()
    assert {name.partition(" of ")[0] for name in names} == MOMENTS
    assert len(names) >= len(MOMENTS) * 5
    expected.plan(3)
    for round_number, name in enumerate(names):
        killed = run_worker(kill_in=name)
        if killed["signal"] == 0:
            # The settlement under way was beyond this kind of step, and has come to its end.
            expected.require()
            expected.plan(5 + round_number)
            killed = run_worker(kill_in=name)
        assert killed["signal"] == signal.SIGKILL, name
    assert run_worker()["signal"] == 0
    expected.require()


@pytest.mark.skipif(not IS_LONG, reason="long: set SWARMLEDGER_LONG_TESTS")
@pytest.mark.timeout(900)
def test_worker_killed_at_any_step_pays_everybody_once(scene: Scene, run_worker: Run) -> None:
    expected = Expected(scene)
    expected.plan(1)
    whole = run_worker()
    expected.require()
    assert whole["signal"] == 0
    assert whole["steps"] > 20
    for kill_at in range(1, whole["steps"] + 1):
        expected.plan(10 + kill_at)
        killed = run_worker(kill_at=kill_at)
        # The number of steps depends on the ticks between two closes, so late kills may miss.
        assert killed["signal"] == signal.SIGKILL or kill_at > whole["steps"] // 2
        assert run_worker()["signal"] == 0
        expected.require()


@pytest.mark.timeout(600)
def test_worker_killed_again_and_again_pays_everybody_once(scene: Scene, run_worker: Run) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    expected = Expected(scene)
    for factor in (101, 103, 107)[: 3 if IS_LONG else 1]:
        expected.plan(factor)
        for _ in range(6):
            fault = chance.choice(["reset_after_accept", "http_504", "lose_queue", "stale_replica"])
            scene.devnet.arm(fault, count=chance.randint(1, 3))
            run_worker(kill_at=chance.randint(1, 25))
        scene.devnet.clear_faults()
        assert run_worker()["signal"] == 0
        expected.require()
