"""Random transactions on a small devnet, and the sums that every network ledger must keep."""

from __future__ import annotations

import hashlib
from collections import Counter
from decimal import Decimal
from random import Random

from devnet_bench import Bench
from stellar_sdk import (
    AccountMerge,
    Asset,
    BeginSponsoringFutureReserves,
    BumpSequence,
    ChangeTrust,
    Claimant,
    ClaimClaimableBalance,
    ClaimPredicate,
    CreateAccount,
    CreateClaimableBalance,
    CreatePassiveSellOffer,
    EndSponsoringFutureReserves,
    Keypair,
    LiquidityPoolAsset,
    LiquidityPoolDeposit,
    LiquidityPoolWithdraw,
    ManageBuyOffer,
    ManageData,
    ManageSellOffer,
    MuxedAccount,
    Operation,
    PathPaymentStrictReceive,
    PathPaymentStrictSend,
    Payment,
    Price,
    RevokeSponsorship,
    SetOptions,
    SetTrustLineFlags,
    Signer,
    SignerKey,
    TrustLineFlags,
)
from stellar_sdk.operation.set_options import AuthorizationFlag

from ledger.devnet.closing import Closed
from ledger.devnet.entries import (
    Account,
    ClaimableBalance,
    Data,
    Entry,
    Offer,
    Pool,
    TrustLine,
    decode_entry,
)
from ledger.devnet.operations.liabilities import offer_liabilities
from ledger.devnet.sponsorship import reserve_units
from ledger.devnet.wire import NATIVE_ASSET, asset_issuer

PEOPLE = 5


