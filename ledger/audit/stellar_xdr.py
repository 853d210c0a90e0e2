"""A small reader of Stellar's XDR: an envelope and its result, as the books read them.

Reads classic transactions (versions 0 and 1, fee bumps) with the operations that can touch an
account of the settlement domain; any other operation is refused, never guessed. No SDK: the
auditor's machine has PyNaCl only. Source: Stellar-transaction.x and Stellar-ledger-entries.x of
stellar-core v19 (the operations read here are unchanged since), RFC 4506 for XDR.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from ledger.books.transactions import AppliedTransaction, Movement, NetworkFact
from ledger.evidence.errors import MalformedError

ENVELOPE_TX_V0, ENVELOPE_TX, ENVELOPE_FEE_BUMP = 0, 2, 5
_NO_ISSUER = bytes(32)
_THE_MARKET = bytes(32)
_OPERATIONS_MAX = 100
_SIGNATURES_MAX = 20
_PATH_MAX = 5

_SEQUENCE_KEPT = frozenset({-2, -3, -4, -5, -8, -9, -12, -16, -17})
"""Codes of failures that leave the sequence number unused although the fee was taken.

Too early, too late, no operation, bad sequence, no account, too small a fee, not supported,
malformed (twice): stellar-core checks them before it processes the sequence number (`commonValid`).
"""

Asset = tuple[str, bytes]


class MalformedXdrError(MalformedError):
    """The bytes are not the XDR they should be, or hold an operation this reader does not know."""


class XdrReader:
    """Takes XDR values (RFC 4506) off the front of untrusted bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if not 0 <= size <= len(self.data) - self.at:
            raise MalformedXdrError("xdr", got=f"{len(self.data) - self.at} bytes", want=f"{size}")
        self.at += size
        return self.data[self.at - size : self.at]

    def uint(self) -> int:
        """Return an unsigned 32-bit integer."""
        return int.from_bytes(self.take(4), "big")

    def int32(self) -> int:
        """Return a signed 32-bit integer."""
        return int(struct.unpack(">i", self.take(4))[0])

    def int64(self) -> int:
        """Return a signed 64-bit integer."""
        return int(struct.unpack(">q", self.take(8))[0])

    def count(self, limit: int) -> int:
        """Return an array's length, at most `limit`."""
        number = self.uint()
        if number > limit:
            raise MalformedXdrError("xdr.count", got=number, want=f"at most {limit}")
        return number

    def opaque(self, limit: int) -> bytes:
        """Return variable-length bytes; padding must be zeros."""
        size = self.count(limit)
        data = self.take(size)
        if self.take(-size % 4).strip(b"\0"):
            raise MalformedXdrError("xdr.padding", got="other bytes", want="zeros")
        return data

    def present(self) -> bool:
        """Return whether an optional value follows."""
        flag = self.uint()
        if flag > 1:
            raise MalformedXdrError("xdr.optional", got=flag, want="0 or 1")
        return flag == 1

    def account(self) -> bytes:
        """Return an AccountID's key."""
        kind = self.uint()
        if kind != 0:
            raise MalformedXdrError("xdr.account", got=kind, want="key type 0")
        return self.take(32)

    def muxed_account(self) -> bytes:
        """Return a MuxedAccount's key; its id does not matter to the books."""
        kind = self.uint()
        if kind == 0x100:
            self.take(8)
        elif kind != 0:
            raise MalformedXdrError("xdr.muxed_account", got=kind, want="0 or 256")
        return self.take(32)

    def asset(self) -> Asset:
        """Return (code, issuer); ("XLM", zeros) for the native asset."""
        kind = self.uint()
        if kind == 0:
            return "XLM", _NO_ISSUER
        if kind not in {1, 2}:
            raise MalformedXdrError("xdr.asset", got=kind, want="0, 1 or 2")
        code = self.take(4 if kind == 1 else 12).rstrip(b"\0")
        if not code.isalnum():
            raise MalformedXdrError("xdr.asset.code", got=code, want="letters and digits")
        return code.decode("ascii"), self.account()

    def finish(self) -> None:
        """Raise if bytes are left."""
        if self.at != len(self.data):
            raise MalformedXdrError("xdr", got=f"{len(self.data) - self.at} bytes more", want="end")


@dataclass(frozen=True, slots=True)
class _Operation:
    """An operation with what it would move if it succeeds."""

    kind: int
    source: bytes
    movements: tuple[Movement, ...]
    destination: bytes


