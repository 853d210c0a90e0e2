"""What the owner's limits remember: bytes served in each month, and content fetched to this disk.

Two tables of their own in the meter journal's file, written in its transactions. The months are
the growth of the journal's own total, so what a killed engine journalled and had not yet put down
to a month is put down at the next start: nothing is lost, nothing counted twice.
"""

from dataclasses import dataclass
from pathlib import Path

from engine_plugin.journal import MeterJournal

_SCHEMA = (
    (
        "CREATE TABLE IF NOT EXISTS owner_month (month TEXT PRIMARY KEY,"
        " uploaded_bytes INTEGER NOT NULL CHECK (uploaded_bytes >= 0)) STRICT"
    ),
    (
        "CREATE TABLE IF NOT EXISTS owner_mark (id INTEGER PRIMARY KEY CHECK (id = 1),"
        " sent_bytes INTEGER NOT NULL CHECK (sent_bytes >= 0)) STRICT"
    ),
    (
        "CREATE TABLE IF NOT EXISTS owner_content (content_id BLOB PRIMARY KEY"
        " CHECK (length(content_id) = 32), path TEXT NOT NULL,"
        " content_bytes INTEGER NOT NULL CHECK (content_bytes >= 0)) STRICT"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedContent:
    """Content that an engine fetched, or fetches, to this machine's disk."""

    content_id: bytes
    """32 bytes."""
    path: Path
    """The file, or the folder of the files."""
    content_bytes: int


class UploadVolume:
    """The owner's tables of one journal."""

    def __init__(self, journal: MeterJournal) -> None:
        """Make the tables if need be; a journal's earlier history belongs to no month.

        Raises:
            JournalError: SQLite refused.
        """
        self._journal = journal
        with journal.transaction() as tx:
            for statement in _SCHEMA:
                tx.execute(statement)
            tx.execute(
                "INSERT INTO owner_mark VALUES (1, ?) ON CONFLICT DO NOTHING",
                (journal.totals().sent_bytes,),
            )

    def count(self, month: str) -> int:
        """Put what was served since the last call down to a month.

        Args:
            month: "YYYY-MM", the owner's.

        Returns:
            Content bytes served in that month; n ≥ 0.

        Raises:
            JournalError: SQLite refused; the next call counts the same bytes.
        """
        with self._journal.transaction() as tx:
            total = self._journal.totals().sent_bytes
            (mark,) = tx.execute("SELECT sent_bytes FROM owner_mark").fetchone()
            if total != mark:
                tx.execute("UPDATE owner_mark SET sent_bytes = ?", (total,))
                tx.execute(
                    "INSERT INTO owner_month VALUES (?, ?) ON CONFLICT (month) DO UPDATE"
                    " SET uploaded_bytes = uploaded_bytes + excluded.uploaded_bytes",
                    (month, max(total - mark, 0)),
                )
            row = tx.execute(
                "SELECT uploaded_bytes FROM owner_month WHERE month = ?", (month,)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def months(self) -> dict[str, int]:
        """Return the bytes of every month, oldest first."""
        with self._journal.transaction() as tx:
            rows = tx.execute("SELECT month, uploaded_bytes FROM owner_month ORDER BY month")
            return dict(rows.fetchall())

    def list_fetched(self) -> list[FetchedContent]:
        """Return the content fetched so far, whether its files are still there or not."""
        with self._journal.transaction() as tx:
            rows = tx.execute(
                "SELECT content_id, path, content_bytes FROM owner_content"
            ).fetchall()
        return [
            FetchedContent(content_id=row[0], path=Path(row[1]), content_bytes=row[2])
            for row in rows
        ]

    def remember_fetched(self, content: FetchedContent) -> None:
        """Take note of content before it is fetched."""
        with self._journal.transaction() as tx:
            tx.execute(
                "INSERT INTO owner_content VALUES (?, ?, ?) ON CONFLICT (content_id) DO UPDATE"
                " SET path = excluded.path",
                (content.content_id, str(content.path), content.content_bytes),
            )

    def forget_fetched(self, content_id: bytes) -> None:
        """Forget content whose files are gone."""
        with self._journal.transaction() as tx:
            tx.execute("DELETE FROM owner_content WHERE content_id = ?", (content_id,))
