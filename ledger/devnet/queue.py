"""The node's memory of submitted transactions: one per source account, ageing, bans.

Knows nothing of time or HTTP; the network calls shift() once a closed network ledger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Final

from ledger.devnet.apply import check
from ledger.devnet.balances import available_balance
from ledger.devnet.envelope import Transaction
from ledger.devnet.results import TxCode, TxResult
from ledger.devnet.state import Header, Overlay, World
from ledger.devnet.wire import INT64_MAX

PENDING_DEPTH: Final = 4
BAN_DEPTH: Final = 10
REPLACE_FACTOR: Final = 10
QUEUE_LEDGERS: Final = 2
# From here on the queue is built for one transaction a source and answers a gap or an old
# sequence number accordingly.
ONE_PER_SOURCE_SINCE: Final = 20
EXACT_ROOM_SINCE: Final = 21


class Status(Enum):
    """Answer to a submission."""

    PENDING = "PENDING"
    DUPLICATE = "DUPLICATE"
    ERROR = "ERROR"
    TRY_AGAIN_LATER = "TRY_AGAIN_LATER"
    FILTERED = "FILTERED"


@dataclass(frozen=True, slots=True)
class Submission:
    """Status, and for ERROR the result."""

    status: Status
    result: TxResult | None = None


@dataclass(slots=True)
class _Queued:
    tx: Transaction
    age: int = 0


class Queue:
    """Transactions waiting for a network ledger.

    `close_margin_seconds`: how far away the next close may be; what expires before that is refused.
    `filtered_kinds`: operation types that this node's own policy refuses, as its operator may set.
    """

    def __init__(self, close_margin_seconds: int) -> None:
        self.close_margin_seconds = close_margin_seconds
        self.filtered_kinds: frozenset[int] = frozenset()
        self._by_source: dict[bytes, _Queued] = {}
        self._operations = 0
        self._owed: dict[bytes, int] = {}
        # The best bid that was evicted since the last close.
        self._outbid: Transaction | None = None
        self._banned: deque[set[bytes]] = deque([set() for _ in range(BAN_DEPTH)], BAN_DEPTH)

    def __len__(self) -> int:
        return len(self._by_source)

    def transactions(self) -> list[Transaction]:
        """All queued transactions."""
        return [queued.tx for queued in self._by_source.values()]

    def operations(self) -> int:
        """Operations queued, as the limit counts them."""
        return self._operations

    def is_banned(self, full_hash: bytes) -> bool:
        """Whether an envelope hash is refused for now."""
        return any(full_hash in banned for banned in self._banned)

    def submit(self, world: World, last: Header, tx: Transaction) -> Submission:
        """Take a transaction or say why not."""
        if self.is_banned(tx.full_hash):
            return Submission(Status.TRY_AGAIN_LATER)
        if any(operation.kind in self.filtered_kinds for operation in tx.operations):
            return Submission(Status.FILTERED)
        replaced = self._by_source.get(tx.source)
        if replaced is not None:
            early = self._clash(last, tx, replaced.tx)
            if early is not None:
                return early
        victims = self._make_room(last, tx, replaced.tx if replaced else None)
        if isinstance(victims, Submission):
            return victims
        header = last.clone()
        header.sequence += 1
        overlay = Overlay(world, header)
        result = check(overlay, tx, self.close_margin_seconds)
        if not result.ok:
            return Submission(Status.ERROR, result)
        if not self._can_pay(overlay, tx, replaced.tx if replaced else None):
            result.code = TxCode.INSUFFICIENT_BALANCE
            return Submission(Status.ERROR, result)
        self.drop(victims)
        self._outbid = victims[-1] if victims else self._outbid
        if replaced is not None:
            self._remove(tx.source)
        self._add(tx, replaced.age if replaced else 0)
        return Submission(Status.PENDING)

    def _clash(self, last: Header, tx: Transaction, queued: Transaction) -> Submission | None:
        """Answer when the source already has a transaction queued; None = it may be replaced."""
        if _is_duplicate(queued, tx):
            return Submission(Status.DUPLICATE)
        result = TxResult(0, TxCode.BAD_SEQ, [])
        is_older = tx.sequence < queued.sequence
        if last.protocol >= ONE_PER_SOURCE_SINCE and is_older:
            return Submission(Status.ERROR, result)
        if tx.inner is None:
            return Submission(Status.TRY_AGAIN_LATER)
        if is_older:
            return Submission(Status.ERROR, result)
        if tx.sequence > queued.sequence:
            least = tx.conditions.min_sequence
            follows = (
                tx.sequence == queued.sequence + 1 if least is None else least <= queued.sequence
            )
            if follows or last.protocol >= ONE_PER_SOURCE_SINCE:
                return Submission(Status.TRY_AGAIN_LATER)
            return Submission(Status.ERROR, result)
        wanted = REPLACE_FACTOR * queued.fee * max(1, tx.bid_operations)
        if tx.fee * max(1, queued.bid_operations) < wanted:
            result.code = TxCode.INSUFFICIENT_FEE
            result.fee_charged = min(INT64_MAX, -(-wanted // max(1, queued.bid_operations)))
            return Submission(Status.ERROR, result)
        return None

    def _make_room(
        self, last: Header, tx: Transaction, replaced: Transaction | None
    ) -> list[Transaction] | Submission:
        """Cheapest bids to evict for a better one (often none), or the refusal of a full queue.

        While bids were outbid since the last close, a new one must beat them even if it fits.
        """
        if self._outbid is not None and _bid_rate(self._outbid) >= _bid_rate(tx):
            return self._refuse(tx, _better_fee(tx, self._outbid))
        needed = max(1, tx.bid_operations)
        if replaced is not None:
            old = max(1, replaced.bid_operations)
            # Nodes before protocol 21 count the replaced operations instead of the added ones.
            needed = old if last.protocol < EXACT_ROOM_SINCE else needed - old
        room = QUEUE_LEDGERS * last.max_tx_set_size - self.operations()
        victims: list[Transaction] = []
        if room >= needed:
            return victims
        for queued in sorted(self.transactions(), key=_bid_rate):
            if room >= needed:
                break
            if queued.source == tx.source:
                return self._refuse(tx, None)
            if _bid_rate(queued) >= _bid_rate(tx):
                return self._refuse(tx, _better_fee(tx, queued))
            victims.append(queued)
            room += max(1, queued.bid_operations)
        return victims if room >= needed else self._refuse(tx, None)

    def _refuse(self, tx: Transaction, fee: int | None) -> Submission:
        """Ban what the queue has no room for; `fee` in stroops would have been enough."""
        self._banned[0].add(tx.full_hash)
        if fee is None:
            return Submission(Status.TRY_AGAIN_LATER)
        return Submission(Status.ERROR, TxResult(fee, TxCode.INSUFFICIENT_FEE, []))

    def _can_pay(self, overlay: Overlay, tx: Transaction, replaced: Transaction | None) -> bool:
        """Queued bids of one fee source add up and must be covered together."""
        owed = self._owed.get(tx.fee_source, 0)
        if replaced is not None and replaced.fee_source == tx.fee_source:
            owed -= replaced.fee
        payer = overlay.peek_account(tx.fee_source)
        return payer is not None and available_balance(overlay.header, payer) - tx.fee >= owed

    def remove_applied(self, applied: Iterable[Transaction]) -> None:
        """Forget what a network ledger took, and what its sequence numbers made invalid."""
        for tx in applied:
            queued = self._by_source.get(tx.source)
            if queued is not None and queued.tx.sequence <= tx.sequence:
                self._remove(tx.source)
            self._banned[0].add(tx.full_hash)

    def shift(self) -> None:
        """Age everything by one closed network ledger; what is too old is dropped and banned."""
        self._outbid = None
        self._banned.pop()
        self._banned.appendleft(set())
        for source, queued in list(self._by_source.items()):
            queued.age += 1
            if queued.age >= PENDING_DEPTH:
                self._remove(source)
                self._banned[0].add(queued.tx.full_hash)

    def drop(self, transactions: Iterable[Transaction]) -> None:
        """Drop and ban transactions that became invalid or were outbid."""
        for tx in transactions:
            queued = self._by_source.get(tx.source)
            if queued is not None and queued.tx.full_hash == tx.full_hash:
                self._remove(tx.source)
            self._banned[0].add(tx.full_hash)

    def clear(self) -> None:
        """Lose everything, as a killed node does."""
        self._by_source.clear()
        self._operations, self._owed, self._outbid = 0, {}, None

    def _add(self, tx: Transaction, age: int) -> None:
        self._by_source[tx.source] = _Queued(tx, age)
        self._operations += max(1, tx.bid_operations)
        self._owed[tx.fee_source] = self._owed.get(tx.fee_source, 0) + tx.fee

    def _remove(self, source: bytes) -> None:
        tx = self._by_source.pop(source).tx
        self._operations -= max(1, tx.bid_operations)
        left = self._owed[tx.fee_source] - tx.fee
        if left:
            self._owed[tx.fee_source] = left
        else:
            del self._owed[tx.fee_source]


def _bid_rate(tx: Transaction) -> Fraction:
    return Fraction(tx.fee, max(1, tx.bid_operations))


def _better_fee(tx: Transaction, other: Transaction) -> int:
    """Least fee in stroops at which a transaction bids more than another."""
    return other.fee * max(1, tx.bid_operations) // max(1, other.bid_operations) + 1


def _is_duplicate(queued: Transaction, tx: Transaction) -> bool:
    if queued.is_fee_bump == tx.is_fee_bump:
        return queued.full_hash == tx.full_hash
    return queued.inner is not None and queued.inner.full_hash == tx.full_hash
