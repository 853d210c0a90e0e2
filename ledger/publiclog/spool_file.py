"""A party's own spool, read without writing: what was promised, and what was never sent.

The engine's spool is one SQLite file. Of its tables two are read, by name and column:

    bundle   epoch, kind (1 payee, 2 viewer), number, digest, raw, state, promise (NULL: none yet)
    receipt  epoch, lane_digest, sequence, bundled_sequence (highest one in a bundle; 0: none)

A row that is not what its digest says, or a file with other columns, is refused: a complaint made
of it would accuse nobody.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ledger.audit.errors import UndecidableError
from ledger.evidence.bundle import BUNDLE_SIZE_MAX, BundleKind, parse_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.promise import PROMISE, Promise

_BUSY_S: Final = 5
_PROMISE_BYTES_MAX: Final = 4_096
_COLUMNS: Final = {
    "bundle": {
        "epoch": "INTEGER",
        "kind": "INTEGER",
        "number": "INTEGER",
        "digest": "BLOB",
        "raw": "BLOB",
        "state": "TEXT",
        "promise": "BLOB",
    },
    "receipt": {"epoch": "INTEGER", "sequence": "INTEGER", "bundled_sequence": "INTEGER"},
}
_SELECT_BUNDLES: Final = (
    "SELECT epoch, kind, number, digest, length(raw), raw, state, length(promise), promise"
    " FROM bundle ORDER BY epoch, kind, number"
)
_SELECT_UNSENT: Final = (
    "SELECT epoch, count(*) FROM receipt WHERE sequence > bundled_sequence GROUP BY epoch"
    " ORDER BY epoch"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentBundle:
    """One bundle of the spool."""

    epoch: int
    kind: BundleKind
    number: int
    digest: bytes
    receipt_count: int
    state: str
    """unsent, sent, archived or refused, as the engine noted it."""
    promise: Signed[Promise] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolContents:
    """What a party has."""

    bundles: tuple[SentBundle, ...]
    unbundled: dict[int, int]
    """Receipts in no bundle, or in an older state, by epoch."""


def read_spool_file(path: Path) -> SpoolContents:
    """Read a spool; its engine may run or be dead.

    Raises:
        UndecidableError: It is no spool, or a row is not what it says.
    """
    try:
        with _open(path) as connection:
            for table, wanted in _COLUMNS.items():
                _require_columns(path, connection, table, wanted)
            rows = connection.execute(_SELECT_BUNDLES)
            bundles = tuple(_bundle_of(path, row) for row in rows)
            unbundled = dict(connection.execute(_SELECT_UNSENT).fetchall())
    except sqlite3.Error as error:
        raise UndecidableError(f"{path}: {error}") from None
    return SpoolContents(bundles=bundles, unbundled=unbundled)


def read_bundle_bytes(path: Path) -> list[tuple[SentBundle, bytes]]:
    """Return the bundles of a spool, each with its bytes as they were sent.

    Raises:
        UndecidableError: It is no spool, or a row is not what it says.
    """
    try:
        with _open(path) as connection:
            rows = connection.execute(_SELECT_BUNDLES)
            return [(_bundle_of(path, row), bytes(row[5])) for row in rows]
    except sqlite3.Error as error:
        raise UndecidableError(f"{path}: {error}") from error


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise UndecidableError(f"{path}: got no file, want an engine's spool")
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection


def _require_columns(
    path: Path, connection: sqlite3.Connection, table: str, wanted: dict[str, str]
) -> None:
    kinds = dict(connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,)))
    for column, kind in wanted.items():
        if kinds.get(column) != kind:
            raise UndecidableError(
                f"{path}: {table}.{column}: got {kinds.get(column)}, want {kind}: no spool of an "
                "engine, or of another version"
            )


def _bundle_of(path: Path, row: tuple[Any, ...]) -> SentBundle:
    epoch, kind, number, digest, raw_length, raw, state, promise_length, promise = row
    name = f"{path}: bundle {epoch}/{kind}/{number}"
    if raw_length > BUNDLE_SIZE_MAX or (promise_length or 0) > _PROMISE_BYTES_MAX:
        raise UndecidableError(f"{name}: got {raw_length} bytes, want at most {BUNDLE_SIZE_MAX}")
    try:
        signed = parse_bundle(raw)
        given = None if promise is None else PROMISE.parse(promise)
    except EvidenceError as error:
        raise UndecidableError(f"{name}: {error}") from error
    value = signed.value
    if (value.epoch, value.kind, value.number) != (epoch, kind, number):
        raise UndecidableError(f"{name}: got another bundle's bytes, want its own")
    if signed.digest != digest or (given is not None and given.value.bundle_digest != digest):
        raise UndecidableError(f"{name}: got another digest or another bundle's promise")
    return SentBundle(
        epoch=epoch,
        kind=BundleKind(kind),
        number=number,
        digest=digest,
        receipt_count=value.receipt_count,
        state=state,
        promise=given,
    )
