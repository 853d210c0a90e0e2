"""Figures of a bench: medians under keys that hold their unit, as JSON or as a table.

A figure's key ends with its unit: `_ratio` and `_share` have none, `_mb_per_s` is 10⁶ bytes a
second, `_s` seconds, `_s_per_gib` seconds for 2³⁰ bytes, `_mib` 2²⁰ bytes.
"""

import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

_DIGITS = 4
_COLUMN = 62


class Series:
    """Measured values by key, until their medians are taken."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, key: str, value: float) -> None:
        """Take one run's value."""
        self._values[key].append(value)

    def values(self, key: str) -> list[float]:
        """Return a key's values in the order in which they were taken; a `KeyError` if none."""
        if key not in self._values:
            raise KeyError(key)
        return list(self._values[key])

    def median(self, key: str) -> float:
        """Return the median of a key's values; a `KeyError` if there is none."""
        if key not in self._values:
            raise KeyError(key)
        return statistics.median(self._values[key])

    def medians(self) -> dict[str, float]:
        """Return every key's median, rounded for reading."""
        return {key: round_figure(self.median(key)) for key in self._values}

    def spreads(self) -> dict[str, list[float]]:
        """Return the lowest and the highest value of every key."""
        return {
            key: [round_figure(min(values)), round_figure(max(values))]
            for key, values in self._values.items()
        }


def round_figure(value: float) -> float:
    """Return a figure with four significant digits."""
    return float(f"{value:.{_DIGITS}g}")


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def format_json(report: Mapping[str, Any]) -> str:
    """Return a report as one JSON object."""
    return json.dumps(report, indent=2) + "\n"


def format_table(report: Mapping[str, Any]) -> str:
    """Return a report for people: one figure a line, with its lowest and highest value."""
    lines = [f"{report['bench']}: medians of {report['parameters']['runs']} runs"]
    spreads = report["spreads"]
    for key, value in report["figures"].items():
        low, high = spreads.get(key, [value, value])
        lines.append(f"{key:<{_COLUMN}}{value:>12,g}   [{low:,g} to {high:,g}]")
    return "\n".join(lines) + "\n"


def format_flat(report: Mapping[str, Any]) -> str:
    """Return a report without runs for people: one value a line, mappings below their key."""
    lines: list[str] = []
    for key, value in report.items():
        if isinstance(value, Mapping):
            lines.append(f"{key}")
            lines += [f"  {name:<{_COLUMN - 2}}{item:>12}" for name, item in value.items()]
        else:
            lines.append(f"{key:<{_COLUMN}}{value!s:>12}")
    return "\n".join(lines) + "\n"
