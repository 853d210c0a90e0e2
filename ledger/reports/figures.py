"""Figures: what audit files prove, in the shape that reports need.

Bill lines per content and source sum exactly to the charges: what a payee's bytes cost is split
over contents by largest remainder. Not here: layout, words, files.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.audit.case import Case, proven
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.trust import Trust
from ledger.audit.verify import Report, Verdict, examine_audit_file
from ledger.books.errors import require_equal
from ledger.books.journal import JournalEntry
from ledger.books.state import State
from ledger.books.statements import StatementLine
from ledger.books.transactions import AppliedTransaction, parse_fact
from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.terms import Terms
from ledger.evidence.units import split_by_largest_remainder


class UnprovenFileError(Exception):
    """An audit file that the verifier does not prove: no report is made from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLine:
    """What one content's bytes from one source cost in one epoch."""

    epoch: int
    content_id: bytes
    """32 bytes."""

    is_cdn: bool
    bytes_credited: int
    bytes_uncredited: int
    charge_stroops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFigures:
    """One proven epoch."""

    epoch: int
    terms: Terms
    report: Report
    bill_lines: tuple[BillLine, ...]
    """By content, peers before CDN."""

    lines: tuple[StatementLine, ...]
    entries: tuple[JournalEntry, ...]
    closing: State
    checkpoint: Checkpoint
    receipts: int
    """Receipts in the epoch's bundles, with any code."""

    transactions: tuple[AppliedTransaction, ...]
    """Network facts booked in this epoch."""

    anchor: AppliedTransaction
    """The transaction that anchored this epoch's checkpoint."""


def read_figures(files: Sequence[bytes], trust: Trust) -> list[EpochFigures]:
    """Verify audit files of consecutive epochs and return their figures.

    Raises:
        UnprovenFileError: A file is not proven, or epochs are not consecutive.
    """
    figures: list[EpochFigures] = []
    for data in files:
        report, case = examine_audit_file(data, trust)
        if report.verdict != Verdict.PROVEN or case is None:
            step = report.failed_step
            raise UnprovenFileError(f"epoch {report.epoch}: {step.name if step else 'file'} failed")
        figures.append(_figures_of(report, case))
    figures.sort(key=lambda epoch: epoch.epoch)
    epochs = [epoch.epoch for epoch in figures]
    if epochs and epochs != list(range(epochs[0], epochs[0] + len(epochs))):
        raise UnprovenFileError(f"epochs: got {epochs}, want consecutive ones, each once")
    return figures


def _figures_of(report: Report, case: Case) -> EpochFigures:
    result = proven(case.result)
    contents = case.contents
    return EpochFigures(
        epoch=contents.epoch,
        terms=proven(case.terms).value,
        report=report,
        bill_lines=tuple(_bill_lines(case)),
        lines=result.lines,
        entries=result.entries,
        closing=result.closing,
        checkpoint=proven(case.checkpoint),
        receipts=sum(len(check.receipt_codes) for check in case.checks),
        transactions=case.transactions,
        anchor=read_transaction(parse_fact(contents.anchor)),
    )


def _bill_lines(case: Case) -> list[BillLine]:
    """Split every payee's charge over contents; then add up by content and source."""
    settlement = proven(case.result).settlement
    credited: dict[tuple[bytes, bool], dict[bytes, int]] = defaultdict(lambda: defaultdict(int))
    uncredited: dict[tuple[bytes, bool], int] = defaultdict(int)
    for lane, outcome in zip(settlement.lanes, settlement.outcomes, strict=True):
        credited[lane.payee_account, lane.is_cdn][lane.content_id] += outcome.credited_bytes
        uncredited[lane.content_id, lane.is_cdn] += outcome.uncredited_bytes
    charge_stroops: dict[tuple[bytes, bool], int] = defaultdict(int)
    for charge in settlement.charges:
        contents = credited[charge.payee, charge.source == "cdn"]
        ordered = sorted(contents)
        shares = split_by_largest_remainder(
            charge.charge_stroops, [contents[content] for content in ordered]
        )
        for content, share_stroops in zip(ordered, shares, strict=True):
            charge_stroops[content, charge.source == "cdn"] += share_stroops
    bytes_by_line: dict[tuple[bytes, bool], int] = defaultdict(int)
    for (_, is_cdn), contents in credited.items():
        for content, amount_bytes in contents.items():
            bytes_by_line[content, is_cdn] += amount_bytes
    lines = [
        BillLine(
            epoch=case.contents.epoch,
            content_id=content,
            is_cdn=is_cdn,
            bytes_credited=bytes_by_line[content, is_cdn],
            bytes_uncredited=uncredited[content, is_cdn],
            charge_stroops=charge_stroops[content, is_cdn],
        )
        for content, is_cdn in sorted({*bytes_by_line, *uncredited, *charge_stroops})
    ]
    leaf = proven(case.result).result_leaf
    billed_bytes = sum(line.bytes_credited for line in lines)
    credited_bytes = leaf.bytes_p2p_credited + leaf.bytes_cdn_credited
    require_equal("Σ bill bytes", got=billed_bytes, want=credited_bytes)
    billed_stroops = sum(line.charge_stroops for line in lines)
    require_equal("Σ bill lines", got=billed_stroops, want=leaf.charged_stroops)
    return lines
