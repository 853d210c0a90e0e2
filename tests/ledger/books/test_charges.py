"""Charges: judged lanes through the contract, and back in the books' words."""

from dataclasses import replace

import book_builders as books
import builders
import pytest

from contracts.interface import ContractInputError, ContractOutputError
from contracts.registry import rule_from_source
from ledger.books.charges import Settlement, run_contract
from ledger.books.judgement import JudgedLane, judge_lanes
from ledger.books.state import CapUse, Cumulative
from ledger.evidence.encoding import Signed
from ledger.evidence.receipt import Receipt
from ledger.evidence.terms import Terms
from ledger.evidence.units import charge_for, fee_for

PAYER, PAYEE = builders.key_of("broadcaster"), builders.key_of("seeder account")
GIB = 1 << 30


def lanes_of(
    *receipts: Signed[Receipt], with_terms: Signed[Terms] | None = None
) -> list[JudgedLane]:
    terms = with_terms or builders.signed_terms()
    bundle = builders.payee_bundle(receipts, entitlements=[builders.entitlement()])
    checks = books.checks_of([bundle], terms, builders.EPOCH)
    judged = judge_lanes(checks, terms=terms.value, void_from={}, counted_before={})
    return list(judged.lanes)


def settle(lanes: list[JudgedLane], terms: Terms | None = None, **state: object) -> Settlement:
    opening = replace(books.genesis(), **state)
    return run_contract(builders.TRAFFIC, terms or builders.terms(), lanes, opening)


def test_lane_is_charged_by_the_terms_price_and_fee() -> None:
    settlement = settle(lanes_of(builders.receipt(bytes_total=GIB)))
    (charge,) = settlement.charges
    price, quantity = 10_000_000, 102_400 << 20
    assert charge.charge_stroops == charge_for(price, quantity, GIB) == 100_000
    assert charge.fee_stroops == fee_for(100_000, 100_000) == 10_000
    assert (charge.payer, charge.payee) == (PAYER, PAYEE)
    assert settlement.cumulative == {
        (PAYER, PAYEE, 0, 1): Cumulative(
            bytes_total=GIB, charge_stroops=100_000, fee_stroops=10_000
        )
    }


def test_charge_is_the_difference_to_what_the_state_has() -> None:
    before = Cumulative(bytes_total=GIB - 1, charge_stroops=99_999, fee_stroops=9_999)
    settlement = settle(
        lanes_of(builders.receipt(bytes_total=1)), cumulative={(PAYER, PAYEE, 0, 1): before}
    )
    (charge,) = settlement.charges
    assert (charge.charge_stroops, charge.fee_stroops) == (1, 1)


def test_new_price_version_starts_at_zero_and_leaves_the_old_total_alone() -> None:
    before = Cumulative(bytes_total=GIB, charge_stroops=100_000, fee_stroops=10_000)
    settlement = settle(
        lanes_of(builders.receipt(bytes_total=GIB)),
        builders.terms(price_version=2, price_stroops=20_000_000),
        cumulative={(PAYER, PAYEE, 0, 1): before},
    )
    assert settlement.charges[0].charge_stroops == 200_000
    assert settlement.cumulative[PAYER, PAYEE, 0, 1] == before


def test_cap_of_the_entitlement_is_the_contracts_to_apply() -> None:
    (lane,) = lanes_of(builders.receipt(bytes_total=100))
    capped = replace(lane, max_bytes=150)
    use = CapUse(credited_bytes=90, media_ms=0, last_epoch=9)
    settlement = settle([capped], cap_use={lane.entitlement_digest: use})
    (outcome,) = settlement.outcomes
    assert (outcome.credited_bytes, outcome.uncredited_bytes, outcome.reason) == (60, 40, 1)
    assert settlement.cap_use[lane.entitlement_digest].credited_bytes == 150


def test_cap_use_remembers_the_last_epoch_of_its_entitlement() -> None:
    (lane,) = lanes_of(builders.receipt())
    settlement = settle([lane])
    assert settlement.cap_use[lane.entitlement_digest].last_epoch == lane.entitlement_last_epoch
    idle = builders.digest_of("idle")
    use = CapUse(credited_bytes=1, media_ms=2, last_epoch=3)
    assert settle([], cap_use={idle: use}).cap_use == {idle: use}


def test_cdn_without_an_account_is_credited_and_not_charged() -> None:
    (lane,) = lanes_of(builders.receipt())
    cdn = replace(lane, is_cdn=True, payee_account=bytes(32), payee_key=builders.key_of("cdn"))
    settlement = settle([cdn])
    assert settlement.outcomes[0].credited_bytes == 16_384
    assert settlement.charges == ()


def test_cdn_with_an_account_is_charged_its_own_price() -> None:
    account = builders.key_of("cdn account")
    terms = builders.terms(
        cdns=(builders.cdn(account=account, price_stroops=7, price_quantity_bytes=1024),)
    )
    (lane,) = lanes_of(builders.receipt())
    cdn = replace(lane, is_cdn=True, payee_account=account, payee_key=builders.key_of("cdn"))
    settlement = settle([cdn], terms)
    assert settlement.charges[0].charge_stroops == 7 * 16
    assert set(settlement.cumulative) == {(PAYER, account, 1, 1)}


def test_peers_and_cdns_of_one_account_keep_apart() -> None:
    """The state orders sources by number, the contract by name."""
    terms = builders.terms(
        cdns=(builders.cdn(account=PAYEE, price_stroops=1, price_quantity_bytes=1),)
    )
    (lane,) = lanes_of(builders.receipt())
    cdn = replace(lane, is_cdn=True, payee_key=builders.key_of("cdn"), lane_digest=b"\xff" * 32)
    first = settle([lane, cdn], terms)
    assert set(first.cumulative) == {(PAYER, PAYEE, 0, 1), (PAYER, PAYEE, 1, 1)}
    again = settle([lane, cdn], terms, cumulative=dict(first.cumulative))
    assert again.cumulative[PAYER, PAYEE, 1, 1].bytes_total == 2 * 16_384


def test_lanes_of_one_entitlement_must_agree() -> None:
    (lane,) = lanes_of(builders.receipt())
    with pytest.raises(ContractInputError):
        settle([lane, replace(lane, max_bytes=5)])


def test_rule_that_returns_what_cannot_be_right_is_refused() -> None:
    source = builders.TRAFFIC.source.replace(b"price[0] * total", b"price[0] * 2 * total")
    generous = rule_from_source(source)
    credits_twice = rule_from_source(
        builders.TRAFFIC.source.replace(b"missing = lane", b"missing = 1 + lane")
    )
    lanes = lanes_of(builders.receipt())
    terms, opening = builders.terms(), books.genesis()
    # What a byte costs is the rule's to decide; what adds up is not.
    run_contract(generous, terms, lanes, opening)
    with pytest.raises(ContractOutputError):
        run_contract(credits_twice, terms, lanes, opening)


def test_same_lanes_give_the_same_result_and_the_same_steps() -> None:
    lanes = lanes_of(*(builders.receipt(nonce=nonce) for nonce in range(5)))
    assert settle(lanes) == settle(lanes)
