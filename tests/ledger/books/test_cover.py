"""Cover: receipts count as far as deposits go, running entitlements first, small claims first."""

from collections.abc import Sequence
from typing import Any

import book_builders as books
import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.books.deposits import cover_of, deposit_id
from ledger.books.epoch import Result, Seal
from ledger.books.judgement import ReceiptCode
from ledger.books.state import OpenBatch, State
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.leaf import PAYOUT_REFUND, Payment

MIB = 1 << 20
COUNTED, NOT_COVERED = ReceiptCode.COUNTED, ReceiptCode.NOT_COVERED
Claims = dict[str, int]
"""Viewer → bytes it acknowledges to the seeder."""


def price_of(claimed_bytes: int) -> int:
    terms = builders.terms()
    return -(-claimed_bytes * terms.price_stroops // terms.price_quantity_bytes)


def run(opening: State, bundles: Sequence[Signed[Bundle]] = (), **more: Any) -> tuple[Seal, Result]:
    return books.run_epoch(books.epoch_inputs(opening, bundles, **more))


def funded(amount: int) -> State:
    """Opens epoch 1."""
    transactions = [*books.channel_creations()]
    if amount:
        transactions.append(books.deposit(amount))
    return run(books.genesis(), transactions=transactions)[1].closing


def claims(epoch: int, claimed: Claims) -> list[Signed[Bundle]]:
    if not claimed:
        return []
    receipts = [
        builders.receipt(viewer=viewer, epoch=epoch, bytes_total=total)
        for viewer, total in claimed.items()
    ]
    entitlements = [builders.entitlement(viewer) for viewer in claimed]
    return [builders.payee_bundle(receipts, entitlements=entitlements, epoch=epoch)]


def codes_of(opening: State, claimed: Claims, **more: Any) -> tuple[dict[str, ReceiptCode], State]:
    (bundle,) = claims(opening.head.next_epoch, claimed)
    seal, result = run(opening, [bundle], **more)
    (codes,) = seal.judgement.codes
    viewers = {builders.entitlement(viewer).digest: viewer for viewer in claimed}
    receipts = [receipt.value for receipt in bundle.value.receipts]
    by_viewer = {
        viewers[receipt.entitlement_digest]: code
        for receipt, code in zip(receipts, codes, strict=True)
    }
    return by_viewer, result.closing


def test_without_a_deposit_nothing_counts() -> None:
    codes, closing = codes_of(funded(0), {"ann": MIB})
    assert codes == {"ann": NOT_COVERED}
    assert closing.carried_stroops == 0


def test_deposit_that_covers_all_to_the_stroop_is_enough() -> None:
    price = price_of(10 * MIB)
    for amount, want in ((price, COUNTED), (price - 1, NOT_COVERED)):
        codes, closing = codes_of(funded(amount), {"ann": 10 * MIB})
        assert codes == {"ann": want}
        assert closing.unspent_stroops >= 0


def test_deposit_of_the_same_epoch_covers_its_receipts() -> None:
    deposit = books.deposit(10**9, 1500)
    codes, _ = codes_of(funded(0), {"ann": MIB}, transactions=[deposit])
    assert codes == {"ann": COUNTED}


def test_money_in_suspense_covers_nothing() -> None:
    gift = books.applied("stranger", books.movement("stranger", "escrow", 10**9))
    codes, _ = codes_of(funded(0), {"ann": MIB}, transactions=[gift])
    assert codes == {"ann": NOT_COVERED}


def test_large_claim_shuts_out_nobody_else() -> None:
    amount = price_of(3 * MIB)
    codes, _ = codes_of(funded(amount), {"ann": MIB, "thief": 1 << 40, "ben": MIB})
    assert codes == {"ann": COUNTED, "thief": NOT_COVERED, "ben": COUNTED}


def test_running_entitlement_goes_before_a_new_one() -> None:
    """Escrow runs out in the middle of an event: who watches already goes on, nobody new begins."""
    _, second = codes_of(funded(price_of(30 * MIB)), {"ann": 10 * MIB})
    codes, third = codes_of(second, {"ann": 15 * MIB, "new": 10 * MIB})
    assert codes == {"ann": COUNTED, "new": NOT_COVERED}
    codes, _ = codes_of(third, {"ann": 5 * MIB, "new": MIB})
    assert codes == {"ann": COUNTED, "new": NOT_COVERED}


def test_running_entitlement_is_honoured_only_as_far_as_it_is_covered() -> None:
    _, second = codes_of(funded(price_of(12 * MIB)), {"ann": 10 * MIB})
    codes, third = codes_of(second, {"ann": 3 * MIB})
    assert codes == {"ann": NOT_COVERED}
    assert third.unspent_stroops == price_of(2 * MIB)


def test_refused_receipt_counts_when_it_is_sent_again_after_a_deposit() -> None:
    bundles = claims(1, {"ann": MIB})
    seal, refused = run(funded(0), bundles)
    assert seal.judgement.codes == ((NOT_COVERED,),)
    seal, paid = run(refused.closing, bundles, transactions=[books.deposit(10**9, 2500)])
    assert seal.judgement.codes == ((COUNTED,),)
    assert paid.closing.head.charged_stroops == price_of(MIB) - 1  # charges are rounded down


def test_refund_under_way_covers_nothing() -> None:
    opening = funded(1_000)
    refund = OpenBatch(
        kind=PAYOUT_REFUND,
        channel_account=builders.key_of("channel 0"),
        channel_sequence=9,
        leaf_hash=bytes(32),
        payments=(Payment(account=builders.key_of("broadcaster"), amount_stroops=400),),
    )
    state = State(
        network_id=opening.network_id,
        broadcaster_account=opening.broadcaster_account,
        head=opening.head,
        batches={1: refund},
    )
    assert cover_of(state, builders.terms(), []) == 600


def test_claimed_balance_covers_and_an_offered_one_does_not() -> None:
    balance = {
        "balance_id": builders.digest_of("balance"),
        "claimants": (builders.key_of("escrow"),),
    }
    number = deposit_id(builders.key_of("broadcaster"))
    offer = books.applied(
        "exchange", books.movement("exchange", "nobody", 700, **balance), memo_id=number
    )
    claim = books.applied(
        "operator",
        books.native_movement(
            "escrow", "nobody", 0, is_exact=False, balance_id=balance["balance_id"]
        ),
        ledger_sequence=101,
    )
    opening, terms = funded(0), builders.terms()
    assert cover_of(opening, terms, [offer]) == 0
    assert cover_of(opening, terms, [offer, claim]) == 700
    assert cover_of(run(opening, transactions=[offer])[1].closing, terms, [claim]) == 700


@pytest.mark.parametrize("order", [1, -1])
def test_order_in_which_receipts_came_does_not_matter(order: int) -> None:
    names = ["ann", "ben", "cay", "dan"][::order]
    codes, _ = codes_of(funded(price_of(MIB) * 2), dict.fromkeys(names, MIB))
    first, _ = codes_of(funded(price_of(MIB) * 2), dict.fromkeys(names[::-1], MIB))
    assert codes == first
    assert sorted(codes.values()) == [COUNTED] * 2 + [NOT_COVERED] * 2


@settings(max_examples=40, deadline=None)
@given(
    amount=st.integers(0, 5_000),
    epochs=st.lists(
        st.dictionaries(st.sampled_from(["ann", "ben", "cay"]), st.integers(1, 20 * MIB)),
        min_size=1,
        max_size=3,
    ),
)
def test_books_never_promise_more_than_was_deposited(amount: int, epochs: list[Claims]) -> None:
    state = funded(amount)
    for claimed in epochs:
        state = run(state, claims(state.head.next_epoch, claimed))[1].closing
        assert state.unspent_stroops >= 0
        assert state.carried_stroops + state.head.fees_stroops <= amount
