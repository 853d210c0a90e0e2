"""Stellar RPC's methods for classic transactions, as stellar_sdk.SorobanServer reads them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, Final

from ledger.devnet import horizon
from ledger.devnet.closing import Closed
from ledger.devnet.envelope import EnvelopeError, Transaction
from ledger.devnet.horizon import Json, encode
from ledger.devnet.network import Record
from ledger.devnet.queue import Submission
from ledger.devnet.service import Devnet

Take = Callable[[Transaction], Submission]
_MAX_KEYS: Final = 200
_MAX_PAGE: Final = 200


class RpcError(ValueError):
    """A call answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def error(call_id: object, code: int, message: str) -> Json:
    """A JSON-RPC error answer."""
    return {"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": message}}


def answer(devnet: Devnet, call: object, take: Take) -> Json:
    """Answer one call; `take` submits through the fault plane."""
    if not isinstance(call, dict):
        return error(None, -32600, "call: want a JSON object")
    call_id, method = call.get("id"), call.get("method")
    params = call.get("params") or {}
    handler = _METHODS.get(method) if isinstance(method, str) else None
    if handler is None:
        return error(call_id, -32601, f"method: got {method!r}, want a known one")
    if not isinstance(params, dict):
        return error(call_id, -32602, "params: want a JSON object")
    try:
        return {"jsonrpc": "2.0", "id": call_id, "result": handler(devnet, params, take)}
    except RpcError as refused:
        return error(call_id, refused.code, str(refused))


def _latest(devnet: Devnet) -> Closed:
    return devnet.network.ledgers[devnet.horizon_ledger() - 1]


def _health(devnet: Devnet, _params: Json, _take: Take) -> Json:
    latest = _latest(devnet).header.sequence
    return {
        "status": "healthy",
        "latestLedger": latest,
        "oldestLedger": 1,
        "ledgerRetentionWindow": latest,
    }


def _network(devnet: Devnet, _params: Json, _take: Take) -> Json:
    settings = devnet.network.settings
    return {"passphrase": settings.passphrase, "protocolVersion": settings.protocol}


def _latest_ledger(devnet: Devnet, _params: Json, _take: Take) -> Json:
    closed = _latest(devnet)
    return {
        "id": closed.hash.hex(),
        "protocolVersion": closed.header.protocol,
        "sequence": closed.header.sequence,
        "closeTime": str(closed.header.close_time),
        "headerXdr": encode(closed.header.encode()),
        "metadataXdr": "",
    }


def _ledger_entries(devnet: Devnet, params: Json, _take: Take) -> Json:
    keys = params.get("keys")
    if not isinstance(keys, list) or not 1 <= len(keys) <= _MAX_KEYS:
        raise RpcError(-32602, f"keys: want 1 to {_MAX_KEYS} of them")
    entries = []
    for text in keys:
        raw = _decode(text, "keys")
        entry = devnet.network.world.find(raw)
        if entry is None:
            continue
        # LedgerEntryData: the entry without the ledger it was modified in and without its
        # extension.
        data = devnet.network.world.entries[raw][4:]
        end = len(data) - (_sponsored_tail(entry.sponsor) if entry.extended else 4)
        entries.append(
            {"key": text, "xdr": encode(data[:end]), "lastModifiedLedgerSeq": entry.modified}
        )
    return {"entries": entries, "latestLedger": devnet.network.header.sequence}


def _sponsored_tail(sponsor: bytes | None) -> int:
    return 12 if sponsor is None else 12 + 36


def _decode(text: object, field: str) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error:
        raise RpcError(-32602, f"{field}: want base64") from None


def _send(devnet: Devnet, params: Json, take: Take) -> Json:
    try:
        tx = devnet.network.parse(_decode(params.get("transaction"), "transaction"))
    except EnvelopeError as refused:
        raise RpcError(-32602, str(refused)) from refused
    submission = take(tx)
    header = devnet.network.header
    body: Json = {
        "status": submission.status.value,
        "hash": tx.hash.hex(),
        "latestLedger": header.sequence,
        "latestLedgerCloseTime": str(header.close_time),
    }
    if submission.result is not None:
        body["errorResultXdr"] = encode(submission.result.encode())
    return body


