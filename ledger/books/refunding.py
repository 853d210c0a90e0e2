"""Refunds: unspent deposits back to the broadcaster, unplaced ones back to their senders.

A request of the broadcaster is paid once, when the challenge window and the correction window of
the epoch that sealed it are over: then nothing that was open when it asked can cost it any more.
Only what is free leaves: not what payees are owed, what is in batches that are not decided, the
fees, what is in suspense, or what entitlements in use may still cost until nothing can be receipted
under them any more. What they keep back is paid later, as they end. A deposit that nobody could
place goes back to where it came from after the terms' time, each in a batch of its own: one whose
sender is gone holds up nobody else. Not here: what a decided refund changes (`deciding`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ledger.books.draft import Draft
from ledger.books.lane_judgement import ENTITLEMENT_BYTES_MAX
from ledger.books.slots import (
    forbidden_addresses,
    free_escrow,
    payout_stroops,
    plan_batch,
    undecided_stroops,
)
from ledger.books.standing import accepts
from ledger.books.state import CapUse, SuspenseKey
from ledger.evidence.instruction import Readiness
from ledger.evidence.leaf import (
    PAYOUT_REFUND,
    PAYOUT_STRAY_REFUND,
    PAYOUT_SUSPENSE_REFUND,
    Payment,
    PayoutLeaf,
)
from ledger.evidence.terms import Terms

SUSPENSE_REFUNDS_MAX: Final = 16
"""Most deposits sent back in one epoch: each takes a slot and a fee, and strangers cause them."""


SUSPENSE_ROWS_MAX: Final = 10_000
"""Most deposits that are kept by sender; of more, the smallest stay in suspense for a ruling."""


def forget_dust(draft: Draft, rows_max: int = SUSPENSE_ROWS_MAX) -> None:
    """Keep the largest unplaced deposits by sender, so that dust cannot swell the state.

    What is dropped stays in suspense as money; only who sent it is no longer kept.
    """
    if len(draft.suspense) > rows_max:
        largest = sorted(
            draft.suspense.items(), key=lambda item: (-item[1].amount_stroops, item[0])
        )
        draft.suspense = dict(largest[:rows_max])


def plan_refunds(draft: Draft, terms: Terms) -> list[PayoutLeaf]:
    """Plan the refunds that are due, after the payments of the epoch.

    Args:
        draft: With an open channel; changed.
        terms: In force.

    Returns:
        Payout leaves in batch order.
    """
    leaves = [_send_back(draft, terms, key) for key in _due_suspense(draft, terms)]
    leaf = _give_back(draft, terms)
    return leaves if leaf is None else [*leaves, leaf]


def _due_suspense(draft: Draft, terms: Terms) -> list[SuspenseKey]:
    """Return the deposits to send back now, the oldest first."""
    now_s = terms.epoch_end_s(draft.epoch)
    forbidden = forbidden_addresses(terms) - {terms.asset_issuer}
    due = [
        (held.close_s, key)
        for key, held in draft.suspense.items()
        if held.close_s + terms.suspense_refund_s <= now_s
        and held.amount_stroops >= terms.cash_out_least_stroops
        and held.sender not in forbidden
        and accepts(draft.seen_accounts.get(held.sender), held.amount_stroops) == Readiness.READY
    ]
    return [key for _, key in sorted(due)[:SUSPENSE_REFUNDS_MAX]]


def _send_back(draft: Draft, terms: Terms, key: SuspenseKey) -> PayoutLeaf:
    """The row goes; a refund that fails brings one back."""
    held = draft.suspense.pop(key)
    kind = PAYOUT_STRAY_REFUND if held.in_payout else PAYOUT_SUSPENSE_REFUND
    payment = Payment(account=held.sender, amount_stroops=held.amount_stroops)
    return plan_batch(draft, terms, kind, (payment,))


def _give_back(draft: Draft, terms: Terms) -> PayoutLeaf | None:
    request = draft.refund
    if request is None or not request.left_stroops:
        return None
    if undecided_stroops(draft, PAYOUT_REFUND):
        return None
    if terms.epoch_end_s(draft.epoch) < request.due_s or draft.epoch < request.first_epoch:
        return None
    free_stroops = refundable_stroops(draft, terms)
    kept_stroops = live_cost_stroops(draft.cap_use, draft.void_from, terms, draft.epoch)
    amount_stroops = min(request.left_stroops, free_stroops - kept_stroops)
    is_kept = min(request.left_stroops, free_stroops) > max(0, amount_stroops)
    if is_kept and amount_stroops < max(1, terms.cash_out_least_stroops):
        return None
    account = terms.broadcaster_account
    readiness = accepts(draft.seen_accounts.get(account), amount_stroops)
    if amount_stroops > 0 and readiness != Readiness.READY:
        return None
    planned_stroops = max(0, amount_stroops)
    left_stroops = request.left_stroops - planned_stroops if is_kept else 0
    draft.refund = replace(request, left_stroops=left_stroops, planned_stroops=planned_stroops)
    if not planned_stroops:
        return None
    payment = Payment(account=account, amount_stroops=amount_stroops)
    return plan_batch(draft, terms, PAYOUT_REFUND, (payment,))


def refundable_stroops(draft: Draft, terms: Terms) -> int:
    """Return what nobody is owed; below 1: nothing.

    Twice computed, from what was deposited and from what lies in escrow, and the lesser counts.
    """
    owed = sum(payee.owed_stroops for payee in draft.payees.values())
    lacking = max(0, owed - payout_stroops(draft, terms)) if owed else 0
    unspent = draft.head.unspent_stroops - undecided_stroops(draft, PAYOUT_REFUND)
    return min(unspent, free_escrow(draft, terms) - lacking)


def live_cost_stroops(
    cap_use: Mapping[bytes, CapUse], void_from: Mapping[bytes, int], terms: Terms, epoch: int
) -> int:
    """Return what entitlements that were used may still cost, at the dearest price, rounded up.

    The state keeps an entitlement's use until it has expired and its last epochs can no longer be
    corrected. One without a cap of bytes may cost what one may cost in a seal.

    Args:
        cap_use: By entitlement, of a state.
        void_from: Entitlements that count for nothing from an epoch on.
        terms: In force: their prices.
        epoch: The epoch asked about.
    """
    prices = [(terms.price_stroops, terms.price_quantity_bytes)]
    prices += [(cdn.price_stroops, cdn.price_quantity_bytes) for cdn in terms.cdns]
    left_bytes = [
        max(0, (use.max_bytes or ENTITLEMENT_BYTES_MAX) - use.credited_bytes)
        for entitlement, use in cap_use.items()
        if void_from.get(entitlement, epoch + 1) > epoch
    ]
    return max(
        sum(-(-each * stroops // quantity) for each in left_bytes) for stroops, quantity in prices
    )
