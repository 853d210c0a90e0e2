"""Coverage: what is left of the deposits, how it is told, and the file wallets read."""

import pytest
from builders import key_of, terms

from ledger.api.coverage import describe_coverage
from ledger.store.coverage_store import BookedFunds, EscrowLevel, level_of
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
