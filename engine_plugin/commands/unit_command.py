"""`engine unit`: a systemd unit that keeps an engine running for one user."""

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from engine_plugin.commands.console import Failures
from engine_plugin.config import ConfigError
from engine_plugin.systemd_unit import format_user_unit


def unit(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="What the engine shall do, after --: -- seed FILM --listen … --state …",
            metavar="-- COMMAND...",
        ),
    ],
    *,
    program: Annotated[
        Path | None, typer.Option(help="Path of `swarmledger`; looked up if not given.")
    ] = None,
    writable: Annotated[
        list[Path] | None,
        typer.Option(help="Folder the engine writes to, beside --state and --save; repeatable."),
    ] = None,
) -> None:
    """Print a systemd user unit; it belongs into ~/.config/systemd/user/.

    For a service of the whole machine see packaging/systemd/swarmledger-engine.service.
    """
    with Failures():
        found = program or shutil.which("swarmledger")
        if found is None:
            raise ConfigError("program: got no `swarmledger` on PATH, want --program")
        if arguments[0] not in {"seed", "view", "adopt"}:
            raise ConfigError(f"command: got {shlex.join(arguments)!r}, want seed, view or adopt")
        typer.echo(
            format_user_unit(
                program=Path(found).absolute(), arguments=arguments, writable=writable or []
            ),
            nl=False,
        )
