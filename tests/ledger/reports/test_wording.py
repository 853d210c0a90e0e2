"""Numbers, units, times as a reader sees them."""

import pytest

from ledger.reports import wording


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0.000000000"),
        (1, "0.000000001"),
        (67_108_864, "0.067108864"),
        (10**12 + 5, "1000.000000005"),
    ],
)
def test_gb_are_exact(amount, text):
    assert wording.format_gb(amount) == text


@pytest.mark.parametrize(
    ("stroops", "text"),
    [(0, "0.0000000"), (-1, "−0.0000001"), (12_345_678_900_001, "1,234,567.8900001")],
)
def test_amounts(stroops, text):
    assert wording.format_amount(stroops) == text


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (1, "byte"),
        (10**9, "GB (1,000,000,000 bytes)"),
        (1 << 30, "GiB (1,073,741,824 bytes)"),
        (1 << 20, "MiB (1,048,576 bytes)"),
        (102_400 << 20, "100 GiB (107,374,182,400 bytes)"),
        (1_000_003, "1,000,003 bytes"),
        (500, "500 bytes"),
    ],
)
def test_a_prices_quantity_is_defined_in_bytes(quantity, text):
    assert wording.describe_quantity(quantity) == text


@pytest.mark.parametrize(
    ("media_ms", "text"),
    [
        (None, "not reported"),
        (0, "not reported"),
        (60_000, "1.0"),
        (2_999, "0.0"),
        (3_000, "0.1"),
        (60_000_000, "1,000.0"),
    ],
)
def test_minutes(media_ms, text):
    assert wording.format_minutes(media_ms) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "–"), (1, 1, "100.00 %"), (1, 3, "33.33 %"), (2, 3, "66.67 %"), (0, 9, "0.00 %")],
)
def test_percentages(part, whole, text):
    assert wording.format_percent(part, whole) == text


@pytest.mark.parametrize(
    ("ppm", "text"),
    [
        (100_000, "10 % (100,000 ppm)"),
        (1, "0.0001 % (1 ppm)"),
        (0, "0 % (0 ppm)"),
        (12_345, "1.2345 % (12,345 ppm)"),
    ],
)
def test_rates(ppm, text):
    assert wording.format_rate(ppm) == text


def test_times_are_utc():
    assert wording.format_utc(1_767_225_600) == "2026-01-01 00:00:00 UTC"
    assert wording.format_iso(1_767_225_600) == "2026-01-01T00:00:00Z"
