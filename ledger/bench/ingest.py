"""The bench of ingest: what an accepted receipt costs, against a loop of C over its signatures.

Real parts as processes; bundles that were signed before are uploaded over HTTP and judged. The
processor time of collector, worker, Postgres and schedule is summed; that of this process, which
signs and uploads, is left out. Before and after each round a loop of C verifies signatures of the
same bundles, so that a drift of the machine's speed hits both alike. Every signature counts once
each time that it is verified: a bundle's own by the collector and by the worker, an entitlement's
only in the first round (a worker remembers it).
"""

import contextlib
import http.client
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ledger.bench.capacity import capacity_of
from ledger.bench.errors import BenchError
from ledger.bench.ingest_load import (
    PAYEES_PER_VIEWER,
    Papers,
    Yardsticks,
    sign_bundles,
    write_papers,
)
from ledger.bench.ingest_parts import MEASURED, IngestParts, running_cluster
from ledger.bench.report import Series, describe_machine
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.embedded.postgres import create_state_dir
from ledger.store.monitor_store import list_verdicts, measure_backlog, newest_bundle_id
from ledger.store.sizes import measure_tables

UPLOADERS: Final = 4
POLL_S: Final = 0.1
IDLE_S: Final = 4.0
ROUND_TIMEOUT_S: Final = 900.0
SAMPLES: Final = 2
"""Bundles that the loop of C verifies before a round, and again after it."""

_GENESIS_AGE_S: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestBench:
    """What to measure."""

    receipts: int
    """Of a round."""

    per_bundle: int
    rounds: int
    """After a first one, in which the workers meet the viewers."""

    workers: int
    """Processes of the worker."""

    def __post_init__(self) -> None:
        if self.receipts % (PAYEES_PER_VIEWER * self.per_bundle):
            raise ValueError(
                f"receipts: got {self.receipts}, "
                f"want a multiple of {PAYEES_PER_VIEWER * self.per_bundle}"
            )


