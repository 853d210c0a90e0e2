"""Payouts: whom to pay what, from which slot, and never twice."""

from dataclasses import replace

import book_builders as books
import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.books.draft import Draft
from ledger.books.folding import fold_transactions
from ledger.books.payouts import plan_payouts
from ledger.books.state import PayeeBalance
from ledger.evidence.leaf import PAYOUT_FUNDING, PAYOUT_PAYMENTS, PayoutLeaf

NAMES = [f"payee {place}" for place in range(5)]


def draft_with(
    owed: dict[str, int], *, escrow: int = 1_000_000, channels: bool = True, **alone: bool
) -> Draft:
    draft = Draft.of(books.genesis())
    creations = books.channel_creations() if channels else []
    fold_transactions(draft, builders.terms(), [*creations, books.deposit(escrow)])
    draft.payees = {
        builders.key_of(name): PayeeBalance(
            accrued_stroops=amount, pays_alone=alone.get(name.replace(" ", "_"), False)
        )
        for name, amount in owed.items()
    }
    draft.head = replace(draft.head, last_ledger_sequence=77, last_ledger_close_s=88)
    return draft


def plan(draft: Draft, **terms_changes: object) -> list[PayoutLeaf]:
    return plan_payouts(draft, builders.terms(**terms_changes))


def paid_by(leaves: list[PayoutLeaf]) -> dict[bytes, int]:
    return {
        payment.account: payment.amount_stroops
        for leaf in leaves
        if leaf.kind == PAYOUT_PAYMENTS
        for payment in leaf.payments
    }


def test_first_batch_funds_the_payout_account_then_payees_are_paid_by_account() -> None:
    draft = draft_with({name: 100 + place for place, name in enumerate(NAMES)})
    funding, payments = plan(draft)
    assert (funding.kind, payments.kind) == (PAYOUT_FUNDING, PAYOUT_PAYMENTS)
    assert [(p.account, p.amount_stroops) for p in funding.payments] == [
        (builders.key_of("payout"), 510)
    ]
    accounts = [payment.account for payment in payments.payments]
    assert accounts == sorted(builders.key_of(name) for name in NAMES)
    assert (funding.source_account, payments.source_account) == (
        builders.key_of("escrow"),
        builders.key_of("payout"),
    )


def test_leaf_holds_everything_its_envelopes_are_built_from() -> None:
    _, leaf = plan(draft_with({"payee 0": 5}), fee_bid_stroops=321, fee_bid_max_stroops=321)
    assert (leaf.epoch, leaf.network_id) == (0, builders.NETWORK_ID)
    assert (leaf.reference_ledger_sequence, leaf.reference_close_s) == (77, 88)
    assert (leaf.fee_bid_stroops, leaf.asset_code) == (321, "XAB")
    assert leaf.asset_issuer == builders.key_of("issuer")


def test_payee_below_the_threshold_waits() -> None:
    owed = {"payee 0": 99, "payee 1": 100, "payee 2": 101}
    leaves = plan(draft_with(owed), payout_threshold_stroops=100)
    assert paid_by(leaves) == {builders.key_of(f"payee {n}"): 99 + n for n in (1, 2)}


def test_nothing_is_planned_when_nothing_is_owed() -> None:
    assert plan(draft_with({"payee 0": 0})) == []
    assert plan(draft_with({})) == []


def test_nothing_is_planned_without_a_channel() -> None:
    assert plan(draft_with({"payee 0": 5}, channels=False)) == []


def test_what_is_under_way_is_not_planned_again() -> None:
    draft = draft_with({"payee 0": 500})
    assert len(plan(draft)) == 2
    assert plan(draft) == []
    account = builders.key_of("payee 0")
    draft.payees[account] = replace(draft.payees[account], accrued_stroops=650)
    funding, payments = plan(draft)
    assert (funding.total_stroops, payments.total_stroops) == (150, 150)


