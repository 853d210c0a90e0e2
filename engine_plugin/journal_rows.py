"""Rows of the meter journal to and from records: lanes, credits, claims, the schema's statements.

Every function works within a transaction or read of the `journal`; nothing here opens or ends one.
"""

import sqlite3
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from engine_plugin.journal_records import (
    Claim,
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


_CLAIM_COLUMNS = "r.session_key, t.scope_id, p.source, p.public_key"
_PEER_JOINS = (
    " journal_peer p JOIN journal_run r ON r.id = p.run JOIN journal_torrent t ON t.id = p.torrent"
)

_Payee = tuple[bytes, bytes, str, bytes]
"""Session key, scope id, source and payee key."""


class ClaimSums:
    """The creditable bytes of a journal, kept in memory from one transaction to the next.

    They are asked for at every look, and change with every credit: it is told of what comes and
    goes, and reads the journal again after any other change.
    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._sums: dict[tuple[int, *_Payee], int] | None = None
        self._payees: dict[int, _Payee] = {}
        """By peer row."""
        self._changes: list[tuple[tuple[int, *_Payee], int]] = []
        """Of the open transaction."""

    def list(self, connection: sqlite3.Connection) -> "list[Claim]":
        """Return the claims, oldest epoch first.

        Raises:
            sqlite3.Error: They could not be read.
        """
        if self._sums is None:
            rows = connection.execute(
                f"SELECT c.epoch, {_CLAIM_COLUMNS}, sum(c.bytes) FROM{_PEER_JOINS}"
                " JOIN journal_credit c ON c.peer = p.id WHERE p.public_key IS NOT NULL"
                " AND c.epoch IS NOT NULL GROUP BY 1, 2, 3, 4, 5"
            )
            self._sums = {row[:5]: row[5] for row in rows}
        return [
            Claim(
                epoch=epoch,
                session_key=session_key,
                scope_id=scope_id,
                source=Source(source),
                payee_key=payee_key,
                byte_count=self._sums[epoch, session_key, scope_id, source, payee_key],
            )
            for epoch, session_key, scope_id, source, payee_key in sorted(self._sums)
        ]

    def note_credit(self, tx: sqlite3.Connection, row: int, epoch: int, byte_count: int) -> None:
        """Take note that the open transaction adds a credit of a proved peer, by its row.

        Raises:
            sqlite3.Error: The row could not be read.
        """
        payee = self._payees.get(row)
        if payee is None:
            payee = tx.execute(
                f"SELECT {_CLAIM_COLUMNS} FROM{_PEER_JOINS} WHERE p.id = ?", (row,)
            ).fetchone()
            self._payees[row] = payee
        self._changes.append(((epoch, *payee), byte_count))

    def note_taken(self, claim: Claim, byte_count: int) -> None:
        """Take note that the open transaction takes so much of a claim."""
        group = claim.epoch, claim.session_key, claim.scope_id, claim.source, claim.payee_key
        self._changes.append((group, -byte_count))

    def end_transaction(self, *, is_known: bool) -> None:
        """Let the changes hold; or read all again at the next call, if they are not all known."""
        changes, self._changes = self._changes, []
        if not is_known:
            self._sums = None
            self._payees.clear()
        elif self._sums is not None:
            for group, byte_count in changes:
                left = self._sums.get(group, 0) + byte_count
                self._sums[group] = left
                if not left:
                    del self._sums[group]
