"""The spool: evidence on its way to the collector, and what became of it.

One SQLite file (WAL, full sync) beside the meter journal holds the newest receipt of every lane
that this process is paid for (and its own CDN receipts), the entitlements they need, pairs of
contradicting receipts, and every bundle with its number. A bundle's bytes are durable before they
are sent and are sent unchanged until a promise for them is stored.

Not here: whether a receipt is good (`payee`), HTTP (`uploader`).
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine_plugin.disk_sync import DiskSync
from engine_plugin.errors import EngineError
from engine_plugin.viewing import heartbeat_rows
from ledger.evidence.bundle import BundleKind
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.heartbeat import HEARTBEAT, Heartbeat
from ledger.evidence.receipt import RECEIPT, Receipt

_BUSY_S = 5
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entitlement (
  digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
  session_key BLOB NOT NULL,
  content_id BLOB NOT NULL,
  not_after_s INTEGER NOT NULL,
  raw BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS receipt (
  lane_digest BLOB PRIMARY KEY CHECK (length(lane_digest) = 32),
  epoch INTEGER NOT NULL,
  kind INTEGER NOT NULL CHECK (kind IN (1, 2)),
  session_key BLOB NOT NULL,
  sequence INTEGER NOT NULL,
  bytes_total INTEGER NOT NULL,
  digest BLOB NOT NULL,
  raw BLOB NOT NULL,
  bundled_sequence INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS receipt_by_epoch ON receipt (epoch, kind);
CREATE INDEX IF NOT EXISTS receipt_by_session_key ON receipt (session_key);
CREATE TABLE IF NOT EXISTS equivocation (
  lane_digest BLOB PRIMARY KEY,
  first_raw BLOB NOT NULL,
  second_raw BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS bundle (
  epoch INTEGER NOT NULL,
  kind INTEGER NOT NULL CHECK (kind IN (1, 2)),
  number INTEGER NOT NULL CHECK (number BETWEEN 0 AND 65535),
  digest BLOB NOT NULL UNIQUE,
  raw BLOB NOT NULL,
  receipt_count INTEGER NOT NULL,
  bytes_total INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('unsent', 'sent', 'archived', 'refused')),
  promise BLOB,
  code TEXT NOT NULL DEFAULT '',
  detail TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (epoch, kind, number)
) STRICT;
"""


class SpoolError(EngineError):
    """The spool's database refused a read or a write; a retry may succeed."""


class BundleState(StrEnum):
    """What became of a bundle."""

    UNSENT = "unsent"
    SENT = "sent"
    """A promise for it is stored."""
    ARCHIVED = "archived"
    """The collector said that it is judged; nothing is left to do."""
    REFUSED = "refused"
    """The collector refused it whole; `code` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledReceipt:
    """The newest receipt of one lane."""

    receipt: Signed[Receipt]
    bundled_sequence: int
    """Highest sequence that stands in a bundle; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledBundle:
    """One bundle."""

    epoch: int
    kind: BundleKind
    number: int
    digest: bytes
    raw: bytes
    receipt_count: int
    bytes_total: int
    """Sum of its receipts' totals."""
    state: BundleState
    promise: bytes | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolCount:
    """What the spool holds of one epoch."""

    epoch: int
    unbundled: int
    """Receipts that stand in no bundle yet, or in an older state."""
    unsent: int
    sent: int
    archived: int
    refused: int


