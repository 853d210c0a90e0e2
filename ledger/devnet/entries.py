"""Ledger entries as mutable records, read from and written to LedgerEntry XDR without loss.

Contract entries are unknown here. Follows Stellar-ledger-entries.x.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from ledger.devnet import wire
from ledger.devnet.wire import Reader, XdrError

ACCOUNT, TRUSTLINE, OFFER, DATA, CLAIMABLE_BALANCE, LIQUIDITY_POOL = 0, 1, 2, 3, 4, 5

# AccountFlags
AUTH_REQUIRED, AUTH_REVOCABLE, AUTH_IMMUTABLE, AUTH_CLAWBACK_ENABLED = 1, 2, 4, 8
# TrustLineFlags
AUTHORIZED, MAINTAIN_LIABILITIES, TRUSTLINE_CLAWBACK = 1, 2, 4
CLAIMABLE_CLAWBACK: Final = 1

# Claim predicates as nested tuples: (kind, operands…), Stellar-ledger-entries.x ClaimPredicate.
Predicate = tuple[object, ...]


@dataclass(slots=True)
class Signer:
    """One signer of an account: raw SignerKey XDR, weight, who sponsors its reserve."""

    key: bytes
    weight: int
    sponsor: bytes | None = None


@dataclass(slots=True)
class Account:
    """AccountEntry. `level` tells which extension stands: 0 none, 1 to 3 as in the XDR."""

    account: bytes
    balance: int
    sequence: int
    sub_entries: int = 0
    inflation: bytes | None = None
    flags: int = 0
    home_domain: bytes = b""
    thresholds: bytes = b"\1\0\0\0"
    signers: list[Signer] = field(default_factory=list)
    level: int = 0
    buying: int = 0
    selling: int = 0
    sponsored: int = 0
    sponsoring: int = 0
    sequence_ledger: int = 0
    sequence_time: int = 0

    def key(self) -> bytes:
        """LedgerKey XDR."""
        return account_key(self.account)

    def clone(self) -> Account:
        """Independent copy."""
        return Account(
            self.account,
            self.balance,
            self.sequence,
            self.sub_entries,
            self.inflation,
            self.flags,
            self.home_domain,
            self.thresholds,
            [Signer(s.key, s.weight, s.sponsor) for s in self.signers],
            self.level,
            self.buying,
            self.selling,
            self.sponsored,
            self.sponsoring,
            self.sequence_ledger,
            self.sequence_time,
        )

    def encode(self) -> bytes:
        """AccountEntry XDR."""
        out = [
            wire.account_id(self.account),
            wire.i64(self.balance),
            wire.i64(self.sequence),
            wire.u32(self.sub_entries),
            wire.optional_account(self.inflation),
            wire.u32(self.flags),
            wire.opaque(self.home_domain),
            self.thresholds,
            wire.u32(len(self.signers)),
        ]
        out += [s.key + wire.u32(s.weight) for s in self.signers]
        out.append(wire.i32(1 if self.level >= 1 else 0))
        if self.level >= 1:
            out += [wire.i64(self.buying), wire.i64(self.selling)]
            out.append(wire.i32(2 if self.level >= 2 else 0))
        if self.level >= 2:
            out += [wire.u32(self.sponsored), wire.u32(self.sponsoring)]
            out.append(wire.u32(len(self.signers)))
            out += [wire.optional_account(s.sponsor) for s in self.signers]
            out.append(wire.i32(3 if self.level >= 3 else 0))
        if self.level >= 3:
            out += [wire.i32(0), wire.u32(self.sequence_ledger), wire.u64(self.sequence_time)]
        return b"".join(out)


def _read_account(r: Reader) -> Account:
    entry = Account(
        account=r.account(),
        balance=r.i64(),
        sequence=r.i64(),
        sub_entries=r.u32(),
        inflation=r.optional_account(),
        flags=r.u32(),
        home_domain=r.opaque(),
        thresholds=r.take(4),
        signers=[Signer(r.signer_key(), r.u32()) for _ in range(r.u32())],
    )
    if r.i32() == 1:
        entry.level, entry.buying, entry.selling = 1, r.i64(), r.i64()
        if r.i32() == 2:
            entry.level, entry.sponsored, entry.sponsoring = 2, r.u32(), r.u32()
            for index in range(r.u32()):
                entry.signers[index].sponsor = r.optional_account()
            if r.i32() == 3:
                r.i32()
                entry.level, entry.sequence_ledger, entry.sequence_time = 3, r.u32(), r.u64()
    return entry


@dataclass(slots=True)
class TrustLine:
    """TrustLineEntry; `asset` is raw TrustLineAsset XDR."""

    account: bytes
    asset: bytes
    balance: int = 0
    limit: int = 0
    flags: int = 0
    level: int = 0
    buying: int = 0
    selling: int = 0
    pool_uses: int = 0

    def key(self) -> bytes:
        """LedgerKey XDR."""
        return trustline_key(self.account, self.asset)

    def clone(self) -> TrustLine:
        """Independent copy."""
        return replace(self)

    def encode(self) -> bytes:
        """TrustLineEntry XDR."""
        out = wire.account_id(self.account) + self.asset + wire.i64(self.balance)
        out += wire.i64(self.limit) + wire.u32(self.flags) + wire.i32(1 if self.level else 0)
        if self.level >= 1:
            out += wire.i64(self.buying) + wire.i64(self.selling)
            out += wire.i32(2 if self.level >= 2 else 0)
        if self.level >= 2:
            out += wire.i32(self.pool_uses) + wire.i32(0)
        return out


def _read_trustline(r: Reader) -> TrustLine:
    entry = TrustLine(r.account(), r.asset(), r.i64(), r.i64(), r.u32())
    if r.i32() == 1:
        entry.level, entry.buying, entry.selling = 1, r.i64(), r.i64()
        if r.i32() == 2:
            entry.level, entry.pool_uses = 2, r.i32()
            r.i32()
    return entry


@dataclass(slots=True)
class Offer:
    """OfferEntry; assets are raw XDR, the price is numerator over denominator."""

    seller: bytes
    offer_id: int
    selling: bytes
    buying: bytes
    amount: int
    price_n: int
    price_d: int
    flags: int = 0

    def key(self) -> bytes:
        """LedgerKey XDR."""
        return offer_key(self.seller, self.offer_id)

    def clone(self) -> Offer:
        """Independent copy."""
        return replace(self)

    def encode(self) -> bytes:
        """OfferEntry XDR."""
        out = wire.account_id(self.seller) + wire.i64(self.offer_id) + self.selling + self.buying
        out += wire.i64(self.amount) + wire.i32(self.price_n) + wire.i32(self.price_d)
        return out + wire.u32(self.flags) + wire.i32(0)


def _read_offer(r: Reader) -> Offer:
    entry = Offer(r.account(), r.i64(), r.asset(), r.asset(), r.i64(), r.i32(), r.i32(), r.u32())
    r.i32()
    return entry


@dataclass(slots=True)
class Data:
    """DataEntry of an account."""

    account: bytes
    name: bytes
    value: bytes

    def key(self) -> bytes:
        """LedgerKey XDR."""
        return data_key(self.account, self.name)

    def clone(self) -> Data:
        """Independent copy."""
        return replace(self)

    def encode(self) -> bytes:
        """DataEntry XDR."""
        out = wire.account_id(self.account) + wire.opaque(self.name)
        return out + wire.opaque(self.value) + wire.i32(0)


def _read_data(r: Reader) -> Data:
    entry = Data(r.account(), r.opaque(), r.opaque())
    r.i32()
    return entry


@dataclass(slots=True)
class ClaimableBalance:
    """ClaimableBalanceEntry; `balance_id` is its 32-byte hash."""

    balance_id: bytes
    claimants: tuple[tuple[bytes, Predicate], ...]
    asset: bytes
    amount: int
    level: int = 0
    flags: int = 0

    def key(self) -> bytes:
        """LedgerKey XDR."""
        return claimable_key(self.balance_id)

    def clone(self) -> ClaimableBalance:
        """Independent copy."""
        return replace(self)

    def encode(self) -> bytes:
        """ClaimableBalanceEntry XDR."""
        out = [wire.i32(0), self.balance_id, wire.u32(len(self.claimants))]
        for account, predicate in self.claimants:
            out += [wire.i32(0), wire.account_id(account), encode_predicate(predicate)]
        out += [self.asset, wire.i64(self.amount), wire.i32(1 if self.level else 0)]
        if self.level:
            out += [wire.i32(0), wire.u32(self.flags)]
        return b"".join(out)


def encode_predicate(predicate: Predicate) -> bytes:
    """ClaimPredicate XDR."""
    kind = predicate[0]
    if not isinstance(kind, int):
        raise TypeError(f"predicate kind: got {kind!r}, want an integer")
    out = wire.i32(kind)
    if kind in (1, 2):
        parts = [p for p in predicate[1:] if isinstance(p, tuple)]
        return out + wire.u32(len(parts)) + b"".join(encode_predicate(p) for p in parts)
    if kind == 3:
        inner = predicate[1]
        return out + (
            wire.u32(1) + encode_predicate(inner) if isinstance(inner, tuple) else wire.u32(0)
        )
    if kind in (4, 5) and isinstance(predicate[1], int):
        out += wire.i64(predicate[1])
    return out


def read_predicate(r: Reader) -> Predicate:
    """ClaimPredicate from XDR, of any shape, valid or not."""
    kind = r.i32()
    if kind in (1, 2):
        return (kind, *[read_predicate(r) for _ in range(r.u32())])
    if kind == 3:
        return (kind, read_predicate(r) if r.u32() else None)
    if kind in (4, 5):
        return (kind, r.i64())
    if kind != 0:
        raise XdrError(f"claim predicate type: got {kind}, want 0 to 5")
    return (kind,)


def _read_claimable(r: Reader) -> ClaimableBalance:
    r.i32()
    balance_id = r.take(32)
    claimants = []
    for _ in range(r.u32()):
        r.i32()
        claimants.append((r.account(), read_predicate(r)))
    entry = ClaimableBalance(balance_id, tuple(claimants), r.asset(), r.i64())
    if r.i32() == 1:
        r.i32()
        entry.level, entry.flags = 1, r.u32()
    return entry


@dataclass(slots=True)
class Pool:
    """LiquidityPoolEntry of constant product; `lines` counts the trust lines for its shares."""

    pool_id: bytes
    asset_a: bytes
    asset_b: bytes
    fee: int = 30
    reserve_a: int = 0
    reserve_b: int = 0
    shares: int = 0
    lines: int = 0

    def key(self) -> bytes:
        """LedgerKey XDR."""
        return pool_key(self.pool_id)

    def clone(self) -> Pool:
        """Independent copy."""
        return replace(self)

    def encode(self) -> bytes:
        """LiquidityPoolEntry XDR."""
        out = self.pool_id + wire.i32(0) + self.asset_a + self.asset_b + wire.i32(self.fee)
        out += wire.i64(self.reserve_a) + wire.i64(self.reserve_b)
        return out + wire.i64(self.shares) + wire.i64(self.lines)


def _read_pool(r: Reader) -> Pool:
    pool_id = r.take(32)
    r.i32()
    return Pool(pool_id, r.asset(), r.asset(), r.i32(), r.i64(), r.i64(), r.i64(), r.i64())


Body = Account | TrustLine | Offer | Data | ClaimableBalance | Pool
_KINDS: Final[dict[type, int]] = {
    Account: ACCOUNT,
    TrustLine: TRUSTLINE,
    Offer: OFFER,
    Data: DATA,
    ClaimableBalance: CLAIMABLE_BALANCE,
    Pool: LIQUIDITY_POOL,
}


@dataclass(slots=True)
class Entry:
    """LedgerEntry: a body, the ledger that last modified it, and the sponsor of its reserve.

    `extended` keeps the extension apart from its content: it stays when a sponsor goes.
    """

    body: Body
    modified: int = 0
    sponsor: bytes | None = None
    extended: bool = False

    def clone(self) -> Entry:
        """Independent copy."""
        return Entry(self.body.clone(), self.modified, self.sponsor, self.extended)

    def encode(self) -> bytes:
        """LedgerEntry XDR."""
        out = wire.u32(self.modified) + wire.i32(_KINDS[type(self.body)]) + self.body.encode()
        if not self.extended:
            return out + wire.i32(0)
        return out + wire.i32(1) + wire.optional_account(self.sponsor) + wire.i32(0)


def decode_entry(raw: bytes) -> Entry:
    """Entry from LedgerEntry XDR.

    Raises:
        XdrError: the bytes are not a classic ledger entry.
    """
    r = Reader(raw)
    modified, kind = r.u32(), r.i32()
    body: Body
    if kind == ACCOUNT:
        body = _read_account(r)
    elif kind == TRUSTLINE:
        body = _read_trustline(r)
    elif kind == OFFER:
        body = _read_offer(r)
    elif kind == DATA:
        body = _read_data(r)
    elif kind == CLAIMABLE_BALANCE:
        body = _read_claimable(r)
    elif kind == LIQUIDITY_POOL:
        body = _read_pool(r)
    else:
        raise XdrError(f"ledger entry type: got {kind}, want 0 to 5")
    entry = Entry(body, modified)
    if r.i32() == 1:
        entry.extended, entry.sponsor = True, r.optional_account()
        r.i32()
    r.end()
    return entry


def account_key(account: bytes) -> bytes:
    """LedgerKey XDR of an account."""
    return wire.i32(ACCOUNT) + wire.account_id(account)


def trustline_key(account: bytes, asset: bytes) -> bytes:
    """LedgerKey XDR of a trust line."""
    return wire.i32(TRUSTLINE) + wire.account_id(account) + asset


def offer_key(seller: bytes, offer_id: int) -> bytes:
    """LedgerKey XDR of an offer."""
    return wire.i32(OFFER) + wire.account_id(seller) + wire.i64(offer_id)


def data_key(account: bytes, name: bytes) -> bytes:
    """LedgerKey XDR of a data entry."""
    return wire.i32(DATA) + wire.account_id(account) + wire.opaque(name)


def claimable_key(balance_id: bytes) -> bytes:
    """LedgerKey XDR of a claimable balance."""
    return wire.i32(CLAIMABLE_BALANCE) + wire.i32(0) + balance_id


def pool_key(pool_id: bytes) -> bytes:
    """LedgerKey XDR of a liquidity pool."""
    return wire.i32(LIQUIDITY_POOL) + pool_id
