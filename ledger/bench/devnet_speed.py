"""The bench of the devnet: payments applied a second of one core, in memory and in a file.

The devnet is measured in a process of its own, which tells its processor time.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger.bench.child import run_child
from ledger.bench.errors import BenchError
from ledger.bench.report import Series, describe_machine


def run_devnet_bench(
    runs: int, ledgers: int, channels: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Apply batches of a hundred payments so many times; returns the report.

    Raises:
        BenchError: A run failed.
    """
    series = Series()
    with tempfile.TemporaryDirectory(prefix="swarmledger-devnet-") as name:
        folder = Path(name)
        for run in range(runs):
            for place in ("memory", "file"):
                program = [sys.executable, "-m", "ledger.devnet.command", "measure", "--json"]
                program += ["--ledgers", str(ledgers), "--channels", str(channels)]
                if place == "file":
                    program += ["--state", str(folder / f"{run}.sqlite")]
                ended = run_child(program, folder / "devnet.log")
                figures = json.loads(ended.output)
                series.add(f"{place}_payments_per_cpu_s", figures["payments_per_cpu_s"])
            tell(f"run {run + 1} of {runs}")
    if series.median("memory_payments_per_cpu_s") <= 0:
        raise BenchError("devnet: got no payments a second, want some")
    return {
        "bench": "devnet",
        "parameters": {"runs": runs, "ledgers": ledgers, "channels": channels},
        "machine": describe_machine(),
        "figures": series.medians(),
        "spreads": series.spreads(),
    }
