"""Operations that move money: create account, payment, path payments, account merge.

Path payments convert over offers through `exchange`; a payment is a strict-receive path payment
without a path.
"""

from __future__ import annotations

from typing import Final

from ledger.devnet import wire
from ledger.devnet.balances import (
    add_holding,
    add_native,
    available_balance,
    holding,
    holding_authorized,
    max_receive,
)
from ledger.devnet.entries import AUTH_IMMUTABLE, Account, Entry, account_key
from ledger.devnet.envelope import account_key_of, arm, muxed_key
from ledger.devnet.operations import exchange
from ledger.devnet.operations.base import Call, Handler, Threshold, reserve_failure, source_account
from ledger.devnet.results import OP_EXCEEDED_WORK_LIMIT, OpResult, fail, refuse, succeed
from ledger.devnet.sponsorship import Sponsoring, create_reserve, release_reserve, remove_signer
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import NATIVE_ASSET, asset_is_valid, asset_issuer

# PaymentResultCode; path payments share −1 to −9 and add their own.
MALFORMED: Final = -1
UNDERFUNDED: Final = -2
SRC_NO_TRUST: Final = -3
SRC_NOT_AUTHORIZED: Final = -4
NO_DESTINATION: Final = -5
NO_TRUST: Final = -6
NOT_AUTHORIZED: Final = -7
LINE_FULL: Final = -8
TOO_FEW_OFFERS: Final = -10
OFFER_CROSS_SELF: Final = -11
OVER_SENDMAX: Final = -12
UNDER_DESTMIN: Final = -12


# Create account


def _check_create(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.create_account_op)
    destination = account_key_of(body.destination)
    if body.starting_balance.int64 < 0 or destination == call.source:
        return -1
    return None


def _apply_create(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.create_account_op)
    destination, amount = account_key_of(body.destination), body.starting_balance.int64
    if overlay.account(destination) is not None:
        return fail(call.kind, -4)
    made = Account(account=destination, balance=amount, sequence=overlay.header.sequence << 32)
    entry = Entry(made)
    verdict = create_reserve(overlay, entry, None)
    if verdict is not Sponsoring.SUCCESS:
        return reserve_failure(verdict, fail(call.kind, -3))
    source = source_account(overlay, call)
    if available_balance(overlay.header, source) < amount:
        return fail(call.kind, -2)
    source.balance -= amount
    overlay.create(made, entry)
    return succeed(call.kind)


# Payment and path payments


def _credit(overlay: Overlay, destination: bytes, asset: bytes, amount: int) -> int | None:
    if asset == NATIVE_ASSET:
        account = overlay.need_account(destination)
        return None if add_native(overlay.header, account, amount) else LINE_FULL
    line = holding(overlay, destination, asset)
    if line is None:
        return NO_TRUST
    if not holding_authorized(line):
        return NOT_AUTHORIZED
    return None if add_holding(line, amount) else LINE_FULL


def _debit(overlay: Overlay, source: bytes, asset: bytes, amount: int) -> int | None:
    if asset == NATIVE_ASSET:
        account = overlay.need_account(source)
        if amount > available_balance(overlay.header, account):
            return UNDERFUNDED
        account.balance -= amount
        return None
    line = holding(overlay, source, asset)
    if line is None:
        return SRC_NO_TRUST
    if not holding_authorized(line):
        return SRC_NOT_AUTHORIZED
    return None if add_holding(line, -amount) else UNDERFUNDED


def _destination_missing(
    overlay: Overlay, destination: bytes, send: bytes, receive: bytes, hops: int
) -> bool:
    """Money can always go back to its issuer, even one that merged away."""
    if hops == 0 and send == receive and asset_issuer(receive) == destination:
        return False
    return overlay.peek_account(destination) is None


def _check_payment(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.payment_op)
    if body.amount.int64 <= 0 or not asset_is_valid(body.asset.to_xdr_bytes()):
        return MALFORMED
    return None


def _apply_payment(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.payment_op)
    destination, asset = muxed_key(body.destination), body.asset.to_xdr_bytes()
    amount = body.amount.int64
    if destination == call.source and asset == NATIVE_ASSET:
        return succeed(call.kind)
    if _destination_missing(overlay, destination, asset, asset, 0):
        return fail(call.kind, NO_DESTINATION)
    code = _credit(overlay, destination, asset, amount)
    if code is None:
        code = _debit(overlay, call.source, asset, amount)
    return succeed(call.kind) if code is None else fail(call.kind, code)


def _path_success(
    kind: int, trail: list[bytes], destination: bytes, asset: bytes, amount: int
) -> OpResult:
    payload = wire.u32(len(trail)) + b"".join(trail)
    payload += wire.account_id(destination) + asset + wire.i64(amount)
    return succeed(kind, payload)


def _path_failure(kind: int, failure: exchange.Failure, over: int) -> OpResult:
    if failure.stop is exchange.Stop.TOO_MANY:
        return refuse(OP_EXCEEDED_WORK_LIMIT)
    codes = {
        exchange.Stop.TOO_FEW_OFFERS: TOO_FEW_OFFERS,
        exchange.Stop.CROSS_SELF: OFFER_CROSS_SELF,
        exchange.Stop.OVER_LIMIT: over,
    }
    return fail(kind, codes[failure.stop])


