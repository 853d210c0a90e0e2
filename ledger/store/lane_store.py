"""Lanes of a seal in the database: a million rows go in by one binary COPY and come out as columns.

They are the entries under a result's lane root, so whoever reads them back compares them with that
root. Not here: judging (`ledger.books.lane_judgement`), the rest of a seal (`epoch_store`).
"""

import struct
from collections.abc import Iterator
from typing import Final

from sqlalchemy.orm import Session

from ledger.books.lanes import Lanes
from ledger.store.raw_cursor import raw_cursor
from ledger.store.receipt_store import COPY_END, COPY_HEAD
from ledger.store.shard_store import Shard

_COPY: Final = """
COPY lanes (broadcaster_id, sealing_epoch, lane_digest, epoch, sequence, bytes_total)
FROM STDIN (FORMAT BINARY)
"""
_LANES: Final = """
SELECT lane_digest, sequence, bytes_total FROM lanes
WHERE broadcaster_id = %s AND sealing_epoch = %s ORDER BY lane_digest
"""
_ROW: Final = struct.Struct(">hiqiqi32siqiqiq")
"""A row of the COPY: every value after its length."""

_ROWS_PER_WRITE: Final = 4_096


def store_lanes(session: Session, shard: Shard, sealing_epoch: int, lanes: Lanes) -> None:
    """Store the lanes of a seal."""
    if not len(lanes):
        return
    with raw_cursor(session) as cursor, cursor.copy(_COPY) as copy:
        copy.write(COPY_HEAD)
        for piece in _pieces(shard.id, sealing_epoch, lanes):
            copy.write(piece)
        copy.write(COPY_END)


def _pieces(broadcaster_id: int, sealing_epoch: int, lanes: Lanes) -> Iterator[bytes]:
    numbers, pack = lanes.numbers, _ROW.pack
    head = (6, 8, broadcaster_id, 8, sealing_epoch, 32)
    for at in range(0, len(lanes), _ROWS_PER_WRITE):
        piece = slice(at, at + _ROWS_PER_WRITE)
        columns = zip(
            lanes.digests[piece],
            numbers.epochs[piece],
            numbers.sequences[piece],
            numbers.bytes_totals[piece],
            strict=True,
        )
        yield b"".join(
            [
                pack(*head, digest, 8, epoch, 8, sequence, 8, bytes_total)
                for digest, epoch, sequence, bytes_total in columns
            ]
        )


def load_lanes(session: Session, shard: Shard, sealing_epoch: int) -> list[tuple[bytes, int, int]]:
    """Return (lane digest, sequence, counted bytes) of a seal's lanes, by ascending digest."""
    with raw_cursor(session, binary=True) as cursor:
        return cursor.execute(_LANES, (shard.id, sealing_epoch)).fetchall()
