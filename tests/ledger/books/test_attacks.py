"""Attacks on the books: what hostile parties try with valid signatures, and what it comes to."""

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import book_builders as books
import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.books.draft import Draft
from ledger.books.folding import fold_transactions
from ledger.books.judgement import (
    ENTITLEMENT_BYTES_MAX,
    BundleCode,
    Judgement,
    ReceiptCode,
    check_bundle,
    judge_lanes,
)
from ledger.books.payouts import plan_payouts
from ledger.books.state import PayeeBalance
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.leaf import PAYOUT_PAYMENTS
from ledger.evidence.receipt import Receipt

EPOCH = builders.EPOCH

TraceFunction = Callable[[FrameType, str, Any], Any]


def judge(*bundles: Signed[Bundle]) -> Judgement:
    terms = builders.signed_terms()
    checks = books.checks_of(bundles, terms, EPOCH)
    return judge_lanes(checks, terms=terms.value, void_from={}, counted_before={})


def lines_run_by(work: Callable[[], object]) -> int:
    """How many lines of Python a piece of work runs: its cost without a clock."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> TraceFunction:
        nonlocal count
        count += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def require_linear(work_on: Callable[[int], Callable[[], object]], size: int = 60) -> None:
    small, large = (lines_run_by(work_on(n)) for n in (size, 4 * size))
    assert large < 6 * small


# --- work that a hostile bundle can cause ---------------------------------------------------------


@pytest.mark.parametrize("falls", [False, True], ids=["honest", "contradicting"])
def test_many_receipts_of_one_lane_cost_linear_work(falls: bool) -> None:
    def judging(count: int) -> Callable[[], object]:
        receipts = [
            builders.receipt(sequence=n, bytes_total=1000 + (-n if falls else n))
            for n in range(1, count + 1)
        ]
        terms = builders.signed_terms()
        checks = books.checks_of([builders.payee_bundle(receipts)], terms, EPOCH)
        return lambda: judge_lanes(checks, terms=terms.value, void_from={}, counted_before={})

    require_linear(judging)


def test_many_entitlements_of_one_bundle_cost_linear_work() -> None:
    def judging(count: int) -> Callable[[], object]:
        viewers = [f"viewer {n}" for n in range(count)]
        entitlements = [builders.entitlement(viewer) for viewer in viewers]
        receipts = [
            builders.receipt("seeder", viewer, under=under)
            for viewer, under in zip(viewers, entitlements, strict=True)
        ]
        terms = builders.signed_terms()
        bundle = builders.payee_bundle(receipts, entitlements=entitlements)
        checks = books.checks_of([bundle], terms, EPOCH)
        return lambda: judge_lanes(checks, terms=terms.value, void_from={}, counted_before={})

    require_linear(judging)


# --- contradictions -------------------------------------------------------------------------------


def contradicts(one: Receipt, other: Receipt) -> bool:
    first, second = sorted((one, other), key=lambda receipt: receipt.sequence)
    return first.sequence == second.sequence or (
        first.bytes_total > second.bytes_total or first.media_ms_total > second.media_ms_total
    )


@settings(max_examples=100)
@given(
    claims=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3)),
        min_size=1,
        max_size=9,
        unique=True,
    )
)
def test_contradictions_are_those_of_the_definition(claims: Sequence[tuple[int, int, int]]) -> None:
    """Each pair is a true one, and whoever contradicts an earlier receipt is in some pair."""
    receipts = [
        builders.receipt(sequence=sequence, bytes_total=total, media_ms_total=media)
        for sequence, total, media in claims
    ]
    by_raw = {receipt.raw: receipt.value for receipt in receipts}
    judgement = judge(builders.payee_bundle(receipts))
    for one, other in judgement.equivocations:
        assert contradicts(by_raw[one], by_raw[other])
    ordered = sorted(receipts, key=lambda receipt: (receipt.value.sequence, receipt.body))
    paired = {raw for pair in judgement.equivocations for raw in pair}
    for place, later in enumerate(ordered):
        if any(contradicts(earlier.value, later.value) for earlier in ordered[:place]):
            assert later.raw in paired
    assert len(set(judgement.equivocations)) == len(judgement.equivocations)


# --- a viewer and an accomplice against whoever served it ----------------------------------------


@pytest.mark.parametrize("nonce", range(6))
def test_absurd_lane_of_an_accomplice_does_not_shut_out_an_honest_one(nonce: int) -> None:
    """Whatever the accomplice's lane digest is: small lanes are taken first."""
    honest = builders.receipt("seeder", bytes_total=5_000)
    absurd = builders.receipt("viewer 2", bytes_total=ENTITLEMENT_BYTES_MAX, nonce=nonce)
    judgement = judge(
        builders.payee_bundle([honest]), builders.payee_bundle([absurd], payee="viewer 2")
    )
    assert [lane.count.bytes_total for lane in judgement.lanes] == [5_000]
    assert sorted(code for row in judgement.codes for code in row) == [
        ReceiptCode.COUNTED,
        ReceiptCode.TOO_MUCH,
    ]


