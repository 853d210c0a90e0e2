"""When settlers use a slot up: a pure rule over closed ledgers, never before its time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_operator import PASSPHRASE, key, make_terms

from ledger.evidence.keys import network_id_of
from ledger.evidence.leaf import PAYOUT_FUNDING, PAYOUT_PAYMENTS, Payment, PayoutLeaf
from ledger.stellar.burn_rules import (
    STUCK_ATTEMPTS,
    build_burn,
    first_attempt,
    is_stuck,
    isolates_alone,
    may_be_burned,
)
from ledger.stellar.envelopes import payout_bounds, unsigned_transaction
from ledger.stellar.gateway import NetworkLedger

TERMS = make_terms()
LEAF = PayoutLeaf(
    network_id=network_id_of(PASSPHRASE),
    epoch=3,
    batch_number=7,
    kind=PAYOUT_PAYMENTS,
    channel_account=key("channel 0"),
    channel_sequence=5,
    reference_ledger_sequence=1_000,
    reference_close_s=1_700_000_000,
    fee_bid_stroops=100,
    asset_code="EURT",
    asset_issuer=key("issuer"),
    source_account=key("payout"),
    payments=(Payment(account=key("seeder account"), amount_stroops=1),),
)


def ledger(after_ledgers: int, after_s: int) -> NetworkLedger:
    return NetworkLedger(
        sequence=LEAF.reference_ledger_sequence + after_ledgers,
        close_time_s=LEAF.reference_close_s + after_s,
    )


@given(
    since=st.tuples(st.integers(0, 500), st.integers(0, 2_000)),
    passed=st.tuples(st.integers(0, 200), st.integers(0, 1_000)),
)
def test_a_slot_is_used_up_just_when_no_ledger_can_take_the_first_attempt(
    since: tuple[int, int], passed: tuple[int, int]
) -> None:
    payable_since = ledger(*since)
    closed = ledger(since[0] + passed[0], since[1] + passed[1])
    bounds = payout_bounds(LEAF, TERMS, first_attempt(LEAF, TERMS, payable_since))
    burned = may_be_burned(LEAF, TERMS, payable_since=payable_since, closed=closed)
    # The next ledger may take it as long as both its bounds lie ahead of that.
    if closed.sequence + 1 < bounds.max_ledger_sequence and (
        closed.close_time_s + 1 <= bounds.max_time_s
    ):
        assert not burned
    if closed.sequence >= bounds.max_ledger_sequence or closed.close_time_s > bounds.max_time_s:
        assert burned
    if is_stuck(LEAF, TERMS, payable_since=payable_since, closed=closed):
        assert burned


@pytest.mark.parametrize("by", ["ledger", "time"])
def test_one_bound_that_is_over_is_enough(by: str) -> None:
    since = ledger(0, 0)
    bounds = payout_bounds(LEAF, TERMS, first_attempt(LEAF, TERMS, since))
    closed = {
        "ledger": replace(since, sequence=bounds.max_ledger_sequence),
        "time": replace(since, close_time_s=bounds.max_time_s + 1),
    }[by]
    assert may_be_burned(LEAF, TERMS, payable_since=since, closed=closed)
    assert not may_be_burned(LEAF, TERMS, payable_since=since, closed=since)


def test_settlers_give_a_batch_up_after_so_many_attempts() -> None:
    since = ledger(0, 0)
    window = TERMS.attempt_window_ledgers
    assert is_stuck(LEAF, TERMS, payable_since=since, closed=ledger(STUCK_ATTEMPTS * window, 0))
    almost = ledger((STUCK_ATTEMPTS - 1) * window, 0)
    assert not is_stuck(LEAF, TERMS, payable_since=since, closed=almost)
    assert isolates_alone(LEAF)
    assert not isolates_alone(replace(LEAF, kind=PAYOUT_FUNDING))


def test_no_op_is_the_same_for_everybody_and_of_one_batch_only() -> None:
    def hash_of(leaf: PayoutLeaf, attempt: int, *, isolates: bool = False) -> bytes:
        made = build_burn(leaf, attempt, TERMS, PASSPHRASE, isolates=isolates)
        return unsigned_transaction(made).tx_hash

    assert hash_of(LEAF, 2) == hash_of(replace(LEAF), 2)
    others = {
        hash_of(LEAF, 2),
        hash_of(LEAF, 3),
        hash_of(LEAF, 2, isolates=True),
        hash_of(replace(LEAF, batch_number=8), 2),
        hash_of(replace(LEAF, channel_sequence=6), 2),
    }
    assert len(others) == 5
