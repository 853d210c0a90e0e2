"""Slots: binding a batch to a channel account's next sequence number, and what money is free.

Shared by everything that plans a batch. Not here: whom to pay (`payouts`, `refunding`).
"""

from dataclasses import replace
from typing import Final

from ledger.books.draft import Draft
from ledger.books.state import OpenBatch
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.leaf import (
    PAID_FROM_PAYOUT,
    PAYOUT_FUNDING,
    PAYOUT_PAYMENTS,
    PAYOUT_REFUND,
    PAYOUT_STRAY_REFUND,
    Payment,
    PayoutLeaf,
    payout_hash,
)
from ledger.evidence.terms import Terms

RESERVE_STROOPS: Final = 12 * 10_000_000
"""XLM that an account has to keep: reserve of 0.5 XLM a unit, for the account (2), as many signers
as an account can have (20), and two entries more."""


def reserve_stroops(terms: Terms) -> int:
    """Return what escrow, and likewise the payout account, can never spend of the priced asset.

    Nothing, unless that is XLM: then the network refuses what would leave less than the reserve.
    """
    return RESERVE_STROOPS if terms.asset_issuer == ZERO_KEY else 0


def source_of_batch(kind: int, terms: Terms) -> bytes:
    """Return the account that the money of a kind of batch leaves."""
    return terms.payout_account if kind in PAID_FROM_PAYOUT else terms.escrow_account


def forbidden_addresses(terms: Terms) -> frozenset[bytes]:
    """Return accounts that no payee is paid at: the settlement's own, and the asset's issuer.

    A payment to one of our own accounts would come back as a deposit of nobody's.
    """
    single = (terms.escrow_account, terms.payout_account, terms.anchor_account, terms.fee_account)
    return frozenset((*single, *terms.channel_accounts, terms.asset_issuer)) - {ZERO_KEY}


def undecided_stroops(draft: Draft, kind: int) -> int:
    """Return what undecided batches of a kind would pay."""
    return sum(batch.total_stroops for batch in draft.batches.values() if batch.kind == kind)


def _stray_stroops(draft: Draft) -> int:
    """What lies in the payout account and goes back to strangers."""
    waiting = sum(held.amount_stroops for held in draft.suspense.values() if held.in_payout)
    return waiting + undecided_stroops(draft, PAYOUT_STRAY_REFUND)


def free_escrow(draft: Draft, terms: Terms) -> int:
    """Return what escrow can give to payees: not fees, suspense, reserve, or what is under way."""
    head = draft.head
    in_suspense = head.suspense_stroops - _stray_stroops(draft)
    under_way = undecided_stroops(draft, PAYOUT_FUNDING) + undecided_stroops(draft, PAYOUT_REFUND)
    kept = head.fees_stroops + in_suspense + reserve_stroops(terms)
    return head.escrow_stroops - kept - under_way


def payout_stroops(draft: Draft, terms: Terms) -> int:
    """Return what the payout account will hold for payees once undecided funding has applied.

    Below 0 where its reserve is still to be funded.
    """
    funded = undecided_stroops(draft, PAYOUT_FUNDING)
    return draft.head.payout_stroops - _stray_stroops(draft) + funded - reserve_stroops(terms)


def funding_lacking(draft: Draft, terms: Terms) -> int:
    """Return what the payout account lacks for all undecided payments; below 0: has to spare."""
    return undecided_stroops(draft, PAYOUT_PAYMENTS) - payout_stroops(draft, terms)


def funding_needed(draft: Draft, terms: Terms, new_payments_stroops: int) -> int:
    """Return what the payout account lacks for all undecided and new payments."""
    if not new_payments_stroops + undecided_stroops(draft, PAYOUT_PAYMENTS):
        return 0
    return max(0, new_payments_stroops + funding_lacking(draft, terms))


def open_channels(draft: Draft, terms: Terms) -> list[bytes]:
    """Return the terms' channels that are on the network; earlier terms' get no new slot."""
    return sorted(draft.channels.keys() & set(terms.channel_accounts))


def plan_batch(
    draft: Draft,
    terms: Terms,
    kind: int,
    payments: tuple[Payment, ...],
    payees: tuple[bytes, ...] = (),
) -> PayoutLeaf:
    """Bind a batch to the next slot and note it as undecided: channels take turns by number.

    Args:
        draft: With at least one open channel; changed.
        terms: In force.
        kind: A `PAYOUT_…` number.
        payments: 1 to 100, in the envelope's order.
        payees: Who is owed each payment; empty: the accounts that are paid.
    """
    number = draft.head.next_batch_number
    channels = open_channels(draft, terms)
    channel = channels[number % len(channels)]
    sequence = draft.channels[channel]
    draft.channels[channel] = sequence + 1
    draft.head = replace(draft.head, next_batch_number=number + 1)
    leaf = PayoutLeaf(
        network_id=terms.network_id,
        epoch=draft.epoch,
        batch_number=number,
        kind=kind,
        channel_account=channel,
        channel_sequence=sequence,
        reference_ledger_sequence=draft.head.last_ledger_sequence,
        reference_close_s=draft.head.last_ledger_close_s,
        fee_bid_stroops=terms.fee_bid_stroops,
        asset_code=terms.asset_code,
        asset_issuer=terms.asset_issuer,
        source_account=source_of_batch(kind, terms),
        payments=payments,
    )
    draft.batches[number] = OpenBatch(
        kind=kind,
        channel_account=channel,
        channel_sequence=sequence,
        leaf_hash=payout_hash(leaf),
        payments=payments,
        payees=() if payees == tuple(paid.account for paid in payments) else payees,
    )
    return leaf
