"""Sponsored reserves (CAP-33): begin and end sponsoring, revoke sponsorship."""

from __future__ import annotations

from typing import Final

from ledger.devnet.entries import (
    ACCOUNT,
    CLAIMABLE_BALANCE,
    DATA,
    OFFER,
    TRUSTLINE,
    Account,
    ClaimableBalance,
    Entry,
    Offer,
    Pool,
    account_key,
)
from ledger.devnet.envelope import account_key_of, arm
from ledger.devnet.operations.base import Call, Handler, reserve_failure
from ledger.devnet.results import OpResult, fail, succeed
from ledger.devnet.sponsorship import (
    Sponsoring,
    can_establish,
    can_remove,
    can_transfer,
    establish,
    establish_signer,
    remove,
    remove_signer_sponsor,
    reserve_units,
    transfer,
    transfer_signer,
)
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import Reader, asset_is_valid, asset_issuer

DOES_NOT_EXIST, NOT_SPONSOR, LOW_RESERVE, ONLY_TRANSFERABLE, MALFORMED = -1, -2, -3, -4, -5


# Begin and end


def _check_begin(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.begin_sponsoring_future_reserves_op)
    return -1 if account_key_of(body.sponsored_id) == call.source else None


def _apply_begin(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.begin_sponsoring_future_reserves_op)
    sponsored, open_now = account_key_of(body.sponsored_id), overlay.sponsorships
    if sponsored in open_now:
        return fail(call.kind, -2)
    if call.source in open_now or sponsored in open_now.values():
        return fail(call.kind, -3)
    open_now[sponsored] = call.source
    return succeed(call.kind)


def _check_nothing(_call: Call, _protocol: int) -> int | None:
    return None


def _apply_end(overlay: Overlay, call: Call) -> OpResult:
    if overlay.sponsorships.pop(call.source, None) is None:
        return fail(call.kind, -1)
    return succeed(call.kind)


# Revoke


def _check_revoke(call: Call, _protocol: int) -> int | None:
    body = arm(call.body.revoke_sponsorship_op)
    if body.ledger_key is None:
        return None
    reader = Reader(body.ledger_key.to_xdr_bytes())
    kind = reader.i32()
    if kind in (ACCOUNT, CLAIMABLE_BALANCE):
        return None
    owner = reader.account() if kind in (TRUSTLINE, OFFER, DATA) else b""
    valid = False
    if kind == TRUSTLINE:
        asset = reader.asset()
        valid = asset[3] == 3 or (
            asset[3] != 0 and asset_is_valid(asset) and asset_issuer(asset) != owner
        )
    elif kind == OFFER:
        valid = reader.i64() > 0
    elif kind == DATA:
        name = reader.opaque()
        valid = bool(name) and all(32 <= byte < 127 for byte in name)
    return None if valid else MALFORMED


def _apply_revoke(overlay: Overlay, call: Call) -> OpResult:
    body = arm(call.body.revoke_sponsorship_op)
    if body.ledger_key is not None:
        return _revoke_entry(overlay, call, body.ledger_key.to_xdr_bytes())
    signer = arm(body.signer)
    account, key = account_key_of(signer.account_id), signer.signer_key.to_xdr_bytes()
    return _revoke_signer(overlay, call, account, key)


def _new_sponsor(overlay: Overlay, call: Call, owner: bytes) -> bytes | None:
    """Who will sponsor: the sponsor in force for the source, unless that is the owner itself."""
    sponsor = overlay.sponsorships.get(call.source)
    return None if sponsor == owner else sponsor


def _owner(entry: Entry) -> bytes:
    body = entry.body
    if isinstance(body, ClaimableBalance):
        if entry.sponsor is None:
            raise StateError("claimable balance: got no sponsor, want one")
        return entry.sponsor
    if isinstance(body, Pool):
        raise StateError("pool: got one, want an entry with an owner")
    return body.seller if isinstance(body, Offer) else body.account


def _revoke_entry(overlay: Overlay, call: Call, key: bytes) -> OpResult:
    entry = overlay.load(key)
    if entry is None:
        return fail(call.kind, DOES_NOT_EXIST)
    owner, claimable = _owner(entry), isinstance(entry.body, ClaimableBalance)
    if (owner if entry.sponsor is None else entry.sponsor) != call.source:
        return fail(call.kind, NOT_SPONSOR)
    new = _new_sponsor(overlay, call, owner)
    if new is None and claimable:
        return fail(call.kind, ONLY_TRANSFERABLE)
    units, header = reserve_units(entry), overlay.header
    verdict = Sponsoring.SUCCESS
    if entry.sponsor is not None and new is not None:
        old_account, new_account = overlay.need_account(entry.sponsor), overlay.need_account(new)
        verdict = can_transfer(header, old_account, new_account, units)
        if verdict is Sponsoring.SUCCESS:
            transfer(entry, old_account, new_account)
    elif entry.sponsor is not None:
        old_account, owned = overlay.need_account(entry.sponsor), _owning(overlay, entry, owner)
        verdict = can_remove(header, old_account, owned, units)
        if verdict is Sponsoring.SUCCESS:
            remove(entry, old_account, owned)
    elif new is not None:
        new_account, owned = overlay.need_account(new), _owning(overlay, entry, owner)
        verdict = can_establish(header, new_account, owned, units)
        if verdict is Sponsoring.SUCCESS:
            establish(entry, new_account, owned)
    return _verdict(call, verdict)


def _owning(overlay: Overlay, entry: Entry, owner: bytes) -> Account:
    return entry.body if isinstance(entry.body, Account) else overlay.need_account(owner)


def _verdict(call: Call, verdict: Sponsoring) -> OpResult:
    if verdict is Sponsoring.SUCCESS:
        return succeed(call.kind)
    return reserve_failure(verdict, fail(call.kind, LOW_RESERVE))


def _revoke_signer(overlay: Overlay, call: Call, account: bytes, key: bytes) -> OpResult:
    entry = overlay.load(account_key(account))
    body = entry.body if entry else None
    signers = body.signers if isinstance(body, Account) else []
    signer = next((s for s in signers if s.key == key), None)
    if signer is None or not isinstance(body, Account):
        return fail(call.kind, DOES_NOT_EXIST)
    if (account if signer.sponsor is None else signer.sponsor) != call.source:
        return fail(call.kind, NOT_SPONSOR)
    new, header = _new_sponsor(overlay, call, account), overlay.header
    verdict = Sponsoring.SUCCESS
    if signer.sponsor is not None and new is not None:
        old_account, new_account = overlay.need_account(signer.sponsor), overlay.need_account(new)
        verdict = can_transfer(header, old_account, new_account, 1)
        if verdict is Sponsoring.SUCCESS:
            transfer_signer(signer, old_account, new_account)
    elif signer.sponsor is not None:
        old_account = overlay.need_account(signer.sponsor)
        verdict = can_remove(header, old_account, body, 1)
        if verdict is Sponsoring.SUCCESS:
            remove_signer_sponsor(signer, old_account, body)
    elif new is not None:
        new_account = overlay.need_account(new)
        verdict = can_establish(header, new_account, body, 1)
        if verdict is Sponsoring.SUCCESS:
            establish_signer(signer, new_account, body)
    return _verdict(call, verdict)


HANDLERS: Final = {
    16: Handler(_check_begin, _apply_begin),
    17: Handler(_check_nothing, _apply_end),
    18: Handler(_check_revoke, _apply_revoke),
}
