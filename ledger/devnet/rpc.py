"""Stellar RPC's methods for classic transactions, as stellar_sdk.SorobanServer reads them.

Answers, limits and error codes follow stellar-rpc's handlers; there is no simulation, because the
devnet has no contracts. The whole history is kept, so the oldest ledger is the first.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ledger.devnet import horizon
from ledger.devnet.closing import Closed
from ledger.devnet.envelope import EnvelopeError, Transaction
from ledger.devnet.freezing import FREEZE_SINCE
from ledger.devnet.horizon import Json, encode
from ledger.devnet.network import Record
from ledger.devnet.queue import Status, Submission
from ledger.devnet.rpc_events import EventsError, contract_events, events
from ledger.devnet.service import Devnet
from ledger.devnet.view import View
from ledger.devnet.wire import i32, opaque, u32

Take = Callable[[Transaction], Submission]
MAX_KEYS: Final = 200
MAX_PAGE: Final = 200
_DEFAULT_PAGE: Final = 50
_INVALID_REQUEST: Final = -32600
_INVALID_PARAMS: Final = -32602
_INTERNAL_ERROR: Final = -32603
_FEE_LEDGERS: Final = 10
_CONFIG_SETTING: Final = 8
_FROZEN_KEYS: Final = 17


class RpcError(ValueError):
    """A call answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Call:
    """What a call is answered with; `take` submits through the fault plane."""

    devnet: Devnet
    path: str
    take: Take
    base: str

    def see(self, *, of_transactions: bool = False) -> View:
        """What the caller sees of the network; asked once in each call."""
        return self.devnet.view(self.path, of_transactions=of_transactions)


def error(call_id: object, code: int, message: str) -> Json:
    """A JSON-RPC error answer."""
    return {"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": message}}


def method_of(call: object) -> str:
    """The method that a call names; "" if it names no known one."""
    method = call.get("method") if isinstance(call, dict) else None
    return method if isinstance(method, str) and method in _METHODS else ""


def answer(taking: Call, call: object) -> Json:
    """Answer one call."""
    if not isinstance(call, dict):
        return error(None, _INVALID_REQUEST, "call: want a JSON object")
    call_id, params = call.get("id"), call.get("params") or {}
    handler = _METHODS.get(method_of(call))
    if handler is None:
        return error(call_id, -32601, f"method: got {call.get('method')!r:.80}, want a known one")
    if not isinstance(params, dict):
        return error(call_id, _INVALID_PARAMS, "params: want a JSON object")
    try:
        return {"jsonrpc": "2.0", "id": call_id, "result": handler(taking, params)}
    except RpcError as refused:
        return error(call_id, refused.code, str(refused))


def _health(call: Call, _params: Json) -> Json:
    latest = call.see().latest.header.sequence
    return {
        "status": "healthy",
        "latestLedger": latest,
        "oldestLedger": 1,
        "ledgerRetentionWindow": latest,
    }


def _network(call: Call, _params: Json) -> Json:
    settings = call.devnet.network.settings
    return {
        "friendbotUrl": f"{call.base}/friendbot",
        "passphrase": settings.passphrase,
        "protocolVersion": settings.protocol,
    }


def _latest_ledger(call: Call, _params: Json) -> Json:
    view = call.see()
    closed = view.latest
    return {
        "id": closed.hash.hex(),
        "protocolVersion": closed.header.protocol,
        "sequence": closed.header.sequence,
        "closeTime": str(closed.header.close_time),
        "headerXdr": encode(closed.header.encode()),
        "metadataXdr": encode(_close_meta(closed)),
    }


def _history_entry(closed: Closed) -> bytes:
    """LedgerHeaderHistoryEntry XDR."""
    return closed.hash + closed.header.encode() + bytes(4)


def _close_meta(closed: Closed) -> bytes:
    """LedgerCloseMeta XDR (version 0): header, set and results, without changes of entries."""
    out = [i32(0), _history_entry(closed), closed.header.previous_hash, u32(len(closed.applied))]
    out += [item.tx.raw for item in closed.applied]
    out.append(u32(len(closed.applied)))
    no_changes, meta = bytes(4), base64.b64decode(horizon.EMPTY_META)
    for item in closed.applied:
        out += [item.tx.hash, item.result.encode(), no_changes, meta]
    return b"".join([*out, bytes(4), bytes(4)])


