"""Deposits: whose money it is, by muxed id, memo and sender; and claimable balances."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import book_builders as books
import builders
import pytest

from ledger.books import deposits
from ledger.books.deposits import deposit_id, forget_small_offers
from ledger.books.draft import Draft
from ledger.books.epoch import free_cover
from ledger.books.errors import UnknownTransactionError
from ledger.books.folding import fold_transactions
from ledger.books.payouts import plan_payouts
from ledger.books.refunding import refundable_stroops
from ledger.books.slots import RESERVE_STROOPS
from ledger.books.state import ClaimableDeposit, SuspenseDeposit
from ledger.books.transactions import AppliedTransaction, Movement

ZEROS = bytes(32)
ID = deposit_id(builders.key_of("broadcaster"))
BALANCE = builders.digest_of("a claimable balance")


def fold(
    transactions: Sequence[AppliedTransaction], draft: Draft | None = None, **terms_changes: Any
) -> Draft:
    draft = draft or Draft.of(books.genesis())
    fold_transactions(draft, builders.terms(**terms_changes), transactions)
    return draft


def offered(sender: str, amount: int, *claimants: str, **changes: Any) -> Movement:
    """A claimable balance, as its creation tells of it."""
    claimable = {"balance_id": BALANCE, "claimants": tuple(map(builders.key_of, claimants))}
    made = books.movement(sender, "nobody", amount, **claimable | changes)
    return replace(made, destination=ZEROS)


def claimed(claimer: str, balance_id: bytes = BALANCE) -> Movement:
    made = books.native_movement(claimer, "nobody", 0, is_exact=False, balance_id=balance_id)
    return replace(made, destination=ZEROS)


# --- whose it is ----------------------------------------------------------------------------------


def test_deposit_id_is_the_documented_number() -> None:
    """Wallets hold memo numbers in signed 64-bit integers, so the first bit stays free."""
    assert ID == 4_292_551_076_227_037_094
    assert 0 <= ID < 1 << 63


@pytest.mark.parametrize(
    ("movement", "transaction"),
    [
        ({"destination_id": ID}, {}),
        ({"destination_id": ID}, {"memo_id": 7}),
        ({}, {"memo_id": ID}),
        ({}, {"memo_text": str(ID).encode()}),
        ({}, {"memo_hash": builders.key_of("broadcaster")}),
        ({"destination_id": 7}, {"memo_id": ID}),
    ],
    ids=["muxed", "muxed-and-other-memo", "memo-id", "memo-text", "memo-hash", "other-muxed"],
)
def test_deposit_that_names_the_broadcaster_is_its_deposit(
    movement: dict[str, Any], transaction: dict[str, Any]
) -> None:
    moved = books.movement("exchange", "escrow", 900, **movement)
    draft = fold([books.applied("exchange", moved, **transaction)])
    assert (draft.head.deposited_stroops, draft.head.suspense_stroops) == (900, 0)
    assert draft.suspense == {}


@pytest.mark.parametrize(
    ("movement", "transaction"),
    [
        ({}, {}),
        ({"destination_id": ID + 1}, {}),
        ({"destination_id": 0}, {"memo_id": 0}),
        ({}, {"memo_id": ID + 1}),
        ({}, {"memo_text": f"{ID} ".encode()}),
        ({}, {"memo_hash": builders.key_of("other broadcaster")}),
    ],
    ids=["nothing", "other-muxed", "zero", "other-id", "other-text", "other-hash"],
)
def test_deposit_that_names_nobody_here_waits_for_its_sender(
    movement: dict[str, Any], transaction: dict[str, Any]
) -> None:
    moved = books.movement("exchange", "escrow", 900, operation_index=3, **movement)
    told = books.applied("exchange", moved, **transaction)
    draft = fold([told])
    assert (draft.head.deposited_stroops, draft.head.suspense_stroops) == (0, 900)
    assert draft.suspense == {
        (told.tx_hash, 3): SuspenseDeposit(
            sender=builders.key_of("exchange"),
            amount_stroops=900,
            close_s=told.close_time_s,
            in_payout=False,
        )
    }


def test_broadcasters_own_payment_needs_no_note() -> None:
    moved = books.movement("broadcaster", "escrow", 5, destination_id=99)
    draft = fold([books.applied("anybody", moved, memo_id=98)])
    assert draft.head.deposited_stroops == 5


def test_money_for_the_payout_account_waits_there_even_from_the_broadcaster() -> None:
    draft = fold([books.applied("broadcaster", books.movement("broadcaster", "payout", 5))])
    (held,) = draft.suspense.values()
    assert (held.in_payout, held.sender) == (True, builders.key_of("broadcaster"))
    assert (draft.head.payout_stroops, draft.head.suspense_stroops) == (5, 5)


def test_nothing_is_kept_of_an_amount_of_zero() -> None:
    draft = fold([books.applied("stranger", books.movement("stranger", "escrow", 0))])
    assert draft.suspense == {}


# --- XLM as the priced asset ----------------------------------------------------------------------

XLM_PRICED = {"asset_code": "XLM", "asset_issuer": ZEROS}


def test_xlm_that_creates_escrow_is_a_deposit_or_stays_as_its_reserve() -> None:
    """What a stranger's creation brings is never sent back: the account lives on it."""
    for creator, deposited in (("broadcaster", 50), ("operator", 0)):
        moved = books.native_movement(creator, "escrow", 50, creates_account=True)
        draft = fold([books.applied(creator, moved)], **XLM_PRICED)
        assert draft.head.escrow_stroops == 50
        assert draft.head.deposited_stroops == deposited
        assert draft.suspense == {}


