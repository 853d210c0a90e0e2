"""Processes of a demo: started, watched and ended by one supervisor, however the demo ends.

Every child leads a session of its own, so Ctrl-C reaches the demo alone, which then stops them in
order. The kernel ends a child whose demo was killed (prctl(2), PR_SET_PDEATHSIG). Children that do
not stop in time are killed with their whole group.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ledger.embedded.errors import DemoError, DemoStoppedError

STOP_SECONDS = 15.0
READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LOG_TAIL_LINES = 12
_MEMORY_EVERY_SECONDS = 2.0


def command_line(*arguments: str) -> list[str]:
    """Return the command line of `swarmledger …` under this interpreter."""
    return [sys.executable, "-m", "ledger.cli", *arguments]


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@dataclass(slots=True)
class Child:
    """One running process of the demo."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    reader: threading.Thread | None
    """Reads its JSON events, if somebody listens."""

    @property
    def pid(self) -> int:
        """Process number."""
        return self.process.pid

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"    {line}" for line in lines[-_LOG_TAIL_LINES:])


class StopRequest:
    """Remembers a signal until the supervisor looks.

    A signal that raised at once could come between a child's birth and its registration, and leave
    it behind.
    """

    def __init__(self) -> None:
        self._signal_number: int | None = None

    def listen(self) -> None:
        """Take SIGINT and SIGTERM from now on, also where a background shell ignores SIGINT.

        SIGHUP, of a terminal that was closed, counts too, unless nohup had it ignored.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._take)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self._signal_number = self._signal_number or number

    def raise_if_asked(self) -> None:
        """Raise if a signal came.

        Raises:
            DemoStoppedError: One did.
        """
        if self._signal_number is not None:
            raise DemoStoppedError(self._signal_number)


EventSink = Callable[[str, dict[str, Any]], None]
"""Takes (child's name, event)."""


class Supervisor:
    """Starts children, notices those that end too early, and stops all of them."""

    def __init__(self, log_dir: Path, stop: StopRequest) -> None:
        self._log_dir = log_dir
        self._stop = stop
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._children: list[Child] = []
        self._tasks: list[Child] = []
        """Children that run to their end; their ending is nothing to report."""

        self.peak_memory_bytes = 0
        """Largest memory of the demo and all its processes seen by `watch`."""
        self._next_look_s = 0.0

    def add_environment(self, environment: Mapping[str, str]) -> None:
        """Add variables for children started from now on."""
        self._environment.update(environment)

    def start(
        self, name: str, arguments: Sequence[str], *, on_event: EventSink | None = None
    ) -> Child:
        """Start `swarmledger ARGUMENTS…` as a child; its events, if wanted, go to `on_event`."""
        log_path = self._log_dir / f"{name}.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                command_line(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if on_event else log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                # Between fork and exec only: one system call, no Python state of other threads.
                preexec_fn=_die_with_parent,  # noqa: PLW1509
            )
        reader = None
        if on_event is not None:
            reader = threading.Thread(
                target=_read_events, args=(name, process, on_event), daemon=True
            )
            reader.start()
        child = Child(name, process, log_path, reader)
        self._children.append(child)
        return child

    def run(self, name: str, arguments: Sequence[str], *, expected: Sequence[int] = (0,)) -> str:
        """Run `swarmledger ARGUMENTS…` to its end and return its standard output.

        Raises:
            DemoError: It ended with an exit code that is not expected.
        """
        log_path = self._log_dir / f"{name}.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                command_line(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509
            )
        child = Child(name, process, log_path, None)
        self._tasks.append(child)
        while True:
            try:
                output, _ = process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                self.watch()
        self._tasks.remove(child)
        if process.returncode not in expected:
            raise _failure(child, f"exit code {process.returncode}")
        return output.decode()

    def wait_for_file(self, child: Child, path: Path) -> dict[str, Any]:
        """Wait for a child's ready file and return what it says.

        Raises:
            DemoError: The child ended, or was not ready in time.
        """
        self.wait_until(path.exists, what=f"{child.name} to be ready", seconds=READY_SECONDS)
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise _failure(child, "a ready file that is no JSON object")
        return content

    def wait_until(self, holds: Callable[[], bool], *, what: str, seconds: float) -> None:
        """Wait until a condition holds.

        Raises:
            DemoError: A child ended, or time is over.
        """
        deadline_s = time.monotonic() + seconds
        while not holds():
            self.watch()
            if time.monotonic() > deadline_s:
                raise DemoError(f"waited {seconds:.0f} s for {what}, in vain")
            time.sleep(_POLL_SECONDS)

    def watch(self) -> None:
        """Raise if a child has ended by itself or a signal came; note how much memory all use.

        Raises:
            DemoError: One has.
            DemoStoppedError: One came.
        """
        self._stop.raise_if_asked()
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise _failure(child, f"exit code {code}")
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _MEMORY_EVERY_SECONDS
            self.peak_memory_bytes = max(self.peak_memory_bytes, _family_memory_bytes(os.getpid()))

    def ask_to_stop(self, children: Sequence[Child]) -> None:
        """Ask children to stop without waiting; `stop_all` waits for them."""
        for child in children:
            _signal(child, signal.SIGTERM)
            self._children.remove(child)
            self._tasks.append(child)

    def stop(self, children: Sequence[Child], *, seconds: float = STOP_SECONDS) -> None:
        """Ask children to stop, all at once, and wait; kill those that do not."""
        for child in children:
            _signal(child, signal.SIGTERM)
        deadline_s = time.monotonic() + seconds
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline_s - time.monotonic()))
            _kill_group(child)
            child.process.wait()
            if child.reader is not None:
                child.reader.join(timeout=2)
            for running in (self._children, self._tasks):
                if child in running:
                    running.remove(child)

    def kill(self, children: Sequence[Child]) -> None:
        """Kill children and all that they started, as a power cut would."""
        for child in children:
            _kill_group(child)
            child.process.wait()
            for running in (self._children, self._tasks):
                if child in running:
                    running.remove(child)

    def stop_all(self) -> None:
        """Stop every child that is left, the last started first."""
        self.stop([*reversed(self._tasks), *reversed(self._children)])


def _read_events(name: str, process: subprocess.Popen[bytes], sink: EventSink) -> None:
    if process.stdout is None:
        raise AssertionError("a child with a listener has a pipe")
    with process.stdout as stream:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                sink(name, event)


def _failure(child: Child, got: str) -> DemoError:
    tail = child.log_tail()
    return DemoError(f"{child.name}: got {got}; its log ends with\n{tail or '    nothing'}")


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process.poll() is None:
        child.process.send_signal(number)


def _kill_group(child: Child) -> None:
    """Kill what is left of a child's session: itself, or processes it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _family_memory_bytes(root_pid: int) -> int:
    """Sum the proportional set size (proc(5), smaps_rollup) of a process and all below it.

    Shared pages are divided among those who share them, so the sum is what the family takes.
    """
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                # The name in parentheses may hold spaces; the parent follows it.
                parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    family = {root_pid}
    while True:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        if not more:
            break
        family |= more
    return sum(_proportional_bytes(pid) for pid in family)


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