def _ledgers(call: Call, params: Json) -> Json:
    view = call.see()
    limit, cursor = _pagination(params)
    if cursor is None:
        start = _start_ledger(view, params)
    else:
        start = int(cursor) + 1
        if not 1 <= start <= view.last:
            raise RpcError(_INVALID_PARAMS, f"cursor ('{cursor}') must be between {_range(view)}")
    found = view.ledgers()[start - 1 : start - 1 + limit]
    return {
        "ledgers": [
            {
                "hash": closed.hash.hex(),
                "sequence": closed.header.sequence,
                "ledgerCloseTime": str(closed.header.close_time),
                "headerXdr": encode(_history_entry(closed)),
                "metadataXdr": encode(_close_meta(closed)),
            }
            for closed in found
        ],
        **_seen(view, as_numbers=True),
        "cursor": str(found[-1].header.sequence if found else start - 1),
    }


def _ledger_entries(call: Call, params: Json) -> Json:
    keys = params.get("keys")
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise RpcError(_INVALID_PARAMS, f"key count exceeds maximum supported ({MAX_KEYS})")
    view = call.see()
    entries = []
    for text in keys:
        raw = _decode(text, "keys")
        found = _frozen_keys(view) if raw == i32(_CONFIG_SETTING) + i32(_FROZEN_KEYS) else None
        found = found or _entry(view, raw)
        if found is not None:
            entries.append({"key": text, **found})
    return {"entries": entries, "latestLedger": view.last}


def _entry(view: View, key: bytes) -> Json | None:
    raw = view.state.raw(key)
    entry = view.state.find(key)
    if raw is None or entry is None:
        return None
    # LedgerEntryData: the entry without the ledger it was modified in and without its extension.
    size = _sponsored_tail(entry.sponsor) if entry.extended else 4
    return {
        "xdr": encode(raw[4:-size]),
        "extXdr": encode(raw[-size:]),
        "lastModifiedLedgerSeq": entry.modified,
    }


def _frozen_keys(view: View) -> Json | None:
    """The network's list of frozen keys (CAP-77), a configuration setting."""
    header = view.latest.header
    if header.protocol < FREEZE_SINCE:
        return None
    keys = b"".join(opaque(key) for key in sorted(header.frozen))
    raw = i32(_CONFIG_SETTING) + i32(_FROZEN_KEYS) + u32(len(header.frozen)) + keys
    return {"xdr": encode(raw), "extXdr": encode(bytes(4)), "lastModifiedLedgerSeq": 1}


def _sponsored_tail(sponsor: bytes | None) -> int:
    return 12 if sponsor is None else 12 + 36


def _decode(text: object, field: str) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raise RpcError(_INVALID_PARAMS, f"{field}: want base64") from None


def _send(call: Call, params: Json) -> Json:
    try:
        tx = call.devnet.network.parse(_decode(params.get("transaction"), "transaction"))
    except EnvelopeError as refused:
        raise RpcError(_INVALID_PARAMS, "invalid_xdr") from refused
    header = call.see().latest.header
    submission = call.take(tx)
    if submission.status == Status.FILTERED:
        # RPC knows four statuses of a node, and calls any other one invalid.
        raise RpcError(_INTERNAL_ERROR, "invalid status from stellar-core")
    body: Json = {
        "status": submission.status.value,
        "hash": tx.hash.hex(),
        "latestLedger": header.sequence,
        "latestLedgerCloseTime": str(header.close_time),
    }
    if submission.result is not None:
        body["errorResultXdr"] = encode(submission.result.encode())
    return body


def _seen(view: View, *, as_numbers: bool = False) -> Json:
    latest, oldest = view.latest.header, view.ledgers()[0].header
    times = (latest.close_time, oldest.close_time)
    newest_time, oldest_time = times if as_numbers else (str(times[0]), str(times[1]))
    return {
        "latestLedger": latest.sequence,
        "latestLedgerCloseTime": newest_time,
        "oldestLedger": oldest.sequence,
        "oldestLedgerCloseTime": oldest_time,
    }


def _record(view: View, record: Record, tx_hash: bytes) -> Json:
    closed = view.network.ledgers[record.ledger - 1]
    return {
        "status": "SUCCESS" if record.result.ok else "FAILED",
        "txHash": tx_hash.hex(),
        "applicationOrder": record.index,
        "feeBump": record.tx.is_fee_bump,
        "envelopeXdr": encode(record.tx.raw),
        "resultXdr": encode(record.result_xdr),
        "resultMetaXdr": horizon.EMPTY_META,
        "events": {"contractEventsXdr": contract_events(view.network, record)},
        "ledger": record.ledger,
        "createdAt": closed.header.close_time,
    }


