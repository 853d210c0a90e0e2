"""Trust lines: change trust, allow trust, set trust line flags, clawback."""

from __future__ import annotations

import hashlib
from typing import Final

from ledger.devnet.balances import IssuerLine, holding, may_maintain
from ledger.devnet.entries import (
    AUTH_CLAWBACK_ENABLED,
    AUTH_REQUIRED,
    AUTH_REVOCABLE,
    AUTHORIZED,
    MAINTAIN_LIABILITIES,
    TRUSTLINE_CLAWBACK,
    Entry,
    TrustLine,
    trustline_key,
)
from ledger.devnet.envelope import account_key_of, arm, muxed_key
from ledger.devnet.operations import offers, pools
from ledger.devnet.operations.base import Call, Handler, Threshold, reserve_failure, source_account
from ledger.devnet.results import OpResult, fail, succeed
from ledger.devnet.sponsorship import Sponsoring, create_reserve, release_reserve
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import NATIVE_ASSET, account_id, asset_is_valid, asset_issuer

_AUTH_FLAGS: Final = AUTHORIZED | MAINTAIN_LIABILITIES
_ALL_FLAGS: Final = _AUTH_FLAGS | TRUSTLINE_CLAWBACK


# Change trust


def _pool_assets(call: Call) -> tuple[bytes, bytes] | None:
    """Both assets of the pool whose shares are to be trusted, None for another line."""
    pool = arm(call.body.change_trust_op).line.liquidity_pool
    if pool is None:
        return None
    product = arm(pool.constant_product)
    return product.asset_a.to_xdr_bytes(), product.asset_b.to_xdr_bytes()


def _trust_asset(call: Call) -> bytes:
    """TrustLineAsset XDR of the line."""
    line = arm(call.body.change_trust_op).line
    if line.liquidity_pool is None:
        return line.to_xdr_bytes()
    pool_id = hashlib.sha256(line.liquidity_pool.to_xdr_bytes()).digest()
    return pools.pool_share_asset(pool_id)


def _check_change(call: Call, protocol: int) -> int | None:
    body, assets = arm(call.body.change_trust_op), _pool_assets(call)
    if body.limit.int64 < 0:
        return -1
    if assets is not None:
        fee = arm(arm(body.line.liquidity_pool).constant_product).fee.int32
        valid = all(asset_is_valid(asset) for asset in assets) and assets[0] < assets[1]
        return None if valid and fee == pools.POOL_FEE and protocol >= 18 else -1
    asset = _trust_asset(call)
    if not asset_is_valid(asset) or asset_issuer(asset) in (None, call.source):
        return -1
    return None


def _apply_change(overlay: Overlay, call: Call) -> OpResult:
    asset, limit = _trust_asset(call), arm(call.body.change_trust_op).limit.int64
    issuer = asset_issuer(asset)
    entry = overlay.load(trustline_key(call.source, asset))
    if entry is None:
        return _new_line(overlay, call, asset, limit)
    line = entry.body
    if not isinstance(line, TrustLine):
        raise StateError("trust line: got another entry, want a trust line")
    if limit < line.balance + line.buying:
        return fail(call.kind, -3)
    if limit == 0:
        if line.pool_uses:
            return fail(call.kind, -7)
        release_reserve(overlay, entry, source_account(overlay, call))
        overlay.erase(trustline_key(call.source, asset))
        if issuer is None:
            pools.drop_shareholder(overlay, asset[4:], call.source)
        return succeed(call.kind)
    if issuer is not None and overlay.peek_account(issuer) is None:
        return fail(call.kind, -2)
    line.limit = limit
    return succeed(call.kind)


def _new_line(overlay: Overlay, call: Call, asset: bytes, limit: int) -> OpResult:
    if limit == 0:
        return fail(call.kind, -3)
    flags, assets = 0, _pool_assets(call)
    if assets is None:
        issuer = overlay.peek_account(arm(asset_issuer(asset)))
        if issuer is None:
            return fail(call.kind, -2)
        flags = 0 if issuer.flags & AUTH_REQUIRED else AUTHORIZED
        if issuer.flags & AUTH_CLAWBACK_ENABLED:
            flags |= TRUSTLINE_CLAWBACK
    else:
        code = _join_pool(overlay, call, asset[4:], assets)
        if code is not None:
            return fail(call.kind, code)
    line = TrustLine(account=call.source, asset=asset, limit=limit, flags=flags)
    entry = Entry(line)
    verdict = create_reserve(overlay, entry, source_account(overlay, call))
    if verdict is not Sponsoring.SUCCESS:
        return reserve_failure(verdict, fail(call.kind, -4))
    overlay.create(line, entry)
    return succeed(call.kind)


