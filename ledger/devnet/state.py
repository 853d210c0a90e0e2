"""The world: ledger entries by key, nested overlays over it, and the network ledger's header.

An overlay is what stellar-core calls a LedgerTxn: loads record an entry (which then counts as
modified), a commit hands it to the parent, leaving the overlay without one rolls back. The root
keeps LedgerEntry XDR bytes, and what it last decoded of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

from ledger.devnet import wire
from ledger.devnet.entries import (
    OFFER,
    Account,
    Body,
    ClaimableBalance,
    Data,
    Entry,
    Offer,
    TrustLine,
    account_key,
    claimable_key,
    data_key,
    decode_entry,
    offer_key,
    trustline_key,
)
from ledger.devnet.wire import Reader

# Kind (4 bytes) and AccountID (36 bytes) open the key of everything that has an owner.
_OWNER_END: Final = 40
_OFFER_KIND: Final = wire.i32(OFFER)


class StateError(RuntimeError):
    """A broken invariant of the devnet itself (core would answer txINTERNAL_ERROR)."""


@dataclass(slots=True)
class Header:
    """What transactions see of the network ledger being closed (or the last closed one)."""

    sequence: int
    close_time: int
    base_fee: int = 100
    base_reserve: int = 5_000_000
    max_tx_set_size: int = 1_000
    protocol: int = 27
    fee_pool: int = 0
    id_pool: int = 0
    total_coins: int = 10**18
    previous_hash: bytes = bytes(32)
    tx_set_hash: bytes = bytes(32)
    result_hash: bytes = bytes(32)
    bucket_hash: bytes = bytes(32)
    upgrades: tuple[bytes, ...] = field(default=())
    # CAP-77: LedgerKey XDR of what is frozen, hashes of transactions that may touch it anyway.
    frozen: frozenset[bytes] = frozenset()
    # While a ledger is applied: the highest sequence number of each account in its set (CAP-21).
    highest_sequences: Mapping[bytes, int] = field(default_factory=dict)
    freeze_bypass: frozenset[bytes] = frozenset()

    def clone(self) -> Header:
        """Independent copy."""
        return replace(self)

    def encode(self) -> bytes:
        """LedgerHeader XDR with an unsigned StellarValue and an empty skip list."""
        out = [wire.u32(self.protocol), self.previous_hash, self.tx_set_hash]
        out += [wire.u64(self.close_time), wire.u32(len(self.upgrades))]
        out += [wire.opaque(upgrade) for upgrade in self.upgrades]
        out += [wire.i32(0), self.result_hash, self.bucket_hash, wire.u32(self.sequence)]
        out += [wire.i64(self.total_coins), wire.i64(self.fee_pool), wire.u32(0)]
        out += [wire.u64(self.id_pool), wire.u32(self.base_fee), wire.u32(self.base_reserve)]
        out += [wire.u32(self.max_tx_set_size), bytes(4 * 32), wire.i32(0)]
        return b"".join(out)

    @classmethod
    def decode(cls, raw: bytes) -> Header:
        """Header from the XDR that encode() makes; what is frozen is not in it.

        Raises:
            XdrError: other bytes.
        """
        r = Reader(raw)
        protocol, previous, tx_set, close_time = r.u32(), r.take(32), r.take(32), r.u64()
        upgrades = tuple(r.opaque() for _ in range(r.u32()))
        r.i32()
        result, bucket, sequence = r.take(32), r.take(32), r.u32()
        total_coins, fee_pool = r.i64(), r.i64()
        r.u32()
        header = cls(
            id_pool=r.u64(),
            base_fee=r.u32(),
            base_reserve=r.u32(),
            max_tx_set_size=r.u32(),
            sequence=sequence,
            close_time=close_time,
            protocol=protocol,
            fee_pool=fee_pool,
            total_coins=total_coins,
            previous_hash=previous,
            tx_set_hash=tx_set,
            result_hash=result,
            bucket_hash=bucket,
            upgrades=upgrades,
        )
        r.take(4 * 32)
        r.i32()
        r.end()
        return header

    def hash(self) -> bytes:
        """SHA-256 of the header's XDR."""
        return hashlib.sha256(self.encode()).digest()


class World:
    """All ledger entries of one network, as LedgerEntry XDR by LedgerKey XDR."""

    def __init__(self, entries: Mapping[bytes, bytes] | None = None) -> None:
        self.entries: dict[bytes, bytes] = {}
        self._decoded: dict[bytes, Entry] = {}
        # Sub-entries by the part of their key that names kind and owner.
        self._owned: dict[bytes, set[bytes]] = {}
        self.offers: set[bytes] = set()
        for key, raw in (entries or {}).items():
            self.put(key, raw)

    def put(self, key: bytes, raw: bytes | None, entry: Entry | None = None) -> None:
        """Set an entry's XDR, or remove the entry; `entry` is what the XDR decodes to."""
        if entry is None:
            self._decoded.pop(key, None)
        else:
            self._decoded[key] = entry
        if raw is None:
            self.entries.pop(key, None)
            self._owned.get(key[:_OWNER_END], set()).discard(key)
            self.offers.discard(key)
            return
        if key not in self.entries:
            self._owned.setdefault(key[:_OWNER_END], set()).add(key)
            if key.startswith(_OFFER_KIND):
                self.offers.add(key)
        self.entries[key] = raw

    def peek(self, key: bytes) -> Entry | None:
        """An entry for reading only, or None."""
        entry = self._decoded.get(key)
        if entry is None:
            raw = self.entries.get(key)
            if raw is None:
                return None
            entry = self._decoded[key] = decode_entry(raw)
        return entry

    def find(self, key: bytes) -> Entry | None:
        """Fresh copy of an entry, or None."""
        entry = self.peek(key)
        return None if entry is None else entry.clone()

    def owned(self, prefix: bytes) -> set[bytes]:
        """Keys of one kind that one account owns; the prefix is kind and AccountID."""
        return set(self._owned.get(prefix, ()))


