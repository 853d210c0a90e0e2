"""Instructions in the database: kept once by what they say, sealed once, given a code once.

Every row was checked by whoever kept it: form, network, broadcaster, signatures. Whether one has
effect is computed with its epoch (`ledger.books.instructing`). Rows are never deleted; a trigger
(migration 0012) lets only the sealing epoch and then the code be filled in. Not here: who may send
(`ledger.api.instructions`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from ledger.books.instructing import INSTRUCTIONS_MAX, InstructionCode
from ledger.books.state import payee_accounts_in
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.instruction import (
    Instruction,
    code_of_instruction,
    order_of_instruction,
    parse_instruction,
    subject_of,
)
from ledger.store.base import Base, check_length, check_natural
from ledger.store.errors import UnprovenError
from ledger.store.shard_store import Shard
from ledger.store.tables import StateRow

PAGE_ROWS: Final = 100
"""Most instructions of one answer."""


class InstructionRow(Base):
    """A signed instruction, the epoch that sealed it, and what became of it."""

    __tablename__ = "instructions"
    __table_args__ = (
        UniqueConstraint("broadcaster_id", "digest"),
        ForeignKeyConstraint(
            ["broadcaster_id", "sealed_epoch"], ["epochs.broadcaster_id", "epochs.number"]
        ),
        check_length("digest"),
        check_length("subject"),
        check_natural("code"),
        CheckConstraint("kind BETWEEN 21 AND 24", name="kind_known"),
        CheckConstraint("code IS NULL OR sealed_epoch IS NOT NULL", name="sealed_before_code"),
        Index(
            "ix_instructions_waiting",
            "broadcaster_id",
            "kind",
            "id",
            postgresql_where=text("sealed_epoch IS NULL"),
        ),
        Index("ix_instructions_sealed_epoch", "broadcaster_id", "sealed_epoch"),
        Index("ix_instructions_subject", "broadcaster_id", "subject", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    broadcaster_id: Mapped[int] = mapped_column(ForeignKey("broadcasters.id"))
    digest: Mapped[bytes]
    """SHA-256 of what was signed."""
    kind: Mapped[int]
    """Its record code."""
    subject: Mapped[bytes]
    """Account or transaction that it is about."""
    raw: Mapped[bytes]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sealed_epoch: Mapped[int | None]
    """Null before its seal."""
    code: Mapped[int | None]
    """An `InstructionCode`; null before its epoch is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInstruction:
    """An instruction and what became of it."""

    id: int
    digest: bytes
    raw: bytes
    sealed_epoch: int | None
    """None before the seal that takes it."""

    code: InstructionCode | None
    """None before its epoch is computed."""


def keep_instruction(session: Session, shard: Shard, signed: Signed[Instruction]) -> bool:
    """Keep an instruction for the next seal; the same words again change nothing.

    Args:
        session: In a transaction.
        shard: Whose ledger.
        signed: Checked: of this network and broadcaster, signed by whom it names.

    Returns:
        Whether it is new.
    """
    done = session.execute(
        insert(InstructionRow)
        .values(
            broadcaster_id=shard.id,
            digest=signed.digest,
            kind=int(code_of_instruction(signed.value)),
            subject=subject_of(signed.value),
            raw=signed.raw,
        )
        .on_conflict_do_nothing(index_elements=["broadcaster_id", "digest"])
        .returning(InstructionRow.id)
    )
    return done.scalar() is not None


def find_instruction(session: Session, shard: Shard, digest: bytes) -> StoredInstruction | None:
    """Return the instruction with this digest; None if there is none."""
    row = session.scalar(
        select(InstructionRow).where(
            InstructionRow.broadcaster_id == shard.id, InstructionRow.digest == digest
        )
    )
    return None if row is None else _stored(row)


def list_instructions(
    session: Session, shard: Shard, subject: bytes, *, after: int = 0
) -> list[StoredInstruction]:
    """Return the instructions about an account or transaction, the oldest first.

    Args:
        session: In a transaction.
        shard: Whose ledger.
        subject: 32 bytes.
        after: Only those with a greater id, at most `PAGE_ROWS`.
    """
    rows = session.scalars(
        select(InstructionRow)
        .where(
            InstructionRow.broadcaster_id == shard.id,
            InstructionRow.subject == subject,
            InstructionRow.id > after,
        )
        .order_by(InstructionRow.id)
        .limit(PAGE_ROWS)
    )
    return [_stored(row) for row in rows]


