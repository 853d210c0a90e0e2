"""The command `swarmledger engine`: its subcommands, each loaded only when it is called.

With `--json` every line on stdout is one event or one answer; talk and logs go to stderr. Exit
status: 0 after a clean stop or an answer, 1 when it could not be done, 2 when what was typed or
configured is wrong.
"""

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

from engine_plugin.commands.console import Failures

SUBCOMMANDS = {
    "init": "engine_plugin.commands.init_command:init",
    "seed": "engine_plugin.commands.seed_command:seed",
    "view": "engine_plugin.commands.view_command:view",
    "serve": "engine_plugin.http_face.serve_command:serve",
    "adopt": "engine_plugin.commands.adopt_command:adopt",
    "broadcast": "engine_plugin.live.command:broadcast",
    "watch": "engine_plugin.live.command:watch",
    "status": "engine_plugin.commands.status_command:status",
    "spool": "engine_plugin.commands.status_command:spool",
    "send": "engine_plugin.commands.send_command:send",
    "keys": "engine_plugin.commands.keys_command:app",
    "torrent": "engine_plugin.commands.torrent_command:make",
    "totals": "engine_plugin.commands.totals_command:totals",
    "unit": "engine_plugin.commands.unit_command:unit",
}
"""Where each subcommand is: a function, or a group of further ones."""


def main() -> None:
    """Run the command; the dispatcher's entry point."""
    named = sys.argv[1] if len(sys.argv) > 1 else ""
    make_app(*([named] if named in SUBCOMMANDS else []))()


def make_app(*names: str) -> typer.Typer:
    """Return the command with the named subcommands, or with all of them."""
    app = typer.Typer(
        name="swarmledger engine",
        help="Seed or view content with metered, paid bytes.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    # Without this a single subcommand would take the place of the whole.
    app.callback()(_describe)
    for name in names or SUBCOMMANDS:
        module, _, member = SUBCOMMANDS[name].partition(":")
        found = getattr(import_module(module), member)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(_failing(found))
    return app


def _describe() -> None:
    """Seed or view content with metered, paid bytes."""


def _failing(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command end with one line and an exit status when the plugin fails."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        with Failures():
            command(*arguments, **options)

    return run
