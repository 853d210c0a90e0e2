"""Instructions in the books: who may, which one counts, and that none ever stops an epoch."""

from dataclasses import replace
from typing import Any

import book_builders as books
import builders
import instruction_builders as made
import pytest

from ledger.books.draft import Draft
from ledger.books.instructing import (
    SEEN_AHEAD_MAX,
    SERIAL_AHEAD_S,
    InstructionCode,
    apply_instructions,
    forget_accounts,
    judge_instruction,
    judge_instructions,
    rulings_of,
)
from ledger.books.standing import SeenAccount, Standing
from ledger.books.state import PayeeBalance, SuspenseDeposit
from ledger.evidence.encoding import Signed
from ledger.evidence.instruction import (
    READINESS,
    REFUND_ALL,
    RULING,
    Booking,
    Instruction,
    Readiness,
    parse_instruction,
)

PAYEE = builders.key_of("seeder account")
OTHER = builders.key_of(made.SECOND)
DAO = builders.key_of("dao")


def draft_of(*names: str) -> Draft:
    draft = Draft.of(books.genesis())
    for name in names or ("seeder account",):
        draft.payees[builders.key_of(name)] = PayeeBalance(accrued_stroops=1_000)
    return draft


def instruct(
    draft: Draft, *instructions: Signed[Instruction], booked: tuple[bytes, ...] = (), **terms: Any
) -> list[InstructionCode]:
    in_force = builders.terms(**terms)
    codes = judge_instructions(instructions, in_force, dao_key=DAO)
    rulings_of(instructions, codes)
    apply_instructions(draft, in_force, instructions, codes, booked)
    return codes


def judged(signed: Signed[Instruction], **terms: Any) -> InstructionCode:
    return judge_instruction(signed, builders.terms(**terms), dao_key=DAO)


OTHER_NETWORK = builders.digest_of("other network")
EVERY = [made.pay_to, made.cash_out, made.refund, made.readiness, made.ruling]


@pytest.mark.parametrize("make", EVERY)
def test_what_is_signed_and_meant_for_this_ledger_holds(make: Any) -> None:
    assert judged(make()) == InstructionCode.APPLIED


@pytest.mark.parametrize("make", EVERY)
def test_what_is_meant_for_another_network_or_ledger_does_not_hold(make: Any) -> None:
    assert judged(make(network_id=OTHER_NETWORK)) == InstructionCode.WRONG_NETWORK
    other = make(broadcaster_account=builders.key_of("other broadcaster"))
    assert judged(other) == InstructionCode.WRONG_BROADCASTER


@pytest.mark.parametrize("make", EVERY)
def test_what_is_not_signed_does_not_hold(make: Any) -> None:
    signed = make()
    forged = parse_instruction(bytes([signed.raw[0] ^ 1]) + signed.raw[1:])
    assert judged(forged) == InstructionCode.BAD_SIGNATURE


def test_nobody_but_the_log_key_says_what_was_seen_and_nobody_but_the_dao_rules() -> None:
    mallory = builders.key_of("mallory")
    note = READINESS.sign(
        replace(made.readiness().value, log_key=mallory), builders.seed_of("mallory")
    )
    ruling = RULING.sign(replace(made.ruling().value, dao_key=mallory), builders.seed_of("mallory"))
    assert judged(parse_instruction(note.raw)) == InstructionCode.WRONG_SIGNER
    assert judged(parse_instruction(ruling.raw)) == InstructionCode.WRONG_SIGNER


@pytest.mark.parametrize("name", ["escrow", "payout", "anchor", "channel 0", "issuer"])
def test_nobody_is_paid_at_an_account_of_the_settlement(name: str) -> None:
    assert judged(made.pay_to(to=name)) == InstructionCode.FORBIDDEN_ADDRESS


def test_an_address_is_used_when_its_delay_is_over() -> None:
    draft = draft_of()
    assert instruct(draft, made.pay_to(), address_delay_s=40) == [InstructionCode.APPLIED]
    assert draft.standing[PAYEE] == Standing(
        pay_to_serial=1,
        next_pay_to=OTHER,
        next_from_s=builders.terms().epoch_end_s(0) + 40,
    )


