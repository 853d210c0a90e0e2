"""The command `swarmledger demo`: run the whole path once and check that everything adds up."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from ledger.embedded.demo import Demo, DemoOptions
from ledger.embedded.errors import EmbeddedError
from ledger.embedded.screen import Screen, print_table
from ledger.embedded.summary import format_summary

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class _TerminatedError(BaseException):
    """SIGTERM came; unwinds like Ctrl-C, so that everything is cleaned up."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _TerminatedError


@app.command()
def demo(
    content: Annotated[
        Path | None, typer.Option(help="File or folder to deliver; default: a made 64 MiB file.")
    ] = None,
    seeders: Annotated[int, typer.Option(min=1, max=50, help="Seeder processes.")] = 3,
    viewers: Annotated[int, typer.Option(min=1, max=50, help="Viewer processes.")] = 5,
    out: Annotated[Path, typer.Option(help="Output folder; an earlier demo's is replaced.")] = Path(
        "demo-out"
    ),
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
    signal.signal(signal.SIGTERM, _terminate)
    options = DemoOptions(content=content, seeders=seeders, viewers=viewers, out=out, keep=keep)
    try:
        with Screen() as screen:
            summary = Demo(options, screen).run()
    except EmbeddedError as error:
        typer.echo(f"swarmledger demo: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        typer.echo("swarmledger demo: interrupted; all processes stopped", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except _TerminatedError:
        typer.echo("swarmledger demo: terminated; all processes stopped", err=True)
        raise typer.Exit(EXIT_TERMINATED) from None
    if as_json:
        sys.stdout.write(format_summary(summary))
    else:
        print_table(summary, str(out))


def main() -> None:
    """Entry point of `swarmledger demo`."""
    app()
