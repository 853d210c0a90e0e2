"""Deciding: what a batch changes once a network ledger has decided its slot.

Applied, it moves balances and totals by what was planned. Void, because its transaction failed in a
ledger or a no-op of ours used the slot up, it is owed again: payments are planned anew from the
balances, a refund from the request, a suspense deposit from a row of its own. Not here: which of
both it was (`folding`).
"""

from collections.abc import Collection
from dataclasses import replace

from ledger.books.draft import Draft
from ledger.books.standing import Standing
from ledger.books.state import OpenBatch, SuspenseDeposit
from ledger.evidence.leaf import (
    PAYOUT_FUNDING,
    PAYOUT_PAYMENTS,
    PAYOUT_REFUND,
    PAYOUT_STRAY_REFUND,
)
from ledger.evidence.terms import Terms


def apply_batch(draft: Draft, batch: OpenBatch, *, time_s: int, reference: bytes) -> None:
    """Book a batch that moved exactly what was planned.

    Args:
        draft: Changed.
        batch: No longer among the undecided ones.
        time_s: Close time of the network ledger.
        reference: Hash of the transaction.

    Raises:
        UnknownTransactionError: It paid somebody whom nothing was ever owed.
    """
    total_stroops = batch.total_stroops
    if batch.kind == PAYOUT_FUNDING:
        draft.fund(total_stroops, time_s, reference)
    elif batch.kind == PAYOUT_PAYMENTS:
        payments = [
            (batch.payee_at(place), payment.amount_stroops)
            for place, payment in enumerate(batch.payments)
        ]
        draft.pay(payments, time_s, reference)
    elif batch.kind == PAYOUT_REFUND:
        draft.give_back(total_stroops, time_s, reference)
        if draft.refund is not None:
            draft.refund = replace(draft.refund, planned_stroops=0)
    else:
        from_payout = batch.kind == PAYOUT_STRAY_REFUND
        draft.send_back(total_stroops, from_payout=from_payout, time_s=time_s, reference=reference)


def void_batch(
    draft: Draft, terms: Terms, batch: OpenBatch, *, time_s: int, reference: bytes
) -> None:
    """Let what a void batch would have paid be planned again.

    Args:
        draft: Changed.
        terms: In force.
        batch: No longer among the undecided ones.
        time_s: Close time of the network ledger that used its slot up.
        reference: Hash of that transaction.
    """
    if batch.kind == PAYOUT_PAYMENTS:
        _reopen_cash_outs(draft, terms, batch)
    elif batch.kind == PAYOUT_REFUND and draft.refund is not None:
        # Of a request that was replaced or taken back meanwhile, nothing is planned.
        left_stroops = draft.refund.left_stroops + draft.refund.planned_stroops
        draft.refund = replace(draft.refund, left_stroops=left_stroops, planned_stroops=0)
    elif batch.kind != PAYOUT_FUNDING:
        for place, payment in enumerate(batch.payments):
            draft.suspense[reference, place] = SuspenseDeposit(
                sender=payment.account,
                amount_stroops=payment.amount_stroops,
                close_s=time_s,
                in_payout=batch.kind == PAYOUT_STRAY_REFUND,
            )


def _reopen_cash_outs(draft: Draft, terms: Terms, batch: OpenBatch) -> None:
    """A payment below the threshold was asked for, and still is."""
    for place, payment in enumerate(batch.payments):
        payee = batch.payee_at(place)
        if payment.amount_stroops < terms.payout_threshold_stroops:
            standing = draft.standing.get(payee, Standing())
            draft.standing[payee] = replace(standing, cash_out_open=True)


def isolate(draft: Draft, batch: OpenBatch, destinations: Collection[bytes]) -> None:
    """Let the payees of a void batch that are paid at these accounts stand alone next time."""
    if batch.kind != PAYOUT_PAYMENTS:
        return
    for place, payment in enumerate(batch.payments):
        payee = batch.payee_at(place)
        if payment.account in destinations and payee in draft.payees:
            draft.payees[payee] = replace(draft.payees[payee], pays_alone=True)
