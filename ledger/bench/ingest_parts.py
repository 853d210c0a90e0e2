"""The parts that take bundles in, as processes: Postgres, collector, worker, schedule, a network.

Started as an operator starts them, with the broker in the same Postgres; what each has used is read
from /proc with all of its children. The network only tells the time and is left out of the sums.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ledger.bench.errors import BenchError
from ledger.bench.ingest_load import Papers
from ledger.embedded.postgres import PostgresCluster
from ledger.store.engine import SessionFactory, make_session_factory, open_engine
from ledger.store.migrate import upgrade

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
_LOG_TAIL = 1500
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

SERVER_SETTINGS: Final[Mapping[str, str]] = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
}
"""Postgres as on a server, not as on a laptop."""

MEASURED: Final = ("http", "worker", "postgres", "broker")
"""Parts whose processor time counts; the broker's queue is in Postgres, its clock is the beat."""


class IngestParts:
    """Running parts of one operator."""

    def __init__(
        self,
        folder: Path,
        cluster: PostgresCluster,
        papers: Papers,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._postgres_pid = _postmaster_pid(folder)
        self._environment = {
            **os.environ,
            **papers.environment,
            "DATABASE_URL": cluster.url(),
            "SWARMLEDGER_API_ADDRESS_PER_S": "100000",
            "SWARMLEDGER_API_BACKLOG_BUNDLES": "1000000",
            "SWARMLEDGER_API_BACKLOG_BYTES": str(1 << 40),
            "SWARMLEDGER_API_SENDER_PER_S": "100000",
            **(settings or {}),
        }
        self._engine = open_engine(cluster.url(), pool_size=1)
        self.sessions: SessionFactory = make_session_factory(self._engine)
        self.api_url = ""

    def start(self, *, gateway_url: str, workers: int) -> None:
        """Register the broadcaster and start collector, worker and schedule."""
        self._environment["SWARMLEDGER_GATEWAY_URL"] = gateway_url
        register = self._spawn("register", "db", "register")
        if register.wait(START_TIMEOUT_S):
            raise BenchError(f"register: {self._log_tail('register')}")
        ready = self._folder / "api.ready"
        self._spawn("http", "api", "serve", "--listen", "127.0.0.1:0", "--ready-file", str(ready))
        self._spawn("worker", "worker", "run", "--concurrency", str(workers))
        self._spawn("broker", "worker", "beat")
        self.api_url = self._wait_for_url("http", ready)

    def start_network(self, passphrase: str) -> str:
        """Start the network that tells the time; return its URL."""
        ready = self._folder / "network.ready"
        arguments = ("--passphrase", passphrase, "--close-seconds", "1")
        self._spawn("network", "devnet", "serve", *arguments, "--ready-file", str(ready))
        return self._wait_for_url("network", ready)

    def pid_of(self, name: str) -> int:
        """Return the process number of a part that runs."""
        return self._processes[name].pid

    def cpu_seconds(self) -> dict[str, float]:
        """Return what each measured part has used so far, its children included.

        Raises:
            BenchError: A part has ended.
        """
        for name, process in self._processes.items():
            if name != "register" and process.poll() is not None:
                raise BenchError(f"{name}: ended with {process.returncode}: {self._log_tail(name)}")
        pids = {name: self._processes[name].pid for name in MEASURED if name != "postgres"}
        pids["postgres"] = self._postgres_pid
        children = _children()
        return {name: _tree_seconds(pids[name], children) for name in MEASURED}

    def stop(self) -> None:
        """Stop everything but Postgres, the last started first."""
        self._engine.dispose()
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            if process.poll() is None:
                process.kill()
                process.wait()

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ledger.cli", *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes[name] = process
        return process

    def _wait_for_url(self, name: str, ready: Path) -> str:
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up_s:
            if ready.exists() and (text := ready.read_text().strip()):
                return str(json.loads(text)["url"]) if text.startswith("{") else text
            if self._processes[name].poll() is not None:
                break
            time.sleep(0.1)
        raise BenchError(f"{name}: does not start: {self._log_tail(name)}")

    def _log_tail(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-_LOG_TAIL:].strip()


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[PostgresCluster]:
    """Run a Postgres with the newest schema."""
    with PostgresCluster(folder / "postgres", settings=SERVER_SETTINGS) as cluster:
        upgrade(cluster.url())
        yield cluster


def _postmaster_pid(folder: Path) -> int:
    lines = (folder / "postgres" / "pgdata" / "postmaster.pid").read_text().split()
    return int(lines[0])


def _children() -> dict[int, list[int]]:
    """Return the children of every process."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(path.name))
    return found


def _tree_seconds(pid: int, children: Mapping[int, list[int]]) -> float:
    """Return the processor time of a process, its living and its ended children."""
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    own = sum(int(field) for field in fields[11:15]) / _TICKS_PER_S
    return own + sum(_tree_seconds(child, children) for child in children.get(pid, []))
