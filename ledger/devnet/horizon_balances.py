"""Horizon's claimable balances: the resource, its id, and the filters of the listing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from stellar_sdk import StrKey
from stellar_sdk.exceptions import SdkError

from ledger.devnet.entries import CLAIMABLE_CLAWBACK, ClaimableBalance, Entry, Predicate
from ledger.devnet.horizon import Json, address, amount, stamp
from ledger.devnet.paging import bad, key_of
from ledger.devnet.wire import NATIVE_ASSET, asset_code

_VERSION: Final = "00000000"
_YEAR_MAX: Final = 253_402_300_799


def balance_id(text: str) -> bytes:
    """The 32-byte id out of Horizon's hexadecimal form, or the address beginning with B."""
    try:
        if text.startswith("B"):
            return StrKey.decode_claimable_balance(text)[1:]
        raw = bytes.fromhex(text)
    except (SdkError, ValueError):
        raw = b""
    if len(raw) != 36:
        raise bad("id", f"id: got {text[:80]!r}, want a claimable balance's")
    return raw[4:]


def claimable_balance(entry: Entry, base: str) -> Json:
    """A claimable balance resource."""
    body = entry.body
    if not isinstance(body, ClaimableBalance):
        raise TypeError(f"entry: got {type(body).__name__}, want a claimable balance")
    name = _VERSION + body.balance_id.hex()
    resource: Json = {
        "_links": {"self": {"href": f"{base}/claimable_balances/{name}"}},
        "id": name,
        "asset": _asset_name(body.asset),
        "amount": amount(body.amount),
        "claimants": [
            {"destination": address(account), "predicate": _predicate(predicate)}
            for account, predicate in body.claimants
        ],
        "flags": {"clawback_enabled": bool(body.flags & CLAIMABLE_CLAWBACK)},
        "last_modified_ledger": entry.modified,
        "paging_token": f"{entry.modified}-{name}",
    }
    if entry.sponsor:
        resource["sponsor"] = address(entry.sponsor)
    return resource


def chosen(entries: Iterable[Entry], query: Mapping[str, str]) -> list[Entry]:
    """Claimable balances that have the claimant, asset and sponsor that a query names."""
    claimant = key_of(query["claimant"], "claimant") if "claimant" in query else None
    sponsor = key_of(query["sponsor"], "sponsor") if "sponsor" in query else None
    found = []
    for entry in entries:
        body = entry.body
        if not isinstance(body, ClaimableBalance):
            continue
        is_claimant = claimant is None or claimant in dict(body.claimants)
        is_sponsored = sponsor in (None, entry.sponsor)
        if is_claimant and is_sponsored and query.get("asset", "") in ("", _asset_name(body.asset)):
            found.append(entry)
    return found


def _asset_name(asset: bytes) -> str:
    if asset == NATIVE_ASSET:
        return "native"
    return f"{asset_code(asset)}:{address(asset[-32:])}"


def _predicate(predicate: Predicate) -> Json:
    kind, rest = predicate[0], predicate[1:]
    parts = [_predicate(part) for part in rest if isinstance(part, tuple)]
    if kind == 0:
        return {"unconditional": True}
    if kind == 1:
        return {"and": parts}
    if kind == 2:
        return {"or": parts}
    if kind == 3:
        return {"not": parts[0] if parts else {}}
    seconds = rest[0] if isinstance(rest[0], int) else 0
    if kind == 5:
        return {"rel_before": str(seconds)}
    in_range = 0 <= seconds <= _YEAR_MAX
    text = stamp(seconds) if in_range else datetime.max.replace(tzinfo=UTC).isoformat()
    return {"abs_before": text, "abs_before_epoch": str(seconds)}
