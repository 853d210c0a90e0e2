"""The command `swarmledger demo`: run the whole path once and check that everything adds up."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ledger.embedded.demo import Demo, DemoOptions
from ledger.embedded.errors import DemoStoppedError, EmbeddedError
from ledger.embedded.live_demo import LiveDemo
from ledger.embedded.processes import StopRequest
from ledger.embedded.screen import Screen, print_table
from ledger.embedded.summary import format_summary
from ledger.stellar.seed_files import PLAIN_KEYS, PlainKeys

EXIT_FAILED = 1
EXIT_SIGNALLED = 128
"""Plus the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    content: Annotated[
        Path | None,
        typer.Option(readable=False, help="File or folder to deliver; default: a made 64 MiB."),
    ] = None,
    seeders: Annotated[int, typer.Option(min=1, max=50, help="Seeder processes.")] = 3,
    viewers: Annotated[int, typer.Option(min=1, max=50, help="Viewer processes.")] = 5,
    out: Annotated[Path, typer.Option(help="Output folder; an earlier demo's is replaced.")] = Path(
        "demo-out"
    ),
    live: Annotated[
        bool,
        typer.Option("--live", help="A live stream from an HLS origin instead of a file."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print summary.json on standard output.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the scratch folder with all logs and keys.")
    ] = False,
) -> None:
    """Deliver content through a real swarm; meter, seal, settle, pay, bill and audit it.

    Starts Postgres, a Stellar devnet, collector, workers, a CDN, seeders and viewers as processes
    on loopback, and stops and removes all of them at the end. Exit status: 0 everything adds up,
    1 something failed or does not, 2 wrong options, 130 interrupted.
    """
    if live and content is not None:
        raise typer.BadParameter("want --live or --content, not both")
    stop = StopRequest()
    stop.listen()
    options = DemoOptions(content=content, seeders=seeders, viewers=viewers, out=out, keep=keep)
    try:
        with Screen() as screen:
            kind = LiveDemo if live else Demo
            summary = kind(options, screen, stop).run()
    except DemoStoppedError as error:
        typer.echo("swarmledger demo: stopped; all processes ended, nothing left", err=True)
        raise typer.Exit(EXIT_SIGNALLED + error.signal_number) from None
    except EmbeddedError as error:
        typer.echo(f"swarmledger demo: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    if as_json:
        sys.stdout.write(format_summary(summary))
    else:
        print_table(summary, str(out))


def main() -> None:
    """Entry point of `swarmledger demo`."""
    # Its keys are worth nothing and gone with its folder.
    os.environ.setdefault(PLAIN_KEYS, PlainKeys.ALLOW)
    app()
