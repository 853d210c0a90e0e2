"""Named halts, balances that sources told, and proofs that books and chain agree: queries.

Functions take a session and neither begin nor commit. When a halt opens and closes is decided in
`ledger.stellar.book_watch` and `ledger.stellar.stopping`; what an operator does about each stands
in docs/settlement.md.
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.store.halt_tables import BalanceProofRow, BalanceSampleRow, HaltRow


class HaltName(StrEnum):
    """Why nothing is paid. Names are stable: programs and the run-book use them."""

    UNKNOWN_TRANSACTION = "unknown_transaction"
    """A transaction that nobody planned moved our money; a ruling books it."""

    BALANCE_DEFICIT = "balance_deficit"
    """An account of ours holds less than the books say."""

    BALANCE_SURPLUS = "balance_surplus"
    """An account of ours holds more than the books say, by more than is tolerated."""

    UNREADABLE_TRANSACTION = "unreadable_transaction"
    """A transaction on an account of ours has an operation that this release does not know."""

    CONFLICTING_FACTS = "conflicting_facts"
    """The network's sources exclude each other, or what they told before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """A reason why nothing is paid."""

    name: HaltName
    detail: str
    opened_ledger: int
    """Network ledger as of which it was found."""

    cleared_ledger: int | None
    """Network ledger as of which its cause was gone; None while it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceSample:
    """A balance that a source told; the ledger it is of lies in a range."""

    account: bytes
    first_ledger: int
    last_ledger: int
    stroops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceProof:
    """Books and network told the same balance as of one network ledger."""

    epoch: int
    account: bytes
    ledger_sequence: int
    stroops: int


def open_halt(
    session: Session, broadcaster: bytes, name: HaltName, detail: str, *, ledger_sequence: int
) -> bool:
    """Open a halt unless it is open; tells whether this call did."""
    statement = insert(HaltRow).values(
        broadcaster=broadcaster,
        name=name,
        detail=detail,
        opened_ledger=ledger_sequence,
        cleared_ledger=None,
    )
    statement = statement.on_conflict_do_nothing(
        index_elements=["broadcaster", "name"], index_where=HaltRow.cleared_ledger.is_(None)
    )
    return session.scalar(statement.returning(HaltRow.id)) is not None


def clear_halt(
    session: Session, broadcaster: bytes, name: HaltName, *, ledger_sequence: int
) -> bool:
    """Close a halt if it is open; tells whether it was."""
    statement = (
        update(HaltRow)
        .where(
            HaltRow.broadcaster == broadcaster,
            HaltRow.name == name,
            HaltRow.cleared_ledger.is_(None),
        )
        .values(cleared_ledger=ledger_sequence)
        .returning(HaltRow.id)
    )
    return session.scalar(statement) is not None


def load_halts(session: Session, broadcaster: bytes, *, past: bool = False) -> tuple[Halt, ...]:
    """Return the halts that hold, oldest first; with `past` those that are over too."""
    query = select(HaltRow).where(HaltRow.broadcaster == broadcaster).order_by(HaltRow.id)
    if not past:
        query = query.where(HaltRow.cleared_ledger.is_(None))
    return tuple(
        Halt(
            name=HaltName(row.name),
            detail=row.detail,
            opened_ledger=row.opened_ledger,
            cleared_ledger=row.cleared_ledger,
        )
        for row in session.scalars(query)
    )


def save_sample(session: Session, broadcaster: bytes, sample: BalanceSample) -> None:
    """Keep a balance until the facts reach it; one that is kept already stays."""
    statement = insert(BalanceSampleRow).values(
        broadcaster=broadcaster,
        account=sample.account,
        first_ledger=sample.first_ledger,
        last_ledger=sample.last_ledger,
        stroops=sample.stroops,
    )
    session.execute(statement.on_conflict_do_nothing())


def load_samples(session: Session, broadcaster: bytes) -> tuple[BalanceSample, ...]:
    """Return the balances that were told and not compared yet."""
    query = (
        select(BalanceSampleRow)
        .where(BalanceSampleRow.broadcaster == broadcaster)
        .order_by(BalanceSampleRow.account)
    )
    return tuple(
        BalanceSample(
            account=row.account,
            first_ledger=row.first_ledger,
            last_ledger=row.last_ledger,
            stroops=row.stroops,
        )
        for row in session.scalars(query)
    )


def drop_sample(session: Session, broadcaster: bytes, account: bytes) -> None:
    """Forget a balance that was compared."""
    session.execute(
        delete(BalanceSampleRow).where(
            BalanceSampleRow.broadcaster == broadcaster, BalanceSampleRow.account == account
        )
    )


def save_proof(session: Session, broadcaster: bytes, proof: BalanceProof) -> None:
    """Keep that books and network agree; the first proof of an epoch stays."""
    statement = insert(BalanceProofRow).values(
        broadcaster=broadcaster,
        epoch=proof.epoch,
        account=proof.account,
        ledger_sequence=proof.ledger_sequence,
        stroops=proof.stroops,
    )
    session.execute(statement.on_conflict_do_nothing())


def load_proofs(session: Session, broadcaster: bytes, epoch: int) -> tuple[BalanceProof, ...]:
    """Return the proofs of an epoch, by account."""
    query = (
        select(BalanceProofRow)
        .where(BalanceProofRow.broadcaster == broadcaster, BalanceProofRow.epoch == epoch)
        .order_by(BalanceProofRow.account)
    )
    return tuple(
        BalanceProof(
            epoch=row.epoch,
            account=row.account,
            ledger_sequence=row.ledger_sequence,
            stroops=row.stroops,
        )
        for row in session.scalars(query)
    )


def last_proven_epoch(session: Session, broadcaster: bytes) -> int | None:
    """Return the newest epoch with a proof, or None."""
    return session.scalar(
        select(func.max(BalanceProofRow.epoch)).where(BalanceProofRow.broadcaster == broadcaster)
    )
