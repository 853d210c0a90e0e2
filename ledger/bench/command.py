"""The command `swarmledger bench`: one subcommand a bench.

Progress goes to standard error; standard output holds the report, a table or JSON. Exit status: 0
measured, 1 something failed or did not add up, 2 wrong options.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ledger.bench.cdn_event import EventFaults
from ledger.bench.devnet_speed import run_devnet_bench
from ledger.bench.engine import KINDS, EngineBench, run_engine_bench
from ledger.bench.errors import BenchError
from ledger.bench.ingest import IngestBench, run_ingest_bench
from ledger.bench.ingest_growth import run_growth_bench
from ledger.bench.live import LiveBench, run_live_bench
from ledger.bench.overload import run_overload_bench
from ledger.bench.playback import PlaybackBench, run_playback_bench
from ledger.bench.rebuild import RebuildBench, run_rebuild_bench
from ledger.bench.reconcile import ReconcileBench, run_reconcile_bench
from ledger.bench.report import format_flat, format_json, format_table
from ledger.bench.rules import RulesBench, run_rules_bench
from ledger.bench.seal import EpochSize, run_seal_bench
from ledger.bench.settlement_sim import SettlementBench, run_settlement_bench
from ledger.bench.shaped_network import Shape
from ledger.bench.verify import run_verify_bench
from ledger.rebuilding.errors import RebuildError

QUICK_SIZE_MIB = 96
QUICK_PACE_S = 4.0
MIB = 1 << 20

app = typer.Typer(
    name="swarmledger bench",
    help="Measure what the product costs on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INCOMPLETE: Final = 3
"""Exit status of a run that was interrupted and printed what it had."""

Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.callback()
def group() -> None:
    """Measure what the product costs on this machine."""


@app.command()
def engine(
    size: Annotated[int, typer.Option(min=32, help="MiB of a transfer at full speed.")] = 512,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Of each kind; medians count.")] = 3,
    kind: Annotated[
        list[str] | None, typer.Option(help="v1, v2 or hybrid; repeatable; default: all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One short run: whether it works, not how fast.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare metered engines with plain libtorrent: rate, processor, memory, start-up.

    Takes about a minute a run and kind, and twice the size in the temporary folder.
    """
    try:
        bench = EngineBench(
            size_bytes=(QUICK_SIZE_MIB if quick else size) * MIB,
            runs=1 if quick else runs,
            kinds=tuple(kind or KINDS),
            pace_seconds=QUICK_PACE_S if quick else 10.0,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        report = run_engine_bench(bench, tell=_tell)
    except (BenchError, OSError) as error:
        typer.echo(f"swarmledger bench: {error}", err=True)
        raise typer.Exit(1) from None
    sys.stdout.write(format_json(report) if as_json else format_table(report))


@app.command()
def playback(
    mbit: Annotated[int, typer.Option(min=1, help="The film's rate in Mb/s.")] = 85,
    length: Annotated[int, typer.Option(min=20, help="The film's length in seconds.")] = 60,
    seeks: Annotated[int, typer.Option(min=1, help="Jumps of each run.")] = 5,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Of each uplink; medians count.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure what a viewer sees: start, seeks, stalls, with metering on.

    Takes twice the film's length and some seconds a run, and four times its size in the temporary
    folder.
    """
    bench = PlaybackBench(mbit_per_s=mbit, film_s=length, seeks=seeks, runs=runs)
    try:
        report = run_playback_bench(bench, tell=_tell)
    except (BenchError, OSError) as error:
        typer.echo(f"swarmledger bench: {error}", err=True)
        raise typer.Exit(1) from None
    sys.stdout.write(format_json(report) if as_json else format_table(report))


@app.command()
def live(
    viewers: Annotated[int, typer.Option(min=1, max=120, help="Viewing processes.")] = 5,
    seconds: Annotated[float, typer.Option(min=5, help="How long to measure.")] = 30.0,
    rate_kbps: Annotated[int, typer.Option(min=100, help="Rate of the stream.")] = 2000,
    shaped: Annotated[
        bool, typer.Option("--shaped", help="30 ms delay and 1 % loss each way; needs root.")
    ] = False,
    delay_ms: Annotated[float, typer.Option(min=0, help="With --shaped.")] = 30.0,
    loss: Annotated[float, typer.Option(min=0, max=0.5, help="With --shaped.")] = 0.01,
    churn: Annotated[
        float, typer.Option(min=0, max=2, help="Share of viewers replaced per minute.")
    ] = 0.0,
    cdn: Annotated[bool, typer.Option(help="Let viewers ask the CDN.")] = True,
    as_json: Json = False,
) -> None:
    """Measure a live stream: delay, joining, stalls, offload, the source's upload."""
    bench = LiveBench(
        viewers=viewers,
        seconds=seconds,
        rate_kbps=rate_kbps,
        churn_share=churn,
        shape=Shape(delay_ms=delay_ms, loss=loss) if shaped else None,
        uses_cdn=cdn,
    )
    try:
        report = run_live_bench(bench, tell=_tell)
    except (BenchError, OSError) as error:
        typer.echo(f"swarmledger bench: {error}", err=True)
        raise typer.Exit(1) from None
    sys.stdout.write(format_json(report) if as_json else format_table(report))


Receipts = Annotated[int, typer.Option(min=10, help="Receipts of the epoch.")]
PerBundle = Annotated[
    int, typer.Option(min=1, help="Receipts of a bundle; every viewer has 10 payees.")
]
Runs = Annotated[int, typer.Option(min=1, max=100, help="Medians count.")]
Scratch = Annotated[
    Path, typer.Option(help="Folder where the epoch is kept; 0.7 GB a million receipts, twice.")
]
DEFAULT_SCRATCH = Path(tempfile.gettempdir()) / "swarmledger-bench"


@app.command()
def seal(
    receipts: Receipts = 1_000_000,
    per_bundle: PerBundle = 1_000,
    runs: Runs = 1,
    folder: Scratch = DEFAULT_SCRATCH,
    as_json: Json = False,
) -> None:
    """Measure what an epoch's seal costs, from stored verdicts to tiles and a checkpoint."""
    _report(lambda: run_seal_bench(_size(receipts, per_bundle, folder), runs, _tell), as_json)


@app.command()
def verify(
    receipts: Receipts = 1_000_000,
    per_bundle: PerBundle = 1_000,
    runs: Runs = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of the verifier.")] = 1,
    folder: Scratch = DEFAULT_SCRATCH,
    as_json: Json = False,
) -> None:
    """Measure what the verifier costs, as a multiple of its signatures alone."""
    _report(
        lambda: run_verify_bench(_size(receipts, per_bundle, folder), runs, jobs, _tell), as_json
    )


@app.command()
def ingest(
    receipts: Annotated[int, typer.Option(min=10, help="Receipts of a round.")] = 50_000,
    per_bundle: PerBundle = 1_000,
    runs: Annotated[int, typer.Option(min=1, max=1_000, help="Rounds; medians count.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the worker.")] = 2,
    epoch_rows: Annotated[
        int, typer.Option(min=0, help="Compare with an epoch that holds so many receipts; 0: no.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Measure what taking receipts in costs, as a multiple of their signatures alone.

    Collector, worker, Postgres and schedule run as processes; also prints what 1 and 30 million
    viewers take. With `--epoch-rows` two operators run and the same bundles go to both in turns;
    a million rows take 0.2 GB.
    """

    def measure() -> dict[str, Any]:
        try:
            bench = IngestBench(
                receipts=receipts, per_bundle=per_bundle, rounds=runs, workers=workers
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        if epoch_rows:
            return run_growth_bench(bench, epoch_rows, _tell)
        return run_ingest_bench(bench, _tell)

    _report(measure, as_json)


@app.command()
def rules(
    lanes: Annotated[int, typer.Option(min=1, help="Lanes of the epoch.")] = 100_000,
    per_viewer: Annotated[int, typer.Option(min=1, help="Lanes of each viewer.")] = 10,
    runs: Runs = 3,
    as_json: Json = False,
) -> None:
    """Measure what the standard rule costs a lane: values in, the rule, its result checked."""
    bench = RulesBench(lanes=lanes, per_viewer=per_viewer, runs=runs)
    _report(lambda: run_rules_bench(bench, _tell), as_json)


@app.command()
def devnet(
    ledgers: Annotated[int, typer.Option(min=1, help="Network ledgers of a run.")] = 10,
    channels: Annotated[
        int, typer.Option(min=1, max=100, help="Batches of 100 payments in each.")
    ] = 10,
    runs: Runs = 3,
    as_json: Json = False,
) -> None:
    """Measure payments the devnet applies a second of one core, in memory and in a file."""
    _report(lambda: run_devnet_bench(runs, ledgers, channels, _tell), as_json)


def _size(receipts: int, per_bundle: int, folder: Path) -> EpochSize:
    try:
        return EpochSize(receipts=receipts, per_bundle=per_bundle, folder=folder)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _report(measure: Callable[[], dict[str, Any]], as_json: bool) -> None:
    try:
        report = measure()
    except (BenchError, OSError) as error:
        typer.echo(f"swarmledger bench: {error}", err=True)
        raise typer.Exit(1) from None
    sys.stdout.write(format_json(report) if as_json else format_table(report))


@app.command()
def reconcile(
    viewers: Annotated[int, typer.Option(min=1, help="Viewers of the event.")] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same event.")] = 1,
    as_json: Json = False,
) -> None:
    """Simulate an event of three CDNs with known faults, and tell what reconciliation finds.

    Exit status 1 if a cause is off by more than 0.1 percentage points, or the wrong CDN is named.
    """
    bench = ReconcileBench(viewers=viewers, seed=seed, faults=EventFaults())
    report = run_reconcile_bench(bench, tell=_tell)
    sys.stdout.write(format_json(report) if as_json else format_table(report))
    if not report["is_recovered"]:
        raise typer.Exit(1)


@app.command("settlement-sim")
def settlement_sim(
    payouts: Annotated[int, typer.Option(min=1, help="Least payouts to simulate.")] = 1_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same worlds.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Worlds side by side.")] = 1,
    every_pair: Annotated[
        bool,
        typer.Option("--every-pair", help="Go on until one died at each moment under each fault."),
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(help="Keep here what worlds came to; a run that ended early goes on from it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Pay under faults, kills and restored backups: nobody twice, nothing lost.

    The production code settles on a devnet in virtual time; a policy that pays again after a
    timeout shows that the faults bite. Exit status 1 if an invariant did not hold, 3 if it was
    interrupted: then the report is of the worlds that came to their end.
    """
    bench = SettlementBench(
        payouts=payouts, seed=seed, jobs=jobs, every_pair=every_pair, state_path=state
    )
    try:
        report = run_settlement_bench(bench, _tell)
    except (BenchError, OSError) as error:
        typer.echo(f"swarmledger bench: {error}", err=True)
        raise typer.Exit(1) from None
    sys.stdout.write(format_json(report) if as_json else format_flat(report))
    if not report["is_complete"]:
        raise typer.Exit(INCOMPLETE)


@app.command()
def rebuild(
    payouts: Annotated[int, typer.Option(min=10, help="Payouts; a multiple of 10.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Rebuild books and payouts from log, spools and chain, and compare the state hash."""
    try:
        bench = RebuildBench(payouts=payouts)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        report = run_rebuild_bench(bench, _tell)
    except (BenchError, RebuildError, OSError) as error:
        typer.echo(f"swarmledger bench: {error}", err=True)
        raise typer.Exit(1) from None
    sys.stdout.write(format_json(report) if as_json else format_flat(report))
    if not report["identical_state_hash"]:
        raise typer.Exit(1)


@app.command()
def overload(
    seconds: Annotated[float, typer.Option(min=5, help="How long to overload.")] = 60.0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Judging processes.")] = 1,
    as_json: Json = False,
) -> None:
    """Offer a collector twice what its workers judge: memory, refusals, promises kept."""
    try:
        report = run_overload_bench(seconds, workers, tell=_tell)
    except (BenchError, OSError) as error:
        typer.echo(f"swarmledger bench: {error}", err=True)
        raise typer.Exit(1) from None
    sys.stdout.write(format_json(report) if as_json else format_table(report))


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Entry point of `swarmledger bench`."""
    app()
