"""Frozen ledger keys (CAP-77): which transactions and offers touch one.

Only account and trust line keys can be frozen, no pool shares and no issuer's own line. A
transaction that names a frozen key is invalid (txFROZEN_KEY_ACCESSED): no fee, no sequence number.
Claims and pool operations notice at application, offers of frozen owners leave the book unmoved.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from stellar_sdk import xdr

from ledger.devnet.entries import ACCOUNT, TRUSTLINE, Offer, account_key, trustline_key
from ledger.devnet.envelope import Transaction, account_key_of, arm, muxed_key
from ledger.devnet.wire import NATIVE_ASSET, Reader, XdrError, account_id, asset_issuer

FREEZE_SINCE: Final = 26


class FreezeError(ValueError):
    """A key that cannot be frozen, or a protocol that knows no freezing."""


def require_freezable(protocol: int, key: bytes) -> None:
    """Refuse what a frozen-keys upgrade may not hold.

    Raises:
        FreezeError: protocol below 26, or no account or plain trust line key (LedgerKey XDR).
    """
    if protocol < FREEZE_SINCE:
        raise FreezeError(f"protocol: got {protocol}, want {FREEZE_SINCE} or later to freeze keys")
    try:
        reader = Reader(key)
        kind, owner = reader.i32(), reader.account()
        asset = reader.asset() if kind == TRUSTLINE else b""
        reader.end()
    except XdrError as error:
        raise FreezeError(f"key: {error}") from error
    if kind == ACCOUNT:
        return
    if kind != TRUSTLINE or asset_issuer(asset) in (None, owner):
        raise FreezeError("key: got another, want an account or a holder's trust line")


def holding_key(account: bytes, asset: bytes) -> bytes:
    """Key of the entry that holds an account's balance of an asset."""
    return account_key(account) if asset == NATIVE_ASSET else trustline_key(account, asset)


def accesses_frozen(tx: Transaction, frozen: AbstractSet[bytes]) -> bool:
    """Whether a transaction names a frozen key; a fee bump's fee source is not looked at."""
    if account_key(tx.source) in frozen:
        return True
    for operation in tx.operations:
        source = operation.source or tx.source
        if account_key(source) in frozen:
            return True
        if any(key in frozen for key in _named(source, operation.body)):
            return True
    return False


def offer_is_frozen(offer: Offer, frozen: AbstractSet[bytes]) -> bool:
    """Whether crossing an offer would change a frozen balance of its owner."""
    sides = (offer.selling, offer.buying)
    return any(holding_key(offer.seller, asset) in frozen for asset in sides)


def _line_keys(account: bytes, *assets: xdr.Asset) -> Iterator[bytes]:
    for asset in assets:
        raw = asset.to_xdr_bytes()
        if raw != NATIVE_ASSET:
            yield trustline_key(account, raw)


def _named(source: bytes, body: xdr.OperationBody) -> Iterator[bytes]:
    """Keys that an operation names besides its source account."""
    if body.payment_op is not None:
        pay = body.payment_op
        yield from _line_keys(source, pay.asset)
        yield holding_key(muxed_key(pay.destination), pay.asset.to_xdr_bytes())
    elif body.create_account_op is not None:
        yield account_key(account_key_of(body.create_account_op.destination))
    elif body.destination is not None:
        yield account_key(muxed_key(body.destination))
    elif body.create_claimable_balance_op is not None:
        yield from _line_keys(source, body.create_claimable_balance_op.asset)
    elif body.revoke_sponsorship_op is not None:
        revoke = body.revoke_sponsorship_op
        if revoke.ledger_key is not None:
            yield revoke.ledger_key.to_xdr_bytes()
        else:
            yield account_key(account_key_of(arm(revoke.signer).account_id))
    else:
        yield from _named_lines(source, body)
        yield from _named_on_path(source, body)


def _named_on_path(source: bytes, body: xdr.OperationBody) -> Iterator[bytes]:
    path = body.path_payment_strict_receive_op or body.path_payment_strict_send_op
    if path is not None:
        yield from _line_keys(source, path.send_asset)
        yield holding_key(muxed_key(path.destination), path.dest_asset.to_xdr_bytes())
    offer = (
        body.manage_sell_offer_op or body.manage_buy_offer_op or body.create_passive_sell_offer_op
    )
    if offer is not None:
        yield from _line_keys(source, offer.selling, offer.buying)


def _named_lines(source: bytes, body: xdr.OperationBody) -> Iterator[bytes]:
    if body.change_trust_op is not None:
        line = body.change_trust_op.line
        if line.liquidity_pool is None:
            yield trustline_key(source, line.to_xdr_bytes())
    elif body.allow_trust_op is not None:
        allow = body.allow_trust_op
        asset = allow.asset.to_xdr_bytes() + account_id(source)
        yield trustline_key(account_key_of(allow.trustor), asset)
    elif body.set_trust_line_flags_op is not None:
        flags = body.set_trust_line_flags_op
        yield from _line_keys(account_key_of(flags.trustor), flags.asset)
    elif body.clawback_op is not None:
        yield from _line_keys(muxed_key(body.clawback_op.from_), body.clawback_op.asset)
