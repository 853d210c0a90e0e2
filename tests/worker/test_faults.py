"""Real faults under load: killed workers, broker and database, full disk, wrong clocks.

Bundles are sent all the while, as senders do: again until there is a promise. Afterwards every
promise was kept exactly once: all receipts counted, every epoch's file proven, the seeder paid to
the stroop what the files say.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from message_broker import RabbitMq
from operator_processes import BYTES, RunningOperator, make_bundle_of, running_operator, wait_for
from shifted_clock import ShiftedClock

from ledger.audit.file import parse_audit_file
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.embedded.postgres import PostgresCluster, create_state_dir
from ledger.evidence.promise import PROMISE
from ledger.store.migrate import upgrade

pytestmark = [pytest.mark.postgres, pytest.mark.process]

TERMS = {"epoch_length_s": 4, "grace_s": 1}


class Sender(threading.Thread):
    """Sends a bundle after the other until told to stop; each until it is promised."""

    def __init__(self, operator: RunningOperator, api_url: str) -> None:
        super().__init__(daemon=True)
        self.operator, self.api_url = operator, api_url
        self.digests: list[bytes] = []
        self.is_stopped = threading.Event()

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self.api_url, trust_env=False, timeout=20) as client:
            while not self.is_stopped.wait(0.15):
                raw = make_bundle_of(self.operator.terms, self.operator.payee_seed, number=number)
                promise = self._promise_of(client, raw)
                self.digests.append(promise.bundle_digest)
                number += 1

    def _promise_of(self, client: httpx.Client, raw: bytes):
        while True:
            # No answer, or a server's error: whatever became of it, it is sent again.
            with contextlib.suppress(httpx.HTTPError):
                answer = client.post("/v1/bundles", content=raw)
                if answer.status_code == 200:
                    return PROMISE.parse(answer.content).value
                assert answer.status_code in {429, 503}, answer.text
            time.sleep(0.2)

    def stop(self) -> None:
        self.is_stopped.set()
        self.join()


@contextlib.contextmanager
def sending(operator: RunningOperator, api_url: str) -> Iterator[Sender]:
    with httpx.Client(base_url=api_url, trust_env=False) as client:
        wait_for("ready", lambda: client.get("/readyz").status_code == 200)
    sender = Sender(operator, api_url)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()


def wait_for_bundles(sender: Sender, more: int) -> None:
    """Let some more bundles be promised."""
    goal = len(sender.digests) + more
    wait_for(f"{more} promises", lambda: len(sender.digests) >= goal)


def require_kept(operator: RunningOperator, sender: Sender, api_url: str) -> None:
    """Wait until every promise is kept, and check what came of it."""
    with httpx.Client(base_url=api_url, trust_env=False, timeout=20) as client:
        last = 0
        for digest in sender.digests:
            url = f"/v1/bundles/{digest.hex()}"
            wait_for("verdict", lambda url=url: client.get(url).json()["state"] != "received")
            status = client.get(url).json()
            assert status["codes"] == [0], status
            last = max(last, status["sealing_epoch"])
    wait_for("audit files", lambda: len(operator.audit_files()) > last)
    counted = 0
    for path in operator.audit_files()[: last + 1]:
        report = verify_audit_file(path.read_bytes(), operator.trust)
        assert [step for step in report.steps if step.verdict != Verdict.PROVEN] == [], path
        counted += len(parse_audit_file(path.read_bytes()).contents.bundles)
    assert counted == len(sender.digests) == len(set(sender.digests))
    total = 10_000_019 * BYTES * counted // 1_000_003
    charged = total - total * 100_000 // 1_000_000
    wait_for("payment of all", lambda: operator.paid_stroops() >= charged)
    assert operator.paid_stroops() == charged


def start_workers(operator: RunningOperator) -> None:
    for name in ("beat 1", "beat 2"):
        operator.start(name, "worker", "beat")
    for name in ("worker 1", "worker 2"):
        operator.start(name, "worker", "run", "--concurrency", "2")


def test_workers_and_the_broker_die_and_its_messages_are_lost(database_url, tmp_path):
    broker = RabbitMq(tmp_path / "rabbitmq.log")
    try:
        broker.start()
        settings = {"BROKER_URL": broker.url}
        with running_operator(tmp_path, database_url, settings, **TERMS) as operator:
            api_url = operator.start_api()
            start_workers(operator)
            with sending(operator, api_url) as sender:
                wait_for_bundles(sender, 10)
                operator.processes.kill(operator.started["worker 1"])
                wait_for_bundles(sender, 10)
                broker.kill()
                wait_for_bundles(sender, 10)
                broker.wipe()
                broker.start()
                operator.start("worker 1", "worker", "run", "--concurrency", "2")
                wait_for_bundles(sender, 10)
            require_kept(operator, sender, api_url)
    finally:
        broker.close()


@pytest.fixture
def durable_cluster() -> Iterator[PostgresCluster]:
    """A cluster that may be killed: nobody else's, and it syncs what it commits."""
    state_dir = create_state_dir("swarmledger-tests-")
    try:
        with PostgresCluster(state_dir / "cluster") as cluster:
            yield cluster
    finally:
        shutil.rmtree(state_dir, ignore_errors=True)


