"""Epochs of a simulated broadcaster: made-up earnings, the production's folding and planning.

What receipts and contract would come to is made up from the seed; everything after it is the
product's: facts from the database are folded, earnings accrue, payouts are planned and bound to
slots, and anchor, leaves and batches are one commit. An epoch is a pure function, so one that a
restored database has forgotten must come out again with the same bytes, and that is checked.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.folding import fold_transactions
from ledger.books.instructing import (
    apply_instructions,
    forget_accounts,
    judge_instructions,
    rulings_of,
)
from ledger.books.payouts import plan_payouts
from ledger.books.standing import maturity_s
from ledger.books.state import State, genesis_state, state_root
from ledger.evidence.checkpoint import Checkpoint, body_hash, sign_checkpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.instruction import Instruction
from ledger.evidence.leaf import PayoutLeaf, format_payout_leaf
from ledger.evidence.merkle import RootBuilder
from ledger.evidence.note import format_note
from ledger.evidence.terms import Terms
from ledger.simulation.errors import SimulationError
from ledger.simulation.network import read_fact
from ledger.simulation.turns import MortalSessions
from ledger.store.engine import Session
from ledger.store.epoch_store import (
    append_leaves,
    find_checkpoint,
    open_epochs,
    store_checkpoint,
    store_closing_state,
)
from ledger.store.settlement_store import (
    epoch_ledger,
    load_anchor,
    load_facts,
    plan_anchor,
    plan_batches,
)
from ledger.store.shard_store import find_shard

EARNING_STROOPS_MAX: Final = 1_000_000


class BooksDifferError(SimulationError):
    """Two views of the same money differ, or an epoch came out otherwise the second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedEpoch:
    """What an epoch came to."""

    number: int
    earnings: Mapping[bytes, int]
    leaves: tuple[PayoutLeaf, ...]
    closing: State
    closing_root: bytes


