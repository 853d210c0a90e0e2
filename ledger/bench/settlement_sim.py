"""The bench of settlement: many simulated worlds; nobody is paid twice in them, nothing is lost.

Each world is a broadcaster's settlement domain with its own network, database and faults, made from
the seed and its number. The production code settles it; in some of them a policy that builds a
payment anew after a timeout pays the same earnings, and pays twice: so the faults bite. A calm
world tells what the network's fees come to, and a stretch of planning and signing how fast that is.
"""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from typing import Any, Final

from ledger.bench.errors import BenchError
from ledger.bench.report import describe_machine, round_figure
from ledger.books.draft import Draft
from ledger.books.payouts import plan_payouts
from ledger.books.state import genesis_state
from ledger.embedded.postgres import PostgresCluster, create_state_dir
from ledger.simulation.domain import PASSPHRASE, SimulatedDomain, WorldPlan
from ledger.simulation.errors import SimulationError
from ledger.simulation.faults import FaultKind
from ledger.simulation.world import Outcome, World, run_naive
from ledger.stellar.envelopes import sign_payout
from ledger.stellar.signing import SeedSigner
from ledger.store.copies import copy_database
from ledger.store.migrate import upgrade

TEMPLATE: Final = "world_template"
MILLION: Final = 1_000_000
NETWORK_OPERATIONS_PER_S: Final = 200
"""What the public network's whole classic lane takes: 1,000 operations every 5 s."""

BASE_FEE_STROOPS: Final = 100
SIGNED_PAYMENTS: Final = 2_000
# Nothing of a world outlives its run, so nothing has to reach the disk.
_FAST_SETTINGS: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementBench:
    """How much is simulated."""

    payouts: int
    """Least payouts of the production code, over all worlds."""

    seed: int
    jobs: int = 1
    """Worlds that run side by side, each in a process."""


