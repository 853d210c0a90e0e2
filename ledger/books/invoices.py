"""Invoices of CDNs in bytes: what was billed, what the log counts, and what is left over.

An invoice states a quantity in its own unit, taken by definition here (GB = 10⁹ bytes, GiB = 2³⁰
bytes); its last decimal place bounds what rounding can explain. Bytes that the log lost are billed
all the same, so they explain a part; headers of lost lines, and lost lines of sessions that sign
nothing, are estimated at the rates of what is known, and say so. Not here: prices and taxes.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from ledger.books.reconciliation import Cell, ppm_of, sum_cells
from ledger.evidence.units import AMOUNT_MAX, PPM, QUANTITY_BYTES, split_by_largest_remainder

TOLERANCE_PPM: Final = 1_000
"""Unexplained share above which an invoice is named, unless the reader wants another one."""

UNITS: Final = {"B": 1, **QUANTITY_BYTES}
_QUANTITY = re.compile(r"(0|[1-9]\d{0,18})(?:\.(\d{1,9}))?", re.ASCII)


class Basis(Enum):
    """Which bytes an invoice bills."""

    TOTAL = "total"
    """Everything sent to clients, headers included."""

    BODY = "body"


class Finding(Enum):
    """What an invoice comes to."""

    AGREES = "agrees"
    TOO_HIGH = "too high"
    TOO_LOW = "too low"
    NO_LOG = "no log"
    """No log of the invoice's period was imported."""


