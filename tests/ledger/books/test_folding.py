"""Folding: what the chain did to our accounts, and the transactions nobody may guess about."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import book_builders as books
import builders
import pytest

from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.folding import domain_accounts, fold_transactions
from ledger.books.journal import Account, Book, EntryKind, sum_postings
from ledger.books.payouts import plan_payouts
from ledger.books.state import PayeeBalance
from ledger.books.transactions import AppliedTransaction, Movement
from ledger.evidence.leaf import (
    PAYOUT_FUNDING,
    PayoutLeaf,
    burn_hash,
    opening_hash,
    payout_hash,
)

ZEROS = bytes(32)
PAYEE = builders.key_of("seeder account")
OTHER = builders.key_of("other account")


def fold(
    transactions: Sequence[AppliedTransaction], draft: Draft | None = None, **terms_changes: object
) -> Draft:
    draft = draft or Draft.of(books.genesis())
    fold_transactions(draft, builders.terms(**terms_changes), transactions)
    return draft


def planned(*, owed: dict[bytes, int] | None = None) -> tuple[Draft, list[PayoutLeaf]]:
    """A draft with money, channels and open batches for what is owed."""
    draft = fold([*books.channel_creations(), books.deposit(1_000_000)])
    for account, amount in (owed or {PAYEE: 500, OTHER: 300}).items():
        draft.payees[account] = PayeeBalance(accrued_stroops=amount)
    return draft, plan_payouts(draft, builders.terms())


def entries_of(draft: Draft, kind: EntryKind) -> int:
    return sum(entry.kind == kind for entry in draft.entries)


def test_domain_is_escrow_payout_anchor_and_channels() -> None:
    names = ("escrow", "payout", "anchor", "channel 0", "channel 1")
    assert domain_accounts(builders.terms()) == {builders.key_of(name) for name in names}
    payer = builders.key_of("fee payer")
    assert domain_accounts(builders.terms(fee_account=payer)) > {payer}


# --- deposits -------------------------------------------------------------------------------------


def test_deposit_of_the_broadcaster_is_unspent() -> None:
    draft = fold([books.deposit(1000)])
    head = draft.head
    assert (head.escrow_stroops, head.deposited_stroops, head.suspense_stroops) == (1000, 1000, 0)
    assert entries_of(draft, EntryKind.DEPOSIT) == 1


def test_deposit_from_elsewhere_with_the_broadcasters_memo_is_its_deposit() -> None:
    moved = books.movement("exchange", "escrow", 1000)
    draft = fold([books.applied("exchange", moved, memo_hash=builders.key_of("broadcaster"))])
    assert draft.head.deposited_stroops == 1000


def test_strangers_money_stands_in_suspense() -> None:
    memo = builders.key_of("other broadcaster")
    draft = fold(
        [
            books.applied("stranger", books.movement("stranger", "escrow", 30)),
            books.applied("stranger", books.movement("stranger", "escrow", 4), memo_hash=memo),
            books.applied("stranger", books.movement("stranger", "payout", 5)),
        ]
    )
    head = draft.head
    assert (head.escrow_stroops, head.payout_stroops) == (34, 5)
    assert (head.deposited_stroops, head.suspense_stroops) == (0, 39)
    assert sum_postings(draft.entries)[Account.SUSPENSE, ZEROS, Book.PRICED] == -39


def test_each_payment_of_a_transaction_is_a_deposit() -> None:
    moves = [books.movement("broadcaster", "escrow", amount) for amount in (1, 20)]
    draft = fold([books.applied("broadcaster", *moves)])
    assert draft.head.deposited_stroops == 21


@pytest.mark.parametrize(
    "moved",
    [
        books.movement("broadcaster", "escrow", 5, asset_code="XAT"),
        books.movement("broadcaster", "escrow", 5, asset_issuer=builders.key_of("forger")),
        books.movement("broadcaster", "seeder account", 5),
        books.movement("broadcaster", "anchor", 5),
    ],
    ids=["other-code", "other-issuer", "not-ours", "no-holder"],
)
def test_other_assets_and_other_destinations_are_no_deposit(moved: Movement) -> None:
    draft = fold([books.applied("broadcaster", moved)])
    assert draft.head == books.genesis().head


def test_failed_transaction_moves_nothing_but_its_fee() -> None:
    failed = replace(
        books.applied("escrow", books.movement("escrow", "seeder account", 5)), succeeded=False
    )
    draft = fold([failed])
    assert draft.head == books.genesis().head
    assert entries_of(draft, EntryKind.NETWORK_FEE) == 1


def test_conversion_by_a_stranger_into_a_deposit_is_a_deposit() -> None:
    """A path payment: what left the sender is a bound, what arrived is exact."""
    sent = books.native_movement("broadcaster", "escrow", 9999, is_exact=False)
    draft = fold(
        [books.applied("broadcaster", sent, books.movement("broadcaster", "escrow", 1000))]
    )
    assert draft.head.deposited_stroops == 1000


def test_what_a_stranger_spends_in_a_conversion_is_no_deposit() -> None:
    """Up to a million of the priced asset leave the sender; one stroop of XLM arrives in escrow."""
    for destination in ("escrow", "payout"):
        sent = books.movement("broadcaster", destination, 10**12, is_exact=False)
        got = books.native_movement("broadcaster", destination, 1)
        draft = fold([books.applied("broadcaster", sent, got)])
        assert draft.head == books.genesis().head
        assert draft.xlm[builders.key_of(destination)].received_stroops == 1


def test_xlm_that_a_stranger_spends_in_a_conversion_is_not_received() -> None:
    sent = books.native_movement("broadcaster", "escrow", 10**12, is_exact=False)
    got = books.movement("broadcaster", "escrow", 7)
    draft = fold([books.applied("broadcaster", sent, got)])
    assert draft.head.deposited_stroops == 7
    assert draft.xlm == {}


# --- what nobody planned --------------------------------------------------------------------------


@pytest.mark.parametrize("holder", ["escrow", "payout"])
@pytest.mark.parametrize("destination", ["seeder account", "stranger", "escrow", "payout"])
def test_unplanned_outflow_stops_the_books(holder: str, destination: str) -> None:
    with pytest.raises(UnknownTransactionError, match="planned batch"):
        fold([books.applied(holder, books.movement(holder, destination, 1))])


def test_outflow_in_a_strangers_transaction_stops_the_books() -> None:
    with pytest.raises(UnknownTransactionError):
        fold([books.applied("stranger", books.movement("escrow", "stranger", 1))])


@pytest.mark.parametrize("account", ["escrow", "payout", "anchor", "channel 0"])
def test_conversion_by_an_account_of_ours_stops_the_books(account: str) -> None:
    sent = books.native_movement(account, "stranger", 5, is_exact=False)
    with pytest.raises(UnknownTransactionError, match="conversion"):
        fold([books.applied("stranger", sent)])


def test_transaction_of_a_channel_without_a_batch_stops_the_books() -> None:
    for succeeded in (True, False):
        with pytest.raises(UnknownTransactionError, match="slot"):
            fold([books.applied("channel 0", sequence=5, succeeded=succeeded)])


def test_slot_that_applied_cannot_apply_again() -> None:
    draft, leaves = planned()
    fold([books.decision(leaves[0], 60)], draft)
    with pytest.raises(UnknownTransactionError, match="slot"):
        fold([books.decision(leaves[0], 61)], draft)


def test_slot_of_another_channel_is_not_the_same_slot() -> None:
    draft, leaves = planned()
    names = {builders.key_of(name) for name in ("channel 0", "channel 1")}
    (other,) = names - {leaves[0].channel_account}
    moved = replace(books.decision(leaves[0], 60), source_account=other)
    with pytest.raises(UnknownTransactionError, match="slot"):
        fold([moved], draft)


def test_sequence_of_a_channel_that_is_no_slot_stops_the_books() -> None:
    draft, leaves = planned()
    moved = books.decision(leaves[0], 60)
    for sequence in (moved.sequence - 1, moved.sequence + 1):
        with pytest.raises(UnknownTransactionError, match="slot"):
            fold([replace(moved, sequence=sequence)], draft)


def altered(transaction: AppliedTransaction, what: str) -> AppliedTransaction:
    first, *rest = transaction.movements
    changes = {
        "more": (replace(first, amount_stroops=first.amount_stroops + 1), *rest),
        "less": (replace(first, amount_stroops=first.amount_stroops - 1), *rest),
        "thief": (replace(first, destination=builders.key_of("thief")), *rest),
        "source": (replace(first, source=builders.key_of("anchor")), *rest),
        "code": (replace(first, asset_code="XAT"), *rest),
        "issuer": (replace(first, asset_issuer=builders.key_of("forger")), *rest),
        "extra": (*transaction.movements, first),
        "missing": tuple(rest),
        "order": (*rest, first),
    }
    return replace(transaction, movements=changes[what])


@pytest.mark.parametrize(
    "what", ["more", "less", "thief", "source", "code", "issuer", "extra", "missing", "order"]
)
def test_slot_used_for_other_payments_than_planned_stops_the_books(what: str) -> None:
    draft, leaves = planned()
    payments = next(leaf for leaf in leaves if leaf.kind != PAYOUT_FUNDING)
    with pytest.raises(UnknownTransactionError, match="planned payments"):
        fold([altered(books.decision(payments, 60), what)], draft)


# --- batches --------------------------------------------------------------------------------------


def test_applied_batches_move_the_sum_and_pay_the_payees() -> None:
    draft, (funding, payments) = planned()
    fold([books.decision(funding, 60)], draft)
    assert (draft.head.escrow_stroops, draft.head.payout_stroops) == (999_200, 800)
    assert draft.payees[PAYEE].paid_stroops == 0
    fold([books.decision(payments, 61)], draft)
    assert draft.head.payout_stroops == 0
    assert (draft.payees[PAYEE].paid_stroops, draft.payees[OTHER].paid_stroops) == (500, 300)
    assert draft.batches == {}


def test_failed_batch_is_decided_and_owes_on() -> None:
    draft, (funding, payments) = planned()
    failed = books.decision(payments, 61, succeeded=False, failed_destinations=(OTHER,))
    fold([books.decision(funding, 60), failed], draft)
    assert draft.batches == {}
    assert draft.head.payout_stroops == 800
    assert draft.payees[PAYEE] == PayeeBalance(accrued_stroops=500)
    assert draft.payees[OTHER] == PayeeBalance(accrued_stroops=300, pays_alone=True)


def test_failure_that_leaves_the_slot_open_decides_nothing() -> None:
    """Deciding it would plan the payment anew while the first envelope can still apply."""
    draft, (funding, payments) = planned()
    early = replace(books.decision(payments, 60, succeeded=False), is_sequence_consumed=False)
    fold([early], draft)
    assert set(draft.batches) == {funding.batch_number, payments.batch_number}
    assert plan_payouts(draft, builders.terms()) == []
    fold([books.decision(funding, 61), books.decision(payments, 62)], draft)
    again = replace(early, ledger_sequence=63)
    fold([again], draft)
    assert draft.batches == {}
    assert draft.xlm[payments.channel_account].spent_stroops >= 300


@pytest.mark.parametrize("isolates", [False, True])
def test_burned_slot_voids_its_batch_and_owes_on(isolates: bool) -> None:
    draft, (funding, payments) = planned()
    fold([books.decision(funding, 60)], draft)
    fold([burn(payments, burn_hash(payout_hash(payments), isolates=isolates))], draft)
    assert draft.batches == {}
    assert draft.head.payout_stroops == 800
    assert draft.payees[PAYEE] == PayeeBalance(accrued_stroops=500, pays_alone=isolates)
    again = plan_payouts(draft, builders.terms())
    assert [len(leaf.payments) for leaf in again] == ([1, 1] if isolates else [2])
    slots = {(leaf.channel_account, leaf.channel_sequence) for leaf in (*again, payments)}
    assert len(slots) == len(again) + 1


def burn(leaf: PayoutLeaf, memo_hash: bytes, *moved: Movement) -> AppliedTransaction:
    return replace(books.decision(leaf, 61), memo_hash=memo_hash, movements=moved)


def test_no_op_in_a_slot_under_another_memo_stops_the_books() -> None:
    draft, (_, payments) = planned()
    for memo_hash in (ZEROS, payout_hash(payments), burn_hash(ZEROS)):
        with pytest.raises(UnknownTransactionError, match="moved 0 amounts"):
            fold([burn(payments, memo_hash)], Draft.of(draft.finish()))


def test_burn_that_moves_money_stops_the_books() -> None:
    draft, (_, payments) = planned()
    moved = books.movement("payout", "stranger", 1)
    with pytest.raises(UnknownTransactionError, match="moved 1 amounts"):
        fold([burn(payments, burn_hash(payout_hash(payments)), moved)], draft)


def test_open_slot_of_a_channel_that_newer_terms_do_not_name_is_decided() -> None:
    draft, (funding, payments) = planned()
    kept = (payments.channel_account,)
    fold([books.decision(funding, 60)], draft, channel_accounts=kept)
    assert draft.head.payout_stroops == 800
    with pytest.raises(UnknownTransactionError, match="want the slot"):
        fold([books.decision(funding, 62)], draft)


def test_channel_that_newer_terms_do_not_name_gets_no_new_slot() -> None:
    draft, (funding, payments) = planned()
    fold([books.decision(funding, 60), books.decision(payments, 61)], draft)
    for account in (PAYEE, OTHER):
        draft.payees[account] = PayeeBalance(accrued_stroops=9_000)
    kept = (payments.channel_account,)
    terms = builders.terms(channel_accounts=kept, batch_payments=1)
    assert {leaf.channel_account for leaf in plan_payouts(draft, terms)} == set(kept)
    gone = builders.terms(channel_accounts=(builders.key_of("new channel"),))
    assert plan_payouts(Draft.of(draft.finish()), gone) == []


def test_payee_that_was_paid_stands_with_the_others_again() -> None:
    draft, _ = planned(owed={PAYEE: 500})
    draft.payees[PAYEE] = replace(draft.payees[PAYEE], pays_alone=True)
    draft.pay([(PAYEE, 500)], 0, ZEROS)
    assert not draft.payees[PAYEE].pays_alone


def test_failed_destination_that_is_no_payee_is_ignored() -> None:
    draft, (funding, _) = planned()
    escrow = builders.key_of("payout")
    fold([books.decision(funding, 60, succeeded=False, failed_destinations=(escrow,))], draft)
    assert escrow not in draft.payees


# --- XLM and channels -----------------------------------------------------------------------------


def test_network_fees_are_booked_to_whoever_paid_them() -> None:
    draft, (funding, _) = planned()
    bumped = replace(books.decision(funding, 60), fee_account=builders.key_of("anchor"))
    fold([bumped], draft)
    assert draft.xlm[builders.key_of("anchor")].spent_stroops == 100
    paid_by_stranger = replace(books.deposit(1), fee_account=builders.key_of("stranger"))
    before = dict(draft.xlm)
    fold([paid_by_stranger], draft)
    assert draft.xlm == before


def test_xlm_that_comes_and_goes_is_booked_apart_from_the_priced_asset() -> None:
    draft = fold(
        [
            books.applied("operator", books.native_movement("operator", "anchor", 500)),
            books.applied("anchor", books.native_movement("anchor", "operator", 70)),
        ]
    )
    totals = draft.xlm[builders.key_of("anchor")]
    assert (totals.received_stroops, totals.spent_stroops) == (500, 70 + 100)
    sums = sum_postings(draft.entries)
    assert sums[Account.XLM, builders.key_of("anchor"), Book.XLM] == 330
    assert all(book == Book.XLM for _, _, book in sums)


def test_channel_opens_at_the_ledger_that_created_it() -> None:
    draft = fold(books.channel_creations(first_ledger=7))
    assert draft.channels == {
        builders.key_of("channel 0"): (7 << 32) + 1,
        builders.key_of("channel 1"): (8 << 32) + 1,
    }


def opening(sequence: int, name: str = "channel 0", **changes: Any) -> AppliedTransaction:
    memo = opening_hash(builders.NETWORK_ID, builders.key_of(name))
    values: dict[str, Any] = {"sequence": sequence, "memo_hash": memo}
    return books.applied(name, **values | changes)


def test_channel_that_a_stranger_created_before_its_terms_opens_by_its_own_key() -> None:
    """Its creation is in no epoch that names it; the memo is its own, so it opens nobody else."""
    draft = fold([opening(sequence=(3 << 32) + 8)])
    assert draft.channels == {builders.key_of("channel 0"): (3 << 32) + 9}


def test_channel_that_its_terms_saw_begin_may_open_again() -> None:
    draft = fold([*books.channel_creations(first_ledger=7), opening(sequence=(7 << 32) + 1)])
    assert draft.channels[builders.key_of("channel 0")] == (7 << 32) + 2


@pytest.mark.parametrize(
    "changes",
    [
        {"memo_hash": opening_hash(builders.NETWORK_ID, builders.key_of("channel 1"))},
        {"memo_hash": opening_hash(bytes(32), builders.key_of("channel 0"))},
        {"movements": (books.native_movement("channel 0", "stranger", 5),)},
    ],
    ids=["of-another-channel", "of-another-network", "moves-money"],
)
def test_other_transaction_of_a_channel_opens_nothing_and_stops_the_books(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(UnknownTransactionError, match="want the slot"):
        fold([opening(sequence=8, **changes)])


def test_opening_of_an_account_that_no_terms_name_is_nobodys() -> None:
    assert fold([opening(sequence=8, name="stranger")]).channels == {}


def test_creation_of_another_account_or_money_for_a_channel_opens_none() -> None:
    draft = fold(
        [
            books.applied("operator", books.native_movement("operator", "channel 0", 5)),
            books.applied(
                "operator",
                books.native_movement("operator", "stranger", 5, creates_account=True),
            ),
        ]
    )
    assert draft.channels == {}