def _span(devnet: Devnet) -> Json:
    latest, oldest = _latest(devnet).header, devnet.network.ledgers[0].header
    return {
        "latestLedger": latest.sequence,
        "latestLedgerCloseTime": str(latest.close_time),
        "oldestLedger": oldest.sequence,
        "oldestLedgerCloseTime": str(oldest.close_time),
    }


def _record(devnet: Devnet, record: Record, tx_hash: bytes) -> Json:
    closed = devnet.network.ledgers[record.ledger - 1]
    return {
        "status": "SUCCESS" if record.result.ok else "FAILED",
        "txHash": tx_hash.hex(),
        "applicationOrder": record.index,
        "feeBump": record.tx.is_fee_bump,
        "envelopeXdr": encode(record.tx.raw),
        "resultXdr": encode(record.result_xdr),
        "resultMetaXdr": horizon.EMPTY_META,
        "ledger": record.ledger,
        "createdAt": closed.header.close_time,
    }


def _transaction(devnet: Devnet, params: Json, _take: Take) -> Json:
    try:
        tx_hash = bytes.fromhex(str(params.get("hash")))
    except ValueError:
        raise RpcError(-32602, "hash: want 64 hexadecimal digits") from None
    record = devnet.find(tx_hash)
    if record is None:
        return {**_span(devnet), "status": "NOT_FOUND", "txHash": tx_hash.hex()}
    found = {**_span(devnet), **_record(devnet, record, tx_hash)}
    found["createdAt"] = str(found["createdAt"])
    return found


def _transactions(devnet: Devnet, params: Json, _take: Take) -> Json:
    page = params.get("pagination") or {}
    limit, cursor = page.get("limit") or 50, page.get("cursor")
    if not isinstance(limit, int) or not 1 <= limit <= _MAX_PAGE:
        raise RpcError(-32602, f"limit: got {limit!r}, want 1 to {_MAX_PAGE}")
    if cursor:
        after = int(cursor) if str(cursor).isdecimal() else 0
    else:
        start = params.get("startLedger")
        if not isinstance(start, int) or not 1 <= start <= devnet.network.header.sequence:
            raise RpcError(-32602, f"startLedger: got {start!r}, want a closed network ledger")
        after = (start << 32) - 1
    shown = devnet.visible(devnet.network.records)
    found = [record for record in shown if record.token > after][:limit]
    span = _span(devnet)
    return {
        "transactions": [_record(devnet, record, record.tx.hash) for record in found],
        "latestLedger": span["latestLedger"],
        "latestLedgerCloseTimestamp": int(span["latestLedgerCloseTime"]),
        "oldestLedger": span["oldestLedger"],
        "oldestLedgerCloseTimestamp": int(span["oldestLedgerCloseTime"]),
        "cursor": str(found[-1].token if found else after),
    }


def _fee_stats(devnet: Devnet, _params: Json, _take: Take) -> Json:
    latest = _latest(devnet).header.sequence
    recent = devnet.network.ledgers[max(0, latest - 50) : latest]
    applied = [item for closed in recent for item in closed.applied]
    charged = [item.result.fee_charged // max(1, item.tx.bid_operations) for item in applied]
    least = devnet.network.header.base_fee
    counts = {"transactionCount": str(len(applied)), "ledgerCount": len(recent)}
    return {
        "sorobanInclusionFee": {**horizon.distribution([], least), **counts},
        "inclusionFee": {**horizon.distribution(charged, least), **counts},
        "latestLedger": latest,
    }


def _version(devnet: Devnet, _params: Json, _take: Take) -> Json:
    return {
        "version": "devnet",
        "commitHash": "",
        "buildTimestamp": "",
        "captiveCoreVersion": "devnet",
        "protocolVersion": devnet.network.settings.protocol,
    }


_METHODS: Final[dict[str, Callable[[Devnet, Json, Take], Any]]] = {
    "getHealth": _health,
    "getNetwork": _network,
    "getLatestLedger": _latest_ledger,
    "getLedgerEntries": _ledger_entries,
    "sendTransaction": _send,
    "getTransaction": _transaction,
    "getTransactions": _transactions,
    "getFeeStats": _fee_stats,
    "getVersionInfo": _version,
}
