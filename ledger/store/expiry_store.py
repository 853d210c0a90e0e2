"""Expiry: an epoch's partitions go as a whole, once what they hold stands in its audit file.

Bundles' bytes and the merged receipts serve an epoch until it is settled and its file written; its
lanes serve corrections until the window is over. One DROP a partition frees the disk at once, and
nothing has to be vacuumed. Not here: whether the file is really there (`ledger.sealing.expiry`),
and erasing what names viewers (`erasure_store`).
"""

from collections.abc import Collection
from typing import Final

from sqlalchemy import exists, select, text
from sqlalchemy.orm import Session

from ledger.store.shard_store import Shard, list_shards
from ledger.store.tables import BundleRawRow, BundleRow, EpochRow

EVIDENCE: Final = ("bundle_raws", "receipts")
"""Parents of the partitions that go once the audit file is written."""

LANES: Final = ("lanes",)
"""Parents of those that go once the correction window is over."""

LOCK_TIMEOUT: Final = "2s"
"""How long a DROP may hold up others who come after it; the next run tries again."""


def list_filed(session: Session, shard: Shard) -> dict[int, bytes]:
    """Return the digest of the audit file of every settled epoch that has one."""
    rows = session.execute(
        select(EpochRow.number, EpochRow.audit_digest).where(
            EpochRow.broadcaster_id == shard.id,
            EpochRow.state == "settled",
            EpochRow.audit_digest.is_not(None),
        )
    )
    return {row.number: row.audit_digest for row in rows if row.audit_digest is not None}


def list_partitions(session: Session, parent: str) -> list[int]:
    """Return the epochs that have a partition of a table, ascending."""
    names = session.scalars(
        text(
            "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
            " WHERE inhparent = to_regclass(:parent)"
        ),
        {"parent": parent},
    )
    return sorted(int(name.rpartition("_e")[2]) for name in names)


def list_sharers(session: Session, shard: Shard) -> list[Shard]:
    """Return the other broadcasters of the database: partitions are of an epoch's number alone."""
    return [one for one in list_shards(session) if one.id != shard.id]


def has_bundles(session: Session, shard: Shard, epoch: int) -> bool:
    """Tell whether a broadcaster has bundles in the seal of a number, so rows or rows to come."""
    found = (
        select(BundleRow.id)
        .where(BundleRow.broadcaster_id == shard.id, BundleRow.sealing_epoch == epoch)
        .limit(1)
    )
    return session.scalar(found) is not None


def drop_partitions(session: Session, parents: Collection[str], epoch: int) -> None:
    """Drop an epoch's partitions of some tables.

    Raises:
        sqlalchemy.exc.OperationalError: Somebody reads or writes there for longer than
            `LOCK_TIMEOUT`; nothing is dropped.
    """
    session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    for parent in parents:
        session.execute(text(f"DROP TABLE IF EXISTS {parent}_e{epoch:d}"))


def list_without_bytes(session: Session, shard: Shard) -> list[int]:
    """Return the epochs whose bundles' bytes were dropped: only audit files have them."""
    has_bytes = exists().where(
        BundleRawRow.sealing_epoch == BundleRow.sealing_epoch,
        BundleRawRow.bundle_id == BundleRow.id,
    )
    epochs = session.scalars(
        select(BundleRow.sealing_epoch)
        .where(BundleRow.broadcaster_id == shard.id, ~has_bytes)
        .distinct()
    )
    return sorted(epochs)
