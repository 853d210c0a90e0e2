"""Using a slot up: the no-op's bytes, and when settlers agree to it; pure rules, for every machine.

A batch's payment can be signed from the ledger on at which its anchor, its funding and the slot
before it stand on the chain. Its first attempt is the one that had room then. Once a closed ledger
lies behind one of that attempt's bounds, nobody has to wait for it, and a no-op in the same slot
takes nothing from anybody: whichever of the two the network applies decides, and what was not paid
is owed again. Settlers without an operator rather try the next attempt; they use the slot up only
when many attempts came to nothing and other batches wait behind it.
"""

from typing import Final

from stellar_sdk import TransactionEnvelope

from ledger.evidence.leaf import PAYOUT_FUNDING, PayoutLeaf, burn_hash, payout_hash
from ledger.evidence.terms import Terms
from ledger.stellar.envelopes import build_anchor, next_attempt, payout_bounds
from ledger.stellar.gateway import NetworkLedger

ROOM_LEDGERS: Final = 3
"""Ledgers that a first attempt had left when it was signed, at least."""

ROOM_S: Final = 15
STUCK_ATTEMPTS: Final = 8
"""Attempts that may come to nothing before settlers use a slot up by themselves."""


def burn_bid(leaf: PayoutLeaf, terms: Terms) -> int:
    """Return what a no-op offers for its operation: the most that the terms allow.

    A slot that is given up should not wait, and it is one operation only.
    """
    return max(leaf.fee_bid_stroops, terms.fee_bid_max_stroops)


def build_burn(
    leaf: PayoutLeaf, attempt: int, terms: Terms, passphrase: str, *, isolates: bool
) -> TransactionEnvelope:
    """Return the unsigned no-op of one attempt: a pure function of the leaf and the flag.

    Args:
        leaf: Of the batch whose slot is used up.
        attempt: Says its bounds, as for a payment.
        terms: In force.
        passphrase: Of the network.
        isolates: Whether each of its payees is to be paid alone from then on.
    """
    return build_anchor(
        burn_hash(payout_hash(leaf), isolates=isolates),
        leaf.channel_account,
        sequence=leaf.channel_sequence,
        bounds=payout_bounds(leaf, terms, attempt),
        fee_bid_stroops=burn_bid(leaf, terms),
        passphrase=passphrase,
    )


def first_attempt(leaf: PayoutLeaf, terms: Terms, payable_since: NetworkLedger) -> int:
    """Return the attempt that was signed first, if it was signed as soon as it could be."""
    return next_attempt(
        leaf, terms, payable_since, least=0, margin_ledgers=ROOM_LEDGERS, margin_s=ROOM_S
    )


def may_be_burned(
    leaf: PayoutLeaf, terms: Terms, *, payable_since: NetworkLedger, closed: NetworkLedger
) -> bool:
    """Tell whether a closed ledger lies behind one of the first attempt's bounds.

    Args:
        leaf: A batch whose slot holds nothing.
        terms: In force.
        payable_since: Ledger since which it could be paid.
        closed: The newest ledger that every source has closed.
    """
    bounds = payout_bounds(leaf, terms, first_attempt(leaf, terms, payable_since))
    return closed.sequence >= bounds.max_ledger_sequence or closed.close_time_s > bounds.max_time_s


def is_stuck(
    leaf: PayoutLeaf, terms: Terms, *, payable_since: NetworkLedger, closed: NetworkLedger
) -> bool:
    """Tell whether so many attempts came to nothing that settlers give a batch up."""
    now = first_attempt(leaf, terms, closed)
    return now - first_attempt(leaf, terms, payable_since) >= STUCK_ATTEMPTS


def isolates_alone(leaf: PayoutLeaf) -> bool:
    """Tell whether settlers without an operator have a batch's payees paid one by one afterwards.

    Nobody knows which of them no node takes; a funding batch has none.
    """
    return leaf.kind != PAYOUT_FUNDING
