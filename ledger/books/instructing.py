"""Instructing: what sealed instructions come to, each on its own, none ever stopping an epoch.

An instruction holds when it is of this network and broadcaster, signed by everybody whom it names,
and by the right one: the operator's log key of the terms, the DAO key that activated the contract
in force. Of those that hold, the newest of an account and kind counts. The effects are rows of the
state (`standing`), but for rulings, which folding asks for. Every instruction gets a code.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum

from ledger.books.draft import Draft
from ledger.books.slots import forbidden_addresses
from ledger.books.standing import RefundRequest, SeenAccount, Standing
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.instruction import (
    Booking,
    Instruction,
    PayeeInstruction,
    PayeeWish,
    Readiness,
    ReadinessNote,
    Refund,
    Ruling,
    is_signed,
)
from ledger.evidence.terms import Terms

INSTRUCTIONS_MAX = 10_000
"""Most instructions of one seal; later ones wait for the next."""


SEEN_AHEAD_MAX = 20_000
"""Most network ledgers, more than a day's, that a note may be ahead of its epoch's last one.

A note stands in for later ones by its ledger, so one as of a ledger that never comes would carry a
payee for good.
"""


SERIAL_AHEAD_S = 86_400
"""Seconds that a serial number may be ahead of its epoch's end, read as Unix milliseconds.

Numbers rise, so whoever stole a key and used the greatest of all would keep its owner from ever
instructing again. Up to this bound, or one above the last, the owner's next number counts.
"""


class InstructionCode(IntEnum):
    """What became of an instruction; 0 = it has effect. Numbers are never reused."""

    APPLIED = 0
    """It has its effect, or had it until a newer one came."""

    BAD_SIGNATURE = 1
    """Not signed by everybody whom it names."""

    WRONG_NETWORK = 2
    """Of another network than the terms."""

    WRONG_BROADCASTER = 3
    """For another broadcaster's ledger."""

    WRONG_SIGNER = 4
    """Its key is not the log key of the terms, or not the DAO key of the contract in force."""

    STALE = 5
    """Its number is not above that of an instruction that had effect."""

    UNKNOWN_ACCOUNT = 6
    """Nobody is owed anything under this account, or paid at it."""

    FORBIDDEN_ADDRESS = 7
    """It names an account of the settlement itself, or the asset's issuer."""

    ENTRY_UNCHANGED = 8
    """The account was not ready, and nothing of it has changed since."""

    UNKNOWN_TRANSACTION = 9
    """It rules on a transaction that the epoch does not book."""

    SEEN_TOO_FAR_AHEAD = 10
    """It says to be as of a network ledger far beyond the epoch's last one."""

    SERIAL_TOO_FAR_AHEAD = 11
    """Its number is neither one above the last nor a time up to a day after the epoch."""


def judge_instructions(
    instructions: Sequence[Signed[Instruction]], terms: Terms, *, dao_key: bytes
) -> list[InstructionCode]:
    """Say of each instruction whether it holds by itself: `APPLIED`, or why not.

    Args:
        instructions: In any order.
        terms: In force.
        dao_key: Key that activated the contract in force; 32 bytes.
    """
    return [judge_instruction(signed, terms, dao_key=dao_key) for signed in instructions]


def judge_instruction(
    signed: Signed[Instruction], terms: Terms, *, dao_key: bytes
) -> InstructionCode:
    """Say whether an instruction holds by itself: `APPLIED`, or why not."""
    value = signed.value
    if value.network_id != terms.network_id:
        return InstructionCode.WRONG_NETWORK
    if value.broadcaster_account != terms.broadcaster_account:
        return InstructionCode.WRONG_BROADCASTER
    if isinstance(value, ReadinessNote) and value.log_key != terms.log_key:
        return InstructionCode.WRONG_SIGNER
    if isinstance(value, Ruling) and value.dao_key != dao_key:
        return InstructionCode.WRONG_SIGNER
    if isinstance(value, PayeeInstruction) and value.pay_to in forbidden_addresses(terms):
        return InstructionCode.FORBIDDEN_ADDRESS
    return InstructionCode.APPLIED if is_signed(signed) else InstructionCode.BAD_SIGNATURE


def rulings_of(
    instructions: Sequence[Signed[Instruction]], codes: list[InstructionCode]
) -> Mapping[bytes, Booking]:
    """Return the rulings that hold, by transaction; of two the one with the higher serial.

    Args:
        instructions: In the seal's order.
        codes: From `judge_instructions`; those of older rulings become `STALE`.
    """
    newest: dict[bytes, tuple[int, int]] = {}
    bookings: dict[bytes, Booking] = {}
    for place, signed in enumerate(instructions):
        value = signed.value
        if not isinstance(value, Ruling) or codes[place] != InstructionCode.APPLIED:
            continue
        serial, older = newest.get(value.tx_hash, (-1, -1))
        if value.serial <= serial:
            codes[place] = InstructionCode.STALE
            continue
        if older >= 0:
            codes[older] = InstructionCode.STALE
        newest[value.tx_hash] = (value.serial, place)
        bookings[value.tx_hash] = Booking(value.booking)
    return bookings


