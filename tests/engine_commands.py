"""`swarmledger engine` called in the test's own process: for calls that answer and end."""

import json
import os
import pty
import re
import select
import sys
import time
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


START = (
    "import sys; sys.argv[0] = 'swarmledger engine'; from engine_plugin.command import main; main()"
)


class Terminal:
    """A terminal with `engine ARGUMENTS…` on it."""

    def __init__(self, *arguments: object) -> None:
        self.text = ""
        pid, self._descriptor = pty.fork()
        if pid == 0:
            os.execv(  # noqa: S606 - on a terminal of its own
                sys.executable, [sys.executable, "-c", START, *map(str, arguments)]
            )
        self._pid = pid

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + 30
        while (found := re.search(pattern, self.text, re.DOTALL)) is None:
            assert time.monotonic() < deadline, self.text
            if not self._read():
                break
        assert found is not None, self.text
        return found

    def type(self, text: str) -> None:
        self.text = ""
        os.write(self._descriptor, text.encode() + b"\n")

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self._descriptor], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._descriptor, 4096)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)