class Spool:
    """An open spool; used from one thread."""

    def __init__(self, path: Path) -> None:
        """Open the spool, creating it when it does not exist.

        Raises:
            SpoolError: The file cannot be opened.
        """
        self.path = path
        self._disk: DiskSync | None = None
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)
            self._connection.executescript(heartbeat_rows.SCHEMA)
        except sqlite3.Error as error:
            raise SpoolError(f"{path}: {error}") from error

    def close(self) -> None:
        """Close the file; everything stored stays. A disk that hangs is not waited for."""
        if self._disk is None or self._disk.finish():
            self._connection.close()

    def sync_by(self, disk: DiskSync) -> None:
        """Leave it to another thread to make commits durable; they only write from now on.

        Raises:
            SpoolError: SQLite refused.
        """
        try:
            disk.adopt(self.path, self._connection)
        except sqlite3.Error as error:
            raise SpoolError(f"{self.path}: {error}") from error
        self._disk = disk

    def add_entitlement(self, signed: Signed[Entitlement]) -> None:
        """Keep an entitlement; keeping it twice is the same as once."""
        entitlement = signed.value
        with self.transaction() as tx:
            tx.execute(
                "INSERT INTO entitlement VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    signed.digest,
                    entitlement.session_key,
                    entitlement.content_id,
                    entitlement.not_after_s,
                    signed.raw,
                ),
            )

    def find_entitlement(self, digest: bytes) -> Signed[Entitlement] | None:
        """Return an entitlement by its digest."""
        rows = self._read("SELECT raw FROM entitlement WHERE digest = ?", (digest,))
        return ENTITLEMENT.parse(rows[0][0]) if rows else None

    def list_entitlements(self, session_key: bytes) -> list[Signed[Entitlement]]:
        """Return the entitlements of a session key, the longest valid first."""
        rows = self._read(
            "SELECT raw FROM entitlement WHERE session_key = ? ORDER BY not_after_s DESC, digest",
            (session_key,),
        )
        return [ENTITLEMENT.parse(row[0]) for row in rows]

    def find_receipt(self, lane_digest: bytes) -> SpooledReceipt | None:
        """Return the newest receipt of a lane."""
        rows = self._read(
            "SELECT raw, bundled_sequence FROM receipt WHERE lane_digest = ?", (lane_digest,)
        )
        return _spooled(rows[0]) if rows else None

    def put_receipt(self, signed: Signed[Receipt], *, kind: BundleKind, session_key: bytes) -> None:
        """Keep a receipt as the newest of its lane; an older one never replaces it."""
        receipt = signed.value
        with self.transaction() as tx:
            tx.execute(
                "INSERT INTO receipt (lane_digest, epoch, kind, session_key, sequence, bytes_total,"
                " digest, raw) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (lane_digest) DO UPDATE SET sequence = excluded.sequence,"
                " bytes_total = excluded.bytes_total, digest = excluded.digest, raw = excluded.raw"
                " WHERE excluded.sequence > receipt.sequence",
                (
                    receipt.lane_digest,
                    receipt.epoch,
                    kind,
                    session_key,
                    receipt.sequence,
                    receipt.bytes_total,
                    signed.digest,
                    signed.raw,
                ),
            )

    def put_equivocation(self, first: Signed[Receipt], second: Signed[Receipt]) -> None:
        """Keep two contradicting receipts of one lane as evidence; the first pair stays."""
        with self.transaction() as tx:
            tx.execute(
                "INSERT INTO equivocation VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (first.value.lane_digest, first.raw, second.raw),
            )

    def list_equivocations(self) -> list[tuple[Signed[Receipt], Signed[Receipt]]]:
        """Return the pairs of contradicting receipts."""
        rows = self._read("SELECT first_raw, second_raw FROM equivocation ORDER BY lane_digest")
        return [(RECEIPT.parse(row[0]), RECEIPT.parse(row[1])) for row in rows]

    def receipted_bytes(self, session_key: bytes) -> dict[bytes, int]:
        """Return the newest total of every lane of a receiving session key, by lane digest."""
        rows = self._read(
            "SELECT lane_digest, bytes_total FROM receipt WHERE session_key = ? AND kind = 1",
            (session_key,),
        )
        return {row[0]: row[1] for row in rows}

    def list_receipts_of(self, session_key: bytes) -> list[Signed[Receipt]]:
        """Return the newest receipt of every lane that a session key signed for us."""
        rows = self._read(
            "SELECT raw FROM receipt WHERE session_key = ? AND kind = 1", (session_key,)
        )
        return [RECEIPT.parse(row[0]) for row in rows]

    def total_bytes(self) -> int:
        """Return the bytes that others' newest receipts of all epochs state together."""
        rows = self._read("SELECT coalesce(sum(bytes_total), 0) FROM receipt WHERE kind = 1")
        return int(rows[0][0])

    def list_unbundled_epochs(self, kind: BundleKind) -> list[int]:
        """Return the epochs with receipts in a state, or heartbeats, that no bundle has."""
        rows = self._read(
            "SELECT DISTINCT epoch FROM receipt WHERE kind = ? AND sequence > bundled_sequence",
            (kind,),
        )
        if kind is BundleKind.VIEWER:
            rows += self._read(heartbeat_rows.SELECT_UNBUNDLED_EPOCHS)
        return sorted({row[0] for row in rows})

    def list_unbundled_heartbeats(self, epoch: int, limit: int) -> list[Signed[Heartbeat]]:
        """Return heartbeats of an epoch, and those beside its borders, that no bundle has."""
        rows = self._read(heartbeat_rows.SELECT_UNBUNDLED, (epoch, limit))
        return [HEARTBEAT.parse(row[0]) for row in rows]

    def list_unbundled(self, epoch: int, kind: BundleKind, limit: int) -> list[Signed[Receipt]]:
        """Return receipts of an epoch that no bundle has in their newest state."""
        rows = self._read(
            "SELECT raw FROM receipt WHERE epoch = ? AND kind = ? AND sequence > bundled_sequence"
            " ORDER BY lane_digest LIMIT ?",
            (epoch, kind, limit),
        )
        return [RECEIPT.parse(row[0]) for row in rows]

    def list_newest(self, epoch: int, kind: BundleKind, limit: int) -> list[Signed[Receipt]]:
        """Return the newest receipts of an epoch's lanes, bundled or not, by falling bytes."""
        rows = self._read(
            "SELECT raw FROM receipt WHERE epoch = ? AND kind = ?"
            " ORDER BY bytes_total DESC, lane_digest LIMIT ?",
            (epoch, kind, limit),
        )
        return [RECEIPT.parse(row[0]) for row in rows]

    def next_number(self, epoch: int, kind: BundleKind) -> int:
        """Return the number that the epoch's next bundle gets."""
        rows = self._read(
            "SELECT coalesce(max(number) + 1, 0) FROM bundle WHERE epoch = ? AND kind = ?",
            (epoch, kind),
        )
        return int(rows[0][0])

    def put_bundle(
        self,
        bundle: SpooledBundle,
        receipts: list[Signed[Receipt]],
        heartbeats: Sequence[Signed[Heartbeat]] = (),
    ) -> None:
        """Keep a new bundle and mark its receipts and heartbeats as bundled, in one step.

        Raises:
            SpoolError: A bundle of this number exists, or SQLite refused; nothing is changed.
        """
        with self.transaction() as tx:
            tx.execute(
                "INSERT INTO bundle (epoch, kind, number, digest, raw, receipt_count, bytes_total,"
                " state, promise, code, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    bundle.epoch,
                    bundle.kind,
                    bundle.number,
                    bundle.digest,
                    bundle.raw,
                    bundle.receipt_count,
                    bundle.bytes_total,
                    bundle.state,
                    bundle.promise,
                    bundle.code,
                    bundle.detail,
                ),
            )
            tx.executemany(
                "UPDATE receipt SET bundled_sequence = ? WHERE lane_digest = ?",
                [(signed.value.sequence, signed.value.lane_digest) for signed in receipts],
            )
            heartbeat_rows.mark_bundled(tx, bundle.epoch, heartbeats)

    def list_bundles(self, state: BundleState | None = None) -> list[SpooledBundle]:
        """Return bundles, oldest epoch first."""
        query = f"{_SELECT_BUNDLE} ORDER BY epoch, kind, number"
        if state is None:
            return [_bundle_of(row) for row in self._read(query)]
        chosen = f"{_SELECT_BUNDLE} WHERE state = ? ORDER BY epoch, kind, number"
        return [_bundle_of(row) for row in self._read(chosen, (state,))]

    def store_promise(self, digest: bytes, promise: bytes) -> None:
        """Keep the collector's promise for a bundle; it is not sent again."""
        with self.transaction() as tx:
            tx.execute(
                "UPDATE bundle SET state = 'sent', promise = ? WHERE digest = ?", (promise, digest)
            )

    def store_refusal(self, digest: bytes, *, code: str, detail: str) -> None:
        """Keep why the collector refused a bundle whole."""
        with self.transaction() as tx:
            tx.execute(
                "UPDATE bundle SET state = 'refused', code = ?, detail = ? WHERE digest = ?",
                (code, detail, digest),
            )

    def reopen_receipts(self, receipts: Sequence[Signed[Receipt]]) -> None:
        """Let receipts stand unbundled again, for the epoch's next bundle."""
        with self.transaction() as tx:
            tx.executemany(
                "UPDATE receipt SET bundled_sequence = 0 WHERE lane_digest = ?",
                [(signed.value.lane_digest,) for signed in receipts],
            )

    def prune(self, before_epoch: int) -> None:
        """Drop the bytes of bundles that the collector judged long ago.

        Refused bundles stay, with their reason. Receipts stay too, a few hundred bytes a lane: what
        a peer has acknowledged in all is measured by them, and an old one that comes again is
        known by them.

        Args:
            before_epoch: Of older epochs; no correction for them can come any more.
        """
        with self.transaction() as tx:
            tx.execute(
                "DELETE FROM bundle WHERE epoch < ? AND state = 'archived' AND code = ''"
                " AND detail = ''",
                (before_epoch,),
            )

    def archive(self, digest: bytes, *, code: str, detail: str) -> None:
        """Keep the collector's judgement of a promised bundle."""
        with self.transaction() as tx:
            tx.execute(
                "UPDATE bundle SET state = 'archived', code = ?, detail = ? WHERE digest = ?",
                (code, detail, digest),
            )

    def count(self) -> list[SpoolCount]:
        """Return what there is of each epoch, oldest first."""
        try:
            return _count(self._connection)
        except sqlite3.Error as error:
            raise SpoolError(f"{self.path}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Make one durable step.

        Raises:
            SpoolError: SQLite refused; nothing is changed.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            # Durable from here, or once `sync_by`'s thread has synced.
            self._connection.execute("COMMIT")
            if self._disk is not None:
                self._disk.note_commit(self.path)
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise SpoolError(f"{self.path}: {error}") from error

    def _read(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise SpoolError(f"{self.path}: {error}") from error


_SELECT_BUNDLE = (
    "SELECT epoch, kind, number, digest, raw, receipt_count, bytes_total, state, promise, code,"
    " detail FROM bundle"
)


def read_spool(path: Path) -> tuple[list[SpoolCount], list[SpooledBundle]]:
    """Read counts and bundles without writing; the spool's process may run or be dead.

    Raises:
        SpoolError: There is no readable spool at the path.
    """
    try:
        uri = f"file:{quote(str(path.resolve()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
            rows = connection.execute(f"{_SELECT_BUNDLE} ORDER BY epoch, kind, number")
            return _count(connection), [_bundle_of(row) for row in rows]
    except sqlite3.Error as error:
        raise SpoolError(f"{path}: {error}") from error


def _count(connection: sqlite3.Connection) -> list[SpoolCount]:
    counts: dict[int, dict[str, int]] = {}
    rows = connection.execute(
        "SELECT epoch, 'unbundled', count(*) FROM receipt WHERE sequence > bundled_sequence"
        " GROUP BY epoch UNION ALL SELECT epoch, state, count(*) FROM bundle GROUP BY epoch, state"
    )
    for epoch, state, number in rows:
        counts.setdefault(epoch, {})[state] = number
    return [
        SpoolCount(
            epoch=epoch,
            unbundled=by_state.get("unbundled", 0),
            unsent=by_state.get("unsent", 0),
            sent=by_state.get("sent", 0),
            archived=by_state.get("archived", 0),
            refused=by_state.get("refused", 0),
        )
        for epoch, by_state in sorted(counts.items())
    ]


def _spooled(row: tuple[Any, ...]) -> SpooledReceipt:
    return SpooledReceipt(receipt=RECEIPT.parse(row[0]), bundled_sequence=row[1])


def _bundle_of(row: tuple[Any, ...]) -> SpooledBundle:
    return SpooledBundle(
        epoch=row[0],
        kind=BundleKind(row[1]),
        number=row[2],
        digest=row[3],
        raw=row[4],
        receipt_count=row[5],
        bytes_total=row[6],
        state=BundleState(row[7]),
        promise=row[8],
        code=row[9],
        detail=row[10],
    )
