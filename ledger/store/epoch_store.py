"""Epochs in the database: their rows, their seals, their results, and the log's leaves.

Every transition is one transaction of its caller and begins by locking the epoch's row in the
state it expects, so running it twice changes nothing. Not here: what stands in a seal or a result
(`ledger.books.epoch`), and files (`ledger.sealing`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.books.epoch import Result, Seal
from ledger.books.journal import format_journal
from ledger.books.state import State, format_state, parse_state, state_root
from ledger.books.statements import format_statements
from ledger.evidence.checkpoint import Checkpoint, body_hash
from ledger.evidence.keys import generate_seed
from ledger.evidence.merkle import leaf_hash
from ledger.store.errors import EpochOrderError
from ledger.store.lane_store import store_lanes
from ledger.store.raw_cursor import raw_cursor
from ledger.store.shard_store import Shard
from ledger.store.tables import (
    CheckpointRow,
    EpochRow,
    EquivocationRow,
    LeafRow,
    ResultRow,
    StateRow,
)

ROWS_PER_STATEMENT = 1_000


class EpochState(StrEnum):
    """An epoch's life; it goes forward only."""

    OPEN = "open"
    SEALING = "sealing"
    """Its grace is over: no bundle can enter it any more."""
    SEALED = "sealed"
    COMPUTED = "computed"
    SETTLED = "settled"
    """Its checkpoint is anchored on the chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """An epoch's row."""

    number: int
    state: EpochState
    salt_key: bytes
    opening_size: int | None
    sealed_size: int | None
    result_size: int | None
    last_ledger_sequence: int | None
    last_ledger_close_s: int | None
    is_published: bool
    audit_digest: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """The signed tree head after an epoch's result."""

    epoch: int
    tree_size: int
    root: bytes
    body_hash: bytes
    note: bytes
    frontier: bytes
    """State of a `RootBuilder` over the tree; as trustworthy as the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """An epoch's computed books, as bytes."""

    journal: bytes
    statements: bytes
    sum_tree_hash: bytes
    sum_tree_bytes: int
    sum_tree_stroops: int


def open_epochs(session: Session, shard: Shard, *, first: int, last: int) -> None:
    """Make the rows of epochs `first` to `last` that are missing, each with a salt key.

    The salt key is committed with the row, long before the seal that commits to it.
    """
    query = b"SELECT max(number) FROM epochs WHERE broadcaster_id = %s"
    with raw_cursor(session) as cursor:
        (known,) = cursor.execute(query, (shard.id,)).fetchone() or (None,)
    missing = range(first if known is None else known + 1, last + 1)
    rows = [
        {"broadcaster_id": shard.id, "number": number, "salt_key": generate_seed()}
        for number in missing
    ]
    for at in range(0, len(rows), ROWS_PER_STATEMENT):
        statement = insert(EpochRow).values(rows[at : at + ROWS_PER_STATEMENT])
        session.execute(statement.on_conflict_do_nothing())


def list_epochs(
    session: Session, shard: Shard, *, after: int = -1, limit: int = 1_000
) -> list[Epoch]:
    """Return epochs above `after`, ascending."""
    rows = session.scalars(
        select(EpochRow)
        .where(EpochRow.broadcaster_id == shard.id, EpochRow.number > after)
        .order_by(EpochRow.number)
        .limit(limit)
    )
    return [_epoch_of(row) for row in rows]


def find_epoch(session: Session, shard: Shard, number: int) -> Epoch | None:
    """Return one epoch, or None."""
    row = session.get(EpochRow, (shard.id, number), populate_existing=True)
    return None if row is None else _epoch_of(row)


def first_epoch(session: Session, shard: Shard) -> int | None:
    """Return the log's first epoch, or None while there is no epoch."""
    return session.scalar(
        select(func.min(EpochRow.number)).where(EpochRow.broadcaster_id == shard.id)
    )


def list_in_state(session: Session, shard: Shard, state: EpochState) -> list[int]:
    """Return the numbers of the epochs in a state, ascending."""
    return list(
        session.scalars(
            select(EpochRow.number)
            .where(EpochRow.broadcaster_id == shard.id, EpochRow.state == state.value)
            .order_by(EpochRow.number)
        )
    )


def find_unwritten(session: Session, shard: Shard) -> tuple[list[int], list[int]]:
    """Return the epochs whose log files, and whose audit files, are not known to be written."""
    rows = session.execute(
        select(EpochRow.number, EpochRow.state, EpochRow.published_at, EpochRow.audit_digest)
        .where(
            EpochRow.broadcaster_id == shard.id,
            EpochRow.state.in_([EpochState.COMPUTED.value, EpochState.SETTLED.value]),
            EpochRow.published_at.is_(None) | EpochRow.audit_digest.is_(None),
        )
        .order_by(EpochRow.number)
    ).all()
    unpublished = [row.number for row in rows if row.published_at is None]
    unaudited = [
        row.number
        for row in rows
        if row.state == EpochState.SETTLED.value and row.audit_digest is None
    ]
    return unpublished, unaudited


