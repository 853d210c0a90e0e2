"""The meter journal: what was metered, made durable before anything is signed over it.

One SQLite file (WAL, full sync) holds, for every process run and torrent, the byte classes of
each (peer-id, endpoint) pair, and the credits that no receipt covers yet. A credit enters with the
batch in which it became firm; it is stamped with an epoch once it is firm *and* its peer's key is
proved (the ledger's epoch at that commit); it leaves in the same transaction that adds it to a
lane. A crash therefore never loses, repeats or moves a journalled byte.

The receipt layer keeps its own tables in this file and shares transactions (`transaction`). This
module signs nothing, talks to nobody and does not know libtorrent.

Spec: the receipt's rules "bytes belong to the epoch in which they became creditable" and "sequence
and totals never fall on a lane".
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine_plugin.disk_sync import DiskSync
from engine_plugin.errors import JournalError, ScopeError
from engine_plugin.journal_reading import list_peers as _list_peers
from engine_plugin.journal_reading import sum_totals
from engine_plugin.journal_records import (
    DROP_FOLDED_PEERS,
    DROP_FOLDED_RUNS,
    FOLD_PEERS,
    FOLD_RUNS,
    LIST_EMPTY_TORRENTS,
    SCHEMA,
    SCHEMA_VERSION,
    UPGRADES,
    Claim,
    JournalTotals,
    Lane,
    LaneCredits,
    LaneKey,
    MeterBatch,
    PeerKey,
    PeerTotals,
    PeerUpdate,
    SessionAudit,
    Source,
    pack_blocks,
)
from engine_plugin.journal_rows import SELECT_LANE, ClaimSums, lane_of, list_statements, take_part
from engine_plugin.journal_stays import EarlierStays

_BUSY_MS = 5000
_KEYS_KEPT = 8192
"""Of so many connections the proved key is known before they deliver for another torrent."""


class MeterJournal:
    """An open journal. One process writes it; threads of that process may share it.

    Every method that writes is one transaction, or part of the `transaction` that is open in the
    calling thread. Any method may raise `JournalError` when SQLite refuses.
    """

    def __init__(self, path: Path) -> None:
        """Opens the journal, creating it when it does not exist.

        Raises:
            JournalError: The file cannot be opened, or is of another schema version.
        """
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        self._run: int | None = None
        self._rows: dict[tuple[int, PeerKey], int] = {}
        self._keys: dict[PeerKey, bytes] = {}
        self._cdn_keys: dict[str, bytes] = {}
        self._live: set[int] = set()
        self._claims = ClaimSums()
        self._touches_claims = False
        """Whether the open transaction may change claims in ways that `_claims` is not told of."""
        self._stays = EarlierStays()
        self._disk: DiskSync | None = None
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000
            )
        except sqlite3.Error as error:
            raise JournalError(f"{path}: {error}") from error
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def sync_by(self, disk: DiskSync) -> None:
        """Leaves it to another thread to make commits durable; they only write from now on.

        Raises:
            JournalError: SQLite refused.
        """
        with self._lock:
            try:
                disk.adopt(self.path, self._connection)
            except sqlite3.Error as error:
                raise JournalError(f"{self.path}: {error}") from error
            self._disk = disk

    def close(self) -> None:
        """Closes the file; everything committed stays. A disk that hangs is not waited for."""
        if self._disk is not None and not self._disk.finish():
            return
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self, *, touches_claims: bool = True) -> Iterator[sqlite3.Connection]:
        """Opens a write transaction, or joins the one open in this thread.

        Commits when the outermost block ends, rolls all of it back on any exception. Other
        threads wait. Use the yielded connection for own tables; do not commit on it.

        Args:
            touches_claims: Whether what `list_claims` returns may change in other ways than by
                `commit_batch` and `take_credits`.

        Raises:
            JournalError: SQLite refused; nothing of the transaction is durable.
        """
        with self._lock:
            if self._depth:
                self._touches_claims |= touches_claims
                yield self._connection
                return
            self._depth, self._touches_claims = 1, touches_claims
            rows, keys, cdn_keys = dict(self._rows), dict(self._keys), dict(self._cdn_keys)
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                # Durable from here, or once `sync_by`'s thread has synced.
                self._connection.execute("COMMIT")
                if self._disk is not None:
                    self._disk.note_commit(self.path)
            except BaseException as error:
                self._touches_claims = True
                # What was remembered of rows that are rolled back must go with them.
                self._rows, self._keys, self._cdn_keys = rows, keys, cdn_keys
                self._roll_back()
                if isinstance(error, sqlite3.Error):
                    raise JournalError(f"{self.path}: {error}") from error
                raise
            finally:
                self._depth = 0
                self._claims.end_transaction(is_known=not self._touches_claims)

    def start_run(self, *, session_id: bytes, session_key: bytes, started_at_ms: int) -> None:
        """Begins a process run; what follows is booked under it.

        Args:
            session_id: Fresh random id; 16 bytes.
            session_key: Public key that may sign for what this run receives; 32 bytes.
            started_at_ms: Unix milliseconds, for people.
        """
        with self.transaction() as tx:
            cursor = tx.execute(
                "INSERT INTO journal_run (session_id, session_key, started_at_ms) VALUES (?, ?, ?)",
                (session_id, session_key, started_at_ms),
            )
            self._rows, self._keys = {}, {}
            self._stays.clear()
            self._run = cursor.lastrowid

    def add_torrent(
        self, *, content_id: bytes, name: str, content_bytes: int, scope_id: bytes | None = None
    ) -> int:
        """Returns the journal's id of a torrent, adding it when it is new.

        Args:
            content_id: Which torrent; 32 bytes.
            name: For people.
            content_bytes: Size of its files.
            scope_id: The stream it is part of, or None: receipts name the content itself.

        Raises:
            ScopeError: The torrent has been metered under another scope.
        """
        scope = scope_id or content_id
        with self.transaction() as tx:
            tx.execute(
                "INSERT INTO journal_torrent (content_id, name, content_bytes, scope_id)"
                " VALUES (?, ?, ?, ?) ON CONFLICT (content_id) DO NOTHING",
                (content_id, name, content_bytes, scope),
            )
            torrent, known = tx.execute(
                "SELECT id, scope_id FROM journal_torrent WHERE content_id = ?", (content_id,)
            ).fetchone()
            if known != scope:
                raise ScopeError(f"scope_id: got {scope.hex()}, want {known.hex()} as before")
            if self._run is not None:
                self._stays.reopen(tx, self._run, torrent)
            self._live.add(torrent)
            return int(torrent)

    def retire_torrent(self, torrent: int) -> None:
        """Folds a removed torrent's rows of this run into sums by scope, source and key.

        A live stream is a torrent a second: without this the journal would grow with the hours.
        Rows with credits that no receipt covers yet stay; `retire_settled` folds them later.

        Args:
            torrent: Id that `add_torrent` gave; nothing is booked for it any more.
        """
        with self.transaction() as tx:
            tx.execute(
                "UPDATE journal_torrent_run SET is_retired = 1 WHERE run = ? AND torrent = ?",
                (self._current_run(), torrent),
            )
            self._rows = {key: row for key, row in self._rows.items() if key[0] != torrent}
            self._live.discard(torrent)
            self._stays.forget(torrent)
            self.retire_settled()

    def retire_settled(self) -> None:
        """Folds what is left of removed torrents and has no unsigned credit any more."""
        with self.transaction() as tx:
            tx.execute(FOLD_PEERS)
            tx.execute(DROP_FOLDED_PEERS)
            tx.execute(FOLD_RUNS)
            tx.execute(DROP_FOLDED_RUNS)
            empty = [row for row in tx.execute(LIST_EMPTY_TORRENTS) if row[0] not in self._live]
            tx.executemany("DELETE FROM journal_torrent WHERE id = ?", empty)

    def commit_batch(self, batch: MeterBatch, *, epoch: int | None) -> None:
        """Makes a batch durable, all or nothing.

        Args:
            batch: What was metered since the last batch.
            epoch: The ledger's current epoch, stamped on blocks of proved peers; None while the
                ledger's clock is unknown (see `stamp_epoch`).
        """
        with self.transaction(touches_claims=False) as tx:
            for update in batch.peers:
                self._book_peer(tx, update, epoch)
            tx.executemany(
                "INSERT INTO journal_torrent_run (run, torrent, passed_bytes, pending_bytes,"
                " ambiguous_bytes, present_bytes, is_estimated) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (run, torrent) DO UPDATE SET passed_bytes = excluded.passed_bytes,"
                " pending_bytes = excluded.pending_bytes, present_bytes = excluded.present_bytes,"
                " ambiguous_bytes = excluded.ambiguous_bytes, is_estimated = excluded.is_estimated",
                [
                    (
                        self._current_run(),
                        gauges.torrent,
                        gauges.passed_bytes,
                        gauges.pending_bytes,
                        gauges.ambiguous_bytes,
                        gauges.present_bytes,
                        int(gauges.is_estimated),
                    )
                    for gauges in map(self._stays.gauges_of, batch.torrents)
                ],
            )

    def record_audit(self, audit: SessionAudit) -> None:
        """Stores libtorrent's own counters of this run beside the meter's."""
        with self.transaction(touches_claims=False) as tx:
            tx.execute(
                "UPDATE journal_run SET recv_payload_bytes = ?, redundant_bytes = ?,"
                " recv_failed_bytes = ?, difference_bytes = ?, unexplained_bytes = ? WHERE id = ?",
                (
                    audit.recv_payload_bytes,
                    audit.redundant_bytes,
                    audit.recv_failed_bytes,
                    audit.difference_bytes,
                    audit.unexplained_bytes,
                    self._current_run(),
                ),
            )

    def prove_peer(self, peer: PeerKey, public_key: bytes, *, epoch: int | None) -> None:
        """Attributes a connection of this run to the key that has signed for it.

        Its earlier bytes become creditable now, so they get this epoch; later ones get theirs.
        Bytes whose blocks were given up by `close_unproved` stay unattested.

        Raises:
            JournalError: Another key was proved for the same connection before.
        """
        with self.transaction() as tx:
            if self._keys.setdefault(peer, public_key) != public_key:
                raise JournalError(f"public_key: got a second key for {peer.endpoint}, want one")
            if len(self._keys) > _KEYS_KEPT:
                # It stands in its rows; who is still connected is proved again.
                del self._keys[next(iter(self._keys))]
            tx.execute(
                "UPDATE journal_peer SET public_key = ? WHERE run = ? AND peer_id = ?"
                " AND endpoint = ? AND source = 'p2p' AND public_key IS NULL AND is_closed = 0",
                (public_key, self._current_run(), *peer),
            )
            if epoch is not None:
                self._stamp(tx, epoch)

    def proved_key(self, peer: PeerKey) -> bytes | None:
        """Returns the key that the rows of a connection of this run go under, if one is proved."""
        return self._keys.get(peer)

    def prove_cdn(self, url: str, public_key: bytes, *, epoch: int | None) -> None:
        """Names the CDN's key behind a web seed's URL, from the broadcaster's terms.

        Raises:
            JournalError: Another key was named for the same URL before.
        """
        with self.transaction() as tx:
            if self._cdn_keys.setdefault(url, public_key) != public_key:
                raise JournalError(f"public_key: got a second key for {url}, want one")
            tx.execute(
                "UPDATE journal_peer SET public_key = ? WHERE run = ? AND url = ?"
                " AND source = 'cdn' AND public_key IS NULL AND is_closed = 0",
                (public_key, self._current_run(), url),
            )
            if epoch is not None:
                self._stamp(tx, epoch)

    def close_unproved(self, peer: PeerKey) -> int:
        """Gives up on proving a connection, so that its blocks need not be kept.

        Returns:
            The bytes that are unattested for good.
        """
        with self.transaction() as tx:
            rows = tx.execute(
                "UPDATE journal_peer SET is_closed = 1 WHERE run = ? AND peer_id = ?"
                " AND endpoint = ? AND public_key IS NULL RETURNING id, firm_bytes",
                (self._current_run(), *peer),
            ).fetchall()
            tx.executemany("DELETE FROM journal_credit WHERE peer = ?", [(row[0],) for row in rows])
            return sum(row[1] for row in rows)

    def stamp_epoch(self, epoch: int) -> None:
        """Stamps what became creditable while the ledger's clock was unknown."""
        with self.transaction() as tx:
            self._stamp(tx, epoch)

    def list_claims(self) -> list[Claim]:
        """Returns what is creditable and on no lane yet, oldest epoch first."""
        with self._lock:
            try:
                if self._depth:
                    return ClaimSums().list(self._connection)
                return self._claims.list(self._connection)
            except sqlite3.Error as error:
                raise JournalError(f"{self.path}: {error}") from error

    def take_credits(
        self, claim: Claim, *, row_limit: int = 1000, byte_limit: int | None = None
    ) -> list[LaneCredits]:
        """Takes a claim's blocks out of the journal, in credit order.

        Call it inside the `transaction` that also saves the lane they are added to: together they
        are one step, and a crash between them undoes both.

        Args:
            claim: Which group; its `byte_count` is not read.
            row_limit: At most so many batches of blocks; the rest stays for the next call.
            byte_limit: No more bytes than these, in whole blocks; None: any number.

        Raises:
            ValueError: No transaction is open in this thread.
        """
        with self._lock:
            if not self._depth:
                raise ValueError("take_credits: got no open transaction, want one with the lane")
            with self.transaction(touches_claims=False) as tx:
                rows = tx.execute(
                    "SELECT c.id, t.content_id, c.bytes, c.blocks FROM journal_credit c"
                    " JOIN journal_peer p ON p.id = c.peer JOIN journal_run r ON r.id = p.run"
                    " JOIN journal_torrent t ON t.id = p.torrent"
                    " WHERE r.session_key = ? AND t.scope_id = ? AND p.source = ?"
                    " AND p.public_key = ? AND c.epoch = ? ORDER BY c.id LIMIT ?",
                    (
                        claim.session_key,
                        claim.scope_id,
                        claim.source,
                        claim.payee_key,
                        claim.epoch,
                        row_limit,
                    ),
                ).fetchall()
                taken: list[LaneCredits] = []
                spent: list[tuple[int]] = []
                left = byte_limit
                for number, content_id, byte_count, packed in rows:
                    if left is not None and byte_count > left:
                        taken += take_part(tx, number, content_id, packed, left)
                        break
                    taken.append(LaneCredits(content_id, byte_count, packed))
                    spent.append((number,))
                    if left is not None:
                        left -= byte_count
                tx.executemany("DELETE FROM journal_credit WHERE id = ?", spent)
                self._claims.note_taken(claim, sum(part.byte_count for part in taken))
            return taken

    def find_lane(self, key: LaneKey) -> Lane | None:
        """Returns a lane's state, or None when it was never saved."""
        rows = self.read(
            f"{SELECT_LANE} WHERE entitlement_digest = ? AND payee_key = ? AND epoch = ?"
            " AND nonce = ?",
            (key.entitlement_digest, key.payee_key, key.epoch, key.nonce),
        )
        return lane_of(rows[0]) if rows else None

    def list_lanes(self, *, epoch: int | None = None) -> list[Lane]:
        """Returns the lanes of one epoch, or all, in the order in which they were opened."""
        if epoch is None:
            return [lane_of(row) for row in self.read(f"{SELECT_LANE} ORDER BY id")]
        rows = self.read(f"{SELECT_LANE} WHERE epoch = ? ORDER BY id", (epoch,))
        return [lane_of(row) for row in rows]

    def save_lane(self, lane: Lane) -> None:
        """Stores a lane's new state.

        Raises:
            JournalError: Its sequence or a total would fall.
        """
        key = lane.key
        with self.transaction(touches_claims=False) as tx:
            tx.execute(
                "INSERT INTO journal_lane (session_key, entitlement_digest, payee_key, epoch,"
                " nonce, source, sequence, cumulative_bytes, media_ms, root_state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (entitlement_digest, payee_key, epoch, nonce) DO UPDATE SET"
                " sequence = excluded.sequence, cumulative_bytes = excluded.cumulative_bytes,"
                " media_ms = excluded.media_ms, root_state = excluded.root_state",
                (
                    lane.session_key,
                    key.entitlement_digest,
                    key.payee_key,
                    key.epoch,
                    key.nonce,
                    lane.source,
                    lane.sequence,
                    lane.cumulative_bytes,
                    lane.media_ms,
                    lane.root_state,
                ),
            )

    def received_bytes(self, scope_id: bytes) -> tuple[int, int]:
        """Returns firm bytes of this run from peers and from CDNs, of one content or stream."""
        run = self._current_run()
        rows = self.read(
            "SELECT p.source, sum(p.firm_bytes) FROM journal_torrent t"
            " JOIN journal_peer p ON p.torrent = t.id AND p.run = ? WHERE t.scope_id = ?"
            " GROUP BY 1 UNION ALL SELECT source, sum(firm_bytes) FROM journal_retired"
            " WHERE run = ? AND scope_id = ? GROUP BY 1",
            (run, scope_id, run, scope_id),
        )
        p2p, cdn = (
            sum(count for source, count in rows if source == wanted)
            for wanted in (Source.P2P, Source.CDN)
        )
        return p2p, cdn

    def sent_before_bytes(self, public_key: bytes) -> int:
        """Returns content bytes handed to a proved key's connections in earlier runs."""
        rows = self.read(
            "SELECT (SELECT coalesce(sum(sent_bytes), 0) FROM journal_peer"
            " WHERE public_key = ?1 AND run <> ?2) + (SELECT coalesce(sum(sent_bytes), 0)"
            " FROM journal_retired WHERE public_key = ?1 AND run <> ?2)",
            (public_key, self._current_run()),
        )
        return int(rows[0][0])

    def sent_ever_bytes(self, public_key: bytes) -> int:
        """Returns content bytes handed to a proved key's connections in this and earlier runs."""
        rows = self.read(
            "SELECT (SELECT coalesce(sum(sent_bytes), 0) FROM journal_peer WHERE public_key = ?1)"
            " + (SELECT coalesce(sum(sent_bytes), 0) FROM journal_retired WHERE public_key = ?1)",
            (public_key,),
        )
        return int(rows[0][0])

    def list_peers(
        self, *, session_id: bytes | None = None, newest: int | None = None
    ) -> list[PeerTotals]:
        """Returns the (newest) peer rows of a run, or of all, oldest first; retired: in sums."""
        with self._lock:
            try:
                return _list_peers(self._connection, session_id=session_id, newest=newest)
            except sqlite3.Error as error:
                raise JournalError(f"{self.path}: {error}") from error

    def totals(self) -> JournalTotals:
        """Returns the byte classes over all runs."""
        with self._lock:
            try:
                return sum_totals(self._connection)
            except sqlite3.Error as error:
                raise JournalError(f"{self.path}: {error}") from error

    def _prepare(self) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from error
        with self.transaction() as tx:
            known = tx.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal_schema'")
            if known.fetchone() is None:
                for statement in list_statements(SCHEMA):
                    tx.execute(statement)
                tx.execute("INSERT INTO journal_schema VALUES (?)", (SCHEMA_VERSION,))
            (version,) = tx.execute("SELECT version FROM journal_schema").fetchone()
            for upgrade in UPGRADES[version:] if 0 < version < SCHEMA_VERSION else ():
                for statement in list_statements(upgrade):
                    tx.execute(statement)
                version += 1
            tx.execute("UPDATE journal_schema SET version = ?", (version,))
            if version != SCHEMA_VERSION:
                raise JournalError(
                    f"{self.path}: schema version: got {version}, want {SCHEMA_VERSION}"
                )

    def _book_peer(self, tx: sqlite3.Connection, update: PeerUpdate, epoch: int | None) -> None:
        row = self._peer_row(tx, update)
        firm = sum([length for _, _, length in update.blocks])
        ((is_proved, is_closed),) = tx.execute(
            "UPDATE journal_peer SET firm_bytes = firm_bytes + ?, failed_bytes = ?, sent_bytes = ?"
            " WHERE id = ? RETURNING public_key IS NOT NULL, is_closed",
            (firm, *self._stays.totals_of(update), row),
        ).fetchall()
        if firm and not is_closed:
            tx.execute(
                "INSERT INTO journal_credit (peer, epoch, bytes, blocks) VALUES (?, ?, ?, ?)",
                (row, epoch if is_proved else None, firm, pack_blocks(update.blocks)),
            )
            if is_proved and epoch is not None:
                self._claims.note_credit(tx, row, epoch, firm)

    def _peer_row(self, tx: sqlite3.Connection, update: PeerUpdate) -> int:
        cache_key = update.torrent, update.peer
        if (row := self._rows.get(cache_key)) is not None:
            return row
        is_cdn = update.source is Source.CDN
        key = self._cdn_keys.get(update.url) if is_cdn else self._keys.get(update.peer)
        row = self._stays.find_row(tx, self._current_run(), update, key)
        if row is not None:
            self._rows[cache_key] = row
            return row
        cursor = tx.execute(
            "INSERT INTO journal_peer (run, torrent, peer_id, endpoint, source, url, public_key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self._current_run(), update.torrent, *update.peer, update.source, update.url, key),
        )
        if cursor.lastrowid is None:
            raise AssertionError("lastrowid: got None after an insert")
        self._rows[cache_key] = cursor.lastrowid
        return cursor.lastrowid

    def _stamp(self, tx: sqlite3.Connection, epoch: int) -> None:
        tx.execute(
            "UPDATE journal_credit SET epoch = ? WHERE epoch IS NULL"
            " AND peer IN (SELECT id FROM journal_peer WHERE public_key IS NOT NULL)",
            (epoch,),
        )

    def _current_run(self) -> int:
        if self._run is None:
            raise ValueError("run: got none, want start_run first")
        return self._run

    def read(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Returns the rows of a query; sees the transaction that is open in this thread.

        Raises:
            JournalError: SQLite refused.
        """
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"{self.path}: {error}") from error

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
