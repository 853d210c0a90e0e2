"""Tables of what stops payouts for a named reason, and of the proofs that books and chain agree.

Rows, not objects; queries are in `halt_store`. Proofs are append-only; a halt is opened, and closed
once, by whoever found its cause gone (triggers of migration 0013).
"""

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.store.base import Base, check_length, check_natural


class HaltRow(Base):
    """A reason why nothing is paid."""

    __tablename__ = "settlement_halts"
    __table_args__ = (
        check_length("broadcaster"),
        check_natural("opened_ledger"),
        Index(
            "uq_settlement_halts_open",
            "broadcaster",
            "name",
            unique=True,
            postgresql_where=text("cleared_ledger IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    broadcaster: Mapped[bytes]
    name: Mapped[str]
    """A `ledger.store.halt_store.HaltName`."""

    detail: Mapped[str]
    opened_ledger: Mapped[int]
    """Network ledger as of which it was found."""

    cleared_ledger: Mapped[int | None]
    """Network ledger as of which its cause was gone; null while it holds."""


class BalanceSampleRow(Base):
    """A balance that a source told and the facts do not reach yet."""

    __tablename__ = "balance_samples"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("account"),
        check_natural("stroops"),
    )

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    account: Mapped[bytes] = mapped_column(primary_key=True)
    first_ledger: Mapped[int]
    """Oldest network ledger of which it may be the balance."""

    last_ledger: Mapped[int]
    """Newest one."""

    stroops: Mapped[int]


class BalanceProofRow(Base):
    """Books and network told the same balance."""

    __tablename__ = "balance_proofs"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("account"),
        check_natural("epoch"),
        check_natural("stroops"),
    )

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    """Epoch whose closing state the books' balance follows from."""

    account: Mapped[bytes] = mapped_column(primary_key=True)
    ledger_sequence: Mapped[int]
    stroops: Mapped[int]
