"""From queued transactions to a closed network ledger: choice, price, order, application.

Pure over world and header; follows stellar-core's non-generalised transaction sets below protocol
20 and their successor above (which differ in the surge price and the set's hash).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

from ledger.devnet import wire
from ledger.devnet.apply import apply, charge, check
from ledger.devnet.balances import available_balance
from ledger.devnet.envelope import Transaction
from ledger.devnet.results import TxResult
from ledger.devnet.state import Header, Overlay, World

MAX_OPERATIONS_PER_TX: Final = 100
GENERALIZED_SINCE: Final = 20


@dataclass(frozen=True, slots=True)
class Applied:
    """A transaction as its network ledger took it: one-based position and result."""

    tx: Transaction
    index: int
    result: TxResult


class AppliedTransaction(Protocol):
    """What a closed network ledger tells of a transaction it took."""

    @property
    def tx(self) -> Transaction:
        """The envelope."""
        ...

    @property
    def index(self) -> int:
        """One-based position."""
        ...

    @property
    def result(self) -> TxResult:
        """The result."""
        ...


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed network ledger; `changed` holds keys, of the latest one only."""

    header: Header
    hash: bytes
    applied: tuple[AppliedTransaction, ...]
    changed: frozenset[bytes]


def invalid_transactions(
    world: World, last: Header, transactions: Sequence[Transaction], close_time: int
) -> list[Transaction]:
    """Those that no network ledger closing at a time could take.

    The payer of fees must cover all of its bids together.
    """
    header = last.clone()
    header.sequence, header.close_time = last.sequence + 1, close_time
    overlay = Overlay(world, header)
    bad = [tx for tx in transactions if not check(overlay, tx, 0).ok]
    refused = {tx.full_hash for tx in bad}
    owed: dict[bytes, int] = {}
    for tx in transactions:
        if tx.full_hash not in refused:
            owed[tx.fee_source] = owed.get(tx.fee_source, 0) + tx.fee
    for tx in transactions:
        payer = overlay.peek_account(tx.fee_source)
        short = payer is None or available_balance(header, payer) < owed.get(tx.fee_source, 0)
        if tx.full_hash not in refused and short:
            bad.append(tx)
    return bad


def choose(last: Header, transactions: Sequence[Transaction]) -> tuple[list[Transaction], int]:
    """What fits into the next network ledger, best bids first, and the base fee it pays."""
    ranked = sorted(transactions, key=lambda tx: tx.full_hash)
    ranked.sort(key=lambda tx: Fraction(tx.fee, max(1, tx.bid_operations)), reverse=True)
    chosen, room = list[Transaction](), last.max_tx_set_size
    for tx in ranked:
        size = max(1, tx.bid_operations)
        if size <= room:
            chosen.append(tx)
            room -= size
    lowest = min((-(-tx.fee // max(1, tx.bid_operations)) for tx in chosen), default=last.base_fee)
    if last.protocol < GENERALIZED_SINCE:
        used = last.max_tx_set_size - room
        surge = used > max(0, last.max_tx_set_size - MAX_OPERATIONS_PER_TX)
    else:
        surge = len(chosen) < len(transactions)
    return chosen, lowest if surge and chosen else last.base_fee


def set_hash(previous_hash: bytes, transactions: Sequence[Transaction]) -> bytes:
    """Hash of a transaction set: previous ledger's hash, then the envelopes by their hashes."""
    digest = hashlib.sha256(previous_hash)
    for tx in sorted(transactions, key=lambda tx: tx.full_hash):
        digest.update(tx.raw)
    return digest.digest()


def apply_order(set_digest: bytes, transactions: Sequence[Transaction]) -> list[Transaction]:
    """Order of application: by hash, shuffled by the set's own hash."""
    mask = int.from_bytes(set_digest)
    return sorted(transactions, key=lambda tx: int.from_bytes(tx.full_hash) ^ mask)


def close(
    world: World,
    last: Header,
    last_hash: bytes,
    transactions: Sequence[Transaction],
    close_time: int,
) -> Closed:
    """Apply a chosen set: all fees first, then each transaction; changes the world."""
    chosen, base_fee = choose(last, transactions)
    digest = set_hash(last_hash, chosen)
    ordered = apply_order(digest, chosen)
    header = last.clone()
    header.sequence, header.close_time = last.sequence + 1, close_time
    header.previous_hash, header.tx_set_hash = last_hash, digest
    header.highest_sequences = _highest_sequences(ordered)
    overlay = Overlay(world, header)
    results = [charge(overlay, tx, base_fee) for tx in ordered]
    for tx, result in zip(ordered, results, strict=True):
        apply(overlay, tx, result)
    changed = frozenset(overlay.entries)
    overlay.commit()
    header.highest_sequences = {}
    applied = tuple(
        Applied(tx, index, result)
        for index, (tx, result) in enumerate(zip(ordered, results, strict=True), start=1)
    )
    header.result_hash = _result_hash(applied)
    header.bucket_hash = _state_hash(last.bucket_hash, world, changed)
    return Closed(header, header.hash(), applied, changed)


def _highest_sequences(transactions: Sequence[Transaction]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for tx in transactions:
        found[tx.source] = max(tx.sequence, found.get(tx.source, 0))
    return found


def _result_hash(applied: Sequence[AppliedTransaction]) -> bytes:
    """SHA-256 of the TransactionResultSet."""
    pairs = b"".join(item.tx.hash + item.result.encode() for item in applied)
    return hashlib.sha256(wire.u32(len(applied)) + pairs).digest()


def _state_hash(previous: bytes, world: World, changed: frozenset[bytes]) -> bytes:
    """A chain over changed entries in place of the bucket list, which the devnet does not keep."""
    digest = hashlib.sha256(previous)
    for key in sorted(changed):
        digest.update(key)
        digest.update(world.entries.get(key, b""))
    return digest.digest()
