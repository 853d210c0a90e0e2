"""Erasing viewer material: what names viewers goes, what is proven in public stays.

Bundles hold session keys, entitlements and heartbeats; receipts, lanes, refusals and the state that
an epoch opened with hold digests made of them. All of an epoch's go at once, in one transaction
with the row that notes it (`erasures`, migration 0010), and with the epoch's salt key: without it
nobody can tell whose a commitment in the log is. Leaves, checkpoints, results and statements stay.
When it is due, and the operator's audit files, which hold everything too, is `erasing`'s.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Text,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Mapped, Session, mapped_column

from ledger.evidence.terms import parse_terms
from ledger.store.base import Base, check_natural
from ledger.store.errors import EpochOrderError
from ledger.store.intake_tables import ProvisionalTotalRow
from ledger.store.shard_store import Shard
from ledger.store.tables import (
    BundleRawRow,
    BundleRow,
    ConflictRow,
    EpochRow,
    EquivocationRow,
    LaneRow,
    ReceiptRow,
    RefusalRow,
    RelayFrameRow,
    StateRow,
    TermsRow,
)

NO_SALT_KEY: Final = bytes(32)
"""What stands in the place of a destroyed salt key."""


class ErasureRow(Base):
    """An epoch whose viewer material is erased."""

    __tablename__ = "erasures"
    __table_args__ = (
        ForeignKeyConstraint(
            ["broadcaster_id", "epoch"], ["epochs.broadcaster_id", "epochs.number"]
        ),
        CheckConstraint("reason IN ('retention', 'viewer')", name="reason_known"),
        check_natural("window_epochs"),
        check_natural("bundle_count"),
    )

    broadcaster_id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    window_epochs: Mapped[int]
    """Epochs after it that had to have their audit files first."""
    reason: Mapped[str] = mapped_column(Text)
    bundle_count: Mapped[int]
    erased_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Reason(StrEnum):
    """Why an epoch is erased."""

    RETENTION = "retention"
    VIEWER = "viewer"


def longest_window(session: Session, shard: Shard) -> int:
    """Return the longest correction window of all the broadcaster's terms, in epochs."""
    raws = session.scalars(select(TermsRow.raw).where(TermsRow.broadcaster_id == shard.id))
    return max((parse_terms(raw).value.correction_epochs for raw in raws), default=0)


def list_erasable(session: Session, shard: Shard, window_epochs: int) -> list[int]:
    """Return the epochs that may be erased and are not, ascending.

    Args:
        session: In a transaction.
        shard: Whose.
        window_epochs: Epochs after one that may hold late receipts of it; they too must have
            their audit files.
    """
    rows = session.execute(
        select(EpochRow.number, EpochRow.state, EpochRow.audit_digest.is_not(None)).where(
            EpochRow.broadcaster_id == shard.id
        )
    ).all()
    done = {number for number, state, has_file in rows if state == "settled" and has_file}
    erased = set(list_erased(session, shard))
    return sorted(
        number
        for number in done - erased
        if all(later in done for later in range(number, number + window_epochs + 1))
    )


def list_erased(session: Session, shard: Shard) -> list[int]:
    """Return the erased epochs, ascending."""
    return list(
        session.scalars(
            select(ErasureRow.epoch)
            .where(ErasureRow.broadcaster_id == shard.id)
            .order_by(ErasureRow.epoch)
        )
    )


def find_viewer(session: Session, shard: Shard, key: bytes) -> set[int]:
    """Return the sealing epochs whose evidence names a key.

    As a bundle's sender, or anywhere in the bytes of bundles, of those that came in conflict with
    them, or of equivocating receipts.
    """
    # Joined before it is looked through: a key may lie across two pages.
    raw = (
        select(
            func.string_agg(BundleRawRow.raw, aggregate_order_by(literal(b""), BundleRawRow.page))
        )
        .where(
            BundleRawRow.bundle_id == BundleRow.id,
            BundleRawRow.sealing_epoch == BundleRow.sealing_epoch,
        )
        .scalar_subquery()
    )
    in_conflict = exists().where(
        ConflictRow.bundle_id == BundleRow.id, func.pg_catalog.position(ConflictRow.raw, key) > 0
    )
    of_bundles = select(BundleRow.sealing_epoch).where(
        BundleRow.broadcaster_id == shard.id,
        or_(
            BundleRow.submitter_key == key,
            BundleRow.payee_account == key,
            func.pg_catalog.position(raw, key) > 0,
            in_conflict,
        ),
    )
    of_receipts = select(EquivocationRow.sealing_epoch).where(
        EquivocationRow.broadcaster_id == shard.id,
        or_(
            func.pg_catalog.position(EquivocationRow.first_receipt, key) > 0,
            func.pg_catalog.position(EquivocationRow.second_receipt, key) > 0,
        ),
    )
    return set(session.scalars(of_bundles.union(of_receipts)))


