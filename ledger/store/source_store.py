"""Sources' high-water marks: queries.

A mark only rises. A source that tells less than it once told is a replica that lags, and nothing
that it does not know is believed to be absent.
"""

from sqlalchemy import case, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.store.settlement_store import LedgerPoint
from ledger.store.settlement_tables import SourceMarkRow


def load_marks(session: Session, broadcaster: bytes) -> dict[str, LedgerPoint]:
    """Return source → the newest closed ledger that it ever told."""
    query = select(SourceMarkRow).where(SourceMarkRow.broadcaster == broadcaster)
    return {
        row.source: LedgerPoint(sequence=row.ledger_sequence, close_time_s=row.close_time_s)
        for row in session.scalars(query)
    }


def raise_mark(session: Session, broadcaster: bytes, source: str, point: LedgerPoint) -> int:
    """Raise a source's mark; returns how often it was asked since it told a newer ledger."""
    statement = insert(SourceMarkRow).values(
        broadcaster=broadcaster,
        source=source,
        ledger_sequence=point.sequence,
        close_time_s=point.close_time_s,
        looks=0,
    )
    new, is_newer = statement.excluded, SourceMarkRow.ledger_sequence < point.sequence
    statement = statement.on_conflict_do_update(
        index_elements=["broadcaster", "source"],
        set_={
            "ledger_sequence": case(
                (is_newer, new.ledger_sequence), else_=SourceMarkRow.ledger_sequence
            ),
            "close_time_s": case((is_newer, new.close_time_s), else_=SourceMarkRow.close_time_s),
            "looks": case((is_newer, 0), else_=SourceMarkRow.looks + 1),
        },
    )
    return session.execute(statement.returning(SourceMarkRow.looks)).scalar_one()


def load_looks(session: Session, broadcaster: bytes) -> dict[str, int]:
    """Return source → how often it was asked since it told a newer ledger."""
    query = select(SourceMarkRow).where(SourceMarkRow.broadcaster == broadcaster)
    return {row.source: row.looks for row in session.scalars(query)}
