"""Figures: what audit files prove, in the shape that reports need.

Bill lines per content and carrier (peers, or one CDN) sum exactly to the charges: what a payee's
bytes cost is split over its contents by largest remainder. Not here: layout, words, files.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ledger.audit.case import Case, proven
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.trust import Trust
from ledger.audit.verify import Report, Verdict, examine_audit_file, prove_succession
from ledger.books.errors import require_equal
from ledger.books.journal import JournalEntry
from ledger.books.judgement import JudgedLane, ReceiptCode
from ledger.books.state import CapUse, State
from ledger.books.statements import StatementLine, sum_tree_of
from ledger.books.transactions import AppliedTransaction, parse_fact
from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.merkle import RootBuilder
from ledger.evidence.sumtree import SumTree
from ledger.evidence.terms import Terms
from ledger.evidence.units import split_by_largest_remainder
from ledger.reports.evidence_use import EvidenceUse, read_evidence_use


class UnprovenFileError(Exception):
    """An audit file that the verifier does not prove: no report is made from it."""


PEERS = b""
"""Carrier of bytes that peers delivered; a CDN's carrier is its payee key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLine:
    """What one content's bytes from one carrier cost in one epoch."""

    epoch: int
    content_id: bytes
    """32 bytes."""

    carrier: bytes
    """`PEERS`, or the 32-byte payee key of a CDN."""

    bytes_credited: int
    charge_stroops: int

    @property
    def is_cdn(self) -> bool:
        """Tell whether a CDN carried the bytes."""
        return self.carrier != PEERS


@dataclass(frozen=True, slots=True, kw_only=True)
class UncreditedLine:
    """Receipted bytes of one content and carrier that the payable rule did not accept."""

    epoch: int
    content_id: bytes
    """32 bytes."""

    carrier: bytes
    """`PEERS`, or the 32-byte payee key of a CDN."""

    reason: int
    """Why, as the contract numbers it; 1 = over the entitlement's cap."""

    bytes_uncredited: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPlace:
    """What proves that a result leaf is in the log: leaf, neighbours, signed tree head."""

    leaf: bytes
    """Bytes of the result leaf."""

    leaf_index: int
    """Its place in the log."""

    first_leaf_index: int
    """Place of the epoch's first leaf."""

    frontier: tuple[bytes, ...]
    """Roots of the full subtrees over the leaves before that, largest first."""

    leaves: tuple[bytes, ...]
    """All leaves of the epoch."""

    checkpoint_note: bytes
    """Signed note over the tree after these leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFigures:
    """One proven epoch."""

    epoch: int
    terms: Terms
    report: Report
    bill_lines: tuple[BillLine, ...]
    """By content, peers before CDNs; none with neither bytes nor charge."""

    uncredited_lines: tuple[UncreditedLine, ...]
    """By content, peers before CDNs, reason."""

    media_ms: Mapping[bytes, int]
    """Content → media time that viewers stated anew in this epoch; contents without any absent."""

    lines: tuple[StatementLine, ...]
    sum_tree: SumTree
    """Over the statement lines."""

    entries: tuple[JournalEntry, ...]
    opening: State
    closing: State
    checkpoint: Checkpoint
    result_place: ResultPlace
    receipt_codes: Mapping[ReceiptCode, int]
    """How many receipts of the epoch's bundles got each code."""

    corrections: int
    """Lanes of earlier epochs that late receipts changed."""

    transactions: tuple[AppliedTransaction, ...]
    """Network facts booked in this epoch."""

    anchor: AppliedTransaction
    """The transaction that anchored this epoch's checkpoint."""

    use: EvidenceUse
    """Who watched when, and what viewers signed for CDNs; carries no money."""

    @property
    def receipts(self) -> int:
        """Receipts in the epoch's bundles, with any code."""
        return sum(self.receipt_codes.values())


def read_figures(files: Sequence[bytes], trust: Trust) -> list[EpochFigures]:
    """Verify audit files of consecutive epochs, in any order, and return their figures by epoch.

    Raises:
        UnprovenFileError: A file is not proven, or epochs are not consecutive.
    """
    figures = [_examine(data, trust) for data in files]
    figures.sort(key=lambda epoch: epoch.epoch)
    _require_succession([(epoch.epoch, epoch.report) for epoch in figures])
    return figures


def iterate_figures(files: Iterable[bytes], trust: Trust) -> Iterator[EpochFigures]:
    """Verify audit files of consecutive epochs one by one: a long period need not fit the memory.

    Whether epochs follow on from each other is known at the end only: what was yielded counts when
    the iteration has ended without an error.

    Args:
        files: By ascending epoch.
        trust: The reader's root of trust.

    Raises:
        UnprovenFileError: A file is not proven, or epochs are not consecutive.
    """
    reports: list[tuple[int, Report]] = []
    for data in files:
        figures = _examine(data, trust)
        reports.append((figures.epoch, figures.report))
        yield figures
    _require_succession(reports)


def _examine(data: bytes, trust: Trust) -> EpochFigures:
    report, case = examine_audit_file(data, trust)
    if report.verdict != Verdict.PROVEN or case is None:
        step = report.failed_step
        raise UnprovenFileError(f"epoch {report.epoch}: {step.name if step else 'file'} failed")
    return _figures_of(report, case)


