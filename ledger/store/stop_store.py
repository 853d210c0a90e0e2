"""Stops: why a domain, or the lane of one account, neither signs nor sends; queries.

A halt waits for a person, a pause lifts itself. The same cause stands once while it is open.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.store.settlement_tables import StopRow

DOMAIN: Final = bytes(32)
"""In place of an account: everything stands still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Something that stands still, and why."""

    id: int
    account: bytes
    """Account whose lane it is; `DOMAIN`: all of them; 32 bytes."""

    is_halt: bool
    """A person lifts it."""

    cause: str
    """A result code, or a word for what was found."""

    reason: str
    since_ledger: int


def open_stop(
    session: Session,
    broadcaster: bytes,
    *,
    account: bytes,
    is_halt: bool,
    cause: str,
    reason: str,
    ledger_sequence: int,
) -> bool:
    """Stop a domain or a lane; tells whether it was not stopped for this cause already."""
    statement = insert(StopRow).values(
        broadcaster=broadcaster,
        account=account,
        is_halt=is_halt,
        cause=cause,
        reason=reason,
        since_ledger=ledger_sequence,
    )
    statement = statement.on_conflict_do_nothing()
    return session.scalar(statement.returning(StopRow.id)) is not None


def load_stops(session: Session, broadcaster: bytes) -> tuple[Stop, ...]:
    """Return what stands still now, oldest first."""
    query = (
        select(StopRow)
        .where(StopRow.broadcaster == broadcaster, StopRow.lifted_ledger.is_(None))
        .order_by(StopRow.id)
    )
    return tuple(
        Stop(
            id=row.id,
            account=row.account,
            is_halt=row.is_halt,
            cause=row.cause,
            reason=row.reason,
            since_ledger=row.since_ledger,
        )
        for row in session.scalars(query)
    )


def lift_stop(
    session: Session, broadcaster: bytes, stop_id: int, *, ledger_sequence: int, why: str
) -> bool:
    """Let what stood still go on; tells whether it stood still."""
    statement = (
        update(StopRow)
        .where(
            StopRow.broadcaster == broadcaster,
            StopRow.id == stop_id,
            StopRow.lifted_ledger.is_(None),
        )
        .values(lifted_ledger=ledger_sequence, lifted_why=why)
    )
    return session.scalar(statement.returning(StopRow.id)) is not None