def test_the_newest_address_counts_whatever_the_order() -> None:
    first, second = made.pay_to(serial=1), made.pay_to(to="viewer account", serial=2)
    for order in ((first, second), (second, first)):
        draft = draft_of()
        assert set(instruct(draft, *order)) == {InstructionCode.APPLIED}
        assert draft.standing[PAYEE].next_pay_to == builders.key_of("viewer account")
        assert instruct(draft, first, second) == [InstructionCode.STALE] * 2


def test_naming_the_address_in_use_takes_a_change_back() -> None:
    draft = draft_of()
    back = made.pay_to(to="seeder account", serial=2)
    instruct(draft, made.pay_to(), back)
    assert draft.standing[PAYEE] == Standing(pay_to_serial=2)


def test_strangers_wishes_have_no_effect() -> None:
    draft = draft_of("viewer account")
    codes = instruct(draft, made.pay_to(), made.cash_out())
    assert codes == [InstructionCode.UNKNOWN_ACCOUNT] * 2
    assert draft.standing == {}


def test_a_cash_out_counts_once() -> None:
    draft = draft_of()
    assert instruct(draft, made.cash_out()) == [InstructionCode.APPLIED]
    assert draft.standing[PAYEE].cash_out_open
    draft.standing[PAYEE] = replace(draft.standing[PAYEE], cash_out_open=False)
    assert instruct(draft, made.cash_out()) == [InstructionCode.STALE]
    assert not draft.standing[PAYEE].cash_out_open


def test_serials_of_addresses_and_cash_outs_are_apart() -> None:
    draft = draft_of()
    codes = instruct(draft, made.pay_to(serial=9), made.cash_out(serial=1))
    assert codes == [InstructionCode.APPLIED] * 2


@pytest.mark.parametrize("make", [made.pay_to, made.cash_out, made.refund])
def test_a_thief_of_a_key_cannot_use_its_numbers_up(make: Any) -> None:
    latest = 1_000 * (builders.terms().epoch_end_s(0) + SERIAL_AHEAD_S)
    far = InstructionCode.SERIAL_TOO_FAR_AHEAD
    draft = draft_of()
    assert instruct(draft, make(serial=(1 << 63) - 1), make(serial=latest + 1)) == [far, far]
    assert instruct(draft, make(serial=latest)) == [InstructionCode.APPLIED]
    # Whatever the last number is, there is a next one, at once and above all a while later.
    assert instruct(draft, make(serial=latest + 2)) == [far]
    assert instruct(draft, make(serial=latest + 1)) == [InstructionCode.APPLIED]
    an_hour_later = {"genesis_s": builders.terms().genesis_s + 3_600}
    assert instruct(draft, make(serial=latest + 3_600_000), **an_hour_later) == [
        InstructionCode.APPLIED
    ]


def test_a_newer_refund_request_replaces_the_older_one() -> None:
    draft = draft_of()
    newer = made.refund(serial=2, amount_stroops=REFUND_ALL)
    codes = instruct(draft, newer, made.refund(serial=1), challenge_window_s=40)
    assert codes == [InstructionCode.APPLIED] * 2
    assert draft.refund is not None
    assert (draft.refund.serial, draft.refund.left_stroops) == (2, REFUND_ALL)
    assert draft.refund.due_s == builders.terms().epoch_end_s(0) + 40
    assert draft.refund.first_epoch == 1 + builders.terms().correction_epochs
    assert instruct(draft, made.refund(serial=2)) == [InstructionCode.STALE]


def test_what_was_seen_later_counts() -> None:
    draft = draft_of()
    later = made.readiness(seen_ledger=2000, readiness=Readiness.LINE_FULL)
    codes = instruct(draft, later, made.readiness(seen_ledger=1999))
    assert codes == [InstructionCode.APPLIED] * 2
    assert draft.seen_accounts[PAYEE].readiness == Readiness.LINE_FULL
    assert instruct(draft, made.readiness(seen_ledger=2000)) == [InstructionCode.STALE]


