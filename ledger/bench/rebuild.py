"""The bench of rebuilding: many payouts again from log, spools and chain, and the time it takes.

What is rebuilt from is made first (`rebuild_log`) and not measured. Measured is everything that
`swarmledger rebuild` does, but for the network's own answers: reading spools, verifying the mirror,
checking every bundle's signatures, computing every epoch and comparing every root.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ledger.bench.errors import BenchError
from ledger.bench.rebuild_log import LogMaker
from ledger.bench.report import describe_machine, round_figure
from ledger.books.state import state_root
from ledger.rebuilding.checking import cores
from ledger.rebuilding.rebuild import Rebuilding, gather_evidence

EPOCHS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildBench:
    """How much is rebuilt.

    Raises:
        ValueError: The payouts are not as many in every epoch.
    """

    payouts: int
    epochs: int = EPOCHS
    jobs: int = field(default_factory=cores)
    """Processes that check bundles."""

    def __post_init__(self) -> None:
        if self.payouts < self.epochs or self.payouts % self.epochs:
            raise ValueError(f"payouts: got {self.payouts}, want a multiple of {self.epochs}")


def run_rebuild_bench(bench: RebuildBench, tell: Callable[[str], None]) -> dict[str, Any]:
    """Make a log of so many payouts, rebuild it, and compare; returns the report.

    Raises:
        BenchError: The rebuilt log has not as many payouts as were made.
        RebuildError: Something came out otherwise than the log says.
    """
    with tempfile.TemporaryDirectory(prefix="swarmledger-rebuild-") as name:
        folder = Path(name)
        tell(f"making {bench.payouts:,} payouts in {bench.epochs} epochs")
        made = LogMaker(payees=bench.payouts // bench.epochs, folder=folder).make(bench.epochs)
        (folder / "terms").write_bytes(made.terms)
        (folder / "binding").write_bytes(made.binding)
        clock = _Clock()
        tell("rebuilding")
        evidence = gather_evidence(
            made.trust.broadcaster_account,
            spools=[made.spools],
            terms=[folder / "terms"],
            bindings=[folder / "binding"],
        )
        clock.lap("spools")
        rebuilding = Rebuilding(made.mirror, made.trust, evidence, made.facts)
        clock.lap("mirror_and_chain")
        rebuilt = rebuilding.run(
            [], lambda done, count, _text: tell(f"epoch {done} of {count}"), jobs=bench.jobs
        )
        clock.lap("replay")
    if rebuilt.payouts != made.payouts:
        raise BenchError(f"payouts: got {rebuilt.payouts}, want {made.payouts}")
    return {
        "bench": "rebuild",
        "payouts": rebuilt.payouts,
        "epochs": rebuilt.epochs,
        "bundles": rebuilt.bundles,
        "jobs": bench.jobs,
        "leaves": made.leaves,
        "identical_state_hash": rebuilt.state_root == state_root(made.closing),
        "state_hash": rebuilt.state_root.hex(),
        "cpu_s": round_figure(sum(cpu_s for cpu_s, _ in clock.laps.values())),
        "wall_s": round_figure(sum(wall_s for _, wall_s in clock.laps.values())),
        **{f"{name}_cpu_s": round_figure(cpu_s) for name, (cpu_s, _) in clock.laps.items()},
        "peak_mib": round_figure(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": describe_machine(),
    }


class _Clock:
    """Processor seconds, of processes that have ended too, and wall seconds between laps."""

    def __init__(self) -> None:
        self._cpu_s, self._wall_s = _cpu_s(), time.perf_counter()
        self.laps: dict[str, tuple[float, float]] = {}

    def lap(self, name: str) -> None:
        """Note what has passed since the last lap."""
        cpu_s, wall_s = _cpu_s(), time.perf_counter()
        self.laps[name] = (cpu_s - self._cpu_s, wall_s - self._wall_s)
        self._cpu_s, self._wall_s = cpu_s, wall_s


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
