"""SIGKILL of the worker between any two steps of a settlement: everybody is paid exactly once."""

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

import pytest
from settlement_scene import Scene

pytestmark = [pytest.mark.postgres, pytest.mark.process]

Run = Callable[..., dict[str, int]]
TICKS_MAX = 100


@pytest.fixture
def run_worker(scene: Scene, database_url: str, tmp_path: Path) -> Iterator[Run]:
    """Runs workers on the scene: `run_worker(kill_at=n)`; 0 lets it come to the end."""
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

    def run(*, kill_at: int = 0, ticks: int = TICKS_MAX) -> dict[str, int]:
        stdin.write(json.dumps({"kill_at": kill_at, "ticks": ticks}) + "\n")
        stdin.flush()
        answer: dict[str, int] = json.loads(stdout.readline())
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
    for factor in (101, 103, 107):
        expected.plan(factor)
        for _ in range(6):
            fault = chance.choice(["reset_after_accept", "http_504", "lose_queue", "stale_replica"])
            scene.devnet.arm(fault, count=chance.randint(1, 3))
            run_worker(kill_at=chance.randint(1, 25))
        scene.devnet.clear_faults()
        assert run_worker()["signal"] == 0
        expected.require()
