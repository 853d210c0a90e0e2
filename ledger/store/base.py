"""The declarative base of every table: derived names, aware timestamps, 64-bit integers.

It holds what two table modules would otherwise write twice: the naming convention, the type map
and the column types with their checks. It holds no table and no query. Constraint names are derived
so that a migration can name what it drops.
"""

from datetime import datetime
from typing import Any, ClassVar, Final

from sqlalchemy import BigInteger, CheckConstraint, DateTime, LargeBinary, MetaData
from sqlalchemy.orm import DeclarativeBase

KEY_BYTES: Final = 32
"""An Ed25519 public key, a SHA-256 digest, a transaction hash."""

NAMING_CONVENTION: Final = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Declarative base of all tables, those of `ledger.store.settlement_store` included."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        int: BigInteger,
        bytes: LargeBinary,
    }


def check_length(column: str, size: int = KEY_BYTES) -> CheckConstraint:
    """A check that `column` holds exactly `size` bytes.

    Args:
        column: Name of a BYTEA column; NULL passes.
        size: Bytes, ≥ 1.
    """
    return CheckConstraint(f"octet_length({column}) = {size}", name=f"{column}_length")


def check_natural(column: str) -> CheckConstraint:
    """A check that the BIGINT `column` is zero or more; NULL passes.

    Args:
        column: Name of the column: an amount, a count, a size, an index or a number.
    """
    return CheckConstraint(f"{column} >= 0", name=f"{column}_natural")