class Traffic:
    """Five people, an issuer who only authorises, two assets, offers, pools, sponsors."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bench = Bench(accounts=PEOPLE + 1)
        self.issuer, *self.people = self.bench.keys
        self.born = 0
        xlm = Asset.native()
        self.issued = [Asset(code, self.issuer.public_key) for code in ("EUR", "USD")]
        self.assets = [xlm, *self.issued]
        first, second = self.issued
        pairs = ((xlm, first), (xlm, second), (first, second))
        self.pools = [LiquidityPoolAsset(a, b) for a, b in pairs]
        self._set_up()

    def _set_up(self) -> None:
        flag = AuthorizationFlag.AUTHORIZATION_REVOCABLE
        self._send(self.issuer, [SetOptions(set_flags=flag)])
        for key in self.people:
            self._send(key, [ChangeTrust(asset) for asset in self.issued])
        self.bench.close()
        payments = [
            Payment(key.public_key, asset, "1000") for key in self.people for asset in self.issued
        ]
        self._send(self.issuer, list(payments))
        for key in self.people:
            pool = self.random.choice(self.pools)
            self._send(key, [ChangeTrust(pool), self._deposit(pool)])
        self.bench.close()

    def _send(self, key: Keypair, operations: list[Operation], *others: Keypair) -> None:
        held = self.bench.network.account(key.raw_public_key())
        if held is None:
            return
        fee = self.random.choice((100, 100, 150, 1_000))
        signers = tuple(dict.fromkeys((key, *others)))
        tx = self.bench.tx(key, *operations, sequence=held.sequence + 1, fee=fee, signers=signers)
        if key is not self.issuer and self.random.random() < 0.1:
            tx = self.bench.bump(self.random.choice(self.people), tx, 1_000)
        self.bench.submit(tx)

    def close(self) -> Closed:
        """Submit something from most people, then close a network ledger."""
        for key in self.random.sample(self.people, self.random.randint(2, PEOPLE)):
            if self.random.random() < 0.3:
                other = self._other(key)
                inner = [self._operation(other) for _ in range(self.random.randint(1, 2))]
                for operation in inner:
                    if operation.source is None:
                        operation.source = MuxedAccount(other.public_key)
                begin = BeginSponsoringFutureReserves(other.public_key)
                end = EndSponsoringFutureReserves(source=other.public_key)
                self._send(key, [begin, *inner, end], other)
            else:
                operations = [self._operation(key) for _ in range(self.random.randint(1, 4))]
                self._send(key, operations)
        if self.random.random() < 0.3:
            self._send(self.issuer, [self._authorisation()])
        return self.bench.close(self.random.choice((1, 5, 60)))

    def _other(self, key: Keypair) -> Keypair:
        return self.random.choice([person for person in self.people if person is not key])

    def _amount(self, most: int = 200) -> str:
        stroops = self.random.choice((1, 7, self.random.randint(1, most * 10**7)))
        return str(Decimal(stroops) / 10**7)

    def _price(self) -> Price:
        return Price(self.random.randint(1, 30), self.random.randint(1, 30))

    def _authorisation(self) -> Operation:
        trustor = self.random.choice(self.people).public_key
        asset = self.random.choice(self.issued)
        if self.random.random() < 0.5:
            every = TrustLineFlags.AUTHORIZED_FLAG
            return SetTrustLineFlags(trustor, asset, clear_flags=every)
        return SetTrustLineFlags(trustor, asset, set_flags=TrustLineFlags.AUTHORIZED_FLAG)

    def _entries(self) -> list[Entry]:
        return [decode_entry(raw) for raw in self.bench.network.world.entries.values()]

    def _operation(self, key: Keypair) -> Operation:
        makers = (
            self._payment, self._payment, self._path, self._offer, self._offer, self._offer,
            self._trust, self._pool, self._pool, self._own, self._claimable, self._claimable,
            self._birth, self._revoke,
        )  # fmt: skip
        return self.random.choice(makers)(key)

    def _payment(self, key: Keypair) -> Operation:
        payee = self.random.choice(self.people).public_key
        return Payment(payee, self.random.choice(self.assets), self._amount())

    def _path(self, _key: Keypair) -> Operation:
        give, take = self.random.sample(self.assets, 2)
        payee, path = self.random.choice(self.people).public_key, list[Asset]()
        if self.random.random() < 0.3:
            path = [self.random.choice(self.assets)]
        if self.random.random() < 0.5:
            return PathPaymentStrictReceive(payee, give, "5000", take, self._amount(50), path)
        return PathPaymentStrictSend(payee, give, self._amount(50), take, "0.0000001", path)

    def _offer(self, key: Keypair) -> Operation:
        sell, buy = self.random.sample(self.assets, 2)
        amount, price, number = self._amount(), self._price(), 0
        mine = [
            e.body.offer_id
            for e in self._entries()
            if isinstance(e.body, Offer) and e.body.seller == key.raw_public_key()
        ]
        if mine and self.random.random() < 0.3:
            number = self.random.choice(mine)
            amount = self.random.choice((amount, "0"))
        kind = self.random.random()
        if kind < 0.2 and not number:
            return CreatePassiveSellOffer(sell, buy, amount, price)
        if kind < 0.6:
            return ManageBuyOffer(sell, buy, amount, price, number)
        return ManageSellOffer(sell, buy, amount, price, number)

    def _trust(self, _key: Keypair) -> Operation:
        limit = self.random.choice((None, "0", "1500", "900"))
        lines: list[Asset | LiquidityPoolAsset] = [*self.issued, *self.pools, *self.pools]
        line = self.random.choice(lines)
        return ChangeTrust(line, limit) if limit else ChangeTrust(line)

    def _deposit(self, pool: LiquidityPoolAsset) -> Operation:
        least, most = Price(1, 1000), Price(1000, 1)
        a, b = self._amount(100), self._amount(100)
        return LiquidityPoolDeposit(pool.liquidity_pool_id, a, b, least, most)

    def _pool(self, _key: Keypair) -> Operation:
        pool = self.random.choice(self.pools)
        if self.random.random() < 0.7:
            return self._deposit(pool)
        return LiquidityPoolWithdraw(pool.liquidity_pool_id, self._amount(20), "0", "0")

    def _own(self, key: Keypair) -> Operation:
        kind = self.random.randrange(4)
        if kind == 0:
            name = self.random.choice("abc")
            return ManageData(name, self.random.choice((None, b"1", b"22")))
        if kind == 1:
            return BumpSequence(0)
        signer = Signer.ed25519_public_key(self._other(key).public_key, self.random.randint(0, 1))
        return SetOptions(signer=signer)

    def _claimable(self, _key: Keypair) -> Operation:
        held = [e.body for e in self._entries() if isinstance(e.body, ClaimableBalance)]
        if held and self.random.random() < 0.6:
            return ClaimClaimableBalance("00000000" + self.random.choice(held).balance_id.hex())
        later = ClaimPredicate.predicate_not(
            ClaimPredicate.predicate_before_relative_time(self.random.randint(0, 100))
        )
        people = self.random.sample(self.people, self.random.randint(1, 3))
        claimants = [Claimant(p.public_key, self.random.choice((None, later))) for p in people]
        return CreateClaimableBalance(self.random.choice(self.assets), self._amount(), claimants)

    def _birth(self, key: Keypair) -> Operation:
        if self.random.random() < 0.3:
            return AccountMerge(self._other(key).public_key)
        self.born += 1
        child = Keypair.from_raw_ed25519_seed(hashlib.sha256(b"child %d" % self.born).digest())
        return CreateAccount(child.public_key, self.random.choice(("0", "1", "5")))

    def _revoke(self, key: Keypair) -> Operation:
        wanted = self.random.choice([e.body for e in self._entries()])
        owner = getattr(wanted, "account", getattr(wanted, "seller", key.raw_public_key()))
        name = Keypair.from_raw_ed25519_public_key(owner).public_key
        if isinstance(wanted, Account) and wanted.signers and self.random.random() < 0.5:
            other = Keypair.from_raw_ed25519_public_key(wanted.signers[0].key[4:36]).public_key
            signer = SignerKey.ed25519_public_key(other)
            return RevokeSponsorship.revoke_signer_sponsorship(name, signer)
        if isinstance(wanted, Offer):
            return RevokeSponsorship.revoke_offer_sponsorship(name, wanted.offer_id)
        if isinstance(wanted, Data):
            return RevokeSponsorship.revoke_data_sponsorship(name, wanted.name.decode())
        if isinstance(wanted, ClaimableBalance):
            number = "00000000" + wanted.balance_id.hex()
            return RevokeSponsorship.revoke_claimable_balance_sponsorship(number)
        if isinstance(wanted, TrustLine) and wanted.asset[3] != 3:
            asset = self.issued[0] if b"EUR" in wanted.asset else self.issued[1]
            return RevokeSponsorship.revoke_trustline_sponsorship(name, asset)
        return RevokeSponsorship.revoke_account_sponsorship(name)


def broken_sums(bench: Bench) -> list[str]:
    """What does not add up in a world, in words; empty if all does."""
    header = bench.network.header
    entries = [decode_entry(raw) for raw in bench.network.world.entries.values()]
    return [
        *_broken_coins(entries, header.fee_pool, header.total_coins),
        *_broken_counts(entries),
        *_broken_liabilities(entries),
        *_broken_pools(entries),
    ]


def issued_amounts(bench: Bench) -> Counter[bytes]:
    """Stroops of every credit asset that are in somebody's hands."""
    found: Counter[bytes] = Counter()
    for raw in bench.network.world.entries.values():
        body = decode_entry(raw).body
        if isinstance(body, TrustLine) and body.asset[3] != 3:
            found[body.asset] += body.balance
        elif isinstance(body, ClaimableBalance):
            found[body.asset] += body.amount
        elif isinstance(body, Pool):
            found[body.asset_a] += body.reserve_a
            found[body.asset_b] += body.reserve_b
    found.pop(NATIVE_ASSET, None)
    return found