# --- epochs before the terms, or before the log ---------------------------------------------------


def test_bundle_of_an_epoch_before_the_terms_is_refused() -> None:
    """Nothing counts for an epoch that has no result in the log: no evidence could be given."""
    terms = builders.signed_terms(first_epoch=EPOCH)
    under = builders.entitlement(terms_digest=terms.digest)
    for epoch, code in ((EPOCH - 1, BundleCode.TOO_LATE), (EPOCH, BundleCode.ACCEPTED)):
        receipt = builders.receipt(under=under, epoch=epoch)
        bundle = builders.payee_bundle([receipt], entitlements=[under], epoch=epoch)
        assert check_bundle(bundle.raw, terms, EPOCH).code == code


# --- a claim beyond every deposit -----------------------------------------------------------------


def owing(**owed: int) -> Draft:
    """Books with 1,000 stroops in escrow that owe these amounts."""
    draft = Draft.of(books.genesis())
    fold_transactions(draft, builders.terms(), [*books.channel_creations(), books.deposit(1000)])
    draft.payees = {
        builders.key_of(name): PayeeBalance(accrued_stroops=amount) for name, amount in owed.items()
    }
    return draft


def paid_by(draft: Draft) -> dict[bytes, int]:
    leaves = plan_payouts(draft, builders.terms())
    return {
        payment.account: payment.amount_stroops
        for leaf in leaves
        if leaf.kind == PAYOUT_PAYMENTS
        for payment in leaf.payments
    }


def test_claim_beyond_every_deposit_keeps_nobody_else_waiting() -> None:
    draft = owing(ann=600, bob=400, mallory=10**15)
    assert paid_by(draft) == {builders.key_of("ann"): 600, builders.key_of("bob"): 400}
    assert paid_by(draft) == {}


def test_small_amounts_are_paid_first_where_escrow_does_not_cover_all() -> None:
    draft = owing(ann=600, bob=401, cas=1)
    assert paid_by(draft) == {builders.key_of("bob"): 401, builders.key_of("cas"): 1}


@given(owed=st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_payouts_never_exceed_escrow_and_leave_out_as_few_as_possible(owed: list[int]) -> None:
    draft = owing(**{f"payee {place}": amount for place, amount in enumerate(owed)})
    paid = paid_by(draft)
    assert sum(paid.values()) <= 1000
    most, total = 0, 0
    for amount in sorted(owed):
        total += amount
        most += total <= 1000
    assert len(paid) == most


def test_many_decided_batches_cost_linear_work() -> None:
    def folding(count: int) -> Callable[[], object]:
        draft = owing(**{f"payee {n}": 1 for n in range(count)})
        leaves = plan_payouts(draft, builders.terms(batch_payments=1))
        decisions = [books.decision(leaf, 60 + place) for place, leaf in enumerate(leaves[::-1])]
        assert len(decisions) == count + 1
        return lambda: fold_transactions(draft, builders.terms(batch_payments=1), decisions)

    require_linear(folding)
