"""The totals of engines that tell nothing else, kept beside the meter's journal and never mixed.

A playback's totals restart from 0 with the next playback, and with the engine; so each playback has
its own row and a row never falls. What a row says is the engine's word: it is shown as *aggregate*
and enters no receipt.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from engine_plugin.adapters.protocol import EngineTotals
from engine_plugin.errors import JournalError

TOTALS_NAME = "aggregate.sqlite"
"""The file's name in a state folder."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS aggregate_total (
  engine TEXT NOT NULL,
  playback_id TEXT NOT NULL,
  content_id TEXT NOT NULL,
  downloaded_bytes INTEGER NOT NULL CHECK (downloaded_bytes >= 0),
  http_bytes INTEGER CHECK (http_bytes BETWEEN 0 AND downloaded_bytes),
  uploaded_bytes INTEGER NOT NULL CHECK (uploaded_bytes >= 0),
  first_ms INTEGER NOT NULL,
  last_ms INTEGER NOT NULL CHECK (last_ms >= first_ms),
  PRIMARY KEY (engine, playback_id, content_id)
) STRICT, WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateBytes:
    """Sums over all playbacks of one content."""

    content_id: str
    downloaded_bytes: int
    http_bytes: int
    """As far as the engines told it apart."""
    uploaded_bytes: int
    playbacks: int


class TotalsJournal:
    """One file of totals."""

    def __init__(self, path: Path) -> None:
        """Open the file, making it if need be.

        Raises:
            JournalError: SQLite refused.
        """
        self._path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise JournalError(f"{path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def record(self, engine: str, totals: EngineTotals, now_ms: int) -> None:
        """Store a playback's totals; they are durable on return.

        A figure that falls within a playback is an engine's mistake and changes nothing.

        Raises:
            JournalError: SQLite refused.
        """
        try:
            self._connection.execute(
                "INSERT INTO aggregate_total VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (engine, playback_id, content_id) DO UPDATE SET"
                " downloaded_bytes = max(downloaded_bytes, excluded.downloaded_bytes),"
                " http_bytes = max(coalesce(http_bytes, excluded.http_bytes),"
                "                  coalesce(excluded.http_bytes, http_bytes)),"
                " uploaded_bytes = max(uploaded_bytes, excluded.uploaded_bytes),"
                " last_ms = max(last_ms, excluded.last_ms)",
                (
                    engine,
                    totals.playback_id,
                    totals.content_id,
                    totals.downloaded_bytes,
                    totals.http_bytes,
                    totals.uploaded_bytes,
                    now_ms,
                    now_ms,
                ),
            )
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: {error}") from error


def read_aggregates(path: Path) -> list[AggregateBytes]:
    """Return the sums by content of a file of totals; none when there is no file.

    Raises:
        JournalError: The file cannot be read.
    """
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT content_id, sum(downloaded_bytes), coalesce(sum(http_bytes), 0),"
                " sum(uploaded_bytes), count(*) FROM aggregate_total GROUP BY 1 ORDER BY 1"
            ).fetchall()
    except sqlite3.Error as error:
        raise JournalError(f"{path}: {error}") from error
    return [
        AggregateBytes(
            content_id=row[0],
            downloaded_bytes=row[1],
            http_bytes=row[2],
            uploaded_bytes=row[3],
            playbacks=row[4],
        )
        for row in rows
    ]
