"""A transaction as submitted: raw envelope bytes, what they decode to, and its two hashes.

Hashes are taken over slices of the bytes received, because decoding and encoding again may change
them. Validity is not judged here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, TypeVar

from stellar_sdk import xdr
from xdrlib3 import Error as UnpackError
from xdrlib3 import Unpacker

from ledger.devnet import wire

_TX_V0: Final = xdr.EnvelopeType.ENVELOPE_TYPE_TX_V0
_TX: Final = xdr.EnvelopeType.ENVELOPE_TYPE_TX
_FEE_BUMP: Final = xdr.EnvelopeType.ENVELOPE_TYPE_TX_FEE_BUMP
_MAX_SIGNATURES: Final = 20

T = TypeVar("T")


class EnvelopeError(ValueError):
    """Bytes that are no transaction envelope."""


def arm(value: T | None) -> T:
    """Arm of a decoded XDR union whose discriminant says it is there."""
    if value is None:
        raise EnvelopeError("union arm: got none, want the one of its type")
    return value


def muxed_key(muxed: xdr.MuxedAccount) -> bytes:
    """The 32-byte key of a plain or muxed account."""
    if muxed.ed25519 is not None:
        return muxed.ed25519.uint256
    return arm(muxed.med25519).ed25519.uint256


def account_key_of(account: xdr.AccountID) -> bytes:
    """The 32-byte key of an AccountID."""
    return arm(account.account_id.ed25519).uint256


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """DecoratedSignature."""

    hint: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Preconditions:
    """CAP-21 preconditions, zero or None where absent. Times are Unix seconds."""

    min_time: int = 0
    max_time: int = 0
    min_ledger: int = 0
    max_ledger: int = 0
    min_sequence: int | None = None
    min_sequence_age: int = 0
    min_sequence_gap: int = 0
    extra_signers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation: its source key if given, its XDR type number, its decoded body."""

    source: bytes | None
    kind: int
    body: xdr.OperationBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """An envelope; for a fee bump, sequence, operations and conditions are those of `inner`.

    `hash` is what signatures sign (the outer hash of a fee bump), `full_hash` that of the envelope
    with its signatures; `fee` is the whole bid in stroops.
    """

    raw: bytes
    hash: bytes
    full_hash: bytes
    source: bytes
    fee_source: bytes
    fee: int
    sequence: int
    operations: tuple[Operation, ...]
    signatures: tuple[Signature, ...]
    conditions: Preconditions
    memo: xdr.Memo
    inner: Transaction | None = None
    bid_operations: int = field(default=0)

    @property
    def is_fee_bump(self) -> bool:
        """Whether this is a CAP-15 fee bump."""
        return self.inner is not None


def network_id(passphrase: str) -> bytes:
    """SHA-256 of the network passphrase."""
    return hashlib.sha256(passphrase.encode()).digest()


def parse_envelope(raw: bytes, network: bytes) -> Transaction:
    """Transaction from TransactionEnvelope XDR.

    Raises:
        EnvelopeError: the bytes do not decode, or are followed by others.
    """
    try:
        return _parse(raw, network)
    except (UnpackError, ValueError, EOFError, TypeError, OverflowError) as error:
        raise EnvelopeError(f"envelope: {error}") from error


def _parse(raw: bytes, network: bytes) -> Transaction:
    unpacker = Unpacker(raw)
    kind = xdr.EnvelopeType.unpack(unpacker)
    start = unpacker.get_position()
    if kind is _FEE_BUMP:
        return _parse_fee_bump(raw, network)
    if kind is _TX_V0:
        old = xdr.TransactionV0.unpack(unpacker)
        # Version 0 is version 1 without the source's key type; core converts it before anything
        # else.
        signed = wire.i32(0) + raw[start : unpacker.get_position()]
        source, bounds = old.source_account_ed25519.uint256, old.time_bounds
        conditions = _time_bounds(bounds) if bounds else Preconditions()
        fee, sequence, memo = old.fee.uint32, old.seq_num.sequence_number.int64, old.memo
        operations = old.operations
    elif kind is _TX:
        tx = xdr.Transaction.unpack(unpacker)
        signed = raw[start : unpacker.get_position()]
        source, conditions = muxed_key(tx.source_account), _conditions(tx.cond)
        fee, sequence, memo = tx.fee.uint32, tx.seq_num.sequence_number.int64, tx.memo
        operations = tx.operations
    else:
        raise EnvelopeError(f"envelope type: got {kind.name}, want a transaction")
    decoded = old if kind is _TX_V0 else tx
    _require_canonical(decoded.to_xdr_bytes(), raw[start : unpacker.get_position()])
    signatures = _signatures(unpacker)
    unpacker.done()
    if kind is _TX_V0:
        raw = wire.i32(_TX.value) + wire.i32(0) + raw[start:]
    return Transaction(
        raw=raw,
        full_hash=hashlib.sha256(raw).digest(),
        hash=hashlib.sha256(network + wire.i32(_TX.value) + signed).digest(),
        source=source,
        fee_source=source,
        fee=fee,
        sequence=sequence,
        operations=tuple(_operation(operation) for operation in operations),
        signatures=signatures,
        conditions=conditions,
        memo=memo,
        bid_operations=len(operations),
    )


