"""The failure table as data: every code that Stellar knows has a reaction, and none is guessed."""

from typing import Any

import pytest
from stellar_sdk import xdr
from stellar_sdk.xdr import PaymentResultCode as Payment
from stellar_sdk.xdr import TransactionResultCode as Code

from ledger.stellar.failures import (
    Reaction,
    reaction_to_answer,
    reaction_to_failure,
    read_failure,
)
from ledger.stellar.gateway import FILTERED, SubmitAnswer, SubmitStatus
from ledger.stellar.results import result_code_of

REACTIONS = {
    "txTOO_EARLY": Reaction.WAIT,
    "txTOO_LATE": Reaction.WAIT,
    "txBAD_SEQ": Reaction.WAIT,
    "txINSUFFICIENT_FEE": Reaction.RAISE_BID,
    "txINSUFFICIENT_BALANCE": Reaction.PAUSE_LANE,
    "txBAD_AUTH": Reaction.HALT_LANE,
    "txBAD_AUTH_EXTRA": Reaction.HALT_LANE,
    "txFROZEN_KEY_ACCESSED": Reaction.BURN,
}
"""Every other code halts everything."""


def tx_result(code: Code, results: list[xdr.OperationResult] | None = None) -> bytes:
    inside = xdr.TransactionResultResult(code, results=results)
    made = xdr.TransactionResult(xdr.Int64(100), inside, xdr.TransactionResultExt(0))
    return made.to_xdr_bytes()


def payment(code: Payment) -> xdr.OperationResult:
    inner = xdr.OperationResultTr(xdr.OperationType.PAYMENT, payment_result=xdr.PaymentResult(code))
    return xdr.OperationResult(xdr.OperationResultCode.opINNER, tr=inner)


def bumped(inner: bytes) -> bytes:
    """The result of a fee bump around a failed transaction."""
    inside = xdr.TransactionResult.from_xdr_bytes(inner)
    body = xdr.InnerTransactionResult(
        inside.fee_charged,
        xdr.InnerTransactionResultResult(inside.result.code, results=inside.result.results),
        xdr.InnerTransactionResultExt(0),
    )
    pair = xdr.InnerTransactionResultPair(xdr.Hash(bytes(32)), body)
    outer = xdr.TransactionResultResult(Code.txFEE_BUMP_INNER_FAILED, inner_result_pair=pair)
    return xdr.TransactionResult(xdr.Int64(200), outer, xdr.TransactionResultExt(0)).to_xdr_bytes()


def refused(result: bytes) -> SubmitAnswer:
    return SubmitAnswer(status=SubmitStatus.REJECTED, code=result_code_of(result), result=result)


PLAIN = [
    code
    for code in Code
    if code
    not in {
        Code.txSUCCESS,
        Code.txFAILED,
        Code.txFEE_BUMP_INNER_SUCCESS,
        Code.txFEE_BUMP_INNER_FAILED,
    }
]


@pytest.mark.parametrize("wrap", [lambda raw: raw, bumped], ids=["plain", "bumped"])
@pytest.mark.parametrize("code", PLAIN, ids=lambda code: code.name)
def test_refusal_is_reacted_to_by_its_code_alone(code: Code, wrap: Any) -> None:
    answer = refused(wrap(tx_result(code)))
    assert reaction_to_answer(answer) == REACTIONS.get(code.name, Reaction.HALT)


@pytest.mark.parametrize("status", [s for s in SubmitStatus if s != SubmitStatus.REJECTED])
def test_answer_that_is_no_refusal_is_waited_for(status: SubmitStatus) -> None:
    assert reaction_to_answer(SubmitAnswer(status=status)) == Reaction.WAIT


def test_node_that_filters_is_passed_over() -> None:
    answer = SubmitAnswer(status=SubmitStatus.UNKNOWN, code=FILTERED)
    assert reaction_to_answer(answer) == Reaction.ASK_ELSEWHERE


def test_unknown_code_halts_and_an_answer_without_one_does_not() -> None:
    unknown = (100).to_bytes(8, "big") + (-77).to_bytes(4, "big", signed=True) + bytes(4)
    assert reaction_to_answer(refused(unknown)) == Reaction.HALT
    assert reaction_to_failure(read_failure(unknown)) == Reaction.HALT
    assert reaction_to_answer(refused(b"")) == Reaction.WAIT


def test_wrong_signers_of_an_operation_halt_the_lane() -> None:
    bad_auth = xdr.OperationResult(xdr.OperationResultCode.opBAD_AUTH)
    answer = refused(tx_result(Code.txFAILED, [bad_auth]))
    assert reaction_to_answer(answer) == Reaction.HALT_LANE
    malformed = refused(tx_result(Code.txFAILED, [payment(Payment.PAYMENT_MALFORMED)]))
    assert reaction_to_answer(malformed) == Reaction.HALT


PAYEES_OWN = {
    Payment.PAYMENT_NO_DESTINATION,
    Payment.PAYMENT_NO_TRUST,
    Payment.PAYMENT_NOT_AUTHORIZED,
    Payment.PAYMENT_LINE_FULL,
}


@pytest.mark.parametrize("wrap", [lambda raw: raw, bumped], ids=["plain", "bumped"])
@pytest.mark.parametrize(
    "code", [code for code in Payment if code != Payment.PAYMENT_SUCCESS], ids=lambda c: c.name
)
def test_failed_payment_halts_unless_only_the_payee_can_mend_it(code: Payment, wrap: Any) -> None:
    good = payment(Payment.PAYMENT_SUCCESS)
    failure = read_failure(wrap(tx_result(Code.txFAILED, [good, payment(code), good])))
    assert str(failure) == f"txFAILED: {code.name}"
    want = Reaction.WAIT if code in PAYEES_OWN else Reaction.HALT
    assert reaction_to_failure(failure) == want


def test_one_failure_of_ours_beside_a_payees_halts() -> None:
    mixed = [payment(Payment.PAYMENT_NO_TRUST), payment(Payment.PAYMENT_UNDERFUNDED)]
    failure = read_failure(tx_result(Code.txFAILED, mixed))
    assert reaction_to_failure(failure) == Reaction.HALT


@pytest.mark.parametrize(
    ("code", "want"),
    [
        (Code.txBAD_AUTH, Reaction.HALT_LANE),
        (Code.txBAD_AUTH_EXTRA, Reaction.HALT_LANE),
        (Code.txINSUFFICIENT_BALANCE, Reaction.PAUSE_LANE),
        (Code.txINTERNAL_ERROR, Reaction.HALT),
    ],
    ids=lambda value: value.name,
)
def test_failure_of_a_whole_transaction_in_a_ledger_stops_what_it_says(
    code: Code, want: Reaction
) -> None:
    assert reaction_to_failure(read_failure(tx_result(code))) == want