def _check_receive(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.path_payment_strict_receive_op)
    assets = [body.send_asset, body.dest_asset, *body.path]
    valid = all(asset_is_valid(asset.to_xdr_bytes()) for asset in assets)
    if body.dest_amount.int64 <= 0 or body.send_max.int64 <= 0 or not valid:
        return MALFORMED
    return None


def _apply_receive(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.path_payment_strict_receive_op)
    destination = muxed_key(body.destination)
    send, receive = body.send_asset.to_xdr_bytes(), body.dest_asset.to_xdr_bytes()
    amount = body.dest_amount.int64
    if _destination_missing(overlay, destination, send, receive, len(body.path)):
        return fail(call.kind, NO_DESTINATION)
    code = _credit(overlay, destination, receive, amount)
    if code is not None:
        return fail(call.kind, code)
    needed, trail, wanted = amount, list[bytes](), receive
    hops = [send, *(asset.to_xdr_bytes() for asset in body.path)]
    for asset in reversed(hops):
        if asset == wanted:
            continue
        leg = exchange.convert_to_receive(overlay, call.source, asset, wanted, needed, len(trail))
        if isinstance(leg, exchange.Failure):
            return _path_failure(call.kind, leg, OVER_SENDMAX)
        needed, wanted = leg.sold, asset
        trail = leg.trail + trail
    if needed > body.send_max.int64:
        return fail(call.kind, OVER_SENDMAX)
    code = _debit(overlay, call.source, send, needed)
    if code is not None:
        return fail(call.kind, code)
    return _path_success(call.kind, trail, destination, receive, amount)


def _check_send(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.path_payment_strict_send_op)
    assets = [body.send_asset, body.dest_asset, *body.path]
    valid = all(asset_is_valid(asset.to_xdr_bytes()) for asset in assets)
    if body.send_amount.int64 <= 0 or body.dest_min.int64 <= 0 or not valid:
        return MALFORMED
    return None


def _apply_send(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.path_payment_strict_send_op)
    destination = muxed_key(body.destination)
    send, receive = body.send_asset.to_xdr_bytes(), body.dest_asset.to_xdr_bytes()
    if _destination_missing(overlay, destination, send, receive, len(body.path)):
        return fail(call.kind, NO_DESTINATION)
    code = _debit(overlay, call.source, send, body.send_amount.int64)
    if code is not None:
        return fail(call.kind, code)
    held, trail, given = body.send_amount.int64, list[bytes](), send
    for asset in [*(asset.to_xdr_bytes() for asset in body.path), receive]:
        if asset == given:
            continue
        leg = exchange.convert_to_send(overlay, call.source, given, asset, held, len(trail))
        if isinstance(leg, exchange.Failure):
            return _path_failure(call.kind, leg, UNDER_DESTMIN)
        held, given = leg.bought, asset
        trail += leg.trail
    if held < body.dest_min.int64:
        return fail(call.kind, UNDER_DESTMIN)
    code = _credit(overlay, destination, receive, held)
    if code is not None:
        return fail(call.kind, code)
    return _path_success(call.kind, trail, destination, receive, held)


# Account merge


def _check_merge(call: Call, _protocol: int) -> int | None:
    return -1 if muxed_key(arm(call.body.destination)) == call.source else None


def _apply_merge(overlay: Overlay, call: Call) -> OpResult:
    destination = muxed_key(arm(call.body.destination))
    if overlay.peek_account(destination) is None:
        return fail(call.kind, -2)
    source = source_account(overlay, call)
    code = _merge_obstacle(overlay, source)
    if code is not None:
        return fail(call.kind, code)
    for signer in list(source.signers):
        remove_signer(overlay, source, signer)
    target = overlay.need_account(destination)
    if source.balance > max_receive(target):
        return fail(call.kind, -6)
    target.balance += source.balance
    moved = source.balance
    entry = overlay.load(account_key(call.source))
    if entry is None:
        raise StateError("merge: got no source entry, want one")
    release_reserve(overlay, entry, None)
    overlay.erase(account_key(call.source))
    return succeed(call.kind, wire.i64(moved))


def _merge_obstacle(overlay: Overlay, source: Account) -> int | None:
    """First reason why an account cannot merge, in the protocol's order."""
    if source.flags & AUTH_IMMUTABLE:
        return -3
    if source.sub_entries != len(source.signers):
        return -4
    # A later transaction of this ledger may jump ahead by minSeqNum.
    highest = max(source.sequence, overlay.header.highest_sequences.get(source.account, 0))
    if highest >= overlay.header.sequence << 32:
        return -5
    if source.account in overlay.sponsorships.values() or source.sponsoring:
        return -7
    return None


HANDLERS: Final = {
    0: Handler(_check_create, _apply_create),
    1: Handler(_check_payment, _apply_payment),
    2: Handler(_check_receive, _apply_receive),
    13: Handler(_check_send, _apply_send),
    8: Handler(_check_merge, _apply_merge, lambda _call: Threshold.HIGH),
}
