"""Bundles that come in chunks: how far each is, its chunks, and its final answer.

A chunk is stored whole or not at all, at the offset that the row says comes next, so what the
offset counts is on the disk. What brings no byte for long is dropped. An upload holds room for what
it brought and its next chunk, not for the size it states: stating costs nothing. One that has begun
may always end, so the disk holds at most as many bundles as there may be uploads. Not here: whether
the bytes are a bundle, and who may send how much (`ledger.api.uploads`).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import LargeBinary, cast, delete, func, insert, literal, select, text, update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from ledger.store.intake_tables import UploadChunkRow, UploadRow

UPLOAD_ID_SIZE: Final = 16
_LOCK: Final = 0x53574C55
"""Advisory lock under which unfinished uploads are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """How far an upload is."""

    id: bytes
    digest: bytes
    size_bytes: int
    received_bytes: int
    answer_status: int | None
    """HTTP status of the final answer; None while there is none."""
    answer: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadBounds:
    """How much may be under way."""

    sender_uploads: int
    """Unfinished uploads of one sender."""
    uploads: int
    """Unfinished uploads in all."""
    total_bytes: int
    """What all unfinished uploads received, a chunk more of each, up to which one may begin."""
    chunk_bytes: int
    """Largest chunk."""


class UploadsFull(StrEnum):
    """Why no further upload may begin."""

    SENDER = "sender_uploads_full"
    ALL = "uploads_full"


class NotAppended(StrEnum):
    """Why a chunk was not stored."""

    UNKNOWN = "unknown_upload"
    OFFSET = "mismatching_upload_offset"
    ANSWERED = "completed_upload"
    TOO_LONG = "upload_too_long"


def begin_upload(
    session: Session, *, sender: bytes, digest: bytes, size_bytes: int, bounds: UploadBounds
) -> Upload | UploadsFull:
    """Return the sender's upload of these bytes: the one under way, or a new one.

    Args:
        session: In a transaction.
        sender: Keyed hash of the sender's address, 16 bytes.
        digest: SHA-256 of all bytes.
        size_bytes: Of all bytes, ≥ 1.
        bounds: How much may be under way.
    """
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    # It stays as idle as it is: only bytes keep an upload.
    known = session.scalar(
        select(UploadRow).where(
            UploadRow.sender == sender,
            UploadRow.digest == digest,
            UploadRow.size_bytes == size_bytes,
        )
    )
    if known is not None:
        return _upload_of(known)
    held = func.least(UploadRow.size_bytes, UploadRow.received_bytes + bounds.chunk_bytes)
    row = session.execute(
        select(
            func.count(),
            func.count().filter(UploadRow.sender == sender),
            func.coalesce(func.sum(held), 0),
        ).where(UploadRow.answer_status.is_(None))
    ).one()
    if row[1] >= bounds.sender_uploads:
        return UploadsFull.SENDER
    wanted_bytes = min(size_bytes, bounds.chunk_bytes)
    if row[0] >= bounds.uploads or row[2] + wanted_bytes > bounds.total_bytes:
        return UploadsFull.ALL
    made = session.execute(
        insert(UploadRow)
        .values(
            id=secrets.token_bytes(UPLOAD_ID_SIZE),
            sender=sender,
            digest=digest,
            size_bytes=size_bytes,
        )
        .returning(UploadRow)
    ).scalar_one()
    return _upload_of(made)


def find_upload(session: Session, upload_id: bytes) -> Upload | None:
    """Return an upload; None if there is none, or no more."""
    row = session.get(UploadRow, upload_id)
    return None if row is None else _upload_of(row)


def append_chunk(
    session: Session, upload_id: bytes, *, offset_bytes: int, raw: bytes
) -> Upload | NotAppended:
    """Store a chunk at the offset that comes next; durable when the transaction commits.

    Args:
        session: In a transaction; the upload stays locked until its end.
        upload_id: Which.
        offset_bytes: Where the sender says it stands.
        raw: The chunk; nothing only asks whether the offset is right.
    """
    row = session.scalar(select(UploadRow).where(UploadRow.id == upload_id).with_for_update())
    if row is None:
        return NotAppended.UNKNOWN
    if row.answer_status is not None:
        return NotAppended.ANSWERED
    if row.received_bytes != offset_bytes:
        return NotAppended.OFFSET
    if offset_bytes + len(raw) > row.size_bytes:
        return NotAppended.TOO_LONG
    if not raw:
        return _upload_of(row)
    session.execute(
        insert(UploadChunkRow).values(upload_id=upload_id, offset_bytes=offset_bytes, raw=raw)
    )
    changed = session.execute(
        update(UploadRow)
        .where(UploadRow.id == upload_id)
        .values(received_bytes=offset_bytes + len(raw), touched_at=func.now())
        .returning(UploadRow)
    ).scalar_one()
    return _upload_of(changed)


def read_chunks(session: Session, upload_id: bytes) -> bytes:
    """Return all bytes of an upload so far, put together by the database."""
    empty = cast(literal(b""), LargeBinary)
    whole = session.scalar(
        select(
            func.string_agg(
                UploadChunkRow.raw, aggregate_order_by(empty, UploadChunkRow.offset_bytes)
            )
        ).where(UploadChunkRow.upload_id == upload_id)
    )
    return bytes(whole or b"")


def store_answer(session: Session, upload_id: bytes, *, status: int, answer: bytes) -> None:
    """Keep the final answer of an upload and drop its chunks."""
    session.execute(
        update(UploadRow)
        .where(UploadRow.id == upload_id)
        .values(answer_status=status, answer=answer, touched_at=func.now())
    )
    session.execute(delete(UploadChunkRow).where(UploadChunkRow.upload_id == upload_id))


def drop_upload(session: Session, upload_id: bytes) -> bool:
    """Forget an upload with its chunks; tells whether there was one."""
    dropped = session.scalar(
        delete(UploadRow).where(UploadRow.id == upload_id).returning(UploadRow.id)
    )
    return dropped is not None


def drop_idle(
    session: Session, *, unfinished_before: datetime, answered_before: datetime, limit: int
) -> Sequence[bytes]:
    """Forget uploads that nobody has touched since; at most `limit`, and return their ids."""
    is_unfinished = UploadRow.answer_status.is_(None)
    idle = (
        select(UploadRow.id)
        .where(
            (is_unfinished & (UploadRow.touched_at < unfinished_before))
            | (~is_unfinished & (UploadRow.touched_at < answered_before))
        )
        .order_by(UploadRow.touched_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return session.scalars(
        delete(UploadRow).where(UploadRow.id.in_(idle)).returning(UploadRow.id)
    ).all()


def measure_uploads(session: Session) -> tuple[int, int]:
    """Return how many uploads are unfinished, and how many bytes of them are stored."""
    row = session.execute(
        select(func.count(), func.coalesce(func.sum(UploadRow.received_bytes), 0)).where(
            UploadRow.answer_status.is_(None)
        )
    ).one()
    return int(row[0]), int(row[1])


def _upload_of(row: UploadRow) -> Upload:
    return Upload(
        id=row.id,
        digest=row.digest,
        size_bytes=row.size_bytes,
        received_bytes=row.received_bytes,
        answer_status=row.answer_status,
        answer=row.answer,
    )
