"""Hosts for a bench: on loopback, or each in a namespace behind a shaper.

A host is an address to listen at and the words that go before a command to run it there.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.bench.errors import BenchError
from ledger.bench.processes import MeasuredProcess

_SUBNET = "10.83.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where a process of the bench runs."""

    address: str
    prefix: tuple[str, ...] = ()
    """Before the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What happens to every packet on its way."""

    delay_ms: float
    loss: float
    """Share of packets, 0 to 1."""


def loopback_hosts(count: int) -> list[Host]:
    """Return addresses of 127.0.0.0/8, one a host."""
    return [Host(address=f"127.0.83.{number + 1}") for number in range(count)]


@contextmanager
def shaped_hosts(count: int, shape: Shape, folder: Path) -> Iterator[list[Host]]:
    """Yield hosts in namespaces; the first is the bench's own, in the root namespace.

    Raises:
        BenchError: Not root, or the kernel has no namespaces or no TUN.
    """
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        raise BenchError("--shaped: want root and /dev/net/tun")
    names = [""] + [f"swbench-{os.getpid()}-{number}" for number in range(1, count)]
    with ExitStack() as stack:
        for name in names[1:]:
            _run_ip("netns", "add", name)
            stack.callback(_run_ip, "netns", "del", name)
        hosts = [
            Host(
                address=f"{_SUBNET}.{number + 1}",
                prefix=("ip", "netns", "exec", name) if name else (),
            )
            for number, name in enumerate(names)
        ]
        arguments = [sys.executable, "-m", "ledger.bench.shaper"]
        arguments += ["--delay-ms", str(shape.delay_ms), "--loss", str(shape.loss)]
        for number, (name, host) in enumerate(zip(names, hosts, strict=True)):
            arguments += ["--host", f"swb{number},{host.address},{name}"]
        shaper = stack.enter_context(MeasuredProcess(arguments, folder / "shaper.log"))
        shaper.wait_for("ready")
        yield hosts


def _run_ip(*arguments: str) -> None:
    command: Sequence[str] = ["ip", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise BenchError(f"{' '.join(command)}: {ended.stderr.strip()}")
