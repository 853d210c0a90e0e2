"""Coverage: what is left of the deposits, how it is told, and the file wallets read."""

import book_builders as books
import pytest
from builders import key_of, terms

from ledger.api.coverage import describe_coverage
from ledger.books.draft import Draft
from ledger.books.standing import RefundRequest
from ledger.books.state import OpenBatch
from ledger.evidence.instruction import REFUND_ALL
from ledger.evidence.leaf import PAYOUT_PAYMENTS, PAYOUT_REFUND, Payment
from ledger.store.coverage_store import BookedFunds, EscrowLevel, level_of, refund_of
from ledger.store.shard_store import Shard


@pytest.mark.parametrize(
    ("free_stroops", "level"),
    [
        (-1, EscrowLevel.OUT),
        (0, EscrowLevel.OUT),
        (1, EscrowLevel.LOW),
        (50, EscrowLevel.LOW),
        (51, EscrowLevel.COVERED),
    ],
)
def test_level_says_low_from_the_alarm_on_and_out_when_nothing_is_left(
    free_stroops: int, level: EscrowLevel
) -> None:
    assert level_of(free_stroops, 50) is level


def test_without_an_alarm_the_level_goes_from_covered_to_out() -> None:
    assert [level_of(free, 0) for free in (1, 0)] == [EscrowLevel.COVERED, EscrowLevel.OUT]


def test_what_is_claimed_and_not_computed_yet_is_no_longer_free() -> None:
    funds = BookedFunds(
        epoch=4,
        escrow_stroops=1_000,
        payout_stroops=0,
        owed_stroops=300,
        fees_stroops=30,
        unspent_stroops=670,
        last_ledger_sequence=9,
    )
    in_force = terms(price_stroops=1, price_quantity_bytes=1)
    shard = Shard(id=1, account=key_of("broadcaster"), network_id=bytes(32), binding=b"")
    answer = describe_coverage(shard, in_force, funds, 600, low_balance_stroops=70)
    assert (answer["free_stroops"], answer["level"]) == (70, "low")
    assert describe_coverage(shard, in_force, funds, 670)["level"] == "out"
    assert describe_coverage(shard, in_force, funds, 670, fresh_stroops=1)["level"] == "covered"
    assert describe_coverage(shard, in_force, None, 0)["level"] == "out"


def draft_with_refund(left_stroops: int, **batches: tuple[int, int]) -> Draft:
    draft = Draft.of(books.genesis())
    draft.deposit(1_000, known=True, time_s=1, reference=bytes(32))
    draft.refund = RefundRequest(
        serial=1, left_stroops=left_stroops, planned_stroops=0, due_s=9, first_epoch=2
    )
    for number, (kind, amount_stroops) in enumerate(batches.values()):
        draft.batches[number] = OpenBatch(
            kind=kind,
            channel_account=key_of("channel 0"),
            channel_sequence=number,
            leaf_hash=bytes(32),
            payments=(Payment(account=key_of("broadcaster"), amount_stroops=amount_stroops),),
        )
    return draft


def test_what_goes_back_to_the_broadcaster_is_promised_to_nobody_else() -> None:
    asked = draft_with_refund(300, back=(PAYOUT_REFUND, 100), paid=(PAYOUT_PAYMENTS, 7))
    assert refund_of(asked.finish(), terms()) == 400
    assert refund_of(draft_with_refund(REFUND_ALL).finish(), terms()) == 1_000
    assert refund_of(draft_with_refund(0).finish(), terms()) == 0
    funds = BookedFunds(
        epoch=4,
        escrow_stroops=1_000,
        payout_stroops=0,
        owed_stroops=0,
        fees_stroops=0,
        unspent_stroops=1_000,
        last_ledger_sequence=9,
        refund_stroops=1_000,
    )
    shard = Shard(id=1, account=key_of("broadcaster"), network_id=bytes(32), binding=b"")
    answer = describe_coverage(shard, terms(), funds, 0)
    assert (answer["free_stroops"], answer["level"]) == (0, "out")
    assert (answer["unspent_stroops"], answer["refund_stroops"]) == (1_000, 1_000)
