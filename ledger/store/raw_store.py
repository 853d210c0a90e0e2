"""Bundles' bytes in the database: cut into pages, written and read as binary.

A row that fills a page of the server is stored in place. As one large value the same bytes would
lie in pieces of two kilobytes beside the table, at twice the processor time.
"""

import struct
from collections.abc import Collection
from typing import Final

from sqlalchemy.orm import Session

from ledger.store.raw_cursor import raw_cursor
from ledger.store.receipt_store import COPY_END, COPY_HEAD

PAGE_BYTES: Final = 8_000
"""Bytes of a bundle in one row: with its header it fills a page of 8,192."""

_BUNDLES_PER_STATEMENT: Final = 32
_ROW: Final = struct.Struct(">hiqiqiii")


def store_raw(session: Session, sealing_epoch: int, bundle_id: int, raw: bytes) -> None:
    """Store a bundle's bytes; its row was inserted in the same transaction."""
    parts: list[bytes | memoryview] = [COPY_HEAD]
    view = memoryview(raw)
    for page, at in enumerate(range(0, len(raw), PAGE_BYTES)):
        piece = view[at : at + PAGE_BYTES]
        parts.append(_ROW.pack(4, 8, sealing_epoch, 8, bundle_id, 4, page, len(piece)))
        parts.append(piece)
    parts.append(COPY_END)
    with (
        raw_cursor(session) as cursor,
        cursor.copy("COPY bundle_raws FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.write(b"".join(parts))


def load_raws(session: Session, keys: Collection[tuple[int, int]]) -> dict[int, bytes]:
    """Return bundles' bytes by id, of (sealing epoch, id) each; those that are there."""
    pages: dict[int, dict[int, bytes]] = {}
    # Put in order here: the server would sort the pages' bytes, on disk if there are many.
    query = (
        "SELECT bundle_id, page, raw FROM bundle_raws"
        " WHERE sealing_epoch = %s AND bundle_id = ANY(%s)"
    )
    with raw_cursor(session, binary=True) as cursor:
        for epoch in sorted({epoch for epoch, _ in keys}):
            ids = sorted(bundle_id for of_epoch, bundle_id in keys if of_epoch == epoch)
            # Some at a time: what the driver holds beside the bytes is as large as they are.
            for at in range(0, len(ids), _BUNDLES_PER_STATEMENT):
                some = ids[at : at + _BUNDLES_PER_STATEMENT]
                # Planned anew: a plan kept from when the partition was small would read all of it.
                cursor.execute(query, (epoch, some), prepare=False)
                for bundle_id, page, piece in cursor:
                    pages.setdefault(bundle_id, {})[page] = piece
    return {
        bundle_id: b"".join(pieces[page] for page in sorted(pieces))
        for bundle_id, pieces in pages.items()
    }
