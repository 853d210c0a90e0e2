"""Tables of CDNs' logs and invoices: rows, not objects, as migration 0009 made them.

`cdn_files`, `cdn_file_counts`, `cdn_faults` and `cdn_invoices` are append-only by trigger.
"""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.store.base import Base, check_length, check_natural

KEY_BYTES = 16
"""Digest of a request id or of a line; a session id."""


class CdnSourceRow(Base):
    """One CDN's log, as one broadcaster gets it."""

    __tablename__ = "cdn_sources"
    __table_args__ = (
        UniqueConstraint("account", "cdn"),
        check_length("account"),
        check_natural("sampled_one_in"),
        CheckConstraint(
            "-1 <= forgotten_through_day AND forgotten_through_day <= closed_through_day",
            name="forgotten_is_closed",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[bytes]
    cdn: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(Text)
    time_format: Mapped[str | None] = mapped_column(Text)
    """Null: not found yet."""
    sampled_one_in: Mapped[int]
    """0: no rate declared."""
    closed_through_day: Mapped[int] = mapped_column(server_default=text("-1"))
    forgotten_through_day: Mapped[int] = mapped_column(server_default=text("-1"))


class CdnFileRow(Base):
    """A file that was imported, known by its uncompressed content."""

    __tablename__ = "cdn_files"
    __table_args__ = (
        UniqueConstraint("source_id", "content_digest"),
        check_length("content_digest"),
        check_natural("lines"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("cdn_sources.id"))
    content_digest: Mapped[bytes]
    name: Mapped[str] = mapped_column(Text)
    lines: Mapped[int]
    imported_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CdnFileCountRow(Base):
    """How many lines of a file were excluded or malformed, and why."""

    __tablename__ = "cdn_file_counts"
    __table_args__ = (check_natural("lines"), check_natural("sent_bytes"))

    file_id: Mapped[int] = mapped_column(ForeignKey("cdn_files.id"), primary_key=True)
    reason: Mapped[str] = mapped_column(Text, primary_key=True)
    lines: Mapped[int]
    sent_bytes: Mapped[int]


class CdnFaultRow(Base):
    """Where a malformed line stands."""

    __tablename__ = "cdn_faults"
    __table_args__ = (check_natural("line"),)

    file_id: Mapped[int] = mapped_column(ForeignKey("cdn_files.id"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text)


class CdnLineRow(Base):
    """One line under its request id; other lines under the same id are other rows."""

    __tablename__ = "cdn_lines"
    __table_args__ = (
        check_length("request_key", KEY_BYTES),
        check_length("line_digest", KEY_BYTES),
        check_natural("copies"),
        check_natural("payload_bytes"),
        Index("ix_cdn_lines_source_id_day", "source_id", "day"),
    )

    source_id: Mapped[int] = mapped_column(ForeignKey("cdn_sources.id"), primary_key=True)
    request_key: Mapped[bytes] = mapped_column(primary_key=True)
    line_digest: Mapped[bytes] = mapped_column(primary_key=True)
    copies: Mapped[int]
    day: Mapped[int]
    content_id: Mapped[bytes]
    session_id: Mapped[bytes]
    body_bytes: Mapped[int]
    total_bytes: Mapped[int]
    header_bytes: Mapped[int]
    payload_bytes: Mapped[int]
    has_body: Mapped[bool]
    has_total: Mapped[bool]
    is_aborted: Mapped[bool]
    is_late: Mapped[bool]
    is_conflict: Mapped[bool] = mapped_column(server_default=text("false"))


class CdnTotalRow(Base):
    """Totals of lines without a request id, and of days whose request ids were forgotten."""

    __tablename__ = "cdn_totals"

    source_id: Mapped[int] = mapped_column(ForeignKey("cdn_sources.id"), primary_key=True)
    content_id: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[bytes] = mapped_column(primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    lines: Mapped[int]
    body_bytes: Mapped[int]
    body_lines: Mapped[int]
    total_bytes: Mapped[int]
    total_lines: Mapped[int]
    header_bytes: Mapped[int]
    payload_bytes: Mapped[int]
    aborted_lines: Mapped[int]
    aborted_bytes: Mapped[int]
    late_lines: Mapped[int]
    late_bytes: Mapped[int]
    late_total_bytes: Mapped[int]
    duplicate_lines: Mapped[int]
    duplicate_bytes: Mapped[int]
    conflict_lines: Mapped[int]
    conflict_bytes: Mapped[int]


class CdnInvoiceRow(Base):
    """One line of a CDN's invoice."""

    __tablename__ = "cdn_invoices"
    __table_args__ = (
        check_length("account"),
        CheckConstraint("first_day <= last_day", name="days_rise"),
    )

    account: Mapped[bytes] = mapped_column(primary_key=True)
    cdn: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[str] = mapped_column(Text, primary_key=True)
    first_day: Mapped[int]
    last_day: Mapped[int]
    quantity: Mapped[str] = mapped_column(Text)
    unit: Mapped[str] = mapped_column(Text)
    basis: Mapped[str] = mapped_column(Text)
    content_id: Mapped[bytes]
    stored_at: Mapped[datetime] = mapped_column(server_default=func.now())
