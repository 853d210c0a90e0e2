"""The bench of a growing epoch: what a receipt costs beside ten million others, and beside few.

Two operators run at once, each with a Postgres of its own; one epoch is filled with synthetic rows
(`ledger.store.synthetic_rows`), so that nobody verifies ten million signatures first. Then the same
bundles go to both, round by round and in turns. Each round counts as a multiple of a loop of C over
its signatures in the same minute, and the growth is the median over pairs of rounds: a processor
that changes its speed changes both. Not here: a round (`ingest`).
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from ledger.bench.ingest import IngestBench, IngestRun
from ledger.bench.ingest_load import write_papers
from ledger.bench.ingest_parts import IngestParts, running_cluster
from ledger.bench.report import Series, describe_machine
from ledger.embedded.postgres import create_state_dir
from ledger.store.sizes import measure_tables
from ledger.store.synthetic_rows import fill_epoch

_GENESIS_AGE_S = 5
_EPOCH = 0


def run_growth_bench(
    bench: IngestBench, epoch_rows: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Start two operators, fill one's epoch, and measure both; returns the report.

    Args:
        bench: A round, and how many pairs of rounds.
        epoch_rows: Receipts that one epoch is filled with before, ≥ 1.
        tell: Told what is done.

    Raises:
        BenchError: A part failed, or a receipt was not counted.
    """
    genesis_s = int(time.time()) - _GENESIS_AGE_S
    with (
        _operator(bench, genesis_s, tell) as (few, _),
        _operator(bench, genesis_s, tell) as (many, parts),
    ):
        # In the first round workers meet the viewers, and partitions are made.
        for run in (few, many):
            run.do_round(0, run.sign(0))
        tell(f"filling an epoch with {epoch_rows:,} rows")
        with parts.sessions.begin() as session:
            fill_epoch(session, _EPOCH, epoch_rows)
            sizes = measure_tables(session)
        for number in range(1, bench.rounds + 1):
            bundles = few.sign(number)
            for run in (few, many) if number % 2 else (many, few):
                run.do_round(number, bundles)
    return _report(bench, epoch_rows, few.series, many.series, sizes)


@contextlib.contextmanager
def _operator(
    bench: IngestBench, genesis_s: int, tell: Callable[[str], None]
) -> Iterator[tuple[IngestRun, IngestParts]]:
    folder = create_state_dir("swarmledger-bench-")
    try:
        papers = write_papers(folder, genesis_s)
        with running_cluster(folder) as cluster:
            parts = IngestParts(folder, cluster, papers)
            try:
                tell("starting the parts of an operator")
                network = parts.start_network(papers.environment["SWARMLEDGER_NETWORK_PASSPHRASE"])
                parts.start(gateway_url=network, workers=bench.workers)
                yield IngestRun(bench, parts, papers, folder, tell), parts
            finally:
                parts.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report(
    bench: IngestBench, epoch_rows: int, few: Series, many: Series, sizes: dict[str, int]
) -> dict[str, Any]:
    pairs = Series()
    for one, other in zip(few.values("cpu_ratio"), many.values("cpu_ratio"), strict=True):
        pairs.add("cpu_per_receipt_growth", one / other)
    for name, series in (("few", few), ("many", many)):
        for key in ("cpu_ratio", "cpu_us_per_receipt", "postgres_us_per_receipt"):
            for value in series.values(key):
                pairs.add(f"{name}_{key}", value)
    # Postgres alone, in units of the signatures: what grows is there.
    keys = ("postgres_us_per_receipt", "raw_us_per_receipt")
    shares = [
        [one / raw for one, raw in zip(*map(series.values, keys), strict=True)]
        for series in (few, many)
    ]
    for one, other in zip(*shares, strict=True):
        pairs.add("postgres_growth_share", other - one)
    figures = pairs.medians()
    return {
        "bench": "ingest growth",
        "parameters": {
            "receipts": bench.receipts,
            "per_bundle": bench.per_bundle,
            "runs": bench.rounds,
            "workers": bench.workers,
            "epoch_rows": epoch_rows,
        },
        "cpu_per_receipt_growth": figures["cpu_per_receipt_growth"],
        "figures": figures | {f"{table}_bytes": size for table, size in sizes.items()},
        "spreads": pairs.spreads(),
        "machine": describe_machine(),
    }
