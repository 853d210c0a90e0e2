"""One simulated world: a domain earns and pays under faults, and is checked all the way.

Each step is a network ledger: it closes (or not), one or two workers settle and compute epochs in
turns, each may die at any commit or submission, and now and then the database comes back from an
older backup. After every step what the chain has paid is compared with what was earned, and the
books with the chain's balances. When the weather clears, everything must be paid, to the stroop.
`run_naive` lets a policy that pays twice run through the same.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, cast

from ledger.evidence.keys import public_key_of
from ledger.evidence.leaf import Payment
from ledger.simulation.books import SimulatedBooks
from ledger.simulation.database import WorldDatabase
from ledger.simulation.domain import (
    ASSET_CODE,
    DAO_SEED,
    EPOCH_LENGTH_S,
    LOG_SEED,
    PASSPHRASE,
    PaidOnChain,
    SimulatedDomain,
    WorldPlan,
    register_domain,
)
from ledger.simulation.errors import SimulationError, StoppedError
from ledger.simulation.faults import FaultKind
from ledger.simulation.naive import NaivePolicy
from ledger.simulation.network import CLOSE_S
from ledger.simulation.parties import Parties
from ledger.simulation.settlers import Settlers
from ledger.simulation.turns import KilledError, MortalSessions, Turns
from ledger.stellar.settlement import settle
from ledger.stellar.signing import Signer
from ledger.stellar.slots import Slot
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.halt_store import HaltName, load_halts
from ledger.store.settlement_states import SettlementState
from ledger.store.stop_store import load_stops

BACKUP_EVERY_LEDGERS: Final = 12
DECISION_LEDGERS_MAX: Final = 2
"""Most network ledgers after the weather cleared until what was in flight is decided."""

DRAIN_LEDGERS_MAX: Final = 400
"""Most network ledgers after the weather cleared until all must be paid."""


@dataclass(kw_only=True)
class Outcome:
    """What a world came to; outcomes of several worlds add up."""

    payouts: int = 0
    double_paid_stroops: int = 0
    double_paid_payouts: int = 0
    lost_stroops: int = 0
    ledgers: int = 0
    fees_stroops: int = 0
    spoiled_payouts: int = 0
    """Whose envelope's submission was spoiled by a fault, or by the death of who sent it."""

    troubled_payouts: int = 0
    """While an envelope of whose batch was on its way, a fault struck or a worker died."""

    restores: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """How often each kind struck."""

    deaths: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(moment, kind of the spell that was on) → how many workers died there."""

    moments: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(moment, kind of the spell that was on) → how often it came."""

    events: Counter[str] = field(default_factory=Counter)
    """What others did, and what batches came to, how often."""

    decision_ledgers: list[int] = field(default_factory=list)
    """For each batch in flight when the weather cleared: network ledgers until it was decided."""

    def add(self, other: "Outcome") -> None:
        """Add another world's."""
        self.payouts += other.payouts
        self.double_paid_stroops += other.double_paid_stroops
        self.double_paid_payouts += other.double_paid_payouts
        self.lost_stroops += other.lost_stroops
        self.ledgers += other.ledgers
        self.fees_stroops += other.fees_stroops
        self.restores += other.restores
        self.spoiled_payouts += other.spoiled_payouts
        self.troubled_payouts += other.troubled_payouts
        self.faults += other.faults
        self.deaths += other.deaths
        self.moments += other.moments
        self.events += other.events
        self.decision_ledgers += other.decision_ledgers


@dataclass
class _Recovery:
    """When neither weather nor a halt was in the way any more, and what was in flight then."""

    since: int
    """The newest network ledger."""

    in_flight: set[int]
    """Batch numbers."""


