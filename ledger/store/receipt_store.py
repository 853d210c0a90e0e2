"""Receipts into the database: a binary COPY into a staging table, one sorted statement from there.

What a batch of bundles holds is merged at once, by key, so that two workers with the same lanes in
different order cannot wait for each other. Of a lane stays the receipt with the highest sequence,
of two with the same sequence the one with fewer bytes: the order of arrival does not matter. Not
here: verdicts (`bundle_store`), judging a lane's receipts as a set (`ledger.books.lane_judgement`).
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy.orm import Session

from ledger.books.codes import ReceiptCode
from ledger.evidence.bundle import Bundle
from ledger.evidence.receipt import FLAG_CDN, RECEIPT
from ledger.evidence.record_rows import part_struct
from ledger.store.raw_cursor import raw_cursor

_STAGE: Final = """
CREATE TEMP TABLE staged_receipts (
  lane uuid, sealing_epoch bigint, broadcaster_id bigint, epoch bigint, sequence bigint,
  bytes_total bigint, bundle_id bigint, place integer, is_cdn boolean
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

_COPY_ROW: Final = struct.Struct(">hi16siqiqiqiqiqiqiii?")
_PART: Final = part_struct(RECEIPT, "flags", "epoch", "sequence", "bytes_total")


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
    rows = b"".join(row for one in bundles for row in _copy_rows(*one))
    if not rows:
        return
    with raw_cursor(session) as cursor:
        cursor.execute("SELECT to_regclass('pg_temp.staged_receipts') IS NULL")
        if cursor.fetchone() == (True,):
            cursor.execute(_STAGE)
        with cursor.copy("COPY staged_receipts FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(COPY_HEAD + rows + COPY_END)
        cursor.execute(_MERGE)


def _copy_rows(
    bundle_id: int,
    broadcaster_id: int,
    sealing_epoch: int,
    bundle: Bundle,
    codes: tuple[ReceiptCode, ...],
) -> Iterator[bytes]:
    """Yield each counted receipt as a row of a binary COPY: every value after its length."""
    counted, pack = ReceiptCode.COUNTED, _COPY_ROW.pack
    places = zip(codes, bundle.receipts.lane_digests(), bundle.receipts.rows(_PART), strict=True)
    for place, (code, lane_digest, (flags, epoch, sequence, bytes_total)) in enumerate(places):
        if code is counted:
            yield pack(
                9, 16, lane_digest[:16], 8, sealing_epoch, 8, broadcaster_id, 8, epoch,
                8, sequence, 8, bytes_total, 8, bundle_id, 4, place, 1, flags & FLAG_CDN,
            )  # fmt: skip
