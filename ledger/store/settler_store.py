"""Queries of co-signing: who the settlers are, what they are asked for, what they answered.

Not here: whether a signature is valid (`ledger.stellar.gathering`), which is checked before it is
stored and again before it is used.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.store.settler_tables import (
    SettlerRefusalRow,
    SettlerRow,
    SettlerSignatureRow,
    SignatureRequestRow,
)

REQUESTS_MAX = 64
"""Most requests that are shown at once; more wait their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlers:
    """Who must agree to payments."""

    keys: tuple[bytes, ...]
    """Ascending."""

    threshold: int
    """How many of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRequest:
    """A transaction that waits for settlers' signatures."""

    purpose: str
    number: int
    """Batch number."""

    epoch: int
    """Whose payout leaf it is."""

    attempt: int
    tx_hash: bytes
    """32 bytes."""

    envelope: bytes
    """Without signatures."""

    max_ledger_sequence: int
    max_time_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a settler does not sign."""

    key: bytes
    reason: str
    detail: str
    signature: bytes


def save_settlers(session: Session, broadcaster: bytes, settlers: Settlers) -> None:
    """Replace what is known of a broadcaster's settlers."""
    if load_settlers(session, broadcaster) == settlers:
        return
    session.execute(delete(SettlerRow).where(SettlerRow.broadcaster == broadcaster))
    for key in settlers.keys:
        statement = insert(SettlerRow).values(
            broadcaster=broadcaster, key=key, threshold=settlers.threshold
        )
        session.execute(statement.on_conflict_do_nothing())


def load_settlers(session: Session, broadcaster: bytes) -> Settlers | None:
    """Return a broadcaster's settlers, or None if it has none or they were not read yet."""
    query = select(SettlerRow).where(SettlerRow.broadcaster == broadcaster).order_by(SettlerRow.key)
    rows = session.scalars(query).all()
    if not rows:
        return None
    return Settlers(keys=tuple(row.key for row in rows), threshold=rows[0].threshold)


def ask_for_signatures(session: Session, broadcaster: bytes, request: SignatureRequest) -> None:
    """Ask for signatures; a later attempt at the same thing takes the earlier one's place."""
    row = SignatureRequestRow
    session.execute(
        delete(row).where(
            row.broadcaster == broadcaster,
            row.purpose == request.purpose,
            row.number == request.number,
            row.attempt < request.attempt,
        )
    )
    statement = insert(row).values(
        broadcaster=broadcaster,
        purpose=request.purpose,
        number=request.number,
        epoch=request.epoch,
        attempt=request.attempt,
        tx_hash=request.tx_hash,
        envelope=request.envelope,
        max_ledger_sequence=request.max_ledger_sequence,
        max_time_s=request.max_time_s,
    )
    session.execute(statement.on_conflict_do_nothing())


def requested(session: Session, broadcaster: bytes) -> set[tuple[str, int]]:
    """Return (purpose, number) of everything that is wanted signed."""
    row = SignatureRequestRow
    query = select(row.purpose, row.number).where(row.broadcaster == broadcaster)
    return {(purpose, number) for purpose, number in session.execute(query)}


def drop_requests(
    session: Session, broadcaster: bytes, dropped: Collection[tuple[str, int]]
) -> None:
    """Drop the requests of (purpose, number): each is signed, or decided without."""
    row = SignatureRequestRow
    session.execute(
        delete(row).where(
            row.broadcaster == broadcaster, tuple_(row.purpose, row.number).in_(sorted(dropped))
        )
    )


def list_requests(session: Session, broadcaster: bytes) -> tuple[SignatureRequest, ...]:
    """Return what is wanted signed, oldest first, `REQUESTS_MAX` at most."""
    row = SignatureRequestRow
    query = (
        select(row)
        .where(row.broadcaster == broadcaster)
        .order_by(row.purpose, row.number)
        .limit(REQUESTS_MAX)
    )
    return tuple(_request_of(found) for found in session.scalars(query))


def find_request(session: Session, broadcaster: bytes, tx_hash: bytes) -> SignatureRequest | None:
    """Return the request for a transaction; None if nobody asks for it."""
    row = SignatureRequestRow
    query = select(row).where(row.broadcaster == broadcaster, row.tx_hash == tx_hash)
    found = session.scalars(query).first()
    return None if found is None else _request_of(found)


def _request_of(row: SignatureRequestRow) -> SignatureRequest:
    return SignatureRequest(
        purpose=row.purpose,
        number=row.number,
        epoch=row.epoch,
        attempt=row.attempt,
        tx_hash=row.tx_hash,
        envelope=row.envelope,
        max_ledger_sequence=row.max_ledger_sequence,
        max_time_s=row.max_time_s,
    )


def insert_signature(session: Session, tx_hash: bytes, key: bytes, signature: bytes) -> None:
    """Store a valid signature of a transaction that is asked for, in place of an earlier one."""
    statement = insert(SettlerSignatureRow).values(tx_hash=tx_hash, key=key, signature=signature)
    statement = statement.on_conflict_do_update(
        index_elements=["tx_hash", "key"], set_={"signature": statement.excluded.signature}
    )
    session.execute(statement)
    # Who has signed refuses no more.
    row = SettlerRefusalRow
    session.execute(delete(row).where(row.tx_hash == tx_hash, row.key == key))


def load_signatures(session: Session, tx_hash: bytes) -> dict[bytes, bytes]:
    """Return key → signature of a transaction."""
    query = select(SettlerSignatureRow).where(SettlerSignatureRow.tx_hash == tx_hash)
    return {row.key: row.signature for row in session.scalars(query)}


def save_refusal(session: Session, tx_hash: bytes, refusal: Refusal) -> None:
    """Store why a settler does not sign; its newest word counts."""
    statement = insert(SettlerRefusalRow).values(
        tx_hash=tx_hash,
        key=refusal.key,
        reason=refusal.reason,
        detail=refusal.detail,
        signature=refusal.signature,
    )
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["tx_hash", "key"],
        set_={"reason": new.reason, "detail": new.detail, "signature": new.signature},
    )
    session.execute(statement)


def load_refusals(session: Session, tx_hash: bytes) -> tuple[Refusal, ...]:
    """Return why settlers do not sign a transaction, by key."""
    row = SettlerRefusalRow
    query = select(row).where(row.tx_hash == tx_hash).order_by(row.key)
    return tuple(
        Refusal(key=found.key, reason=found.reason, detail=found.detail, signature=found.signature)
        for found in session.scalars(query)
    )
