"""What the tables take on disk: indexes, out-of-line values and all partitions included."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

TABLES: Final = ("bundles", "bundle_raws", "receipts", "lanes")
"""Tables that grow with receipts or bundles."""

_SIZE: Final = text(
    "SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM pg_partition_tree(:table)"
)


def measure_tables(session: Session) -> dict[str, int]:
    """Return the bytes of each of `TABLES`."""
    plain = text("SELECT pg_total_relation_size(:table)")
    sizes: dict[str, int] = {}
    for table in TABLES:
        query = plain if table == "bundles" else _SIZE
        sizes[table] = int(session.scalar(query, {"table": table}) or 0)
    return sizes