def erase_epoch(
    session: Session, shard: Shard, epoch: int, *, window_epochs: int, reason: Reason
) -> int:
    """Erase an epoch's viewer material; an erased one stays as it is.

    Returns:
        How many bundles went.

    Raises:
        EpochOrderError: It may not be erased yet.
    """
    if epoch in list_erased(session, shard):
        return 0
    if epoch not in list_erasable(session, shard, window_epochs):
        raise EpochOrderError(
            epoch, got="not settled with its window", want=f"{window_epochs} settled after it"
        )
    bundle_ids = select(BundleRow.id).where(
        BundleRow.broadcaster_id == shard.id, BundleRow.sealing_epoch == epoch
    )
    count = session.scalar(select(func.count()).select_from(bundle_ids.subquery())) or 0
    session.add(
        ErasureRow(
            broadcaster_id=shard.id,
            epoch=epoch,
            window_epochs=window_epochs,
            reason=reason.value,
            bundle_count=count,
        )
    )
    session.flush()
    for by_bundle in (ConflictRow, RefusalRow):
        session.execute(delete(by_bundle).where(by_bundle.bundle_id.in_(bundle_ids)))
    session.execute(
        delete(BundleRawRow).where(
            BundleRawRow.sealing_epoch == epoch, BundleRawRow.bundle_id.in_(bundle_ids)
        )
    )
    for of_epoch in (EquivocationRow, LaneRow, ReceiptRow, BundleRow):
        session.execute(
            delete(of_epoch).where(
                of_epoch.broadcaster_id == shard.id, of_epoch.sealing_epoch == epoch
            )
        )
    session.execute(
        update(StateRow)
        .where(StateRow.broadcaster_id == shard.id, StateRow.epoch == epoch - 1)
        .values(closing=b"")
    )
    session.execute(
        update(EpochRow)
        .where(EpochRow.broadcaster_id == shard.id, EpochRow.number == epoch)
        .values(salt_key=NO_SALT_KEY)
    )
    return count


def erase_passing(session: Session, key: bytes) -> int:
    """Delete what waits in passing and names a key: relay frames, provisional reports.

    Returns:
        How many rows went.
    """
    frames = session.scalars(
        delete(RelayFrameRow)
        .where(or_(RelayFrameRow.from_key == key, RelayFrameRow.to_key == key))
        .returning(RelayFrameRow.id)
    ).all()
    reports = session.scalars(
        delete(ProvisionalTotalRow)
        .where(ProvisionalTotalRow.submitter_key == key)
        .returning(ProvisionalTotalRow.epoch)
    ).all()
    return len(frames) + len(reports)


def drop_empty_partitions(session: Session, epochs: Iterable[int]) -> None:
    """Drop the partitions of erased epochs that hold nobody's rows, so that their disk is free."""
    for epoch in sorted(set(epochs)):
        for parent in ("bundle_raws", "receipts", "lanes"):
            name = f"{parent}_e{epoch:d}"
            if session.scalar(select(func.to_regclass(name))) is None:
                continue
            is_open = session.scalar(
                select(func.count())
                .select_from(EpochRow)
                .where(EpochRow.number == epoch, EpochRow.state == "open")
            )
            session.execute(text(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"))
            has_rows = session.scalar(select(exists().select_from(table(name))))
            if not is_open and not has_rows:
                session.execute(text(f"DROP TABLE {name}"))
            elif has_rows:
                # What was deleted beside other rows is vacuumed away from here on.
                session.execute(text(f"ALTER TABLE {name} RESET (autovacuum_enabled)"))