def test_escrow_that_does_not_cover_the_sum_pays_nobody() -> None:
    assert plan(draft_with({"payee 0": 1001}, escrow=1000)) == []
    assert plan(draft_with({"payee 0": 1000}, escrow=1000)) != []


@pytest.mark.parametrize("kept", ["fees_stroops", "suspense_stroops"])
def test_fees_and_strangers_money_never_pay_payees(kept: str) -> None:
    draft = draft_with({"payee 0": 1000}, escrow=1000)
    draft.head = replace(draft.head, **{kept: 1})
    assert plan(draft) == []


def test_money_under_way_to_the_payout_account_is_not_given_twice() -> None:
    draft = draft_with({"payee 0": 600, "payee 1": 0}, escrow=1000)
    assert len(plan(draft)) == 2
    draft.payees[builders.key_of("payee 1")] = PayeeBalance(accrued_stroops=500)
    assert plan(draft) == []
    draft.payees[builders.key_of("payee 1")] = PayeeBalance(accrued_stroops=400)
    assert [leaf.total_stroops for leaf in plan(draft)] == [400, 400]


def test_money_already_in_the_payout_account_is_used_first() -> None:
    draft = draft_with({"payee 0": 600})
    draft.head = replace(draft.head, payout_stroops=600)
    (leaf,) = plan(draft)
    assert leaf.kind == PAYOUT_PAYMENTS
    draft = draft_with({"payee 0": 600})
    draft.head = replace(draft.head, payout_stroops=250)
    assert plan(draft)[0].total_stroops == 350


def test_payments_whose_funding_failed_are_funded_again_though_nobody_new_is_owed() -> None:
    draft = draft_with({"payee 0": 600})
    funding, payments = plan(draft)
    terms = builders.terms()
    fold_transactions(draft, terms, [books.decision(funding, 60, succeeded=False)])
    (again,) = plan(draft)
    assert (again.kind, again.total_stroops) == (PAYOUT_FUNDING, 600)
    fold_transactions(draft, terms, [books.decision(again, 61), books.decision(payments, 62)])
    assert plan(draft) == []
    assert draft.payees[builders.key_of("payee 0")].owed_stroops == 0


def test_batches_hold_at_most_the_terms_size() -> None:
    draft = draft_with(dict.fromkeys(NAMES, 10))
    leaves = plan(draft, batch_payments=2)
    assert [len(leaf.payments) for leaf in leaves] == [1, 2, 2, 1]


def test_payee_whose_payment_failed_stands_alone() -> None:
    draft = draft_with(dict.fromkeys(NAMES, 10), payee_1=True, payee_3=True)
    _, together, *alone = plan(draft)
    assert len(together.payments) == 3
    lonely = {builders.key_of("payee 1"), builders.key_of("payee 3")}
    assert [len(leaf.payments) for leaf in alone] == [1, 1]
    assert {leaf.payments[0].account for leaf in alone} == lonely


@settings(max_examples=30)
@given(rounds=st.lists(st.lists(st.integers(0, 50), min_size=5, max_size=5), max_size=6))
def test_slots_rise_strictly_and_are_never_given_twice(rounds: list[list[int]]) -> None:
    draft = draft_with(dict.fromkeys(NAMES, 0))
    leaves: list[PayoutLeaf] = []
    for amounts in rounds:
        for name, amount in zip(NAMES, amounts, strict=True):
            balance = draft.payees[builders.key_of(name)]
            draft.payees[builders.key_of(name)] = replace(
                balance, accrued_stroops=balance.accrued_stroops + amount
            )
        leaves.extend(plan(draft, batch_payments=2))
    slots = [(leaf.channel_account, leaf.channel_sequence) for leaf in leaves]
    assert len(set(slots)) == len(slots)
    for channel in {account for account, _ in slots}:
        sequences = [sequence for account, sequence in slots if account == channel]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    assert [leaf.batch_number for leaf in leaves] == list(range(len(leaves)))
    planned = sum(leaf.total_stroops for leaf in leaves if leaf.kind == PAYOUT_PAYMENTS)
    assert planned == sum(map(sum, rounds))
