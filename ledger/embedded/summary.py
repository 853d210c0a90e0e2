"""Summary of a demo: three separate sources for every byte, and the identities between them.

`delivered` comes from the viewers' meter journals, `receipted` from the sealed bundles in the audit
files, `billed` from `bill.csv`; money from the audit files, the bill and the devnet's own ledger.
Nothing is derived from what it is compared with.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from ledger.embedded.errors import DemoError


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteFigures:
    """Payload bytes, padding excluded."""

    delivered_p2p: int
    delivered_cdn: int
    receipted_p2p: int
    receipted_cdn: int
    receipted_seeders: int
    """Part of receipted_p2p that seeders served."""

    receipted_viewers: int
    """Part of receipted_p2p that viewers served each other."""

    credited_p2p: int
    credited_cdn: int
    uncredited: int
    billed_p2p: int
    billed_cdn: int
    unattested: int
    ambiguous: int
    cdn_log_body: int
    """What the CDN's own log counts; shown, never demanded equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyFigures:
    """Stroops of the asset since the first epoch."""

    asset: str
    deposited_stroops: int
    charged_stroops: int
    unspent_stroops: int
    paid_stroops: int
    fees_stroops: int
    carried_stroops: int
    suspense_stroops: int
    billed_stroops: int
    """Σ amounts of `bill.csv`."""

    escrow_balance_stroops: int
    """On the devnet's ledger, at the end."""

    payout_balance_stroops: int
    """On the devnet's ledger, at the end."""

    network_paid_stroops: int
    """Σ payments out of the payout account on the devnet's ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSummary:
    """One settled epoch."""

    epoch: int
    root: str
    """Root hash of the log after it, hex."""

    anchor_tx: str
    audit_file: str
    receipts: int
    bytes_p2p: int
    bytes_cdn: int
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """One payment on the network's ledger."""

    account: str
    stroops: int
    tx: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSummary:
    """What the independent verifier said of all files."""

    verdict: str
    steps: int
    """Steps proven, over all files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TamperTest:
    """What the verifier said of a copy with one flipped byte."""

    verdict: str
    failed_step: str
    offset: int
    """Place of the flipped byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The content of `summary.json`."""

    content_bytes: int
    wanted_bytes: int
    """What the viewers wanted: viewers × content, or the segments that each of them played."""

    viewers: int
    seeders: int
    bytes: ByteFigures
    money: MoneyFigures
    epochs: Sequence[EpochSummary]
    payouts: Sequence[Payout]
    audit: AuditSummary
    tamper_test: TamperTest
    closing: dict[str, int]
    """How the last epoch closed: epoch, unsent bundles, undecided batches, carried stroops."""

    seconds: dict[str, float]
    peak_memory_bytes: int
    identities: Sequence[str] = field(default_factory=list)
    """The identities that hold, in words."""


TWO_EPOCHS_FROM_BYTES = 64 * 16_384
"""Content of at least 64 blocks must be seen in two epochs; less may fit into one."""


def format_summary(summary: Summary) -> str:
    """Return the summary as JSON text."""
    return json.dumps(asdict(summary), indent=2) + "\n"


def identities(summary: Summary) -> Iterator[tuple[str, int, int]]:
    """Yield every identity of a demo: words, left side, right side."""
    size, money = summary.bytes, summary.money
    for source in ("p2p", "cdn"):
        delivered, receipted, credited, billed = (
            getattr(size, f"{name}_{source}")
            for name in ("delivered", "receipted", "credited", "billed")
        )
        yield f"delivered = receipted ({source})", delivered, receipted
        yield f"credited = billed ({source})", credited, billed
    receipted = size.receipted_p2p + size.receipted_cdn
    credited = size.credited_p2p + size.credited_cdn
    yield "receipted = credited + uncredited", receipted, credited + size.uncredited
    yield "uncredited = 0", size.uncredited, 0
    yield (
        "receipted (p2p) = by seeders + by viewers",
        size.receipted_p2p,
        size.receipted_seeders + size.receipted_viewers,
    )
    yield (
        "delivered + ambiguous + unattested = wanted by the viewers",
        size.delivered_p2p + size.delivered_cdn + size.ambiguous + size.unattested,
        summary.wanted_bytes,
    )
    yield (
        "deposited = charged + unspent",
        money.deposited_stroops,
        money.charged_stroops + money.unspent_stroops,
    )
    yield (
        "charged = paid + fees + carried",
        money.charged_stroops,
        money.paid_stroops + money.fees_stroops + money.carried_stroops,
    )
    yield "charged = Σ bill", money.charged_stroops, money.billed_stroops
    yield (
        "escrow + payout balances = unspent + fees + carried + suspense",
        money.escrow_balance_stroops + money.payout_balance_stroops,
        money.unspent_stroops + money.fees_stroops + money.carried_stroops + money.suspense_stroops,
    )
    yield "Σ payouts on the ledger = paid", money.network_paid_stroops, money.paid_stroops
    listed = sum(payout.stroops for payout in summary.payouts)
    yield "Σ payouts listed = paid", listed, money.paid_stroops


def require_identities(summary: Summary) -> list[str]:
    """Return the words of all identities, having checked them.

    Raises:
        DemoError: One does not hold; says both sides and the difference.
    """
    broken = [
        f"{words}: {got:,} against {want:,} (difference {got - want:,})"
        for words, got, want in identities(summary)
        if got != want
    ]
    if broken:
        raise DemoError("identities broken: " + "; ".join(broken))
    busy = sum(epoch.bytes_p2p + epoch.bytes_cdn > 0 for epoch in summary.epochs)
    if summary.content_bytes >= TWO_EPOCHS_FROM_BYTES and busy < 2:
        raise DemoError(f"traffic: got {busy} epochs that carry any, want at least two")
    return [words for words, _, _ in identities(summary)]