def test_xlm_of_a_merged_account_is_a_deposit() -> None:
    """The amount is the result's: the operation names none."""
    merged = books.native_movement("exchange", "escrow", 70, destination_id=ID)
    draft = fold([books.applied("exchange", merged)], **XLM_PRICED)
    assert draft.head.deposited_stroops == 70
    assert draft.xlm[builders.key_of("escrow")].received_stroops == 70


@pytest.mark.parametrize("holder", ["escrow", "payout"])
def test_network_fee_out_of_deposits_stops_the_books(holder: str) -> None:
    quiet = books.applied(holder)
    with pytest.raises(UnknownTransactionError, match="network fee"):
        fold([quiet], **XLM_PRICED)
    fold([quiet])  # the priced asset is another one: XLM is a book apart


@pytest.mark.parametrize("creator", ["broadcaster", "operator"])
def test_the_reserve_of_escrow_and_payout_account_is_never_planned(creator: str) -> None:
    """The network would refuse the payment: the deposit pays for the accounts it lies in."""
    terms = builders.terms(payout_threshold_stroops=1, **XLM_PRICED)
    opened = [
        books.applied(creator, books.native_movement(creator, name, amount, creates_account=True))
        for name, amount in (("escrow", 10**8), ("payout", 10**7))
    ]
    deposit = books.applied("broadcaster", books.native_movement("broadcaster", "escrow", 10**9))
    for owed, is_paid in ((10**9 - 2 * RESERVE_STROOPS, True), (10**9, False)):
        draft = fold([*books.channel_creations(), *opened, deposit], **XLM_PRICED)
        draft.accrue(builders.key_of("ann"), owed, 0)
        leaves = plan_payouts(draft, terms)
        assert bool(leaves) is is_paid
        if is_paid:
            funding, payment = leaves
            assert payment.total_stroops == owed
            payout = draft.head.payout_stroops + funding.total_stroops - owed
            escrow = draft.head.escrow_stroops - funding.total_stroops
            assert min(payout, escrow) >= RESERVE_STROOPS


def test_no_receipt_counts_against_the_reserve_and_no_refund_takes_it() -> None:
    terms = builders.terms(**XLM_PRICED)
    deposit = books.applied("broadcaster", books.native_movement("broadcaster", "escrow", 10**9))
    draft = fold([*books.channel_creations(), deposit], **XLM_PRICED)
    assert refundable_stroops(draft, terms) == 10**9 - RESERVE_STROOPS
    inputs = books.epoch_inputs(books.genesis(), transactions=[deposit])
    inputs = replace(inputs, terms=builders.signed_terms(**XLM_PRICED))
    assert free_cover(inputs) == 10**9 - 2 * RESERVE_STROOPS


# --- claimable balances ---------------------------------------------------------------------------


def test_claimable_balance_is_a_deposit_only_once_it_is_claimed() -> None:
    offer = books.applied("exchange", offered("exchange", 800, "escrow", "exchange"), memo_id=ID)
    draft = fold([offer])
    assert draft.head.escrow_stroops == 0
    assert draft.claimable == {
        BALANCE: ClaimableDeposit(
            sender=builders.key_of("exchange"), amount_stroops=800, is_known=True
        )
    }
    claim = books.applied("operator", claimed("escrow"), ledger_sequence=101)
    fold([claim], draft)
    assert (draft.head.escrow_stroops, draft.head.deposited_stroops) == (800, 800)
    assert draft.claimable == {}