def _parse_fee_bump(raw: bytes, network: bytes) -> Transaction:
    unpacker = Unpacker(raw)
    unpacker.set_position(4)
    source = muxed_key(xdr.MuxedAccount.unpack(unpacker))
    fee = unpacker.unpack_hyper()
    inner_start = unpacker.get_position()
    if unpacker.unpack_int() != _TX.value:
        raise EnvelopeError("inner envelope type: got another, want ENVELOPE_TYPE_TX")
    xdr.TransactionV1Envelope.unpack(unpacker)
    inner = _parse(raw[inner_start : unpacker.get_position()], network)
    if unpacker.unpack_int() != 0:
        raise EnvelopeError("fee bump extension: got another, want 0")
    signed = raw[4 : unpacker.get_position()]
    signatures = _signatures(unpacker)
    unpacker.done()
    return Transaction(
        raw=raw,
        full_hash=hashlib.sha256(raw).digest(),
        hash=hashlib.sha256(network + wire.i32(_FEE_BUMP.value) + signed).digest(),
        source=inner.source,
        fee_source=source,
        fee=fee,
        sequence=inner.sequence,
        operations=inner.operations,
        signatures=signatures,
        conditions=inner.conditions,
        memo=inner.memo,
        inner=inner,
        bid_operations=inner.bid_operations + 1,
    )


def _require_canonical(again: bytes, received: bytes) -> None:
    """Refuse what xdrlib reads too kindly: padding that is not zero, a flag that is not 0 or 1."""
    if again != received:
        raise EnvelopeError("envelope: got XDR that encodes differently, want its only encoding")


def _signatures(unpacker: Unpacker) -> tuple[Signature, ...]:
    count = unpacker.unpack_uint()
    if count > _MAX_SIGNATURES:
        raise EnvelopeError(f"signatures: got {count}, want at most {_MAX_SIGNATURES}")
    found = []
    for _ in range(count):
        start = unpacker.get_position()
        decorated = xdr.DecoratedSignature.unpack(unpacker)
        received = unpacker.get_buffer()[start : unpacker.get_position()]
        _require_canonical(decorated.to_xdr_bytes(), received)
        hint, signature = decorated.hint.signature_hint, decorated.signature.signature
        found.append(Signature(hint=hint, signature=signature))
    return tuple(found)


def _operation(operation: xdr.Operation) -> Operation:
    source = operation.source_account
    return Operation(
        source=None if source is None else muxed_key(source),
        kind=operation.body.type.value,
        body=operation.body,
    )


def _time_bounds(bounds: xdr.TimeBounds) -> Preconditions:
    return Preconditions(
        min_time=bounds.min_time.time_point.uint64, max_time=bounds.max_time.time_point.uint64
    )


def _conditions(cond: xdr.Preconditions) -> Preconditions:
    if cond.time_bounds is not None:
        return _time_bounds(cond.time_bounds)
    if cond.v2 is None:
        return Preconditions()
    v2 = cond.v2
    bounds, ledgers = v2.time_bounds, v2.ledger_bounds
    return Preconditions(
        min_time=bounds.min_time.time_point.uint64 if bounds else 0,
        max_time=bounds.max_time.time_point.uint64 if bounds else 0,
        min_ledger=ledgers.min_ledger.uint32 if ledgers else 0,
        max_ledger=ledgers.max_ledger.uint32 if ledgers else 0,
        min_sequence=v2.min_seq_num.sequence_number.int64 if v2.min_seq_num else None,
        min_sequence_age=v2.min_seq_age.duration.uint64,
        min_sequence_gap=v2.min_seq_ledger_gap.uint32,
        extra_signers=tuple(key.to_xdr_bytes() for key in v2.extra_signers),
    )
