"""Validity and application of one transaction, in the protocol's order (19 and later).

check() is what submission does; charge() takes the fee; apply() runs the transaction in its ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.devnet.balances import available_balance
from ledger.devnet.entries import Account, Signer, account_key
from ledger.devnet.envelope import Transaction
from ledger.devnet.freezing import accesses_frozen
from ledger.devnet.operations import HANDLERS, Call
from ledger.devnet.operations.account import touch_sequence
from ledger.devnet.results import (
    OP_BAD_AUTH,
    OP_NO_ACCOUNT,
    OP_NOT_SUPPORTED,
    OpResult,
    TxCode,
    TxResult,
    blank,
    fail,
    refuse,
)
from ledger.devnet.signatures import PRE_AUTH, SIGNED_PAYLOAD, SignatureChecker, signer_key
from ledger.devnet.sponsorship import remove_signer
from ledger.devnet.state import Header, Overlay, StateError
from ledger.devnet.wire import INT64_MAX

NO_INNER_FEE_SINCE: Final = 25


class Validity(IntEnum):
    """How far the common checks came; from SEQUENCE on the sequence number is consumed."""

    INVALID = 0
    SEQUENCE = 1
    POST_AUTH = 2
    VALID = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """How to judge: applying or before, with fee or not, seconds the next close may be away.

    `bypass_hash` is the one that may lift a freeze: the outer hash of a fee bump, None = its own.
    """

    applying: bool
    charge_fee: bool = True
    upper_offset: int = 0
    bypass_hash: bytes | None = None


def min_fee(header: Header, tx: Transaction) -> int:
    """Stroops the network asks at least."""
    return header.base_fee * max(1, tx.bid_operations)


def adjusted_fee(tx: Transaction, base_fee: int, *, applying: bool) -> int:
    """Stroops charged at a base fee; while applying never above the bid."""
    fee = base_fee * max(1, tx.bid_operations)
    return min(tx.fee, fee) if applying else fee


def calls(tx: Transaction) -> list[Call]:
    """The operations with their sources filled in."""
    return [
        Call(tx, index, operation.source or tx.source, operation.kind, operation.body)
        for index, operation in enumerate(tx.operations)
    ]


def blank_result(tx: Transaction, fee: int) -> TxResult:
    """Result before anything is known: success with blank operation results."""
    return TxResult(fee, TxCode.SUCCESS, [blank(operation.kind) for operation in tx.operations])


# Common checks


def _bounds_fault(header: Header, tx: Transaction, terms: Terms) -> TxCode | None:
    c = tx.conditions
    if c.min_time and c.min_time > header.close_time:
        return TxCode.TOO_EARLY
    if c.min_ledger > header.sequence:
        return TxCode.TOO_EARLY
    if c.max_time and c.max_time < header.close_time + terms.upper_offset:
        return TxCode.TOO_LATE
    if c.max_ledger and c.max_ledger <= header.sequence:
        return TxCode.TOO_LATE
    return None


def _form_fault(tx: Transaction) -> TxCode | None:
    extra = tx.conditions.extra_signers
    if len(extra) == 2 and extra[0] == extra[1]:
        return TxCode.MALFORMED
    if any(key[3] == SIGNED_PAYLOAD and key[36:40] == bytes(4) for key in extra):
        return TxCode.MALFORMED
    return None if tx.operations else TxCode.MISSING_OPERATION


def _is_bad_sequence(header: Header, tx: Transaction, current: int) -> bool:
    if tx.sequence == header.sequence << 32:
        return True
    least = tx.conditions.min_sequence
    if least is not None:
        return current < least or current >= tx.sequence
    return current == INT64_MAX or current + 1 != tx.sequence


def _is_too_early_for(header: Header, tx: Transaction, account: Account) -> bool:
    c = tx.conditions
    if header.close_time - c.min_sequence_age < account.sequence_time:
        return True
    if c.min_sequence_age > header.close_time or c.min_sequence_gap > header.sequence:
        return True
    return header.sequence - c.min_sequence_gap < account.sequence_ledger


def _is_frozen(header: Header, tx: Transaction, bypass_hash: bytes) -> bool:
    if not header.frozen or bypass_hash in header.freeze_bypass:
        return False
    return accesses_frozen(tx, header.frozen)


def _common(
    overlay: Overlay, tx: Transaction, checker: SignatureChecker, terms: Terms
) -> tuple[Validity, TxCode]:
    header = overlay.header
    fault = _form_fault(tx) or _bounds_fault(header, tx, terms)
    if fault is not None:
        return Validity.INVALID, fault
    if terms.charge_fee and tx.fee < min_fee(header, tx):
        return Validity.INVALID, TxCode.INSUFFICIENT_FEE
    account = overlay.peek_account(tx.source)
    if account is None:
        return Validity.INVALID, TxCode.NO_ACCOUNT
    if _is_frozen(header, tx, terms.bypass_hash or tx.hash):
        return Validity.INVALID, TxCode.FROZEN_KEY_ACCESSED
    if _is_bad_sequence(header, tx, account.sequence):
        return Validity.INVALID, TxCode.BAD_SEQ
    if _is_too_early_for(header, tx, account):
        return Validity.SEQUENCE, TxCode.BAD_MIN_SEQ_AGE_OR_GAP
    extra = [Signer(key, 1) for key in tx.conditions.extra_signers]
    if not checker.check_account(account, account.thresholds[1]):
        return Validity.SEQUENCE, TxCode.BAD_AUTH
    if extra and not checker.check(extra, len(extra)):
        return Validity.SEQUENCE, TxCode.BAD_AUTH
    to_pay = 0 if terms.applying else tx.fee
    if terms.charge_fee and available_balance(header, account) < to_pay:
        return Validity.POST_AUTH, TxCode.INSUFFICIENT_BALANCE
    return Validity.VALID, TxCode.SUCCESS


# Operations' common part


def _operation_auth(overlay: Overlay, call: Call, checker: SignatureChecker) -> OpResult | None:
    account = overlay.peek_account(call.source)
    if account is not None:
        handler = HANDLERS.get(call.kind)
        level = handler.threshold(call) if handler else 2
        if checker.check_account(account, account.thresholds[level]):
            return None
        return refuse(OP_BAD_AUTH)
    if call.transaction.operations[call.index].source is None:
        return refuse(OP_NO_ACCOUNT)
    return None if checker.check_missing_account(call.source) else refuse(OP_BAD_AUTH)


def _check_operation(overlay: Overlay, call: Call) -> OpResult | None:
    """Static fault of an operation, None if there is none."""
    handler = HANDLERS.get(call.kind)
    if handler is None or overlay.header.protocol < handler.since:
        return refuse(OP_NOT_SUPPORTED)
    code = handler.check(call, overlay.header.protocol)
    return None if code is None else fail(call.kind, code)


def _is_supported(overlay: Overlay, call: Call) -> bool:
    handler = HANDLERS.get(call.kind)
    return handler is not None and overlay.header.protocol >= handler.since


# Submission


def check(overlay: Overlay, tx: Transaction, upper_offset: int) -> TxResult:
    """Judge a transaction for submission; the overlay is only read.

    `overlay.header` carries the last close time and the next network ledger's sequence.
    """
    if tx.inner is not None:
        return _check_fee_bump(overlay, tx, tx.inner, upper_offset)
    terms = Terms(applying=False, upper_offset=upper_offset)
    return _check_plain(
        overlay, tx, terms, adjusted_fee(tx, overlay.header.base_fee, applying=False)
    )


def _check_plain(overlay: Overlay, tx: Transaction, terms: Terms, fee: int) -> TxResult:
    result = blank_result(tx, fee)
    checker = SignatureChecker(tx.hash, tx.signatures)
    validity, code = _common(overlay, tx, checker, terms)
    if validity is not Validity.VALID:
        result.code = code
        return result
    for call in calls(tx):
        fault = None if _is_supported(overlay, call) else refuse(OP_NOT_SUPPORTED)
        fault = fault or _operation_auth(overlay, call, checker) or _check_operation(overlay, call)
        if fault is not None:
            result.operations[call.index] = fault
            result.code = TxCode.FAILED
            return result
    if not checker.all_used():
        result.code = TxCode.BAD_AUTH_EXTRA
    return result


def _check_fee_bump(
    overlay: Overlay, tx: Transaction, inner: Transaction, upper_offset: int
) -> TxResult:
    header = overlay.header
    fee = adjusted_fee(tx, header.base_fee, applying=False)
    result = TxResult(fee, TxCode.FEE_BUMP_INNER_SUCCESS, [], inner.hash)
    checker = SignatureChecker(tx.hash, tx.signatures)
    fault = _fee_bump_fault(header, tx, inner, result)
    if fault is None:
        payer = overlay.peek_account(tx.fee_source)
        if payer is None:
            fault = TxCode.NO_ACCOUNT
        elif not checker.check_account(payer, payer.thresholds[1]):
            fault = TxCode.BAD_AUTH
        elif available_balance(header, payer) < tx.fee:
            fault = TxCode.INSUFFICIENT_BALANCE
        elif account_key(tx.fee_source) in header.frozen and tx.hash not in header.freeze_bypass:
            fault = TxCode.FROZEN_KEY_ACCESSED
        elif not checker.all_used():
            fault = TxCode.BAD_AUTH_EXTRA
    if fault is not None:
        result.code = fault
        return result
    terms = Terms(applying=False, charge_fee=False, upper_offset=upper_offset, bypass_hash=tx.hash)
    result.inner = _check_plain(overlay, inner, terms, 0)
    if not result.inner.ok:
        result.code = TxCode.FEE_BUMP_INNER_FAILED
    return result


def _fee_bump_fault(
    header: Header, tx: Transaction, inner: Transaction, result: TxResult
) -> TxCode | None:
    if tx.fee < min_fee(header, tx):
        return TxCode.INSUFFICIENT_FEE
    bid, wanted = tx.fee * min_fee(header, inner), inner.fee * min_fee(header, tx)
    if bid < wanted:
        result.fee_charged = min(INT64_MAX, -(-wanted // min_fee(header, inner)))
        return TxCode.INSUFFICIENT_FEE
    return None


# In a ledger


def charge(ledger: Overlay, tx: Transaction, base_fee: int) -> TxResult:
    """Take the fee from its source and give the result that apply() completes."""
    fee = adjusted_fee(tx, base_fee, applying=True)
    with Overlay(ledger) as overlay:
        payer = overlay.need_account(tx.fee_source)
        fee = min(payer.balance, fee)
        payer.balance -= fee
        overlay.header.fee_pool += fee
        overlay.commit()
    if tx.inner is None:
        return blank_result(tx, fee)
    inner_fee = 0
    if ledger.header.protocol < NO_INNER_FEE_SINCE:
        inner_fee = adjusted_fee(tx.inner, base_fee, applying=True)
    inner = blank_result(tx.inner, inner_fee)
    return TxResult(fee, TxCode.FEE_BUMP_INNER_SUCCESS, [], tx.inner.hash, inner)


def apply(ledger: Overlay, tx: Transaction, result: TxResult) -> None:
    """Run a transaction whose fee was charged; completes `result` in place."""
    if tx.inner is None:
        _apply_plain(ledger, tx, result, Terms(applying=True))
        return
    with Overlay(ledger) as overlay:
        _remove_one_time_signer(overlay, tx.fee_source, tx.hash)
        overlay.commit()
    if result.inner is None:
        raise StateError("fee bump result: got no inner result, want one")
    terms = Terms(applying=True, charge_fee=False, bypass_hash=tx.hash)
    _apply_plain(ledger, tx.inner, result.inner, terms)
    if not result.inner.ok:
        result.code = TxCode.FEE_BUMP_INNER_FAILED


def _apply_plain(ledger: Overlay, tx: Transaction, result: TxResult, terms: Terms) -> None:
    checker = SignatureChecker(tx.hash, tx.signatures)
    with Overlay(ledger) as overlay:
        validity, code = _common(overlay, tx, checker, terms)
        if validity >= Validity.SEQUENCE:
            account = overlay.need_account(tx.source)
            account.sequence = tx.sequence
            touch_sequence(overlay, account)
        if validity is Validity.VALID:
            code = _operation_signatures(overlay, tx, checker, result)
        for source in dict.fromkeys([tx.source, *(call.source for call in calls(tx))]):
            _remove_one_time_signer(overlay, source, tx.hash)
        overlay.commit()
    result.code = code
    if code is TxCode.SUCCESS:
        _apply_operations(ledger, tx, result)


def _operation_signatures(
    overlay: Overlay, tx: Transaction, checker: SignatureChecker, result: TxResult
) -> TxCode:
    code = TxCode.SUCCESS
    for call in calls(tx):
        fault = _operation_auth(overlay, call, checker)
        if fault is not None:
            result.operations[call.index] = fault
            code = TxCode.FAILED
    if code is TxCode.SUCCESS and not checker.all_used():
        return TxCode.BAD_AUTH_EXTRA
    return code


def _remove_one_time_signer(overlay: Overlay, account: bytes, tx_hash: bytes) -> None:
    key = signer_key(PRE_AUTH, tx_hash)
    found = overlay.peek_account(account)
    if found is None or all(signer.key != key for signer in found.signers):
        return
    entry = overlay.need_account(account)
    remove_signer(overlay, entry, next(s for s in entry.signers if s.key == key))


def _apply_operations(ledger: Overlay, tx: Transaction, result: TxResult) -> None:
    try:
        _run_operations(ledger, tx, result)
    except StateError:
        # As in stellar-core: a broken invariant undoes the operations and is told by its code.
        result.code = TxCode.INTERNAL_ERROR


def _run_operations(ledger: Overlay, tx: Transaction, result: TxResult) -> None:
    with Overlay(ledger) as overlay:
        ok = True
        for call in calls(tx):
            outcome = _apply_operation(overlay, call)
            result.operations[call.index] = outcome
            ok = ok and outcome.ok
        if not ok:
            result.code = TxCode.FAILED
        elif overlay.sponsorships:
            result.code = TxCode.BAD_SPONSORSHIP
        else:
            overlay.commit()


def _apply_operation(transaction: Overlay, call: Call) -> OpResult:
    fault = None if _is_supported(transaction, call) else refuse(OP_NOT_SUPPORTED)
    if fault is None and transaction.find(account_key(call.source)) is None:
        fault = refuse(OP_NO_ACCOUNT)
    fault = fault or _check_operation(transaction, call)
    if fault is not None:
        return fault
    with Overlay(transaction) as overlay:
        outcome = HANDLERS[call.kind].apply(overlay, call)
        if outcome.ok:
            overlay.commit()
        return outcome
