"""Envelopes and results around the operations, read by the small XDR reader, against the SDK."""

import base64
from collections.abc import Callable
from typing import Any

import book_builders
import pytest
from network_transactions import (
    ALICE,
    BOB,
    ISSUER,
    PASSPHRASE,
    XAB,
    XLM,
    ZEROS,
    builder,
    done,
    envelope_of,
    fact_of,
    failed,
    key,
    read,
    success,
)
from stellar_sdk import (
    Account,
    Keypair,
    SignedPayloadSigner,
    SignerKey,
    TransactionBuilder,
    TransactionEnvelope,
)

from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.xdr import MalformedXdrError, XdrReader

SIGNED_PAYLOAD = SignerKey.ed25519_signed_payload(SignedPayloadSigner(BOB.public_key, b"payload"))
PRECONDITIONS: dict[str, Callable[[TransactionBuilder], Any]] = {
    "none": lambda b: b,
    "time": lambda b: b.add_time_bounds(1, 2),
    "ledger": lambda b: b.set_ledger_bounds(1, 2),
    "sequence": lambda b: b.set_min_sequence_number(5),
    "age": lambda b: b.set_min_sequence_age(5),
    "gap": lambda b: b.set_min_sequence_ledger_gap(5),
    "signers": lambda b: b.add_extra_signer(BOB.public_key).add_extra_signer(SIGNED_PAYLOAD),
    "all": lambda b: (
        b.add_time_bounds(1, 2)
        .set_ledger_bounds(1, 2)
        .set_min_sequence_number(5)
        .set_min_sequence_age(5)
        .set_min_sequence_ledger_gap(5)
        .add_extra_signer(SIGNED_PAYLOAD)
    ),
}


@pytest.mark.parametrize("name", PRECONDITIONS)
def test_preconditions_are_skipped(name: str) -> None:
    made = builder().append_payment_op(BOB.public_key, XAB, "1")
    PRECONDITIONS[name](made)
    assert len(read(made, done(1)).movements) == 1


MEMOS: dict[str, tuple[Callable[[TransactionBuilder], Any], bytes]] = {
    "none": (lambda b: b, ZEROS),
    "text": (lambda b: b.add_text_memo("hello"), ZEROS),
    "long-text": (lambda b: b.add_text_memo("x" * 28), ZEROS),
    "id": (lambda b: b.add_id_memo(2**64 - 1), ZEROS),
    "hash": (lambda b: b.add_hash_memo(b"\xab" * 32), b"\xab" * 32),
    "return": (lambda b: b.add_return_hash_memo(b"\xab" * 32), ZEROS),
}


@pytest.mark.parametrize("name", MEMOS)
def test_only_a_hash_memo_is_told(name: str) -> None:
    make, want = MEMOS[name]
    made = builder().append_payment_op(BOB.public_key, XAB, "1")
    make(made)
    assert read(made, done(1)).memo_hash == want


def test_version_0_envelope_has_the_hash_of_version_1() -> None:
    account = Account(ALICE.public_key, 41)
    made = TransactionBuilder(account, PASSPHRASE, base_fee=100, v1=False)
    made.append_payment_op(BOB.public_key, XAB, "1").add_time_bounds(0, 9)
    envelope = envelope_of(made)
    assert base64.b64decode(envelope.to_xdr())[:4] == bytes(4)
    transaction = read_transaction(fact_of(envelope.to_xdr(), success(done(1))))
    assert transaction.tx_hash == envelope.hash()
    assert len(transaction.movements) == 1


def bump_of(envelope: TransactionEnvelope, payer: Keypair = BOB) -> str:
    bump = TransactionBuilder.build_fee_bump_transaction(payer, 200, envelope, PASSPHRASE)
    bump.sign(payer)
    return str(bump.to_xdr())


def bump_result(inner_hash: bytes, code: int, inner: bytes) -> bytes:
    """TransactionResult of a fee bump: outer code, pair of inner hash and result, extension."""
    head = (400).to_bytes(8, "big") + code.to_bytes(4, "big", signed=True)
    return head + inner_hash + inner + bytes(4)