def run_ingest_bench(bench: IngestBench, tell: Callable[[str], None]) -> dict[str, Any]:
    """Start the parts and measure; returns the report.

    Raises:
        BenchError: A part failed, or a receipt was not counted.
    """
    folder = create_state_dir("swarmledger-bench-")
    try:
        papers = write_papers(folder, int(time.time()) - _GENESIS_AGE_S)
        with running_cluster(folder) as cluster:
            parts = IngestParts(folder, cluster, papers)
            try:
                tell("starting the parts")
                network = parts.start_network(papers.environment["SWARMLEDGER_NETWORK_PASSPHRASE"])
                parts.start(gateway_url=network, workers=bench.workers)
                return IngestRun(bench, parts, papers, folder, tell).measure()
            finally:
                parts.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class IngestRun:
    """Rounds of uploads to one operator."""

    def __init__(
        self,
        bench: IngestBench,
        parts: IngestParts,
        papers: Papers,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        self._bench, self._parts, self._papers = bench, parts, papers
        self._folder, self._tell = folder, tell
        self.series = Series()
        """What the rounds came to."""

    def measure(self) -> dict[str, Any]:
        """Do all rounds; returns the report."""
        self._measure_idle()
        for number in range(self._bench.rounds + 1):
            self._tell(f"round {number}: signing {self._bench.receipts:,} receipts")
            self.do_round(number, self.sign(number))
        figures = self.series.medians()
        with self._parts.sessions.begin() as session:
            sizes = measure_tables(session)
        total = self._bench.receipts * (self._bench.rounds + 1)
        figures |= {
            f"{table}_bytes_per_receipt": round(size / total, 1) for table, size in sizes.items()
        }
        headline = (
            "cpu_ratio", "wall_ratio", "receipts_per_s", "raw_verify_per_s",
            "signatures_per_receipt",
        )  # fmt: skip
        return {
            "bench": "ingest",
            "parameters": {
                "receipts": self._bench.receipts,
                "per_bundle": self._bench.per_bundle,
                "runs": self._bench.rounds,
                "workers": self._bench.workers,
            },
            **{key: figures[key] for key in headline},
            "figures": figures,
            "spreads": self.series.spreads(),
            "capacity": capacity_of(figures),
            "machine": describe_machine(),
        }

    def _measure_idle(self) -> None:
        """Note what the parts use while nobody sends; a round includes it while it lasts."""
        time.sleep(IDLE_S)
        before = self._parts.cpu_seconds()
        time.sleep(IDLE_S)
        for name, seconds in self._parts.cpu_seconds().items():
            self.series.add(f"idle_{name}_cores", (seconds - before[name]) / IDLE_S)

    def sign(self, number: int) -> list[bytes]:
        """Return the bundles of a round."""
        return list(
            sign_bundles(
                self._papers.terms,
                receipts=self._bench.receipts,
                per_bundle=self._bench.per_bundle,
                first_group=0,
                round_number=number,
            )
        )

    def do_round(self, number: int, bundles: Sequence[bytes]) -> None:
        """Upload bundles, wait until they are judged, and note what it took.

        Raises:
            BenchError: A part failed, or a receipt was not counted.
        """
        yardsticks = Yardsticks(self._folder)
        for raw in bundles[:SAMPLES]:
            yardsticks.verify(raw)
        after, before = self._newest(), self._parts.cpu_seconds()
        began_s = time.monotonic()
        self._upload(bundles)
        self._wait_until_judged()
        wall_s = time.monotonic() - began_s
        used = {name: seconds - before[name] for name, seconds in self._parts.cpu_seconds().items()}
        for raw in bundles[-SAMPLES:]:
            yardsticks.verify(raw)
        self._require_counted(after, len(bundles))
        self._note(number, len(bundles), yardsticks, used, wall_s)

    def _note(
        self,
        number: int,
        bundle_count: int,
        yardsticks: Yardsticks,
        used: dict[str, float],
        wall_s: float,
    ) -> None:
        receipts, cores = self._bench.receipts, min(2, self._bench.workers)
        viewers = receipts // PAYEES_PER_VIEWER if number == 0 else 0
        signatures = receipts + 2 * bundle_count + viewers
        raw_s = (
            receipts * yardsticks.receipt_s
            + 2 * bundle_count * yardsticks.bundle_s
            + viewers * yardsticks.entitlement_s
        )
        cpu_s = sum(used.values())
        kind = "first_round_" if number == 0 else ""
        add = self.series.add
        add(f"{kind}cpu_ratio", raw_s / cpu_s)
        add(f"{kind}wall_ratio", raw_s / cores / wall_s)
        add(f"{kind}receipts_per_s", receipts / wall_s)
        add(f"{kind}raw_verify_per_s", signatures / raw_s)
        add(f"{kind}signatures_per_receipt", signatures / receipts)
        add(f"{kind}cpu_us_per_receipt", cpu_s / receipts * 1e6)
        add(f"{kind}raw_us_per_receipt", raw_s / receipts * 1e6)
        for name in MEASURED:
            add(f"{kind}{name}_us_per_receipt", used[name] / receipts * 1e6)
        parts = ", ".join(f"{name} {used[name] / receipts * 1e6:.1f}" for name in MEASURED)
        self._tell(
            f"round {number}: ratio {raw_s / cpu_s:.3f}, {receipts / wall_s:,.0f} receipts/s, "
            f"raw {raw_s / receipts * 1e6:.1f} µs of {cpu_s / receipts * 1e6:.1f} ({parts})"
        )

    def _newest(self) -> int:
        with self._parts.sessions.begin() as session:
            return newest_bundle_id(session)

    def _upload(self, bundles: Sequence[bytes]) -> None:
        address = urlsplit(self._parts.api_url)

        def post_all(share: Sequence[bytes]) -> None:
            host, port = address.hostname or "", address.port
            with contextlib.closing(http.client.HTTPConnection(host, port, timeout=120)) as sender:
                for raw in share:
                    sender.request("POST", "/v1/bundles", body=raw)
                    answer = sender.getresponse()
                    body = answer.read()
                    if answer.status != http.HTTPStatus.OK:
                        raise BenchError(f"upload: got {answer.status} {body[:300]!r}, want 200")

        with ThreadPoolExecutor(UPLOADERS) as pool:
            shares = [bundles[at::UPLOADERS] for at in range(UPLOADERS)]
            for _ in pool.map(post_all, shares):
                pass

    def _wait_until_judged(self) -> None:
        give_up_s = time.monotonic() + ROUND_TIMEOUT_S
        while time.monotonic() < give_up_s:
            with self._parts.sessions.begin() as session:
                if not any(one.bundle_count for one in measure_backlog(session)):
                    return
            time.sleep(POLL_S)
        raise BenchError(f"worker: got bundles unjudged after {ROUND_TIMEOUT_S} s, want none")

    def _require_counted(self, after: int, count: int) -> None:
        left = count
        while left:
            with self._parts.sessions.begin() as session:
                verdicts = list_verdicts(session, after=after)
            if not verdicts:
                raise BenchError(f"verdicts: got {count - left}, want {count}")
            for one in verdicts:
                if one.code != BundleCode.ACCEPTED or any(one.receipt_codes):
                    raise BenchError(
                        f"bundle {one.bundle_id}: got code {int(one.code)} and receipts' codes "
                        f"{set(one.receipt_codes)}, want all {int(ReceiptCode.COUNTED)}"
                    )
            after, left = verdicts[-1].bundle_id, left - len(verdicts)
