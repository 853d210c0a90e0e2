"""The bill: what a broadcaster pays for a run of epochs, and everything needed to check it.

Pure: proven figures, the reader's trust and the optional inputs in, one `Bill` out. No clock: the
same files make the same bill, to the byte. Every total is added up here from the lines and compared
with the books' own figure; a bill whose parts do not add up is not made. Not here: HTML and CSV.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ledger.audit.address import format_account
from ledger.audit.trust import Trust
from ledger.books.errors import require_equal
from ledger.books.judgement import ReceiptCode
from ledger.books.state import State
from ledger.evidence.checkpoint import body_hash, format_checkpoint
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.terms import Terms
from ledger.reports.bill_csv import SOURCE_CDN, SOURCE_P2P, BillRow
from ledger.reports.figures import PEERS, BillLine, EpochFigures
from ledger.reports.inputs import CdnLogRow
from ledger.reports.movements import Movements, read_movements
from ledger.reports.viewing import Viewing, measure_period

_REASONS = {1: "over the cap of the viewer's entitlement"}
"""What the standard contract's reasons mean (contracts/standard)."""


class NothingToReportError(Exception):
    """No epoch was given: there is nothing to bill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price that applied in the bill's period."""

    carrier: str
    """"P2P", or the CDN's host."""

    price_stroops: int
    quantity_bytes: int
    is_charged: bool
    """False where the CDN bills its bytes itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentTotal:
    """One content over the whole period."""

    content_id: bytes
    title: str
    """Empty if the catalogue has none."""

    bytes_p2p: int
    bytes_cdn: int
    media_ms: int
    """Media time that viewers stated; 0 if none did."""

    prices: tuple[Price, ...]
    charge_stroops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UncreditedTotal:
    """Receipted bytes that the contract did not accept, over the whole period."""

    content_id: bytes
    title: str
    carrier: str
    reason: str
    bytes_uncredited: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CdnComparison:
    """Viewer-signed CDN bytes beside the CDN's own log, for one CDN and content."""

    cdn: str
    content_id: bytes
    title: str
    bytes_signed: int
    log: CdnLogRow | None
    """None where the log says nothing."""

    @property
    def difference_bytes(self) -> int:
        """The log's bytes beyond the signed ones; negative if the log has fewer."""
        return (self.log.body_bytes if self.log else 0) - self.bytes_signed


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSummary:
    """One epoch: what it carried and where its root is anchored."""

    epoch: int
    period_start_s: int
    period_end_s: int
    bytes_p2p: int
    bytes_cdn: int
    charge_stroops: int
    receipts: int
    tree_size: int
    root_hash: bytes
    anchor_tx: bytes
    anchor_ledger: int
    anchor_close_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Balances:
    """Totals since the log's first epoch, at one moment."""

    deposited_stroops: int
    charged_stroops: int
    refunded_stroops: int
    lost_stroops: int
    unspent_stroops: int
    paid_stroops: int
    fees_stroops: int
    carried_stroops: int
    suspense_stroops: int
    held_stroops: int
    """Balance of escrow and payout accounts together."""

    @classmethod
    def of(cls, state: State) -> "Balances":
        """Return a state's balances.

        Raises:
            ConservationError: They break one of the three equations of the settlement.
        """
        head = state.head
        balances = cls(
            deposited_stroops=head.deposited_stroops,
            charged_stroops=head.charged_stroops,
            refunded_stroops=head.refunded_stroops,
            lost_stroops=head.lost_stroops,
            unspent_stroops=state.unspent_stroops,
            paid_stroops=state.paid_stroops,
            fees_stroops=head.fees_stroops,
            carried_stroops=state.carried_stroops,
            suspense_stroops=head.suspense_stroops,
            held_stroops=head.escrow_stroops + head.payout_stroops,
        )
        balances._require_equations()
        return balances

    def _require_equations(self) -> None:
        require_equal(
            "deposited",
            got=self.deposited_stroops,
            want=self.charged_stroops
            + self.unspent_stroops
            + self.refunded_stroops
            + self.lost_stroops,
        )
        require_equal(
            "charged",
            got=self.charged_stroops,
            want=self.paid_stroops + self.fees_stroops + self.carried_stroops,
        )
        require_equal(
            "escrow + payout balances",
            got=self.held_stroops,
            want=self.unspent_stroops
            + self.fees_stroops
            + self.carried_stroops
            + self.suspense_stroops,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """A broadcaster's bill for consecutive epochs."""

    number: str
    """Derived: broadcaster and epochs."""

    trust: Trust
    terms: Terms
    """Terms of the last epoch."""

    first_epoch: int
    last_epoch: int
    period_start_s: int
    """Inclusive."""

    period_end_s: int
    """Exclusive."""

    rows: tuple[BillRow, ...]
    """By epoch, content, peers before CDNs."""

    contents: tuple[ContentTotal, ...]
    """By title, then id."""

    prices: tuple[Price, ...]
    epochs: tuple[EpochSummary, ...]
    bytes_p2p: int
    bytes_cdn: int
    media_ms: int
    charge_stroops: int
    fee_stroops: int
    """Network fee: a part of the charge, taken from the payees."""

    receipt_codes: Mapping[ReceiptCode, int]
    corrections: int
    uncredited: tuple[UncreditedTotal, ...]
    cdn_comparisons: tuple[CdnComparison, ...]
    has_cdn_log: bool
    viewing: Viewing
    """From heartbeats; no amount depends on it."""

    opening: Balances
    closing: Balances
    movements: Movements
    checkpoint_text: str
    """The last checkpoint: three lines."""

    checkpoint_hash: bytes
    """SHA-256 of that text: memo of the last anchor."""

    @property
    def bytes_total(self) -> int:
        """Credited bytes of both sources."""
        return self.bytes_p2p + self.bytes_cdn

    @property
    def bytes_uncredited(self) -> int:
        """Receipted and not credited."""
        return sum(line.bytes_uncredited for line in self.uncredited)

    @property
    def due_stroops(self) -> int:
        """What is left to pay after the deposit."""
        return max(0, -self.closing.unspent_stroops)


def make_bill(
    figures: Sequence[EpochFigures],
    trust: Trust,
    *,
    titles: Mapping[bytes, str] | None = None,
    cdn_log: Sequence[CdnLogRow] | None = None,
) -> Bill:
    """Return the bill of consecutive proven epochs.

    Args:
        figures: Of `read_figures`, at least one.
        trust: The reader's root of trust, by which the figures were proven.
        titles: Titles by content id.
        cdn_log: What CDNs' own logs say; None: no log was given.

    Raises:
        NothingToReportError: No epoch.
        ConservationError: The parts do not add up to the books' totals.
    """
    if not figures:
        raise NothingToReportError("epochs: got none, want at least one")
    titles = titles or {}
    first, last = figures[0], figures[-1]
    rows = tuple(_row(epoch, line, titles) for epoch in figures for line in epoch.bill_lines)
    bill = Bill(
        number=bill_number(last.terms.broadcaster_account, first.epoch, last.epoch),
        trust=trust,
        terms=last.terms,
        first_epoch=first.epoch,
        last_epoch=last.epoch,
        period_start_s=first.terms.epoch_start_s(first.epoch),
        period_end_s=last.terms.epoch_end_s(last.epoch),
        rows=rows,
        contents=tuple(_content_totals(figures, rows, titles)),
        prices=tuple(_prices(figures)),
        epochs=tuple(_epoch_summary(epoch) for epoch in figures),
        bytes_p2p=sum(row.bytes_credited for row in rows if row.source == SOURCE_P2P),
        bytes_cdn=sum(row.bytes_credited for row in rows if row.source == SOURCE_CDN),
        media_ms=sum(sum(epoch.media_ms.values()) for epoch in figures),
        charge_stroops=sum(row.charge_stroops for row in rows),
        fee_stroops=sum(line.fee_stroops for epoch in figures for line in epoch.lines),
        receipt_codes=sum((Counter(epoch.receipt_codes) for epoch in figures), Counter()),
        corrections=sum(epoch.corrections for epoch in figures),
        uncredited=tuple(_uncredited_totals(figures, titles)),
        cdn_comparisons=tuple(_compare_with_log(figures, cdn_log or (), titles)),
        has_cdn_log=cdn_log is not None,
        viewing=measure_period([epoch.use for epoch in figures], titles),
        opening=Balances.of(first.opening),
        closing=Balances.of(last.closing),
        movements=read_movements(figures),
        checkpoint_text=format_checkpoint(last.checkpoint),
        checkpoint_hash=body_hash(last.checkpoint),
    )
    _require_sums(bill)
    return bill


def bill_number(broadcaster_account: bytes, first_epoch: int, last_epoch: int) -> str:
    """Return a bill's number: the same period of the same broadcaster has the same number."""
    return f"SL-{format_account(broadcaster_account)[:10]}-{first_epoch}-{last_epoch}"


def carrier_name(terms: Terms, carrier: bytes) -> str:
    """Return "P2P", the CDN's host, or the start of its key if the terms do not name it."""
    if carrier == PEERS:
        return "P2P"
    cdn = terms.cdn_of(carrier)
    return cdn.host if cdn is not None and cdn.host else f"CDN key {carrier.hex()[:16]}"


def _price(terms: Terms, carrier: bytes) -> Price:
    name = carrier_name(terms, carrier)
    if carrier == PEERS:
        price_stroops, quantity_bytes = terms.price_stroops, terms.price_quantity_bytes
        return Price(
            carrier=name,
            price_stroops=price_stroops,
            quantity_bytes=quantity_bytes,
            is_charged=True,
        )
    cdn = terms.cdn_of(carrier)
    return Price(
        carrier=name,
        price_stroops=cdn.price_stroops if cdn else 0,
        quantity_bytes=cdn.price_quantity_bytes if cdn else 1,
        is_charged=cdn is not None and cdn.account != ZERO_KEY,
    )


def _prices(figures: Sequence[EpochFigures]) -> list[Price]:
    """Every price that the period's terms state, in the order of the terms."""
    prices: dict[Price, None] = {}
    for epoch in figures:
        for carrier in (PEERS, *(cdn.key for cdn in epoch.terms.cdns)):
            prices[_price(epoch.terms, carrier)] = None
    return list(prices)


def _row(epoch: EpochFigures, line: BillLine, titles: Mapping[bytes, str]) -> BillRow:
    terms = epoch.terms
    price = _price(terms, line.carrier)
    return BillRow(
        epoch=line.epoch,
        period_start_s=terms.epoch_start_s(line.epoch),
        period_end_s=terms.epoch_end_s(line.epoch),
        content_id=line.content_id,
        content=titles.get(line.content_id, ""),
        source=SOURCE_CDN if line.is_cdn else SOURCE_P2P,
        bytes_credited=line.bytes_credited,
        price_stroops=price.price_stroops,
        price_quantity_bytes=price.quantity_bytes,
        charge_stroops=line.charge_stroops,
        currency=terms.asset_code,
        cdn=price.carrier if line.is_cdn else "",
    )


def _content_totals(
    figures: Sequence[EpochFigures], rows: Sequence[BillRow], titles: Mapping[bytes, str]
) -> list[ContentTotal]:
    prices: dict[bytes, dict[Price, None]] = defaultdict(dict)
    media_ms: dict[bytes, int] = defaultdict(int)
    for epoch in figures:
        for line in epoch.bill_lines:
            prices[line.content_id][_price(epoch.terms, line.carrier)] = None
        for content, stated_ms in epoch.media_ms.items():
            media_ms[content] += stated_ms
    sums: dict[bytes, list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        total = sums[row.content_id]
        total[row.source == SOURCE_CDN] += row.bytes_credited
        total[2] += row.charge_stroops
    contents = sorted({*sums, *media_ms}, key=lambda content: (titles.get(content, ""), content))
    return [
        ContentTotal(
            content_id=content,
            title=titles.get(content, ""),
            bytes_p2p=sums[content][0],
            bytes_cdn=sums[content][1],
            media_ms=media_ms[content],
            prices=tuple(prices[content]),
            charge_stroops=sums[content][2],
        )
        for content in contents
    ]


def _uncredited_totals(
    figures: Sequence[EpochFigures], titles: Mapping[bytes, str]
) -> list[UncreditedTotal]:
    sums: dict[tuple[bytes, str, str], int] = defaultdict(int)
    for epoch in figures:
        for line in epoch.uncredited_lines:
            reason = _REASONS.get(line.reason, f"reason {line.reason} of the contract")
            carrier = carrier_name(epoch.terms, line.carrier)
            sums[line.content_id, carrier, reason] += line.bytes_uncredited
    return [
        UncreditedTotal(
            content_id=content,
            title=titles.get(content, ""),
            carrier=carrier,
            reason=reason,
            bytes_uncredited=amount_bytes,
        )
        for (content, carrier, reason), amount_bytes in sorted(sums.items())
    ]


def _compare_with_log(
    figures: Sequence[EpochFigures], log: Sequence[CdnLogRow], titles: Mapping[bytes, str]
) -> list[CdnComparison]:
    """Everything viewers signed for CDNs, credited or not, beside what the logs say."""
    signed: dict[tuple[str, bytes], int] = defaultdict(int)
    for epoch in figures:
        for line in epoch.bill_lines:
            if line.is_cdn:
                place = carrier_name(epoch.terms, line.carrier), line.content_id
                signed[place] += line.bytes_credited
        for missed in epoch.uncredited_lines:
            if missed.carrier != PEERS:
                place = carrier_name(epoch.terms, missed.carrier), missed.content_id
                signed[place] += missed.bytes_uncredited
    logged = {(row.cdn, row.content_id): row for row in log}
    return [
        CdnComparison(
            cdn=cdn,
            content_id=content,
            title=titles.get(content, ""),
            bytes_signed=signed.get((cdn, content), 0),
            log=logged.get((cdn, content)),
        )
        for cdn, content in sorted({*signed, *logged})
    ]


def _epoch_summary(epoch: EpochFigures) -> EpochSummary:
    lines = epoch.bill_lines
    return EpochSummary(
        epoch=epoch.epoch,
        period_start_s=epoch.terms.epoch_start_s(epoch.epoch),
        period_end_s=epoch.terms.epoch_end_s(epoch.epoch),
        bytes_p2p=sum(line.bytes_credited for line in lines if not line.is_cdn),
        bytes_cdn=sum(line.bytes_credited for line in lines if line.is_cdn),
        charge_stroops=sum(line.charge_stroops for line in lines),
        receipts=epoch.receipts,
        tree_size=epoch.checkpoint.tree_size,
        root_hash=epoch.checkpoint.root_hash,
        anchor_tx=epoch.anchor.tx_hash,
        anchor_ledger=epoch.anchor.ledger_sequence,
        anchor_close_s=epoch.anchor.close_time_s,
    )


def _require_sums(bill: Bill) -> None:
    """Contents, epochs, rows and books are four ways to the same totals."""
    opening, closing = bill.opening, bill.closing
    for what, got, want in (
        ("Σ contents, P2P bytes", sum(c.bytes_p2p for c in bill.contents), bill.bytes_p2p),
        ("Σ contents, CDN bytes", sum(c.bytes_cdn for c in bill.contents), bill.bytes_cdn),
        ("Σ contents, charge", sum(c.charge_stroops for c in bill.contents), bill.charge_stroops),
        ("Σ epochs, P2P bytes", sum(e.bytes_p2p for e in bill.epochs), bill.bytes_p2p),
        ("Σ epochs, CDN bytes", sum(e.bytes_cdn for e in bill.epochs), bill.bytes_cdn),
        (
            "charged by the books",
            closing.charged_stroops - opening.charged_stroops,
            bill.charge_stroops,
        ),
        ("fees by the books", closing.fees_stroops - opening.fees_stroops, bill.fee_stroops),
        (
            "deposits on the network",
            bill.movements.deposited_stroops,
            closing.deposited_stroops - opening.deposited_stroops,
        ),
        (
            "payouts on the network",
            bill.movements.paid_stroops,
            closing.paid_stroops - opening.paid_stroops,
        ),
    ):
        require_equal(what, got=got, want=want)
