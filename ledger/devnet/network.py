"""One Stellar network: world, queue, closed network ledgers, their transactions.

In memory, or with a state file behind it. No HTTP and no clock here: whoever owns it says when a
network ledger closes and at what time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from stellar_sdk import Keypair

from ledger.devnet.closing import AppliedTransaction, Closed, close, invalid_transactions
from ledger.devnet.entries import Account, Entry, account_key
from ledger.devnet.envelope import EnvelopeError, Transaction, network_id, parse_envelope
from ledger.devnet.freezing import require_freezable
from ledger.devnet.history import History, Record
from ledger.devnet.operations import HANDLERS
from ledger.devnet.participants import participants
from ledger.devnet.queue import Queue, Status, Submission
from ledger.devnet.results import Kind
from ledger.devnet.state import Header, World
from ledger.devnet.state_file import StateFile, StateFileError

TOTAL_STROOPS: Final = 10**18
CONTRACTS_SINCE: Final = 20


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


def root_keypair(passphrase: str) -> Keypair:
    """The account that holds all coins at genesis: its seed is the network id."""
    return Keypair.from_raw_ed25519_seed(network_id(passphrase))


class Network:
    """State and history of one network."""

    def __init__(
        self, settings: Settings, genesis_time: int, state: StateFile | None = None
    ) -> None:
        """Begin a network, or go on with the one in the state file, whose own settings then stand.

        Raises:
            StateFileError: the file holds another network or cannot be used.
        """
        self.settings = settings
        self.network_id = network_id(settings.passphrase)
        self.root = root_keypair(settings.passphrase)
        self.world = World()
        self.queue = Queue(2 * settings.expected_close_seconds)
        self.ledgers: list[Closed] = []
        self.history = History()
        self._state = state
        self._halted: str | None = None
        held = state.passphrase() if state is not None else None
        if state is None or held is None:
            self._begin(genesis_time)
        elif held != settings.passphrase:
            raise StateFileError(f"{state.path}: got the network {held!r}, want the one asked for")
        else:
            self._resume(state)

    def _begin(self, genesis_time: int) -> None:
        settings = self.settings
        header = Header(
            sequence=1,
            close_time=genesis_time,
            base_fee=settings.base_fee,
            base_reserve=settings.base_reserve,
            max_tx_set_size=settings.max_tx_set_size,
            protocol=settings.protocol,
            total_coins=TOTAL_STROOPS,
        )
        raw = self.root.raw_public_key()
        entry = Entry(Account(account=raw, balance=TOTAL_STROOPS, sequence=0), modified=1)
        self.world.put(account_key(raw), entry.encode())
        header.bucket_hash = hashlib.sha256(entry.encode()).digest()
        if self._state is not None:
            self._state.begin(settings.passphrase)
        self._record(Closed(header, header.hash(), (), frozenset({account_key(raw)})))

    def _resume(self, state: StateFile) -> None:
        self.world = state.world()
        for stored in state.ledgers(self.network_id):
            self.header, self.header_hash = stored.header, stored.hash
            for record, accounts in stored.records:
                self.history.add(record, accounts)
            applied = tuple(record for record, _ in stored.records)
            self.ledgers.append(Closed(stored.header, stored.hash, applied, frozenset()))
        header = self.header
        self.settings = replace(
            self.settings,
            protocol=header.protocol,
            base_fee=header.base_fee,
            base_reserve=header.base_reserve,
            max_tx_set_size=header.max_tx_set_size,
        )

    @property
    def records(self) -> list[Record]:
        """All transactions that network ledgers took, oldest first."""
        return self.history.records

    def parse(self, raw: bytes) -> Transaction:
        """Transaction from envelope bytes.

        Raises:
            EnvelopeError: they do not decode, or name an operation that came after the protocol.
        """
        tx = parse_envelope(raw, self.network_id)
        if self.header.protocol < CONTRACTS_SINCE:
            for operation in tx.operations:
                if operation.kind not in HANDLERS and operation.kind != Kind.INFLATION:
                    raise EnvelopeError(f"operation type: got {operation.kind}, want 0 to 23")
        return tx

    def submit(self, tx: Transaction) -> Submission:
        """Offer a transaction to the queue."""
        return self.queue.submit(self.world, self.header, tx)

    def close_ledger(self, close_time: int, *, drop_set: bool = False) -> Closed:
        """Close the next network ledger, at the earliest one second after the last.

        `drop_set` closes it empty, as validators may from protocol 28 on (CAP-83); what was queued
        waits on and grows older.

        Raises:
            StateFileError: the state file could not be written; the network then stands still, and
                goes on from the file when it is opened again.
        """
        if self._halted is not None:
            raise StateFileError(self._halted)
        close_time = max(close_time, self.header.close_time + 1)
        waiting = self.queue.transactions()
        invalid = invalid_transactions(self.world, self.header, waiting, close_time)
        self.queue.drop(invalid)
        refused = {tx.full_hash for tx in invalid}
        starting = (self.header.sequence + 1) << 32
        offered = [tx for tx in waiting if tx.full_hash not in refused and tx.sequence != starting]
        if drop_set:
            offered = []
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
        """Note a closed network ledger, in the file before anybody can see it."""
        made = [(self._record_of(closed.header.sequence, item), item) for item in closed.applied]
        concerned = [(record, participants(item.tx)) for record, item in made]
        if self._state is not None:
            self._save(self._state, closed, concerned)
        self.header, self.header_hash = closed.header, closed.hash
        for (record, accounts), (_, item) in zip(concerned, made, strict=True):
            self.history.add(record, accounts)
            self.history.keep_decoded(record, item.tx, item.result)
        records = tuple(record for record, _ in made)
        self.ledgers.append(Closed(closed.header, closed.hash, records, frozenset()))

    def _save(
        self,
        state: StateFile,
        closed: Closed,
        records: list[tuple[Record, frozenset[bytes]]],
    ) -> None:
        try:
            state.save(closed.header, closed.hash, self.world, closed.changed, records)
        except StateFileError as error:
            self._halted = str(error)
            raise

    def _record_of(self, ledger: int, item: AppliedTransaction) -> Record:
        tx = item.tx
        return Record(
            network=self.network_id,
            ledger=ledger,
            index=item.index,
            raw=tx.raw,
            result_xdr=item.result.encode(),
            hashes=(tx.hash, tx.inner.hash if tx.inner is not None else None),
        )

    def freeze(self, key: bytes) -> None:
        """Freeze an account or trust line key (LedgerKey XDR) from the next network ledger on.

        Raises:
            FreezeError: the protocol or the key forbids it.
        """
        require_freezable(self.header.protocol, key)
        self.header.frozen |= {key}
        self._keep_frozen()

    def unfreeze(self, key: bytes) -> None:
        """Lift a freeze; a key that is not frozen is left alone."""
        self.header.frozen -= {key}
        self._keep_frozen()

    def bypass_freeze(self, tx_hash: bytes) -> None:
        """Let one transaction (outer hash of a fee bump) name frozen keys."""
        self.header.freeze_bypass |= {tx_hash}
        self._keep_frozen()

    def _keep_frozen(self) -> None:
        if self._state is not None:
            self._state.save_frozen(self.header)

    def ledger(self, sequence: int) -> Closed | None:
        """Closed network ledger by sequence, None if there is none."""
        if not 1 <= sequence <= len(self.ledgers):
            return None
        return self.ledgers[sequence - 1]

    def record(self, tx_hash: bytes) -> Record | None:
        """Applied transaction by outer or inner hash."""
        return self.history.find(tx_hash)

    def records_of(self, account: bytes) -> list[Record]:
        """Transactions an account took part in, oldest first."""
        return self.history.of_account(account)

    def account(self, key: bytes) -> Account | None:
        """Account as of the last closed network ledger."""
        entry = self.world.find(account_key(key))
        return entry.body if entry and isinstance(entry.body, Account) else None


__all__ = ["Network", "Record", "Settings", "Status", "root_keypair"]
