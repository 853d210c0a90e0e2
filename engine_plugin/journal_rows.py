"""Rows of the meter journal to and from records: lanes, credits, and the schema's statements.

Every function works within a transaction or read of the `journal`; nothing here opens or ends one.
"""

import sqlite3
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from engine_plugin.journal_records import (
    CreditedBlock,
    Lane,
    LaneCredits,
    LaneKey,
    Source,
    pack_blocks,
    unpack_blocks,
)

SELECT_LANE = (
    "SELECT session_key, entitlement_digest, payee_key, epoch, nonce, source, sequence,"
    " cumulative_bytes, media_ms, root_state FROM journal_lane"
)


def lane_of(row: tuple[Any, ...]) -> Lane:
    """Return the lane that a row of `SELECT_LANE` states."""
    return Lane(
        session_key=row[0],
        key=LaneKey(entitlement_digest=row[1], payee_key=row[2], epoch=row[3], nonce=row[4]),
        source=Source(row[5]),
        sequence=row[6],
        cumulative_bytes=row[7],
        media_ms=row[8],
        root_state=row[9],
    )


def list_statements(script: str) -> Iterator[str]:
    """Yield a script's statements; `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def take_part(
    tx: sqlite3.Connection, number: int, content_id: bytes, packed: bytes, byte_limit: int
) -> list[LaneCredits]:
    """Take the first blocks of a row that fit a limit, if any do; the rest stays in it."""
    blocks = unpack_blocks(packed)
    count = _count_fitting(blocks, byte_limit)
    if not count:
        return []
    first, rest = blocks[:count], blocks[count:]
    tx.execute(
        "UPDATE journal_credit SET bytes = ?, blocks = ? WHERE id = ?",
        (sum(block.length for block in rest), pack_blocks(rest), number),
    )
    return [LaneCredits(content_id, sum(block.length for block in first), pack_blocks(first))]


def _count_fitting(blocks: list[CreditedBlock], byte_limit: int) -> int:
    """Returns how many of the first blocks have no more bytes together than a limit."""
    sums = accumulate(block.length for block in blocks)
    return sum(1 for total in sums if total <= byte_limit)