def test_fee_bump_is_paid_by_the_outer_and_named_by_the_inner() -> None:
    envelope = envelope_of(builder().append_payment_op(BOB.public_key, XAB, "1"))
    result = bump_result(envelope.hash(), 1, success(done(1), fee=0))
    transaction = read_transaction(fact_of(bump_of(envelope), result))
    assert transaction.tx_hash == envelope.hash()
    assert (transaction.source_account, transaction.fee_account) == (key(ALICE), key(BOB))
    assert (transaction.fee_charged_stroops, transaction.succeeded) == (400, True)
    assert len(transaction.movements) == 1


@pytest.mark.parametrize(
    ("inner_hash", "code", "inner_code"),
    [(bytes(32), 1, 0), (None, 1, -1), (None, -13, 0)],
    ids=["another-inner", "success-of-a-failure", "failure-of-a-success"],
)
def test_result_that_does_not_belong_to_the_bump_is_refused(
    inner_hash: bytes | None, code: int, inner_code: int
) -> None:
    envelope = envelope_of(builder().append_payment_op(BOB.public_key, XAB, "1"))
    inner = bytes(8) + inner_code.to_bytes(4, "big", signed=True) + bytes(3) + b"\1" + done(1)
    result = bump_result(inner_hash or envelope.hash(), code, inner + bytes(4))
    with pytest.raises(MalformedXdrError, match="result"):
        read_transaction(fact_of(bump_of(envelope), result))


def test_failed_transaction_names_the_payees_at_fault() -> None:
    made = builder().append_payment_op(BOB.public_key, XAB, "1")
    made.append_payment_op(ISSUER.public_key, XAB, "1")
    envelope = envelope_of(made).to_xdr()
    transaction = read_transaction(fact_of(envelope, failed((1, -5), (1, 0))))
    assert (transaction.succeeded, transaction.movements) == (False, ())
    assert transaction.failed_destinations == (key(BOB),)
    transaction = read_transaction(fact_of(envelope, failed(code=-5)))
    assert (transaction.succeeded, transaction.failed_destinations) == (False, ())


@pytest.mark.parametrize("kind", [1, 2, 13])
@pytest.mark.parametrize("code", range(-12, 0))
def test_payee_is_at_fault_only_for_the_state_of_its_own_account(kind: int, code: int) -> None:
    """No destination, no trust, not authorized, line full; never what the payer is short of."""
    made = builder()
    if kind == 1:
        made.append_payment_op(BOB.public_key, XAB, "1")
    elif kind == 2:
        made.append_path_payment_strict_receive_op(BOB.public_key, XLM, "1", XAB, "1", [])
    else:
        made.append_path_payment_strict_send_op(BOB.public_key, XLM, "1", XAB, "1", [])
    result = failed((kind, code))
    if kind != 1 and code == -9:  # names the asset without an issuer
        result = result[:-4] + XAB.to_xdr_object().to_xdr_bytes() + result[-4:]
    transaction = read_transaction(fact_of(envelope_of(made).to_xdr(), result))
    assert bool(transaction.failed_destinations) == (code in {-5, -6, -7, -8})


@pytest.mark.parametrize("code", range(-4, 0))
def test_creation_of_an_account_that_exists_is_its_owners_doing(code: int) -> None:
    envelope = envelope_of(builder().append_create_account_op(BOB.public_key, "1")).to_xdr()
    transaction = read_transaction(fact_of(envelope, failed((0, code))))
    assert bool(transaction.failed_destinations) == (code == -4)


def test_failure_of_another_operation_blames_no_payee() -> None:
    made = builder().append_account_merge_op(BOB.public_key)
    transaction = read_transaction(fact_of(envelope_of(made).to_xdr(), failed((8, -6))))
    assert transaction.failed_destinations == ()


def test_payment_by_an_account_that_is_not_there_blames_no_payee() -> None:
    envelope = envelope_of(builder().append_payment_op(BOB.public_key, XAB, "1")).to_xdr()
    no_account = b"\xff\xff\xff\xfe"
    result = failed((1, -5))[:-16] + no_account + bytes(4)
    transaction = read_transaction(fact_of(envelope, result))
    assert (transaction.succeeded, transaction.failed_destinations) == (False, ())


