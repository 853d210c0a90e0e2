"""Conservation over random histories: nothing is lost, made or paid twice, whatever happens.

A machine plays broadcaster, strangers, viewers, payees and the chain against the books: deposits,
traffic, late receipts, batches that apply, fail or stay undecided. After every epoch the closing
state is compared with the machine's own simple counts.
"""

from collections import defaultdict
from typing import Any

import book_builders as books
import builders
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger.books.journal import Account, Book, sum_postings
from ledger.books.judgement import LaneCount
from ledger.books.state import State, format_state, parse_state, state_root
from ledger.books.transactions import AppliedTransaction
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.leaf import PAYOUT_FUNDING, PayoutLeaf
from ledger.evidence.receipt import Receipt
from ledger.evidence.units import charge_for, fee_for

TERMS = builders.signed_terms(price_stroops=3, price_quantity_bytes=7, batch_payments=2)
UNDER = {
    name: builders.entitlement(name, terms_digest=TERMS.digest) for name in ("viewer", "viewer 2")
}
BINDINGS = {name: builders.binding(name) for name in ("seeder", "seeder 2", "seeder 3")}
viewers = st.sampled_from(sorted(UNDER))
payees = st.sampled_from(sorted(BINDINGS))
amounts = st.integers(1, 100_000)
LaneName = tuple[str, str, int]


