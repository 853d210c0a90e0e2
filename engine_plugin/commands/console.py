"""How the subcommands speak: answers and events on stdout, talk, logs and errors on stderr.

Exit status: 0 after a clean stop or an answer; 1 when it could not be done; 2 when what was typed
or written into the settings is wrong.
"""

import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import typer

from engine_plugin.errors import ContentError, EngineError, WrongInputError

TORRENT_SIZE_MAX = 64 << 20


class _Log(structlog.PrintLogger):
    """A line that cannot be written is lost, and whoever logs goes on."""

    def msg(self, message: str) -> None:
        with suppress(OSError):  # a full disk, most likely
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class Failures:
    """Turns the plugin's own errors into one line on stderr and an exit status."""

    def __enter__(self) -> None:
        stderr = sys.stderr
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.LogfmtRenderer(),
            ],
            logger_factory=lambda *_: _Log(stderr),
        )

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, EngineError):
            typer.echo(f"swarmledger engine: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, WrongInputError) else 1) from None


def print_json(answer: dict[str, Any]) -> None:
    """Print one object as one line on stdout; a reader that left is no error."""
    try:
        # At once, line and end: `print` would write both apart.
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody listens any more; the engine stops by signal, not by a closed pipe.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open until exit


def print_event(event: str, fields: dict[str, Any], *, as_json: bool) -> None:
    """Print one event, for programs or for people; if it cannot be, the engine goes on."""
    with suppress(OSError):
        if as_json:
            print_json({"event": event, **fields})
        elif event != "progress":
            typer.echo(f"{event}: " + " ".join(f"{key}={value}" for key, value in fields.items()))


def read_file(path: Path) -> bytes:
    """Return a torrent file's bytes.

    Raises:
        ContentError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(TORRENT_SIZE_MAX)
    except OSError as error:
        raise ContentError(f"{path}: {error.strerror}") from None


def write_torrent(path: Path, data: bytes) -> None:
    """Write a torrent file, whole or not at all.

    Raises:
        ContentError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise ContentError(f"{path}: {error.strerror}") from None
