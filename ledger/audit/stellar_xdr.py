"""A small reader of Stellar's transactions: an envelope and its result, as the books read them.

Reads classic transactions (versions 0 and 1, fee bumps); their operations are
`ledger.audit.stellar_operations`'. Of a contract's transaction it reads source, sequence and memo,
and passes its body over: strangers cannot stop the books with one, and what it moved is found when
balances are compared. No SDK: the auditor's machine has PyNaCl only. Source: Stellar-transaction.x
of stellar/stellar-xdr.
"""

from dataclasses import dataclass
from hashlib import sha256

from ledger.audit.stellar_operations import (
    CONTRACT_OPERATIONS,
    Operation,
    OperationOutcome,
    read_operation,
    read_operation_result,
)
from ledger.audit.xdr import MalformedXdrError, XdrReader
from ledger.books.transactions import AppliedTransaction, NetworkFact

ENVELOPE_TX_V0, ENVELOPE_TX, ENVELOPE_FEE_BUMP = 0, 2, 5
_NO_HASH = bytes(32)
_OPERATIONS_MAX = 100
_SIGNATURES_MAX = 20
_SIGNATURE_SIZE = 4 + 4 + 64
"""Most bytes of one: hint, length, signature."""

_SEQUENCE_KEPT = frozenset({-2, -3, -4, -5, -8, -9, -12, -16, -17, -18})
"""Codes of failures that leave the sequence number unused although the fee was taken.

Too early, too late, no operation, bad sequence, no account, too small a fee, not supported,
malformed (twice), frozen: stellar-core checks them before it processes the sequence number
(`commonValid`).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memo:
    memo_hash: bytes = _NO_HASH
    memo_id: int | None = None
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class _Transaction:
    source: bytes
    sequence: int
    memo: "_Memo"
    operations: tuple[Operation, ...]
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
        if kind != ENVELOPE_TX:
            raise MalformedXdrError("fee bump.inner type", got=kind, want=f"{ENVELOPE_TX}")
    transaction = _read_inner(reader, kind, fact.network_id, is_bump=bool(fee_account))
    _skip_signatures(reader)
    if fee_account:
        reader.choice("fee bump.ext", 0)
        _skip_signatures(reader)
    reader.finish()
    outcome = _read_result(fact.result, transaction, is_bump=bool(fee_account))
    movements = tuple(
        movement for operation in outcome.operations for movement in operation.movements
    )
    return AppliedTransaction(
        ledger_sequence=fact.ledger_sequence,
        close_time_s=fact.close_time_s,
        apply_order=fact.apply_order,
        tx_hash=transaction.tx_hash,
        source_account=transaction.source,
        sequence=transaction.sequence,
        is_sequence_consumed=outcome.is_sequence_consumed,
        fee_account=fee_account or transaction.source,
        fee_charged_stroops=outcome.fee_charged_stroops,
        memo_hash=transaction.memo.memo_hash,
        memo_id=transaction.memo.memo_id,
        memo_text=transaction.memo.text,
        succeeded=outcome.succeeded,
        does_nothing=[one.does_nothing for one in transaction.operations] == [True],
        movements=movements if outcome.succeeded else (),
        failed_destinations=_failed_destinations(transaction, outcome.operations),
    )


def _read_inner(reader: XdrReader, kind: int, network_id: bytes, *, is_bump: bool) -> _Transaction:
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
    memo = _read_memo(reader)
    operations = tuple(
        read_operation(reader, index, source) for index in range(reader.count(_OPERATIONS_MAX))
    )
    if any(operation.kind in CONTRACT_OPERATIONS for operation in operations):
        if len(operations) != 1:
            raise MalformedXdrError("operations", got=len(operations), want="a contract's alone")
        _skip_contract(reader, is_bump=is_bump)
    elif reader.uint() != 0:
        raise MalformedXdrError("transaction.ext", got="contract data", want="a contract's")
    # The hash covers network, envelope type 2 and the transaction; version 0 hashes as version 1.
    preimage = network_id + ENVELOPE_TX.to_bytes(4, "big") + prefix + reader.data[start : reader.at]
    return _Transaction(source, sequence, memo, operations, sha256(preimage).digest())


def _skip_contract(reader: XdrReader, *, is_bump: bool) -> None:
    """Pass over a contract operation's body and data: up to the signatures, found from the end.

    Whoever signs can make two places look right; then the hash is another one, which only names
    the transaction: nothing of a contract's is booked.
    """
    end = _signatures_before(reader.data, len(reader.data), reader.at)
    if is_bump:
        end = _signatures_before(reader.data, end - 4, reader.at)
    reader.at = end


def _signatures_before(data: bytes, end: int, least: int) -> int:
    """Return where a list of signatures begins that ends at `end`."""
    for at in range(end - 4, max(least, end - 4 - _SIGNATURES_MAX * _SIGNATURE_SIZE) - 1, -4):
        reader = XdrReader(data[at:end])
        try:
            _skip_signatures(reader)
            reader.finish()
        except MalformedXdrError:
            continue
        return at
    raise MalformedXdrError("signatures", got="none", want="a list of them at the end")


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
            reader.skip_signer_key()
    elif kind != 0:
        raise MalformedXdrError("preconditions", got=kind, want="0, 1 or 2")


def _read_memo(reader: XdrReader) -> _Memo:
    kind = reader.uint()
    if kind == 1:
        return _Memo(text=reader.opaque(28))
    if kind == 2:
        return _Memo(memo_id=int.from_bytes(reader.take(8), "big"))
    if kind in {3, 4}:
        value = reader.take(32)
        return _Memo(memo_hash=value) if kind == 3 else _Memo()
    if kind != 0:
        raise MalformedXdrError("memo", got=kind, want="0 to 4")
    return _Memo()


def _skip_signatures(reader: XdrReader) -> None:
    for _ in range(reader.count(_SIGNATURES_MAX)):
        reader.take(4)
        reader.opaque(64)


@dataclass(frozen=True, slots=True)
class _Outcome:
    fee_charged_stroops: int
    code: int
    """TransactionResultCode of the (inner) transaction; of a fee bump that never got to it."""

    is_sequence_consumed: bool
    operations: tuple[OperationOutcome, ...]

    @property
    def succeeded(self) -> bool:
        return self.code == 0


def _read_result(data: bytes, transaction: _Transaction, *, is_bump: bool) -> _Outcome:
    reader = XdrReader(data)
    fee_charged = reader.int64()
    code = reader.int32()
    is_inner_reached = True
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
    elif is_bump and code in {0, -1}:
        raise MalformedXdrError("result.code", got=code, want="a fee bump's")
    else:
        is_inner_reached = not is_bump
        operations = _read_operation_results(reader, code, transaction)
    _end_result(reader)
    reader.finish()
    if code == 0 and not all(operation.succeeded for operation in operations):
        raise MalformedXdrError("result", got="success with a failed operation", want="agreement")
    is_sequence_consumed = is_inner_reached and code not in _SEQUENCE_KEPT
    return _Outcome(fee_charged, code, is_sequence_consumed, operations)


def _end_result(reader: XdrReader) -> None:
    reader.choice("result.ext", 0)


def _read_operation_results(
    reader: XdrReader, code: int, transaction: _Transaction
) -> tuple[OperationOutcome, ...]:
    """Return an outcome per operation; none for codes of transactions that did not get there."""
    if code > 0 or code == -13:
        raise MalformedXdrError("result.code", got=code, want="a code without another inside")
    if code not in {0, -1}:
        return ()
    count = reader.count(_OPERATIONS_MAX)
    if count != len(transaction.operations):
        raise MalformedXdrError(
            "result.operations", got=count, want=f"{len(transaction.operations)}"
        )
    return tuple(read_operation_result(reader, operation) for operation in transaction.operations)


def _failed_destinations(
    transaction: _Transaction, outcomes: tuple[OperationOutcome, ...]
) -> tuple[bytes, ...]:
    return tuple(
        operation.destination
        for operation, outcome in zip(transaction.operations, outcomes, strict=False)
        if outcome.is_payee_at_fault
    )