def _epoch_of(row: EpochRow) -> Epoch:
    return Epoch(
        number=row.number,
        state=EpochState(row.state),
        salt_key=row.salt_key,
        opening_size=row.opening_size,
        sealed_size=row.sealed_size,
        result_size=row.result_size,
        last_ledger_sequence=row.last_ledger_sequence,
        last_ledger_close_s=row.last_ledger_close_s,
        is_published=row.published_at is not None,
        audit_digest=row.audit_digest,
    )


def lock_epoch(session: Session, shard: Shard, number: int, state: EpochState) -> Epoch | None:
    """Lock an epoch's row for a transition from `state`; None if it is in another state."""
    row = session.scalar(
        select(EpochRow)
        .where(EpochRow.broadcaster_id == shard.id, EpochRow.number == number)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return None if row is None or row.state != state.value else _epoch_of(row)


def _require_lock(session: Session, shard: Shard, number: int, state: EpochState) -> None:
    if lock_epoch(session, shard, number, state) is None:
        raise EpochOrderError(number, got="another", want=state.value)


def begin_sealing(session: Session, shard: Shard, number: int) -> None:
    """Close an epoch to bundles.

    The update waits for every collector that holds the row, and lets no later one have it.

    Raises:
        EpochOrderError: The epoch is not open.
    """
    _require_lock(session, shard, number, EpochState.OPEN)
    _set(session, shard, number, state=EpochState.SEALING.value)


def store_seal(
    session: Session,
    shard: Shard,
    epoch: Epoch,
    seal: Seal,
    *,
    last_ledger_sequence: int,
    last_ledger_close_s: int,
) -> None:
    """Append a seal's leaves, its lanes and contradictions; the epoch is immutable from then on.

    Final receipt codes are to be written before (`bundle_store.store_final_codes`): afterwards the
    database refuses.

    Raises:
        EpochOrderError: The epoch is not sealing.
    """
    _require_lock(session, shard, epoch.number, EpochState.SEALING)
    opening_size = log_size(session, shard)
    append_leaves(session, shard, epoch.number, opening_size, seal.leaves)
    store_lanes(session, shard, epoch.number, seal.judgement.lanes)
    for first_receipt, second_receipt in seal.judgement.equivocations:
        session.add(
            EquivocationRow(
                broadcaster_id=shard.id,
                sealing_epoch=epoch.number,
                first_receipt=first_receipt,
                second_receipt=second_receipt,
            )
        )
    session.flush()
    _set(
        session,
        shard,
        epoch.number,
        state=EpochState.SEALED.value,
        opening_size=opening_size,
        sealed_size=opening_size + len(seal.leaves),
        last_ledger_sequence=last_ledger_sequence,
        last_ledger_close_s=last_ledger_close_s,
    )


def store_result(session: Session, shard: Shard, epoch: Epoch, result: Result) -> int:
    """Append the result and payout leaves and store the closing state and the books.

    Returns:
        The log's size with them.

    Raises:
        EpochOrderError: The epoch is not sealed, or leaves follow its seal already.
    """
    _require_lock(session, shard, epoch.number, EpochState.SEALED)
    size = log_size(session, shard)
    if size != epoch.sealed_size:
        raise EpochOrderError(
            epoch.number, got=f"log of {size}", want=f"log of {epoch.sealed_size}"
        )
    append_leaves(session, shard, epoch.number, size, result.leaves)
    store_closing_state(session, shard, epoch.number, result.closing)
    session.add(
        ResultRow(
            broadcaster_id=shard.id,
            epoch=epoch.number,
            journal=format_journal(result.entries),
            statements=format_statements(result.lines),
            sum_tree_hash=result.sum_root.hash,
            sum_tree_bytes=result.result_leaf.sum_tree_bytes,
            sum_tree_stroops=result.result_leaf.sum_tree_stroops,
        )
    )
    session.flush()
    result_size = size + len(result.leaves)
    _set(session, shard, epoch.number, state=EpochState.COMPUTED.value, result_size=result_size)
    return result_size


def store_closing_state(session: Session, shard: Shard, epoch: int, closing: State) -> None:
    """Store the state in which an epoch leaves the books."""
    session.add(
        StateRow(
            broadcaster_id=shard.id,
            epoch=epoch,
            closing=format_state(closing),
            root=state_root(closing),
        )
    )


def store_checkpoint(
    session: Session,
    shard: Shard,
    epoch: int,
    checkpoint: Checkpoint,
    *,
    note: bytes,
    frontier: bytes,
) -> StoredCheckpoint:
    """Store the signed tree head after an epoch's result, and the log's frontier there."""
    row = CheckpointRow(
        broadcaster_id=shard.id,
        epoch=epoch,
        tree_size=checkpoint.tree_size,
        root=checkpoint.root_hash,
        body_hash=body_hash(checkpoint),
        note=note,
        frontier=frontier,
    )
    session.add(row)
    session.flush()
    return _checkpoint_of(row)


def mark_settled(session: Session, shard: Shard, number: int) -> None:
    """Note that an epoch's checkpoint is anchored on the chain.

    Raises:
        EpochOrderError: The epoch is not computed.
    """
    _require_lock(session, shard, number, EpochState.COMPUTED)
    _set(session, shard, number, state=EpochState.SETTLED.value)


def mark_published(session: Session, shard: Shard, numbers: Iterable[int]) -> None:
    """Note that the log's files with these epochs' leaves are written."""
    for number in numbers:
        _set(session, shard, number, published_at=func.now())


def store_audit_digest(session: Session, shard: Shard, number: int, digest: bytes) -> None:
    """Note that an epoch's audit file with this digest is written."""
    _set(session, shard, number, audit_digest=digest)


def _set(session: Session, shard: Shard, number: int, **values: object) -> None:
    session.execute(
        update(EpochRow)
        .where(EpochRow.broadcaster_id == shard.id, EpochRow.number == number)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def append_leaves(
    session: Session, shard: Shard, epoch: int, first_index: int, leaves: Sequence[bytes]
) -> None:
    """Append an epoch's leaves to the log; the caller holds the epoch's lock."""
    for at in range(0, len(leaves), ROWS_PER_STATEMENT):
        session.execute(
            insert(LeafRow).values(
                [
                    {
                        "broadcaster_id": shard.id,
                        "leaf_index": first_index + at + place,
                        "epoch": epoch,
                        "data": data,
                        "leaf_hash": leaf_hash(data),
                    }
                    for place, data in enumerate(leaves[at : at + ROWS_PER_STATEMENT])
                ]
            )
        )


def log_size(session: Session, shard: Shard) -> int:
    """Return the number of leaves in the log."""
    last = session.scalar(
        select(func.max(LeafRow.leaf_index)).where(LeafRow.broadcaster_id == shard.id)
    )
    return 0 if last is None else last + 1


def load_leaves(
    session: Session, shard: Shard, *, first: int = 0, end: int | None = None
) -> list[bytes]:
    """Return the log's leaves from index `first` up to `end`, exclusive; all of them when None."""
    statement = select(LeafRow.data).where(
        LeafRow.broadcaster_id == shard.id, LeafRow.leaf_index >= first
    )
    if end is not None:
        statement = statement.where(LeafRow.leaf_index < end)
    return list(session.scalars(statement.order_by(LeafRow.leaf_index)))


def load_closing_state(session: Session, shard: Shard, epoch: int) -> State | None:
    """Return an epoch's closing state, or None if it is not computed."""
    data = session.scalar(
        select(StateRow.closing).where(StateRow.broadcaster_id == shard.id, StateRow.epoch == epoch)
    )
    return None if data is None else parse_state(data)


def find_result(session: Session, shard: Shard, epoch: int) -> StoredResult | None:
    """Return an epoch's books, or None if it is not computed."""
    row = session.get(ResultRow, (shard.id, epoch))
    if row is None:
        return None
    return StoredResult(
        journal=row.journal,
        statements=row.statements,
        sum_tree_hash=row.sum_tree_hash,
        sum_tree_bytes=row.sum_tree_bytes,
        sum_tree_stroops=row.sum_tree_stroops,
    )


def find_checkpoint(session: Session, shard: Shard, epoch: int) -> StoredCheckpoint | None:
    """Return the checkpoint after an epoch's result, or None."""
    row = session.get(CheckpointRow, (shard.id, epoch))
    return None if row is None else _checkpoint_of(row)


def list_checkpoints(session: Session, shard: Shard) -> list[StoredCheckpoint]:
    """Return all checkpoints, by rising tree size."""
    rows = session.scalars(
        select(CheckpointRow)
        .where(CheckpointRow.broadcaster_id == shard.id)
        .order_by(CheckpointRow.tree_size)
    )
    return [_checkpoint_of(row) for row in rows]


def find_checkpoint_before(
    session: Session, shard: Shard, tree_size: int
) -> StoredCheckpoint | None:
    """Return the checkpoint over the largest tree below a size, or None."""
    row = session.scalar(
        select(CheckpointRow)
        .where(CheckpointRow.broadcaster_id == shard.id, CheckpointRow.tree_size < tree_size)
        .order_by(CheckpointRow.tree_size.desc())
        .limit(1)
    )
    return None if row is None else _checkpoint_of(row)


def find_published(session: Session, shard: Shard) -> StoredCheckpoint | None:
    """Return the newest checkpoint that is noted as published, or None."""
    row = session.scalar(
        select(CheckpointRow)
        .join(
            EpochRow,
            (EpochRow.broadcaster_id == CheckpointRow.broadcaster_id)
            & (EpochRow.number == CheckpointRow.epoch),
        )
        .where(CheckpointRow.broadcaster_id == shard.id, EpochRow.published_at.is_not(None))
        .order_by(CheckpointRow.tree_size.desc())
        .limit(1)
    )
    return None if row is None else _checkpoint_of(row)


def _checkpoint_of(row: CheckpointRow) -> StoredCheckpoint:
    return StoredCheckpoint(
        epoch=row.epoch,
        tree_size=row.tree_size,
        root=row.root,
        body_hash=row.body_hash,
        note=row.note,
        frontier=row.frontier,
    )