def apply_instructions(
    draft: Draft,
    terms: Terms,
    instructions: Sequence[Signed[Instruction]],
    codes: list[InstructionCode],
    booked: Collection[bytes],
) -> None:
    """Let the instructions that hold have their effect, after the epoch's accruals.

    Args:
        draft: Changed.
        terms: In force.
        instructions: In the seal's order.
        codes: From `judge_instructions`; what has no effect gets its reason.
        booked: Hashes of the transactions that the epoch books.
    """
    holding = [place for place, code in enumerate(codes) if code == InstructionCode.APPLIED]
    # By number, so that the order of digests decides nothing but ties.
    for place in sorted(holding, key=lambda place: (_number_of(instructions[place].value), place)):
        value = instructions[place].value
        if isinstance(value, PayeeInstruction):
            codes[place] = _apply_wish(draft, terms, value)
        elif isinstance(value, Refund):
            codes[place] = _apply_refund(draft, terms, value)
        elif isinstance(value, Ruling):
            is_booked = value.tx_hash in booked
            codes[place] = (
                InstructionCode.APPLIED if is_booked else InstructionCode.UNKNOWN_TRANSACTION
            )
    notes = [at for at in holding if isinstance(instructions[at].value, ReadinessNote)]
    # What was seen of an account may be about an address that was named in this epoch.
    paid = paid_accounts(draft, terms) if notes else frozenset()
    for place in sorted(notes, key=lambda place: (_number_of(instructions[place].value), place)):
        value = instructions[place].value
        if isinstance(value, ReadinessNote):
            codes[place] = _apply_note(draft, value, paid)


def _number_of(value: Instruction) -> int:
    return value.seen_ledger if isinstance(value, ReadinessNote) else value.serial


def _judge_serial(draft: Draft, terms: Terms, serial: int, last: int) -> InstructionCode | None:
    """Return why a number does not follow the last one; None if it does."""
    if serial <= last:
        return InstructionCode.STALE
    latest_ms = 1_000 * (terms.epoch_end_s(draft.epoch) + SERIAL_AHEAD_S)
    return InstructionCode.SERIAL_TOO_FAR_AHEAD if serial > max(latest_ms, last + 1) else None


def _apply_wish(draft: Draft, terms: Terms, value: PayeeInstruction) -> InstructionCode:
    if value.account not in draft.payees:
        return InstructionCode.UNKNOWN_ACCOUNT
    standing = draft.standing.get(value.account, Standing())
    if value.kind == PayeeWish.CASH_OUT:
        if (
            code := _judge_serial(draft, terms, value.serial, standing.cash_out_serial)
        ) is not None:
            return code
        draft.standing[value.account] = replace(
            standing, cash_out_serial=value.serial, cash_out_open=True
        )
        return InstructionCode.APPLIED
    if (code := _judge_serial(draft, terms, value.serial, standing.pay_to_serial)) is not None:
        return code
    paid_now = value.account if standing.pay_to == ZERO_KEY else standing.pay_to
    is_change = value.pay_to != paid_now
    draft.standing[value.account] = replace(
        standing,
        pay_to_serial=value.serial,
        next_pay_to=value.pay_to if is_change else ZERO_KEY,
        next_from_s=terms.epoch_end_s(draft.epoch) + terms.address_delay_s if is_change else 0,
    )
    return InstructionCode.APPLIED


def _apply_refund(draft: Draft, terms: Terms, value: Refund) -> InstructionCode:
    last = -1 if draft.refund is None else draft.refund.serial
    if (code := _judge_serial(draft, terms, value.serial, last)) is not None:
        return code
    draft.refund = RefundRequest(
        serial=value.serial,
        left_stroops=value.amount_stroops,
        planned_stroops=0,
        due_s=terms.epoch_end_s(draft.epoch) + terms.challenge_window_s,
        first_epoch=draft.epoch + 1 + terms.correction_epochs,
    )
    return InstructionCode.APPLIED


def _apply_note(draft: Draft, value: ReadinessNote, paid: frozenset[bytes]) -> InstructionCode:
    if value.account not in paid:
        return InstructionCode.UNKNOWN_ACCOUNT
    if value.seen_ledger > draft.head.last_ledger_sequence + SEEN_AHEAD_MAX:
        return InstructionCode.SEEN_TOO_FAR_AHEAD
    before = draft.seen_accounts.get(value.account)
    if before is not None and value.seen_ledger <= before.seen_ledger:
        return InstructionCode.STALE
    if before is not None and _claims_a_change_unseen(before, value):
        return InstructionCode.ENTRY_UNCHANGED
    draft.seen_accounts[value.account] = SeenAccount(
        seen_ledger=value.seen_ledger,
        readiness=value.readiness,
        entry_ledger=value.entry_ledger,
        room_stroops=value.room_stroops,
    )
    return InstructionCode.APPLIED


def _claims_a_change_unseen(before: SeenAccount, value: ReadinessNote) -> bool:
    """An account that was not ready does not become so by itself; only freezing leaves no trace."""
    if value.readiness != Readiness.READY:
        return False
    if before.readiness in {Readiness.READY, Readiness.FROZEN}:
        return False
    return value.entry_ledger <= before.entry_ledger


def paid_accounts(draft: Draft, terms: Terms) -> frozenset[bytes]:
    """Return every account that a payout of this ledger may go to."""
    accounts = {terms.broadcaster_account, *draft.payees}
    accounts.update(held.sender for held in draft.suspense.values())
    for standing in draft.standing.values():
        accounts.update((standing.pay_to, standing.next_pay_to))
    return frozenset(accounts)


def forget_accounts(draft: Draft, terms: Terms) -> None:
    """Drop what was seen of accounts that nothing goes to any more: the state stays bounded."""
    if draft.seen_accounts:
        paid = paid_accounts(draft, terms)
        draft.seen_accounts = {
            account: seen for account, seen in draft.seen_accounts.items() if account in paid
        }
