"""Liquidity pools: the arithmetic of CAP-38, every result code, redemption on revocation."""

from __future__ import annotations

import pytest
from devnet_bench import Bench
from stellar_sdk import (
    Asset,
    ChangeTrust,
    Keypair,
    LiquidityPoolAsset,
    LiquidityPoolDeposit,
    LiquidityPoolWithdraw,
    ManageSellOffer,
    Operation,
    PathPaymentStrictReceive,
    PathPaymentStrictSend,
    Payment,
    Price,
    SetOptions,
    SetTrustLineFlags,
    TrustLineFlags,
)
from stellar_sdk.operation.set_options import AuthorizationFlag

from ledger.devnet.entries import ClaimableBalance, Pool, TrustLine, pool_key, trustline_key
from ledger.devnet.operations.pools import (
    pool_id_of,
    pool_share_asset,
    quote_receive,
    quote_send,
)
from ledger.devnet.results import TxResult
from ledger.devnet.wire import INT64_MAX, NATIVE_ASSET

XLM = Asset.native()


class Scene:
    """An issuer, a provider and a trader who hold USD, and the pool XLM/USD."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.issuer, self.provider, self.trader = self.bench.keys
        self.numbers = dict.fromkeys((key.public_key for key in self.bench.keys), 0)
        self.usd = Asset("USD", self.issuer.public_key)
        self.shares = LiquidityPoolAsset(XLM, self.usd)
        self.pool_id = pool_id_of(NATIVE_ASSET, self.usd.to_xdr_object().to_xdr_bytes())
        assert self.pool_id.hex() == self.shares.liquidity_pool_id
        for key in (self.provider, self.trader):
            self.run(key, ChangeTrust(self.usd))
            self.run(self.issuer, Payment(key.public_key, self.usd, "1000"))

    def run(self, key: Keypair, *operations: Operation) -> TxResult:
        number = self.bench.first + self.numbers[key.public_key]
        self.numbers[key.public_key] += 1
        self.bench.submit(self.bench.tx(key, *operations, sequence=number))
        return self.bench.close().applied[0].result

    def code(self, key: Keypair, operation: Operation) -> int:
        """Inner code of the one operation, 0 = success."""
        return int.from_bytes(self.run(key, operation).operations[0].xdr[8:12], signed=True)

    def deposit(self, xlm: str, usd: str, low: str = "0.01", high: str = "100") -> int:
        prices = Price.from_raw_price(low), Price.from_raw_price(high)
        return self.code(self.provider, LiquidityPoolDeposit(self.id, xlm, usd, *prices))

    @property
    def id(self) -> str:
        return self.pool_id.hex()

    def pool(self) -> Pool | None:
        entry = self.bench.network.world.find(pool_key(self.pool_id))
        return entry.body if entry and isinstance(entry.body, Pool) else None

    def line(self, key: Keypair, asset: bytes) -> TrustLine | None:
        entry = self.bench.network.world.find(trustline_key(key.raw_public_key(), asset))
        return entry.body if entry and isinstance(entry.body, TrustLine) else None


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_quotes_keep_thirty_basis_points_and_never_empty_a_pool() -> None:
    assert quote_send(100, 100, 100) == 49
    assert quote_receive(100, 100, 49) == 97
    assert quote_receive(100, 100, 100) is None
    assert quote_send(10**9, 1, 1) is None
    assert quote_send(INT64_MAX, 10, 1) is None
    assert quote_receive(INT64_MAX, 10, 1) is None


def test_share_line_makes_the_pool_and_the_last_one_takes_it_along(scene: Scene) -> None:
    assert scene.code(scene.provider, ChangeTrust(scene.shares)) == 0
    account = scene.bench.network.account(scene.provider.raw_public_key())
    assert account is not None
    assert account.sub_entries == 3
    usd = scene.usd.to_xdr_object().to_xdr_bytes()
    line = scene.line(scene.provider, usd)
    assert line is not None
    assert line.pool_uses == 1
    assert scene.pool() == Pool(scene.pool_id, NATIVE_ASSET, usd, lines=1)
    assert scene.code(scene.provider, ChangeTrust(scene.usd, "0")) == -3
    scene.run(scene.provider, Payment(scene.issuer.public_key, scene.usd, "1000"))
    assert scene.code(scene.provider, ChangeTrust(scene.usd, "0")) == -7
    assert scene.code(scene.provider, ChangeTrust(scene.shares, "0")) == 0
    assert scene.pool() is None
    assert scene.code(scene.provider, ChangeTrust(scene.usd, "0")) == 0


def test_share_line_needs_its_assets_lines(scene: Scene) -> None:
    stranger = LiquidityPoolAsset(XLM, Asset("EUR", scene.issuer.public_key))
    assert scene.code(scene.provider, ChangeTrust(stranger)) == -6


def test_deposit_gives_the_square_root_then_a_proportion(scene: Scene) -> None:
    assert scene.deposit("1", "1") == -2
    scene.run(scene.provider, ChangeTrust(scene.shares))
    assert scene.deposit("100", "25") == 0
    pool = scene.pool()
    assert pool is not None
    assert (pool.reserve_a, pool.reserve_b, pool.shares) == (10**9, 25 * 10**7, 5 * 10**8)
    assert scene.deposit("10", "25") == 0
    pool = scene.pool()
    assert pool is not None
    assert (pool.reserve_a, pool.reserve_b) == (110 * 10**7, 275 * 10**6)
    assert scene.deposit("10", "10", low="5") == -6
    assert scene.deposit("100000", "10000") == -4
    scene.run(scene.provider, ChangeTrust(scene.shares, "55"))
    assert scene.deposit("1", "1") == -5


def test_withdrawal_gives_the_proportion_within_its_limits(scene: Scene) -> None:
    scene.run(scene.provider, ChangeTrust(scene.shares))
    scene.deposit("100", "25")
    withdraw = LiquidityPoolWithdraw(scene.id, "10", "20", "5")
    assert scene.code(scene.provider, LiquidityPoolWithdraw(scene.id, "51", "0", "0")) == -3
    assert scene.code(scene.provider, LiquidityPoolWithdraw(scene.id, "10", "21", "0")) == -5
    assert scene.code(scene.trader, withdraw) == -2
    assert scene.code(scene.provider, withdraw) == 0
    pool = scene.pool()
    assert pool is not None
    assert (pool.reserve_a, pool.reserve_b, pool.shares) == (80 * 10**7, 20 * 10**7, 40 * 10**7)
    scene.run(scene.provider, ChangeTrust(scene.usd, "981"))
    assert scene.code(scene.provider, LiquidityPoolWithdraw(scene.id, "40", "0", "0")) == -4


def test_path_payment_takes_the_pool_unless_the_book_is_strictly_cheaper(scene: Scene) -> None:
    scene.run(scene.provider, ChangeTrust(scene.shares))
    scene.deposit("100", "100")
    payee = scene.trader.public_key
    receive = PathPaymentStrictReceive(payee, XLM, "20", scene.usd, "10", [])
    before = scene.pool()
    result = scene.run(scene.trader, receive)
    assert result.operations[0].xdr[12:20] == b"\0\0\0\1\0\0\0\2"
    after = scene.pool()
    assert before is not None
    assert after is not None
    asked = quote_receive(10**9, 10**9, 10**8)
    assert (after.reserve_a - before.reserve_a, before.reserve_b - after.reserve_b) == (
        asked,
        10**8,
    )
    scene.run(scene.provider, ManageSellOffer(scene.usd, XLM, "100", Price(1, 2)))
    send = PathPaymentStrictSend(payee, XLM, "10", scene.usd, "1", [])
    result = scene.run(scene.trader, send)
    assert result.operations[0].xdr[12:20] == b"\0\0\0\1\0\0\0\1"
    assert scene.pool() == after


def test_revoked_holder_gets_claimable_balances_for_the_shares(scene: Scene) -> None:
    flags = AuthorizationFlag.AUTHORIZATION_REVOCABLE
    scene.run(scene.issuer, SetOptions(set_flags=flags))
    scene.run(scene.provider, ChangeTrust(scene.shares))
    scene.deposit("100", "25")
    revoke = SetTrustLineFlags(
        scene.provider.public_key, scene.usd, clear_flags=TrustLineFlags.AUTHORIZED_FLAG
    )
    assert scene.code(scene.issuer, revoke) == 0
    assert scene.pool() is None
    assert scene.line(scene.provider, pool_share_asset(scene.pool_id)) is None
    world = scene.bench.network.world
    found = [world.find(key) for key in world.entries if key[3] == 4]
    bodies = [entry.body for entry in found if entry]
    amounts = {b.asset: b.amount for b in bodies if isinstance(b, ClaimableBalance)}
    usd = scene.usd.to_xdr_object().to_xdr_bytes()
    assert amounts == {NATIVE_ASSET: 10**9, usd: 25 * 10**7}
    account = scene.bench.network.account(scene.provider.raw_public_key())
    assert account is not None
    assert (account.sub_entries, account.sponsoring) == (1, 2)