class InvoiceError(ValueError):
    """An invoice that cannot be: field, got, want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """One line of a CDN's invoice."""

    cdn: str
    number: str
    """The vendor's; unique per CDN."""

    first_day: int
    last_day: int
    """Inclusive; UTC days since 1970-01-01."""

    quantity: str
    """As printed: decimal digits and at most one point."""

    unit: str
    """A name of `UNITS`."""

    basis: Basis = Basis.TOTAL
    content_id: bytes = b""
    """Only what the invoice says is one content's; empty: all."""

    def __post_init__(self) -> None:
        if not self.cdn or not self.number:
            raise InvoiceError("cdn, number: got nothing, want both")
        if self.first_day > self.last_day:
            raise InvoiceError(f"last_day: got {self.last_day}, want ≥ {self.first_day}")
        if self.unit not in UNITS:
            raise InvoiceError(f"unit: got {self.unit!r}, want one of {', '.join(UNITS)}")
        if not _QUANTITY.fullmatch(self.quantity) or self.billed_bytes > AMOUNT_MAX:
            raise InvoiceError(f"quantity: got {self.quantity!r}, want digits such as 1234.567")

    @property
    def billed_bytes(self) -> int:
        """The quantity in bytes, rounded half up."""
        digits, scale = self._scaled()
        return (2 * digits * UNITS[self.unit] + scale) // (2 * scale)

    @property
    def rounding_bytes(self) -> int:
        """Half of the quantity's last place, rounded up: what rounding can explain either way."""
        _digits, scale = self._scaled()
        return -(-UNITS[self.unit] // (2 * scale))

    def _scaled(self) -> tuple[int, int]:
        whole, _, places = self.quantity.partition(".")
        return int(whole + places), 10 ** len(places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A part of what an invoice bills beyond the log."""

    cause: str
    amount_bytes: int
    is_estimated: bool
    """True where a rate of what is known was applied to what is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceCheck:
    """One invoice beside the log of its period."""

    invoice: Invoice
    logged_bytes: int
    """What the log counts on the invoice's basis."""

    log_states_basis: bool
    """False: the log does not state the invoice's basis in every line; payload stands in."""

    missing: tuple[Estimate, ...]
    """What the log does not show, though it was delivered."""

    unexplained_bytes: int
    """Billed beyond the log and what is missing in it; negative where less is billed."""

    finding: Finding
    unit_hint: str
    """A unit in which the quantity would agree; empty if there is none."""

    @property
    def unexplained_ppm(self) -> int | None:
        """Of what is billed; None if nothing is."""
        return ppm_of(self.unexplained_bytes, self.invoice.billed_bytes)


def check_invoice(
    invoice: Invoice, cells: Iterable[Cell], *, tolerance_ppm: int = TOLERANCE_PPM
) -> InvoiceCheck:
    """Compare an invoice with the log.

    Args:
        invoice: The invoice.
        cells: Of `reconcile`; those of other CDNs, days or contents are passed over.
        tolerance_ppm: Unexplained share, of what is billed, up to which it agrees; ≥ 0.
    """
    total = sum_cells(covered_cells(invoice, cells), cdn=invoice.cdn)
    has_basis, logged_bytes = _logged_bytes(total, invoice.basis)
    missing = tuple(_missing_in_log(total, invoice.basis))
    expected_bytes = logged_bytes + sum(part.amount_bytes for part in missing)
    unexplained_bytes = invoice.billed_bytes - expected_bytes
    finding, hint = Finding.NO_LOG, ""
    if total.log_lines:
        finding = _judge(unexplained_bytes, invoice, invoice.billed_bytes, tolerance_ppm)
        if finding != Finding.AGREES:
            hint = _unit_hint(invoice, expected_bytes, tolerance_ppm)
    return InvoiceCheck(
        invoice=invoice,
        logged_bytes=logged_bytes,
        log_states_basis=has_basis,
        missing=missing,
        unexplained_bytes=unexplained_bytes,
        finding=finding,
        unit_hint=hint,
    )


def covered_cells(invoice: Invoice, cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells that an invoice bills."""
    return [
        cell
        for cell in cells
        if cell.cdn == invoice.cdn
        and invoice.first_day <= cell.day <= invoice.last_day
        and invoice.content_id in {b"", cell.content_id}
    ]


def share_invoice(invoice: Invoice, cells: Sequence[Cell]) -> list[int]:
    """Split what is billed over cells by what their logs count, by largest remainder.

    Args:
        invoice: The invoice.
        cells: Of `covered_cells`.

    Returns:
        Bytes per cell; they sum to the bytes billed, unless the log is empty: then all are 0.
    """
    weights = [_logged_bytes(cell, invoice.basis)[1] for cell in cells]
    if not sum(weights):
        return [0] * len(cells)
    return split_by_largest_remainder(invoice.billed_bytes, weights)


def _logged_bytes(cell: Cell, basis: Basis) -> tuple[bool, int]:
    if basis == Basis.TOTAL:
        has_basis = cell.total_lines == cell.log_lines
        return has_basis, cell.total_bytes if has_basis else cell.log_bytes
    has_basis = cell.body_lines == cell.log_lines
    return has_basis, cell.body_bytes if has_basis else cell.log_bytes


def _missing_in_log(total: Cell, basis: Basis) -> Iterable[Estimate]:
    certain = (
        ("lines lost by the log", total.lost_bytes),
        ("lines in conflict", total.conflict_bytes),
    )
    for cause, amount_bytes in certain:
        if amount_bytes:
            yield Estimate(cause=cause, amount_bytes=amount_bytes, is_estimated=False)
    # Sessions that sign nothing lose lines as often as those that do, as far as anybody knows.
    known_bytes = total.log_bytes_known + total.lost_bytes
    unseen_bytes = 0
    if known_bytes:
        unseen_bytes = total.unknown_session_bytes * total.lost_bytes // known_bytes
    if unseen_bytes:
        yield Estimate(
            cause="lines lost, of sessions without signatures",
            amount_bytes=unseen_bytes,
            is_estimated=True,
        )
    if basis == Basis.TOTAL and total.log_bytes:
        without_headers = total.lost_bytes + total.conflict_bytes + unseen_bytes
        headers = without_headers * total.header_bytes // total.log_bytes
        if headers:
            yield Estimate(cause="headers of those", amount_bytes=headers, is_estimated=True)


def _judge(
    unexplained_bytes: int, invoice: Invoice, billed_bytes: int, tolerance_ppm: int
) -> Finding:
    allowed_bytes = invoice.rounding_bytes + billed_bytes * tolerance_ppm // PPM
    if abs(unexplained_bytes) <= allowed_bytes:
        return Finding.AGREES
    return Finding.TOO_HIGH if unexplained_bytes > 0 else Finding.TOO_LOW


def _unit_hint(invoice: Invoice, expected_bytes: int, tolerance_ppm: int) -> str:
    """Name the unit in which the quantity would agree: GB for GiB is the usual mistake."""
    for unit in UNITS:
        if unit != invoice.unit:
            other = replace(invoice, unit=unit)
            rest = other.billed_bytes - expected_bytes
            if _judge(rest, other, other.billed_bytes, tolerance_ppm) == Finding.AGREES:
                return unit
    return ""