def test_a_note_as_of_a_ledger_that_never_comes_carries_nobody() -> None:
    draft = draft_of()
    draft.head = replace(draft.head, last_ledger_sequence=1_000)
    last = 1_000 + SEEN_AHEAD_MAX
    poison = made.readiness(seen_ledger=last + 1, readiness=Readiness.NO_TRUSTLINE)
    assert instruct(draft, poison) == [InstructionCode.SEEN_TOO_FAR_AHEAD]
    assert PAYEE not in draft.seen_accounts
    assert instruct(draft, made.readiness(seen_ledger=last)) == [InstructionCode.APPLIED]


@pytest.mark.parametrize(
    ("before", "entry_ledger", "code"),
    [
        (Readiness.NO_TRUSTLINE, 1500, InstructionCode.ENTRY_UNCHANGED),
        (Readiness.LINE_FULL, 1501, InstructionCode.APPLIED),
        (Readiness.FROZEN, 1500, InstructionCode.APPLIED),
        (Readiness.READY, 1500, InstructionCode.APPLIED),
    ],
)
def test_ready_again_takes_a_change_of_the_entry(
    before: Readiness, entry_ledger: int, code: InstructionCode
) -> None:
    draft = draft_of()
    draft.seen_accounts[PAYEE] = SeenAccount(
        seen_ledger=1600, readiness=before, entry_ledger=1500, room_stroops=0
    )
    note = made.readiness(
        readiness=Readiness.READY, seen_ledger=1700, entry_ledger=entry_ledger, room_stroops=9
    )
    assert instruct(draft, note) == [code]
    assert (draft.seen_accounts[PAYEE].readiness == Readiness.READY) == (
        code == InstructionCode.APPLIED or before == Readiness.READY
    )


def test_only_accounts_that_can_be_paid_are_kept_in_mind() -> None:
    draft = draft_of()
    notes = [made.readiness(name) for name in ("seeder account", made.SECOND, "mallory")]
    codes = instruct(draft, made.pay_to(), *notes)
    assert codes[1:] == [
        InstructionCode.APPLIED,
        InstructionCode.APPLIED,
        InstructionCode.UNKNOWN_ACCOUNT,
    ]
    key = (builders.digest_of("stray"), 0)
    draft.suspense[key] = SuspenseDeposit(
        sender=builders.key_of("mallory"), amount_stroops=5, close_s=0
    )
    assert instruct(draft, notes[2]) == [InstructionCode.APPLIED]
    del draft.suspense[key]
    forget_accounts(draft, builders.terms())
    assert set(draft.seen_accounts) == {PAYEE, OTHER}


def test_of_two_rulings_the_higher_serial_counts_and_codes_say_so() -> None:
    tx_hash = builders.digest_of("unknown transaction")
    rulings = [made.ruling(serial=2, booking=Booking.SUSPENSE), made.ruling(serial=1)]
    for order in (rulings, rulings[::-1]):
        codes = judge_instructions(order, builders.terms(), dao_key=DAO)
        assert rulings_of(order, codes) == {tx_hash: Booking.SUSPENSE}
        serials = [getattr(signed.value, "serial", None) for signed in order]
        assert dict(zip(serials, codes, strict=True)) == {
            1: InstructionCode.STALE,
            2: InstructionCode.APPLIED,
        }


def test_a_ruling_that_does_not_hold_rules_nothing() -> None:
    ruling = made.ruling()
    codes = judge_instructions([ruling], builders.terms(), dao_key=builders.key_of("other DAO"))
    assert codes == [InstructionCode.WRONG_SIGNER]
    assert rulings_of([ruling], codes) == {}


def test_a_ruling_on_what_is_not_booked_says_so() -> None:
    ruling = made.ruling()
    assert instruct(draft_of(), ruling) == [InstructionCode.UNKNOWN_TRANSACTION]
    booked = (builders.digest_of("unknown transaction"),)
    assert instruct(draft_of(), ruling, booked=booked) == [InstructionCode.APPLIED]