@dataclass(frozen=True, slots=True)
class _Transaction:
    source: bytes
    sequence: int
    memo_hash: bytes
    operations: tuple[_Operation, ...]
    tx_hash: bytes


def read_transaction(fact: NetworkFact) -> AppliedTransaction:
    """Read a network fact as the books need it.

    Raises:
        MalformedXdrError: Envelope or result is not well-formed XDR, holds an operation that this
            reader does not know, or the two do not belong together.
    """
    reader = XdrReader(fact.envelope)
    kind = reader.uint()
    fee_account = b""
    if kind == ENVELOPE_FEE_BUMP:
        fee_account = reader.muxed_account()
        reader.int64()
        kind = reader.uint()
    transaction = _read_inner(reader, kind, fact.network_id)
    _skip_signatures(reader)
    if fee_account:
        if reader.uint() != 0:
            raise MalformedXdrError("fee bump.ext", got="other", want="0")
        _skip_signatures(reader)
    reader.finish()
    outcome = _read_result(fact.result, transaction, is_bump=bool(fee_account))
    movements = tuple(
        movement
        for operation, merged in zip(transaction.operations, outcome.merged, strict=False)
        for movement in _with_merge(operation, merged)
    )
    return AppliedTransaction(
        ledger_sequence=fact.ledger_sequence,
        close_time_s=fact.close_time_s,
        apply_order=fact.apply_order,
        tx_hash=transaction.tx_hash,
        source_account=transaction.source,
        sequence=transaction.sequence,
        is_sequence_consumed=outcome.code not in _SEQUENCE_KEPT,
        fee_account=fee_account or transaction.source,
        fee_charged_stroops=outcome.fee_charged_stroops,
        memo_hash=transaction.memo_hash,
        succeeded=outcome.succeeded,
        movements=movements if outcome.succeeded else (),
        failed_destinations=outcome.failed_destinations,
    )


def _read_inner(reader: XdrReader, kind: int, network_id: bytes) -> _Transaction:
    start = reader.at
    if kind == ENVELOPE_TX_V0:
        source, prefix = reader.take(32), bytes(4)
    elif kind == ENVELOPE_TX:
        source, prefix = reader.muxed_account(), b""
    else:
        raise MalformedXdrError("envelope.type", got=kind, want="0, 2 or 5")
    reader.uint()  # fee bid
    sequence = reader.int64()
    if kind == ENVELOPE_TX_V0:
        _skip_time_bounds(reader)
    else:
        _skip_preconditions(reader)
    memo_hash = _read_memo(reader)
    operations = tuple(
        _read_operation(reader, index, source) for index in range(reader.count(_OPERATIONS_MAX))
    )
    if reader.uint() != 0:
        raise MalformedXdrError("transaction.ext", got="contract data", want="classic operations")
    # The hash covers network, envelope type 2 and the transaction; version 0 hashes as version 1.
    preimage = network_id + ENVELOPE_TX.to_bytes(4, "big") + prefix + reader.data[start : reader.at]
    return _Transaction(source, sequence, memo_hash, operations, sha256(preimage).digest())


def _skip_time_bounds(reader: XdrReader) -> None:
    if reader.present():
        reader.take(16)


def _skip_preconditions(reader: XdrReader) -> None:
    kind = reader.uint()
    if kind == 1:
        reader.take(16)
    elif kind == 2:
        _skip_time_bounds(reader)
        if reader.present():
            reader.take(8)
        if reader.present():
            reader.take(8)
        reader.take(12)
        for _ in range(reader.count(2)):
            _skip_signer_key(reader)
    elif kind != 0:
        raise MalformedXdrError("preconditions", got=kind, want="0, 1 or 2")


def _skip_signer_key(reader: XdrReader) -> None:
    kind = reader.uint()
    if kind > 3:
        raise MalformedXdrError("signer key", got=kind, want="0 to 3")
    reader.take(32)
    if kind == 3:
        reader.opaque(64)


def _read_memo(reader: XdrReader) -> bytes:
    kind = reader.uint()
    if kind == 1:
        reader.opaque(28)
    elif kind == 2:
        reader.take(8)
    elif kind in {3, 4}:
        value = reader.take(32)
        return value if kind == 3 else _NO_ISSUER
    elif kind != 0:
        raise MalformedXdrError("memo", got=kind, want="0 to 4")
    return _NO_ISSUER


