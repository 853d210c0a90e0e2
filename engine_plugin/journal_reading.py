"""Reading a meter journal: byte classes and peer rows, by its owner or by a bystander.

A bystander opens the file read-only; the engine whose journal it is may run or be dead.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine_plugin.errors import JournalError
from engine_plugin.journal_records import JournalTotals, PeerKey, PeerTotals, Source

_BUSY_S = 5.0

_SELECT_PEERS = (
    "SELECT r.session_id, t.content_id, p.peer_id, p.endpoint, p.source, p.url, p.public_key,"
    " p.firm_bytes, p.failed_bytes, p.sent_bytes FROM journal_peer p"
    " JOIN journal_run r ON r.id = p.run JOIN journal_torrent t ON t.id = p.torrent"
)
_PEER_SUMS = """
SELECT coalesce(sum(firm_bytes) FILTER (WHERE source = 'p2p' AND public_key IS NOT NULL), 0),
       coalesce(sum(firm_bytes) FILTER (WHERE source = 'cdn'), 0),
       coalesce(sum(firm_bytes) FILTER (WHERE source = 'p2p' AND public_key IS NULL), 0),
       coalesce(sum(failed_bytes), 0), coalesce(sum(sent_bytes), 0)
FROM (SELECT source, public_key, firm_bytes, failed_bytes, sent_bytes FROM journal_peer
      UNION ALL
      SELECT source, public_key, firm_bytes, failed_bytes, sent_bytes FROM journal_retired)
"""
_TORRENT_SUMS = """
SELECT coalesce(sum(ambiguous_bytes), 0), coalesce(sum(pending_bytes), 0),
       coalesce(max(is_estimated), 0),
       coalesce(sum(present_bytes) FILTER (WHERE run = (SELECT max(id) FROM journal_run)), 0)
FROM (SELECT run, ambiguous_bytes, pending_bytes, present_bytes, is_estimated
      FROM journal_torrent_run
      UNION ALL
      SELECT run, ambiguous_bytes, pending_bytes, present_bytes, is_estimated
      FROM journal_retired_run)
"""
_RUN_SUMS = """
SELECT coalesce(sum(redundant_bytes), 0), coalesce(sum(unexplained_bytes), 0) FROM journal_run
"""
_UNCLAIMED = """
SELECT coalesce(sum(c.bytes), 0) FROM journal_credit c JOIN journal_peer p ON p.id = c.peer
WHERE p.source = 'cdn' OR p.public_key IS NOT NULL
"""
_CLAIMED = "SELECT coalesce(sum(cumulative_bytes), 0) FROM journal_lane"


def read_totals(path: Path) -> JournalTotals:
    """Reads a journal's byte classes without writing to it; its process may run or be dead.

    Raises:
        JournalError: There is no readable journal at the path.
    """
    with closing(_open_readonly(path)) as connection:
        try:
            return sum_totals(connection)
        except sqlite3.Error as error:
            raise JournalError(f"{path}: {error}") from error


def read_peers(path: Path) -> list[PeerTotals]:
    """Reads a journal's peer rows without writing to it.

    Raises:
        JournalError: There is no readable journal at the path.
    """
    with closing(_open_readonly(path)) as connection:
        try:
            return list_peers(connection)
        except sqlite3.Error as error:
            raise JournalError(f"{path}: {error}") from error


def _open_readonly(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=_BUSY_S
        )
    except sqlite3.Error as error:
        raise JournalError(f"{path}: {error}") from error


def list_peers(
    connection: sqlite3.Connection,
    *,
    session_id: bytes | None = None,
    newest: int | None = None,
) -> list[PeerTotals]:
    """Return the peer rows of one run, or of all, oldest first; of many only the newest."""
    chosen = "" if session_id is None else " WHERE r.session_id = ?"
    values: tuple[object, ...] = () if session_id is None else (session_id,)
    query = f"{_SELECT_PEERS}{chosen} ORDER BY p.id DESC LIMIT ?"
    rows = connection.execute(query, (*values, -1 if newest is None else newest)).fetchall()
    return [_peer_of(row) for row in reversed(rows)]


def sum_totals(connection: sqlite3.Connection) -> JournalTotals:
    """Return the byte classes over all runs."""
    # One read transaction, so that the sums are of one moment.
    connection.execute("SAVEPOINT totals")
    try:
        p2p, cdn, unattested, failed, sent = connection.execute(_PEER_SUMS).fetchone()
        ambiguous, pending, estimated, present = connection.execute(_TORRENT_SUMS).fetchone()
        redundant, unexplained = connection.execute(_RUN_SUMS).fetchone()
        (unclaimed,) = connection.execute(_UNCLAIMED).fetchone()
        (claimed,) = connection.execute(_CLAIMED).fetchone()
    finally:
        connection.execute("RELEASE totals")
    return JournalTotals(
        delivered_p2p_bytes=p2p,
        delivered_cdn_bytes=cdn,
        unattested_bytes=unattested,
        ambiguous_bytes=ambiguous,
        pending_bytes=pending,
        failed_bytes=failed,
        redundant_bytes=redundant,
        present_bytes=present,
        sent_bytes=sent,
        unclaimed_bytes=unclaimed,
        claimed_bytes=claimed,
        unexplained_bytes=unexplained,
        is_estimated=bool(estimated),
    )


def _peer_of(row: tuple[Any, ...]) -> PeerTotals:
    return PeerTotals(
        session_id=row[0],
        content_id=row[1],
        peer=PeerKey(row[2], row[3]),
        source=Source(row[4]),
        url=row[5],
        public_key=row[6],
        firm_bytes=row[7],
        failed_bytes=row[8],
        sent_bytes=row[9],
    )
