"""A network in an SQLite file: entries, headers, transactions; what waits in the queue is not kept.

One transaction of the database for each closed network ledger, so a killed process loses the open
ledger only, as a node of the real network does. One process at a time owns the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ledger.devnet.history import Record
from ledger.devnet.state import Header, World
from ledger.devnet.wire import XdrError

FORMAT: Final = "swarmledger devnet 1"
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (key BLOB PRIMARY KEY, entry BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE ledgers (sequence INTEGER PRIMARY KEY, header BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE frozen (kind TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, value))
    WITHOUT ROWID;
CREATE TABLE transactions (
    ledger INTEGER NOT NULL, position INTEGER NOT NULL,
    hash BLOB NOT NULL, inner_hash BLOB, envelope BLOB NOT NULL, result BLOB NOT NULL,
    accounts BLOB NOT NULL, PRIMARY KEY (ledger, position)
) WITHOUT ROWID;
"""


class StateFileError(RuntimeError):
    """A state file that cannot be used; one line."""


@dataclass(frozen=True, slots=True)
class StoredLedger:
    """A closed network ledger as the file holds it; records come with who they concern."""

    header: Header
    hash: bytes
    records: tuple[tuple[Record, tuple[bytes, ...]], ...]


class StateFile:
    """The file, open and owned."""

    def __init__(self, path: Path) -> None:
        """Open or make a file.

        Raises:
            StateFileError: in use by another process, no state file, or not writable.
        """
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN IMMEDIATE")
            self._check_format()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StateFileError(f"{path}: {error}") from error

    def _check_format(self) -> None:
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables == 0:
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT,))
            return
        if self._meta("format") != FORMAT:
            raise StateFileError(f"{self.path}: got another database, want {FORMAT!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file up."""
        self._db.close()

    def _meta(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def passphrase(self) -> str | None:
        """Of the network in the file, None for a file without a closed network ledger."""
        some = self._db.execute("SELECT 1 FROM ledgers LIMIT 1").fetchone()
        return None if some is None else self._meta("passphrase")

    # Reading

    def world(self) -> World:
        """All entries as of the last closed network ledger."""
        return World(dict(self._db.execute("SELECT key, entry FROM entries")))

    def ledgers(self, network: bytes) -> Iterator[StoredLedger]:
        """All closed network ledgers in order; the last one has what is frozen now.

        Raises:
            StateFileError: a header that does not decode.
        """
        rows = self._db.execute("SELECT sequence, header, hash FROM ledgers ORDER BY sequence")
        frozen = {
            kind: frozenset(
                value
                for (value,) in self._db.execute("SELECT value FROM frozen WHERE kind = ?", (kind,))
            )
            for kind in ("key", "bypass")
        }
        for sequence, raw, digest in rows.fetchall():
            try:
                header = Header.decode(raw)
            except XdrError as error:
                raise StateFileError(f"{self.path}: ledger {sequence}: {error}") from error
            header.frozen, header.freeze_bypass = frozen["key"], frozen["bypass"]
            yield StoredLedger(header, digest, tuple(self._records(network, sequence)))

    def _records(self, network: bytes, ledger: int) -> Iterator[tuple[Record, tuple[bytes, ...]]]:
        rows = self._db.execute(
            "SELECT position, hash, inner_hash, envelope, result, accounts FROM transactions"
            " WHERE ledger = ? ORDER BY position",
            (ledger,),
        )
        for position, digest, inner, envelope, result, accounts in rows:
            record = Record(
                network=network,
                ledger=ledger,
                index=position,
                raw=envelope,
                result_xdr=result,
                hashes=(digest, inner),
            )
            keys = tuple(accounts[i : i + 32] for i in range(0, len(accounts), 32))
            yield record, keys

    # Writing

    def begin(self, passphrase: str) -> None:
        """Note whose network the file holds."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('passphrase', ?)", (passphrase,))

    def save(
        self,
        header: Header,
        digest: bytes,
        world: World,
        changed: frozenset[bytes],
        records: Sequence[tuple[Record, frozenset[bytes]]],
    ) -> None:
        """Add a closed network ledger and what it changed, all or nothing.

        Raises:
            StateFileError: the file could not be written.
        """
        present = [(key, world.entries[key]) for key in changed if key in world.entries]
        gone = [(key,) for key in changed if key not in world.entries]
        rows = [
            (
                record.ledger,
                record.index,
                record.hash,
                record.inner_hash,
                record.raw,
                record.result_xdr,
                b"".join(sorted(accounts)),
            )
            for record, accounts in records
        ]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("DELETE FROM entries WHERE key = ?", gone)
            self._db.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", present)
            self._db.execute(
                "INSERT INTO ledgers VALUES (?, ?, ?)", (header.sequence, header.encode(), digest)
            )
            self._db.executemany("INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StateFileError(f"{self.path}: {error}") from error

    def save_frozen(self, header: Header) -> None:
        """Replace what is frozen and what may pass anyway.

        Raises:
            StateFileError: the file could not be written.
        """
        rows = [("key", key) for key in header.frozen]
        rows += [("bypass", tx_hash) for tx_hash in header.freeze_bypass]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM frozen")
            self._db.executemany("INSERT INTO frozen VALUES (?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StateFileError(f"{self.path}: {error}") from error
