"""Horizon's operation resources, with the fields of what moves money and trust."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from stellar_sdk import MuxedAccount, xdr

from ledger.devnet import horizon
from ledger.devnet.envelope import Operation, account_key_of, arm, muxed_key
from ledger.devnet.horizon import Json, address, amount, asset_fields
from ledger.devnet.network import Record
from ledger.devnet.results import Kind
from ledger.devnet.view import View
from ledger.devnet.wire import Reader

PAYMENT_KINDS: Final = frozenset({0, 1, 2, 8, 13})
_NAMES: Final[dict[int, str]] = {
    Kind.BEGIN_SPONSORING: "begin_sponsoring_future_reserves",
    Kind.END_SPONSORING: "end_sponsoring_future_reserves",
}


def operations(view: View, record: Record, base: str) -> Iterator[tuple[int, int, Json]]:
    """(paging token, kind, resource) of each operation of a transaction."""
    closed = view.network.ledgers[record.ledger - 1]
    for index, operation in enumerate(record.tx.operations, start=1):
        token = record.token | index
        source = operation.source or record.tx.source
        resource: Json = {
            "_links": {
                "self": {"href": f"{base}/operations/{token}"},
                "transaction": {"href": f"{base}/transactions/{record.tx.hash.hex()}"},
            },
            "id": str(token),
            "paging_token": str(token),
            "transaction_successful": record.result.ok,
            "source_account": address(source),
            "type": _name(operation.kind),
            "type_i": operation.kind,
            "created_at": horizon.stamp(closed.header.close_time),
            "transaction_hash": record.tx.hash.hex(),
            **_fields(operation, source, record, index - 1),
        }
        yield token, operation.kind, resource


def _name(kind: int) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    known = {int(k) for k in Kind}
    return Kind(kind).name.lower() if kind in known else "unknown"


def _fields(operation: Operation, source: bytes, record: Record, index: int) -> Json:
    body = operation.body
    if body.create_account_op is not None:
        return {
            "starting_balance": amount(body.create_account_op.starting_balance.int64),
            "funder": address(source),
            "account": address(account_key_of(body.create_account_op.destination)),
        }
    if body.payment_op is not None:
        return {
            "from": address(source),
            "to": address(muxed_key(body.payment_op.destination)),
            "amount": amount(body.payment_op.amount.int64),
            **_muxed_fields("to", body.payment_op.destination),
            **asset_fields(body.payment_op.asset.to_xdr_bytes()),
        }
    if operation.kind in (2, 13):
        return _path_fields(operation, source, record, index)
    if operation.kind == Kind.ACCOUNT_MERGE:
        return {"account": address(source), "into": address(muxed_key(arm(body.destination)))}
    if body.change_trust_op is not None:
        line = body.change_trust_op.line
        asset = {} if line.liquidity_pool else asset_fields(line.to_xdr_bytes())
        return {
            **asset,
            "limit": amount(body.change_trust_op.limit.int64),
            "trustor": address(source),
            "trustee": asset.get("asset_issuer"),
        }
    if body.manage_data_op is not None:
        value = body.manage_data_op.data_value
        return {
            "name": body.manage_data_op.data_name.string64.decode(),
            "value": horizon.encode(value.data_value) if value else "",
        }
    if body.bump_sequence_op is not None:
        return {"bump_to": str(body.bump_sequence_op.bump_to.sequence_number.int64)}
    if body.set_trust_line_flags_op is not None:
        flags = body.set_trust_line_flags_op
        return {
            **asset_fields(flags.asset.to_xdr_bytes()),
            "trustor": address(account_key_of(flags.trustor)),
        }
    return {}


def _muxed_fields(name: str, muxed: xdr.MuxedAccount) -> Json:
    if muxed.med25519 is None:
        return {}
    raw = muxed.med25519
    found = MuxedAccount(address(raw.ed25519.uint256), raw.id.uint64)
    return {f"{name}_muxed": found.account_muxed, f"{name}_muxed_id": str(raw.id.uint64)}


def _path_fields(operation: Operation, source: bytes, record: Record, index: int) -> Json:
    body = operation.body
    receive, send = body.path_payment_strict_receive_op, body.path_payment_strict_send_op
    path: xdr.PathPaymentStrictReceiveOp | xdr.PathPaymentStrictSendOp
    path = receive if receive is not None else arm(send)
    fields: Json = {
        "from": address(source),
        "to": address(muxed_key(path.destination)),
        "path": [asset_fields(asset.to_xdr_bytes()) for asset in path.path],
        **asset_fields(path.dest_asset.to_xdr_bytes()),
        **asset_fields(path.send_asset.to_xdr_bytes(), "source_"),
    }
    if receive is not None:
        fields["amount"] = amount(receive.dest_amount.int64)
        fields["source_max"] = amount(receive.send_max.int64)
    if send is not None:
        fields["source_amount"] = amount(send.send_amount.int64)
        fields["destination_min"] = amount(send.dest_min.int64)
        fields["amount"] = amount(_delivered(record, index))
    return fields


def _delivered(record: Record, index: int) -> int:
    """What a strict-send path payment brought: the last eight bytes of its success."""
    if not record.result.ok:
        return 0
    inner = record.result.inner or record.result
    return Reader(inner.operations[index].xdr[-8:]).i64()
