"""One transfer between two processes over loopback, timed and metered from outside.

The fetching process's own write calls tell how far it is, for an engine and a plain session alike;
the rate is that between a tenth and nine tenths of the content, so that neither start nor end
counts. Processor time is counted from before the first byte until the figures are durable.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from ledger.bench.errors import BenchError
from ledger.bench.processes import MeasuredProcess
from ledger.bench.usage import Usage, read_usage

GIB = 1 << 30
_SAMPLE_S = 0.005
_START_BYTES = 2 << 20
"""More than any process writes before its transfer begins."""
_AFTER_S = 0.6
"""How long after its end a transfer may still cost: the last credits become durable."""
_TIMEOUT_S = 300.0
_FIRST, _LAST = 0.1, 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFigures:
    """What one transfer came to."""

    mb_per_s: float
    """10⁶ bytes a second."""
    receiver_cpu_s_per_gib: float
    sender_cpu_s_per_gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedFigures:
    """What a stretch of a transfer at a limited rate came to."""

    mbit_per_s: float
    """10⁶ bits a second, as received."""
    receiver_core_share: float
    """Part of one core that the receiving process used; 1 = all of it."""
    sender_core_share: float


def measure_transfer(
    sender: MeasuredProcess, receiver: MeasuredProcess, size: int
) -> TransferFigures:
    """Measure a whole transfer that is just starting.

    Args:
        sender: The serving process.
        receiver: The fetching process; it prints `complete`.
        size: Content bytes.

    Raises:
        BenchError: A process ended, or the transfer took too long.
    """
    first = last = None
    before, before_sent = read_usage(receiver.pid), read_usage(sender.pid)
    deadline_s = time.monotonic() + _TIMEOUT_S
    while last is None:
        usage, now_s = read_usage(receiver.pid), time.monotonic()
        done = usage.written_bytes
        if done < _START_BYTES:
            before, before_sent = usage, read_usage(sender.pid)
        elif first is None and done >= _FIRST * size:
            first = now_s, done
        elif first is not None and done >= _LAST * size:
            last = now_s, done
        if now_s > deadline_s:
            raise BenchError(f"transfer: got {done} of {size} bytes in {_TIMEOUT_S} s")
        time.sleep(_SAMPLE_S)
    if first is None:
        raise BenchError("transfer: over before it was seen; want a larger size")
    receiver.wait_for("complete")
    time.sleep(_AFTER_S)
    after, after_sent = read_usage(receiver.pid), read_usage(sender.pid)
    gib = size / GIB
    return TransferFigures(
        mb_per_s=(last[1] - first[1]) / (last[0] - first[0]) / 1e6,
        receiver_cpu_s_per_gib=(after.cpu_s - before.cpu_s) / gib,
        sender_cpu_s_per_gib=(after_sent.cpu_s - before_sent.cpu_s) / gib,
    )


def measure_paced(
    sender: MeasuredProcess, receiver: MeasuredProcess, *, settle_s: float, seconds: float
) -> PacedFigures:
    """Measure a stretch of a transfer that runs at a limited rate.

    Args:
        sender: The serving process, which keeps the limit.
        receiver: The fetching process.
        settle_s: How long to let it run before.
        seconds: How long to measure; > 0.

    Raises:
        BenchError: A process ended.
    """
    time.sleep(settle_s)
    started_s = time.monotonic()
    before: tuple[Usage, Usage] = read_usage(sender.pid), read_usage(receiver.pid)
    time.sleep(seconds)
    after = read_usage(sender.pid), read_usage(receiver.pid)
    elapsed_s = time.monotonic() - started_s
    received = after[1].written_bytes - before[1].written_bytes
    return PacedFigures(
        mbit_per_s=received * 8 / elapsed_s / 1e6,
        sender_core_share=(after[0].cpu_s - before[0].cpu_s) / elapsed_s,
        receiver_core_share=(after[1].cpu_s - before[1].cpu_s) / elapsed_s,
    )


def fill_file(path: Path, size: int) -> None:
    """Write a file of random bytes."""
    with path.open("wb") as file, Path("/dev/urandom").open("rb") as noise:
        left = size
        while left:
            left -= file.write(noise.read(min(left, 1 << 20)))