def _join_pool(
    overlay: Overlay, call: Call, pool_id: bytes, assets: tuple[bytes, bytes]
) -> int | None:
    """Count a new share line on its assets and its pool, or the code why it may not stand."""
    for asset in assets:
        held = holding(overlay, call.source, asset) if asset != NATIVE_ASSET else IssuerLine()
        if held is None:
            return -6
        if isinstance(held, TrustLine) and not may_maintain(held):
            return -8
        pools.count_use(overlay, call.source, asset, 1)
    pools.add_shareholder(overlay, pool_id, assets)
    return None


# Allow trust and set trust line flags


def _change_flags(
    overlay: Overlay, call: Call, trustor: bytes, asset: bytes, expected: int, low_reserve: int
) -> OpResult:
    """Set a line's flags; one that may hold nothing any more loses its offers and pool shares."""
    line = overlay.trustline(trustor, asset)
    if line is None:
        raise StateError("trust line: got none, want the one just found")
    if may_maintain(line) and not expected & _AUTH_FLAGS:
        offers.remove_offers(overlay, trustor, asset)
        verdict = pools.redeem_shares(overlay, call, trustor, asset)
        if verdict is not Sponsoring.SUCCESS:
            return reserve_failure(verdict, fail(call.kind, low_reserve))
    line.flags = expected
    return succeed(call.kind)


def _allowed_asset(call: Call) -> bytes:
    code = arm(call.body.allow_trust_op).asset
    return code.to_xdr_bytes() + account_id(call.source)


def _check_allow(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.allow_trust_op)
    authorize = body.authorize.uint32
    if authorize > _AUTH_FLAGS or authorize == _AUTH_FLAGS:
        return -1
    if not asset_is_valid(_allowed_asset(call)):
        return -1
    return -1 if account_key_of(body.trustor) == call.source else None


def _apply_allow(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.allow_trust_op)
    authorize, trustor = body.authorize.uint32, account_key_of(body.trustor)
    source = overlay.peek_account(call.source)
    revocable = bool(source and source.flags & AUTH_REVOCABLE)
    if not revocable and authorize == 0:
        return fail(call.kind, -4)
    asset = _allowed_asset(call)
    line = overlay.trustline(trustor, asset)
    if line is None:
        return fail(call.kind, -2)
    expected = (line.flags & ~_AUTH_FLAGS) | authorize
    if not revocable and line.flags & AUTHORIZED and expected & MAINTAIN_LIABILITIES:
        return fail(call.kind, -4)
    return _change_flags(overlay, call, trustor, asset, expected, -6)


def _check_flags(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.set_trust_line_flags_op)
    asset, trustor = body.asset.to_xdr_bytes(), account_key_of(body.trustor)
    wanted, cleared = body.set_flags.uint32, body.clear_flags.uint32
    if not asset_is_valid(asset) or asset_issuer(asset) != call.source or trustor == call.source:
        return -1
    if wanted & cleared or wanted & ~_AUTH_FLAGS or wanted == _AUTH_FLAGS:
        return -1
    return -1 if cleared & ~_ALL_FLAGS else None


def _apply_flags(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.set_trust_line_flags_op)
    asset, trustor = body.asset.to_xdr_bytes(), account_key_of(body.trustor)
    wanted, cleared = body.set_flags.uint32, body.clear_flags.uint32
    source = overlay.peek_account(call.source)
    revocable = bool(source and source.flags & AUTH_REVOCABLE)
    if not revocable and cleared & _AUTH_FLAGS and not wanted & AUTHORIZED:
        return fail(call.kind, -3)
    line = overlay.trustline(trustor, asset)
    if line is None:
        return fail(call.kind, -2)
    expected = (line.flags & ~cleared) | wanted
    if expected & _AUTH_FLAGS == _AUTH_FLAGS:
        return fail(call.kind, -4)
    return _change_flags(overlay, call, trustor, asset, expected, -5)


# CAP-35: clawback of what a holder has


def _check_clawback(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.clawback_op)
    asset = body.asset.to_xdr_bytes()
    # The protocol compares with the unmuxed source: a muxed address of it is not "oneself" here.
    if body.from_.ed25519 is not None and muxed_key(body.from_) == call.source:
        return -1
    if body.amount.int64 < 1 or not asset_is_valid(asset):
        return -1
    return None if asset_issuer(asset) == call.source else -1


def _apply_clawback(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.clawback_op)
    line = overlay.trustline(muxed_key(body.from_), body.asset.to_xdr_bytes())
    if line is None:
        return fail(call.kind, -3)
    if not line.flags & TRUSTLINE_CLAWBACK:
        return fail(call.kind, -2)
    left = line.balance - body.amount.int64
    if left < line.selling:
        return fail(call.kind, -4)
    line.balance = left
    return succeed(call.kind)


def _low(_call: Call) -> Threshold:
    return Threshold.LOW


HANDLERS: Final = {
    6: Handler(_check_change, _apply_change),
    7: Handler(_check_allow, _apply_allow, _low),
    19: Handler(_check_clawback, _apply_clawback, since=17),
    21: Handler(_check_flags, _apply_flags, _low, since=17),
}