def _broken_coins(entries: list[Entry], fee_pool: int, total: int) -> list[str]:
    coins = fee_pool
    broken = []
    for body in (entry.body for entry in entries):
        if isinstance(body, Account):
            coins += body.balance
        elif isinstance(body, ClaimableBalance) and body.asset == NATIVE_ASSET:
            coins += body.amount
        elif isinstance(body, Pool) and body.asset_a == NATIVE_ASSET:
            coins += body.reserve_a
        if isinstance(body, TrustLine) and not 0 <= body.balance <= body.limit:
            broken.append(f"balance {body.balance} of limit {body.limit}")
        if isinstance(body, Account) and body.balance < 0:
            broken.append(f"balance {body.balance}")
    return broken + ([f"coins {coins} of {total}"] if coins != total else [])


def _broken_counts(entries: list[Entry]) -> list[str]:
    subs: Counter[bytes] = Counter()
    sponsoring: Counter[bytes] = Counter()
    sponsored: Counter[bytes] = Counter()
    accounts = [entry.body for entry in entries if isinstance(entry.body, Account)]
    for entry in entries:
        body, units = entry.body, 0 if isinstance(entry.body, Pool) else reserve_units(entry)
        owner = body.seller if isinstance(body, Offer) else getattr(body, "account", None)
        if isinstance(body, TrustLine | Offer | Data):
            subs[owner] += units
        if entry.sponsor is not None:
            sponsoring[entry.sponsor] += units
            if owner is not None:
                sponsored[owner] += units
        if isinstance(body, ClaimableBalance) and entry.sponsor is None:
            return ["claimable balance without a sponsor"]
    for account in accounts:
        for signer in account.signers:
            subs[account.account] += 1
            if signer.sponsor is not None:
                sponsoring[signer.sponsor] += 1
                sponsored[account.account] += 1
    broken = []
    for account in accounts:
        key = account.account
        got = (account.sub_entries, account.sponsoring, account.sponsored)
        want = (subs.pop(key, 0), sponsoring.pop(key, 0), sponsored.pop(key, 0))
        if got != want:
            broken.append(f"counts of {key.hex()[:8]}: {got} of {want}")
    left = [*subs, *sponsoring, *sponsored]
    return broken + [f"entries of no account {key.hex()[:8]}" for key in left]


