"""The bench of settlement: many simulated worlds; nobody is paid twice in them, nothing is lost.

Each world is a broadcaster's settlement domain with its own network, database and faults, made from
the seed and its number. The production code settles it; in some of them a policy that builds a
payment anew after a timeout pays the same earnings, and pays twice: so the faults bite. A calm
world tells what the network's fees come to, and a stretch of planning and signing how fast that is.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Any, Final

from ledger.bench import worlds
from ledger.bench.errors import BenchError
from ledger.bench.report import describe_machine, round_figure
from ledger.bench.settlement_aiming import aimed_plan, describe_deaths, missing_pairs
from ledger.bench.settlement_state import Totals, TotalsFile
from ledger.books.draft import Draft
from ledger.books.payouts import plan_payouts
from ledger.books.state import genesis_state
from ledger.embedded.postgres import PostgresCluster, create_state_dir
from ledger.simulation.database import WorldDatabase
from ledger.simulation.domain import PASSPHRASE, SimulatedDomain, WorldPlan
from ledger.simulation.errors import SimulationError, StoppedError
from ledger.simulation.faults import FaultKind
from ledger.simulation.world import Outcome, World
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
SMALL_WORLD: Final = 100
"""Most payees of a small world."""

LARGE_WORLD: Final = 1_000
"""Most payees of a world: set-up signs for 20 a transaction, and a ledger closes at each."""

CALM_PAYEES: Final = 400
"""In the calm world that tells what fees come to."""

NAIVE_EVERY: Final = 5
"""In small worlds, and in each of so many others, the policy that pays twice pays too."""

BAR_WIDTH: Final = 30
# Nothing of a world outlives its run, so nothing has to reach the disk.
_FAST_SETTINGS: Final = {
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_senders": "0",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementBench:
    """How much is simulated."""

    payouts: int
    """Least payouts of the production code, over all worlds."""

    seed: int
    jobs: int = 1
    """Worlds that run side by side, each in a process."""

    every_pair: bool = False
    """Whether to go on with aimed worlds until workers died at every moment under every spell."""

    state_path: Path | None = None
    """Where to keep what worlds came to, and to go on from; None: nowhere."""


def run_settlement_bench(bench: SettlementBench, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run worlds until enough was paid; returns the report.

    SIGINT or SIGTERM ends it early: then the report is of the worlds that came to their end, and
    its `is_complete` is False. A second one ends the process. With a state path the next run goes
    on after those worlds.

    Raises:
        BenchError: An invariant did not hold, and the message names the world's seed; or the state
            is not of this run.
        OSError: The state cannot be read or written.
    """
    kept = None
    if bench.state_path is not None:
        kept = TotalsFile(bench.state_path, seed=bench.seed, payouts=bench.payouts)
    totals = Totals() if kept is None else kept.load()
    if kept is not None:
        kept.save(totals)  # where nothing can be kept, hours need not pass first
    folder = create_state_dir("swarmledger-settlement-")
    began_s, before = time.monotonic(), totals.settlement.payouts
    try:
        with PostgresCluster(folder / "postgres", settings=_FAST_SETTINGS) as cluster:
            server_url = cluster.url()
            copy_database(server_url, "template1", TEMPLATE)
            upgrade(cluster.url(TEMPLATE))
            calm = _run_calm(bench.seed, server_url)
            progress = Progress(goal=bench.payouts, began_s=time.monotonic(), before=before)
            for number, plan, settlement, naive in _outcomes(bench, server_url, totals):
                totals.add(number, plan, settlement, naive)
                if kept is not None:
                    kept.save(totals)
                tell(progress.line(totals))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    per_s = (totals.settlement.payouts - before) / (time.monotonic() - began_s)
    return _report(bench, totals, calm, per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is, and how long it may still take."""

    goal: int
    began_s: float
    before: int = 0
    """Payouts that an earlier run had made."""

    def line(self, totals: Totals) -> str:
        """Return a bar, what there is so far, and the minutes that are left at this pace."""
        payouts, total = totals.settlement.payouts, totals.settlement
        share = min(1.0, payouts / self.goal)
        filled = int(share * BAR_WIDTH)
        took_s, made = time.monotonic() - self.began_s, payouts - self.before
        left_s = took_s * max(0, self.goal - payouts) / made if made else None
        left = "no pace yet" if left_s is None else f"{left_s / 60:.0f} min left"
        if payouts >= self.goal:
            left = "enough paid"  # how long aimed worlds take yet, nobody knows
        bar = "#" * filled + "-" * (BAR_WIDTH - filled)
        return (
            f"[{bar}] {100 * share:.0f} %  {payouts:,} payouts, {len(totals.worlds)} worlds, "
            f"{total.deaths.total():,} kills ({len(missing_pairs(total))} pairs of moment and "
            f"spell not met), {left}"
        )


def plan_of(bench: SettlementBench, number: int) -> WorldPlan:
    """Return the plan of a world; the same bench and number give the same plan.

    Most worlds of a large run are large: a world's network ledgers take time however few it pays.
    Every fourth is small, and meets as many faults and deaths with a few batches; in those payees
    cannot be paid for a while, and wish to be paid otherwise.
    """
    chance = random.Random(f"{bench.seed} world {number}")
    size = max(SMALL_WORLD, min(LARGE_WORLD, bench.payouts // 25))
    # A run of a few small worlds is over soon; what others do would make it several times longer.
    is_rich = size > SMALL_WORLD
    is_small = is_rich and number % 4 == 1
    payees = chance.randint(5, SMALL_WORLD) if is_small else chance.randint(size // 2, size)
    settlers = chance.choice([0, 0, 3, 5]) if is_rich else 0
    needed = settlers // 2 + 1 if settlers else 0
    useless = chance.randint(0, settlers - needed)
    dead = chance.randint(0, useless)
    has_low_escrow = is_rich and chance.random() < 0.3
    return WorldPlan(
        seed=chance.getrandbits(48),
        payees=payees,
        earning_epochs=chance.randint(3, 6),
        batch_payments=chance.choice([15, 30] if payees <= SMALL_WORLD else [50, 100, 100, 100]),
        channels=chance.randint(1, 4) if payees <= SMALL_WORLD else chance.randint(3, 8),
        workers=chance.randint(1, 2),
        kill_share=chance.choice([0.01, 0.03, 0.06]),
        lane_share_ppm=chance.choice([300_000, 600_000, MILLION]),
        raises_bids=chance.random() < 0.7,
        has_ailing_payees=is_small and chance.random() < 0.7,
        has_wishes=is_small and chance.random() < 0.5,
        has_low_escrow=has_low_escrow,
        has_strangers=is_rich and chance.random() < 0.3,
        # Where escrow covers just what is planned, a seizure makes a payment fail: a halt for ever.
        has_seizures=is_small and not has_low_escrow and chance.random() < 0.5,
        challenge_window_s=chance.choice([0, 0, 0, 30, 90]) if is_rich else 0,
        settlers=settlers,
        settlers_needed=needed,
        settlers_dead=dead,
        settlers_lying=useless - dead,
        focus=list(FaultKind)[number % len(FaultKind)],
    )


def _run_calm(seed: int, server_url: str) -> Outcome:
    plan = WorldPlan(
        seed=seed, payees=CALM_PAYEES, earning_epochs=2, batch_payments=100, is_calm=True
    )
    database = WorldDatabase(server_url, TEMPLATE, "calm_world")
    try:
        return World(plan, database).run()
    finally:
        database.close()


def _outcomes(
    bench: SettlementBench, server_url: str, totals: Totals
) -> Iterator[tuple[int, WorldPlan, Outcome, Outcome | None]]:
    """Run worlds, some side by side, until there are enough or a signal comes.

    Raises:
        BenchError: An invariant did not hold in one.
    """
    # Spawned, not forked: worlds use threads.
    context = get_context("spawn")
    stopped = context.Event()
    numbers = (number for number in count() if number not in totals.worlds)
    running: dict[Future[tuple[Outcome, Outcome | None]], tuple[int, WorldPlan]] = {}
    with (
        _set_by_signals(stopped),
        ProcessPoolExecutor(
            bench.jobs,
            mp_context=context,
            initializer=worlds.begin,
            initargs=(server_url, TEMPLATE, stopped),
        ) as pool,
    ):
        try:
            while True:
                while not stopped.is_set() and len(running) < bench.jobs:
                    number = next(numbers)
                    plan = _next_plan(bench, number, totals)
                    if plan is None:
                        break
                    with_naive = not plan.ambushes and _has_naive(plan, number)
                    running[pool.submit(worlds.run, plan, with_naive)] = (number, plan)
                if not running:
                    return
                done = next(as_completed(running))
                number, plan = running.pop(done)
                try:
                    yield number, plan, *done.result()
                except StoppedError:
                    continue
                except SimulationError as error:
                    raise BenchError(f"{error}; {plan}") from None
        finally:
            stopped.set()  # after an error, worlds that still run are not waited for


def _next_plan(bench: SettlementBench, number: int, totals: Totals) -> WorldPlan | None:
    """Return the plan of the world that is run next; None: there are enough."""
    if totals.settlement.payouts < bench.payouts:
        return plan_of(bench, number)
    missing = missing_pairs(totals.settlement) if bench.every_pair else []
    return aimed_plan(bench.seed, number, missing) if missing else None


def _has_naive(plan: WorldPlan, number: int) -> bool:
    return plan.payees <= SMALL_WORLD or number % NAIVE_EVERY == 0


@contextmanager
def _set_by_signals(stopped: Event) -> Iterator[None]:
    """Set an event when the process is asked to end, once; the second time it ends."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(
    bench: SettlementBench, totals: Totals, calm: Outcome, simulated_per_s: float
) -> dict[str, Any]:
    total, naive = totals.settlement, totals.naive
    decisions = sorted(total.decision_ledgers)
    per_s = _payments_signed_per_s()
    return {
        "bench": "settlement-sim",
        "is_complete": _next_plan(bench, 0, totals) is None,
        "payouts": total.payouts,
        "seed": bench.seed,
        "worlds": len(totals.worlds),
        "worlds_aimed": totals.aimed,
        "payees_least": totals.payees_least,
        "payees_most": totals.payees_most,
        "network_ledgers": total.ledgers,
        "faults_injected": total.faults.total(),
        "faults": dict(sorted(total.faults.items())),
        "kills": total.deaths.total(),
        **describe_deaths(total),
        "databases_restored": total.restores,
        "events": dict(sorted(total.events.items())),
        "worlds_with_settlers": totals.with_settlers,
        "payouts_with_spoiled_submission_ppm": _ppm(total.spoiled_payouts, total.payouts),
        "payouts_on_their_way_in_trouble_ppm": _ppm(total.troubled_payouts, total.payouts),
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
        "payouts_simulated_per_s": round_figure(simulated_per_s),
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
