"""Simulated worlds in a process of a pool: one database, one world after another.

The process leaves signals to the one that started it, and asks before each network ledger whether
it is to end.
"""

import logging
import os
import signal
from multiprocessing.synchronize import Event

from ledger.simulation.database import WorldDatabase
from ledger.simulation.domain import WorldPlan
from ledger.simulation.world import Outcome, World, run_naive

_held: list[tuple[WorldDatabase, Event]] = []
"""What this process works with: one entry once it began."""


def begin(server_url: str, template: str, stopped: Event) -> None:
    """Prepare this process.

    Args:
        server_url: The server's database `postgres`.
        template: Name of a migrated database without rows.
        stopped: Set when worlds are to end early.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # What the settlement says of the faults that are made here would hide all else.
    logging.getLogger("ledger").setLevel(logging.CRITICAL)
    _held.append((WorldDatabase(server_url, template, f"worlds_{os.getpid()}"), stopped))


def run(plan: WorldPlan, with_naive: bool) -> tuple[Outcome, Outcome | None]:
    """Run a world, and the policy that pays twice on a like one if wanted.

    Raises:
        SimulationError: An invariant did not hold.
        StoppedError: The worlds are to end.
    """
    database, stopped = _held[0]
    naive = run_naive(plan, stopped.is_set) if with_naive else None
    return World(plan, database, stopped.is_set).run(), naive
