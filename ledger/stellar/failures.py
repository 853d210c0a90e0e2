"""The failure table: what an answer to a submission, or a failure in a ledger, is reacted to with.

Two pure functions. An answer never decides an outcome: it says whether to wait, to raise the bid,
to ask elsewhere, or to stop and call a person. A failure in a ledger has used the slot up; its
codes say whether that is a payee's own affair or ours. A code that is in neither table stops
everything: nobody guesses. Reference: the failure table of the exactly-once design and the result
codes of Stellar-transaction.x.

A payee whose key is frozen voids its whole batch without using the slot. The batch stands in the
log as it is, so it cannot be sent in the same slot without that payee: the slot is burned, and the
others are owed again in a new batch, from which what preflight saw keeps the frozen one out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ledger.stellar.gateway import FILTERED, SubmitAnswer, SubmitStatus
from ledger.stellar.results import result_code_of

FROZEN: Final = "txFROZEN_KEY_ACCESSED"


class Reaction(StrEnum):
    """What is done about an answer."""

    WAIT = "wait"
    """Send the same bytes again after the next close; a ledger decides."""

    RAISE_BID = "raise_bid"
    """Wrap the same bytes into a fee bump with a higher bid."""

    ASK_ELSEWHERE = "ask_elsewhere"
    """Hand the same bytes to another source."""

    BURN = "burn"
    """Give the batch up by using its slot up."""

    PAUSE_LANE = "pause_lane"
    """Whoever pays the fee is short of XLM: stand still and raise an alarm."""

    HALT_LANE = "halt_lane"
    """The account's signers are not as we think: stand still until a person has looked."""

    HALT = "halt"
    """Something nobody planned for: everything stands still until a person has looked."""


_BY_STATUS: Final[Mapping[SubmitStatus, Reaction]] = {
    SubmitStatus.PENDING: Reaction.WAIT,
    SubmitStatus.DUPLICATE: Reaction.WAIT,
    SubmitStatus.TRY_AGAIN: Reaction.WAIT,
    SubmitStatus.UNKNOWN: Reaction.WAIT,
}
_BY_CODE: Final[Mapping[str, Reaction]] = {
    # The slot is used (perhaps by us), a predecessor is open, or the node is stale: facts tell.
    "txBAD_SEQ": Reaction.WAIT,
    "txTOO_EARLY": Reaction.WAIT,
    "txTOO_LATE": Reaction.WAIT,
    "txINSUFFICIENT_FEE": Reaction.RAISE_BID,
    "txINSUFFICIENT_BALANCE": Reaction.PAUSE_LANE,
    "txBAD_AUTH": Reaction.HALT_LANE,
    "txBAD_AUTH_EXTRA": Reaction.HALT_LANE,
    FROZEN: Reaction.BURN,
    # An answer that is no result at all is a broken source, not the network's word.
    "no result": Reaction.WAIT,
}


def reaction_to_answer(answer: SubmitAnswer) -> Reaction:
    """Return what is done about an answer to a submission."""
    if answer.code == FILTERED:
        return Reaction.ASK_ELSEWHERE
    if answer.status != SubmitStatus.REJECTED:
        return _BY_STATUS.get(answer.status, Reaction.WAIT)
    code = answer.code
    if code in {"txFEE_BUMP_INNER_FAILED", "txFAILED"}:
        failure = read_failure(answer.result)
        if failure.code == "txFAILED":
            is_auth = "opBAD_AUTH" in failure.operations
            return Reaction.HALT_LANE if is_auth else Reaction.HALT
        code = failure.code
    return _BY_CODE.get(code, Reaction.HALT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The codes of a failed transaction."""

    code: str
    """Of the (inner) transaction."""

    operations: tuple[str, ...]
    """Of its operations, if the transaction got to them."""

    def __str__(self) -> str:
        bad = sorted({code for code in self.operations if code not in _GOOD})
        return ": ".join((self.code, *([", ".join(bad)] if bad else [])))


_GOOD: Final = frozenset({"PAYMENT_SUCCESS", "SET_OPTIONS_SUCCESS"})
_PAYEES: Final = frozenset(
    {
        "PAYMENT_NO_DESTINATION",
        "PAYMENT_NO_TRUST",
        "PAYMENT_NOT_AUTHORIZED",
        "PAYMENT_LINE_FULL",
    }
)
"""What only the payee can mend: it is owed on, alone."""


def read_failure(result: bytes) -> Failure:
    """Return the codes of a TransactionResult; of the inner one of a fee bump."""
    # Loaded here: the SDK's XDR takes seconds of CPU, and most settlements meet no failure.
    from stellar_sdk.xdr import TransactionResult, TransactionResultCode  # noqa: PLC0415

    try:
        body = TransactionResult.from_xdr_bytes(result).result
    except (ValueError, EOFError):
        return Failure(code=result_code_of(result), operations=())
    inner = body.inner_result_pair
    if body.code == TransactionResultCode.txFEE_BUMP_INNER_FAILED and inner is not None:
        code, operations = inner.result.result.code, inner.result.result.results
    else:
        code, operations = body.code, body.results
    return Failure(
        code=code.name, operations=tuple(_code_of(operation) for operation in operations or ())
    )


def _code_of(operation: object) -> str:
    """Return the code of an OperationResult, such as "PAYMENT_NO_TRUST"."""
    if (outer := getattr(operation, "code", None)) is not None and outer.name != "opINNER":
        return str(outer.name)
    body = getattr(operation, "tr", None)
    for name in ("payment_result", "set_options_result"):
        if (result := getattr(body, name, None)) is not None:
            return str(result.code.name)
    return "unknown operation"


def reaction_to_failure(failure: Failure) -> Reaction:
    """Return what is done about a failure in a ledger that used the slot up.

    The batch is decided whatever the answer: what it owes is owed again. `WAIT`: go on.
    """
    if failure.code == "txFAILED":
        bad = {code for code in failure.operations if code not in _GOOD}
        return Reaction.WAIT if bad and bad <= _PAYEES else Reaction.HALT
    if failure.code in {"txBAD_AUTH", "txBAD_AUTH_EXTRA"}:
        return Reaction.HALT_LANE
    if failure.code == "txINSUFFICIENT_BALANCE":
        return Reaction.PAUSE_LANE
    return Reaction.HALT