class World:
    """A domain under simulation; `run` drives it to its end."""

    def __init__(
        self,
        plan: WorldPlan,
        database: WorldDatabase,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Set a domain up on a network of its own.

        Args:
            plan: How.
            database: Its rows are deleted.
            is_stopped: Asked before each network ledger; ends the run.
        """
        self.plan = plan
        self._is_stopped = is_stopped
        self.domain = SimulatedDomain(plan)
        self.parties = Parties(self.domain)
        self.books = SimulatedBooks(
            terms=self.domain.terms,
            log_seed=LOG_SEED,
            payees=self.domain.payees,
            seed=plan.seed,
            earning_epochs=plan.earning_epochs,
            dao_key=public_key_of(DAO_SEED),
            instruct=self.parties.instructions,
        )
        self.paid = PaidOnChain(
            self.domain.network,
            self.domain.made.payout,
            self.domain.ours,
            escrow=self.domain.made.escrow,
            owners=self.domain.owners,
            strangers=frozenset(self.domain.payees),
        )
        self.outcome = Outcome()
        self._checked_epoch = -1
        self._troubled: set[Slot] = set()
        self._database = database
        database.clear()
        self._sessions = database.sessions
        # What the workers of all ledgers begin transactions with; whose turn it is changes.
        self._mortal_sessions = MortalSessions(self._sessions, self.domain.mortal)
        self.settlers = Settlers(self.domain) if plan.settlers else None
        self.settlement = self.domain.settlement(self._signer())
        register_domain(self._sessions, self.domain.terms, self.domain.keys.broadcaster)
        database.back_up()

    def run(self) -> Outcome:
        """Drive the world until everything is paid.

        Raises:
            SimulationError: Not everything was paid in the end, two views differed, or the
                settlement halted.
            StoppedError: Somebody asked for it.
        """
        for step in range(_faulty_ledgers(self.plan)):
            if step % BACKUP_EVERY_LEDGERS == 0 and not self.plan.is_calm:
                self._database.back_up()
            self.parties.act()
            self._step()
        self.domain.weather.clear_up()
        self.domain.mortal.is_armed = False
        self._drain()
        return self._conclude()

    def _drain(self) -> None:
        """Let it end in peace, and note how long what was in flight took."""
        recovery: _Recovery | None = None
        for _ in range(DRAIN_LEDGERS_MAX):
            # While halted nothing is given up, so it may take as long as the halt.
            if self._is_halted():
                recovery = None
            elif recovery is None:
                recovery = _Recovery(self.domain.network.sequence, self._in_flight())
            self.parties.recover()
            self._step()
            undecided = {batch.leaf.batch_number for batch in self._undecided()}
            if recovery is not None:
                self._note_decisions(recovery, undecided)
            has_earned_all = len(self.books.computed) > self.plan.earning_epochs
            is_all_paid = self._owed_stroops() == 0 == self.paid.unreturned_stroops
            if has_earned_all and not undecided and is_all_paid and not self._is_halted():
                return
        raise self._error(
            f"got {len(undecided)} undecided batches and {self._owed_stroops()} stroops owed "
            f"{DRAIN_LEDGERS_MAX} ledgers after all faults, want everything paid"
        )

    def _note_decisions(self, recovery: "_Recovery", undecided: set[int]) -> None:
        """Note what was decided in this network ledger, and that nothing takes too long."""
        took_ledgers = self.domain.network.sequence - recovery.since
        decided = recovery.in_flight - undecided
        recovery.in_flight -= decided
        self.outcome.decision_ledgers += [took_ledgers] * len(decided)
        is_late = bool(recovery.in_flight) and took_ledgers >= DECISION_LEDGERS_MAX
        if is_late and not self._is_halted():
            raise self._error(
                f"got batches {sorted(recovery.in_flight)} undecided {took_ledgers} network "
                "ledgers after all faults, want them paid or burned"
            )

    def _in_flight(self) -> set[int]:
        """Return the numbers of the batches whose envelopes may be applied any time."""
        states = {SettlementState.IN_FLIGHT, SettlementState.BURNING}
        return {each.leaf.batch_number for each in self._undecided() if each.state in states}

    def _owed_stroops(self) -> int:
        earned = self.books.earned_stroops()
        return sum(
            max(0, stroops - self.paid.by_payee.get(payee, 0)) for payee, stroops in earned.items()
        )

    # One network ledger

    def _step(self) -> None:
        if self._is_stopped():
            raise StoppedError(f"world of seed {self.plan.seed}: stopped")
        domain = self.domain
        troubles = self._count_troubles()
        self.outcome.ledgers += domain.close_ledger()
        if domain.weather.strikes(FaultKind.RESTORED_BACKUP):
            self._database.restore()
            self.outcome.restores += 1
        turns = Turns(domain.chance)
        self._mortal_sessions.wait = turns.wait
        turns.run([self._work] * self.plan.workers)
        if self.settlers is not None:
            self.settlers.act(self._sessions, self.books.leaves)
        if self._count_troubles() > troubles:
            self._troubled |= {
                (batch.leaf.channel_account, batch.leaf.channel_sequence)
                for batch in self._undecided()
                if batch.attempt >= 0
            }
        self._check()

    def _signer(self) -> Signer | None:
        sessions = cast("SessionFactory", self._mortal_sessions)
        return None if self.settlers is None else self.settlers.signer(sessions)

    def _work(self) -> None:
        """One worker's turn at everything; it may not live to its end."""
        sessions = self._mortal_sessions
        try:
            # It makes sessions as the real factory does, and that is all the settlement asks.
            settle(cast("SessionFactory", sessions), self.domain.sources, self.settlement)
            self.books.advance(sessions)
        except KilledError:
            return  # counted where it died

    def _count_troubles(self) -> int:
        """Return how many faults struck and workers died until now."""
        return self.domain.weather.struck.total() + self.domain.mortal.deaths.total()

    def _count_batches(self) -> Counter[str]:
        with self._sessions() as session:
            batches = store.load_batches(session, self.settlement.broadcaster)
        return Counter(f"batches {batch.state}" for batch in batches)

    def _undecided(self) -> tuple[store.Batch, ...]:
        with self._sessions() as session:
            return store.load_batches(session, self.settlement.broadcaster, undecided=True)

    # Checks

    def _check(self) -> None:
        self.paid.take_new(self.books.earned_stroops())
        if self.paid.double_paid_stroops:
            raise self._error(f"got {self.paid.double_paid_stroops} stroops paid twice, want none")
        with self._sessions() as session:
            stops = load_stops(session, self.settlement.broadcaster)
            halts = load_halts(session, self.settlement.broadcaster)
        found = {each.cause for each in stops if each.is_halt} | {str(each.name) for each in halts}
        if found - self._demanded_halts():
            raise self._error(f"got a halt, and nothing demanded one: {', '.join(sorted(found))}")
        self.outcome.events["network ledgers with a halt"] += bool(found)
        self._compare_books()

    def _demanded_halts(self) -> set[str]:
        """What was clawed back from escrow stops everything until it is booked."""
        applied = self.domain.network.network.record
        is_seized = any(applied(tx_hash) for tx_hash in self.domain.powers.seizures)
        return {str(HaltName.UNKNOWN_TRANSACTION)} if is_seized else set()

    def _is_halted(self) -> bool:
        with self._sessions() as session:
            return store.count_halted(session, self.settlement.broadcaster) > 0

    def _compare_books(self) -> None:
        """The books' balances are the chain's, as of the last network ledger of each epoch."""
        made = self.domain.made
        for number in range(self._checked_epoch + 1, len(self.books.computed)):
            head = self.books.computed[number].closing.head
            sequence = head.last_ledger_sequence
            for name, account, want_stroops in (
                ("escrow", made.escrow, head.escrow_stroops),
                ("payout", made.payout, head.payout_stroops),
            ):
                seen = self.domain.network.account_at(account, sequence)
                balances = {} if seen is None else seen.balances
                got_stroops = balances.get((ASSET_CODE, made.issuer), 0)
                if got_stroops != want_stroops:
                    raise self._error(
                        f"ledger {sequence}: {name} holds {got_stroops} stroops on the chain "
                        f"and {want_stroops} in the books"
                    )
            self._checked_epoch = number

    def _error(self, text: str) -> SimulationError:
        return SimulationError(f"world of seed {self.plan.seed}: {text}")

    def _conclude(self) -> Outcome:
        outcome, domain = self.outcome, self.domain
        outcome.payouts = self.paid.payouts
        outcome.fees_stroops = self.paid.fees_stroops
        outcome.spoiled_payouts = self.paid.payouts_of(domain.network.spoiled_slots)
        outcome.troubled_payouts = self.paid.payouts_of(self._troubled)
        outcome.double_paid_stroops = self.paid.double_paid_stroops
        outcome.double_paid_payouts = self.paid.double_paid_payouts
        outcome.events += self.parties.events + self._count_batches()
        outcome.events["payouts to second addresses"] = self.paid.second_payouts
        outcome.lost_stroops = self._owed_stroops()
        outcome.faults = domain.weather.struck
        outcome.deaths, outcome.moments = domain.mortal.deaths, domain.mortal.moments
        return outcome


def run_naive(plan: WorldPlan, is_stopped: Callable[[], bool] = lambda: False) -> Outcome:
    """Let the policy that pays twice pay the same earnings on the same kind of network."""
    # It knows of nobody but payees who can be paid: faults alone must make it pay twice.
    plan = replace(plan, has_low_escrow=False, has_wishes=False)
    domain = SimulatedDomain(plan)
    domain.mortal.is_armed = False  # its faults alone are bad enough
    books = SimulatedBooks(
        terms=domain.terms,
        log_seed=LOG_SEED,
        payees=domain.payees,
        seed=plan.seed,
        earning_epochs=plan.earning_epochs,
    )
    policy = NaivePolicy(domain.terms, PASSPHRASE, domain.seeds())
    paid = PaidOnChain(domain.network, domain.made.escrow, domain.ours)
    earned: Counter[bytes] = Counter()
    epoch = 0
    for step in range(_faulty_ledgers(plan) + DRAIN_LEDGERS_MAX):
        if step == _faulty_ledgers(plan):
            domain.weather.clear_up()
        if step * CLOSE_S >= (epoch + 1) * EPOCH_LENGTH_S and epoch < plan.earning_epochs:
            earnings = books.earnings(epoch)
            earned.update(earnings)
            policy.owe([Payment(account=a, amount_stroops=n) for a, n in earnings.items()])
            epoch += 1
        if is_stopped():
            raise StoppedError(f"world of seed {plan.seed}: stopped")
        domain.close_ledger()
        policy.turn(domain.sources[0])
        paid.take_new(earned)
        if epoch == plan.earning_epochs and policy.is_idle:
            break
    return Outcome(
        payouts=paid.payouts,
        double_paid_stroops=paid.double_paid_stroops,
        double_paid_payouts=paid.double_paid_payouts,
        faults=domain.weather.struck,
    )


def _faulty_ledgers(plan: WorldPlan) -> int:
    """Network ledgers during which faults strike: while the payees earn, and a while after."""
    return plan.earning_epochs * EPOCH_LENGTH_S // CLOSE_S + 30
