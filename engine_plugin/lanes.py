"""The receiving side: turns journalled credits into signed, cumulative receipts.

A lane's next receipt takes the credits out of the meter journal, grows the lane's total and root,
and is stored signed, all in one transaction and before anybody sees it. So a crash repeats a
receipt or leaves credits for the next one, and never loses, repeats or lowers a byte.

The session key persists with the journal, so a lane goes on after a restart where it stopped.
Not here: when a receipt is due (`cadence`), sockets (`side_channel`), the clock (`ledger_clock`),
what the payee thinks of a receipt (`payee`).
"""

import sqlite3
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from engine_plugin.caps import CapUse
from engine_plugin.disk_sync import DiskSync
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import (
    Claim,
    Lane,
    LaneCredits,
    LaneKey,
    Source,
    iterate_blocks,
)
from engine_plugin.meter import BLOCK_BYTES
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.merkle import RootBuilder
from ledger.evidence.receipt import FLAG_CDN, RECEIPT, Receipt

_LANE_NONCE = 0
_ROWS = 1000
"""Of so many batches of blocks the rows are read at a time."""
LANES_KEPT = 4096
"""Of so many lanes the newest receipt is kept in memory."""

_NameT = TypeVar("_NameT")
_KeptT = TypeVar("_KeptT")
_CREDIT_NUMBERS = struct.Struct("<III")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS lane_receipt (
  lane_digest BLOB PRIMARY KEY CHECK (length(lane_digest) = 32),
  payee_key BLOB NOT NULL CHECK (length(payee_key) = 32),
  epoch INTEGER NOT NULL CHECK (epoch >= 0),
  is_cdn INTEGER NOT NULL CHECK (is_cdn IN (0, 1)),
  sequence INTEGER NOT NULL CHECK (sequence >= 1),
  bytes_total INTEGER NOT NULL CHECK (bytes_total >= 0),
  digest BLOB NOT NULL CHECK (length(digest) = 32),
  raw BLOB NOT NULL,
  acknowledged_sequence INTEGER NOT NULL DEFAULT 0,
  acknowledgement BLOB,
  verdict INTEGER NOT NULL DEFAULT 0
) STRICT
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReceipt:
    """The newest receipt of one lane, as signed here."""

    raw: bytes
    payee_key: bytes
    epoch: int
    is_cdn: bool
    sequence: int
    bytes_total: int
    digest: bytes
    acknowledged_sequence: int
    """Highest sequence that the payee acknowledged; 0: none."""
    verdict: int
    """The payee's last answer, a `ReceiptVerdict`."""
    lane_digest: bytes

    @property
    def is_acknowledged(self) -> bool:
        """Whether the payee has stored this very receipt."""
        return self.acknowledged_sequence >= self.sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptedBytes:
    """Sums over the newest receipt of every lane signed here."""

    p2p_bytes: int
    cdn_bytes: int
    unacknowledged_lanes: int
    """Peers' lanes whose newest receipt has no acknowledgement yet."""