def _broken_liabilities(entries: list[Entry]) -> list[str]:
    bound: Counter[tuple[bytes, bytes, str]] = Counter()
    for body in (entry.body for entry in entries):
        if isinstance(body, Offer):
            selling, buying = offer_liabilities((body.price_n, body.price_d), body.amount)
            if body.amount <= 0:
                return [f"offer {body.offer_id} of amount {body.amount}"]
            bound[body.seller, body.selling, "selling"] += selling
            bound[body.seller, body.buying, "buying"] += buying
    broken = []
    for body in (entry.body for entry in entries):
        if isinstance(body, Account | TrustLine):
            asset = NATIVE_ASSET if isinstance(body, Account) else body.asset
            for side in ("selling", "buying"):
                want = bound.pop((body.account, asset, side), 0)
                if getattr(body, side) != want:
                    broken.append(f"{side} of {body.account.hex()[:8]}: not {want}")
        if isinstance(body, TrustLine) and not (
            body.selling <= body.balance <= body.limit - body.buying
        ):
            broken.append("trust line bound beyond its balance or limit")
    left = [key for key in bound if bound[key] and asset_issuer(key[1]) != key[0]]
    return broken + [f"liabilities without a holder: {len(left)}"] * bool(left)


def _broken_pools(entries: list[Entry]) -> list[str]:
    shares: Counter[bytes] = Counter()
    lines: Counter[bytes] = Counter()
    uses: Counter[tuple[bytes, bytes]] = Counter()
    pools = {e.body.pool_id: e.body for e in entries if isinstance(e.body, Pool)}
    held = [e.body for e in entries if isinstance(e.body, TrustLine)]
    for line in held:
        if line.asset[3] == 3:
            shares[line.asset[4:]] += line.balance
            lines[line.asset[4:]] += 1
            pool = pools[line.asset[4:]]
            for asset in (pool.asset_a, pool.asset_b):
                uses[line.account, asset] += 1
    broken = []
    for pool in pools.values():
        if (pool.shares, pool.lines) != (shares[pool.pool_id], lines[pool.pool_id]):
            broken.append(f"pool {pool.pool_id.hex()[:8]}: shares or lines")
        if (pool.shares == 0) != (pool.reserve_a == 0 and pool.reserve_b == 0):
            broken.append(f"pool {pool.pool_id.hex()[:8]}: reserves without shares")
    wrong = [line for line in held if line.asset[3] != 3]
    wrong = [line for line in wrong if line.pool_uses != uses[line.account, line.asset]]
    return broken + [f"pool uses of a line: {line.pool_uses}" for line in wrong]
