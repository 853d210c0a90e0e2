"""What simulated worlds came to so far, kept in a file so that a run of hours can be gone on with.

The file names what the worlds are made of: the bench's seed and size, and a digest of the source
code. Other code may settle otherwise, so its worlds are not added to these. It is replaced after
each world, whole or not at all.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import contracts
import ledger
from ledger.bench.errors import BenchError
from ledger.simulation.domain import WorldPlan
from ledger.simulation.world import Outcome

_FORMAT: Final = 1
_PAIR_SEPARATOR: Final = " / "


@dataclass(kw_only=True)
class Totals:
    """What all worlds came to so far."""

    settlement: Outcome = field(default_factory=Outcome)
    naive: Outcome = field(default_factory=Outcome)
    worlds: set[int] = field(default_factory=set)
    """Numbers of those that came to their end."""

    aimed: int = 0
    with_settlers: int = 0
    payees_least: int = 0
    payees_most: int = 0

    def add(self, number: int, plan: WorldPlan, settlement: Outcome, naive: Outcome | None) -> None:
        """Add a world."""
        self.settlement.add(settlement)
        if naive is not None:
            self.naive.add(naive)
        self.payees_least = min(self.payees_least or plan.payees, plan.payees)
        self.payees_most = max(self.payees_most, plan.payees)
        self.worlds.add(number)
        self.aimed += bool(plan.ambushes)
        self.with_settlers += plan.settlers > 0


class TotalsFile:
    """The file of one run."""

    def __init__(self, path: Path, *, seed: int, payouts: int) -> None:
        """Name it; it need not be there.

        Args:
            path: Of the file.
            seed: The bench's.
            payouts: As many as the run wants: they decide how large its worlds are.
        """
        self._path = path
        self._made_of = {
            "format": _FORMAT,
            "seed": seed,
            "payouts": payouts,
            "source_sha256": source_digest(),
        }

    def load(self) -> Totals:
        """Return what is there; nothing yet if there is no file.

        Raises:
            BenchError: The file is of another run or other code, or is none of ours.
            OSError: It cannot be read.
        """
        try:
            kept = json.loads(self._path.read_text())
        except FileNotFoundError:
            return Totals()
        except ValueError:
            kept = None
        found = kept.get("made_of") if isinstance(kept, dict) else None
        if not isinstance(found, dict):
            raise BenchError(f"{self._path}: got something else, want the state of a simulation")
        for name, want in self._made_of.items():
            if found.get(name) != want:
                raise BenchError(f"{self._path}: {name}: got {found.get(name)}, want {want}")
        try:
            return _read_totals(kept["totals"])
        except (KeyError, TypeError, AttributeError) as error:
            raise BenchError(f"{self._path}: totals: got {error!r}, want all figures") from None

    def save(self, totals: Totals) -> None:
        """Replace the file.

        Raises:
            OSError: It cannot be written.
        """
        draft = self._path.with_name(f"{self._path.name}.new")
        draft.write_text(json.dumps({"made_of": self._made_of, "totals": _write_totals(totals)}))
        os.replace(draft, self._path)


def source_digest() -> str:
    """SHA-256 of the source code that worlds run, in hexadecimal."""
    digest = sha256()
    for package in (contracts, ledger):
        (root,) = package.__path__
        for path in sorted(Path(root).rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root)}\0".encode())
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _write_totals(totals: Totals) -> dict[str, Any]:
    return {
        **{item.name: getattr(totals, item.name) for item in fields(totals)},
        "settlement": _write_outcome(totals.settlement),
        "naive": _write_outcome(totals.naive),
        "worlds": sorted(totals.worlds),
    }


def _read_totals(kept: Mapping[str, Any]) -> Totals:
    return Totals(
        **{
            **kept,
            "settlement": _read_outcome(kept["settlement"]),
            "naive": _read_outcome(kept["naive"]),
            "worlds": set(kept["worlds"]),
        }
    )


def _write_outcome(outcome: Outcome) -> dict[str, Any]:
    written = {item.name: getattr(outcome, item.name) for item in fields(outcome)}
    for name, value in written.items():
        if isinstance(value, Counter):
            written[name] = {
                _PAIR_SEPARATOR.join(key) if isinstance(key, tuple) else str(key): count
                for key, count in value.items()
            }
    return written


def _read_outcome(kept: Mapping[str, Any]) -> Outcome:
    read = dict(kept)
    for name in ("faults", "events"):
        read[name] = Counter(kept[name])
    for name in ("deaths", "moments"):
        pairs = {tuple(key.split(_PAIR_SEPARATOR)): count for key, count in kept[name].items()}
        read[name] = Counter(pairs)
    return Outcome(**read)