class Overlay:
    """Changes on top of a parent overlay or the world; see the module's text."""

    def __init__(self, parent: Overlay | World, header: Header | None = None) -> None:
        self.parent = parent
        if header is None:
            if not isinstance(parent, Overlay):
                raise StateError("header: got none, want one for an overlay on the world")
            header = parent.header
        # One header for all overlays of a ledger; what transactions change of it is put back when
        # an overlay is left without a commit.
        self.header: Header = header
        self._pools = (header.fee_pool, header.id_pool, header.total_coins)
        self.entries: dict[bytes, Entry | None] = {}
        # CAP-33: sponsored account → sponsoring account, open within one transaction.
        self.sponsorships: dict[bytes, bytes] = (
            dict(parent.sponsorships) if isinstance(parent, Overlay) else {}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        header = self.header
        header.fee_pool, header.id_pool, header.total_coins = self._pools
        self.entries = {}

    def find(self, key: bytes) -> Entry | None:
        """An entry for reading only; it is not recorded."""
        scope: Overlay | World = self
        while isinstance(scope, Overlay):
            if key in scope.entries:
                return scope.entries[key]
            scope = scope.parent
        return scope.peek(key)

    def load(self, key: bytes) -> Entry | None:
        """Entry for writing: recorded here, hence modified in this ledger if committed."""
        if key in self.entries:
            return self.entries[key]
        found = self.find(key)
        if found is None:
            return None
        entry = self.entries[key] = found.clone()
        return entry

    def create(self, body: Body, entry: Entry | None = None) -> Entry:
        """Add a new entry.

        Raises:
            StateError: the key is taken.
        """
        key = body.key()
        if self.find(key) is not None:
            raise StateError(f"create: got existing key {key.hex()}, want a new one")
        self.entries[key] = entry or Entry(body)
        made = self.entries[key]
        if made is None:
            raise StateError("create: got no entry, want one")
        return made

    def erase(self, key: bytes) -> None:
        """Remove an existing entry."""
        if self.find(key) is None:
            raise StateError(f"erase: got no entry at {key.hex()}, want one")
        self.entries[key] = None

    def commit(self) -> None:
        """Hand everything recorded to the parent."""
        if isinstance(self.parent, Overlay):
            self.parent.entries.update(self.entries)
            self.parent.sponsorships = self.sponsorships
        else:
            for key, entry in self.entries.items():
                if entry is None:
                    self.parent.put(key, None)
                else:
                    entry.modified = self.header.sequence
                    self.parent.put(key, entry.encode(), entry)
        header = self.header
        self._pools = (header.fee_pool, header.id_pool, header.total_coins)
        self.entries = {}

    # Typed access. The body is returned because most callers need nothing else.

    def account(self, account: bytes) -> Account | None:
        """Account for writing."""
        entry = self.load(account_key(account))
        return entry.body if entry and isinstance(entry.body, Account) else None

    def peek_account(self, account: bytes) -> Account | None:
        """Account for reading only."""
        entry = self.find(account_key(account))
        return entry.body if entry and isinstance(entry.body, Account) else None

    def need_account(self, account: bytes) -> Account:
        """Account for writing that must exist."""
        found = self.account(account)
        if found is None:
            raise StateError(f"account: got none at {account.hex()}, want one")
        return found

    def trustline(self, account: bytes, asset: bytes) -> TrustLine | None:
        """Trust line for writing."""
        entry = self.load(trustline_key(account, asset))
        return entry.body if entry and isinstance(entry.body, TrustLine) else None

    def offer(self, seller: bytes, offer_id: int) -> Offer | None:
        """Offer for writing."""
        entry = self.load(offer_key(seller, offer_id))
        return entry.body if entry and isinstance(entry.body, Offer) else None

    def data(self, account: bytes, name: bytes) -> Data | None:
        """Data entry for writing."""
        entry = self.load(data_key(account, name))
        return entry.body if entry and isinstance(entry.body, Data) else None

    def claimable(self, balance_id: bytes) -> ClaimableBalance | None:
        """Claimable balance for writing."""
        entry = self.load(claimable_key(balance_id))
        return entry.body if entry and isinstance(entry.body, ClaimableBalance) else None

    def owned(self, prefix: bytes) -> set[bytes]:
        """Keys of one kind that one account owns, as seen from here."""
        layers, world = self._layers()
        return self._seen(layers, world.owned(prefix), prefix)

    def offers(self) -> set[bytes]:
        """Keys of all offers, as seen from here."""
        layers, world = self._layers()
        return self._seen(layers, set(world.offers), _OFFER_KIND)

    def _layers(self) -> tuple[list[Overlay], World]:
        layers: list[Overlay] = []
        scope: Overlay | World = self
        while isinstance(scope, Overlay):
            layers.append(scope)
            scope = scope.parent
        return layers, scope

    @staticmethod
    def _seen(layers: list[Overlay], keys: set[bytes], prefix: bytes) -> set[bytes]:
        for layer in reversed(layers):
            for key, entry in layer.entries.items():
                if key.startswith(prefix):
                    (keys.discard if entry is None else keys.add)(key)
        return keys
