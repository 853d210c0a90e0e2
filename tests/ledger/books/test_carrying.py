"""Who is carried and why, where payees are paid, and when what is unspent or unplaced goes back."""

from dataclasses import replace
from typing import Any

import book_builders as books
import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.books.draft import Draft
from ledger.books.folding import fold_transactions
from ledger.books.lane_judgement import ENTITLEMENT_BYTES_MAX
from ledger.books.payouts import plan_payouts
from ledger.books.refunding import forget_dust, live_cost_stroops, refundable_stroops
from ledger.books.standing import (
    BUCKETS_MAX,
    CarryReason,
    RefundRequest,
    SeenAccount,
    Standing,
    maturity_s,
)
from ledger.books.state import CapUse, PayeeBalance, SuspenseDeposit
from ledger.evidence.instruction import REFUND_ALL, Readiness
from ledger.evidence.leaf import (
    PAYOUT_FUNDING,
    PAYOUT_PAYMENTS,
    PAYOUT_REFUND,
    PAYOUT_STRAY_REFUND,
    PAYOUT_SUSPENSE_REFUND,
    PayoutLeaf,
)

ANN, BOB = builders.key_of("ann"), builders.key_of("bob")
STRANGER = builders.key_of("stranger")
END_S = builders.terms().epoch_end_s(0)
TERMS = builders.terms(payout_threshold_stroops=100, cash_out_least_stroops=10)


def draft_with(*, escrow: int = 10_000, **owed: int) -> Draft:
    draft = Draft.of(books.genesis())
    fold_transactions(draft, TERMS, [*books.channel_creations(), books.deposit(escrow)])
    for name, amount in owed.items():
        draft.accrue(builders.key_of(name), amount, 0)
    return draft


def kinds(leaves: list[PayoutLeaf]) -> list[int]:
    return [leaf.kind for leaf in leaves]


def seen(readiness: Readiness, room_stroops: int = 0) -> SeenAccount:
    return SeenAccount(
        seen_ledger=9, readiness=readiness, entry_ledger=3, room_stroops=room_stroops
    )


@given(ended=st.integers(0, 10**6), window=st.integers(0, 10**6), genesis=st.integers(0, 10**6))
def test_nothing_matures_early_and_late_by_a_seventh_of_the_window_at_most(
    ended: int, window: int, genesis: int
) -> None:
    due = maturity_s(ended_s=genesis + ended, window_s=window, genesis_s=genesis)
    over = due - (genesis + ended + window)
    assert 0 <= over <= window // (BUCKETS_MAX - 1)


