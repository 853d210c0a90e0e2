"""TransactionResult XDR (Stellar-transaction.x), written straight from codes.

Also the result codes that the protocol's first layer knows by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.devnet import wire


class TxCode(IntEnum):
    """TransactionResultCode."""

    FEE_BUMP_INNER_SUCCESS = 1
    SUCCESS = 0
    FAILED = -1
    TOO_EARLY = -2
    TOO_LATE = -3
    MISSING_OPERATION = -4
    BAD_SEQ = -5
    BAD_AUTH = -6
    INSUFFICIENT_BALANCE = -7
    NO_ACCOUNT = -8
    INSUFFICIENT_FEE = -9
    BAD_AUTH_EXTRA = -10
    INTERNAL_ERROR = -11
    NOT_SUPPORTED = -12
    FEE_BUMP_INNER_FAILED = -13
    BAD_SPONSORSHIP = -14
    BAD_MIN_SEQ_AGE_OR_GAP = -15
    MALFORMED = -16
    SOROBAN_INVALID = -17
    FROZEN_KEY_ACCESSED = -18


class Kind(IntEnum):
    """OperationType, as far as the devnet applies it."""

    CREATE_ACCOUNT = 0
    PAYMENT = 1
    PATH_PAYMENT_STRICT_RECEIVE = 2
    MANAGE_SELL_OFFER = 3
    CREATE_PASSIVE_SELL_OFFER = 4
    SET_OPTIONS = 5
    CHANGE_TRUST = 6
    ALLOW_TRUST = 7
    ACCOUNT_MERGE = 8
    INFLATION = 9
    MANAGE_DATA = 10
    BUMP_SEQUENCE = 11
    MANAGE_BUY_OFFER = 12
    PATH_PAYMENT_STRICT_SEND = 13
    CREATE_CLAIMABLE_BALANCE = 14
    CLAIM_CLAIMABLE_BALANCE = 15
    BEGIN_SPONSORING = 16
    END_SPONSORING = 17
    REVOKE_SPONSORSHIP = 18
    CLAWBACK = 19
    CLAWBACK_CLAIMABLE_BALANCE = 20
    SET_TRUST_LINE_FLAGS = 21
    LIQUIDITY_POOL_DEPOSIT = 22
    LIQUIDITY_POOL_WITHDRAW = 23


OP_BAD_AUTH: Final = -1
OP_NO_ACCOUNT: Final = -2
OP_NOT_SUPPORTED: Final = -3
OP_TOO_MANY_SUBENTRIES: Final = -4
OP_EXCEEDED_WORK_LIMIT: Final = -5
OP_TOO_MANY_SPONSORING: Final = -6

_ZERO_ACCOUNT: Final = bytes(36)
# What a success carries before it was applied: zeros in the shape of the operation's own success.
_BLANK_SUCCESS: Final[dict[int, bytes]] = {
    Kind.PATH_PAYMENT_STRICT_RECEIVE: bytes(4) + _ZERO_ACCOUNT + bytes(4 + 8),
    Kind.PATH_PAYMENT_STRICT_SEND: bytes(4) + _ZERO_ACCOUNT + bytes(4 + 8),
    Kind.MANAGE_SELL_OFFER: bytes(4 + 4) + _ZERO_ACCOUNT + bytes(8 + 4 + 4 + 8 + 8 + 4 + 4),
    Kind.CREATE_PASSIVE_SELL_OFFER: bytes(4 + 4) + _ZERO_ACCOUNT + bytes(8 + 4 + 4 + 8 + 8 + 4 + 4),
    Kind.MANAGE_BUY_OFFER: bytes(4 + 4) + _ZERO_ACCOUNT + bytes(8 + 4 + 4 + 8 + 8 + 4 + 4),
    Kind.ACCOUNT_MERGE: bytes(8),
    Kind.INFLATION: bytes(4),
    Kind.CREATE_CLAIMABLE_BALANCE: bytes(4 + 32),
}


@dataclass(frozen=True, slots=True)
class OpResult:
    """One OperationResult: whether it succeeded, and its XDR."""

    ok: bool
    xdr: bytes


def succeed(kind: int, payload: bytes = b"") -> OpResult:
    """Success of an operation with what it carries."""
    return OpResult(ok=True, xdr=bytes(4) + wire.i32(kind) + bytes(4) + payload)


def blank(kind: int) -> OpResult:
    """Success of an operation that was not applied."""
    return succeed(kind, _BLANK_SUCCESS.get(kind, b""))


def fail(kind: int, code: int, payload: bytes = b"") -> OpResult:
    """Failure inside an operation."""
    return OpResult(ok=False, xdr=bytes(4) + wire.i32(kind) + wire.i32(code) + payload)


def refuse(code: int) -> OpResult:
    """Failure before the operation's own rules (opBAD_AUTH and the like)."""
    return OpResult(ok=False, xdr=wire.i32(code))


@dataclass(slots=True)
class TxResult:
    """TransactionResult while it is being found. `inner` stands only under a fee bump's outcome."""

    fee_charged: int
    code: TxCode
    operations: list[OpResult]
    inner_hash: bytes | None = None
    inner: TxResult | None = None

    @property
    def ok(self) -> bool:
        """Whether the transaction succeeded."""
        return self.code in (TxCode.SUCCESS, TxCode.FEE_BUMP_INNER_SUCCESS)

    def encode(self) -> bytes:
        """TransactionResult XDR."""
        return wire.i64(self.fee_charged) + self._body() + bytes(4)

    def _body(self) -> bytes:
        bumped = (TxCode.FEE_BUMP_INNER_SUCCESS, TxCode.FEE_BUMP_INNER_FAILED)
        if self.code in bumped and self.inner is not None and self.inner_hash is not None:
            return wire.i32(self.code) + self.inner_hash + self.inner.encode()
        if self.code in (TxCode.SUCCESS, TxCode.FAILED):
            return wire.i32(self.code) + _list(self.operations)
        return wire.i32(self.code)


def _list(operations: Sequence[OpResult]) -> bytes:
    return wire.u32(len(operations)) + b"".join(operation.xdr for operation in operations)