def _skip_signatures(reader: XdrReader) -> None:
    for _ in range(reader.count(_SIGNATURES_MAX)):
        reader.take(4)
        reader.opaque(64)


def _read_operation(reader: XdrReader, index: int, default_source: bytes) -> _Operation:
    source = reader.muxed_account() if reader.present() else default_source
    kind = reader.uint()
    body = _BODIES.get(kind)
    if body is None:
        raise MalformedXdrError("operation.type", got=kind, want=f"one of {sorted(_BODIES)}")
    movements, destination = body(reader, index, source)
    return _Operation(kind, source, movements, destination)


_Body = tuple[tuple[Movement, ...], bytes]


def _movement(
    index: int, asset: Asset, source: bytes, destination: bytes, amount: int, **more: bool
) -> Movement:
    return Movement(
        operation_index=index,
        asset_code=asset[0],
        asset_issuer=asset[1],
        source=source,
        destination=destination,
        amount_stroops=max(amount, 0),
        creates_account=more.get("creates_account", False),
        is_exact=more.get("is_exact", True),
    )


def _create_account(reader: XdrReader, index: int, source: bytes) -> _Body:
    destination, amount = reader.account(), reader.int64()
    native: Asset = ("XLM", _NO_ISSUER)
    created = _movement(index, native, source, destination, amount, creates_account=True)
    return (created,), destination


def _payment(reader: XdrReader, index: int, source: bytes) -> _Body:
    destination, asset, amount = reader.muxed_account(), reader.asset(), reader.int64()
    return (_movement(index, asset, source, destination, amount),), destination


def _path_payment_strict_receive(reader: XdrReader, index: int, source: bytes) -> _Body:
    sent_asset, sent_max = reader.asset(), reader.int64()
    destination, asset, amount = reader.muxed_account(), reader.asset(), reader.int64()
    parties = (source, destination)
    return _path_movements(reader, index, parties, (sent_asset, sent_max), (asset, amount))


def _path_payment_strict_send(reader: XdrReader, index: int, source: bytes) -> _Body:
    sent_asset, sent = reader.asset(), reader.int64()
    destination, asset, least = reader.muxed_account(), reader.asset(), reader.int64()
    parties = (source, destination)
    return _path_movements(reader, index, parties, (sent_asset, sent), (asset, least))


def _path_movements(
    reader: XdrReader,
    index: int,
    parties: tuple[bytes, bytes],
    sent: tuple[Asset, int],
    got: tuple[Asset, int],
) -> _Body:
    """Bounds only: exact amounts through an order book stand in the offers of the result."""
    source, destination = parties
    hops = reader.count(_PATH_MAX)
    for _ in range(hops):
        reader.asset()
    received = _movement(index, got[0], source, destination, got[1], is_exact=False)
    paid = _movement(index, sent[0], source, _THE_MARKET, sent[1], is_exact=False)
    # Without a hop and within one asset it is a plain payment; what left is what arrived.
    is_plain = sent[0] == got[0] and hops == 0
    return ((received,) if is_plain else (paid, received)), destination