def count_waiting(session: Session, shard: Shard, subject: bytes | None = None) -> int:
    """Return how many instructions wait for a seal: all, or those about one subject."""
    query = select(func.count()).where(
        InstructionRow.broadcaster_id == shard.id, InstructionRow.sealed_epoch.is_(None)
    )
    if subject is not None:
        query = query.where(InstructionRow.subject == subject)
    return session.scalar(query) or 0


def claim_instructions(session: Session, shard: Shard, epoch: int) -> int:
    """Let a seal take what waits: rulings first, payees' words last, the oldest of a kind first.

    Args:
        session: In the transaction that seals the epoch.
        shard: Whose epoch.
        epoch: In state sealing.

    Returns:
        How many it took, at most `INSTRUCTIONS_MAX`.
    """
    waiting = (
        select(InstructionRow.id)
        .where(InstructionRow.broadcaster_id == shard.id, InstructionRow.sealed_epoch.is_(None))
        .order_by(InstructionRow.kind.desc(), InstructionRow.id)
        .limit(INSTRUCTIONS_MAX)
    )
    taken = session.execute(
        update(InstructionRow)
        .where(InstructionRow.id.in_(waiting.scalar_subquery()))
        .values(sealed_epoch=epoch)
        .returning(InstructionRow.id)
        .execution_options(synchronize_session=False)
    )
    return len(taken.all())


def load_instructions(
    session: Session, shard: Shard, epoch: int
) -> tuple[Signed[Instruction], ...]:
    """Return the instructions that an epoch sealed, in their order in the seal.

    Raises:
        UnprovenError: A row is none: the database was changed by hand.
    """
    raws = session.scalars(
        select(InstructionRow.raw).where(
            InstructionRow.broadcaster_id == shard.id, InstructionRow.sealed_epoch == epoch
        )
    )
    try:
        instructions = [parse_instruction(raw) for raw in raws]
    except MalformedRecordError as error:
        raise UnprovenError(f"instructions of epoch {epoch}: {error}") from error
    return tuple(sorted(instructions, key=order_of_instruction))


def store_instruction_codes(
    session: Session,
    shard: Shard,
    instructions: Sequence[Signed[Instruction]],
    codes: Sequence[InstructionCode],
) -> None:
    """Note what became of an epoch's instructions."""
    for signed, code in zip(instructions, codes, strict=True):
        session.execute(
            update(InstructionRow)
            .where(
                InstructionRow.broadcaster_id == shard.id,
                InstructionRow.digest == signed.digest,
                InstructionRow.code.is_(None),
            )
            .values(code=int(code))
            .execution_options(synchronize_session=False)
        )


def newest_computed_epoch(session: Session, shard: Shard) -> int | None:
    """Return the newest epoch whose closing state is known; None before the first."""
    return session.scalar(
        select(func.max(StateRow.epoch)).where(StateRow.broadcaster_id == shard.id)
    )


def load_payee_accounts(session: Session, shard: Shard, epoch: int) -> frozenset[bytes]:
    """Return every account that an epoch's closing state keeps a payee's balance of."""
    closing = session.scalar(
        select(StateRow.closing).where(StateRow.broadcaster_id == shard.id, StateRow.epoch == epoch)
    )
    return frozenset() if not closing else payee_accounts_in(closing)


def restore_instructions(
    session: Session, shard: Shard, epoch: int, instructions: Sequence[Signed[Instruction]]
) -> None:
    """Put back what an epoch's audit file says it sealed; what is there already stays.

    For a ledger that is rebuilt from its log; the codes follow with the computation.
    """
    for signed in instructions:
        session.execute(
            insert(InstructionRow)
            .values(
                broadcaster_id=shard.id,
                digest=signed.digest,
                kind=int(code_of_instruction(signed.value)),
                subject=subject_of(signed.value),
                raw=signed.raw,
                sealed_epoch=epoch,
            )
            .on_conflict_do_nothing(index_elements=["broadcaster_id", "digest"])
        )


def _stored(row: InstructionRow) -> StoredInstruction:
    return StoredInstruction(
        id=row.id,
        digest=row.digest,
        raw=row.raw,
        sealed_epoch=row.sealed_epoch,
        code=None if row.code is None else InstructionCode(row.code),
    )
