"""What stands behind a broadcaster's promise to pay: escrow, debts, and receipts not computed yet.

The books' figures are those of the newest computed epoch; what was promised since is counted from
the receipts of bundles that a worker has judged. Not here: what it is worth
(`ledger.api.coverage`).
"""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.store.epoch_store import load_closing_state
from ledger.store.shard_store import Shard
from ledger.store.tables import ReceiptRow, StateRow


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
    """Deposits less charges and refunds; negative when more was charged than deposited."""


def newest_computed_epoch(session: Session, shard: Shard) -> int | None:
    """Return the newest epoch whose books are closed, or None."""
    return session.scalar(
        select(func.max(StateRow.epoch)).where(StateRow.broadcaster_id == shard.id)
    )


def load_booked_funds(session: Session, shard: Shard, epoch: int) -> BookedFunds | None:
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
    )


def sum_pending_bytes(session: Session, shard: Shard, after_epoch: int) -> int:
    """Return the bytes of peers' receipts of later epochs, each lane with its highest total."""
    lanes = (
        select(func.max(ReceiptRow.bytes_total).label("bytes"))
        .where(
            ReceiptRow.broadcaster_id == shard.id,
            ReceiptRow.epoch > after_epoch,
            ReceiptRow.is_cdn.is_(False),
        )
        .group_by(ReceiptRow.epoch, ReceiptRow.lane)
        .subquery()
    )
    return int(session.scalar(select(func.coalesce(func.sum(lanes.c.bytes), 0))) or 0)
