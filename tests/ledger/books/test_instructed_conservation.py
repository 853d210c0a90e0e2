"""Conservation with instructions: whatever payees, broadcaster, operator and strangers ask for.

A machine plays epochs in which payees earn, change their addresses and cash out, strangers send
money, the broadcaster asks for refunds, accounts become ready or not, and batches apply, fail, are
voided or stay open. Nothing is paid before its challenge window, nothing twice, nothing is lost.
"""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import book_builders as books
import builders
import instruction_builders as made
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ledger.books.draft import Draft
from ledger.books.folding import fold_transactions
from ledger.books.instructing import (
    InstructionCode,
    apply_instructions,
    forget_accounts,
    judge_instructions,
)
from ledger.books.payouts import plan_payouts
from ledger.books.standing import BUCKETS_MAX, CarryReason, maturity_s
from ledger.books.state import State, format_state, parse_state, state_root
from ledger.evidence.instruction import REFUND_ALL, Readiness
from ledger.evidence.leaf import (
    PAID_FROM_PAYOUT,
    PAYOUT_FUNDING,
    PAYOUT_PAYMENTS,
    PAYOUT_REFUND,
    PayoutLeaf,
    burn_hash,
    payout_hash,
)

TERMS = builders.terms(
    batch_payments=2,
    payout_threshold_stroops=500,
    cash_out_least_stroops=20,
    challenge_window_s=10 * builders.EPOCH_LENGTH_S,
    address_delay_s=builders.EPOCH_LENGTH_S,
    suspense_refund_s=2 * builders.EPOCH_LENGTH_S,
    correction_epochs=1,
)
NAMES = ["payee 0", "payee 1", "payee 2"]
ADDRESSES = [*NAMES, "address 0", "address 1"]
names = st.sampled_from(NAMES)
amounts = st.integers(1, 5_000)


