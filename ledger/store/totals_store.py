"""Totals per content and source: what parties say of open epochs, and what seals counted.

The first are provisional: of each party the newest report, dropped when the epoch is sealed; no
epoch, bill or proof is made from them. The second are written in a seal's own transaction from the
judged lanes. Not here: which reports are believed (`ledger.api.provisional`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.orm import Session

from ledger.books.lanes import Lanes
from ledger.evidence.bundle import BundleKind
from ledger.store.intake_tables import ContentTotalRow, ProvisionalTotalRow
from ledger.store.shard_store import Shard
from ledger.store.tables import EpochRow

ROWS_PER_STATEMENT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentTotal:
    """Bytes of one content from one source in one epoch."""

    content_id: bytes
    is_cdn: bool
    bytes_total: int
    lane_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionalTotals:
    """What the parties of an open epoch said last."""

    totals: Sequence[ContentTotal]
    """By ascending content and source."""
    reporter_count: int
    oldest_ms: int | None
    """Ledger time of the oldest report that is in them; None: there is none."""
    newest_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a party says of an open epoch."""

    epoch: int
    submitter_key: bytes
    kind: int
    """A `BundleKind`."""
    taken_ms: int
    """Ledger time."""
    totals: Mapping[bytes, tuple[int, int]]
    """Content id → bytes, lanes."""


def store_report(session: Session, shard: Shard, report: Report) -> bool:
    """Put a report in the place of the party's earlier one; False: a newer one is there.

    Contents that a newer report does not name any more keep no row.
    """
    # Two reports of one party at once would each miss the other's rows.
    lock = int.from_bytes(report.submitter_key[:8], "big", signed=True)
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock})
    of_party = (
        ProvisionalTotalRow.broadcaster_id == shard.id,
        ProvisionalTotalRow.epoch == report.epoch,
        ProvisionalTotalRow.submitter_key == report.submitter_key,
        ProvisionalTotalRow.kind == report.kind,
    )
    known_ms = session.scalar(select(func.max(ProvisionalTotalRow.taken_ms)).where(*of_party))
    if known_ms is not None and known_ms >= report.taken_ms:
        return False
    session.execute(delete(ProvisionalTotalRow).where(*of_party))
    rows = [
        {
            "broadcaster_id": shard.id,
            "epoch": report.epoch,
            "submitter_key": report.submitter_key,
            "kind": report.kind,
            "content_id": content_id,
            "taken_ms": report.taken_ms,
            "bytes_total": bytes_total,
            "lane_count": lane_count,
        }
        for content_id, (bytes_total, lane_count) in report.totals.items()
    ]
    for at in range(0, len(rows), ROWS_PER_STATEMENT):
        session.execute(insert(ProvisionalTotalRow).values(rows[at : at + ROWS_PER_STATEMENT]))
    return True


def count_reports(session: Session, shard: Shard, epoch: int) -> int:
    """Return how many rows of reports an epoch has."""
    statement = select(func.count()).where(
        ProvisionalTotalRow.broadcaster_id == shard.id, ProvisionalTotalRow.epoch == epoch
    )
    return session.scalar(statement) or 0


def sum_reports(session: Session, shard: Shard, epoch: int) -> ProvisionalTotals:
    """Return the sums over the newest reports of an epoch."""
    of_epoch = (
        ProvisionalTotalRow.broadcaster_id == shard.id,
        ProvisionalTotalRow.epoch == epoch,
    )
    rows = session.execute(
        select(
            ProvisionalTotalRow.content_id,
            ProvisionalTotalRow.kind,
            func.sum(ProvisionalTotalRow.bytes_total),
            func.sum(ProvisionalTotalRow.lane_count),
        )
        .where(*of_epoch)
        .group_by(ProvisionalTotalRow.content_id, ProvisionalTotalRow.kind)
        .order_by(ProvisionalTotalRow.content_id, ProvisionalTotalRow.kind)
    )
    totals = [
        ContentTotal(
            content_id=content_id,
            is_cdn=kind == BundleKind.VIEWER,
            bytes_total=int(bytes_total),
            lane_count=int(lanes),
        )
        for content_id, kind, bytes_total, lanes in rows
    ]
    count, oldest_ms, newest_ms = session.execute(
        select(
            func.count(func.distinct(ProvisionalTotalRow.submitter_key)),
            func.min(ProvisionalTotalRow.taken_ms),
            func.max(ProvisionalTotalRow.taken_ms),
        ).where(*of_epoch)
    ).one()
    return ProvisionalTotals(
        totals=totals, reporter_count=count, oldest_ms=oldest_ms, newest_ms=newest_ms
    )


def drop_sealed_reports(session: Session) -> int:
    """Drop the reports of epochs that are sealed, and return how many rows that was."""
    sealed = (
        select(EpochRow.number)
        .where(
            EpochRow.broadcaster_id == ProvisionalTotalRow.broadcaster_id,
            EpochRow.number == ProvisionalTotalRow.epoch,
            EpochRow.state.not_in(("open", "sealing")),
        )
        .exists()
    )
    dropped = session.execute(
        delete(ProvisionalTotalRow).where(sealed).returning(ProvisionalTotalRow.epoch)
    )
    return len(dropped.all())


def store_content_totals(session: Session, shard: Shard, sealing_epoch: int, lanes: Lanes) -> None:
    """Write what a seal counts per content and source; in the seal's own transaction."""
    sums: dict[tuple[int, bytes, bool], list[int]] = {}
    numbers = lanes.numbers
    for entitlement, payee, epoch, bytes_total, bytes_before in zip(
        lanes.entitlements,
        lanes.payees,
        numbers.epochs,
        numbers.bytes_totals,
        numbers.bytes_before,
        strict=True,
    ):
        total = sums.setdefault((epoch, entitlement.content_id, payee.is_cdn), [0, 0])
        total[0] += bytes_total - bytes_before
        total[1] += 1
    rows = [
        {
            "broadcaster_id": shard.id,
            "sealing_epoch": sealing_epoch,
            "epoch": epoch,
            "content_id": content_id,
            "is_cdn": is_cdn,
            "bytes_delta": bytes_delta,
            "lane_count": lane_count,
        }
        for (epoch, content_id, is_cdn), (bytes_delta, lane_count) in sorted(sums.items())
    ]
    for at in range(0, len(rows), ROWS_PER_STATEMENT):
        session.execute(insert(ContentTotalRow).values(rows[at : at + ROWS_PER_STATEMENT]))


def sum_sealed(session: Session, shard: Shard, epoch: int) -> list[ContentTotal]:
    """Return what counts of an epoch by all seals so far, by ascending content and source."""
    rows = session.execute(
        select(
            ContentTotalRow.content_id,
            ContentTotalRow.is_cdn,
            func.sum(ContentTotalRow.bytes_delta),
            func.sum(ContentTotalRow.lane_count),
        )
        .where(ContentTotalRow.broadcaster_id == shard.id, ContentTotalRow.epoch == epoch)
        .group_by(ContentTotalRow.content_id, ContentTotalRow.is_cdn)
        .order_by(ContentTotalRow.content_id, ContentTotalRow.is_cdn)
    )
    return [
        ContentTotal(
            content_id=content_id,
            is_cdn=is_cdn,
            bytes_total=int(bytes_total),
            lane_count=int(lanes),
        )
        for content_id, is_cdn, bytes_total, lanes in rows
    ]