def _set_options(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    if reader.present():
        reader.account()
    for _ in range(6):
        if reader.present():
            reader.uint()
    if reader.present():
        reader.opaque(32)
    if reader.present():
        _skip_signer_key(reader)
        reader.uint()
    return (), b""


def _change_trust(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.asset()
    reader.int64()
    return (), b""


def _allow_trust(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.account()
    kind = reader.uint()
    if kind not in {1, 2}:
        raise MalformedXdrError("allow_trust.asset", got=kind, want="1 or 2")
    reader.take(4 if kind == 1 else 12)
    reader.uint()
    return (), b""


def _account_merge(reader: XdrReader, index: int, source: bytes) -> _Body:
    destination = reader.muxed_account()
    native: Asset = ("XLM", _NO_ISSUER)
    return (_movement(index, native, source, destination, 0),), destination


def _manage_data(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.opaque(64)
    if reader.present():
        reader.opaque(64)
    return (), b""


def _bump_sequence(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.int64()
    return (), b""


def _begin_sponsoring(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.account()
    return (), b""


def _end_sponsoring(_reader: XdrReader, _index: int, _source: bytes) -> _Body:
    return (), b""


def _clawback(reader: XdrReader, index: int, source: bytes) -> _Body:
    asset, holder, amount = reader.asset(), reader.muxed_account(), reader.int64()
    return (_movement(index, asset, holder, source, amount),), b""


def _set_trust_line_flags(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.account()
    reader.asset()
    reader.take(8)
    return (), b""


_MERGE = 8
_PAYMENTS = frozenset({0, 1, 2, 13})
_PATH_PAYMENTS = frozenset({2, 13})
_BODIES: dict[int, Callable[[XdrReader, int, bytes], _Body]] = {
    0: _create_account,
    1: _payment,
    2: _path_payment_strict_receive,
    5: _set_options,
    6: _change_trust,
    7: _allow_trust,
    _MERGE: _account_merge,
    10: _manage_data,
    11: _bump_sequence,
    13: _path_payment_strict_send,
    16: _begin_sponsoring,
    17: _end_sponsoring,
    19: _clawback,
    21: _set_trust_line_flags,
}


@dataclass(frozen=True, slots=True)
class _Outcome:
    fee_charged_stroops: int
    code: int
    """TransactionResultCode of the (inner) transaction."""

    succeeded: bool
    merged: tuple[int, ...]
    """Per operation: the XLM an account merge moved, or for a path payment what arrived; else 0."""

    failed_destinations: tuple[bytes, ...]


def _read_result(data: bytes, transaction: _Transaction, *, is_bump: bool) -> _Outcome:
    reader = XdrReader(data)
    fee_charged = reader.int64()
    code = reader.int32()
    if is_bump and code in {1, -13}:
        if reader.take(32) != transaction.tx_hash:
            raise MalformedXdrError("result.inner hash", got="another", want="the inner hash")
        reader.int64()
        inner = reader.int32()
        if (inner == 0) != (code == 1):
            raise MalformedXdrError("result.code", got=(code, inner), want="codes that agree")
        code = inner
        operations = _read_operation_results(reader, code, transaction)
        _end_result(reader)
    else:
        operations = _read_operation_results(reader, code, transaction)
    _end_result(reader)
    reader.finish()
    succeeded = code == 0
    failed = tuple(
        operation.destination
        for operation, (op_code, _) in zip(transaction.operations, operations, strict=False)
        if op_code != 0 and operation.kind in _PAYMENTS
    )
    if succeeded and any(op_code != 0 for op_code, _ in operations):
        raise MalformedXdrError("result", got="success with a failed operation", want="agreement")
    return _Outcome(fee_charged, code, succeeded, tuple(amount for _, amount in operations), failed)


def _end_result(reader: XdrReader) -> None:
    if reader.uint() != 0:
        raise MalformedXdrError("result.ext", got="other", want="0")


def _read_operation_results(
    reader: XdrReader, code: int, transaction: _Transaction
) -> list[tuple[int, int]]:
    """Return (code, amount told by the result) per operation; empty for other codes."""
    if code not in {0, -1}:
        return []
    count = reader.count(_OPERATIONS_MAX)
    if count != len(transaction.operations):
        raise MalformedXdrError(
            "result.operations", got=count, want=f"{len(transaction.operations)}"
        )
    return [_read_operation_result(reader, operation) for operation in transaction.operations]


def _read_operation_result(reader: XdrReader, operation: _Operation) -> tuple[int, int]:
    outer = reader.int32()
    if outer != 0:
        return outer, 0
    kind = reader.uint()
    if kind != operation.kind:
        raise MalformedXdrError("result.operation type", got=kind, want=f"{operation.kind}")
    code = reader.int32()
    if kind == _MERGE and code == 0:
        return code, reader.int64()
    if kind in _PATH_PAYMENTS:
        return code, _read_path_result(reader, code)
    return code, 0


def _read_path_result(reader: XdrReader, code: int) -> int:
    if code == -9:  # no issuer: names the asset
        reader.asset()
    if code != 0:
        return 0
    for _ in range(reader.count(1000)):
        kind = reader.uint()
        if kind == 1:
            reader.account()
            reader.int64()
        else:
            reader.take(32 if kind == 2 else 40)
        for _ in range(2):
            reader.asset()
            reader.int64()
    reader.account()
    reader.asset()
    return reader.int64()


def _with_merge(operation: _Operation, amount: int) -> tuple[Movement, ...]:
    """Fill in amounts that only the result tells."""
    if operation.kind != _MERGE and operation.kind not in _PATH_PAYMENTS:
        return operation.movements
    *sent, received = operation.movements
    return (*sent, replace(received, amount_stroops=amount, is_exact=True))