def run_settlement_bench(bench: SettlementBench, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run worlds until enough was paid; returns the report.

    Raises:
        BenchError: An invariant did not hold; the message names the world's seed.
    """
    total, naive, worlds = Outcome(), Outcome(), 0
    folder = create_state_dir("swarmledger-settlement-")
    with PostgresCluster(folder / "postgres", settings=_FAST_SETTINGS) as cluster:
        server_url = cluster.url()
        copy_database(server_url, "template1", TEMPLATE)
        upgrade(cluster.url(TEMPLATE))
        try:
            for kind, outcome in _outcomes(bench, server_url, total):
                if kind == "naive":
                    naive.add(outcome)
                    continue
                total.add(outcome)
                worlds += 1
                tell(f"{worlds} worlds, {total.payouts:,} payouts, {_kills(total)} kills")
            calm = _run_world(_calm_plan(bench.seed), server_url)
        except SimulationError as error:
            raise BenchError(str(error)) from None
    return _report(bench, total, naive, calm, worlds)


def plan_of(bench: SettlementBench, number: int) -> WorldPlan:
    """Return the plan of a world; the same bench and number give the same plan."""
    chance = random.Random(f"{bench.seed} world {number}")
    # Small runs have few, large worlds: a world's network ledgers take time however few it pays.
    size = max(100, min(400, bench.payouts // 60))
    return WorldPlan(
        seed=chance.getrandbits(48),
        payees=chance.randint(size // 2, size),
        earning_epochs=4,
        batch_payments=chance.choice([15, 30]) if size == 100 else chance.choice([30, 100]),
        channels=chance.randint(1, 4),
        workers=chance.randint(1, 2),
        raises_bids=chance.random() < 0.7,
        focus=list(FaultKind)[number % len(FaultKind)],
    )


def _calm_plan(seed: int) -> WorldPlan:
    return WorldPlan(seed=seed, payees=400, earning_epochs=2, batch_payments=100, is_calm=True)


def _outcomes(
    bench: SettlementBench, server_url: str, total: Outcome
) -> Iterator[tuple[str, Outcome]]:
    """Run worlds, some side by side, until the total is large enough; it grows meanwhile."""
    # Spawned, not forked: worlds use threads.
    with ProcessPoolExecutor(bench.jobs, mp_context=get_context("spawn")) as pool:
        number = 0
        running: dict[Future[tuple[Outcome, Outcome]], int] = {}
        while total.payouts < bench.payouts or running:
            while total.payouts < bench.payouts and len(running) < bench.jobs:
                plan = plan_of(bench, number)
                running[pool.submit(_run_both, plan, server_url)] = number
                number += 1
            done = next(as_completed(running))
            del running[done]
            naive, outcome = done.result()
            yield "naive", naive
            yield "settlement", outcome


def _run_both(plan: WorldPlan, server_url: str) -> tuple[Outcome, Outcome]:
    return run_naive(plan), _run_world(plan, server_url)


def _run_world(plan: WorldPlan, server_url: str) -> Outcome:
    world = World(plan, server_url, TEMPLATE)
    try:
        return world.run()
    finally:
        world.close()


def _kills(outcome: Outcome) -> int:
    return sum(outcome.deaths.values())


def _report(
    bench: SettlementBench, total: Outcome, naive: Outcome, calm: Outcome, worlds: int
) -> dict[str, Any]:
    decisions = sorted(total.decision_ledgers)
    per_s = _payments_signed_per_s()
    return {
        "bench": "settlement-sim",
        "payouts": total.payouts,
        "seed": bench.seed,
        "worlds": worlds,
        "network_ledgers": total.ledgers,
        "faults_injected": sum(total.faults.values()),
        "faults": dict(sorted(total.faults.items())),
        "kills": _kills(total),
        "kills_by_moment": dict(sorted(total.deaths.items())),
        "moments_never_killed_at": sorted(set(total.moments) - set(total.deaths)),
        "kill_and_fault_pairs": len(total.pairs),
        "kill_and_fault_pairs_possible": len(total.moments) * (len(FaultKind) + 1),
        "databases_restored": total.restores,
        "double_paid_stroops": total.double_paid_stroops,
        "lost_stroops": total.lost_stroops,
        "naive_policy_payouts": naive.payouts,
        "naive_policy_double_paid_ppm": _ppm(naive.double_paid_payouts, naive.payouts),
        "in_flight_batches_decided": len(decisions),
        "decision_ledgers_median": _quantile(decisions, 0.5),
        "decision_ledgers_max": _quantile(decisions, 1.0),
        "fee_per_payout_ratio": round_figure(calm.fees_stroops / calm.payouts / BASE_FEE_STROOPS),
        "payouts_signed_per_cpu_s": round_figure(per_s),
        "payouts_signed_to_network_rate_ratio": round_figure(per_s / NETWORK_OPERATIONS_PER_S),
        "machine": describe_machine(),
    }


def _ppm(part: int, whole: int) -> int:
    return part * MILLION // whole if whole else 0


def _quantile(values: list[int], share: float) -> int | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def _payments_signed_per_s() -> float:
    """Payouts planned in batches of 100, built, and signed by channel and payer, per CPU second."""
    domain = SimulatedDomain(
        WorldPlan(seed=0, payees=1, earning_epochs=0, batch_payments=100, is_calm=True)
    )
    terms, signer = domain.terms, SeedSigner(domain.seeds())
    began_s = time.process_time()
    draft = Draft.of(genesis_state(terms.network_id, terms.broadcaster_account, 0))
    draft.deposit(SIGNED_PAYMENTS, known=True, time_s=1, reference=bytes(32))
    draft.channels = dict.fromkeys(terms.channel_accounts, 1)
    for number in range(SIGNED_PAYMENTS):
        draft.accrue(sha256(b"payee %d" % number).digest(), 1, 0)
    for leaf in plan_payouts(draft, terms):
        sign_payout(leaf, 0, terms, PASSPHRASE, signer)
    return SIGNED_PAYMENTS / (time.process_time() - began_s)