def test_claimed_balance_without_a_note_waits_for_whoever_made_it() -> None:
    offer = books.applied("stranger", offered("stranger", 800, "escrow"))
    claim = books.applied("operator", claimed("escrow"), ledger_sequence=101)
    draft = fold([offer, claim])
    (held,) = draft.suspense.values()
    assert (held.sender, held.amount_stroops) == (builders.key_of("stranger"), 800)
    assert draft.head.suspense_stroops == 800


@pytest.mark.parametrize(
    "offer",
    [
        offered("exchange", 800, "payout"),
        offered("exchange", 800, "escrow", asset_code="XAT"),
        offered("exchange", 800, "escrow", asset_issuer=builders.key_of("forger")),
    ],
    ids=["other-claimant", "other-code", "other-issuer"],
)
def test_balance_that_is_no_deposit_is_not_kept(offer: Movement) -> None:
    assert fold([books.applied("exchange", offer, memo_id=ID)]).claimable == {}


@pytest.mark.parametrize("claimer", ["escrow", "payout", "anchor", "channel 0"])
def test_claim_of_a_balance_nobody_knows_stops_the_books(claimer: str) -> None:
    with pytest.raises(UnknownTransactionError, match="claim"):
        fold([books.applied("operator", claimed(claimer))])


def test_claim_happens_once() -> None:
    offer = books.applied("exchange", offered("exchange", 800, "escrow"), memo_id=ID)
    claim = books.applied("operator", claimed("escrow"), ledger_sequence=101)
    draft = fold([offer, claim])
    with pytest.raises(UnknownTransactionError, match="claim"):
        fold([replace(claim, ledger_sequence=102)], draft)


def test_claim_by_another_claimant_is_nothing_of_ours() -> None:
    offer = books.applied("exchange", offered("exchange", 800, "escrow", "exchange"))
    draft = fold([offer, books.applied("exchange", claimed("exchange"), ledger_sequence=101)])
    assert draft.head.escrow_stroops == 0


def offers_of(sender: str, amount: int, count: int, first: int = 0) -> list[AppliedTransaction]:
    return [
        books.applied(
            sender,
            replace(offered(sender, amount, "escrow"), balance_id=builders.digest_of(str(number))),
            apply_order=number + 1,
        )
        for number in range(first, first + count)
    ]


def test_claimable_balances_beyond_the_bound_are_not_kept() -> None:
    """Whoever makes millions of them costs the books nothing more."""
    draft = fold(offers_of("stranger", 1, 5))
    forget_small_offers(draft, 2)
    assert len(draft.claimable) == 2


@pytest.mark.parametrize("dust_first", [True, False])
def test_dust_hides_no_deposit_however_much_of_it_there_is(dust_first: bool) -> None:
    dust, real = offers_of("stranger", 1, 6), offers_of("exchange", 800, 1, first=6)
    own = offers_of("broadcaster", 1, 1, first=7)
    draft = fold([*dust, *real, *own] if dust_first else [*own, *real, *dust])
    forget_small_offers(draft, 2)
    kept = [(held.sender, held.amount_stroops) for held in draft.claimable.values()]
    assert kept == [(builders.key_of("broadcaster"), 1), (builders.key_of("exchange"), 800)]


def test_the_state_of_an_epoch_holds_no_more_than_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deposits, "CLAIMABLE_MAX", 2)
    inputs = books.epoch_inputs(books.genesis(), transactions=offers_of("stranger", 1, 5))
    _, result = books.run_epoch(inputs)
    assert len(result.closing.claimable) == 2


def test_balance_that_escrow_itself_offers_stops_the_books() -> None:
    with pytest.raises(UnknownTransactionError, match="planned batch"):
        fold([books.applied("operator", offered("escrow", 5, "escrow"))])


# --- what the issuer takes ------------------------------------------------------------------------


@pytest.mark.parametrize("holder", ["escrow", "payout"])
def test_clawback_stops_the_books(holder: str) -> None:
    with pytest.raises(UnknownTransactionError, match="planned batch"):
        fold([books.applied("issuer", books.movement(holder, "issuer", 5))])
