"""What a process has used so far, read from Linux's /proc without its knowledge."""

import os
from dataclasses import dataclass
from pathlib import Path

from ledger.bench.errors import BenchError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One look at a process."""

    cpu_s: float
    """Seconds of all its threads on a processor, user and system; resolution 0.01 s."""
    resident_bytes: int
    written_bytes: int
    """Bytes handed to write calls on files, page cache included; sockets do not count."""


def read_usage(pid: int) -> Usage:
    """Return what a process has used so far.

    Raises:
        BenchError: It has ended.
    """
    folder = Path("/proc") / str(pid)
    try:
        # The name in brackets may hold blanks; the fields after it are numbers.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        lines = (folder / "io").read_text().split()
    except OSError as error:
        raise BenchError(f"process {pid}: {error.strerror}") from None
    return Usage(
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
        written_bytes=int(lines[lines.index("wchar:") + 1]),
    )
