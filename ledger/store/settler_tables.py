"""Tables of co-signing: settlers, what is wanted signed, their signatures and refusals.

Nothing here decides anything: a settler is who the chain says, a signature is checked again before
it is used, and a signed envelope stands in the attempts. Rows go when what they were wanted for is
signed or given up; losing them costs a round of asking. Queries are in `settler_store`.
"""

from sqlalchemy import CheckConstraint, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ledger.store.base import Base, check_length, check_natural


class SettlerRow(Base):
    """A key that signs for a broadcaster's escrow or payout account, as the chain had it last."""

    __tablename__ = "settlers"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("key"),
        CheckConstraint("threshold >= 1", name="threshold_positive"),
    )

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    key: Mapped[bytes] = mapped_column(primary_key=True)
    threshold: Mapped[int]
    """How many must agree."""


class SignatureRequestRow(Base):
    """A transaction that waits for settlers' signatures; one for a batch or an anchor."""

    __tablename__ = "signature_requests"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("tx_hash"),
        check_natural("number"),
        check_natural("attempt"),
        UniqueConstraint("tx_hash"),
    )

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    purpose: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """Batch number."""

    epoch: Mapped[int]
    """Whose payout leaf it is."""

    attempt: Mapped[int]
    tx_hash: Mapped[bytes]
    envelope: Mapped[bytes]
    """Without signatures."""

    max_ledger_sequence: Mapped[int]
    max_time_s: Mapped[int]


class SettlerSignatureRow(Base):
    """A settler's signature of a wanted transaction."""

    __tablename__ = "settler_signatures"
    __table_args__ = (check_length("key"), check_length("signature", 64))

    tx_hash: Mapped[bytes] = mapped_column(
        ForeignKey("signature_requests.tx_hash", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[bytes] = mapped_column(primary_key=True)
    signature: Mapped[bytes]


class SettlerRefusalRow(Base):
    """Why a settler does not sign a wanted transaction; its newest word."""

    __tablename__ = "settler_refusals"
    __table_args__ = (check_length("key"), check_length("signature", 64))

    tx_hash: Mapped[bytes] = mapped_column(
        ForeignKey("signature_requests.tx_hash", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[bytes] = mapped_column(primary_key=True)
    reason: Mapped[str]
    """Stable word."""

    detail: Mapped[str]
    signature: Mapped[bytes]
    """Of the refusal, by the settler's key."""
