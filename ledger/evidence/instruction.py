"""Instructions: signed records that change how money moves, sealed with the epoch like evidence.

Four kinds. A payee says where it is paid, or asks to be paid now; the broadcaster asks for its
unspent deposit; the operator says what it saw of a payee's account on the network; the DAO rules
how a transaction that nobody planned is booked. Each names its network and its broadcaster, and
carries a number that rises, so the newest counts and a replay changes nothing. Not here: what they
come to (`ledger.books.instructing`), and who may sign which beside the keys in the record itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, TypeAlias

from ledger.evidence.encoding import (
    ZERO_KEY,
    RecordCode,
    RecordType,
    Signed,
)
from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.keys import SIGNATURE_SIZE, sign, verify
from ledger.evidence.units import AMOUNT_MAX

NO_SIGNATURE = bytes(SIGNATURE_SIZE)
"""Stands where a second signature is not asked for."""


class PayeeWish(IntEnum):
    """What a payee's instruction asks for."""

    PAY_TO = 1
    """Pay to another account from now on; the account itself: pay to it again."""

    CASH_OUT = 2
    """Pay what is owed at the next occasion, though it is below the threshold."""


class Readiness(IntEnum):
    """What an account can take, as the operator saw it on the network."""

    READY = 0
    """It can be paid, up to the room of its trustline."""

    NO_ACCOUNT = 1
    """There is no such account."""

    NO_TRUSTLINE = 2
    """It holds no trustline to the priced asset."""

    NOT_AUTHORISED = 3
    """The issuer has not authorised its trustline."""

    LINE_FULL = 4
    """Its trustline has no room for what it is owed."""

    MEMO_REQUIRED = 5
    """Its owner takes no payment without a memo; a batch has one memo of its own (SEP-29)."""

    FROZEN = 6
    """The network refuses transactions that touch it (CAP-77)."""


class Booking(IntEnum):
    """How a transaction that nobody planned is booked."""

    SUSPENSE = 1
    """What it brought is in suspense, and goes back to its sender."""

    LOSS = 2
    """What it took is a loss of the broadcaster's deposits; what it brought is in suspense."""

    IGNORE = 3
    """It moved nothing of ours, or what it moved is of no account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeInstruction:
    """A payee's word about its own money."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """Whose ledger owes it; 32 bytes."""

    account: bytes
    """The payee's account as the statements name it; first signer; 32 bytes."""

    kind: int
    """A `PayeeWish`."""

    serial: int
    """Rises with every instruction of the same account and kind; the newest counts."""

    pay_to: bytes
    """Account to pay to, the second signer; zeros for a cash-out; 32 bytes."""

    def __post_init__(self) -> None:
        if self.kind not in set(PayeeWish):
            raise MalformedRecordError("payee_instruction.kind", got=self.kind, want="1 or 2")
        if (self.kind == PayeeWish.CASH_OUT) != (self.pay_to == ZERO_KEY):
            raise MalformedRecordError(
                "payee_instruction.pay_to",
                got=self.pay_to.hex(),
                want="an account to pay to, zeros for a cash-out",
            )


PAYEE_INSTRUCTION = RecordType(
    PayeeInstruction,
    RecordCode.PAYEE_INSTRUCTION,
    [
        ("broadcaster_account", "bytes32"),
        ("account", "bytes32"),
        ("kind", "u16"),
        ("serial", "u64"),
        ("pay_to", "bytes32"),
    ],
    signers=2,
)
"""Signed by the account, then by the account to pay to; zeros instead of that for a cash-out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """The broadcaster asks for deposits that were not spent."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """Who asks, and whom it is paid to; the signer; 32 bytes."""

    serial: int
    """Rises with every request; the newest replaces the one before."""

    amount_stroops: int
    """At most this much; 2^63 - 1: all that is free; 0: nothing, the request is taken back."""


REFUND = RecordType(
    Refund,
    RecordCode.REFUND,
    [("broadcaster_account", "bytes32"), ("serial", "u64"), ("amount_stroops", "u64")],
)
"""Signed by the broadcaster's account."""

REFUND_ALL = AMOUNT_MAX
"""Asks for all that is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessNote:
    """The operator saw on the network whether an account can be paid."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """Whose ledger would pay; 32 bytes."""

    log_key: bytes
    """The operator's log key; the signer; 32 bytes."""

    account: bytes
    """The account that would be paid; 32 bytes."""

    seen_ledger: int
    """Network ledger as of which it was seen; stands for a serial number."""

    readiness: int
    """A `Readiness`."""

    entry_ledger: int
    """Network ledger at or before which the entry that decides changed last; 0: there is none."""

    room_stroops: int
    """What its trustline can still take; 2^63 - 1: anything."""

    def __post_init__(self) -> None:
        if self.readiness not in set(Readiness):
            raise MalformedRecordError("readiness.readiness", got=self.readiness, want="0..6")
        if self.entry_ledger > self.seen_ledger:
            raise MalformedRecordError(
                "readiness.entry_ledger", got=self.entry_ledger, want=f"≤ {self.seen_ledger}"
            )


