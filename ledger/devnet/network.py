"""One Stellar network in memory: world, queue, closed network ledgers, their transactions.

No HTTP and no clock here: whoever owns it says when a network ledger closes and at what time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from stellar_sdk import Keypair

from ledger.devnet.closing import Closed, close, invalid_transactions
from ledger.devnet.entries import Account, Entry, account_key
from ledger.devnet.envelope import Transaction, network_id, parse_envelope
from ledger.devnet.freezing import require_freezable
from ledger.devnet.participants import participants
from ledger.devnet.queue import Queue, Status, Submission
from ledger.devnet.results import TxResult
from ledger.devnet.state import Header, World

TOTAL_STROOPS: Final = 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a network is made with. Fees and reserves are stroops.

    Submission refuses what expires within two expected closes.
    """

    passphrase: str
    protocol: int = 27
    base_fee: int = 100
    base_reserve: int = 5_000_000
    max_tx_set_size: int = 1_000
    expected_close_seconds: int = 5


@dataclass(frozen=True, slots=True)
class Record:
    """A transaction in a closed network ledger; `index` is one-based."""

    tx: Transaction
    ledger: int
    index: int
    result: TxResult
    result_xdr: bytes
    accounts: frozenset[bytes]

    @property
    def token(self) -> int:
        """Total order id (SEP-35) of the transaction."""
        return self.ledger << 32 | self.index << 12


def root_keypair(passphrase: str) -> Keypair:
    """The account that holds all coins at genesis: its seed is the network id."""
    return Keypair.from_raw_ed25519_seed(network_id(passphrase))


class Network:
    """State and history of one network."""

    def __init__(self, settings: Settings, genesis_time: int) -> None:
        self.settings = settings
        self.network_id = network_id(settings.passphrase)
        self.world = World()
        self.queue = Queue(2 * settings.expected_close_seconds)
        self.header = Header(
            sequence=1,
            close_time=genesis_time,
            base_fee=settings.base_fee,
            base_reserve=settings.base_reserve,
            max_tx_set_size=settings.max_tx_set_size,
            protocol=settings.protocol,
            total_coins=TOTAL_STROOPS,
        )
        self.root = root_keypair(settings.passphrase)
        raw = self.root.raw_public_key()
        entry = Entry(Account(account=raw, balance=TOTAL_STROOPS, sequence=0), modified=1)
        self.world.put(account_key(raw), entry.encode())
        self.header.bucket_hash = hashlib.sha256(entry.encode()).digest()
        self.header_hash = self.header.hash()
        self.ledgers: list[Closed] = [Closed(self.header, self.header_hash, (), frozenset())]
        self.records: list[Record] = []
        self._by_hash: dict[bytes, Record] = {}
        self._by_account: dict[bytes, list[Record]] = {}

    def parse(self, raw: bytes) -> Transaction:
        """Transaction from envelope bytes; raises EnvelopeError."""
        return parse_envelope(raw, self.network_id)

    def submit(self, tx: Transaction) -> Submission:
        """Offer a transaction to the queue."""
        return self.queue.submit(self.world, self.header, tx)

    def close_ledger(self, close_time: int) -> Closed:
        """Close the next network ledger, at the earliest one second after the last."""
        close_time = max(close_time, self.header.close_time + 1)
        waiting = self.queue.transactions()
        invalid = invalid_transactions(self.world, self.header, waiting, close_time)
        self.queue.drop(invalid)
        refused = {tx.full_hash for tx in invalid}
        starting = (self.header.sequence + 1) << 32
        offered = [tx for tx in waiting if tx.full_hash not in refused and tx.sequence != starting]
        closed = close(self.world, self.header, self.header_hash, offered, close_time)
        self._record(closed)
        self.queue.remove_applied(item.tx for item in closed.applied)
        self.queue.shift()
        left = self.queue.transactions()
        horizon = close_time + self.queue.close_margin_seconds
        self.queue.drop(
            tx
            for tx in invalid_transactions(self.world, self.header, left, close_time)
            + [tx for tx in left if 0 < tx.conditions.max_time < horizon]
        )
        return closed

    def _record(self, closed: Closed) -> None:
        self.header, self.header_hash = closed.header, closed.hash
        self.ledgers.append(closed)
        for item in closed.applied:
            record = Record(
                item.tx,
                closed.header.sequence,
                item.index,
                item.result,
                item.result.encode(),
                participants(item.tx),
            )
            self.records.append(record)
            self._by_hash[item.tx.hash] = record
            if item.tx.inner is not None:
                self._by_hash[item.tx.inner.hash] = record
            for account in record.accounts:
                self._by_account.setdefault(account, []).append(record)

    def freeze(self, key: bytes) -> None:
        """Freeze an account or trust line key (LedgerKey XDR) from the next network ledger on.

        Raises:
            FreezeError: the protocol or the key forbids it.
        """
        require_freezable(self.header.protocol, key)
        self.header.frozen |= {key}

    def unfreeze(self, key: bytes) -> None:
        """Lift a freeze; a key that is not frozen is left alone."""
        self.header.frozen -= {key}

    def bypass_freeze(self, tx_hash: bytes) -> None:
        """Let one transaction (outer hash of a fee bump) name frozen keys."""
        self.header.freeze_bypass |= {tx_hash}

    def ledger(self, sequence: int) -> Closed | None:
        """Closed network ledger by sequence, None if there is none."""
        if not 1 <= sequence <= len(self.ledgers):
            return None
        return self.ledgers[sequence - 1]

    def record(self, tx_hash: bytes) -> Record | None:
        """Applied transaction by outer or inner hash."""
        return self._by_hash.get(tx_hash)

    def records_of(self, account: bytes) -> list[Record]:
        """Transactions an account took part in, oldest first."""
        return self._by_account.get(account, [])

    def account(self, key: bytes) -> Account | None:
        """Account as of the last closed network ledger."""
        entry = self.world.find(account_key(key))
        return entry.body if entry and isinstance(entry.body, Account) else None


__all__ = ["Network", "Record", "Settings", "Status", "root_keypair"]