class Histories(RuleBasedStateMachine):
    """Random histories of one broadcaster's books with instructions."""

    @initialize()
    def begin(self) -> None:
        self.state: State = books.genesis()
        self.ledger = 10
        self.serial = 0
        self.transactions = books.channel_creations()
        self.transactions.append(books.deposit(50_000, 20))
        self.ledger = 20
        self.deposited, self.returned, self.strangers = 50_000, 0, 0
        self.instructions: list[Any] = []
        self.earned: dict[int, dict[bytes, int]] = defaultdict(dict)
        """By epoch."""

        self.paid: dict[bytes, int] = defaultdict(int)
        self.open_batches: list[PayoutLeaf] = []
        self.payees_of: dict[int, tuple[bytes, ...]] = {}
        self.balances = {"escrow": 50_000, "payout": 0}

    @property
    def epoch(self) -> int:
        return self.state.head.next_epoch

    def next_ledger(self) -> int:
        self.ledger += 1
        return self.ledger

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def now_s(self) -> int:
        return TERMS.epoch_start_s(self.epoch)

    @rule(name=names, amount=amounts)
    def earn(self, name: str, amount: int) -> None:
        earned = self.earned[self.epoch]
        earned[builders.key_of(name)] = earned.get(builders.key_of(name), 0) + amount

    @rule(amount=amounts)
    def deposit(self, amount: int) -> None:
        self.transactions.append(books.deposit(amount, self.next_ledger()))
        self.deposited += amount
        self.balances["escrow"] += amount

    @rule(amount=amounts, account=st.sampled_from(["escrow", "payout"]))
    def stranger_sends(self, amount: int, account: str) -> None:
        moved = books.movement("stranger", account, amount)
        ledger = self.next_ledger()
        self.transactions.append(
            books.applied("stranger", moved, ledger_sequence=ledger, close_time_s=self.now_s())
        )
        self.strangers += amount
        self.balances[account] += amount

    @rule(name=names, to=st.sampled_from(ADDRESSES))
    def ask_for_another_address(self, name: str, to: str) -> None:
        self.instructions.append(made.pay_to(name, to, serial=self.next_serial()))

    @rule(name=names)
    def ask_for_cash(self, name: str) -> None:
        self.instructions.append(made.cash_out(name, serial=self.next_serial()))

    @rule(amount=st.sampled_from([0, 1_000, REFUND_ALL]))
    def ask_for_a_refund(self, amount: int) -> None:
        self.instructions.append(made.refund(serial=self.next_serial(), amount_stroops=amount))

    @rule(
        name=st.sampled_from([*ADDRESSES, "stranger"]),
        readiness=st.sampled_from(Readiness),
        room=st.sampled_from([0, 100, 2**63 - 1]),
    )
    def see_an_account(self, name: str, readiness: Readiness, room: int) -> None:
        seen = self.next_serial()
        note = made.readiness(
            name, seen_ledger=seen, entry_ledger=seen, readiness=readiness, room_stroops=room
        )
        self.instructions.append(note)

    @rule(fates=st.lists(st.sampled_from(["pays", "fails", "burned"]), min_size=1, max_size=5))
    def decide_some(self, fates: list[str]) -> None:
        for fate in fates:
            self.decide(fate)

    def decide(self, fate: str) -> None:
        """The chain decides the oldest batch of the channel that is furthest behind."""
        if not self.open_batches:
            return
        leaf = min(self.open_batches, key=lambda leaf: leaf.batch_number)
        source = "payout" if leaf.kind in PAID_FROM_PAYOUT else "escrow"
        if fate == "pays" and leaf.total_stroops > self.balances[source]:
            fate = "fails"
        self.open_batches.remove(leaf)
        ledger = self.next_ledger()
        if fate == "burned":
            memo = burn_hash(payout_hash(leaf))
            done = books.decision(leaf, ledger)
            self.transactions.append(replace(done, memo_hash=memo, movements=()))
            return
        failed = () if fate == "pays" else (leaf.payments[0].account,)
        self.transactions.append(
            books.decision(leaf, ledger, succeeded=fate == "pays", failed_destinations=failed)
        )
        if fate == "pays":
            self.note_paid(leaf, source)

    def note_paid(self, leaf: PayoutLeaf, source: str) -> None:
        self.balances[source] -= leaf.total_stroops
        if leaf.kind == PAYOUT_FUNDING:
            self.balances["payout"] += leaf.total_stroops
        elif leaf.kind == PAYOUT_PAYMENTS:
            for place, payment in enumerate(leaf.payments):
                payee = self.payees_of[leaf.batch_number][place]
                self.paid[payee] += payment.amount_stroops
        elif leaf.kind == PAYOUT_REFUND:
            self.returned += leaf.total_stroops
        else:
            self.strangers -= leaf.total_stroops

    @rule()
    def close_epoch(self) -> None:
        first, again = self.compute(), self.compute()
        assert format_state(first[0]) == format_state(again[0])
        assert first[1] == again[1]
        closing, leaves, reasons = first
        for leaf in leaves:
            self.open_batches.append(leaf)
            batch = closing.batches[leaf.batch_number]
            self.payees_of[leaf.batch_number] = tuple(
                batch.payee_at(place) for place in range(len(leaf.payments))
            )
        self.transactions, self.instructions = [], []
        self.check(closing, leaves, reasons)
        self.state = closing

    def compute(self) -> tuple[State, list[PayoutLeaf], dict[bytes, CarryReason]]:
        draft = Draft.of(self.state)
        instructions = sorted(self.instructions, key=lambda signed: signed.digest)
        codes = judge_instructions(instructions, TERMS, dao_key=builders.key_of("dao"))
        assert set(codes) <= {InstructionCode.APPLIED}
        fold_transactions(draft, TERMS, self.transactions)
        due_s = maturity_s(
            ended_s=TERMS.epoch_end_s(self.epoch),
            window_s=TERMS.challenge_window_s,
            genesis_s=TERMS.genesis_s,
        )
        for account, amount in self.earned[self.epoch].items():
            draft.accrue(account, amount, 0)
            draft.hold_back(account, amount, due_s)
        apply_instructions(draft, TERMS, instructions, codes, ())
        leaves = plan_payouts(draft, TERMS)
        forget_accounts(draft, TERMS)
        return draft.finish(), leaves, draft.reasons

    def check(
        self, state: State, leaves: list[PayoutLeaf], reasons: dict[bytes, CarryReason]
    ) -> None:
        head = state.head
        assert head.deposited_stroops == self.deposited
        assert head.refunded_stroops == self.returned
        assert head.suspense_stroops == self.strangers
        assert {"escrow": head.escrow_stroops, "payout": head.payout_stroops} == self.balances
        assert head.escrow_stroops + head.payout_stroops == (
            state.unspent_stroops + state.carried_stroops + head.suspense_stroops
        )
        waiting = sum(held.amount_stroops for held in state.suspense.values())
        under_way = sum(
            batch.total_stroops for batch in state.batches.values() if batch.kind > PAYOUT_REFUND
        )
        assert waiting + under_way == head.suspense_stroops
        assert parse_state(format_state(state)) == state
        assert state_root(parse_state(format_state(state))) == state_root(state)
        self.check_payees(state)
        for account, balance in state.payees.items():
            assert (reasons[account] == CarryReason.NOTHING_OWED) <= (balance.owed_stroops == 0)
        assert sorted(state.batches) == sorted(leaf.batch_number for leaf in self.open_batches)
        if any(leaf.kind == PAYOUT_REFUND for leaf in leaves):
            refunds = [b.total_stroops for b in state.batches.values() if b.kind == PAYOUT_REFUND]
            assert state.unspent_stroops >= sum(refunds)
        for leaf in leaves:
            assert all(payment.amount_stroops >= 1 for payment in leaf.payments)

    def check_payees(self, state: State) -> None:
        """Nobody gets, or will get, what is in its challenge window, or anything twice."""
        pending: dict[bytes, int] = defaultdict(int)
        for number, batch in state.batches.items():
            if batch.kind == PAYOUT_PAYMENTS:
                for place, payment in enumerate(batch.payments):
                    pending[self.payees_of[number][place]] += payment.amount_stroops
        now_s = TERMS.epoch_end_s(state.head.next_epoch - 1)
        for account, balance in state.payees.items():
            assert balance.paid_stroops == self.paid[account]
            old_enough = sum(
                earned.get(account, 0)
                for epoch, earned in self.earned.items()
                if TERMS.epoch_end_s(epoch) + TERMS.challenge_window_s <= now_s
            )
            assert balance.paid_stroops + pending[account] <= old_enough
            buckets = [key for key in state.maturing if key[0] == account]
            assert len(buckets) <= BUCKETS_MAX

    def teardown(self) -> None:
        """Once everything may be paid and everybody is ready, nothing stays behind."""
        if not hasattr(self, "state"):
            return
        self.deposit(10**9)
        for name in [*ADDRESSES, "stranger", "broadcaster"]:
            self.see_an_account(name, Readiness.READY, 2**63 - 1)
        self.close_epoch()
        for _ in range(14):
            while self.open_batches:
                self.decide("pays")
            for name in NAMES:
                self.ask_for_cash(name)
            self.close_epoch()
        least = TERMS.cash_out_least_stroops
        assert all(payee.owed_stroops < least for payee in self.state.payees.values())
        assert all(held.amount_stroops < least for held in self.state.suspense.values())
        assert self.state.maturing == {}


TestHistories: Any = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
