"""Receipts into the database: a binary COPY if their lanes are new, else one merging statement.

What a batch of bundles holds goes in at once, sorted by key, so that two workers with the same
lanes in different order cannot wait for each other. Of a lane stays the receipt with the highest
sequence, of two with the same sequence the one with fewer bytes: the order of arrival does not
matter. As a rule every lane is new, and the rows are copied straight into their partition, at a
third of the merge's cost; if the key of one turns out to be taken, the savepoint takes all of them
back, and they are merged. Not here: verdicts (`bundle_store`), judging a lane's receipts as a set
(`ledger.books.lane_judgement`).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ledger.books.codes import ReceiptCode
from ledger.books.lane_judgement import ENTITLEMENT_BYTES_MAX
from ledger.evidence.bundle import Bundle
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.receipt import FLAG_CDN, RECEIPT
from ledger.evidence.record_rows import part_struct
from ledger.store.raw_cursor import raw_cursor

_STAGE: Final = """
CREATE TEMP TABLE staged_receipts (
  lane uuid, sealing_epoch bigint, broadcaster_id bigint, epoch bigint, sequence bigint,
  bytes_total bigint, bundle_id bigint, place integer, is_cdn boolean, entitlement uuid,
  cap_bytes bigint
) ON COMMIT DELETE ROWS
"""

_MERGE: Final = """
INSERT INTO receipts AS kept
SELECT DISTINCT ON (lane, sealing_epoch) * FROM staged_receipts
ORDER BY lane, sealing_epoch, sequence DESC, bytes_total, bundle_id, place
ON CONFLICT (lane, sealing_epoch) DO UPDATE SET
  sequence = excluded.sequence, bytes_total = excluded.bytes_total,
  bundle_id = excluded.bundle_id, place = excluded.place, is_cdn = excluded.is_cdn
WHERE kept.sequence < excluded.sequence
  OR (kept.sequence = excluded.sequence AND kept.bytes_total > excluded.bytes_total)
"""

COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""Opens a binary COPY."""

COPY_END: Final = b"\xff\xff"
"""Closes it."""

_COPY_ROW: Final = struct.Struct(">hi16siqiqiqiqiqiqiii?i16siq")
_KEY_PART: Final = struct.Struct(">6x16s4xq")
_KEY: Final = slice(_KEY_PART.size)
"""The lane and its seal in a row, and what stands before them."""

_FIND: Final = b"SELECT FROM receipts WHERE sealing_epoch = %s AND lane = ANY(%s) LIMIT 1"
_PART: Final = part_struct(
    RECEIPT, "flags", "entitlement_digest", "epoch", "sequence", "bytes_total"
)
_MAX_BYTES: Final = part_struct(ENTITLEMENT, "max_bytes")


def merge_receipts(
    session: Session,
    bundles: Iterable[tuple[int, int, int, Bundle, tuple[ReceiptCode, ...]]],
) -> None:
    """Merge the receipts that passed their bundles' checks into what counts so far.

    Args:
        session: In a transaction, the bundles' rows locked.
        bundles: Of each its row's id, broadcaster and sealing epoch, what it holds, and the codes
            of its receipts.
    """
    rows: list[bytes] = []
    firsts: list[bytes] = []
    for one in bundles:
        of_bundle = list(_copy_rows(*one))
        firsts += of_bundle[:1]
        rows += of_bundle
    if not rows:
        return
    # By key: the values before it are the same in all.
    rows.sort()
    is_distinct = len({row[_KEY] for row in rows}) == len(rows)
    if not (is_distinct and not _are_known(session, firsts) and _insert(session, rows)):
        _merge(session, rows)


def _are_known(session: Session, rows: Sequence[bytes]) -> bool:
    """Tell whether the lane of one of these rows stands in its seal already.

    Asked of one row a bundle: who sends a lane again sends its others again too. It saves the
    attempt, and the server's log a line; nothing hangs on the answer.
    """
    lanes: dict[int, list[UUID]] = {}
    for row in rows:
        lane, sealing_epoch = _KEY_PART.unpack_from(row)
        lanes.setdefault(sealing_epoch, []).append(UUID(bytes=lane))
    with raw_cursor(session) as cursor:
        # Planned anew: a plan kept from when the partition was small would read all of it.
        return any(
            cursor.execute(_FIND, (sealing_epoch, of_epoch), prepare=False).fetchone()
            for sealing_epoch, of_epoch in lanes.items()
        )


def _insert(session: Session, rows: Sequence[bytes]) -> bool:
    """Insert rows of new lanes; False: one of the lanes is there, nothing was inserted."""
    try:
        with session.begin_nested():
            _copy(session, "receipts", rows)
    except IntegrityError:
        return False
    return True


def _merge(session: Session, rows: Sequence[bytes]) -> None:
    with raw_cursor(session) as cursor:
        cursor.execute("SELECT to_regclass('pg_temp.staged_receipts') IS NULL")
        if cursor.fetchone() == (True,):
            cursor.execute(_STAGE)
    _copy(session, "staged_receipts", rows)
    with raw_cursor(session) as cursor:
        cursor.execute(_MERGE)


def _copy(
    session: Session, table: Literal["receipts", "staged_receipts"], rows: Sequence[bytes]
) -> None:
    with (
        raw_cursor(session) as cursor,
        cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.write(b"".join([COPY_HEAD, *rows, COPY_END]))


def _copy_rows(
    bundle_id: int,
    broadcaster_id: int,
    sealing_epoch: int,
    bundle: Bundle,
    codes: tuple[ReceiptCode, ...],
) -> Iterator[bytes]:
    """Yield each counted receipt as a row of a binary COPY: every value after its length."""
    counted, pack = ReceiptCode.COUNTED, _COPY_ROW.pack
    caps = dict(zip(bundle.entitlements.digests(), _caps(bundle), strict=True))
    places = zip(codes, bundle.receipts.lane_digests(), bundle.receipts.rows(_PART), strict=True)
    for place, (code, lane_digest, part) in enumerate(places):
        if code is counted:
            flags, entitlement, epoch, sequence, bytes_total = part
            yield pack(
                11, 16, lane_digest[:16], 8, sealing_epoch, 8, broadcaster_id, 8, epoch,
                8, sequence, 8, bytes_total, 8, bundle_id, 4, place, 1, flags & FLAG_CDN,
                16, entitlement[:16], 8, caps[entitlement],
            )  # fmt: skip


def _caps(bundle: Bundle) -> Iterator[int]:
    """Yield the most that each entitlement's lanes can be credited in one seal."""
    for (max_bytes,) in bundle.entitlements.rows(_MAX_BYTES):
        yield min(max_bytes or ENTITLEMENT_BYTES_MAX, ENTITLEMENT_BYTES_MAX)
