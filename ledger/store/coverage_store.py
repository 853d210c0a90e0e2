"""What stands behind a broadcaster's promise to pay: escrow, debts, and receipts not computed yet.

The books' figures are those of the newest computed epoch; what was promised since is counted from
the receipts of bundles that a worker has judged. Not here: what it is worth
(`ledger.api.coverage`).
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.deposits import cover_of
from ledger.books.refunding import live_cost_stroops
from ledger.books.state import State, genesis_state
from ledger.evidence.leaf import PAYOUT_REFUND
from ledger.evidence.terms import Terms
from ledger.store.epoch_store import load_closing_state
from ledger.store.settlement_store import load_facts
from ledger.store.settlement_tables import NetworkFactRow
from ledger.store.shard_store import Shard
from ledger.store.tables import ReceiptRow, StateRow

_LEDGER_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedFunds:
    """An epoch's closing figures."""

    epoch: int
    escrow_stroops: int
    payout_stroops: int
    owed_stroops: int
    """To payees: accrued and not paid."""
    fees_stroops: int
    """Charged and still in escrow."""
    unspent_stroops: int
    """Deposits less charges, refunds and losses; negative when more was charged than is left."""

    last_ledger_sequence: int
    """Network ledger up to which facts are in these figures."""

    refund_stroops: int = 0
    """Of the unspent, what goes back to the broadcaster: asked for, or under way."""


class EscrowLevel(StrEnum):
    """How much of a broadcaster's deposits is left. Words are stable: programs act on them."""

    COVERED = "covered"
    LOW = "low"
    """At or below the configured alarm."""

    OUT = "out"
    """Nothing is left: nothing new is entitled, and new receipts are refused."""


def level_of(free_stroops: int, low_balance_stroops: int) -> EscrowLevel:
    """Return the level of what is neither charged nor promised yet.

    Args:
        free_stroops: Unspent, less what receipts not computed yet will come to; may be negative.
        low_balance_stroops: At or below this it is low.
    """
    if free_stroops <= 0:
        return EscrowLevel.OUT
    return EscrowLevel.LOW if free_stroops <= low_balance_stroops else EscrowLevel.COVERED


def newest_computed_epoch(session: Session, shard: Shard) -> int | None:
    """Return the newest epoch whose books are closed, or None."""
    return session.scalar(
        select(func.max(StateRow.epoch)).where(StateRow.broadcaster_id == shard.id)
    )


def load_booked_funds(
    session: Session, shard: Shard, terms: Terms, epoch: int
) -> BookedFunds | None:
    """Return the closing figures of an epoch, or None if it is not computed."""
    state = load_closing_state(session, shard, epoch)
    if state is None:
        return None
    head = state.head
    return BookedFunds(
        epoch=epoch,
        escrow_stroops=head.escrow_stroops,
        payout_stroops=head.payout_stroops,
        owed_stroops=state.carried_stroops,
        fees_stroops=head.fees_stroops,
        unspent_stroops=state.unspent_stroops,
        last_ledger_sequence=head.last_ledger_sequence,
        refund_stroops=refund_of(state, terms),
    )


def refund_of(state: State, terms: Terms) -> int:
    """Return what of the unspent deposits is promised back: nothing else may be promised of it.

    At most what is unspent and not kept back for entitlements in use: who asks for all that is free
    names a sum above it.
    """
    asked_stroops = 0 if state.refund is None else state.refund.left_stroops
    under_way_stroops = sum(
        batch.total_stroops for batch in state.batches.values() if batch.kind == PAYOUT_REFUND
    )
    if asked_stroops:
        epoch = state.head.next_epoch
        kept_stroops = live_cost_stroops(state.cap_use, state.void_from, terms, epoch)
        asked_stroops = min(asked_stroops, max(0, state.unspent_stroops - kept_stroops))
    return min(max(0, state.unspent_stroops), asked_stroops + under_way_stroops)


def newest_fact(session: Session, shard: Shard) -> tuple[int, int]:
    """Return the place of the newest network fact; (0, 0) before the first."""
    row = session.execute(
        select(NetworkFactRow.ledger_sequence, NetworkFactRow.apply_order)
        .where(NetworkFactRow.broadcaster == shard.account)
        .order_by(NetworkFactRow.ledger_sequence.desc(), NetworkFactRow.apply_order.desc())
        .limit(1)
    ).first()
    return (0, 0) if row is None else (row.ledger_sequence, row.apply_order)


def sum_deposits_after(session: Session, shard: Shard, terms: Terms, ledger_sequence: int) -> int:
    """Return the broadcaster's deposits in network ledgers after one, as the books will see them.

    Not those that wait as claimable balances, and not what of theirs was claimed since.
    """
    facts = load_facts(
        session, shard.account, after_sequence=ledger_sequence, through_sequence=_LEDGER_MAX
    )
    nothing = genesis_state(shard.network_id, shard.account, 0)
    return cover_of(nothing, terms, [read_transaction(fact) for fact in facts])


def sum_pending_bytes(session: Session, shard: Shard, after_epoch: int) -> int:
    """Return the bytes of peers' receipts of later epochs that can be credited at most.

    Each lane with its highest total, all lanes of an entitlement with no more than its cap: whoever
    signs for an absurd sum takes up what may be delivered to him, and nobody else's.
    """
    lanes = (
        select(
            func.max(ReceiptRow.bytes_total).label("bytes"),
            func.max(ReceiptRow.cap_bytes).label("cap_bytes"),
            func.coalesce(ReceiptRow.entitlement, ReceiptRow.lane).label("entitlement"),
        )
        .where(
            ReceiptRow.broadcaster_id == shard.id,
            ReceiptRow.epoch > after_epoch,
            ReceiptRow.is_cdn.is_(False),
        )
        .group_by(ReceiptRow.epoch, ReceiptRow.lane, ReceiptRow.entitlement)
        .subquery()
    )
    entitlements = (
        select(func.least(func.sum(lanes.c.bytes), func.max(lanes.c.cap_bytes)).label("bytes"))
        .group_by(lanes.c.entitlement)
        .subquery()
    )
    return int(session.scalar(select(func.coalesce(func.sum(entitlements.c.bytes), 0))) or 0)