@pytest.mark.parametrize(
    ("code", "consumed"),
    [(-1, True), (-6, True), (-7, True), (-10, True), (-14, True), (-15, True)]
    + [(code, False) for code in (-2, -3, -4, -5, -8, -9, -12, -16, -17, -18)],
)
def test_failure_tells_whether_it_used_its_sequence_number_up(code: int, consumed: bool) -> None:
    envelope = envelope_of(builder().append_payment_op(BOB.public_key, XAB, "1")).to_xdr()
    result = failed((1, -5)) if code == -1 else failed(code=code)
    transaction = read_transaction(fact_of(envelope, result))
    assert transaction.is_sequence_consumed == consumed


def test_fee_bump_holds_no_version_0() -> None:
    account = Account(ALICE.public_key, 41)
    made = TransactionBuilder(account, PASSPHRASE, base_fee=100, v1=False)
    inner = envelope_of(made.append_payment_op(BOB.public_key, XAB, "1"))
    data = (5).to_bytes(4, "big") + bytes(4) + key(BOB) + (200).to_bytes(8, "big")
    data += base64.b64decode(inner.to_xdr()) + bytes(4) + bytes(4)
    fact = book_builders.fact(envelope=data, result=bump_result(inner.hash(), 1, success(done(1))))
    with pytest.raises(MalformedXdrError, match="inner type"):
        read_transaction(fact)


@pytest.mark.parametrize("code", [0, -1])
def test_fee_bump_has_a_fee_bumps_result(code: int) -> None:
    envelope = envelope_of(builder().append_payment_op(BOB.public_key, XAB, "1"))
    result = success(done(1)) if code == 0 else failed((1, -5))
    with pytest.raises(MalformedXdrError, match="fee bump"):
        read_transaction(fact_of(bump_of(envelope), result))


def test_fee_bump_that_never_got_to_its_inner_transaction_leaves_the_sequence_number() -> None:
    envelope = envelope_of(builder().append_payment_op(BOB.public_key, XAB, "1"))
    transaction = read_transaction(fact_of(bump_of(envelope), failed(code=-7)))
    assert (transaction.succeeded, transaction.is_sequence_consumed) == (False, False)


@pytest.mark.parametrize("code", [1, -13])
def test_result_of_a_fee_bump_belongs_to_no_other_transaction(code: int) -> None:
    result = bump_result(PAYMENT.hash(), code, success(done(1)))
    with pytest.raises(MalformedXdrError, match="code"):
        read_transaction(fact_of(PAYMENT.to_xdr(), result))


PAYMENT = envelope_of(builder().append_payment_op(BOB.public_key, XAB, "1"))


@pytest.mark.parametrize(
    "result",
    [
        b"",
        success(),
        success(done(1), done(1)),
        success(done(2)),
        success(done(5)),
        success()[:-4] + done(1) + bytes(4),
        success(done(1)) + b"\0",
        success(done(1))[:-4] + b"\0\0\0\1",
        success(bytes(4) + b"\0\0\0\1" + b"\xff\xff\xff\xff"),
        success(b"\xff\xff\xff\xff"),
        failed((1, 1)),
        (100).to_bytes(8, "big") + b"\xff\xff\xff\xff\0\0\0\1\0\0\0\1" + bytes(4),
    ],
    ids=["empty", "no-operation", "two", "another-type", "quiet-type", "count-0", "longer",
         "extension", "success-of-a-failure", "bad-auth", "positive", "positive-outer"],
)  # fmt: skip
def test_result_that_does_not_belong_to_the_envelope_is_refused(result: bytes) -> None:
    with pytest.raises(MalformedXdrError):
        read_transaction(fact_of(PAYMENT.to_xdr(), result))


def test_bytes_after_the_envelope_are_refused() -> None:
    data = base64.b64decode(PAYMENT.to_xdr())
    fact = book_builders.fact(envelope=data + b"\0", result=success(done(1)))
    with pytest.raises(MalformedXdrError):
        read_transaction(fact)


def test_padding_that_is_not_zero_and_flags_beyond_one_are_refused() -> None:
    with pytest.raises(MalformedXdrError, match="padding"):
        XdrReader(b"\0\0\0\1ab\0\0").opaque(8)
    with pytest.raises(MalformedXdrError, match="count"):
        XdrReader(b"\0\0\0\x09" + bytes(12)).opaque(8)
    with pytest.raises(MalformedXdrError, match="optional"):
        XdrReader(b"\0\0\0\2").present()
