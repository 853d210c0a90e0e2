"""Instructions as their owners would sign them, one sample of each and any variation."""

from typing import Any

from builders import EPOCH, NETWORK_ID, digest_of, key_of, seed_of

from ledger.evidence.encoding import Signed
from ledger.evidence.instruction import (
    READINESS,
    REFUND,
    RULING,
    Booking,
    Instruction,
    PayeeInstruction,
    PayeeWish,
    Readiness,
    ReadinessNote,
    Refund,
    Ruling,
    sign_payee_instruction,
)

SECOND = "seeder second account"


def pay_to(name: str = "seeder account", to: str = SECOND, **changes: Any) -> Signed[Instruction]:
    """A payee asks to be paid at another account, whose key agrees."""
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "account": key_of(name),
        "kind": PayeeWish.PAY_TO,
        "serial": 1,
        "pay_to": key_of(to),
    }
    return sign_payee_instruction(PayeeInstruction(**values | changes), seed_of(name), seed_of(to))


def cash_out(name: str = "seeder account", **changes: Any) -> Signed[Instruction]:
    """A payee asks to be paid below the threshold."""
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "account": key_of(name),
        "kind": PayeeWish.CASH_OUT,
        "serial": 1,
        "pay_to": bytes(32),
    }
    return sign_payee_instruction(PayeeInstruction(**values | changes), seed_of(name))


def refund(**changes: Any) -> Signed[Instruction]:
    """The broadcaster asks for a thousand stroops of what it deposited."""
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "serial": 1,
        "amount_stroops": 1_000,
    }
    return REFUND.sign(Refund(**values | changes), seed_of("broadcaster"))


def readiness(name: str = "seeder account", **changes: Any) -> Signed[Instruction]:
    """The operator saw that an account has no trustline."""
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "log_key": key_of("log"),
        "account": key_of(name),
        "seen_ledger": 1000 + EPOCH,
        "readiness": Readiness.NO_TRUSTLINE,
        "entry_ledger": 0,
        "room_stroops": 0,
    }
    return READINESS.sign(ReadinessNote(**values | changes), seed_of("log"))


def ruling(**changes: Any) -> Signed[Instruction]:
    """The DAO rules that a transaction is to be ignored."""
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "dao_key": key_of("dao"),
        "serial": 1,
        "tx_hash": digest_of("unknown transaction"),
        "booking": Booking.IGNORE,
    }
    return RULING.sign(Ruling(**values | changes), seed_of("dao"))
