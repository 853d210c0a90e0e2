"""Heartbeats in the spool's file: kept before they count, until a bundle holds them.

A heartbeat stands under every epoch in whose bundle it belongs: its own, and beside an epoch's
border also the neighbour's, so that each epoch's bundles measure their part alone. The newest
heartbeat of every playback stays, so that its chain goes on after a restart and never forks.

Statements over an open connection only; the connection and its transactions are `spool`'s.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger.evidence.encoding import Signed
from ledger.evidence.heartbeat import HEARTBEAT, Heartbeat

PLAYBACKS_MAX = 10_000
"""Most playbacks whose chain can be gone on with; of older ones the next heartbeat begins anew."""

EPOCHS_KEPT = 8
"""Bundled heartbeats of so many epochs stay; their bundles hold them in any case."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS heartbeat (
  epoch INTEGER NOT NULL CHECK (epoch >= 0),
  session_id BLOB NOT NULL CHECK (length(session_id) = 16),
  sequence_number INTEGER NOT NULL CHECK (sequence_number >= 0),
  raw BLOB NOT NULL,
  is_bundled INTEGER NOT NULL DEFAULT 0 CHECK (is_bundled IN (0, 1)),
  PRIMARY KEY (epoch, session_id, sequence_number)
) STRICT;
CREATE INDEX IF NOT EXISTS heartbeat_unbundled ON heartbeat (epoch) WHERE is_bundled = 0;
CREATE TABLE IF NOT EXISTS playback (
  id INTEGER PRIMARY KEY,
  player_key BLOB NOT NULL UNIQUE CHECK (length(player_key) = 32),
  session_id BLOB NOT NULL UNIQUE CHECK (length(session_id) = 16),
  last_raw BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS entitlement_media (
  digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
  media_ms INTEGER NOT NULL CHECK (media_ms >= 0)
) STRICT;
"""

SELECT_UNBUNDLED_EPOCHS = "SELECT DISTINCT epoch FROM heartbeat WHERE is_bundled = 0"
SELECT_UNBUNDLED = (
    "SELECT raw FROM heartbeat WHERE epoch = ? AND is_bundled = 0"
    " ORDER BY session_id, sequence_number LIMIT ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackRow:
    """Where a playback's chain stands."""

    session_id: bytes
    """16 bytes."""

    last: Signed[Heartbeat] | None
    """Its newest heartbeat."""


def find_or_add_playback(
    tx: sqlite3.Connection, player_key: bytes, new_session_id: bytes
) -> PlaybackRow:
    """Return a player's playback; a new one gets the session id given."""
    row = tx.execute(
        "SELECT session_id, last_raw FROM playback WHERE player_key = ?", (player_key,)
    ).fetchone()
    if row is not None:
        return PlaybackRow(session_id=row[0], last=HEARTBEAT.parse(row[1]) if row[1] else None)
    tx.execute(
        "INSERT INTO playback (player_key, session_id) VALUES (?, ?)", (player_key, new_session_id)
    )
    tx.execute(
        "DELETE FROM playback WHERE id <= (SELECT max(id) FROM playback) - ?", (PLAYBACKS_MAX,)
    )
    return PlaybackRow(session_id=new_session_id, last=None)


def add_heartbeat(
    tx: sqlite3.Connection,
    signed: Signed[Heartbeat],
    *,
    epochs: Iterable[int],
    before: Signed[Heartbeat] | None,
) -> None:
    """Keep a heartbeat as the newest of its playback.

    Args:
        tx: In a transaction.
        signed: The heartbeat.
        epochs: Epochs in whose bundles it belongs.
        before: The one before, when it belongs there too.
    """
    rows = [
        (epoch, beat.value.session_id, beat.value.sequence_number, beat.raw)
        for epoch in epochs
        for beat in (before, signed)
        if beat is not None
    ]
    tx.executemany(
        "INSERT INTO heartbeat (epoch, session_id, sequence_number, raw) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        rows,
    )
    tx.execute(
        "UPDATE playback SET last_raw = ? WHERE session_id = ?",
        (signed.raw, signed.value.session_id),
    )


def mark_bundled(
    tx: sqlite3.Connection, epoch: int, heartbeats: Sequence[Signed[Heartbeat]]
) -> None:
    """Take note that a bundle of this epoch holds these heartbeats."""
    tx.executemany(
        "UPDATE heartbeat SET is_bundled = 1"
        " WHERE epoch = ? AND session_id = ? AND sequence_number = ?",
        [(epoch, beat.value.session_id, beat.value.sequence_number) for beat in heartbeats],
    )
    tx.execute("DELETE FROM heartbeat WHERE is_bundled = 1 AND epoch < ?", (epoch - EPOCHS_KEPT,))


def read_media_ms(tx: sqlite3.Connection, digest: bytes) -> int:
    """Return the media time under an entitlement that was saved last; 0 if none was."""
    row = tx.execute(
        "SELECT media_ms FROM entitlement_media WHERE digest = ?", (digest,)
    ).fetchone()
    return int(row[0]) if row else 0


def save_media_ms(tx: sqlite3.Connection, digest: bytes, media_ms: int) -> None:
    """Save the media time under an entitlement; it never falls."""
    tx.execute(
        "INSERT INTO entitlement_media VALUES (?, ?) ON CONFLICT (digest)"
        " DO UPDATE SET media_ms = max(media_ms, excluded.media_ms)",
        (digest, media_ms),
    )
