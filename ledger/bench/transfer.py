"""One transfer between two processes over loopback, timed and metered from outside.

How far it is tells an engine's own write calls, for an engine writes each block at once; a plain
session may hold blocks back, so it prints how far it is. The rate is that between a tenth and nine
tenths of the content, so that neither start nor end counts. Processor time is counted from the
first byte until the figures are durable.
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ledger.bench.errors import BenchError
from ledger.bench.processes import MeasuredProcess
from ledger.bench.usage import Usage, read_usage

GIB = 1 << 30
_SAMPLE_S = 0.005
_START_BYTES = 2 << 20
"""More than an engine writes before its transfer begins."""
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
    """10⁶ bits a second, as written by the receiver."""
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
    samples: list[tuple[float, Usage, Usage]] = []
    deadline_s = time.monotonic() + _TIMEOUT_S
    while receiver.find("complete") is None:
        samples.append((time.monotonic(), read_usage(sender.pid), read_usage(receiver.pid)))
        if samples[-1][0] > deadline_s:
            raise BenchError(f"transfer: not complete in {_TIMEOUT_S} s")
        time.sleep(_SAMPLE_S)
    time.sleep(_AFTER_S)
    progress = [(event["at_s"], event["bytes"]) for event in receiver.list("progress_bytes")]
    if not progress:
        progress = [(at_s, usage.written_bytes - _START_BYTES) for at_s, _, usage in samples]
    begun_s = max((at_s for at_s, done in progress if done <= 0), default=0.0)
    _, before_sent, before = max(
        (sample for sample in samples if sample[0] <= begun_s), default=samples[0], key=_at_s
    )
    after, after_sent = read_usage(receiver.pid), read_usage(sender.pid)
    return TransferFigures(
        mb_per_s=(_LAST - _FIRST) * size / 1e6 / _time_between(progress),
        receiver_cpu_s_per_gib=(after.cpu_s - before.cpu_s) / (size / GIB),
        sender_cpu_s_per_gib=(after_sent.cpu_s - before_sent.cpu_s) / (size / GIB),
    )


def _at_s(sample: tuple[float, Usage, Usage]) -> float:
    return sample[0]


def _time_between(progress: list[tuple[float, int]]) -> float:
    """Return the seconds from a tenth to nine tenths of what was done in the end."""
    total = max(done for _, done in progress)
    first_s = _time_of(progress, _FIRST * total)
    last_s = _time_of(progress, _LAST * total)
    if not first_s < last_s:
        raise BenchError("transfer: over before it was seen; want a larger size")
    return last_s - first_s


def _time_of(progress: list[tuple[float, int]], wanted: float) -> float:
    """Return when so much was done, between the two looks around it."""
    for (early_s, early), (late_s, late) in pairwise(progress):
        if early < wanted <= late:
            return early_s + (late_s - early_s) * (wanted - early) / (late - early)
    raise BenchError("transfer: over before it was seen; want a larger size")


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
