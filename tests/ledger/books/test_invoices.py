"""An invoice beside the log: units by definition, rounding, what the log lost, and the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.books.invoices import (
    Basis,
    Finding,
    Invoice,
    InvoiceError,
    check_invoice,
    covered_cells,
    share_invoice,
)
from ledger.books.reconciliation import Cell

CDN = "cdn.example"
GB = 10**9


def invoice(quantity: str, unit: str = "B", **more: object) -> Invoice:
    values = {"cdn": CDN, "number": "1", "first_day": 10, "last_day": 20, **more}
    return Invoice(quantity=quantity, unit=unit, **values)  # type: ignore[arg-type]


def cell(total: int, *, headers: int = 0, day: int = 15, **more: object) -> Cell:
    values = {"content_id": b"\x01" * 32, "log_lines": 1, "body_lines": 1, "total_lines": 1}
    return Cell(
        cdn=CDN,
        day=day,
        total_bytes=total,
        body_bytes=total - headers,
        log_bytes=total - headers,
        header_bytes=headers,
        **{**values, **more},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("quantity", "unit", "want_bytes", "rounding"),
    [
        ("1.5", "GB", 1_500_000_000, 50_000_000),
        ("1.5", "GiB", 1_610_612_736, 53_687_092),
        ("2", "TB", 2_000_000_000_000, 500_000_000_000),
        ("0.000000001", "GiB", 1, 1),
        ("7", "B", 7, 1),
        ("3", "unit", 3 << 20, 1 << 19),
    ],
)
def test_units_are_what_they_are_defined_as(
    quantity: str, unit: str, want_bytes: int, rounding: int
) -> None:
    line = invoice(quantity, unit)
    assert (line.billed_bytes, line.rounding_bytes) == (want_bytes, rounding)


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "gb"},
        {"quantity": "1,5"},
        {"quantity": "-1"},
        {"quantity": "01"},
        {"quantity": "1e3"},
        {"quantity": "9" * 19, "unit": "GB"},
        {"first_day": 21},
        {"cdn": ""},
        {"number": ""},
    ],
)
def test_an_invoice_that_cannot_be_is_refused(changes: dict) -> None:
    with pytest.raises(InvoiceError):
        invoice(**{"quantity": "1", "unit": "B", **changes})


def test_an_honest_invoice_agrees_and_an_inflated_one_is_named() -> None:
    cells = [cell(5 * GB, headers=GB // 10)]
    assert check_invoice(invoice("5.000", "GB"), cells).finding == Finding.AGREES
    check = check_invoice(invoice("5.050", "GB"), cells)
    assert check.finding == Finding.TOO_HIGH
    assert check.unexplained_bytes == 50_000_000
    assert check.unexplained_ppm == 9_900
    assert check_invoice(invoice("4.9", "GB", basis=Basis.BODY), cells).unexplained_bytes == 0
    assert check_invoice(invoice("4.900", "GB"), cells).finding == Finding.TOO_LOW


def test_gb_taken_for_gib_is_found_out() -> None:
    check = check_invoice(invoice("5.000", "GiB"), [cell(5 * GB)])
    assert (check.finding, check.unit_hint) == (Finding.TOO_HIGH, "GB")


def test_rounding_of_the_last_place_is_no_difference() -> None:
    check = check_invoice(invoice("5.1", "GB"), [cell(5_149_000_000)], tolerance_ppm=0)
    assert check.finding == Finding.AGREES
    assert (
        check_invoice(invoice("5.10", "GB"), [cell(5_149_000_000)], tolerance_ppm=0).finding
        == Finding.TOO_LOW
    )


def test_what_the_log_lost_explains_a_part_and_estimates_say_so() -> None:
    cells = [
        cell(
            1_020_000, headers=20_000, lost_bytes=10_000, log_bytes_known=490_000,
            unknown_session_bytes=510_000, conflict_bytes=5_000,
        )
    ]  # fmt: skip
    check = check_invoice(invoice("1050000"), cells, tolerance_ppm=0)
    assert [(part.cause, part.amount_bytes, part.is_estimated) for part in check.missing] == [
        ("lines lost by the log", 10_000, False),
        ("lines in conflict", 5_000, False),
        ("lines lost, of sessions without signatures", 10_200, True),
        ("headers of those", 504, True),
    ]
    assert check.unexplained_bytes == 30_000 - 25_704


def test_other_days_cdns_and_contents_are_no_part_of_an_invoice() -> None:
    inside = cell(10)
    others = [cell(10, day=9), cell(10, day=21), cell(10, content_id=b"\x02" * 32)]
    line = invoice("10", content_id=b"\x01" * 32)
    assert covered_cells(line, [inside, *others]) == [inside]
    assert check_invoice(line, [inside, *others]).logged_bytes == 10


def test_without_a_log_nothing_can_be_told() -> None:
    assert check_invoice(invoice("10"), []).finding == Finding.NO_LOG


def test_a_log_that_does_not_state_the_basis_says_so() -> None:
    check = check_invoice(invoice("10"), [cell(10, total_lines=0)])
    assert not check.log_states_basis


@given(st.lists(st.integers(0, 10**12), max_size=8), st.integers(0, 10**12))
def test_an_invoice_is_shared_out_to_the_byte(sizes: list[int], billed: int) -> None:
    cells = [cell(size) for size in sizes]
    shares = share_invoice(invoice(str(billed)), cells)
    assert sum(shares) == (billed if sum(sizes) else 0)
