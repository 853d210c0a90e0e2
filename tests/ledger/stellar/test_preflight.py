"""Preflight: who cannot be paid is noted before the seal, once, and noted again when that ends."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import book_builders as books
import builders
import pytest
from settlement_scene import LOG_SEED, Scene

from ledger.books.instructing import InstructionCode, judge_instruction
from ledger.books.standing import RefundRequest, SeenAccount, Standing
from ledger.books.state import PayeeBalance, State, SuspenseDeposit
from ledger.evidence.instruction import Readiness
from ledger.evidence.keys import public_key_of
from ledger.stellar.failures import FROZEN
from ledger.stellar.gateway import (
    FILTERED,
    AccountState,
    DataState,
    EntriesView,
    EntryKey,
    Gateway,
    TrustlineState,
)
from ledger.stellar.preflight import (
    MEMO_REQUIRED,
    Candidate,
    candidates_of,
    notes_of,
    readiness_of,
    sign_note,
)
from ledger.store.sending_store import Refusal

TERMS = builders.terms(payout_threshold_stroops=100, cash_out_least_stroops=10)
ANN, BOB = builders.key_of("ann"), builders.key_of("bob")
ASSET = (TERMS.asset_code, TERMS.asset_issuer)
ACCOUNT = AccountState(
    sequence=1,
    balance_stroops=10**7,
    selling_liabilities_stroops=0,
    buying_liabilities_stroops=0,
    subentry_count=1,
    sponsoring_count=0,
    sponsored_count=0,
    thresholds=(0, 0, 0),
    signers={},
    is_authorization_required=False,
    is_authorization_revocable=False,
    is_clawback_enabled=False,
    home_domain="",
)
LINE = TrustlineState(
    balance_stroops=400,
    limit_stroops=1_000,
    buying_liabilities_stroops=100,
    selling_liabilities_stroops=0,
    is_authorized=True,
    is_clawback_enabled=False,
)


def view(*, frozen: bool = False, **entries: Any) -> EntriesView:
    """What a source sees of Ann's account: `account`, `memo`, `line`."""
    keys = {
        "account": EntryKey(account=ANN),
        "memo": EntryKey(account=ANN, name=MEMO_REQUIRED),
        "line": EntryKey(account=ANN, asset=ASSET),
    }
    found = {keys[name]: entry for name, entry in entries.items()}
    frozen_keys = frozenset({keys["line"]}) if frozen else frozenset()
    return EntriesView(entries=found, frozen=frozen_keys, as_of_sequence=900)


@pytest.mark.parametrize(
    ("seen", "readiness", "room"),
    [
        (view(), Readiness.NO_ACCOUNT, 0),
        (view(account=ACCOUNT), Readiness.NO_TRUSTLINE, 0),
        (view(account=ACCOUNT, line=LINE), Readiness.READY, 500),
        (view(account=ACCOUNT, line=LINE, frozen=True), Readiness.FROZEN, 0),
        (
            view(account=ACCOUNT, line=replace(LINE, is_authorized=False)),
            Readiness.NOT_AUTHORISED,
            0,
        ),
        (view(account=ACCOUNT, line=replace(LINE, limit_stroops=500)), Readiness.LINE_FULL, 0),
        (
            view(account=ACCOUNT, line=LINE, memo=DataState(value=b"1")),
            Readiness.MEMO_REQUIRED,
            0,
        ),
        (view(account=ACCOUNT, line=LINE, memo=DataState(value=b"0")), Readiness.READY, 500),
    ],
)
def test_ledger_entries_decide(seen: EntriesView, readiness: Readiness, room: int) -> None:
    assert readiness_of(ANN, TERMS, seen) == (readiness, room)


def state_of(**changes: Any) -> State:
    payees = {ANN: PayeeBalance(accrued_stroops=500), BOB: PayeeBalance(accrued_stroops=99)}
    return replace(books.genesis(1), **{"payees": payees, **changes})


def test_who_may_be_paid_soon_is_looked_at_and_nobody_else() -> None:
    assert candidates_of(state_of(), TERMS) == [Candidate(ANN, 500)]
    cash = {BOB: Standing(cash_out_open=True), ANN: Standing(next_pay_to=builders.key_of("new"))}
    found = candidates_of(state_of(standing=cash), TERMS)
    assert {one.account for one in found} == {ANN, BOB, builders.key_of("new")}


