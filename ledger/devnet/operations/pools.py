"""Liquidity pools of constant product (CAP-38): deposit, withdraw, trade, redeem on revocation.

A pool lives as long as somebody holds a trust line for its shares. Fee and rounding are the
protocol's; what the pool keeps of a trade stays in its reserves.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

from ledger.devnet import wire
from ledger.devnet.balances import (
    Holding,
    IssuerLine,
    add_holding,
    add_native,
    available_balance,
    holding,
    holding_authorized,
)
from ledger.devnet.entries import (
    CLAIMABLE_CLAWBACK,
    TRUSTLINE,
    TRUSTLINE_CLAWBACK,
    ClaimableBalance,
    Entry,
    Pool,
    TrustLine,
    pool_key,
    trustline_key,
)
from ledger.devnet.envelope import arm
from ledger.devnet.freezing import holding_key
from ledger.devnet.operations.base import Call, Handler, source_account
from ledger.devnet.results import OpResult, fail, succeed
from ledger.devnet.sponsorship import (
    Sponsoring,
    create_reserve,
    establish,
    release_reserve,
)
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import INT64_MAX, NATIVE_ASSET, asset_issuer

POOL_FEE: Final = 30
_FEE_SCALE: Final = 10_000
_REVOKE_ID: Final = 7
_CLAIM_ATOM_POOL: Final = 2
_UNCONDITIONAL: Final = (0,)


def pool_share_asset(pool_id: bytes) -> bytes:
    """TrustLineAsset XDR of a pool's shares."""
    return wire.i32(3) + pool_id


def pool_id_of(first: bytes, second: bytes) -> bytes:
    """Id of the pool of two assets, in either order."""
    low, high = sorted((first, second))
    return hashlib.sha256(wire.i32(0) + low + high + wire.i32(POOL_FEE)).digest()


def pool_at(overlay: Overlay, pool_id: bytes) -> Pool | None:
    """A pool, for writing."""
    entry = overlay.load(pool_key(pool_id))
    return entry.body if entry and isinstance(entry.body, Pool) else None


def _need_pool(overlay: Overlay, pool_id: bytes) -> Pool:
    pool = pool_at(overlay, pool_id)
    if pool is None:
        raise StateError("pool: got none, want one under its share line")
    return pool


# Trust lines for shares


def count_use(overlay: Overlay, account: bytes, asset: bytes, delta: int) -> None:
    """Note on a trust line that one more or one fewer pool share line stands on it."""
    if asset == NATIVE_ASSET or asset_issuer(asset) == account:
        return
    line = overlay.trustline(account, asset)
    if line is None:
        raise StateError("pool use: got no trust line, want the pool's asset held")
    line.level = 2
    line.pool_uses += delta
    if line.pool_uses < 0:
        raise StateError(f"pool uses: got {line.pool_uses}, want 0 or more")


def add_shareholder(overlay: Overlay, pool_id: bytes, assets: tuple[bytes, bytes]) -> None:
    """Count one more share line, making the pool if it is the first."""
    pool = pool_at(overlay, pool_id)
    if pool is None:
        overlay.create(Pool(pool_id=pool_id, asset_a=assets[0], asset_b=assets[1], lines=1))
    else:
        pool.lines += 1


def drop_shareholder(overlay: Overlay, pool_id: bytes, account: bytes) -> None:
    """Count one share line less on pool and assets; the last one takes the pool along."""
    pool = _need_pool(overlay, pool_id)
    for asset in (pool.asset_a, pool.asset_b):
        count_use(overlay, account, asset, -1)
    pool.lines -= 1
    if pool.lines == 0:
        overlay.erase(pool_key(pool_id))


# Deposit and withdraw


def _is_frozen(overlay: Overlay, account: bytes, assets: tuple[bytes, bytes]) -> bool:
    lines = [holding_key(account, asset) for asset in assets if asset != NATIVE_ASSET]
    return any(key in overlay.header.frozen for key in lines)


def _line(overlay: Overlay, account: bytes, asset: bytes) -> Holding | None:
    """The holding behind a credit asset of a pool, None for the native one."""
    if asset == NATIVE_ASSET:
        return None
    found = holding(overlay, account, asset)
    if found is None:
        raise StateError("pool asset: got no trust line, want one under a share line")
    return found


def _spendable(overlay: Overlay, call: Call, line: Holding | None) -> int:
    if line is None:
        return available_balance(overlay.header, source_account(overlay, call))
    if isinstance(line, IssuerLine):
        return INT64_MAX
    return line.balance - line.selling


def _move(overlay: Overlay, call: Call, line: Holding | None, delta: int) -> bool:
    if line is None:
        return add_native(overlay.header, source_account(overlay, call), delta)
    return add_holding(line, delta)