class Histories(RuleBasedStateMachine):
    """Random histories of one broadcaster's books."""

    @initialize()
    def begin(self) -> None:
        self.state: State = books.genesis()
        self.ledger = 10
        self.transactions: list[AppliedTransaction] = books.channel_creations()
        self.transactions.append(books.deposit(1_000_000, self.next_ledger()))
        self.deposited = 1_000_000
        self.suspense = 0
        self.paid: dict[bytes, int] = defaultdict(int)
        self.open_batches: list[PayoutLeaf] = []
        self.slots: set[tuple[bytes, int]] = set()
        self.highest: dict[bytes, int] = {}
        self.payout_balance = 0
        self.totals: dict[LaneName, int] = {}
        """What each lane claims by now, by viewer, payee, epoch."""

        self.sequences: dict[LaneName, int] = defaultdict(int)
        self.counted: dict[bytes, LaneCount] = {}
        self.bundles: list[Signed[Bundle]] = []
        self.numbers: dict[str, int] = defaultdict(int)

    @property
    def epoch(self) -> int:
        return self.state.head.next_epoch

    def happen(self, transaction: AppliedTransaction) -> None:
        self.transactions.append(transaction)

    def next_ledger(self) -> int:
        self.ledger += 1
        return self.ledger

    @rule(amount=amounts)
    def deposit(self, amount: int) -> None:
        self.happen(books.deposit(amount, self.next_ledger()))
        self.deposited += amount

    @rule(amount=amounts, account=st.sampled_from(["escrow", "payout"]))
    def stranger_sends(self, amount: int, account: str) -> None:
        moved = books.movement("stranger", account, amount)
        self.happen(books.applied("stranger", moved, ledger_sequence=self.next_ledger()))
        self.suspense += amount
        if account == "payout":
            self.payout_balance += amount

    @rule(traffic=st.lists(st.tuples(viewers, payees, amounts, st.booleans()), min_size=1))
    def receive_much(self, traffic: list[tuple[str, str, int, bool]]) -> None:
        for viewer, payee, amount, late in traffic:
            self.receive(viewer, payee, amount, late)

    def receive(self, viewer: str, payee: str, amount: int, late: bool) -> None:
        epoch = self.epoch - 1 if late and self.epoch else self.epoch
        name = (viewer, payee, epoch)
        self.totals[name] = self.totals.get(name, 0) + amount
        self.sequences[name] += 1
        receipt = builders.receipt(
            payee,
            viewer,
            under=UNDER[viewer],
            epoch=epoch,
            sequence=self.sequences[name],
            bytes_total=self.totals[name],
        )
        self.send(payee, receipt, viewer)

    @rule(payee=payees, viewer=viewers)
    def send_again(self, payee: str, viewer: str) -> None:
        """The same receipt in a further bundle changes nothing."""
        name = (viewer, payee, self.epoch)
        if name in self.totals:
            receipt = builders.receipt(
                payee,
                viewer,
                under=UNDER[viewer],
                epoch=self.epoch,
                sequence=self.sequences[name],
                bytes_total=self.totals[name],
            )
            self.send(payee, receipt, viewer)

    def send(self, payee: str, receipt: Signed[Receipt], viewer: str) -> None:
        self.numbers[payee] += 1
        bundle = builders.payee_bundle(
            [receipt],
            payee,
            entitlements=[UNDER[viewer]],
            bindings=[BINDINGS[payee]],
            epoch=receipt.value.epoch,
            number=self.numbers[payee],
        )
        self.bundles.append(bundle)

    @rule(places=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
    def decide_some(self, places: list[tuple[int, bool]]) -> None:
        for place, wish in places:
            self.decide(place, wish)

    def decide(self, place: int, wish: bool) -> None:
        """The chain decides the oldest batch of a channel, if it can pay."""
        first = {
            leaf.channel_account: leaf
            for leaf in sorted(self.open_batches, key=lambda leaf: -leaf.channel_sequence)
        }
        if not first:
            return
        leaf = sorted(first.values(), key=lambda leaf: leaf.batch_number)[place % len(first)]
        self.open_batches.remove(leaf)
        funding = leaf.kind == PAYOUT_FUNDING
        succeeded = wish and (funding or leaf.total_stroops <= self.payout_balance)
        failed = () if succeeded or funding else (leaf.payments[0].account,)
        self.happen(
            books.decision(
                leaf, self.next_ledger(), succeeded=succeeded, failed_destinations=failed
            )
        )
        if not succeeded:
            return
        self.payout_balance += leaf.total_stroops if funding else -leaf.total_stroops
        if not funding:
            for payment in leaf.payments:
                self.paid[payment.account] += payment.amount_stroops

    @rule()
    def close_epoch(self) -> None:
        inputs = books.epoch_inputs(
            self.state,
            self.bundles,
            self.transactions,
            with_terms=TERMS,
            counted_before=dict(self.counted),
            last_ledger_sequence=self.ledger,
        )
        opening = self.state
        seal, result = books.run_epoch(inputs)
        for lane in seal.judgement.lanes:
            self.counted[lane.lane_digest] = lane.count
        for leaf in result.payouts:
            self.note_slot(leaf)
        self.open_batches.extend(result.payouts)
        self.transactions, self.bundles = [], []
        self.state = result.closing
        for line in result.lines:
            assert (
                line.opening_stroops + line.accrued_stroops - line.paid_stroops
                == line.closing_stroops
            )
        sums = sum_postings(result.entries)
        assert sum(amount for (_, _, book), amount in sums.items() if book == Book.PRICED) == 0
        assert sum(amount for (_, _, book), amount in sums.items() if book == Book.XLM) == 0
        moved = sum(amount for (account, _, _), amount in sums.items() if account == Account.PAYEE)
        assert -moved == self.state.carried_stroops - opening.carried_stroops
        self.check_closed()

    def note_slot(self, leaf: PayoutLeaf) -> None:
        slot = (leaf.channel_account, leaf.channel_sequence)
        assert slot not in self.slots
        assert leaf.channel_sequence > self.highest.get(leaf.channel_account, 0)
        self.slots.add(slot)
        self.highest[leaf.channel_account] = leaf.channel_sequence

    def check_closed(self) -> None:
        state, head = self.state, self.state.head
        assert head.deposited_stroops == self.deposited
        assert head.suspense_stroops == self.suspense
        assert head.payout_stroops == self.payout_balance
        assert head.escrow_stroops + head.payout_stroops == (
            state.unspent_stroops + head.fees_stroops + state.carried_stroops + self.suspense
        )
        assert head.deposited_stroops == head.charged_stroops + state.unspent_stroops
        assert head.charged_stroops == (
            state.paid_stroops + head.fees_stroops + state.carried_stroops
        )
        assert {a: p.paid_stroops for a, p in state.payees.items() if p.paid_stroops} == {
            account: amount for account, amount in self.paid.items() if amount
        }
        self.check_charges()
        assert parse_state(format_state(state)) == state
        assert state_root(parse_state(format_state(state))) == state_root(state)

    def check_charges(self) -> None:
        """However often and late it was receipted, a payee earns the floor of all its bytes."""
        by_payee: dict[str, int] = defaultdict(int)
        for (_, payee, _), total in self.totals.items():
            by_payee[payee] += total
        for payee, total in by_payee.items():
            charge = charge_for(3, 7, total)
            balance = self.state.payees[builders.key_of(f"{payee} account")]
            assert balance.accrued_stroops == charge - fee_for(100_000, charge)
            assert balance.owed_stroops >= 0

    @invariant()
    def undecided_batches_are_those_of_the_state(self) -> None:
        if hasattr(self, "state") and not self.transactions:
            assert sorted(self.state.batches) == sorted(x.batch_number for x in self.open_batches)
            pending: dict[bytes, int] = defaultdict(int)
            for leaf in self.open_batches:
                if leaf.kind != PAYOUT_FUNDING:
                    for payment in leaf.payments:
                        pending[payment.account] += payment.amount_stroops
            for account, amount in pending.items():
                assert amount <= self.state.payees[account].owed_stroops

    def teardown(self) -> None:
        """Close what is open; then let everything be paid, and nothing is owed but dust."""
        if not hasattr(self, "state"):
            return
        self.deposit(10**9)
        self.close_epoch()
        for _ in range(6):
            while self.open_batches:
                self.decide(0, True)
            self.close_epoch()
        assert self.state.batches == {}
        assert self.state.carried_stroops == 0
        assert sum(self.paid.values()) == (
            self.state.head.charged_stroops - self.state.head.fees_stroops
        )


TestHistories: Any = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=30)
