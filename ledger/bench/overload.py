"""The bench of overload: twice as much as can be judged, for as long as you like.

Bundles come at twice the rate at which the workers judge them. The collector has to refuse the rest
with 429 or 503 and a Retry-After, keep its memory flat, and judge every bundle that it promised.
Refused bundles are not sent again: what is counted is that nothing promised is missing.
"""

import http.client
import json
import shutil
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from ledger.bench.errors import BenchError
from ledger.bench.ingest_load import Papers, write_papers
from ledger.bench.ingest_parts import IngestParts, running_cluster
from ledger.bench.overload_bundles import BundleMaker
from ledger.bench.report import describe_machine, round_figure
from ledger.bench.usage import read_usage
from ledger.embedded.postgres import create_state_dir
from ledger.evidence.keys import SIGNATURE_SIZE
from ledger.store.bundle_store import find_by_digest
from ledger.store.engine import SessionFactory
from ledger.store.monitor_store import measure_backlog

FACTOR: Final = 2.0
"""Offered bundles for each judged one."""

SENDERS: Final = 8
RATE_FIRST: Final = 40.0
"""Bundles a second before any was judged."""

TICK_S: Final = 0.1
LOOK_S: Final = 1.0
DRAIN_TIMEOUT_S: Final = 600.0
RECEIPTS_PER_BUNDLE: Final = 200
BACKLOG_BUNDLES: Final = 300
_SETTLED: Final = frozenset({"judged", "sealed", "computed", "settled", "sealing"})
_BUSY: Final = frozenset({429, 503})


@dataclass(slots=True)
class Load:
    """What was offered, and how it was answered."""

    offered: int = 0
    promised: list[bytes] = field(default_factory=list)
    """Digests of the bundles that got a promise."""
    refused: Counter[str] = field(default_factory=Counter)
    """By stable code."""
    faults: list[str] = field(default_factory=list)
    """Answers that are neither a promise nor back-pressure."""
    without_wait: int = 0
    """Refusals that did not say when to come again."""


