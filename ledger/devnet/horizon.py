"""Horizon's resources as plain mappings: ledgers, accounts, transactions, problems.

Shapes follow Horizon's API reference; amounts are decimal strings with seven places, identifiers
are strings.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Final

from stellar_sdk import StrKey, xdr

from ledger.devnet.balances import is_authorized, may_maintain
from ledger.devnet.closing import Closed
from ledger.devnet.codes import result_codes
from ledger.devnet.entries import (
    AUTH_CLAWBACK_ENABLED,
    AUTH_IMMUTABLE,
    AUTH_REQUIRED,
    AUTH_REVOCABLE,
    DATA,
    TRUSTLINE,
    TRUSTLINE_CLAWBACK,
    Account,
    Data,
    Entry,
    Signer,
    TrustLine,
    account_key,
)
from ledger.devnet.envelope import Transaction
from ledger.devnet.network import Record
from ledger.devnet.results import TxResult
from ledger.devnet.view import View
from ledger.devnet.wire import NATIVE_ASSET, account_id, asset_code, i32

Json = dict[str, Any]
STROOPS: Final = 10_000_000
# TransactionMeta version 2 without changes: the devnet keeps no meta.
EMPTY_META: Final = base64.b64encode(i32(2) + bytes(12)).decode()
EMPTY_CHANGES: Final = base64.b64encode(bytes(4)).decode()
_PROBLEMS: Final = "https://stellar.org/horizon-errors/"
_SIGNER_TYPES: Final = ("ed25519_public_key", "preauth_tx", "sha256_hash", "ed25519_signed_payload")


def address(key: bytes) -> str:
    """G-address of a 32-byte key."""
    return StrKey.encode_ed25519_public_key(key)


def amount(stroops: int) -> str:
    """Decimal with seven places."""
    sign, size = ("-", -stroops) if stroops < 0 else ("", stroops)
    return f"{sign}{size // STROOPS}.{size % STROOPS:07d}"


def stamp(seconds: int) -> str:
    """UTC time as Horizon writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def encode(raw: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(raw).decode()


def asset_fields(asset: bytes, prefix: str = "") -> Json:
    """The asset_type, asset_code, asset_issuer triple."""
    if asset == NATIVE_ASSET:
        return {f"{prefix}asset_type": "native"}
    return {
        f"{prefix}asset_type": "credit_alphanum4" if asset[3] == 1 else "credit_alphanum12",
        f"{prefix}asset_code": asset_code(asset),
        f"{prefix}asset_issuer": address(asset[-32:]),
    }


def problem(status: int, kind: str, title: str, detail: str, extras: Json | None = None) -> Json:
    """RFC 7807 problem as Horizon writes it."""
    body: Json = {"type": _PROBLEMS + kind, "title": title, "status": status, "detail": detail}
    if extras:
        body["extras"] = extras
    return body


def failed_problem(tx: Transaction, result: TxResult) -> Json:
    """400 for a transaction that was refused or failed."""
    extras = {
        "envelope_xdr": encode(tx.raw),
        "hash": tx.hash.hex(),
        "result_codes": result_codes(result),
        "result_xdr": encode(result.encode()),
    }
    detail = "The transaction failed when submitted to the stellar network."
    return problem(400, "transaction_failed", "Transaction Failed", detail, extras)


def root(view: View, base: str) -> Json:
    """The root resource."""
    closed, latest = view.latest, view.last
    paths = {
        "account": "/accounts/{account_id}",
        "transactions": "/transactions{?cursor,limit,order}",
        "ledgers": "/ledgers{?cursor,limit,order}",
        "friendbot": "/friendbot{?addr}",
        "fee_stats": "/fee_stats",
        "self": "/",
    }
    return {
        "_links": {
            name: {"href": base + path, "templated": "{" in path} for name, path in paths.items()
        },
        "horizon_version": "devnet",
        "core_version": "devnet",
        "ingest_latest_ledger": latest,
        "history_latest_ledger": latest,
        "history_latest_ledger_closed_at": stamp(closed.header.close_time),
        "history_elder_ledger": 1,
        "core_latest_ledger": latest,
        "network_passphrase": view.network.settings.passphrase,
        "current_protocol_version": closed.header.protocol,
        "supported_protocol_version": closed.header.protocol,
        "core_supported_protocol_version": closed.header.protocol,
    }


def ledger(closed: Closed, base: str) -> Json:
    """A ledger resource."""
    header = closed.header
    good = sum(item.result.ok for item in closed.applied)
    token = str(header.sequence << 32)
    sizes = [len(item.tx.operations) for item in closed.applied]
    return {
        "_links": {"self": {"href": f"{base}/ledgers/{header.sequence}"}},
        "id": closed.hash.hex(),
        "paging_token": token,
        "hash": closed.hash.hex(),
        "prev_hash": header.previous_hash.hex(),
        "sequence": header.sequence,
        "successful_transaction_count": good,
        "failed_transaction_count": len(closed.applied) - good,
        "operation_count": sum(
            len(item.tx.operations) for item in closed.applied if item.result.ok
        ),
        "tx_set_operation_count": sum(sizes),
        "closed_at": stamp(header.close_time),
        "total_coins": amount(header.total_coins),
        "fee_pool": amount(header.fee_pool),
        "base_fee_in_stroops": header.base_fee,
        "base_reserve_in_stroops": header.base_reserve,
        "max_tx_set_size": header.max_tx_set_size,
        "protocol_version": header.protocol,
        "header_xdr": encode(header.encode()),
    }


# Accounts


def account(view: View, key: bytes, base: str) -> Json | None:
    """An account resource as of the last close, None when there is no such account."""
    entry = view.state.find(account_key(key))
    if entry is None or not isinstance(entry.body, Account):
        return None
    body, name = entry.body, address(key)
    modified = view.ledger(entry.modified)
    resource: Json = {
        "_links": {
            "self": {"href": f"{base}/accounts/{name}"},
            "transactions": {
                "href": f"{base}/accounts/{name}/transactions{{?cursor,limit,order}}",
                "templated": True,
            },
        },
        "id": name,
        "account_id": name,
        "sequence": str(body.sequence),
        "subentry_count": body.sub_entries,
        "last_modified_ledger": entry.modified,
        "last_modified_time": stamp(modified.header.close_time) if modified else None,
        "thresholds": _thresholds(body),
        "flags": _flags(body),
        "balances": [*_trust_balances(view, key), _native_balance(body)],
        "signers": _signers(body),
        "data": _data(view, key),
        "num_sponsoring": body.sponsoring,
        "num_sponsored": body.sponsored,
        "paging_token": name,
    }
    if body.level >= 3:
        resource["sequence_ledger"] = body.sequence_ledger
        resource["sequence_time"] = str(body.sequence_time)
    if body.home_domain:
        resource["home_domain"] = body.home_domain.decode()
    if body.inflation:
        resource["inflation_destination"] = address(body.inflation)
    if entry.sponsor:
        resource["sponsor"] = address(entry.sponsor)
    return resource


def _owned(view: View, kind: int, key: bytes) -> list[Entry]:
    return view.state.owned(i32(kind) + account_id(key))


def _thresholds(body: Account) -> Json:
    names = ("low_threshold", "med_threshold", "high_threshold")
    return dict(zip(names, body.thresholds[1:], strict=True))


def _flags(body: Account) -> Json:
    return {
        "auth_required": bool(body.flags & AUTH_REQUIRED),
        "auth_revocable": bool(body.flags & AUTH_REVOCABLE),
        "auth_immutable": bool(body.flags & AUTH_IMMUTABLE),
        "auth_clawback_enabled": bool(body.flags & AUTH_CLAWBACK_ENABLED),
    }


def _native_balance(body: Account) -> Json:
    return {
        "balance": amount(body.balance),
        "buying_liabilities": amount(body.buying),
        "selling_liabilities": amount(body.selling),
        "asset_type": "native",
    }


def _trust_balances(view: View, key: bytes) -> list[Json]:
    balances = []
    for entry in _owned(view, TRUSTLINE, key):
        line = entry.body
        if not isinstance(line, TrustLine):
            continue
        item: Json = {
            "balance": amount(line.balance),
            "limit": amount(line.limit),
            "buying_liabilities": amount(line.buying),
            "selling_liabilities": amount(line.selling),
            "last_modified_ledger": entry.modified,
            "is_authorized": is_authorized(line),
            "is_authorized_to_maintain_liabilities": may_maintain(line),
            "is_clawback_enabled": bool(line.flags & TRUSTLINE_CLAWBACK),
            **asset_fields(line.asset),
        }
        if entry.sponsor:
            item["sponsor"] = address(entry.sponsor)
        balances.append(item)
    return balances


def _signer_name(raw: bytes) -> str:
    value = raw[4:36]
    if raw[3] == 0:
        return address(value)
    if raw[3] == 1:
        return StrKey.encode_pre_auth_tx(value)
    if raw[3] == 2:
        return StrKey.encode_sha256_hash(value)
    return StrKey.encode_ed25519_signed_payload(raw[4:])


def _signers(body: Account) -> list[Json]:
    master = Signer(i32(0) + body.account, body.thresholds[0])
    found = []
    for signer in [*body.signers, master]:
        item: Json = {
            "weight": signer.weight,
            "key": _signer_name(signer.key),
            "type": _SIGNER_TYPES[signer.key[3]],
        }
        if signer.sponsor:
            item["sponsor"] = address(signer.sponsor)
        found.append(item)
    return found


def _data(view: View, key: bytes) -> dict[str, str]:
    bodies = [entry.body for entry in _owned(view, DATA, key)]
    return {body.name.decode(): encode(body.value) for body in bodies if isinstance(body, Data)}


# Transactions


def transaction(view: View, record: Record, base: str, asked: bytes | None = None) -> Json:
    """A transaction resource; `asked` is the hash it was looked up by, maybe the inner one."""
    tx, inner = record.tx, record.tx.inner or record.tx
    shown = (asked or tx.hash).hex()
    closed = view.network.ledgers[record.ledger - 1]
    resource: Json = {
        "_links": {
            "self": {"href": f"{base}/transactions/{shown}"},
            "account": {"href": f"{base}/accounts/{address(tx.source)}"},
            "ledger": {"href": f"{base}/ledgers/{record.ledger}"},
        },
        "id": shown,
        "paging_token": str(record.token),
        "successful": record.result.ok,
        "hash": shown,
        "ledger": record.ledger,
        "created_at": stamp(closed.header.close_time),
        "source_account": address(tx.source),
        "source_account_sequence": str(tx.sequence),
        "fee_account": address(tx.fee_source),
        "fee_charged": str(record.result.fee_charged),
        "max_fee": str(tx.fee),
        "operation_count": len(tx.operations),
        "envelope_xdr": encode(tx.raw),
        "result_xdr": encode(record.result_xdr),
        "result_meta_xdr": EMPTY_META,
        "fee_meta_xdr": EMPTY_CHANGES,
        "signatures": [encode(s.signature) for s in tx.signatures],
        "preconditions": _preconditions(tx),
        **_memo(tx.memo),
    }
    if tx.inner is not None:
        resource["fee_bump_transaction"] = {
            "hash": tx.hash.hex(),
            "signatures": [encode(s.signature) for s in tx.signatures],
        }
        resource["inner_transaction"] = {
            "hash": inner.hash.hex(),
            "signatures": [encode(s.signature) for s in inner.signatures],
            "max_fee": str(inner.fee),
        }
    return resource


def _memo(memo: xdr.Memo) -> Json:
    if memo.text is not None:
        return {
            "memo_type": "text",
            "memo": memo.text.decode("utf-8", "replace"),
            "memo_bytes": encode(memo.text),
        }
    if memo.id is not None:
        return {"memo_type": "id", "memo": str(memo.id.uint64)}
    if memo.hash is not None:
        return {"memo_type": "hash", "memo": encode(memo.hash.hash)}
    if memo.ret_hash is not None:
        return {"memo_type": "return", "memo": encode(memo.ret_hash.hash)}
    return {"memo_type": "none"}


def _preconditions(tx: Transaction) -> Json:
    c = tx.conditions
    found: Json = {}
    if c.min_time or c.max_time:
        bounds = {"min_time": str(c.min_time)}
        if c.max_time:
            bounds["max_time"] = str(c.max_time)
        found["timebounds"] = bounds
    if c.min_ledger or c.max_ledger:
        found["ledgerbounds"] = {"min_ledger": c.min_ledger, "max_ledger": c.max_ledger}
    if c.min_sequence is not None:
        found["min_account_sequence"] = str(c.min_sequence)
    if c.min_sequence_age:
        found["min_account_sequence_age"] = str(c.min_sequence_age)
    if c.min_sequence_gap:
        found["min_account_sequence_ledger_gap"] = c.min_sequence_gap
    if c.extra_signers:
        found["extra_signers"] = [_signer_name(key) for key in c.extra_signers]
    return found


def fee_stats(view: View) -> Json:
    """Bids and charges per operation over the last five network ledgers."""
    recent = view.ledgers()[-5:]
    applied = [item for closed in recent for item in closed.applied]
    charged = [item.result.fee_charged // max(1, item.tx.bid_operations) for item in applied]
    bids = [item.tx.fee // max(1, item.tx.bid_operations) for item in applied]
    last = view.latest
    size = sum(len(item.tx.operations) for item in last.applied)
    usage_percent = 100 * size // max(1, last.header.max_tx_set_size)
    return {
        "last_ledger": str(view.last),
        "last_ledger_base_fee": str(last.header.base_fee),
        "ledger_capacity_usage": f"{usage_percent // 100}.{usage_percent % 100:02d}",
        "fee_charged": distribution(charged, last.header.base_fee),
        "max_fee": distribution(bids, last.header.base_fee),
    }


def distribution(values: list[int], least: int) -> dict[str, str]:
    """Minimum, maximum, mode and percentiles as text; the least value when there are none."""
    ranked = sorted(values) or [least]
    percents = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
    found = {"max": ranked[-1], "min": ranked[0], "mode": max(ranked, key=ranked.count)}
    for percent in percents:
        found[f"p{percent}"] = ranked[(len(ranked) - 1) * percent // 100]
    return {name: str(value) for name, value in found.items()}
