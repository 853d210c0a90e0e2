"""An account's own settings: set options, manage data, bump sequence."""

from __future__ import annotations

from typing import Final

from stellar_sdk import xdr

from ledger.devnet.entries import (
    AUTH_CLAWBACK_ENABLED,
    AUTH_IMMUTABLE,
    AUTH_REVOCABLE,
    Account,
    Data,
    Entry,
    Signer,
    data_key,
)
from ledger.devnet.envelope import account_key_of, arm
from ledger.devnet.operations.base import Call, Handler, Threshold, reserve_failure, source_account
from ledger.devnet.results import OpResult, fail, succeed
from ledger.devnet.signatures import ED25519, SIGNED_PAYLOAD, signer_key
from ledger.devnet.sponsorship import (
    Sponsoring,
    create_reserve,
    create_signer,
    release_reserve,
    remove_signer,
)
from ledger.devnet.state import Overlay

_ALL_FLAGS: Final = 15
_MAX_BYTE: Final = 255
_MAX_SIGNERS: Final = 20


# Set options


def _options_threshold(call: Call) -> Threshold:
    body = arm(call.body.set_options_op)
    high = (
        body.master_weight,
        body.low_threshold,
        body.med_threshold,
        body.high_threshold,
        body.signer,
    )
    return Threshold.HIGH if any(part is not None for part in high) else Threshold.MEDIUM


def _check_options(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.set_options_op)
    wanted = body.set_flags.uint32 if body.set_flags else 0
    cleared = body.clear_flags.uint32 if body.clear_flags else 0
    if (wanted | cleared) & ~_ALL_FLAGS:
        return -6
    if wanted & cleared:
        return -3
    weights = (body.master_weight, body.low_threshold, body.med_threshold, body.high_threshold)
    if any(weight is not None and weight.uint32 > _MAX_BYTE for weight in weights):
        return -7
    if body.signer is not None and not _signer_is_valid(body.signer, call.source):
        return -8
    if body.home_domain is not None and not _text_is_valid(body.home_domain.string32):
        return -9
    return None


def _signer_is_valid(signer: xdr.Signer, source: bytes) -> bool:
    key = signer.key.to_xdr_bytes()
    if key == signer_key(ED25519, source) or signer.weight.uint32 > _MAX_BYTE:
        return False
    return key[3] != SIGNED_PAYLOAD or bool(arm(signer.key.ed25519_signed_payload).payload)


def _text_is_valid(text: bytes) -> bool:
    """Protocol's isString32Valid: ASCII without control characters."""
    return all(32 <= byte < 127 for byte in text)


def _apply_options(overlay: Overlay, call: Call) -> OpResult:
    body, account = arm(call.body.set_options_op), source_account(overlay, call)
    if body.inflation_dest is not None:
        destination = account_key_of(body.inflation_dest)
        if destination != call.source and overlay.peek_account(destination) is None:
            return fail(call.kind, -4)
        account.inflation = destination
    code = _change_flags(account, body)
    if code is not None:
        return fail(call.kind, code)
    if body.home_domain is not None:
        account.home_domain = body.home_domain.string32
    weights = (body.master_weight, body.low_threshold, body.med_threshold, body.high_threshold)
    account.thresholds = bytes(
        old if new is None else new.uint32
        for old, new in zip(account.thresholds, weights, strict=True)
    )
    if body.signer is not None:
        return _change_signer(overlay, call, account, body.signer)
    return succeed(call.kind)


def _change_flags(account: Account, body: xdr.SetOptionsOp) -> int | None:
    immutable = bool(account.flags & AUTH_IMMUTABLE)
    if body.clear_flags is not None:
        if body.clear_flags.uint32 & _ALL_FLAGS and immutable:
            return -5
        account.flags &= ~body.clear_flags.uint32
    if body.set_flags is not None:
        if body.set_flags.uint32 & _ALL_FLAGS and immutable:
            return -5
        account.flags |= body.set_flags.uint32
    if account.flags & AUTH_CLAWBACK_ENABLED and not account.flags & AUTH_REVOCABLE:
        return -10
    return None


def _change_signer(overlay: Overlay, call: Call, account: Account, wanted: xdr.Signer) -> OpResult:
    key, weight = wanted.key.to_xdr_bytes(), wanted.weight.uint32
    known = next((signer for signer in account.signers if signer.key == key), None)
    if weight == 0:
        if known is not None:
            remove_signer(overlay, account, known)
        return succeed(call.kind)
    if known is not None:
        known.weight = weight
        return succeed(call.kind)
    if len(account.signers) == _MAX_SIGNERS:
        return fail(call.kind, -2)
    verdict = create_signer(overlay, account, Signer(key, weight))
    if verdict is not Sponsoring.SUCCESS:
        return reserve_failure(verdict, fail(call.kind, -1))
    return succeed(call.kind)


# Manage data


def _check_data(call: Call, _protocol: int) -> int | None:
    name = arm(call.body.manage_data_op).data_name.string64
    return -4 if not name or not _text_is_valid(name) else None


def _apply_data(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.manage_data_op)
    name = body.data_name.string64
    entry = overlay.load(data_key(call.source, name))
    if body.data_value is None:
        if entry is None:
            return fail(call.kind, -2)
        release_reserve(overlay, entry, source_account(overlay, call))
        overlay.erase(data_key(call.source, name))
        return succeed(call.kind)
    value = body.data_value.data_value
    if entry is not None and isinstance(entry.body, Data):
        entry.body.value = value
        return succeed(call.kind)
    made = Data(account=call.source, name=name, value=value)
    entry = Entry(made)
    verdict = create_reserve(overlay, entry, source_account(overlay, call))
    if verdict is not Sponsoring.SUCCESS:
        return reserve_failure(verdict, fail(call.kind, -3))
    overlay.create(made, entry)
    return succeed(call.kind)


# Bump sequence


def _check_bump(call: Call, _protocol: int) -> int | None:
    return -1 if arm(call.body.bump_sequence_op).bump_to.sequence_number.int64 < 0 else None


def _apply_bump(overlay: Overlay, call: Call) -> OpResult:
    target = arm(call.body.bump_sequence_op).bump_to.sequence_number.int64
    account = source_account(overlay, call)
    account.sequence = max(account.sequence, target)
    touch_sequence(overlay, account)
    return succeed(call.kind)


def touch_sequence(overlay: Overlay, account: Account) -> None:
    """Record when an account's sequence last changed (CAP-21, protocol 19)."""
    if overlay.header.protocol >= 19:
        account.level = 3
        account.sequence_ledger = overlay.header.sequence
        account.sequence_time = overlay.header.close_time


HANDLERS: Final = {
    5: Handler(_check_options, _apply_options, _options_threshold),
    10: Handler(_check_data, _apply_data),
    11: Handler(_check_bump, _apply_bump, lambda _call: Threshold.LOW),
}