def _require_succession(reports: Sequence[tuple[int, Report]]) -> None:
    epochs = [epoch for epoch, _ in reports]
    if epochs and epochs != list(range(epochs[0], epochs[0] + len(epochs))):
        raise UnprovenFileError(f"epochs: got {epochs}, want consecutive ones, each once")
    for report in prove_succession([report for _, report in reports]):
        if report.failed_step is not None:
            raise UnprovenFileError(f"epoch {report.epoch}: {report.failed_step.detail}")


def _figures_of(report: Report, case: Case) -> EpochFigures:
    result, seal = proven(case.result), proven(case.seal)
    contents, opening = case.contents, proven(case.opening)
    return EpochFigures(
        epoch=contents.epoch,
        terms=proven(case.terms).value,
        report=report,
        bill_lines=tuple(_bill_lines(case)),
        uncredited_lines=tuple(_uncredited_lines(case)),
        media_ms=_media_ms(result.settlement.lanes, opening.cap_use, result.settlement.cap_use),
        lines=result.lines,
        sum_tree=sum_tree_of(result.lines),
        entries=result.entries,
        opening=opening,
        closing=result.closing,
        checkpoint=proven(case.checkpoint),
        result_place=_result_place(case),
        receipt_codes=Counter(code for codes in seal.judgement.codes for code in codes),
        corrections=len(seal.corrections),
        transactions=case.transactions,
        anchor=read_transaction(parse_fact(contents.anchor)),
        use=read_evidence_use(case),
    )


def _carrier(lane: JudgedLane) -> bytes:
    return lane.payee_key if lane.is_cdn else PEERS


def _bill_lines(case: Case) -> list[BillLine]:
    """Split every payee's charge over contents; then add up by content and carrier."""
    settlement = proven(case.result).settlement
    delivered: dict[tuple[bytes, bool], dict[tuple[bytes, bytes], int]]
    delivered = defaultdict(lambda: defaultdict(int))
    for lane, outcome in zip(settlement.lanes, settlement.outcomes, strict=True):
        carried = delivered[lane.payee_account, lane.is_cdn]
        carried[lane.content_id, _carrier(lane)] += outcome.credited_bytes
    charge_stroops: dict[tuple[bytes, bytes], int] = defaultdict(int)
    for charge in settlement.charges:
        carried = delivered[charge.payee, charge.source == "cdn"]
        ordered = sorted(carried)
        shares = split_by_largest_remainder(
            charge.charge_stroops, [carried[place] for place in ordered]
        )
        for place, share_stroops in zip(ordered, shares, strict=True):
            charge_stroops[place] += share_stroops
    credited: dict[tuple[bytes, bytes], int] = defaultdict(int)
    for carried in delivered.values():
        for place, amount_bytes in carried.items():
            credited[place] += amount_bytes
    lines = [
        BillLine(
            epoch=case.contents.epoch,
            content_id=content,
            carrier=carrier,
            bytes_credited=credited[content, carrier],
            charge_stroops=charge_stroops[content, carrier],
        )
        for content, carrier in sorted({*credited, *charge_stroops})
    ]
    leaf = proven(case.result).result_leaf
    for source, is_cdn, want in (
        ("P2P", False, leaf.bytes_p2p_credited),
        ("CDN", True, leaf.bytes_cdn_credited),
    ):
        billed_bytes = sum(line.bytes_credited for line in lines if line.is_cdn == is_cdn)
        require_equal(f"Σ bill bytes, {source}", got=billed_bytes, want=want)
    billed_stroops = sum(line.charge_stroops for line in lines)
    require_equal("Σ bill lines", got=billed_stroops, want=leaf.charged_stroops)
    return [line for line in lines if line.bytes_credited or line.charge_stroops]


def _uncredited_lines(case: Case) -> Iterator[UncreditedLine]:
    settlement = proven(case.result).settlement
    sums: dict[tuple[bytes, bytes, int], int] = defaultdict(int)
    for lane, outcome in zip(settlement.lanes, settlement.outcomes, strict=True):
        if outcome.uncredited_bytes:
            place = lane.content_id, _carrier(lane), outcome.reason
            sums[place] += outcome.uncredited_bytes
    for (content, carrier, reason), amount_bytes in sorted(sums.items()):
        yield UncreditedLine(
            epoch=case.contents.epoch,
            content_id=content,
            carrier=carrier,
            reason=reason,
            bytes_uncredited=amount_bytes,
        )


def _media_ms(
    lanes: Sequence[JudgedLane], before: Mapping[bytes, CapUse], after: Mapping[bytes, CapUse]
) -> dict[bytes, int]:
    """Media time per content: what each entitlement's session stated beyond what it had stated."""
    contents = {lane.entitlement_digest: lane.content_id for lane in lanes}
    sums: dict[bytes, int] = defaultdict(int)
    for entitlement, content in contents.items():
        stated = after[entitlement].media_ms if entitlement in after else 0
        known = before[entitlement].media_ms if entitlement in before else 0
        if stated > known:
            sums[content] += stated - known
    return dict(sums)


def _result_place(case: Case) -> ResultPlace:
    contents, seal = case.contents, proven(case.seal)
    before = RootBuilder.restore(contents.frontier)
    return ResultPlace(
        leaf=contents.leaves[len(seal.leaves)],
        leaf_index=before.size + len(seal.leaves),
        first_leaf_index=before.size,
        frontier=before.subtrees,
        leaves=contents.leaves,
        checkpoint_note=contents.checkpoint,
    )