def test_senders_and_the_broadcaster_are_looked_at_when_money_goes_back() -> None:
    stray = SuspenseDeposit(sender=builders.key_of("stranger"), amount_stroops=10, close_s=0)
    request = RefundRequest(serial=1, left_stroops=5, planned_stroops=0, due_s=0, first_epoch=0)
    state = state_of(payees={}, suspense={(bytes(32), 0): stray}, refund=request)
    accounts = {one.account for one in candidates_of(state, TERMS)}
    assert accounts == {builders.key_of("stranger"), builders.key_of("broadcaster")}


def test_who_was_not_ready_is_looked_at_first() -> None:
    rich = {ANN: PayeeBalance(accrued_stroops=500), BOB: PayeeBalance(accrued_stroops=900)}
    seen = SeenAccount(
        seen_ledger=5, readiness=Readiness.NO_TRUSTLINE, entry_ledger=4, room_stroops=0
    )
    state = state_of(payees=rich, seen_accounts={ANN: seen})
    assert [one.account for one in candidates_of(state, TERMS)] == [ANN, BOB]


class Telling:
    """A source that sees Ann ready; `frozen` is None where it cannot tell who is frozen."""

    def __init__(self, *, tells_frozen: bool) -> None:
        self._tells_frozen = tells_frozen

    def entries(self, keys: Sequence[EntryKey]) -> EntriesView:
        seen = view(account=ACCOUNT, line=LINE)
        return seen if self._tells_frozen else replace(seen, frozen=None)


@pytest.mark.parametrize(
    ("reason", "tells_frozen", "times", "epoch", "is_carried"),
    [
        (FILTERED, True, 1, 8, True),
        (FILTERED, True, 1, 9, False),
        (FILTERED, True, 3, 14, True),
        (FILTERED, True, 3, 15, False),
        (FILTERED, True, 99, 7 + 31, True),
        (FILTERED, True, 99, 7 + 32, False),
        (FROZEN, False, 1, 8, True),
        # It tells that nothing is frozen any more.
        (FROZEN, True, 1, 8, False),
    ],
)
def test_account_that_nobody_takes_a_payment_to_is_carried_for_ever_longer_stretches(
    reason: str, tells_frozen: bool, times: int, epoch: int, is_carried: bool
) -> None:
    state = state_of()
    state = replace(state, head=replace(state.head, next_epoch=epoch + 1))
    source = cast("Gateway", Telling(tells_frozen=tells_frozen))
    refusals = {ANN: Refusal(reason=reason, epoch=7, times=times)}
    notes = [note.readiness for note in notes_of(state, TERMS, source, 10, refusals)]
    assert notes == ([Readiness.FROZEN] if is_carried else [])


def test_accounts_of_a_real_network_are_noted_until_they_can_be_paid(scene: Scene) -> None:
    terms = replace(
        scene.domain.terms, payout_threshold_stroops=100, log_key=public_key_of(LOG_SEED)
    )
    payee, missing = scene.payees[0], builders.key_of("nobody")
    owed = {payee: PayeeBalance(accrued_stroops=500), missing: PayeeBalance(accrued_stroops=500)}
    state = replace(books.genesis(1), payees=owed)
    (note,) = notes_of(state, terms, scene.gateway, 10)
    assert (note.account, note.readiness) == (missing, Readiness.NO_ACCOUNT)
    signed = sign_note(note, LOG_SEED)
    dao = builders.key_of("dao")
    assert judge_instruction(signed, terms, dao_key=dao) == InstructionCode.APPLIED
    # What is known already is not noted again; what has ended is.
    earlier = note.seen_ledger - 1
    known = SeenAccount(
        seen_ledger=earlier, readiness=Readiness.NO_ACCOUNT, entry_ledger=0, room_stroops=0
    )
    full = SeenAccount(
        seen_ledger=earlier, readiness=Readiness.LINE_FULL, entry_ledger=1, room_stroops=0
    )
    state = replace(state, seen_accounts={missing: known, payee: full})
    (note,) = notes_of(state, terms, scene.gateway, 10)
    assert (note.account, note.readiness) == (payee, Readiness.READY)
    assert note.room_stroops >= 500
    assert note.entry_ledger > 1