class ReceiptLanes:
    """Signs receipts over journalled credits and remembers what was acknowledged."""

    def __init__(self, journal: MeterJournal, session_seed: bytes) -> None:
        """Add the receipt tables to the journal's file.

        Raises:
            JournalError: SQLite refused.
        """
        self._journal = journal
        self._seed = session_seed
        self._states: dict[LaneKey, tuple[Lane, RootBuilder]] = {}
        """Of the lanes used last, as the journal has them."""
        self._newest: dict[bytes, StoredReceipt] = {}
        """Newest receipts of the lanes used last, by lane digest."""
        self._unwritten: dict[bytes, StoredReceipt] = {}
        """Those whose answer is not durable yet."""
        self.disk: DiskSync | None = None
        """What makes receipts durable, if the journal's commits alone do not."""
        self._undurable: dict[bytes, int] = {}
        """Ticket of the sync that a lane's newest receipt waits for, by lane digest."""
        self.media_ms: Callable[[Signed[Entitlement]], int] = _no_media
        """Media played under an entitlement so far, in milliseconds; the viewing side's."""
        with journal.transaction() as tx:
            tx.execute(_SCHEMA)
            self._known = {
                row[0]
                for row in tx.execute(
                    "SELECT DISTINCT payee_key FROM lane_receipt WHERE acknowledged_sequence > 0"
                )
            }

    def is_known(self, payee_key: bytes) -> bool:
        """Tell whether the payee has ever acknowledged a receipt of ours."""
        return payee_key in self._known

    def use_of(self, entitlement_digest: bytes) -> CapUse:
        """Return what was signed under an entitlement, over all payees and epochs."""
        (row,) = self._journal.read(
            "SELECT coalesce(sum(cumulative_bytes), 0), coalesce(max(media_ms), 0)"
            " FROM journal_lane WHERE entitlement_digest = ?",
            (entitlement_digest,),
        )
        return CapUse(bytes_total=row[0], media_ms=row[1])

    def sign_claim(
        self,
        claim: Claim,
        entitlement: Signed[Entitlement],
        *,
        byte_limit: int | None = None,
    ) -> Signed[Receipt] | None:
        """Sign the next receipt of the claim's lane; see `is_durable`.

        Args:
            claim: What is credited and unsigned.
            entitlement: Under which.
            byte_limit: Take no more bytes than these, in whole blocks; the rest stays for another
                entitlement. None: take all.

        Returns:
            The receipt, or None when the claim's credits were taken meanwhile or none fits.

        Raises:
            JournalError: Nothing was signed; the credits are still there.
        """
        key = LaneKey(
            entitlement_digest=entitlement.digest,
            payee_key=claim.payee_key,
            epoch=claim.epoch,
            nonce=_LANE_NONCE.to_bytes(4, "little"),
        )
        with self._journal.transaction(touches_claims=False) as tx:
            taken = self._take_credits(claim, byte_limit)
            if not taken:
                return None
            # What is remembered of a lane goes with a transaction that fails.
            known = self._states.pop(key, None)
            before, root = self._read_state(key, claim) if known is None else known
            for content_id, _, packed in taken:
                root.extend(list_credit_leaves(content_id, packed))
            lane = Lane(
                key=key,
                session_key=before.session_key,
                source=before.source,
                sequence=before.sequence + 1,
                cumulative_bytes=before.cumulative_bytes + sum([part.byte_count for part in taken]),
                # The lane's own total never falls, whatever the viewing side knows at the moment.
                media_ms=max(before.media_ms, self._media_ms_under(entitlement)),
                root_state=root.export_state(),
            )
            signed = self._sign(lane, entitlement.value.network_id, root.root())
            lane_digest = signed.value.lane_digest
            self._journal.save_lane(lane)
            self._update_answers(tx)
            _store(tx, signed, lane_digest)
        # Durable from here, or with the next sync: total, root and signed receipt together.
        if self.disk is not None:
            self._undurable[lane_digest] = self.disk.request()
        self._unwritten.clear()
        _keep(self._states, key, (lane, root))
        self._note_signed(signed, lane_digest)
        return signed

    def _read_state(self, key: LaneKey, claim: Claim) -> tuple[Lane, RootBuilder]:
        lane = self._journal.find_lane(key)
        if lane is None:
            return Lane(key=key, session_key=claim.session_key, source=claim.source), RootBuilder()
        return lane, RootBuilder.restore(lane.root_state)

    def is_durable(self, lane_digest: bytes) -> bool:
        """Tell whether a lane's newest receipt is durable; before that nobody may see it."""
        return lane_digest not in self._undurable

    def note_durable(self, ticket: int) -> None:
        """Take note up to which ticket everything is durable."""
        for lane_digest, waits_for in list(self._undurable.items()):
            if waits_for <= ticket:
                del self._undurable[lane_digest]

    def _note_signed(self, signed: Signed[Receipt], lane_digest: bytes) -> None:
        receipt = signed.value
        before = self._newest.get(lane_digest)
        if before is None and receipt.sequence > 1:
            return  # it is read when its answer comes
        stored = StoredReceipt(
            raw=signed.raw,
            payee_key=receipt.payee_key,
            epoch=receipt.epoch,
            is_cdn=receipt.is_cdn,
            sequence=receipt.sequence,
            bytes_total=receipt.bytes_total,
            digest=signed.digest,
            acknowledged_sequence=0 if before is None else before.acknowledged_sequence,
            verdict=0,
            lane_digest=lane_digest,
        )
        _keep(self._newest, lane_digest, stored)

    def _media_ms_under(self, entitlement: Signed[Entitlement]) -> int:
        """Return the media time to state: beyond its cap a receipt would be refused whole."""
        cap = entitlement.value.max_media_ms
        media_ms = self.media_ms(entitlement)
        return min(media_ms, cap) if cap else media_ms

    def _take_credits(self, claim: Claim, byte_limit: int | None) -> list[LaneCredits]:
        taken: list[LaneCredits] = []
        left, is_more = byte_limit, True
        while is_more:
            more = self._journal.take_credits(claim, row_limit=_ROWS, byte_limit=left)
            is_more = len(more) == _ROWS
            taken += more
            if left is not None:
                left -= sum(part.byte_count for part in more)
        return taken

    def take_answer(
        self, payee_key: bytes, lane_digest: bytes, sequence: int, verdict: int
    ) -> StoredReceipt | None:
        """Take a payee's answer to a receipt of one of its lanes; see `write_answers`.

        An answer to a receipt that a newer one has replaced says that the payee holds what the
        older one said, and leaves the newer one open.

        Returns:
            The lane's newest receipt, or None: the payee has no such lane.

        Raises:
            JournalError: The lane could not be read; the receipt stays unanswered.
        """
        receipt = self._newest.get(lane_digest) or self._unwritten.get(lane_digest)
        receipt = receipt or self._find(lane_digest)
        if receipt is None or receipt.payee_key != payee_key or receipt.sequence < sequence:
            return None
        highest = receipt.acknowledged_sequence
        if verdict == ReceiptVerdict.ACCEPTED:
            self._known.add(payee_key)
            highest = max(highest, sequence)
        answered = replace(
            receipt,
            acknowledged_sequence=highest,
            verdict=verdict if sequence == receipt.sequence else receipt.verdict,
        )
        _keep(self._newest, lane_digest, answered)
        self._unwritten[lane_digest] = answered
        return receipt

    def write_answers(self) -> None:
        """Make the answers that came in durable; a crash before only repeats their receipts.

        Raises:
            JournalError: SQLite refused; they are kept.
        """
        if self._unwritten:
            with self._journal.transaction(touches_claims=False) as tx:
                self._update_answers(tx)
            self._unwritten.clear()

    def _update_answers(self, tx: sqlite3.Connection) -> None:
        tx.executemany(
            "UPDATE lane_receipt SET acknowledged_sequence = ?, verdict = ?"
            " WHERE lane_digest = ? AND sequence = ?",
            [
                (stored.acknowledged_sequence, stored.verdict, lane_digest, stored.sequence)
                for lane_digest, stored in self._unwritten.items()
            ],
        )

    def _find(self, lane_digest: bytes) -> StoredReceipt | None:
        rows = self._journal.read(f"{_SELECT} WHERE lane_digest = ?", (lane_digest,))
        return _receipt_of(rows[0]) if rows else None

    def list_unacknowledged(self, payee_key: bytes | None = None) -> list[StoredReceipt]:
        """Return peers' receipts that their payee has not acknowledged, oldest epoch first.

        Those that are not durable yet are left out: they are not to be sent.
        """
        chosen = "" if payee_key is None else " AND payee_key = ?"
        values = () if payee_key is None else (payee_key,)
        found = self._read(
            f"{_SELECT} WHERE is_cdn = 0 AND acknowledged_sequence < sequence{chosen}"
            " ORDER BY epoch, lane_digest",
            values,
        )
        return [stored for stored in found if self.is_durable(stored.lane_digest)]

    def list_cdn(self, epoch: int) -> list[StoredReceipt]:
        """Return the newest CDN receipts of an epoch."""
        return self._read(
            f"{_SELECT} WHERE is_cdn = 1 AND epoch = ? ORDER BY lane_digest", (epoch,)
        )

    def list_cdn_epochs(self) -> list[int]:
        """Return the epochs that have CDN receipts."""
        rows = self._journal.read(
            "SELECT DISTINCT epoch FROM lane_receipt WHERE is_cdn = 1 ORDER BY 1"
        )
        return [row[0] for row in rows]

    def sum_bytes(self) -> ReceiptedBytes:
        """Return what the newest receipts state together."""
        self.write_answers()
        (row,) = self._journal.read(
            "SELECT coalesce(sum(bytes_total) FILTER (WHERE is_cdn = 0), 0),"
            " coalesce(sum(bytes_total) FILTER (WHERE is_cdn = 1), 0),"
            " count(*) FILTER (WHERE is_cdn = 0 AND acknowledged_sequence < sequence)"
            " FROM lane_receipt"
        )
        return ReceiptedBytes(p2p_bytes=row[0], cdn_bytes=row[1], unacknowledged_lanes=row[2])

    def _read(self, query: str, values: tuple[object, ...]) -> list[StoredReceipt]:
        self.write_answers()
        return [_receipt_of(row) for row in self._journal.read(query, values)]

    def _sign(self, lane: Lane, network_id: bytes, credit_root: bytes) -> Signed[Receipt]:
        receipt = Receipt(
            network_id=network_id,
            flags=FLAG_CDN if lane.source is Source.CDN else 0,
            entitlement_digest=lane.key.entitlement_digest,
            payee_key=lane.key.payee_key,
            epoch=lane.key.epoch,
            nonce=int.from_bytes(lane.key.nonce, "little"),
            sequence=lane.sequence,
            bytes_total=lane.cumulative_bytes,
            media_ms_total=lane.media_ms,
            credit_root=credit_root,
        )
        return RECEIPT.sign(receipt, self._seed)