class Sender:
    """Offers bundles to a collector at a given pace; refused ones are let go."""

    def __init__(self, api_url: str, make_bundle: Callable[[int], bytes]) -> None:
        """Prepare.

        Args:
            api_url: The collector's base URL.
            make_bundle: Makes the n-th bundle, each another one.
        """
        self.load = Load()
        self._address = urlsplit(api_url)
        self._make_bundle = make_bundle
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def run(self, seconds: float, judged: Callable[[], int]) -> None:
        """Offer for some time at `FACTOR` times the rate at which bundles are judged.

        Args:
            seconds: How long.
            judged: Tells how many were judged so far.
        """
        began_s = now_s = time.monotonic()
        first, due, looked_s, rate = judged(), 0.0, now_s, RATE_FIRST
        pending: set[Future[None]] = set()
        with ThreadPoolExecutor(SENDERS) as pool:
            while now_s - began_s < seconds:
                time.sleep(TICK_S)
                then_s, now_s = now_s, time.monotonic()
                if now_s - looked_s >= LOOK_S:
                    looked_s = now_s
                    rate = max(RATE_FIRST, FACTOR * (judged() - first) / (now_s - began_s))
                pending = {each for each in pending if not each.done()}
                # What the senders cannot push through is not owed: a second of it at most.
                due = min(due + rate * (now_s - then_s), rate)
                while due >= 1 and len(pending) < 4 * SENDERS:
                    due -= 1
                    pending.add(pool.submit(self._offer, self.load.offered))
                    self.load.offered += 1
            for each in pending:
                each.result()
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def offer_one(self) -> None:
        """Offer one bundle now; with it the first worker meets its first bundle."""
        self.load.offered += 1
        self._offer(self.load.offered - 1)

    def _offer(self, number: int) -> None:
        raw = self._make_bundle(number)
        try:
            status, wait, body = self._post(raw)
        except (OSError, http.client.HTTPException) as error:
            self._local.connection = None
            with self._lock:
                self.load.faults.append(repr(error))
            return
        with self._lock:
            if status == http.HTTPStatus.OK:
                self.load.promised.append(sha256(raw[SIGNATURE_SIZE:]).digest())
            elif status in _BUSY:
                self.load.refused[json.loads(body)["code"]] += 1
                self.load.without_wait += not (wait or "").isdigit()
            else:
                self.load.faults.append(f"{status} {body[:200]!r}")

    def _post(self, raw: bytes) -> tuple[int, str | None, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(
                self._address.hostname or "", self._address.port, timeout=60
            )
            with self._lock:
                self._connections.append(connection)
        connection.request("POST", "/v1/bundles", body=raw)
        answer = connection.getresponse()
        return answer.status, answer.getheader("retry-after"), answer.read()


class MemoryWatch:
    """Resident memory of a process over time, read from outside."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def growth(self) -> float:
        """Return the last third's median over the middle third's; start-up is left out."""
        third = len(self.samples) // 3
        if not third:
            return 1.0
        middle = statistics.median(self.samples[third : 2 * third])
        return statistics.median(self.samples[-third:]) / middle

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                self.samples.append(read_usage(self._pid).resident_bytes)
            except BenchError:
                return


def count_lost(sessions: SessionFactory, promised: Sequence[bytes], receipts: int) -> int:
    """Return how many promised receipts have no verdict of their own.

    Args:
        sessions: The database.
        promised: Digests of the bundles that were promised.
        receipts: In each of them.
    """
    lost = 0
    for digest in promised:
        with sessions.begin() as session:
            stored = find_by_digest(session, digest)
        if stored is None or stored.state not in _SETTLED or stored.code != 0:
            lost += receipts
        else:
            lost += receipts - len(stored.receipt_codes)
    return lost


def count_waiting(sessions: SessionFactory) -> int:
    """Return how many bundles wait for their verdict."""
    with sessions.begin() as session:
        return sum(each.bundle_count for each in measure_backlog(session))


def drain(sessions: SessionFactory) -> float:
    """Wait until every bundle has its verdict; returns the seconds that took.

    Raises:
        BenchError: It takes too long.
    """
    began_s = time.monotonic()
    while waiting := count_waiting(sessions):
        if time.monotonic() - began_s > DRAIN_TIMEOUT_S:
            raise BenchError(f"worker: got {waiting} bundles unjudged, want none")
        time.sleep(TICK_S)
    return time.monotonic() - began_s


def run_overload_bench(seconds: float, workers: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Start the parts, overload them, and count.

    Raises:
        BenchError: A part failed, a promised receipt is missing, or an answer was none of those
            that a sender expects.
    """
    folder = create_state_dir("swarmledger-bench-")
    try:
        papers = write_papers(folder, int(time.time()) - 5)
        with running_cluster(folder) as cluster:
            settings = {"SWARMLEDGER_API_BACKLOG_BUNDLES": str(BACKLOG_BUNDLES)}
            parts = IngestParts(folder, cluster, papers, settings)
            try:
                tell("starting the parts")
                network = parts.start_network(papers.environment["SWARMLEDGER_NETWORK_PASSPHRASE"])
                parts.start(gateway_url=network, workers=workers)
                return _measure(parts, papers, seconds, workers, tell)
            finally:
                parts.stop()
    finally:
        shutil.rmtree(Path(folder), ignore_errors=True)


def _measure(
    parts: IngestParts, papers: Papers, seconds: float, workers: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    tell(f"offering {FACTOR:g} times what is judged, for {seconds:g} s")
    sender = Sender(parts.api_url, BundleMaker(papers.terms, RECEIPTS_PER_BUNDLE).make)

    def judged() -> int:
        return len(sender.load.promised) - count_waiting(parts.sessions)

    sender.offer_one()
    drain(parts.sessions)
    began_s = time.monotonic()
    with MemoryWatch(parts.pid_of("http")) as memory:
        sender.run(seconds, judged)
    load, judged_count = sender.load, judged()
    wall_s = time.monotonic() - began_s
    tell("judging what waits")
    drain_s = drain(parts.sessions)
    lost = count_lost(parts.sessions, load.promised, RECEIPTS_PER_BUNDLE)
    if lost or load.faults or load.without_wait:
        raise BenchError(
            f"overload: got {lost} promised receipts lost, {len(load.faults)} faults "
            f"{load.faults[:3]}, {load.without_wait} refusals without Retry-After, want none"
        )
    figures = {
        "offered_per_judged_ratio": load.offered / max(1, judged_count),
        "offered_bundles_per_s": load.offered / wall_s,
        "judged_bundles_per_s": judged_count / wall_s,
        "judged_receipts_per_s": judged_count * RECEIPTS_PER_BUNDLE / wall_s,
        "refused_share": sum(load.refused.values()) / max(1, load.offered),
        "memory_growth_ratio": memory.growth(),
        "memory_most_mib": max(memory.samples, default=0) / (1 << 20),
        "drain_s": drain_s,
    }
    return {
        "bench": "overload",
        "parameters": {
            "seconds": seconds,
            "runs": 1,
            "workers": workers,
            "receipts_per_bundle": RECEIPTS_PER_BUNDLE,
            "backlog_bundles": BACKLOG_BUNDLES,
        },
        "figures": {key: round_figure(value) for key, value in figures.items()},
        "spreads": {},
        "offered_bundles": load.offered,
        "promised_bundles": len(load.promised),
        "promised_receipts": len(load.promised) * RECEIPTS_PER_BUNDLE,
        "lost_receipts": lost,
        "refused": dict(sorted(load.refused.items())),
        "machine": describe_machine(),
    }