@given(window=st.integers(1, 100_000), length=st.integers(1, 500))
def test_few_amounts_wait_however_short_the_epochs(window: int, length: int) -> None:
    now = 10 * window // length * length
    ends = range(max(0, now - window + 1), now + 1)
    dues = {
        maturity_s(ended_s=end, window_s=window, genesis_s=0)
        for end in ends[:: max(1, len(ends) // 300)]
    }
    assert len(dues) <= BUCKETS_MAX


def test_an_amount_in_its_challenge_window_waits_and_then_is_paid() -> None:
    draft = draft_with(ann=500)
    draft.hold_back(ANN, 500, END_S + 1)
    assert plan_payouts(draft, TERMS) == []
    assert draft.reasons[ANN] == CarryReason.IN_CHALLENGE
    later = Draft.of(draft.finish())
    leaves = plan_payouts(later, replace(TERMS, genesis_s=TERMS.genesis_s))
    assert kinds(leaves) == [PAYOUT_FUNDING, PAYOUT_PAYMENTS]
    assert later.maturing == {}


def test_only_what_is_old_enough_is_paid() -> None:
    draft = draft_with(ann=500)
    draft.hold_back(ANN, 300, END_S + 1)
    draft.hold_back(ANN, 100, END_S)
    leaves = plan_payouts(draft, TERMS)
    assert leaves[-1].total_stroops == 200


@pytest.mark.parametrize(
    ("owed", "reason"),
    [(0, CarryReason.NOTHING_OWED), (99, CarryReason.BELOW_THRESHOLD), (100, CarryReason.PLANNED)],
)
def test_threshold_decides(owed: int, reason: CarryReason) -> None:
    draft = draft_with(ann=owed)
    plan_payouts(draft, TERMS)
    assert draft.reasons[ANN] == reason


def test_what_an_open_batch_pays_is_not_paid_again() -> None:
    draft = draft_with(ann=500)
    plan_payouts(draft, TERMS)
    again = Draft.of(draft.finish())
    assert plan_payouts(again, TERMS) == []
    assert again.reasons[ANN] == CarryReason.UNDECIDED


def test_a_cash_out_pays_below_the_threshold_once() -> None:
    draft = draft_with(ann=99, bob=9)
    for account in (ANN, BOB):
        draft.standing[account] = Standing(cash_out_serial=1, cash_out_open=True)
    leaves = plan_payouts(draft, TERMS)
    assert [payment.account for payment in leaves[-1].payments] == [ANN]
    assert not draft.standing[ANN].cash_out_open
    assert draft.standing[BOB].cash_out_open  # below even the least; it still stands
    assert draft.reasons[BOB] == CarryReason.BELOW_THRESHOLD


def test_a_cash_out_whose_batch_is_void_stands_again() -> None:
    draft = draft_with(ann=99)
    draft.standing[ANN] = Standing(cash_out_serial=1, cash_out_open=True)
    funding, payments = plan_payouts(draft, TERMS)
    failed = books.decision(payments, 61, succeeded=False, failed_destinations=(ANN,))
    fold_transactions(draft, TERMS, [books.decision(funding, 60), failed])
    assert draft.standing[ANN].cash_out_open
    assert draft.payees[ANN].pays_alone


def test_payee_is_paid_at_the_address_it_named_and_booked_under_its_own() -> None:
    draft = draft_with(ann=500, bob=400)
    draft.standing[ANN] = Standing(pay_to_serial=1, next_pay_to=STRANGER, next_from_s=END_S)
    funding, payments = plan_payouts(draft, TERMS)
    assert STRANGER in {payment.account for payment in payments.payments}
    assert draft.standing[ANN] == Standing(pay_to_serial=1, pay_to=STRANGER)
    fold_transactions(draft, TERMS, [books.decision(funding, 60), books.decision(payments, 61)])
    assert draft.payees[ANN].paid_stroops == 500
    assert STRANGER not in draft.payees


def test_address_is_not_used_before_its_time() -> None:
    draft = draft_with(ann=500)
    draft.standing[ANN] = Standing(pay_to_serial=1, next_pay_to=STRANGER, next_from_s=END_S + 1)
    leaves = plan_payouts(draft, TERMS)
    assert [payment.account for payment in leaves[-1].payments] == [ANN]


def test_going_back_to_the_own_account_leaves_no_address() -> None:
    draft = draft_with(ann=500)
    draft.standing[ANN] = Standing(pay_to=STRANGER, next_pay_to=ANN, next_from_s=END_S)
    assert plan_payouts(draft, TERMS)[-1].payments[0].account == ANN
    assert draft.standing[ANN] == Standing()


def test_who_failed_at_its_address_stands_alone_next_time() -> None:
    draft = draft_with(ann=500, bob=400)
    draft.standing[ANN] = Standing(pay_to=STRANGER)
    funding, payments = plan_payouts(draft, TERMS)
    failed = books.decision(payments, 61, succeeded=False, failed_destinations=(STRANGER,))
    fold_transactions(draft, TERMS, [books.decision(funding, 60), failed])
    assert (draft.payees[ANN].pays_alone, draft.payees[BOB].pays_alone) == (True, False)


@pytest.mark.parametrize("name", ["escrow", "payout", "anchor", "channel 0", "issuer"])
def test_accounts_of_the_settlement_are_never_paid(name: str) -> None:
    account = builders.key_of(name)
    draft = draft_with()
    draft.accrue(account, 500, 0)
    assert plan_payouts(draft, TERMS) == []
    assert draft.reasons[account] == CarryReason.FORBIDDEN_ADDRESS


@pytest.mark.parametrize("readiness", [one for one in Readiness if one != Readiness.READY])
def test_who_is_not_ready_is_carried_with_the_reason(readiness: Readiness) -> None:
    draft = draft_with(ann=500, bob=400)
    draft.seen_accounts[ANN] = seen(readiness)
    leaves = plan_payouts(draft, TERMS)
    assert [payment.account for payment in leaves[-1].payments] == [BOB]
    assert draft.reasons[ANN].name == readiness.name


def test_room_of_the_trustline_decides() -> None:
    for room, reason in ((499, CarryReason.LINE_FULL), (500, CarryReason.PLANNED)):
        draft = draft_with(ann=500)
        draft.seen_accounts[ANN] = seen(Readiness.READY, room)
        plan_payouts(draft, TERMS)
        assert draft.reasons[ANN] == reason


def test_readiness_is_that_of_the_account_that_is_paid() -> None:
    draft = draft_with(ann=500)
    draft.standing[ANN] = Standing(pay_to=STRANGER)
    draft.seen_accounts[ANN] = seen(Readiness.NO_ACCOUNT)
    assert plan_payouts(draft, TERMS)
    assert draft.reasons[ANN] == CarryReason.PLANNED


def test_who_is_not_covered_or_has_no_channel_is_told_so() -> None:
    draft = draft_with(escrow=450, ann=500, bob=400)
    plan_payouts(draft, TERMS)
    assert draft.reasons == {ANN: CarryReason.NOT_COVERED, BOB: CarryReason.PLANNED}
    draft = draft_with(ann=500)
    draft.channels = {}
    assert plan_payouts(draft, TERMS) == []
    assert draft.reasons == {ANN: CarryReason.NO_CHANNEL}


# --- refunds --------------------------------------------------------------------------------------


def request(**changes: Any) -> RefundRequest:
    values: dict[str, Any] = {
        "serial": 1,
        "left_stroops": REFUND_ALL,
        "planned_stroops": 0,
        "due_s": END_S,
        "first_epoch": 0,
    }
    return RefundRequest(**values | changes)


def test_all_that_is_free_goes_back_and_nothing_that_is_owed() -> None:
    draft = draft_with(ann=99, bob=400)
    draft.accrue(builders.key_of("carol"), 1_000, 600)
    draft.seen_accounts[builders.key_of("carol")] = seen(Readiness.NO_TRUSTLINE)
    draft.refund = request()
    leaves = plan_payouts(draft, TERMS)
    assert kinds(leaves) == [PAYOUT_FUNDING, PAYOUT_PAYMENTS, PAYOUT_REFUND]
    refund = leaves[-1]
    assert refund.total_stroops == 10_000 - 99 - 400 - 1_000
    assert refund.payments[0].account == builders.key_of("broadcaster")
    assert refund.source_account == builders.key_of("escrow")
    fold_transactions(
        draft, TERMS, [books.decision(leaf, 60 + place) for place, leaf in enumerate(leaves)]
    )
    closing = draft.finish()
    assert (closing.unspent_stroops, closing.head.refunded_stroops) == (0, 8_501)
    assert closing.head.escrow_stroops == closing.head.fees_stroops + closing.carried_stroops
    assert draft.refund == request(left_stroops=0)


def test_what_was_lost_does_not_go_back_whatever_escrow_holds() -> None:
    draft = draft_with()
    draft.head = replace(draft.head, lost_stroops=9_000)
    assert refundable_stroops(draft, TERMS) == 1_000
    draft.head = replace(draft.head, escrow_stroops=700)
    assert refundable_stroops(draft, TERMS) == 700


def test_a_part_is_paid_once() -> None:
    draft = draft_with()
    draft.refund = request(left_stroops=700)
    assert [leaf.total_stroops for leaf in plan_payouts(draft, TERMS)] == [700]
    assert plan_payouts(Draft.of(draft.finish()), TERMS) == []


@pytest.mark.parametrize("changes", [{"due_s": END_S + 1}, {"first_epoch": 1}, {"left_stroops": 0}])
def test_a_refund_waits_for_both_windows_and_can_be_taken_back(changes: dict[str, int]) -> None:
    draft = draft_with()
    draft.refund = request(**changes)
    assert plan_payouts(draft, TERMS) == []


def test_a_refund_that_fails_is_asked_for_again_unless_it_was_replaced() -> None:
    for replacement, left in ((None, 700), (request(serial=2, left_stroops=0), 0)):
        draft = draft_with()
        draft.refund = request(left_stroops=700)
        (leaf,) = plan_payouts(draft, TERMS)
        draft.refund = replacement or draft.refund
        fold_transactions(draft, TERMS, [books.decision(leaf, 60, succeeded=False)])
        assert draft.refund is not None
        assert draft.refund.left_stroops == left


def test_no_second_refund_while_one_is_undecided() -> None:
    draft = draft_with()
    draft.refund = request(left_stroops=700)
    plan_payouts(draft, TERMS)
    again = Draft.of(draft.finish())
    again.refund = request(serial=2)
    assert plan_payouts(again, TERMS) == []
    assert again.refund == request(serial=2)


def test_nothing_goes_back_where_more_was_charged_than_deposited() -> None:
    draft = draft_with(escrow=100, ann=500)
    draft.refund = request()
    assert plan_payouts(draft, TERMS) == []
    assert draft.refund == request(left_stroops=0)


def live(*, max_bytes: int, credited_bytes: int = 0) -> CapUse:
    return CapUse(credited_bytes=credited_bytes, media_ms=0, last_epoch=40, max_bytes=max_bytes)


PER_BYTE = replace(TERMS, price_stroops=3, price_quantity_bytes=1)
"""What one byte costs is three stroops."""


def test_what_entitlements_in_use_may_still_cost_stays_until_they_are_forgotten() -> None:
    draft = draft_with()
    draft.cap_use = {b"1" * 32: live(max_bytes=1_000, credited_bytes=400)}
    draft.refund = request()
    (leaf,) = plan_payouts(draft, PER_BYTE)
    assert leaf.total_stroops == 10_000 - 3 * 600
    fold_transactions(draft, PER_BYTE, [books.decision(leaf, 60)])
    assert plan_payouts(draft, PER_BYTE) == []
    draft.cap_use = {}  # expired, and nothing under it can be corrected any more
    (rest,) = plan_payouts(draft, PER_BYTE)
    assert rest.total_stroops == 3 * 600
    assert draft.refund is not None
    assert draft.refund.left_stroops == 0


def test_a_part_that_live_entitlements_keep_back_is_still_asked_for() -> None:
    draft = draft_with()
    draft.cap_use = {b"1" * 32: live(max_bytes=3_000)}
    draft.refund = request(left_stroops=1_500)
    (leaf,) = plan_payouts(draft, PER_BYTE)
    assert leaf.total_stroops == 1_000
    fold_transactions(draft, PER_BYTE, [books.decision(leaf, 60)])
    assert draft.refund == request(left_stroops=500)


def test_one_without_a_cap_keeps_everything_back_unless_it_is_void() -> None:
    draft = draft_with()
    draft.cap_use = {b"1" * 32: live(max_bytes=0)}
    kept = live_cost_stroops(draft.cap_use, draft.void_from, PER_BYTE, draft.epoch)
    assert kept == 3 * ENTITLEMENT_BYTES_MAX
    draft.refund = request()
    assert plan_payouts(draft, PER_BYTE) == []
    assert draft.refund == request()
    draft.void_from[b"1" * 32] = draft.epoch
    assert [leaf.total_stroops for leaf in plan_payouts(draft, PER_BYTE)] == [10_000]


def test_a_broadcaster_that_cannot_take_it_waits() -> None:
    draft = draft_with()
    draft.refund = request()
    draft.seen_accounts[builders.key_of("broadcaster")] = seen(Readiness.NO_TRUSTLINE)
    assert plan_payouts(draft, TERMS) == []
    assert draft.refund == request()


# --- suspense -------------------------------------------------------------------------------------


def stray(draft: Draft, account: str, amount: int) -> None:
    moved = books.movement("stranger", account, amount)
    transaction = books.applied(
        "stranger", moved, ledger_sequence=70 + len(draft.suspense), close_time_s=END_S - 50
    )
    fold_transactions(draft, TERMS, [transaction])


@pytest.mark.parametrize(
    ("account", "kind"), [("escrow", PAYOUT_SUSPENSE_REFUND), ("payout", PAYOUT_STRAY_REFUND)]
)
def test_a_strangers_money_goes_back_from_where_it_lies(account: str, kind: int) -> None:
    draft = draft_with()
    stray(draft, account, 300)
    assert plan_payouts(draft, replace(TERMS, suspense_refund_s=51)) == []
    (leaf,) = plan_payouts(draft, replace(TERMS, suspense_refund_s=50))
    assert (leaf.kind, leaf.source_account) == (kind, builders.key_of(account))
    assert [(one.account, one.amount_stroops) for one in leaf.payments] == [(STRANGER, 300)]
    assert draft.suspense == {}
    fold_transactions(draft, TERMS, [books.decision(leaf, 80)])
    assert draft.head.suspense_stroops == 0
    assert (draft.head.escrow_stroops, draft.head.payout_stroops) == (10_000, 0)


def test_a_refund_that_fails_waits_again() -> None:
    draft = draft_with()
    stray(draft, "payout", 300)
    (leaf,) = plan_payouts(draft, replace(TERMS, suspense_refund_s=50))
    failed = books.decision(leaf, 80, succeeded=False)
    fold_transactions(draft, TERMS, [failed])
    assert draft.suspense == {
        (failed.tx_hash, 0): SuspenseDeposit(
            sender=STRANGER, amount_stroops=300, close_s=failed.close_time_s, in_payout=True
        )
    }
    assert draft.head.suspense_stroops == 300


def test_dust_and_money_of_who_is_not_ready_stay() -> None:
    draft = draft_with()
    stray(draft, "escrow", 9)
    stray(draft, "escrow", 300)
    draft.seen_accounts[STRANGER] = seen(Readiness.NO_ACCOUNT)
    assert plan_payouts(draft, replace(TERMS, suspense_refund_s=0)) == []
    assert len(draft.suspense) == 2


def test_of_many_strangers_the_largest_amounts_are_kept_by_sender() -> None:
    draft = draft_with()
    for amount in (30, 50, 10, 40):
        stray(draft, "escrow", amount)
    forget_dust(draft, 2)
    assert sorted(held.amount_stroops for held in draft.suspense.values()) == [40, 50]
    assert draft.head.suspense_stroops == 130
    forget_dust(draft, 2)
    assert len(draft.suspense) == 2


def test_a_strangers_money_in_the_payout_account_pays_nobody() -> None:
    draft = draft_with(ann=500)
    stray(draft, "payout", 300)
    funding, _ = plan_payouts(draft, TERMS)
    assert funding.total_stroops == 500


def test_accruals_are_not_touched_by_what_payees_ask_for() -> None:
    draft = draft_with(ann=500)
    draft.standing[ANN] = Standing(pay_to=STRANGER)
    plan_payouts(draft, TERMS)
    assert draft.payees == {ANN: PayeeBalance(accrued_stroops=500)}
