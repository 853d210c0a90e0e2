"""Tables beside the evidence: uploads under way, provisional reports, totals per content.

Rows of the first three are dropped when they are done with; `content_totals` is append-only and
says what a seal counted, for readers: nothing is computed or paid from it. Queries are in
`upload_store` and `totals_store`.
"""

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from ledger.store.base import Base, check_length, check_natural


class UploadRow(Base):
    """A bundle that comes in chunks, until its answer is known and some time after."""

    __tablename__ = "uploads"
    __table_args__ = (
        UniqueConstraint("sender", "digest", "size_bytes"),
        check_length("id", 16),
        check_length("sender", 16),
        check_length("digest"),
        CheckConstraint(
            "0 <= received_bytes AND received_bytes <= size_bytes", name="received_within"
        ),
        CheckConstraint("(answer_status IS NULL) = (answer IS NULL)", name="answered_whole"),
        Index("ix_uploads_touched_at", "touched_at"),
    )

    id: Mapped[bytes] = mapped_column(primary_key=True)
    """Random; whoever knows it may go on with the upload."""
    sender: Mapped[bytes]
    """Keyed hash of the address it began from."""
    digest: Mapped[bytes]
    """SHA-256 of all its bytes, as its creation stated it."""
    size_bytes: Mapped[int]
    received_bytes: Mapped[int] = mapped_column(server_default="0")
    touched_at: Mapped[datetime] = mapped_column(server_default=func.now())
    answer_status: Mapped[int | None]
    """HTTP status of the final answer; null: there is none yet."""
    answer: Mapped[bytes | None]
    """The promise, or the refusal as JSON."""


class UploadChunkRow(Base):
    """One chunk of an upload; all of them go when the answer is known."""

    __tablename__ = "upload_chunks"
    __table_args__ = (check_natural("offset_bytes"),)

    upload_id: Mapped[bytes] = mapped_column(
        ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True
    )
    offset_bytes: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    raw: Mapped[bytes]


class ProvisionalTotalRow(Base):
    """What a party said last of one content in an open epoch; dropped when the epoch is sealed."""

    __tablename__ = "provisional_totals"
    __table_args__ = (
        check_length("submitter_key"),
        check_length("content_id"),
        CheckConstraint("kind IN (1, 2)", name="kind_known"),
        check_natural("epoch"),
        check_natural("taken_ms"),
        check_natural("bytes_total"),
        check_natural("lane_count"),
    )

    broadcaster_id: Mapped[int] = mapped_column(ForeignKey("broadcasters.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    submitter_key: Mapped[bytes] = mapped_column(primary_key=True)
    kind: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """A `BundleKind`: 1 says bytes from peers, 2 bytes from CDNs."""
    content_id: Mapped[bytes] = mapped_column(primary_key=True)
    taken_ms: Mapped[int]
    """Ledger time of the report; an older one changes nothing."""
    bytes_total: Mapped[int]
    lane_count: Mapped[int]


class ContentTotalRow(Base):
    """What a seal counted of one content from one source."""

    __tablename__ = "content_totals"
    __table_args__ = (
        ForeignKeyConstraint(
            ["broadcaster_id", "sealing_epoch"], ["epochs.broadcaster_id", "epochs.number"]
        ),
        check_length("content_id"),
        check_natural("epoch"),
        check_natural("lane_count"),
        Index("ix_content_totals_epoch", "broadcaster_id", "epoch"),
    )

    broadcaster_id: Mapped[int] = mapped_column(primary_key=True)
    sealing_epoch: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    """Epoch of the lanes; below the sealing epoch for corrections."""
    content_id: Mapped[bytes] = mapped_column(primary_key=True)
    is_cdn: Mapped[bool] = mapped_column(primary_key=True)
    bytes_delta: Mapped[int]
    """Bytes that count from this seal on, less what counted before; may be negative."""
    lane_count: Mapped[int]