@dataclass
class SimulatedBooks:
    """Computes and stores one epoch after the other."""

    terms: Terms
    log_seed: bytes = field(repr=False)
    payees: Sequence[bytes]
    seed: int
    earning_epochs: int
    """In so many epochs the payees earn; later ones only pay what is left."""

    dao_key: bytes = bytes(32)
    """Who may rule how a transaction is booked that nobody planned."""

    instruct: Callable[[int, State], Sequence[Signed[Instruction]]] = lambda _number, _state: ()
    """(epoch, its opening state) → what is sealed with it; the same whenever it can be computed."""

    share_earning: float = 0.7
    """Chance of a payee to earn in an epoch."""

    computed: dict[int, SimulatedEpoch] = field(default_factory=dict)
    """All that were ever computed, also those that a restored database forgot."""

    leaves: dict[int, PayoutLeaf] = field(default_factory=dict)
    """Batch number → its leaf, of all epochs that were ever computed."""

    _earned: dict[bytes, int] = field(default_factory=dict)

    def advance(self, sessions: MortalSessions) -> bool:
        """Compute and store the next epoch, if all facts are there and can be booked.

        Returns:
            Whether it did.
        """
        with sessions() as session:
            number = self._next_epoch(session)
            if epoch_ledger(session, self.terms.broadcaster_account, number) is None:
                return False
            try:
                made = self._compute(session, number)
            except UnknownTransactionError:
                return False  # until somebody rules how it is booked
        if number not in self.computed:
            self.computed[number] = made
            self.leaves.update((leaf.batch_number, leaf) for leaf in made.leaves)
            for account, amount_stroops in made.earnings.items():
                self._earned[account] = self._earned.get(account, 0) + amount_stroops
        known = self.computed[number]
        if known.closing_root != made.closing_root or known.leaves != made.leaves:
            raise BooksDifferError(f"epoch {number}: came out otherwise than before")
        with sessions.begin() as session:
            if self._next_epoch(session) != number:
                return False
            self._store(session, made)
        return True

    def earned_stroops(self) -> Mapping[bytes, int]:
        """What each payee has earned in all epochs that were ever computed."""
        return self._earned

    def earnings(self, number: int) -> dict[bytes, int]:
        """Return what the payees earn in an epoch, by account; stroops ≥ 1."""
        if number >= self.terms.first_epoch + self.earning_epochs:
            return {}
        chance = random.Random(f"{self.seed} earnings of epoch {number}")
        return {
            account: chance.randint(1, EARNING_STROOPS_MAX)
            for account in self.payees
            if chance.random() < self.share_earning
        }

    def _next_epoch(self, session: Session) -> int:
        """Return the first epoch that the database does not have; it may have forgotten some."""
        broadcaster = self.terms.broadcaster_account
        number = max(self.computed, default=self.terms.first_epoch - 1) + 1
        while number > self.terms.first_epoch:
            if load_anchor(session, broadcaster, number - 1) is not None:
                break
            number -= 1
        return number

    def _compute(self, session: Session, number: int) -> SimulatedEpoch:
        terms = self.terms
        opening = self._opening(number)
        ledger = epoch_ledger(session, terms.broadcaster_account, number)
        if ledger is None:
            raise BooksDifferError(f"epoch {number}: its last network ledger is not known any more")
        facts = load_facts(
            session,
            terms.broadcaster_account,
            after_sequence=opening.head.last_ledger_sequence,
            through_sequence=ledger.sequence,
        )
        draft = Draft.of(opening)
        draft.head = replace(
            draft.head,
            last_ledger_sequence=ledger.sequence,
            last_ledger_close_s=ledger.close_time_s,
        )
        transactions = [read_fact(fact) for fact in facts]
        instructions = self.instruct(number, opening)
        codes = judge_instructions(instructions, terms, dao_key=self.dao_key)
        fold_transactions(draft, terms, transactions, rulings_of(instructions, codes))
        earnings = self.earnings(number)
        from_s = maturity_s(
            ended_s=terms.epoch_end_s(number),
            window_s=terms.challenge_window_s,
            genesis_s=terms.genesis_s,
        )
        for account, amount_stroops in earnings.items():
            draft.accrue(account, amount_stroops, 0)
            if terms.challenge_window_s:
                key = (account, from_s)
                draft.maturing[key] = draft.maturing.get(key, 0) + amount_stroops
        booked = {transaction.tx_hash for transaction in transactions}
        apply_instructions(draft, terms, instructions, codes, booked)
        leaves = tuple(plan_payouts(draft, terms))
        forget_accounts(draft, terms)
        closing = draft.finish()
        return SimulatedEpoch(
            number=number,
            earnings=earnings,
            leaves=leaves,
            closing=closing,
            closing_root=state_root(closing),
        )

    def _opening(self, number: int) -> State:
        if number == self.terms.first_epoch:
            return genesis_state(self.terms.network_id, self.terms.broadcaster_account, number)
        return self.computed[number - 1].closing

    def _store(self, session: Session, epoch: SimulatedEpoch) -> None:
        broadcaster, number = self.terms.broadcaster_account, epoch.number
        shard = find_shard(session, broadcaster)
        open_epochs(session, shard, first=self.terms.first_epoch, last=number)
        before = find_checkpoint(session, shard, number - 1)
        log = RootBuilder() if before is None else RootBuilder.restore(before.frontier)
        # Stands for seal and result: an epoch without payouts has a checkpoint of its own too.
        first = f"simulated epoch {number} {epoch.closing_root.hex()}".encode()
        leaves = [first, *(format_payout_leaf(leaf) for leaf in epoch.leaves)]
        append_leaves(session, shard, number, log.size, leaves)
        for leaf in leaves:
            log.append(leaf)
        head = Checkpoint(origin=self.terms.log_origin, tree_size=log.size, root_hash=log.root())
        note = format_note(sign_checkpoint(head, self.log_seed))
        store_closing_state(session, shard, number, epoch.closing)
        store_checkpoint(session, shard, number, head, note=note, frontier=log.export_state())
        plan_anchor(session, broadcaster, number, body_hash(head))
        plan_batches(session, broadcaster, epoch.leaves)
