"""Frames that wait for a recipient whom their sender cannot reach.

One recipient's frames are numbered in the order in which they became visible, so acknowledging a
number never drops a frame that was not handed out. A frame is stored once, whoever repeats it.
Not here: whose signature counts, and rates (`ledger.api.relay`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.evidence.encoding import Signed
from ledger.evidence.relay import RelayedFrame, RelayFrame
from ledger.store.tables import RelayFrameRow

FRAMES_PER_ANSWER = 64
RECIPIENTS_MAX = 10_000


class Stored(StrEnum):
    """What became of a frame that came in."""

    STORED = "stored"
    KNOWN = "known"
    """It waits already."""

    RECIPIENT_FULL = "recipient_full"
    SENDER_FULL = "sender_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may wait for one recipient, and of one sender."""

    recipient_frames: int
    recipient_bytes: int
    sender_frames: int
    sender_bytes: int


def store_frame(
    session: Session, signed: Signed[RelayFrame], bounds: Bounds, *, kept_since: datetime
) -> Stored:
    """Store a frame unless too much waits; frames from before `kept_since` do not count."""
    frame = signed.value
    # Both locks make counting exact; in one order, so that two keys writing to each other do not
    # wait for each other. The recipient's also orders its numbers.
    for key in sorted({frame.from_key, frame.to_key}):
        _lock_key(session, key)
    known = select(RelayFrameRow.id).where(RelayFrameRow.digest == signed.digest)
    if session.scalar(known) is not None:
        return Stored.KNOWN
    of_recipient = RelayFrameRow.to_key == frame.to_key
    session.execute(delete(RelayFrameRow).where(of_recipient, RelayFrameRow.stored_at < kept_since))
    count, size = _measure(session, of_recipient)
    if count >= bounds.recipient_frames or size + len(signed.raw) > bounds.recipient_bytes:
        return Stored.RECIPIENT_FULL
    count, size = _measure(session, RelayFrameRow.from_key == frame.from_key)
    if count >= bounds.sender_frames or size + len(signed.raw) > bounds.sender_bytes:
        return Stored.SENDER_FULL
    session.execute(
        insert(RelayFrameRow).values(
            digest=signed.digest, from_key=frame.from_key, to_key=frame.to_key, raw=signed.raw
        )
    )
    return Stored.STORED


def drop_received(session: Session, key: bytes, acknowledged: int) -> None:
    """Drop a recipient's frames up to a number."""
    session.execute(
        delete(RelayFrameRow).where(RelayFrameRow.to_key == key, RelayFrameRow.id <= acknowledged)
    )


def list_frames(
    session: Session, key: bytes, *, after: int, bytes_max: int, kept_since: datetime
) -> Sequence[RelayedFrame]:
    """Return what waits for a recipient, oldest first: at least one frame, if there is any.

    Args:
        session: In a transaction.
        key: The recipient's.
        after: Number of the last frame it has received.
        bytes_max: Frames over this many bytes together wait for the next answer.
        kept_since: Frames from before have expired.
    """
    rows = session.execute(
        select(RelayFrameRow.id, RelayFrameRow.raw)
        .where(
            RelayFrameRow.to_key == key,
            RelayFrameRow.id > after,
            RelayFrameRow.stored_at >= kept_since,
        )
        .order_by(RelayFrameRow.id)
        .limit(FRAMES_PER_ANSWER)
    )
    frames: list[RelayedFrame] = []
    size = 0
    for number, raw in rows:
        size += len(raw)
        if frames and size > bytes_max:
            break
        frames.append(RelayedFrame(number, raw))
    return frames


def list_recipients(session: Session, *, since: datetime) -> set[bytes]:
    """Return the keys for which frames were stored since a time; some only, if they are many."""
    statement = (
        select(RelayFrameRow.to_key)
        .where(RelayFrameRow.stored_at >= since)
        .distinct()
        .limit(RECIPIENTS_MAX)
    )
    return set(session.scalars(statement))


def drop_expired(session: Session, *, kept_since: datetime, limit: int) -> int:
    """Drop frames from before `kept_since`, at most `limit`, and return how many."""
    old = (
        select(RelayFrameRow.id)
        .where(RelayFrameRow.stored_at < kept_since)
        .order_by(RelayFrameRow.stored_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    dropped = session.execute(
        delete(RelayFrameRow).where(RelayFrameRow.id.in_(old)).returning(RelayFrameRow.id)
    )
    return len(dropped.all())


def measure_all(session: Session) -> int:
    """Return the bytes of all frames that wait."""
    return _measure(session)[1]


def _measure(session: Session, *conditions: ColumnElement[bool]) -> tuple[int, int]:
    total = func.coalesce(func.sum(func.octet_length(RelayFrameRow.raw)), 0)
    row = session.execute(select(func.count(), total).where(*conditions)).one()
    return int(row[0]), int(row[1])


def _lock_key(session: Session, key: bytes) -> None:
    digest = hashlib.sha256(b"relay" + key).digest()
    number = int.from_bytes(digest[:8], "big", signed=True)
    session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
