"""The bench of sealing: an epoch of many receipts from stored verdicts to a signed checkpoint.

Each run is a process of its own, so that its memory is told as well. The epoch is made once and
kept in the scratch folder. Figures a million receipts are processor seconds, which do not depend on
what else the machine does.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.bench.child import run_child
from ledger.bench.errors import BenchError
from ledger.bench.report import Series, describe_machine
from ledger.bench.sealing_run import AUDIT, BUNDLES
from ledger.bench.synthetic_epoch import (
    PAYEES_PER_VIEWER,
    make_bundles,
    make_epoch,
    write_bundles,
)

MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSize:
    """How large a synthetic epoch is, and where it is kept.

    Raises:
        ValueError: Receipts do not fill whole groups of bundles.
    """

    receipts: int
    per_bundle: int
    """Receipts of a bundle, hence viewers of a payee; 10 payees a viewer."""

    folder: Path
    """Scratch folder of all sizes."""

    def __post_init__(self) -> None:
        group = PAYEES_PER_VIEWER * self.per_bundle
        if self.receipts < group or self.receipts % group:
            raise ValueError(f"receipts: got {self.receipts}, want a multiple of {group}")

    @property
    def home(self) -> Path:
        """Folder of this size."""
        return self.folder / f"synthetic-{self.receipts}-{self.per_bundle}"


def prepare_epoch(size: EpochSize, tell: Callable[[str], None]) -> Path:
    """Make a synthetic epoch's bundles unless they are there; returns the folder."""
    size.home.mkdir(parents=True, exist_ok=True)
    path = size.home / BUNDLES
    if not path.exists():
        tell(f"signing {size.receipts:,} receipts once")
        write_bundles(path, make_bundles(make_epoch(), size.receipts, size.per_bundle))
    return size.home


def prepare_audit_file(size: EpochSize, tell: Callable[[str], None]) -> Path:
    """Make a synthetic epoch's audit file unless it is there; returns the folder."""
    home = prepare_epoch(size, tell)
    if not (home / AUDIT).exists():
        tell("sealing it once for its audit file")
        run_child(_arguments(home, "--audit"), home / "seal.log")
    return home


def run_seal_bench(size: EpochSize, runs: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seal a synthetic epoch so many times; returns the report.

    Raises:
        BenchError: A run failed.
    """
    home = prepare_epoch(size, tell)
    series = Series()
    scale = MILLION / size.receipts
    for run in range(runs):
        ended = run_child(_arguments(home), home / "seal.log")
        try:
            steps: dict[str, float] = json.loads(ended.output)
        except json.JSONDecodeError as error:
            raise BenchError(f"seal run: {error}") from None
        contract_s = steps.pop("run_contract")
        steps["books"] = steps.pop("compute") - contract_s
        series.add("cpu_s_per_million", ended.cpu_s * scale)
        series.add("without_contract_cpu_s_per_million", (ended.cpu_s - contract_s) * scale)
        series.add("contract_cpu_s_per_million", contract_s * scale)
        for name, cpu_s in steps.items():
            series.add(f"{name}_cpu_s_per_million", cpu_s * scale)
        series.add("wall_s", ended.wall_s)
        series.add("peak_mib", ended.peak_mib)
        tell(f"run {run + 1}: {ended.cpu_s:.1f} s, {ended.peak_mib:.0f} MiB")
    return {
        "bench": "seal",
        "parameters": {"receipts": size.receipts, "per_bundle": size.per_bundle, "runs": runs},
        "figures": series.medians(),
        "spreads": series.spreads(),
        "machine": describe_machine(),
    }


def _arguments(home: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "ledger.bench.sealing_run", str(home), *options]
