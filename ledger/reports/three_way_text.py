"""The three-way report as plain text for a terminal: one block a CDN, the verdict last."""

from collections.abc import Iterator

from ledger.books.invoices import InvoiceCheck
from ledger.books.reconciliation import ppm_of
from ledger.cdnlogs.cdni import format_day
from ledger.reports.three_way import CdnSummary, ThreeWayReport
from ledger.reports.wording import format_gb, format_percent

_LABEL_WIDTH = 46
_NUMBER_WIDTH = 24


def format_three_way(report: ThreeWayReport) -> str:
    """Return the report as text; sizes in bytes, GB = 10⁹ bytes beside them, days UTC."""
    days = f"{format_day(report.first_day)} to {format_day(report.last_day)} (UTC, both included)"
    lines = [f"{days}, epochs {report.first_epoch} to {report.last_epoch}"]
    for summary in report.cdns:
        lines += ["", *_format_cdn(summary)]
    lines += ["", f"verdict: {_verdict(report)}"]
    return "\n".join(lines) + "\n"


def _verdict(report: ThreeWayReport) -> str:
    parts = []
    if report.named_cdns:
        parts.append(f"ask about {', '.join(report.named_cdns)}")
    if report.unexplained_cdns:
        parts.append(f"unexplained traffic at {', '.join(report.unexplained_cdns)}")
    if not parts and not report.is_complete:
        return "cannot tell: an invoice has no log of its days, or there is nothing to compare"
    return "; ".join(parts) or f"agrees within {report.tolerance_ppm:,} ppm"


def _format_cdn(summary: CdnSummary) -> Iterator[str]:
    total = summary.total
    yield summary.cdn
    yield _line("signed by viewers", total.signed_bytes)
    for words, amount_bytes in summary.causes:
        if amount_bytes:
            yield _line(f"  {words}", amount_bytes, total.log_bytes)
    yield _line("CDN's log, bodies", total.log_bytes)
    yield _line("  headers beside them", total.header_bytes, total.log_bytes)
    known = format_percent(total.log_lines_known, total.log_lines)
    unmatched = format_percent(total.unmatched_bytes, total.log_bytes)
    yield f"  coverage: {known} of the lines; without signed counterpart: {unmatched} of the bytes"
    if summary.counters is not None:
        counters = summary.counters
        yield (
            f"  {counters.lines:,} lines: {counters.accepted:,} accepted, {counters.late:,} late, "
            f"{counters.duplicate:,} duplicate, {counters.conflict:,} in conflict, "
            f"{counters.excluded.total():,} excluded, {counters.malformed:,} malformed"
        )
    for check in summary.checks:
        yield from _format_check(check)


def _format_check(check: InvoiceCheck) -> Iterator[str]:
    invoice = check.invoice
    yield _line(
        f"invoice {invoice.number}: {invoice.quantity} {invoice.unit}", invoice.billed_bytes
    )
    yield _line(f"  counted by the log ({invoice.basis.value})", check.logged_bytes)
    for part in check.missing:
        yield _line(f"  {part.cause}", part.amount_bytes, invoice.billed_bytes)
    yield _line("  unexplained", check.unexplained_bytes, invoice.billed_bytes)
    hint = f"; would agree if the unit were {check.unit_hint}" if check.unit_hint else ""
    yield f"  {check.finding.value}{hint}"


def _line(label: str, amount_bytes: int, whole: int | None = None) -> str:
    share = "" if whole is None else f"{ppm_of(amount_bytes, whole) or 0:>+12,} ppm"
    sign = "-" if amount_bytes < 0 else ""
    gb = f"{sign}{format_gb(abs(amount_bytes))} GB"
    return f"{label:<{_LABEL_WIDTH}}{amount_bytes:>{_NUMBER_WIDTH},}{gb:>22}{share}".rstrip()