def list_credit_leaves(content_id: bytes, packed: bytes) -> list[bytes]:
    """Return the leaves of journalled blocks of one torrent, as `format_credit` prints each."""
    pack = _CREDIT_NUMBERS.pack
    return [
        content_id + pack(piece, block * BLOCK_BYTES, less + 1)
        for piece, block, less in iterate_blocks(packed)
    ]


_SELECT = (
    "SELECT raw, payee_key, epoch, is_cdn, sequence, bytes_total, digest, acknowledged_sequence,"
    " verdict, lane_digest FROM lane_receipt"
)


def _no_media(_entitlement: Signed[Entitlement]) -> int:
    return 0


def _keep(kept: dict[_NameT, _KeptT], name: _NameT, value: _KeptT) -> None:
    """Keep a value as the newest of a bounded number."""
    kept.pop(name, None)
    kept[name] = value
    if len(kept) > LANES_KEPT:
        del kept[next(iter(kept))]


def _store(tx: sqlite3.Connection, signed: Signed[Receipt], lane_digest: bytes) -> None:
    receipt = signed.value
    tx.execute(
        "INSERT INTO lane_receipt (lane_digest, payee_key, epoch, is_cdn, sequence, bytes_total,"
        " digest, raw) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (lane_digest) DO UPDATE SET sequence = excluded.sequence,"
        " bytes_total = excluded.bytes_total, digest = excluded.digest, raw = excluded.raw,"
        " verdict = 0",
        (
            lane_digest,
            receipt.payee_key,
            receipt.epoch,
            int(receipt.is_cdn),
            receipt.sequence,
            receipt.bytes_total,
            signed.digest,
            signed.raw,
        ),
    )


def _receipt_of(row: tuple[Any, ...]) -> StoredReceipt:
    return StoredReceipt(
        raw=row[0],
        payee_key=row[1],
        epoch=row[2],
        is_cdn=bool(row[3]),
        sequence=row[4],
        bytes_total=row[5],
        digest=row[6],
        acknowledged_sequence=row[7],
        verdict=row[8],
        lane_digest=row[9],
    )
