"""Sendings and fee bumps: what went out for an attempt, and the raised bids around it.

Functions take a session and neither begin nor commit. A bump is stored before it is sent, one for
each rung of an attempt's ladder, whoever makes it first. Not here: when a bid is raised
(`ledger.stellar.fees`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.evidence.leaf import parse_payout_leaf
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_tables import (
    BATCH,
    AttemptRow,
    BatchRow,
    BumpRow,
    NetworkFactRow,
    SendingRow,
)

_FEE_BYTES = 8
"""A TransactionResult begins with the fee charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What became of sending an envelope."""

    first_sequence: int
    """Newest closed ledger when it was first sent."""

    ledger_sequence: int
    """Newest closed ledger when it was last sent."""

    status: str
    """Of the last answer."""

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bump:
    """A fee bump around an attempt's envelope."""

    outer_hash: bytes
    tx_hash: bytes
    """Of the inner transaction."""

    step: int
    """Rung of the ladder, from 0."""

    bid_stroops: int
    """Offered per operation."""

    fee_stroops: int
    """Offered in all."""

    envelope: bytes
    ledger_sequence: int
    """Newest closed ledger when it was made."""

    close_time_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An account's payment stood alone in its batch, and nobody took it."""

    reason: str
    """Of the last time."""

    epoch: int
    """That planned it the last time."""

    times: int


def load_refusals(
    session: Session, broadcaster: bytes, reasons: Collection[str]
) -> dict[bytes, Refusal]:
    """Return the accounts whose batch of one payment burned for one of these reasons."""
    query = (
        select(BatchRow.leaf, BatchRow.reason)
        .where(
            BatchRow.broadcaster == broadcaster,
            BatchRow.state == SettlementState.BURNED,
            BatchRow.isolates,
            BatchRow.reason.in_(reasons),
        )
        .order_by(BatchRow.number)
    )
    found: dict[bytes, Refusal] = {}
    for data, reason in session.execute(query):
        leaf = parse_payout_leaf(data)
        if len(leaf.payments) == 1:
            (payment,) = leaf.payments
            before = found.get(payment.account)
            times = 1 if before is None else before.times + 1
            found[payment.account] = Refusal(reason=reason, epoch=leaf.epoch, times=times)
    return found


def load_sending(session: Session, envelope_hash: bytes) -> Sending | None:
    """Return what became of sending an envelope; None if it was never sent."""
    row = session.get(SendingRow, envelope_hash, populate_existing=True)
    if row is None:
        return None
    return Sending(
        first_sequence=row.first_sequence,
        ledger_sequence=row.ledger_sequence,
        status=row.status,
        code=row.code,
    )


def last_sent_sequence(session: Session, envelope_hash: bytes) -> int:
    """Return the newest closed ledger when an envelope was last sent; 0 if never."""
    query = select(SendingRow.ledger_sequence).where(SendingRow.tx_hash == envelope_hash)
    return session.scalar(query) or 0


def last_first_sending(session: Session, broadcaster: bytes) -> int:
    """Return the ledger as of which a payment of a domain went out first, of the last; 0: none."""
    query = (
        select(func.max(SendingRow.first_sequence))
        .join(AttemptRow, AttemptRow.tx_hash == SendingRow.tx_hash)
        .where(AttemptRow.broadcaster == broadcaster, AttemptRow.purpose == BATCH)
    )
    return session.scalar(query) or 0


def note_sending(
    session: Session, envelope_hash: bytes, *, ledger_sequence: int, status: str, code: str
) -> None:
    """Note that an envelope was sent and what the answer was."""
    statement = insert(SendingRow).values(
        tx_hash=envelope_hash,
        ledger_sequence=ledger_sequence,
        first_sequence=ledger_sequence,
        times=1,
        status=status,
        code=code,
    )
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["tx_hash"],
        set_={
            "ledger_sequence": func.greatest(SendingRow.ledger_sequence, new.ledger_sequence),
            "times": SendingRow.times + 1,
            "status": new.status,
            "code": new.code,
        },
    )
    session.execute(statement)


def insert_bump(session: Session, broadcaster: bytes, bump: Bump) -> None:
    """Store a bump unless its rung is taken; it must be committed before it is sent."""
    statement = insert(BumpRow).values(
        outer_hash=bump.outer_hash,
        broadcaster=broadcaster,
        tx_hash=bump.tx_hash,
        step=bump.step,
        bid_stroops=bump.bid_stroops,
        fee_stroops=bump.fee_stroops,
        envelope=bump.envelope,
        ledger_sequence=bump.ledger_sequence,
        close_time_s=bump.close_time_s,
    )
    session.execute(statement.on_conflict_do_nothing())


def load_bumps(session: Session, tx_hashes: Sequence[bytes]) -> tuple[Bump, ...]:
    """Return the bumps around transactions, each ladder from its first rung on."""
    query = (
        select(BumpRow)
        .where(BumpRow.tx_hash.in_(tx_hashes))
        .order_by(BumpRow.tx_hash, BumpRow.step)
    )
    return tuple(
        Bump(
            outer_hash=row.outer_hash,
            tx_hash=row.tx_hash,
            step=row.step,
            bid_stroops=row.bid_stroops,
            fee_stroops=row.fee_stroops,
            envelope=row.envelope,
            ledger_sequence=row.ledger_sequence,
            close_time_s=row.close_time_s,
        )
        for row in session.scalars(query)
    )


def bump_costs(session: Session, broadcaster: bytes, *, after_s: int) -> int:
    """Return what bumps made after a time cost at most, in stroops.

    What was charged of those in a ledger; of the others the highest bid of each transaction, for
    at most one of its bumps can be applied.
    """
    bids = (
        select(BumpRow.tx_hash, func.max(BumpRow.fee_stroops).label("most"))
        .where(BumpRow.broadcaster == broadcaster, BumpRow.close_time_s > after_s)
        .group_by(BumpRow.tx_hash)
        .subquery()
    )
    query = select(bids.c.most, NetworkFactRow.result).outerjoin(
        NetworkFactRow,
        (NetworkFactRow.broadcaster == broadcaster) & (NetworkFactRow.tx_hash == bids.c.tx_hash),
    )
    return sum(
        most if result is None else int.from_bytes(result[:_FEE_BYTES], "big")
        for most, result in session.execute(query)
    )
