"""Torrents that were removed and come back within one run, while some credit is still unsigned.

Rows of a removed torrent stay until their credits are signed, and a row is one per run, torrent and
connection. A torrent that comes back goes on with them; its meter begins at 0 again, so what the
rows said before is added to what it says. A torrent whose rows are folded comes back as a new one.

Not here: folding (`journal`).
"""

import sqlite3
from dataclasses import replace

from engine_plugin.journal_records import PeerKey, PeerUpdate, TorrentGauges


class EarlierStays:
    """What rows said before their torrent came back."""

    def __init__(self) -> None:
        """Begin with none."""
        self._torrents: dict[int, tuple[int, int, int]] = {}
        self._peers: dict[tuple[int, PeerKey], tuple[int, int]] = {}

    def reopen(self, tx: sqlite3.Connection, run: int, torrent: int) -> None:
        """Let a torrent go on with the rows that it left in this run, if it did."""
        row = tx.execute(
            "UPDATE journal_torrent_run SET is_retired = 0 WHERE run = ? AND torrent = ?"
            " AND is_retired = 1 RETURNING passed_bytes, ambiguous_bytes, is_estimated",
            (run, torrent),
        ).fetchall()
        if row:
            self._torrents[torrent] = row[0]

    def find_row(
        self, tx: sqlite3.Connection, run: int, update: PeerUpdate, key: bytes | None
    ) -> int | None:
        """Return the row that a connection left, now under the key that it proved; None: none."""
        if update.torrent not in self._torrents:
            return None
        row = tx.execute(
            "SELECT id, failed_bytes, sent_bytes FROM journal_peer WHERE run = ? AND torrent = ?"
            " AND peer_id = ? AND endpoint = ?",
            (run, update.torrent, *update.peer),
        ).fetchone()
        if row is None:
            return None
        tx.execute(
            "UPDATE journal_peer SET public_key = ? WHERE id = ? AND public_key IS NULL"
            " AND is_closed = 0",
            (key, row[0]),
        )
        self._peers[update.torrent, update.peer] = row[1], row[2]
        return int(row[0])

    def totals_of(self, update: PeerUpdate) -> tuple[int, int]:
        """Return a connection's failed and sent bytes of all stays in this run."""
        failed, sent = self._peers.get((update.torrent, update.peer), (0, 0))
        return failed + update.failed_bytes, sent + update.sent_bytes

    def gauges_of(self, gauges: TorrentGauges) -> TorrentGauges:
        """Return a torrent's figures of all stays in this run."""
        earlier = self._torrents.get(gauges.torrent)
        if earlier is None:
            return gauges
        passed, ambiguous, is_estimated = earlier
        return replace(
            gauges,
            passed_bytes=gauges.passed_bytes + passed,
            ambiguous_bytes=gauges.ambiguous_bytes + ambiguous,
            is_estimated=gauges.is_estimated or bool(is_estimated),
        )

    def forget(self, torrent: int) -> None:
        """Forget a torrent that is removed again; its rows say it all."""
        if self._torrents.pop(torrent, None) is not None:
            self._peers = {name: was for name, was in self._peers.items() if name[0] != torrent}

    def clear(self) -> None:
        """Forget everything: another run has rows of its own."""
        self._torrents.clear()
        self._peers.clear()
