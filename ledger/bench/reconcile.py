"""Whether reconciliation finds what was put in: a simulated event with its truth known.

Logs are read and deduplicated as real ones are; then every cause is compared with what the event
really put in, as a share of the delivered bytes. The report names the CDN whose invoice does not
agree. Times are processor time of this process.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ledger.bench.cdn_event import CDNS, CdnEvent, CdnTruth, EventFaults, SimulatedEvent
from ledger.bench.report import describe_machine, round_figure
from ledger.books.invoices import Finding, InvoiceCheck, check_invoice
from ledger.books.reconciliation import Cell, ppm_of, reconcile, sum_cells
from ledger.cdnlogs.field_map import load_field_map
from ledger.cdnlogs.reading import Job, read_log
from ledger.cdnlogs.rows import Counters
from ledger.cdnlogs.tally import GroupKey, GroupTotals, Tally

CAUSES = ("duplicate", "late", "lost", "conflict", "aborted", "unknown_session", "headers")
CAUSE_ERROR_MAX_PPM = 1_000
"""How far a recovered cause may be off: 0.1 percentage points."""

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileBench:
    """What to simulate."""

    viewers: int
    seed: int
    faults: EventFaults

    def __post_init__(self) -> None:
        if self.viewers < 1:
            raise ValueError(f"viewers: got {self.viewers}, want ≥ 1")


@dataclass(slots=True)
class _Reading:
    """Time that reading took, and what it came to."""

    cpu_s: float = 0.0
    lines: int = 0


def run_reconcile_bench(bench: ReconcileBench, *, tell: Callable[[str], None]) -> dict[str, Any]:
    """Simulate, reconcile, and return the report.

    Args:
        bench: What to simulate.
        tell: Takes progress, one line at a time.
    """
    event = SimulatedEvent(viewers=bench.viewers, seed=bench.seed, faults=bench.faults)
    reading = _Reading()
    invoices, truths, counters = [], {}, {}
    groups: dict[str, list[tuple[GroupKey, GroupTotals]]] = {}
    for cdn in CDNS:
        made = event.make_cdn(cdn)
        tell(f"{cdn}: {made.truth.lines:,} lines in {len(made.files) + len(made.late_files)} files")
        groups[cdn], counters[cdn] = _read(made, event, reading)
        invoices.append(made.invoice)
        truths[cdn] = made.truth
    begin_s = time.process_time()
    cells = reconcile(event.signed, groups, event.sessions)
    checks = {invoice.cdn: check_invoice(invoice, cells) for invoice in invoices}
    reconcile_cpu_s = time.process_time() - begin_s
    by_cdn = {
        cdn: _compare(
            sum_cells((cell for cell in cells if cell.cdn == cdn), cdn=cdn),
            truths[cdn],
            checks[cdn],
            counters[cdn],
        )
        for cdn in CDNS
    }
    named = [cdn for cdn, check in checks.items() if check.finding != Finding.AGREES]
    honest = [found for cdn, found in by_cdn.items() if cdn != event.inflated_cdn]
    inflated = by_cdn[event.inflated_cdn]
    worst_ppm = max(found["errors_ppm"][cause] for found in by_cdn.values() for cause in CAUSES)
    return {
        "bench": "reconcile",
        "machine": describe_machine(),
        "parameters": {"viewers": bench.viewers, "seed": bench.seed, "runs": 1},
        "figures": {
            "lines": reading.lines,
            "lines_per_cpu_s": round_figure(reading.lines / max(reading.cpu_s, 1e-9)),
            "read_cpu_s": round_figure(reading.cpu_s),
            "reconcile_cpu_s": round_figure(reconcile_cpu_s),
            "worst_cause_error_ppm": worst_ppm,
            "traffic_unexplained_ppm": max(f["unexplained_ppm"] for f in by_cdn.values()),
            "honest_invoices_unexplained_ppm": max(
                abs(found["invoice_unexplained_ppm"]) for found in honest
            ),
            "inflated_invoice_excess_ppm": inflated["invoice_excess_ppm"],
        },
        "spreads": {},
        "inflated_cdn": event.inflated_cdn,
        "named_cdns": named,
        "is_recovered": named == [event.inflated_cdn] and worst_ppm <= CAUSE_ERROR_MAX_PPM,
        "cdns": by_cdn,
    }


def _read(
    made: CdnEvent, event: SimulatedEvent, reading: _Reading
) -> tuple[list[tuple[GroupKey, GroupTotals]], Counters]:
    begin_s = time.process_time()
    job = Job(field_map=load_field_map(made.format_name), hosts=frozenset({made.cdn}))
    tally = Tally(contents=event.contents)
    for number, data in enumerate(made.files):
        tally.add(f"{made.cdn}/{number}", read_log(_chunks(data), job))
    tally.closed_through_day = made.invoice.last_day
    for number, data in enumerate(made.late_files):
        tally.add(f"{made.cdn}/late/{number}", read_log(_chunks(data), job))
    groups, counters = tally.finish()
    reading.cpu_s += time.process_time() - begin_s
    reading.lines += counters.lines
    return list(groups.items()), counters


def _chunks(data: bytes) -> Iterator[bytes]:
    for begin in range(0, len(data), _CHUNK_BYTES):
        yield data[begin : begin + _CHUNK_BYTES]


def _compare(
    total: Cell, truth: CdnTruth, check: InvoiceCheck, counters: Counters
) -> dict[str, Any]:
    """Put what was found beside what was put in, as shares of what was delivered."""
    found = {
        "duplicate": total.duplicate_bytes,
        "late": total.late_bytes,
        "lost": total.lost_bytes,
        "conflict": total.conflict_bytes,
        "aborted": total.aborted_bytes,
        "unknown_session": total.unknown_session_bytes,
        "headers": total.header_bytes,
    }
    whole = truth.delivered_bytes
    recovered = {cause: ppm_of(size, whole) or 0 for cause, size in found.items()}
    injected = {cause: ppm_of(truth.by_cause[cause], whole) or 0 for cause in CAUSES}
    billed_honestly = check.invoice.billed_bytes - check.unexplained_bytes
    return {
        "lines": counters.lines,
        "counters": {
            "accepted": counters.accepted,
            "duplicate": counters.duplicate,
            "conflict": counters.conflict,
            "late": counters.late,
            "excluded": dict(sorted(counters.excluded.items())),
            "malformed": counters.malformed,
        },
        "injected_ppm": injected,
        "recovered_ppm": recovered,
        "errors_ppm": {cause: abs(recovered[cause] - injected[cause]) for cause in CAUSES},
        "unexplained_ppm": ppm_of(total.unexplained_bytes, total.log_bytes) or 0,
        "coverage_ppm": ppm_of(total.log_lines_known, total.log_lines) or 0,
        "invoice_finding": check.finding.value,
        "invoice_unexplained_ppm": check.unexplained_ppm or 0,
        "invoice_excess_ppm": ppm_of(check.unexplained_bytes, billed_honestly) or 0,
    }
