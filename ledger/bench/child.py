"""One child process and what it used in all, as the system counted it when it ended."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.bench.errors import BenchError

_LOG_TAIL = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A child that ended well."""

    output: str
    """Its standard output."""

    wall_s: float
    cpu_s: float
    """User and system time, its own children's included."""

    peak_mib: float
    """Most memory it held at once."""


def run_child(arguments: Sequence[str], log: Path) -> Ended:
    """Run a program to its end.

    Args:
        arguments: Its command line.
        log: Where its output goes meanwhile.

    Raises:
        BenchError: It failed.
    """
    began_s = time.monotonic()
    errors = log.with_suffix(".errors")
    with log.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(arguments, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        told = (log.read_text() + errors.read_text())[-_LOG_TAIL:]
        raise BenchError(f"{arguments[:4]} ended with {process.returncode}: {told}")
    return Ended(
        output=log.read_text(),
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss / 1024,
    )
