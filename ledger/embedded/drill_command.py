"""The command `swarmledger drill`: disasters rehearsed on real parts.

    swarmledger drill operator-dies [--payees N] [--json]

Exit status: 0 everybody was paid exactly, 1 not, or something failed, 2 wrong options, 130
interrupted. Standard output is the result, standard error is the story.
"""

import json
import sys
from typing import Annotated

import httpx
import typer

from ledger.audit.errors import AuditError
from ledger.embedded.drill import DrillReport, OperatorDies
from ledger.embedded.errors import DemoStoppedError, EmbeddedError
from ledger.embedded.processes import StopRequest
from ledger.embedded.screen import Screen
from ledger.evidence.units import format_stroops
from ledger.stellar.errors import StellarError

EXIT_FAILED = 1
EXIT_SIGNALLED = 128

app = typer.Typer(
    help="Rehearse disasters on real parts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def group() -> None:
    """Rehearse disasters on real parts."""


@app.command()
def operator_dies(
    payees: Annotated[int, typer.Option(min=1, max=500, help="Payees to be paid.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the scratch folder with all logs and keys.")
    ] = False,
) -> None:
    """Destroy an operator in the middle of payouts; rebuild its books; pay everybody.

    Starts Postgres, a Stellar devnet, collector, workers and settlers as processes on loopback,
    kills and deletes the operator, and stops and removes everything at the end.
    """
    stop = StopRequest()
    stop.listen()
    try:
        with Screen() as screen:
            report = OperatorDies(payees, screen, stop, keep=keep).run()
    except DemoStoppedError as error:
        typer.echo("swarmledger drill: stopped; all processes ended, nothing left", err=True)
        raise typer.Exit(EXIT_SIGNALLED + error.signal_number) from None
    except (EmbeddedError, AuditError, StellarError, httpx.HTTPError) as error:
        typer.echo(f"swarmledger drill: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    sys.stdout.write(json.dumps(report.describe()) + "\n" if as_json else format_report(report))
    if not report.is_clean:
        raise typer.Exit(EXIT_FAILED)


def format_report(report: DrillReport) -> str:
    """Return what people read."""
    rows = [
        ("payees", f"{report.payees:,}"),
        ("epochs rebuilt", f"{report.epochs:,}"),
        ("payouts", f"{report.payouts:,} in {report.batches:,} batches"),
        (
            "open at the operator's death",
            f"{report.open_batches:,} batches, {format_stroops(report.open_stroops)}",
        ),
        (
            "of these sent and stuck",
            f"{report.stuck_batches:,}; settlers raised {report.raised_bids:,} bids",
        ),
        (
            "settlers",
            f"{report.settlers_left} of {report.settlers} left, {report.threshold} needed",
        ),
        ("state hash", report.state_hash),
        ("identical to the operator's", "yes" if report.identical_state_hash else "NO"),
        ("paid", format_stroops(report.paid_stroops)),
        ("paid twice", f"{report.double_paid_stroops:,} stroops"),
        ("lost", f"{report.lost_stroops:,} stroops"),
        *((f"  {phase}", f"{seconds:,.1f} s") for phase, seconds in report.seconds.items()),
        ("from death to everybody's payment", f"{report.minutes:.2f} min"),
    ]
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in rows)


def main() -> None:
    """Entry point of `swarmledger drill`."""
    app()
