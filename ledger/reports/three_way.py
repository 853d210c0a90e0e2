"""Three-way report: signed by viewers, logged by the CDN, billed by the CDN, for a clerk to read.

Pure: cells, counters, invoices in, one `ThreeWayReport` out, and its JSON. Nothing is made equal:
what differs is shown with its cause, and what has none is *unexplained*.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.books.invoices import (
    Finding,
    Invoice,
    InvoiceCheck,
    check_invoice,
    covered_cells,
    share_invoice,
)
from ledger.books.reconciliation import Cell, ppm_of, sum_cells
from ledger.cdnlogs.cdni import format_day
from ledger.cdnlogs.rows import Counters

CAUSES: Final = (
    ("shifted_bytes", "moved over midnight"),
    ("aborted_bytes", "sent in answers that the viewer left"),
    ("unknown_session_bytes", "sent to sessions without any signature"),
    ("unexplained_bytes", "unexplained: sent in whole, not signed"),
    ("lost_bytes", "less: signed, not in the log"),
    ("quarantined_bytes", "less: signed, in the log only in conflict"),
)
_SUBTRACTED: Final = {"lost_bytes", "quarantined_bytes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CdnSummary:
    """One CDN over the whole period."""

    cdn: str
    total: Cell
    counters: Counters | None
    """What became of the log's lines, of all days; None: no log was imported."""

    checks: tuple[InvoiceCheck, ...]

    @property
    def billed_bytes(self) -> int | None:
        """By all invoices of the period; None if there is none."""
        return sum(check.invoice.billed_bytes for check in self.checks) if self.checks else None

    @property
    def causes(self) -> list[tuple[str, int]]:
        """What leads from the signed bytes to the log's payload; the amounts add up."""
        return [
            (
                words,
                -getattr(self.total, name) if name in _SUBTRACTED else getattr(self.total, name),
            )
            for name, words in CAUSES
        ]

    @property
    def unexplained_ppm(self) -> int | None:
        """Of the log's payload."""
        return ppm_of(self.total.unexplained_bytes, self.total.log_bytes)

    @property
    def coverage_ppm(self) -> int | None:
        """Share of the log's lines with the session id of a session that signed."""
        return ppm_of(self.total.log_lines_known, self.total.log_lines)

    @property
    def unmatched_ppm(self) -> int | None:
        """Share of the log's payload that has no signed counterpart."""
        return ppm_of(self.total.unmatched_bytes, self.total.log_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One content, day and CDN."""

    cell: Cell
    title: str
    """Empty if the catalogue has none."""

    invoice_bytes: int | None
    """Share of the invoices, by what the log counts; None: no invoice covers the day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDay:
    """What viewers signed for one content on one day, by source."""

    content_id: bytes
    title: str
    day: int
    bytes_p2p: int
    bytes_cdn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreeWayReport:
    """The whole report."""

    first_day: int
    last_day: int
    """Inclusive; UTC days since 1970-01-01."""

    first_epoch: int
    last_epoch: int
    tolerance_ppm: int
    cdns: tuple[CdnSummary, ...]
    rows: tuple[Row, ...]
    signed_days: tuple[SignedDay, ...]

    @property
    def named_cdns(self) -> list[str]:
        """CDNs with an invoice that does not agree."""
        off = {Finding.TOO_HIGH, Finding.TOO_LOW}
        return [
            summary.cdn
            for summary in self.cdns
            if any(check.finding in off for check in summary.checks)
        ]

    @property
    def unexplained_cdns(self) -> list[str]:
        """CDNs whose log leaves more unexplained than the tolerance."""
        return [
            summary.cdn
            for summary in self.cdns
            if (summary.unexplained_ppm or 0) > self.tolerance_ppm
        ]

    @property
    def is_complete(self) -> bool:
        """Whether there is something to compare for every CDN that has an invoice."""
        return bool(self.cdns) and not any(
            check.finding == Finding.NO_LOG for summary in self.cdns for check in summary.checks
        )


def make_three_way(
    cells: Sequence[Cell],
    *,
    counters: Mapping[str, Counters],
    invoices: Sequence[Invoice],
    signed_p2p: Mapping[tuple[bytes, int], int],
    titles: Mapping[bytes, str],
    days: tuple[int, int],
    epochs: tuple[int, int],
    tolerance_ppm: int,
) -> ThreeWayReport:
    """Return the report.

    Args:
        cells: Of `reconcile`, of the days given.
        counters: CDN → what became of its log's lines.
        invoices: Those that lie within the days.
        signed_p2p: (Content, day) → bytes signed for peers.
        titles: Titles by content id.
        days: First and last UTC day.
        epochs: First and last epoch of the audit files.
        tolerance_ppm: Unexplained share up to which figures agree.
    """
    names = sorted({cell.cdn for cell in cells} | set(counters) | {i.cdn for i in invoices})
    summaries = []
    for name in names:
        own = [cell for cell in cells if cell.cdn == name]
        checks = [
            check_invoice(invoice, own, tolerance_ppm=tolerance_ppm)
            for invoice in invoices
            if invoice.cdn == name
        ]
        summaries.append(
            CdnSummary(
                cdn=name,
                total=sum_cells(own, cdn=name),
                counters=counters.get(name),
                checks=tuple(checks),
            )
        )
    shares = _shares(cells, invoices)
    return ThreeWayReport(
        first_day=days[0],
        last_day=days[1],
        first_epoch=epochs[0],
        last_epoch=epochs[1],
        tolerance_ppm=tolerance_ppm,
        cdns=tuple(summaries),
        rows=tuple(
            Row(cell=cell, title=titles.get(cell.content_id, ""), invoice_bytes=share)
            for cell, share in zip(cells, shares, strict=True)
        ),
        signed_days=tuple(_signed_days(cells, signed_p2p, titles)),
    )


def _shares(cells: Sequence[Cell], invoices: Sequence[Invoice]) -> list[int | None]:
    shares: dict[tuple[str, bytes, int], int] = {}
    for invoice in invoices:
        covered = covered_cells(invoice, cells)
        for cell, share in zip(covered, share_invoice(invoice, covered), strict=True):
            place = cell.cdn, cell.content_id, cell.day
            shares[place] = shares.get(place, 0) + share
    return [shares.get((cell.cdn, cell.content_id, cell.day)) for cell in cells]


def _signed_days(
    cells: Sequence[Cell], signed_p2p: Mapping[tuple[bytes, int], int], titles: Mapping[bytes, str]
) -> list[SignedDay]:
    by_cdn: dict[tuple[bytes, int], int] = {}
    for cell in cells:
        place = cell.content_id, cell.day
        by_cdn[place] = by_cdn.get(place, 0) + cell.signed_bytes
    places = sorted({*signed_p2p, *(place for place, size in by_cdn.items() if size)})
    return [
        SignedDay(
            content_id=content,
            title=titles.get(content, ""),
            day=day,
            bytes_p2p=signed_p2p.get((content, day), 0),
            bytes_cdn=by_cdn.get((content, day), 0),
        )
        for content, day in places
    ]


def describe_three_way(report: ThreeWayReport) -> dict[str, Any]:
    """Return the report as plain values for JSON; sizes in bytes, shares in ppm, days UTC."""
    return {
        "period": {
            "first_day": format_day(report.first_day),
            "last_day": format_day(report.last_day),
        },
        "epochs": [report.first_epoch, report.last_epoch],
        "tolerance_ppm": report.tolerance_ppm,
        "named_cdns": report.named_cdns,
        "unexplained_cdns": report.unexplained_cdns,
        "cdns": [_describe_cdn(summary) for summary in report.cdns],
        "rows": [_describe_row(row) for row in report.rows],
        "signed": [
            {
                "content_id": day.content_id.hex(),
                "day": format_day(day.day),
                "p2p_bytes": day.bytes_p2p,
                "cdn_bytes": day.bytes_cdn,
            }
            for day in report.signed_days
        ],
    }


def _describe_cdn(summary: CdnSummary) -> dict[str, Any]:
    return {
        "cdn": summary.cdn,
        **_describe_bytes(summary.total),
        "coverage_ppm": summary.coverage_ppm,
        "unmatched_ppm": summary.unmatched_ppm,
        "unexplained_ppm": summary.unexplained_ppm,
        "lines": None if summary.counters is None else _describe_counters(summary.counters),
        "invoices": [_describe_check(check) for check in summary.checks],
    }


def _describe_bytes(cell: Cell) -> dict[str, Any]:
    return {
        "signed_bytes": cell.signed_bytes,
        "log_payload_bytes": cell.log_bytes,
        "log_body_bytes": cell.body_bytes if cell.body_lines == cell.log_lines else None,
        "log_total_bytes": cell.total_bytes if cell.total_lines == cell.log_lines else None,
        "log_lines": cell.log_lines,
        "header_bytes": cell.header_bytes,
        "late_bytes": cell.late_bytes,
        "duplicate_bytes": cell.duplicate_bytes,
        "conflict_bytes": cell.conflict_bytes,
        "difference_bytes": cell.difference_bytes,
        "causes": {name.removesuffix("_bytes"): getattr(cell, name) for name, _ in CAUSES},
    }


def _describe_counters(counters: Counters) -> dict[str, Any]:
    return {
        "lines": counters.lines,
        "accepted": counters.accepted,
        "duplicate": counters.duplicate,
        "conflict": counters.conflict,
        "late": counters.late,
        "excluded": dict(sorted(counters.excluded.items())),
        "excluded_bytes": dict(sorted(counters.excluded_bytes.items())),
        "malformed": counters.malformed,
        "faults": [
            {"file": fault.file, "line": fault.line, "reason": fault.reason}
            for fault in counters.faults
        ],
    }


def _describe_check(check: InvoiceCheck) -> dict[str, Any]:
    invoice = check.invoice
    return {
        "number": invoice.number,
        "first_day": format_day(invoice.first_day),
        "last_day": format_day(invoice.last_day),
        "quantity": invoice.quantity,
        "unit": invoice.unit,
        "basis": invoice.basis.value,
        "billed_bytes": invoice.billed_bytes,
        "rounding_bytes": invoice.rounding_bytes,
        "logged_bytes": check.logged_bytes,
        "log_states_basis": check.log_states_basis,
        "missing_in_log": [
            {"cause": part.cause, "bytes": part.amount_bytes, "is_estimated": part.is_estimated}
            for part in check.missing
        ],
        "unexplained_bytes": check.unexplained_bytes,
        "unexplained_ppm": check.unexplained_ppm,
        "finding": check.finding.value,
        "unit_hint": check.unit_hint,
    }


def _describe_row(row: Row) -> dict[str, Any]:
    return {
        "cdn": row.cell.cdn,
        "content_id": row.cell.content_id.hex(),
        "title": row.title,
        "day": format_day(row.cell.day),
        **_describe_bytes(row.cell),
        "invoice_share_bytes": row.invoice_bytes,
        "unexplained_ppm": ppm_of(row.cell.unexplained_bytes, row.cell.log_bytes),
        "coverage_ppm": ppm_of(row.cell.log_lines_known, row.cell.log_lines),
    }
