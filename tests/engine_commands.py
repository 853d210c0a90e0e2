"""`swarmledger engine` called in the test's own process: for calls that answer and end."""

import json
from dataclasses import dataclass
from typing import Any

import structlog
from typer.testing import CliRunner

from engine_plugin.command import SUBCOMMANDS, make_app


@dataclass(frozen=True)
class Called:
    """What one call came to."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The one JSON object it printed."""
        assert self.code == 0, self.err
        return dict(json.loads(self.out))

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON objects it printed, one a line."""
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


def engine(*arguments: object, stdin: str = "", **environ: str) -> Called:
    """Call `engine ARGUMENTS…`; nothing but its own exits may end it."""
    try:
        words = [str(argument) for argument in arguments]
        app = make_app(*(word for word in words[:1] if word in SUBCOMMANDS))
        result = CliRunner().invoke(app, words, input=stdin, env=environ)
    finally:
        # The command logs to a stream that ends with the call.
        structlog.reset_defaults()
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Called(code=result.exit_code, out=result.stdout, err=result.stderr)
