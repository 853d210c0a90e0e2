"""The command `swarmledger engine`: its subcommands, put together.

With `--json` every line on stdout is one event or one answer; talk and logs go to stderr. Exit
status: 0 after a clean stop or an answer, 1 when it could not be done, 2 when what was typed or
configured is wrong.
"""

import functools
from collections.abc import Callable
from typing import Any

import typer

from engine_plugin.commands import keys_command
from engine_plugin.commands.adopt_command import adopt
from engine_plugin.commands.console import Failures
from engine_plugin.commands.init_command import init
from engine_plugin.commands.seed_command import seed
from engine_plugin.commands.status_command import spool, status
from engine_plugin.commands.torrent_command import make
from engine_plugin.commands.totals_command import totals
from engine_plugin.commands.unit_command import unit
from engine_plugin.commands.view_command import view
from engine_plugin.http_face.serve_command import serve
from engine_plugin.live.command import broadcast, watch

app = typer.Typer(
    name="swarmledger engine",
    help="Seed or view content with metered, paid bytes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command; the dispatcher's entry point."""
    app()


def _failing(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command end with one line and an exit status when the plugin fails."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        with Failures():
            command(*arguments, **options)

    return run


app.command()(init)
app.command()(seed)
app.command()(view)
app.command()(serve)
app.command()(adopt)
app.command()(_failing(broadcast))
app.command()(_failing(watch))
app.command()(status)
app.command()(spool)
app.add_typer(keys_command.app, name="keys")
app.command("torrent")(make)
app.command()(totals)
app.command()(unit)
