"""What one reader sees of the network: as of a network ledger, maybe with transactions missing.

The state of the last ledgers is kept as what each of them overwrote, so that a stale reader gets
old accounts with the old headers, and not a mixture that no real source gives.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.devnet.closing import Closed
from ledger.devnet.entries import Account, Entry, account_key, decode_entry
from ledger.devnet.network import Network, Record
from ledger.devnet.state import World

DEPTH_LEDGERS: Final = 64
"""How far back state can be seen."""


class Past:
    """What the last network ledgers overwrote; all of them if there is no depth."""

    def __init__(self, network: Network, *, depth_ledgers: int | None = DEPTH_LEDGERS) -> None:
        self._network = network
        self._mirror: dict[bytes, bytes] = dict(network.world.entries)
        self._overwritten: deque[tuple[int, dict[bytes, bytes | None]]] = deque(
            maxlen=depth_ledgers
        )

    def note(self, closed: Closed) -> None:
        """Take up a network ledger that has just closed."""
        before: dict[bytes, bytes | None] = {}
        for key in closed.changed:
            before[key] = self._mirror.get(key)
            raw = self._network.world.entries.get(key)
            if raw is None:
                self._mirror.pop(key, None)
            else:
                self._mirror[key] = raw
        self._overwritten.append((closed.header.sequence, before))

    def at(self, sequence: int) -> StateAt:
        """State after a network ledger; the oldest known if it lies further back."""
        old: dict[bytes, bytes | None] = {}
        for at, before in reversed(self._overwritten):
            if at <= sequence:
                break
            old |= before
        return StateAt(self._network.world, old)


class StateAt:
    """Ledger entries after some network ledger."""

    def __init__(self, world: World, old: dict[bytes, bytes | None]) -> None:
        self._world = world
        self._old = old

    def raw(self, key: bytes) -> bytes | None:
        """LedgerEntry XDR, or None."""
        return self._old[key] if key in self._old else self._world.entries.get(key)

    def find(self, key: bytes) -> Entry | None:
        """An entry, or None."""
        raw = self.raw(key)
        return None if raw is None else decode_entry(raw)

    def owned(self, prefix: bytes) -> list[Entry]:
        """Entries of one kind that one account owns, by key; the prefix is kind and AccountID."""
        keys = self._world.owned(prefix) | {key for key in self._old if key.startswith(prefix)}
        return list(self._found(sorted(keys)))

    def of_kind(self, prefix: bytes) -> list[Entry]:
        """All entries whose keys begin with a prefix, by key."""
        keys = {key for key in self._world.entries if key.startswith(prefix)}
        keys |= {key for key in self._old if key.startswith(prefix)}
        return list(self._found(sorted(keys)))

    def account(self, key: bytes) -> Account | None:
        """An account, or None."""
        entry = self.find(account_key(key))
        return entry.body if entry and isinstance(entry.body, Account) else None

    def _found(self, keys: Sequence[bytes]) -> Iterator[Entry]:
        for key in keys:
            entry = self.find(key)
            if entry is not None:
                yield entry


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One reader's network: nothing after `last`, no transactions after `shown`."""

    network: Network
    state: StateAt
    last: int
    shown: int

    @property
    def latest(self) -> Closed:
        """The newest network ledger seen."""
        return self.network.ledgers[self.last - 1]

    def ledgers(self) -> Sequence[Closed]:
        """All network ledgers seen, oldest first."""
        return self.network.ledgers[: self.last]

    def ledger(self, sequence: int) -> Closed | None:
        """A network ledger, or None."""
        return self.network.ledgers[sequence - 1] if 1 <= sequence <= self.last else None

    def records(self) -> Sequence[Record]:
        """All transactions seen, oldest first."""
        return self._cut(self.network.records)

    def records_of(self, account: bytes) -> Sequence[Record]:
        """Transactions that an account took part in, oldest first."""
        return self._cut(self.network.records_of(account))

    def records_in(self, first: int, last: int) -> Sequence[Record]:
        """Transactions of network ledgers, both included, oldest first."""
        records = self.network.records
        start = bisect_left(records, first, key=_ledger_of)
        return records[start : bisect_right(records, min(last, self.shown), key=_ledger_of)]

    def record_at(self, token: int) -> Record | None:
        """The transaction with a total order id, or None."""
        found = self.records_in(token >> 32, token >> 32)
        return next((record for record in found if record.token == token), None)

    def record(self, tx_hash: bytes) -> Record | None:
        """A transaction by outer or inner hash, or None."""
        record = self.network.record(tx_hash)
        return None if record is None or record.ledger > self.shown else record

    def _cut(self, records: list[Record]) -> Sequence[Record]:
        if not records or records[-1].ledger <= self.shown:
            return records
        return records[: bisect_right(records, self.shown, key=_ledger_of)]


def _ledger_of(record: Record) -> int:
    return record.ledger
