"""Instructions: one encoding each, and only the keys that they name make them count."""

from typing import Any

import builders
import instruction_builders as made
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.encoding import Signed
from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.instruction import (
    INSTRUCTION_SIZE_MAX,
    NO_SIGNATURE,
    PAYEE_INSTRUCTION,
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
    is_signed,
    order_of_instruction,
    parse_instruction,
    require_signed,
    sign_payee_instruction,
    subject_of,
)

ALL = [made.pay_to(), made.cash_out(), made.refund(), made.readiness(), made.ruling()]
u32 = st.integers(0, 2**32 - 1)
u63 = st.integers(0, 2**63 - 1)
keys = st.binary(min_size=32, max_size=32).filter(any)


def values(record: type, **fields: Any) -> Any:
    given_by_all = {"network_id": keys, "broadcaster_account": keys}
    return st.builds(record, **given_by_all, **fields)


payees = values(
    PayeeInstruction, account=keys, kind=st.just(PayeeWish.PAY_TO), serial=u63, pay_to=keys
)
refunds = values(Refund, serial=u63, amount_stroops=u63)
notes = values(
    ReadinessNote,
    log_key=keys,
    account=keys,
    seen_ledger=st.integers(2**31, 2**32 - 1),
    readiness=st.sampled_from(Readiness),
    entry_ledger=st.integers(0, 2**31),
    room_stroops=u63,
)
rulings = values(Ruling, dao_key=keys, serial=u63, tx_hash=keys, booking=st.sampled_from(Booking))


@given(st.one_of(payees, refunds, notes, rulings), st.binary(min_size=128, max_size=128))
def test_round_trip(value: Any, signatures: bytes) -> None:
    kinds = {
        PayeeInstruction: PAYEE_INSTRUCTION,
        Refund: REFUND,
        ReadinessNote: READINESS,
        Ruling: RULING,
    }
    kind = kinds[type(value)]
    raw = signatures[: 64 * kind.signers] + kind.format_body(value)
    parsed = parse_instruction(raw)
    assert (parsed.value, parsed.raw) == (value, raw)
    assert len(raw) <= INSTRUCTION_SIZE_MAX


@given(st.binary(max_size=INSTRUCTION_SIZE_MAX + 1))
def test_any_bytes_parse_or_are_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        parse_instruction(raw)


@pytest.mark.parametrize("signed", ALL, ids=lambda signed: type(signed.value).__name__)
def test_any_flipped_bit_makes_it_malformed_or_unsigned(signed: Signed[Instruction]) -> None:
    assert is_signed(signed)
    for bit in range(8 * len(signed.raw)):
        mutated = bytearray(signed.raw)
        mutated[bit // 8] ^= 1 << bit % 8
        try:
            parsed = parse_instruction(bytes(mutated))
        except MalformedRecordError:
            continue
        assert not is_signed(parsed)


def test_an_address_needs_the_new_accounts_signature_too() -> None:
    signed = made.pay_to()
    assert isinstance(signed.value, PayeeInstruction)
    account, other = builders.seed_of("seeder account"), builders.seed_of(made.SECOND)
    for seeds in ((account, account), (other, account), (other, other)):
        forged = sign_payee_instruction(signed.value, *seeds)
        with pytest.raises(BadSignatureError, match="payee_instruction"):
            require_signed(forged)


def test_an_address_without_second_signature_is_not_signed() -> None:
    signed = made.pay_to()
    raw = signed.raw[:64] + NO_SIGNATURE + signed.body
    assert not is_signed(parse_instruction(raw))


def test_a_cash_out_carries_no_second_signature() -> None:
    signed = made.cash_out()
    raw = signed.raw[:64] + signed.raw[:64] + signed.body
    with pytest.raises(MalformedRecordError, match="signature"):
        parse_instruction(raw)


@pytest.mark.parametrize(
    ("make", "changes", "match"),
    [
        (made.pay_to, {"kind": 0}, "kind"),
        (made.pay_to, {"kind": 3}, "kind"),
        (made.pay_to, {"pay_to": bytes(32)}, "pay_to"),
        (made.cash_out, {"pay_to": builders.key_of("seeder")}, "pay_to"),
        (made.readiness, {"readiness": 7}, "readiness"),
        (made.readiness, {"entry_ledger": 10**6}, "entry_ledger"),
        (made.ruling, {"booking": 0}, "booking"),
        (made.ruling, {"booking": 4}, "booking"),
        (made.refund, {"amount_stroops": -1}, "amount_stroops"),
        (made.refund, {"serial": 2**63}, "serial"),
    ],
)
def test_value_out_of_range_is_malformed(make: Any, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(MalformedRecordError, match=match):
        make(**changes)


def test_no_two_kinds_have_one_size() -> None:
    assert len({kind.size for kind in (PAYEE_INSTRUCTION, REFUND, READINESS, RULING)}) == 4


def test_order_goes_by_code_then_by_what_is_said() -> None:
    orders = [order_of_instruction(signed) for signed in ALL]
    assert max(orders) == orders[-1]
    assert [code for code, _ in orders] == [21, 21, 22, 23, 24]
    body = made.refund().body
    again = parse_instruction(bytes(64) + body)
    assert order_of_instruction(again) == order_of_instruction(made.refund())


def test_subject_is_the_account_or_the_transaction() -> None:
    names = ["seeder account", "seeder account", "broadcaster", "seeder account"]
    subjects = [builders.key_of(name) for name in names]
    subjects.append(builders.digest_of("unknown transaction"))
    assert [subject_of(signed.value) for signed in ALL] == subjects
