"""Claimable balances (CAP-23): create, claim, claw back."""

from __future__ import annotations

import hashlib
from typing import Final

from ledger.devnet import wire
from ledger.devnet.balances import (
    IssuerLine,
    add_holding,
    add_native,
    available_balance,
    holding,
    holding_authorized,
)
from ledger.devnet.entries import (
    AUTH_CLAWBACK_ENABLED,
    CLAIMABLE_CLAWBACK,
    TRUSTLINE_CLAWBACK,
    ClaimableBalance,
    Entry,
    Predicate,
    claimable_key,
    read_predicate,
)
from ledger.devnet.envelope import account_key_of, arm
from ledger.devnet.freezing import holding_key
from ledger.devnet.operations.base import Call, Handler, Threshold, reserve_failure, source_account
from ledger.devnet.results import OpResult, fail, succeed
from ledger.devnet.sponsorship import Sponsoring, create_reserve, release_reserve
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import INT64_MAX, NATIVE_ASSET, Reader, asset_is_valid, asset_issuer

_OPERATION_ID: Final = 6
_MAX_DEPTH: Final = 4
UNCONDITIONAL, AND, OR, NOT, BEFORE_ABSOLUTE, BEFORE_RELATIVE = range(6)


# Predicates


def _parts(predicate: Predicate) -> list[Predicate]:
    return [part for part in predicate[1:] if isinstance(part, tuple)]


def _time(predicate: Predicate) -> int:
    value = predicate[1]
    if not isinstance(value, int):
        raise StateError(f"predicate time: got {value!r}, want an integer")
    return value


def predicate_is_valid(predicate: Predicate, depth: int = 1) -> bool:
    """Whether a predicate may be stored: at most four levels, full operands, times not negative."""
    if depth > _MAX_DEPTH:
        return False
    kind, parts = predicate[0], _parts(predicate)
    if kind in (AND, OR):
        return len(parts) == 2 and all(predicate_is_valid(part, depth + 1) for part in parts)
    if kind == NOT:
        return len(parts) == 1 and predicate_is_valid(parts[0], depth + 1)
    return kind == UNCONDITIONAL or _time(predicate) >= 0


def fix_predicate(predicate: Predicate, close_time: int) -> Predicate:
    """The predicate with relative times made absolute."""
    kind = predicate[0]
    if kind == BEFORE_RELATIVE:
        return (BEFORE_ABSOLUTE, min(INT64_MAX, close_time + _time(predicate)))
    if kind in (AND, OR, NOT):
        return (kind, *(fix_predicate(part, close_time) for part in _parts(predicate)))
    return predicate


def predicate_holds(predicate: Predicate, close_time: int) -> bool:
    """Whether a stored predicate is satisfied at a close time (Unix seconds)."""
    kind, parts = predicate[0], _parts(predicate)
    if kind == AND:
        return all(predicate_holds(part, close_time) for part in parts)
    if kind == OR:
        return any(predicate_holds(part, close_time) for part in parts)
    if kind == NOT:
        return not predicate_holds(parts[0], close_time)
    return kind == UNCONDITIONAL or _time(predicate) > close_time


# Create


def _claimants(call: Call) -> list[tuple[bytes, Predicate]]:
    found = []
    for claimant in arm(call.body.create_claimable_balance_op).claimants:
        body = arm(claimant.v0)
        predicate = read_predicate(Reader(body.predicate.to_xdr_bytes()))
        found.append((account_key_of(body.destination), predicate))
    return found


def balance_id(source: bytes, sequence: int, index: int) -> bytes:
    """Hash that names a claimable balance: transaction source, its sequence, operation index."""
    preimage = wire.i32(_OPERATION_ID) + wire.account_id(source) + wire.i64(sequence)
    return hashlib.sha256(preimage + wire.u32(index)).digest()