def _transaction(call: Call, params: Json) -> Json:
    try:
        tx_hash = bytes.fromhex(str(params.get("hash")))
    except ValueError:
        raise RpcError(_INVALID_PARAMS, "incorrect hash") from None
    if len(tx_hash) != 32:
        raise RpcError(_INVALID_PARAMS, f"unexpected hash length ({2 * len(tx_hash)})")
    view = call.see(of_transactions=True)
    record = view.record(tx_hash)
    if record is None:
        return {**_seen(view), "status": "NOT_FOUND", "txHash": tx_hash.hex()}
    found = {**_seen(view), **_record(view, record, tx_hash)}
    found["createdAt"] = str(found["createdAt"])
    return found


def _transactions(call: Call, params: Json) -> Json:
    view = call.see(of_transactions=True)
    limit, cursor = _pagination(params)
    # A transaction's cursor names its first operation, so its own token lies just before.
    after = (_start_ledger(view, params) << 32) - 1 if cursor is None else int(cursor)
    records = view.records()
    start = bisect_right(records, after, key=lambda record: record.token)
    found = records[start : start + limit]
    seen = _seen(view, as_numbers=True)
    return {
        "transactions": [_record(view, record, record.tx.hash) for record in found],
        "latestLedger": seen["latestLedger"],
        "latestLedgerCloseTimestamp": seen["latestLedgerCloseTime"],
        "oldestLedger": seen["oldestLedger"],
        "oldestLedgerCloseTimestamp": seen["oldestLedgerCloseTime"],
        "cursor": str(found[-1].token | 1 if found else (view.last << 32) | 1),
    }


def _pagination(params: Json) -> tuple[int, str | None]:
    """Limit and cursor of a listing."""
    limit = _limit(params)
    cursor = (params.get("pagination") or {}).get("cursor")
    if not cursor:
        return limit, None
    if params.get("startLedger"):
        raise RpcError(_INVALID_REQUEST, "startLedger and cursor cannot both be set")
    if not str(cursor).isdecimal() or len(str(cursor)) > 20:
        raise RpcError(_INVALID_PARAMS, f"cursor: got {cursor!r:.40}, want a number")
    return limit, str(cursor)


def _limit(params: Json) -> int:
    page = params.get("pagination") or {}
    limit = page.get("limit") or _DEFAULT_PAGE if isinstance(page, dict) else None
    if not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
        raise RpcError(_INVALID_REQUEST, f"limit must be between 1 and {MAX_PAGE}")
    return limit


def _range(view: View) -> str:
    return f"the oldest ledger: 1 and the latest ledger: {view.last} for this rpc instance"


def _start_ledger(view: View, params: Json) -> int:
    start = params.get("startLedger")
    if not isinstance(start, int) or not 1 <= start <= view.last:
        raise RpcError(_INVALID_REQUEST, f"start ledger ({start}) must be between {_range(view)}")
    return start


def _fee_stats(call: Call, _params: Json) -> Json:
    view = call.see()
    recent = view.ledgers()[-_FEE_LEDGERS:]
    applied = [item for closed in recent for item in closed.applied]
    charged = [item.result.fee_charged // max(1, item.tx.bid_operations) for item in applied]
    return {
        "sorobanInclusionFee": {
            **horizon.distribution([], 0),
            "transactionCount": "0",
            "ledgerCount": len(recent),
        },
        "inclusionFee": {
            **horizon.distribution(charged, 0),
            "transactionCount": str(len(applied)),
            "ledgerCount": len(recent),
        },
        "latestLedger": view.last,
    }


def _events(call: Call, params: Json) -> Json:
    view = call.see(of_transactions=True)
    limit, _ = _pagination(
        {**params, "pagination": {"limit": (params.get("pagination") or {}).get("limit")}}
    )
    try:
        found, cursor = events(view, params, limit)
    except EventsError as refused:
        raise RpcError(refused.code, str(refused)) from refused
    return {"events": found, **_seen(view), "cursor": cursor}


def _version(call: Call, _params: Json) -> Json:
    return {
        "version": "devnet",
        "commitHash": "",
        "buildTimestamp": "",
        "captiveCoreVersion": "devnet",
        "protocolVersion": call.devnet.network.settings.protocol,
    }


_METHODS: Final[dict[str, Callable[[Call, Json], Any]]] = {
    "getHealth": _health,
    "getNetwork": _network,
    "getLatestLedger": _latest_ledger,
    "getLedgers": _ledgers,
    "getLedgerEntries": _ledger_entries,
    "sendTransaction": _send,
    "getTransaction": _transaction,
    "getTransactions": _transactions,
    "getFeeStats": _fee_stats,
    "getEvents": _events,
    "getVersionInfo": _version,
}
