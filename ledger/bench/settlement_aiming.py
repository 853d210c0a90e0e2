"""Which deaths simulated worlds have met with which faults, and worlds aimed at those not met yet.

A pair is a moment (a commit or a submission, before or after) and the spell of faults that is on
while a worker dies there. By chance the rare moments meet the rare spells hardly ever; in a world
that is aimed, a spell begins at the moment itself, the worker dies, and what comes after has to
cope with both.
"""

import random
from collections import Counter
from typing import Any, Final

from ledger.simulation.domain import WorldPlan
from ledger.simulation.faults import SPELLS, FaultKind
from ledger.simulation.world import Outcome

AMBUSHES_PER_MOMENT: Final = 3
"""Most in one world, so that it gets beyond a moment that comes often."""

# Under these bids are raised, envelopes expire and batches are given up: rare moments elsewhere.
_HARSH: Final = (
    FaultKind.SURGE,
    FaultKind.TIME_JUMP,
    FaultKind.STALE_REPLICA,
    FaultKind.FROZEN,
    FaultKind.LATE,
    FaultKind.STALL,
)


def missing_pairs(total: Outcome) -> list[tuple[str, str]]:
    """Return the pairs of a moment that came and a spell at which nobody died yet, in order."""
    moments = sorted({moment for moment, _ in total.moments})
    return [
        (moment, spell) for moment in moments for spell in SPELLS if not total.deaths[moment, spell]
    ]


def describe_deaths(total: Outcome) -> dict[str, Any]:
    """Return where workers died: at each moment, and which moment never met which spell."""
    by_moment: Counter[str] = Counter()
    for (moment, _), deaths in total.deaths.items():
        by_moment[moment] += deaths
    moments = sorted({moment for moment, _ in total.moments})
    never: dict[str, list[str]] = {}
    for moment, spell in missing_pairs(total):
        never.setdefault(moment, []).append(spell)
    possible = len(moments) * len(SPELLS)
    return {
        "kills_by_moment": dict(sorted(by_moment.items())),
        "moments_never_killed_at": [moment for moment in moments if not by_moment[moment]],
        "kill_and_fault_pairs": possible - sum(map(len, never.values())),
        "kill_and_fault_pairs_possible": possible,
        "kill_and_fault_pairs_never": {
            moment: ", ".join(spells) for moment, spells in never.items()
        },
    }


def aimed_plan(seed: int, number: int, missing: list[tuple[str, str]]) -> WorldPlan:
    """Return the plan of a small world in which workers die where and when nobody did yet.

    Args:
        seed: The bench's.
        number: The world's.
        missing: Pairs; the same ones give the same plan.
    """
    chance = random.Random(f"{seed} aimed world {number}")
    ambushes: list[tuple[str, str]] = []
    taken: Counter[str] = Counter()
    for moment, spell in chance.sample(missing, len(missing)):
        if taken[moment] < AMBUSHES_PER_MOMENT:
            taken[moment] += 1
            ambushes.append((moment, spell))
    settlers = 3 if any("gathering." in moment for moment, _ in ambushes) else 0
    return WorldPlan(
        seed=chance.getrandbits(48),
        payees=chance.randint(20, 60),
        earning_epochs=chance.randint(4, 6),
        batch_payments=15,
        channels=chance.randint(2, 4),
        window_ledgers=chance.choice([6, 8, 20]),
        workers=chance.randint(1, 2),
        kill_share=0.01,
        lane_share_ppm=300_000,
        has_ailing_payees=chance.random() < 0.5,
        has_seizures=chance.random() < 0.3,
        settlers=settlers,
        settlers_needed=min(2, settlers),
        focus=_HARSH[number % len(_HARSH)],
        ambushes=tuple(sorted(ambushes)),
    )
