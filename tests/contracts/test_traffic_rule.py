"""The standard rule "traffic paid by the broadcaster": worked examples and properties."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.language import RuleFailedError
from contracts.registry import load_standard
from contracts.settlement import (
    CapUse,
    ContractState,
    LaneInput,
    LaneOutcome,
    LaneSource,
    Parameters,
    SettlementResult,
    limits_for,
    settle,
)

MIB = 1 << 20
GB = 1_024 * MIB
TOKEN_STROOPS = 10_000_000
RULE = load_standard("traffic")
PAYER = b"\xaa" * 32
TEN_PERCENT = 100_000


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def lane(received_bytes: int, entitlement: int = 1, payee: int = 1, **changes: Any) -> LaneInput:
    fields: dict[str, Any] = {
        "entitlement": key(entitlement),
        "payer": PAYER,
        "payee": key(payee),
        "payee_key": key(1_000 + payee),
        "content": key(9),
        "source": LaneSource.P2P,
        "received_bytes": received_bytes,
        "media_ms": 0,
        "max_bytes": 0,
        "max_media_ms": 0,
    }
    return LaneInput(**{**fields, **changes})


def cdn(received_bytes: int, payee: int | None, cdn_key: int, entitlement: int = 1) -> LaneInput:
    made = lane(received_bytes, entitlement, source=LaneSource.CDN, payee_key=key(cdn_key))
    return replace(made, payee=b"" if payee is None else key(payee))


PRICE = Parameters(
    price_version=1,
    price_stroops=TOKEN_STROOPS,
    price_quantity_bytes=102_400 * MIB,
    fee_ppm=TEN_PERCENT,
    cdn_prices={key(501): (3, 7), key(502): (3, 7), key(503): (5, 7)},
)


def run(
    lanes: Sequence[LaneInput],
    opening: ContractState | None = None,
    parameters: Parameters = PRICE,
) -> SettlementResult:
    return settle(RULE, lanes, parameters, opening or ContractState())


def credited(result: SettlementResult) -> list[int]:
    return [outcome.credited_bytes for outcome in result.outcomes]


def test_300_gb_cost_3_tokens_of_which_the_payee_gets_2_7() -> None:
    result = run([lane(300 * GB)])
    (charge,) = result.charges
    assert charge.charged_bytes == 300 * GB
    assert charge.charge_stroops == 3 * TOKEN_STROOPS
    assert charge.fee_stroops == 3 * TOKEN_STROOPS // 10
    assert charge.payee_stroops == 27 * TOKEN_STROOPS // 10
    assert result.outcomes == (LaneOutcome(credited_bytes=300 * GB, uncredited_bytes=0, reason=0),)


@pytest.mark.parametrize(
    ("units", "charge_stroops"),
    # 1 unit = 97.65625 stroops.
    [(0, None), (1, 97), (2, 195), (32, 3_125), (10_240, 1_000_000), (102_400, 10_000_000)],
)
def test_charge_is_rounded_down(units: int, charge_stroops: int | None) -> None:
    charges = run([lane(units * MIB)]).charges
    assert [charge.charge_stroops for charge in charges] == (
        [] if charge_stroops is None else [charge_stroops]
    )


def test_bytes_below_one_stroop_are_carried_in_the_total() -> None:
    opening = ContractState()
    charged = []
    for _ in range(4):
        result = run([lane(3_000)], opening)
        opening = result.closing
        charged.append(result.charge_stroops)
    # One stroop is 10,737.4 bytes: the fourth time makes it full.
    assert charged == [0, 0, 0, 1]


def test_every_payee_source_and_price_version_has_a_row_of_its_own() -> None:
    lanes = [lane(1_000_000, payee=2), lane(1_000_000, payee=1), cdn(700, payee=1, cdn_key=501)]
    first = run(lanes)
    rows = [(charge.payee, charge.source.value, charge.charge_stroops) for charge in first.charges]
    assert rows == [(key(1), "cdn", 300), (key(1), "p2p", 93), (key(2), "p2p", 93)]
    dearer = Parameters(
        price_version=2,
        price_stroops=1,
        price_quantity_bytes=1,
        fee_ppm=0,
    )
    second = run([lane(10, payee=1)], first.closing, dearer)
    assert [(charge.price_version, charge.charge_stroops) for charge in second.charges] == [(2, 10)]
    assert len(second.closing.cumulative) == 4


def test_two_keys_of_one_cdn_account_share_a_row() -> None:
    (charge,) = run([cdn(5, 1, 501), cdn(9, 1, 502, entitlement=2)]).charges
    assert (charge.charged_bytes, charge.charge_stroops) == (14, 6)


def test_two_prices_for_one_cdn_account_are_refused() -> None:
    with pytest.raises(RuleFailedError, match="two prices"):
        run([cdn(5, 1, 501), cdn(9, 1, 503)])


def test_cdn_without_account_or_price_is_credited_and_not_charged() -> None:
    result = run([cdn(700, payee=None, cdn_key=501), cdn(700, payee=1, cdn_key=999)])
    assert credited(result) == [700, 700]
    assert result.charges == ()
    assert result.closing.cumulative == ()


@pytest.mark.parametrize(
    ("claims", "cap", "want"),
    [
        ([10, 20, 30], 60, [10, 20, 30]),
        ([10, 20, 30], 59, [10, 20, 29]),
        ([10, 20, 30], 30, [5, 10, 15]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([1, 1, 1], 1, [1, 0, 0]),
        ([5, 5, 5], 7, [3, 2, 2]),
        ([0, 7, 0], 3, [0, 3, 0]),
        ([99, 1], 50, [50, 0]),
        ([1, 99], 50, [1, 49]),
        ([1 << 62, 1 << 62], 1 << 62, [1 << 61, 1 << 61]),
    ],
)
def test_cap_is_shared_pro_rata_by_largest_remainder(
    claims: list[int], cap: int, want: list[int]
) -> None:
    result = run([lane(claim, payee=n + 1, max_bytes=cap) for n, claim in enumerate(claims)])
    assert credited(result) == want
    reasons = [outcome.reason for outcome in result.outcomes]
    assert reasons == [int(got < claim) for got, claim in zip(want, claims, strict=True)]


def test_cap_runs_over_epochs_and_never_refills() -> None:
    opening = ContractState()
    seen = []
    for claim in (60, 60, 60):
        result = run([lane(claim, max_bytes=100)], opening)
        opening = result.closing
        seen.append(credited(result))
    assert seen == [[60], [40], [0]]
    assert opening.cap_use == (CapUse(entitlement=key(1), credited_bytes=100, media_ms=0),)


def test_cap_of_one_entitlement_does_not_touch_another() -> None:
    lanes = [lane(60, 1, max_bytes=50), lane(60, 2, max_bytes=70), lane(60, 3)]
    assert credited(run(lanes)) == [50, 60, 60]


def test_media_time_beyond_the_cap_is_credited_in_proportion() -> None:
    result = run([lane(1_000, media_ms=2_000, max_media_ms=1_500)])
    assert credited(result) == [750]
    assert result.closing.cap_use[0].media_ms == 2_000
    # All later viewing lies beyond the cap.
    assert credited(run([lane(1_000, media_ms=3_000, max_media_ms=1_500)], result.closing)) == [0]
    assert credited(run([lane(1_000, media_ms=2_000, max_media_ms=1_500)], result.closing)) == [0]


def test_media_time_is_of_the_session_and_counted_once_over_its_lanes() -> None:
    lanes = [lane(500, payee=n, media_ms=1_000, max_media_ms=1_000) for n in (1, 2)]
    result = run(lanes)
    assert credited(result) == [500, 500]
    assert result.closing.cap_use[0].media_ms == 1_000
    # An older statement, as a correction brings it, does not turn the mark back.
    later = run([lane(10, media_ms=400, max_media_ms=1_000)], result.closing)
    assert later.closing.cap_use[0].media_ms == 1_000


def test_empty_epoch_leaves_the_state_as_it_was() -> None:
    opening = run([lane(10 * GB)]).closing
    result = run([], opening)
    assert result.outcomes == ()
    assert result.charges == ()
    assert result.closing == opening


def test_largest_amounts_stay_inside_128_bits() -> None:
    largest = (1 << 62) - 1
    dear = Parameters(
        price_version=1,
        price_stroops=largest,
        price_quantity_bytes=largest,
        fee_ppm=1_000_000,
    )
    result = run([lane(largest, max_bytes=largest - 1)], parameters=dear)
    assert result.charge_stroops == result.fee_stroops == largest - 1


TRAFFIC = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 5_000_003)),
    min_size=1,
    max_size=24,
)


@settings(deadline=None, max_examples=50)
@given(TRAFFIC, st.lists(st.integers(0, 24), max_size=6), st.integers(0, 1_000_000))
def test_totals_do_not_depend_on_how_time_is_cut(
    traffic: list[tuple[int, int, int]], cuts: list[int], fee_ppm: int
) -> None:
    parameters = Parameters(
        price_version=3, price_stroops=7_919, price_quantity_bytes=104_729, fee_ppm=fee_ppm
    )
    lanes = [
        lane(received, entitlement, payee, max_bytes=9_000_011)
        for entitlement, payee, received in traffic
        # One payee an entitlement: which of several lanes a cap cuts does depend on time.
        if payee == entitlement
    ]
    whole = run(lanes, parameters=parameters)
    opening = ContractState()
    charge_stroops = fee_stroops = 0
    bounds = [0, *sorted(cuts), len(lanes)]
    for start, stop in pairwise(bounds):
        result = run(lanes[start:stop], opening, parameters)
        charge_stroops += result.charge_stroops
        fee_stroops += result.fee_stroops
        opening = result.closing
    assert opening == whole.closing
    assert (charge_stroops, fee_stroops) == (whole.charge_stroops, whole.fee_stroops)
    for row in opening.cumulative:
        assert row.charge_stroops == 7_919 * row.total_bytes // 104_729
        assert row.fee_stroops == fee_ppm * row.charge_stroops // 1_000_000


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=8),
    st.integers(1, (1 << 63) - 1),
)
def test_cap_is_used_exactly_and_each_share_is_within_one_byte(claims: list[int], cap: int) -> None:
    free = Parameters(price_version=0, price_stroops=0, price_quantity_bytes=1, fee_ppm=0)
    # Different payees: the total of a single row would leave 63 bits.
    shares = [bytes_ // len(claims) for bytes_ in claims]
    result = run(
        [lane(share, payee=n + 1, max_bytes=cap) for n, share in enumerate(shares)],
        parameters=free,
    )
    total = sum(shares)
    got = credited(result)
    assert sum(got) == min(cap, total)
    if total > cap:
        for share, bytes_ in zip(shares, got, strict=True):
            assert share * cap // total <= bytes_ <= -(-share * cap // total)


@settings(deadline=None, max_examples=50)
@given(TRAFFIC)
def test_money_is_conserved(traffic: list[tuple[int, int, int]]) -> None:
    lanes = [lane(received, e, p, max_bytes=6_000_000) for e, p, received in traffic]
    result = run(lanes)
    assert result.credited_bytes + result.uncredited_bytes == sum(row[2] for row in traffic)
    assert sum(charge.charged_bytes for charge in result.charges) == result.credited_bytes
    paid = sum(charge.payee_stroops for charge in result.charges)
    assert paid + result.fee_stroops == result.charge_stroops


@settings(deadline=None, max_examples=50)
@given(TRAFFIC, st.randoms(use_true_random=False))
def test_order_of_uncapped_lanes_does_not_matter(
    traffic: list[tuple[int, int, int]], random: Any
) -> None:
    lanes = [lane(received, e, p) for e, p, received in traffic]
    shuffled = random.sample(lanes, len(lanes))
    assert run(lanes).closing == run(shuffled).closing


def test_same_input_gives_the_same_result_and_the_same_steps() -> None:
    lanes = [lane(1_000 + n, n // 3, n % 5, max_bytes=2_500) for n in range(30)]
    assert run(lanes) == run(lanes)


def test_budget_covers_a_large_epoch_of_the_worst_shape() -> None:
    one_entitlement = [lane(1_000 + n, 1, n, max_bytes=1_000_000) for n in range(1, 3_001)]
    many_entitlements = [lane(1_000, n, n, max_bytes=999) for n in range(3_000)]
    for lanes in (one_entitlement, many_entitlements):
        first = run(lanes)
        rows = len(first.closing.cap_use) + len(first.closing.cumulative)
        assert first.steps * 4 < limits_for(len(lanes), 0).steps
        assert run([], first.closing).steps * 4 < limits_for(0, rows).steps