def _check_create(call: Call, _protocol: int) -> int | None:
    body, claimants = arm(call.body.create_claimable_balance_op), _claimants(call)
    if not asset_is_valid(body.asset.to_xdr_bytes()) or body.amount.int64 <= 0 or not claimants:
        return -1
    if len({account for account, _ in claimants}) != len(claimants):
        return -1
    return None if all(predicate_is_valid(predicate) for _, predicate in claimants) else -1


def _apply_create(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.create_claimable_balance_op)
    asset, amount = body.asset.to_xdr_bytes(), body.amount.int64
    source = source_account(overlay, call)
    clawback = False
    if asset == NATIVE_ASSET:
        if available_balance(overlay.header, source) < amount:
            return fail(call.kind, -5)
        source.balance -= amount
    else:
        line = holding(overlay, call.source, asset)
        if line is None:
            return fail(call.kind, -3)
        if not holding_authorized(line):
            return fail(call.kind, -4)
        if not add_holding(line, -amount):
            return fail(call.kind, -5)
        if isinstance(line, IssuerLine):
            clawback = bool(source.flags & AUTH_CLAWBACK_ENABLED)
        else:
            clawback = bool(line.flags & TRUSTLINE_CLAWBACK)
    close_time = overlay.header.close_time
    made = ClaimableBalance(
        balance_id=balance_id(call.transaction.source, call.transaction.sequence, call.index),
        claimants=tuple((a, fix_predicate(p, close_time)) for a, p in _claimants(call)),
        asset=asset,
        amount=amount,
        level=1 if clawback else 0,
        flags=CLAIMABLE_CLAWBACK if clawback else 0,
    )
    entry = Entry(made)
    verdict = create_reserve(overlay, entry, source)
    if verdict is not Sponsoring.SUCCESS:
        return reserve_failure(verdict, fail(call.kind, -2))
    overlay.create(made, entry)
    return succeed(call.kind, wire.i32(0) + made.balance_id)


# Claim and claw back


def _remove(overlay: Overlay, call: Call, key: bytes) -> OpResult:
    entry = overlay.load(key)
    if entry is None:
        raise StateError("claimable balance: got none, want the one just loaded")
    release_reserve(overlay, entry, source_account(overlay, call))
    overlay.erase(key)
    return succeed(call.kind)


def _check_nothing(_call: Call, _protocol: int) -> int | None:
    return None


def _apply_claim(overlay: Overlay, call: Call) -> OpResult:
    wanted = arm(arm(call.body.claim_claimable_balance_op).balance_id.v0).hash
    balance = overlay.claimable(wanted)
    if balance is None:
        return fail(call.kind, -1)
    predicate = dict(balance.claimants).get(call.source)
    if predicate is None or not predicate_holds(predicate, overlay.header.close_time):
        return fail(call.kind, -2)
    if holding_key(call.source, balance.asset) in overlay.header.frozen:
        return fail(call.kind, -6)
    if balance.asset == NATIVE_ASSET:
        if not add_native(overlay.header, source_account(overlay, call), balance.amount):
            return fail(call.kind, -3)
        return _remove(overlay, call, claimable_key(wanted))
    line = holding(overlay, call.source, balance.asset)
    if line is None:
        return fail(call.kind, -4)
    if not holding_authorized(line):
        return fail(call.kind, -5)
    if not add_holding(line, balance.amount):
        return fail(call.kind, -3)
    return _remove(overlay, call, claimable_key(wanted))


def _apply_clawback(overlay: Overlay, call: Call) -> OpResult:
    wanted = arm(arm(call.body.clawback_claimable_balance_op).balance_id.v0).hash
    balance = overlay.claimable(wanted)
    if balance is None:
        return fail(call.kind, -1)
    if asset_issuer(balance.asset) != call.source:
        return fail(call.kind, -2)
    if not balance.flags & CLAIMABLE_CLAWBACK:
        return fail(call.kind, -3)
    return _remove(overlay, call, claimable_key(wanted))


HANDLERS: Final = {
    14: Handler(_check_create, _apply_create),
    15: Handler(_check_nothing, _apply_claim, lambda _call: Threshold.LOW),
    20: Handler(_check_nothing, _apply_clawback, since=17),
}