def _check_deposit(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.liquidity_pool_deposit_op)
    low = (body.min_price.n.int32, body.min_price.d.int32)
    high = (body.max_price.n.int32, body.max_price.d.int32)
    if body.max_amount_a.int64 <= 0 or body.max_amount_b.int64 <= 0:
        return -1
    if min(*low, *high) <= 0 or low[0] * high[1] > low[1] * high[0]:
        return -1
    return None


def _amounts(pool: Pool, most_a: int, most_b: int) -> tuple[int, int, int]:
    """What a deposit takes of both assets, and the shares it gives."""
    if pool.shares == 0:
        return most_a, most_b, math.isqrt(most_a * most_b)
    by_a = pool.shares * most_a // pool.reserve_a
    by_b = pool.shares * most_b // pool.reserve_b
    shares = min(by_a, by_b)
    return (
        -(-shares * pool.reserve_a // pool.shares),
        -(-shares * pool.reserve_b // pool.shares),
        shares,
    )


def _apply_deposit(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.liquidity_pool_deposit_op)
    pool_id = body.liquidity_pool_id.pool_id.hash
    share_line = overlay.trustline(call.source, pool_share_asset(pool_id))
    if share_line is None:
        return fail(call.kind, -2)
    pool = _need_pool(overlay, pool_id)
    line_a, line_b = (_line(overlay, call.source, a) for a in (pool.asset_a, pool.asset_b))
    if any(line is not None and not holding_authorized(line) for line in (line_a, line_b)):
        return fail(call.kind, -3)
    if _is_frozen(overlay, call.source, (pool.asset_a, pool.asset_b)):
        return fail(call.kind, -8)
    a, b, shares = _amounts(pool, body.max_amount_a.int64, body.max_amount_b.int64)
    if _spendable(overlay, call, line_a) < a or _spendable(overlay, call, line_b) < b:
        return fail(call.kind, -4)
    low, high = body.min_price, body.max_price
    if a * b == 0 or a * low.d.int32 < b * low.n.int32 or a * high.d.int32 > b * high.n.int32:
        return fail(call.kind, -6)
    if share_line.limit - share_line.balance < shares:
        return fail(call.kind, -5)
    if max(pool.reserve_a + a, pool.reserve_b + b, pool.shares + shares) > INT64_MAX:
        return fail(call.kind, -7)
    if shares <= 0 or not (_move(overlay, call, line_a, -a) and _move(overlay, call, line_b, -b)):
        raise StateError("deposit: got amounts that do not move, want those just checked")
    pool.reserve_a += a
    pool.reserve_b += b
    pool.shares += shares
    share_line.balance += shares
    return succeed(call.kind)


def _check_withdraw(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.liquidity_pool_withdraw_op)
    least = min(body.min_amount_a.int64, body.min_amount_b.int64)
    return -1 if body.amount.int64 <= 0 or least < 0 else None


def _apply_withdraw(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.liquidity_pool_withdraw_op)
    pool_id, amount = body.liquidity_pool_id.pool_id.hash, body.amount.int64
    share_line = overlay.trustline(call.source, pool_share_asset(pool_id))
    if share_line is None:
        return fail(call.kind, -2)
    if share_line.balance < amount:
        return fail(call.kind, -3)
    pool = _need_pool(overlay, pool_id)
    if _is_frozen(overlay, call.source, (pool.asset_a, pool.asset_b)):
        return fail(call.kind, -6)
    a = amount * pool.reserve_a // pool.shares
    b = amount * pool.reserve_b // pool.shares
    wanted = (
        (pool.asset_a, a, body.min_amount_a.int64),
        (pool.asset_b, b, body.min_amount_b.int64),
    )
    for asset, out, least in wanted:
        if out < least:
            return fail(call.kind, -5)
        if not _move(overlay, call, _line(overlay, call.source, asset), out):
            return fail(call.kind, -4)
    share_line.balance -= amount
    pool.shares -= amount
    pool.reserve_a -= a
    pool.reserve_b -= b
    return succeed(call.kind)


# Trade


def quote_send(reserve_in: int, reserve_out: int, sent: int) -> int | None:
    """What a pool gives for exactly `sent`; None when it cannot trade."""
    if sent > INT64_MAX - reserve_in:
        return None
    keep = _FEE_SCALE - POOL_FEE
    given = keep * reserve_out * sent // (_FEE_SCALE * reserve_in + keep * sent)
    return given or None


def quote_receive(reserve_in: int, reserve_out: int, received: int) -> int | None:
    """What a pool asks for exactly `received`; None when it cannot trade."""
    if received >= reserve_out:
        return None
    keep = _FEE_SCALE - POOL_FEE
    asked = -(-_FEE_SCALE * reserve_in * received // ((reserve_out - received) * keep))
    return asked if asked <= INT64_MAX - reserve_in else None


def quote(
    overlay: Overlay, sheep: bytes, wheat: bytes, *, sent: int | None, received: int | None
) -> tuple[int, int] | None:
    """(sheep, wheat) a trade of exactly one amount would move; None without a pool for it."""
    entry = overlay.find(pool_key(pool_id_of(sheep, wheat)))
    pool = entry.body if entry else None
    if not isinstance(pool, Pool) or pool.reserve_a <= 0 or pool.reserve_b <= 0:
        return None
    sides = (pool.reserve_a, pool.reserve_b)
    into, out_of = sides if sheep == pool.asset_a else sides[::-1]
    if sent is not None:
        given = quote_send(into, out_of, sent)
        return None if given is None else (sent, given)
    asked = quote_receive(into, out_of, received or 0)
    return None if asked is None else (asked, received or 0)


def trade(overlay: Overlay, sheep: bytes, wheat: bytes, moved: tuple[int, int]) -> bytes:
    """Carry out a quoted trade; its ClaimAtom XDR."""
    pool_id = pool_id_of(sheep, wheat)
    pool = _need_pool(overlay, pool_id)
    into, out_of = moved
    if sheep == pool.asset_a:
        pool.reserve_a, pool.reserve_b = pool.reserve_a + into, pool.reserve_b - out_of
    else:
        pool.reserve_a, pool.reserve_b = pool.reserve_a - out_of, pool.reserve_b + into
    atom = wire.i32(_CLAIM_ATOM_POOL) + pool_id + wheat + wire.i64(out_of)
    return atom + sheep + wire.i64(into)


# An issuer withdraws authorisation


def revoke_id(call: Call, pool_id: bytes, asset: bytes) -> bytes:
    """Id of the claimable balance that a redeemed share line leaves for one asset."""
    tx = call.transaction
    preimage = wire.i32(_REVOKE_ID) + wire.account_id(tx.source) + wire.i64(tx.sequence)
    return hashlib.sha256(preimage + wire.u32(call.index) + pool_id + asset).digest()


def redeem_shares(overlay: Overlay, call: Call, account: bytes, asset: bytes) -> Sponsoring:
    """Turn an account's pool shares that stand on an asset into claimable balances."""
    prefix = wire.i32(TRUSTLINE) + wire.account_id(account) + wire.i32(3)
    for key in sorted(k for k in overlay.owned(prefix[:40]) if k.startswith(prefix)):
        pool_entry = overlay.find(pool_key(key[44:]))
        pool = pool_entry.body if pool_entry else None
        if not isinstance(pool, Pool) or asset not in (pool.asset_a, pool.asset_b):
            continue
        verdict = _redeem_line(overlay, call, account, key[44:])
        if verdict is not Sponsoring.SUCCESS:
            return verdict
    return Sponsoring.SUCCESS


def _redeem_line(overlay: Overlay, call: Call, account: bytes, pool_id: bytes) -> Sponsoring:
    key = trustline_key(account, pool_share_asset(pool_id))
    entry = overlay.load(key)
    if entry is None or not isinstance(entry.body, TrustLine):
        raise StateError("share line: got none, want the one just found")
    shares, backer = entry.body.balance, entry.sponsor or account
    release_reserve(overlay, entry, overlay.need_account(account))
    overlay.erase(key)
    pool = _need_pool(overlay, pool_id)
    if shares:
        a = shares * pool.reserve_a // pool.shares
        b = shares * pool.reserve_b // pool.shares
        for asset, amount in ((pool.asset_a, a), (pool.asset_b, b)):
            verdict = _leave_claimable(overlay, call, account, pool_id, asset, amount, backer)
            if verdict is not Sponsoring.SUCCESS:
                return verdict
        pool.shares -= shares
        pool.reserve_a -= a
        pool.reserve_b -= b
    drop_shareholder(overlay, pool_id, account)
    return Sponsoring.SUCCESS


def _leave_claimable(
    overlay: Overlay,
    call: Call,
    account: bytes,
    pool_id: bytes,
    asset: bytes,
    amount: int,
    backer: bytes,
) -> Sponsoring:
    """One claimable balance; it takes over the reserve that the share line gave back."""
    if amount == 0 or asset_issuer(asset) == account:
        return Sponsoring.SUCCESS
    made = ClaimableBalance(
        balance_id=revoke_id(call, pool_id, asset),
        claimants=((account, _UNCONDITIONAL),),
        asset=asset,
        amount=amount,
    )
    if asset != NATIVE_ASSET:
        line = overlay.trustline(account, asset)
        if line is not None and line.flags & TRUSTLINE_CLAWBACK:
            made.level, made.flags = 1, CLAIMABLE_CLAWBACK
    entry, payer = Entry(made), overlay.need_account(backer)
    if backer in overlay.sponsorships:
        verdict = create_reserve(overlay, entry, payer)
        if verdict is not Sponsoring.SUCCESS:
            return verdict
    else:
        establish(entry, payer, None)
    overlay.create(made, entry)
    return Sponsoring.SUCCESS


HANDLERS: Final = {
    22: Handler(_check_deposit, _apply_deposit, since=18),
    23: Handler(_check_withdraw, _apply_withdraw, since=18),
}
