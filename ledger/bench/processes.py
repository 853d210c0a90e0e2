"""Processes under measurement: started, listened to line by line, stopped.

Each prints one JSON object a line on standard output; its standard error goes to a file, whose
end is told when it fails.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ledger.bench.errors import BenchError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_LOG_TAIL = 1500


def engine_arguments(*arguments: object) -> list[str]:
    """Return the command line of `swarmledger engine`."""
    program = "from ledger.cli import main; raise SystemExit(main())"
    return [sys.executable, "-c", program, "engine", *(str(part) for part in arguments)]


def unmetered_arguments(*arguments: object) -> list[str]:
    """Return the command line of the plain libtorrent session."""
    module = "engine_plugin.libtorrent_door.unmetered"
    return [sys.executable, "-m", module, *(str(part) for part in arguments)]


class MeasuredProcess:
    """A running process; stopped at the latest when the `with` block ends."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        """Start it."""
        self.events: list[dict[str, Any]] = []
        self.started_s = time.monotonic()
        self._log = log
        self._arrived = threading.Condition()
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def find(self, event: str) -> dict[str, Any] | None:
        """Return the first event of a name so far, or None."""
        return next((seen for seen in self.events[:] if seen.get("event") == event), None)

    def list(self, event: str) -> "list[dict[str, Any]]":
        """Return all events of a name so far."""
        return [seen for seen in self.events[:] if seen.get("event") == event]

    def wait_for(self, event: str, *, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """Wait for the first event of a name.

        Raises:
            BenchError: It did not come in time, or the process ended.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._arrived:
            while (found := self.find(event)) is None:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._thread.is_alive():
                    raise BenchError(f"no {event!r} from process {self.pid}: {self._read_log()}")
                self._arrived.wait(min(left_s, 0.2))
        return found

    def stop(self) -> dict[str, Any] | None:
        """Stop it cleanly; return its last event.

        Raises:
            BenchError: It did not stop in time, or not with status 0.
        """
        self.process.terminate()
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"process {self.pid} does not stop: {self._read_log()}") from None
        self._thread.join()
        if status != 0:
            raise BenchError(f"process {self.pid} ended with {status}: {self._read_log()}")
        return self.events[-1] if self.events else None

    def _read(self) -> None:
        if self.process.stdout is None:
            return
        for line in self.process.stdout:
            with self._arrived:
                self.events.append(json.loads(line))
                self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()

    def _read_log(self) -> str:
        return self._log.read_text(errors="replace")[-_LOG_TAIL:].strip() or "it said nothing"


@contextmanager
def run_both(
    first: Sequence[str], second: Sequence[str], folder: Path
) -> Iterator[tuple[MeasuredProcess, MeasuredProcess]]:
    """Run two processes, the second once the first is ready; kill what is left."""
    with MeasuredProcess(first, folder / "first.log") as one:
        address = one.wait_for("ready")["listen"]
        with MeasuredProcess([*second, "--peer", address], folder / "second.log") as two:
            yield one, two
