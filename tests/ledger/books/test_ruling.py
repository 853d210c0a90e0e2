"""Rulings: a transaction that stopped the books is booked as the DAO said, and nothing else is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import book_builders as books
import builders
import pytest

from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.folding import fold_transactions
from ledger.books.journal import Account, Book, EntryKind, sum_postings
from ledger.books.payouts import plan_payouts
from ledger.books.state import PayeeBalance
from ledger.books.transactions import AppliedTransaction
from ledger.evidence.instruction import Booking

ZEROS = bytes(32)
PAYEE = builders.key_of("seeder account")
BROADCASTER = builders.key_of("broadcaster")


def fold(
    transactions: Sequence[AppliedTransaction],
    rulings: dict[bytes, Booking] | None = None,
    draft: Draft | None = None,
    **terms_changes: Any,
) -> Draft:
    draft = draft or Draft.of(books.genesis())
    fold_transactions(draft, builders.terms(**terms_changes), transactions, rulings or {})
    return draft


def ruled(
    transaction: AppliedTransaction, booking: Booking, draft: Draft | None = None, **terms: Any
) -> Draft:
    """The books after a transaction that stops them unless it is ruled on."""
    with pytest.raises(UnknownTransactionError):
        fold([transaction], None, None if draft is None else draft.copy(), **terms)
    return fold([transaction], {transaction.tx_hash: booking}, draft, **terms)


def funded() -> Draft:
    return fold([*books.channel_creations(), books.deposit(1_000)])


def require_conserved(draft: Draft) -> None:
    state = draft.finish()
    head = state.head
    held = head.escrow_stroops + head.payout_stroops
    owed = state.unspent_stroops + head.fees_stroops + state.carried_stroops
    assert held == owed + head.suspense_stroops
    sums = sum_postings(draft.entries)
    assert sums.get((Account.UNSPENT, BROADCASTER, Book.PRICED), 0) == -state.unspent_stroops


def test_clawback_is_a_loss_of_the_deposits() -> None:
    taken = books.applied("issuer", books.movement("escrow", "issuer", 300), ledger_sequence=60)
    draft = ruled(taken, Booking.LOSS, funded())
    head = draft.head
    assert (head.escrow_stroops, head.lost_stroops, head.deposited_stroops) == (700, 300, 1_000)
    assert draft.finish().unspent_stroops == 700
    assert EntryKind.LOSS in {entry.kind for entry in draft.entries}
    require_conserved(draft)


def test_loss_of_the_payout_account_is_booked_there() -> None:
    draft = funded()
    draft.fund(400, 0, ZEROS)
    taken = books.applied("thief", books.movement("payout", "thief", 150), ledger_sequence=60)
    draft = ruled(taken, Booking.LOSS, draft)
    assert (draft.head.escrow_stroops, draft.head.payout_stroops) == (600, 250)
    require_conserved(draft)


def test_what_a_ruled_transaction_brought_goes_back_to_its_sender() -> None:
    moves = (
        books.movement("stranger", "escrow", 40, operation_index=1),
        books.movement("escrow", "stranger", 25),
    )
    mixed = books.applied("escrow", *moves, ledger_sequence=60)
    draft = ruled(mixed, Booking.LOSS, funded())
    (held,) = draft.suspense.values()
    assert (held.sender, held.amount_stroops) == (builders.key_of("stranger"), 40)
    assert draft.head.lost_stroops == 25
    require_conserved(draft)


def test_suspense_ruling_cannot_hide_a_loss() -> None:
    taken = books.applied("issuer", books.movement("escrow", "issuer", 300), ledger_sequence=60)
    with pytest.raises(UnknownTransactionError, match="books a loss"):
        fold([taken], {taken.tx_hash: Booking.SUSPENSE}, funded())


def test_money_between_our_accounts_only_moves() -> None:
    for names, want in ((("escrow", "payout"), (880, 120)), (("payout", "escrow"), (1000, 0))):
        draft = funded()
        if names[0] == "payout":
            draft.fund(120, 0, ZEROS)
        moved = books.applied("escrow", books.movement(*names, 120), ledger_sequence=60)
        draft = ruled(moved, Booking.SUSPENSE, draft)
        assert (draft.head.escrow_stroops, draft.head.payout_stroops) == want
        require_conserved(draft)


def test_ignored_transaction_costs_its_fee_and_nothing_else() -> None:
    quiet = books.applied("channel 0", sequence=5, ledger_sequence=60)
    draft = ruled(quiet, Booking.IGNORE, funded())
    assert draft.head.escrow_stroops == 1_000
    assert draft.xlm[builders.key_of("channel 0")].spent_stroops == 100


def test_slot_that_was_used_for_something_else_owes_its_payments_again() -> None:
    draft = funded()
    draft.book(EntryKind.ACCRUAL, 0, ZEROS, draft.accrue(PAYEE, 200, 0))
    funding, payments = plan_payouts(draft, builders.terms())
    stolen = replace(
        books.decision(payments, 61),
        movements=(books.movement("payout", "thief", 200),),
    )
    fold([books.decision(funding, 60)], None, draft)
    draft = ruled(stolen, Booking.LOSS, draft)
    assert draft.batches == {}
    assert draft.payees[PAYEE].owed_stroops == 200
    assert (draft.head.payout_stroops, draft.head.lost_stroops) == (0, 200)
    again = plan_payouts(draft, builders.terms())
    assert again[-1].payments == payments.payments
    assert again[-1].channel_sequence != payments.channel_sequence
    require_conserved(draft)


@pytest.mark.parametrize("booking", Booking)
def test_ruling_cannot_touch_what_the_books_explain(booking: Booking) -> None:
    """Else a ruling on an applied payout would have it paid again."""
    draft = funded()
    draft.payees[PAYEE] = PayeeBalance(accrued_stroops=200)
    leaves = plan_payouts(draft, builders.terms())
    decided = [books.decision(leaf, 60 + place) for place, leaf in enumerate(leaves)]
    deposit = books.deposit(9, 70)
    told = [*decided, deposit]
    rulings = {transaction.tx_hash: booking for transaction in told}
    plain, with_rulings = fold(told, None, draft.copy()), fold(told, rulings, draft.copy())
    assert with_rulings.finish() == plain.finish()
    assert with_rulings.entries == plain.entries
    assert plain.payees[PAYEE].paid_stroops == 200


def test_ruling_on_another_transaction_does_not_help() -> None:
    taken = books.applied("issuer", books.movement("escrow", "issuer", 300), ledger_sequence=60)
    with pytest.raises(UnknownTransactionError):
        fold([taken], {builders.digest_of("another"): Booking.LOSS}, funded())


def test_fee_taken_from_deposits_is_a_loss_once_it_is_ruled() -> None:
    priced = {"asset_code": "XLM", "asset_issuer": ZEROS}
    paid = books.native_movement("broadcaster", "escrow", 1_000)
    draft = fold([books.applied("broadcaster", paid)], None, None, **priced)
    quiet = books.applied("escrow", ledger_sequence=60)
    draft = ruled(quiet, Booking.LOSS, draft, **priced)
    assert (draft.head.escrow_stroops, draft.head.lost_stroops) == (900, 100)
    totals = draft.xlm[builders.key_of("escrow")]
    assert totals.received_stroops - totals.spent_stroops == 900
    require_conserved(draft)
