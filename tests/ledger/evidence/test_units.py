"""Money and bytes: floors, largest remainders and seven decimals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.units import (
    AMOUNT_MAX,
    STROOPS_PER_TOKEN,
    TRAFFIC_UNIT_BYTES,
    charge_for,
    fee_for,
    format_quantity,
    format_stroops,
    parse_stroops,
    split_by_largest_remainder,
)

amounts = st.integers(0, AMOUNT_MAX)


def test_worked_example_of_three_tokens() -> None:
    charge = charge_for(STROOPS_PER_TOKEN, 102_400 * TRAFFIC_UNIT_BYTES, 300 * 1024 * 2**20)
    fee = fee_for(100_000, charge)
    assert [format_stroops(x) for x in (charge, fee, charge - fee)] == [
        "3.0000000",
        "0.3000000",
        "2.7000000",
    ]


@given(amounts, st.integers(1, AMOUNT_MAX), st.lists(st.integers(0, 2**60), max_size=8))
def test_charge_does_not_depend_on_how_time_is_cut(
    price: int, quantity: int, parts: list[int]
) -> None:
    total, charged = 0, 0
    for part in parts:
        charged += charge_for(price, quantity, total + part) - charge_for(price, quantity, total)
        total += part
    assert charged == charge_for(price, quantity, sum(parts))


@given(st.integers(0, 1_000_000), amounts)
def test_fee_is_part_of_the_charge(fee_ppm: int, charge: int) -> None:
    assert 0 <= fee_for(fee_ppm, charge) <= charge


@pytest.mark.parametrize(
    ("price", "quantity", "amount"), [(-1, 1, 1), (1, 0, 1), (1, -1, 1), (1, 1, -1)]
)
def test_charge_refuses_negative_numbers_and_no_quantity(
    price: int, quantity: int, amount: int
) -> None:
    with pytest.raises(ValueError, match="charge"):
        charge_for(price, quantity, amount)


@pytest.mark.parametrize(("fee_ppm", "charge"), [(-1, 1), (1_000_001, 1), (1, -1)])
def test_fee_refuses_rates_beyond_all_and_negative_charges(fee_ppm: int, charge: int) -> None:
    with pytest.raises(ValueError, match="fee"):
        fee_for(fee_ppm, charge)


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), min_size=1, max_size=12))
def test_split_sums_exactly_and_no_part_is_a_unit_off(total: int, weights: list[int]) -> None:
    if not sum(weights):
        total = 0
    parts = split_by_largest_remainder(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        floor = total * weight // sum(weights) if sum(weights) else 0
        assert floor <= part <= floor + 1


def test_split_gives_left_overs_to_the_largest_remainder_then_the_earlier() -> None:
    assert split_by_largest_remainder(10, [1, 1, 1]) == [4, 3, 3]
    assert split_by_largest_remainder(7, [2, 3, 5]) == [1, 2, 4]
    assert split_by_largest_remainder(1, [0, 2, 5]) == [0, 0, 1]
    assert split_by_largest_remainder(0, []) == []
    assert split_by_largest_remainder(0, [0, 0]) == [0, 0]


@pytest.mark.parametrize(("total", "weights"), [(-1, [1]), (1, [1, -1]), (1, [0, 0]), (1, [])])
def test_split_refuses_what_cannot_be_split(total: int, weights: list[int]) -> None:
    with pytest.raises(ValueError, match="split"):
        split_by_largest_remainder(total, weights)


@given(st.integers(-AMOUNT_MAX, AMOUNT_MAX))
def test_amount_round_trip_has_always_seven_decimals(amount: int) -> None:
    text = format_stroops(amount)
    assert len(text.partition(".")[2]) == 7
    assert parse_stroops(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "1", "1.", "1.0", "1.00000000", "+1.0000000", "01.0000000", "-0.0000000",
        " 1.0000000", "1.0000000 ", "1,0000000", "1e7", "1.000000x", "--1.0000000",
        "١.0000000", "1.000000٠", "1.0000000\n", "1.-000000",
    ],
)  # fmt: skip
def test_amount_that_would_not_print_back_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_stroops(text)


@pytest.mark.parametrize(
    ("amount", "unit", "places", "text"),
    [
        (2**30, "GB", 3, "1.074 GB"),
        (2**30, "GiB", 3, "1.000 GiB"),
        (1_499_999, "MB", 0, "1 MB"),
        (1_500_000, "MB", 0, "2 MB"),
        (TRAFFIC_UNIT_BYTES * 1_234_567, "unit", 0, "1,234,567 unit"),
        (0, "TB", 1, "0.0 TB"),
    ],
)
def test_quantity_names_its_unit_and_rounds_half_up(
    amount: int, unit: str, places: int, text: str
) -> None:
    assert format_quantity(amount, unit, places=places) == text


def test_quantity_in_an_unknown_unit_is_refused() -> None:
    with pytest.raises(KeyError):
        format_quantity(1, "gb")