READINESS = RecordType(
    ReadinessNote,
    RecordCode.READINESS,
    [
        ("broadcaster_account", "bytes32"),
        ("log_key", "bytes32"),
        ("account", "bytes32"),
        ("seen_ledger", "u32"),
        ("readiness", "u16"),
        ("entry_ledger", "u32"),
        ("room_stroops", "u64"),
    ],
)
"""Signed by the log key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The DAO says how a transaction that nobody planned is booked."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """In whose books; 32 bytes."""

    dao_key: bytes
    """The DAO key that activated the contract in force; the signer; 32 bytes."""

    serial: int
    """Of two rulings on one transaction the one with the higher serial counts."""

    tx_hash: bytes
    """The transaction; 32 bytes."""

    booking: int
    """A `Booking`."""

    def __post_init__(self) -> None:
        if self.booking not in set(Booking):
            raise MalformedRecordError("ruling.booking", got=self.booking, want="1 to 3")


RULING = RecordType(
    Ruling,
    RecordCode.RULING,
    [
        ("broadcaster_account", "bytes32"),
        ("dao_key", "bytes32"),
        ("serial", "u64"),
        ("tx_hash", "bytes32"),
        ("booking", "u16"),
    ],
)
"""Signed by the DAO key."""

Instruction: TypeAlias = PayeeInstruction | Refund | ReadinessNote | Ruling
"""What an instruction says."""

_TYPES: Mapping[type, RecordType[Any]] = MappingProxyType(
    {
        PayeeInstruction: PAYEE_INSTRUCTION,
        Refund: REFUND,
        ReadinessNote: READINESS,
        Ruling: RULING,
    }
)
_BY_SIZE = {record.size: record for record in _TYPES.values()}
INSTRUCTION_SIZE_MAX = max(_BY_SIZE)
"""Bytes of the longest instruction."""


def parse_instruction(raw: bytes) -> Signed[Instruction]:
    """Return an instruction of any kind; its signatures are not verified yet.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    record = _BY_SIZE.get(len(raw))
    if record is None:
        raise MalformedRecordError(
            "instruction", got=f"{len(raw)} bytes", want=f"one of {sorted(_BY_SIZE)}"
        )
    signed: Signed[Instruction] = record.parse(raw)
    value = signed.value
    is_cash_out = isinstance(value, PayeeInstruction) and value.kind == PayeeWish.CASH_OUT
    if is_cash_out and signed.signatures[1] != NO_SIGNATURE:
        raise MalformedRecordError(
            "payee_instruction.signature", got=signed.signatures[1], want="zeros"
        )
    return signed


def code_of_instruction(value: Instruction) -> RecordCode:
    """Return the record code of an instruction."""
    return _TYPES[type(value)].code


def subject_of(value: Instruction) -> bytes:
    """Return whom or what an instruction is about: an account, or a transaction; 32 bytes."""
    if isinstance(value, PayeeInstruction | ReadinessNote):
        return value.account
    return value.tx_hash if isinstance(value, Ruling) else value.broadcaster_account


def is_signed(signed: Signed[Instruction]) -> bool:
    """Tell whether everybody signed whom the instruction itself names."""
    value = signed.value
    if isinstance(value, PayeeInstruction):
        return _is_signed_by_payee(signed, value)
    if isinstance(value, Refund):
        signer = value.broadcaster_account
    elif isinstance(value, ReadinessNote):
        signer = value.log_key
    else:
        signer = value.dao_key
    return _TYPES[type(value)].is_signed_by(signed, signer)


def _is_signed_by_payee(signed: Signed[Instruction], value: PayeeInstruction) -> bool:
    if value.kind == PayeeWish.PAY_TO:
        return _TYPES[type(value)].is_signed_by(signed, value.account, value.pay_to)
    return verify(value.account, signed.body, signed.signatures[0])


def require_signed(signed: Signed[Instruction]) -> None:
    """Raise unless `is_signed`.

    Raises:
        BadSignatureError: A signature is missing or not valid.
    """
    if not is_signed(signed):
        raise BadSignatureError(
            f"{code_of_instruction(signed.value).name.lower()}: signature not valid under the keys "
            "that it names"
        )


def sign_payee_instruction(
    value: PayeeInstruction, account_seed: bytes, pay_to_seed: bytes | None = None
) -> Signed[Instruction]:
    """Return a payee's instruction signed by its account, and by the account to pay to if any.

    Args:
        value: What is asked.
        account_seed: Seed of the payee's account, 32 bytes.
        pay_to_seed: Seed of the account to pay to; None for a cash-out.
    """
    body = PAYEE_INSTRUCTION.format_body(value)
    second = NO_SIGNATURE if pay_to_seed is None else sign(pay_to_seed, body)
    return parse_instruction(sign(account_seed, body) + second + body)


def order_of_instruction(signed: Signed[Instruction]) -> tuple[int, bytes]:
    """Return the sort key of instructions in a seal: record code, then digest of the body."""
    return code_of_instruction(signed.value), signed.digest