def kill_postgres(cluster: PostgresCluster) -> None:
    """End the server and all its backends as a power cut would."""
    with psycopg.connect(cluster.conninfo()) as connection:
        (folder,) = connection.execute("SHOW data_directory").fetchone()
    postmaster = int((Path(folder) / "postmaster.pid").read_text().splitlines()[0])
    children = subprocess.run(
        ["pgrep", "-P", str(postmaster)], capture_output=True, text=True, check=False
    ).stdout
    for pid in [postmaster, *map(int, children.split())]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("needs root to mount a file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all room that is left."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass
    return ballast


@contextlib.contextmanager
def stable_socket(cluster: PostgresCluster) -> Iterator[Callable[[], str]]:
    """A URL of a cluster that stays the same over restarts: a server's address does not change."""
    folder = Path(tempfile.mkdtemp(prefix="swarmledger-tests-"))
    folder.chmod(0o755)
    link = folder / "pg"

    def point() -> str:
        link.unlink(missing_ok=True)
        link.symlink_to(cluster.socket_dir)
        return cluster.url().replace(str(cluster.socket_dir), str(link))

    try:
        yield point
    finally:
        shutil.rmtree(folder)


def test_the_database_dies_the_disk_is_full_and_clocks_are_an_hour_wrong(durable_cluster, tmp_path):
    upgrade(durable_cluster.url())
    clock = ShiftedClock(tmp_path / "clock")
    settings = {
        **clock.environment,
        # Else the API takes nothing more while the disk is full, and no seal meets it.
        "SWARMLEDGER_API_DISK_FREE_BYTES": "0",
    }
    with (
        small_disk(tmp_path / "log") as log_dir,
        stable_socket(durable_cluster) as point,
        running_operator(tmp_path, point(), settings, **TERMS) as operator,
    ):
        api_url = operator.start_api()
        start_workers(operator)
        with sending(operator, api_url) as sender:
            wait_for_bundles(sender, 5)
            for seconds in (3_600, -3_600):
                clock.shift(seconds)
                wait_for_bundles(sender, 5)
            kill_postgres(durable_cluster)
            durable_cluster.stop()
            durable_cluster.start()
            point()
            wait_for_bundles(sender, 5)
            ballast = fill(log_dir)
            logs = [tmp_path / f"worker {number}.log" for number in (1, 2)]
            wait_for("full disk", lambda: any("No space left" in x.read_text() for x in logs))
            wait_for_bundles(sender, 5)
            ballast.unlink()
            wait_for_bundles(sender, 5)
        require_kept(operator, sender, api_url)
