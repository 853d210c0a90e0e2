"""What back-pressure and metrics look at: the backlog, verdicts, epochs, the log, by counting rows.

Every query is bounded or reads a partial index, so looking every second costs next to nothing.
Not here: limits (`ledger.api.pressure`), names of metrics (`ledger.api.metrics`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from ledger.books.judgement import BundleCode
from ledger.evidence.bundle import BundleKind
from ledger.store.bundle_store import parse_codes
from ledger.store.tables import BroadcasterRow, BundleRow, CheckpointRow, EpochRow

VERDICTS_PER_LOOK: Final = 2_000
_ID_SLACK: Final = 1_000
"""Ids that may still become visible below one that is: inserts commit in another order."""

_ID_SPAN: Final = 20_000
"""How far back a bundle may wait for its verdict and still be counted in `list_verdicts`' pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Bundles of one broadcaster that wait for their verdict."""

    account: bytes
    bundle_count: int
    byte_count: int
    oldest_s: float
    """Age of the oldest one in seconds; 0 when none waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one bundle and its receipts."""

    bundle_id: int
    account: bytes
    kind: BundleKind
    code: BundleCode
    receipt_codes: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochProgress:
    """How far one broadcaster's epochs are."""

    account: bytes
    counts: dict[str, int]
    """State → epochs, but for those that are settled."""
    oldest_unsettled: int | None
    """Lowest number of an epoch that is not settled."""
    log_size: int
    """Leaves under the newest checkpoint."""


def measure_backlog(session: Session) -> list[Backlog]:
    """Return every broadcaster's backlog, the empty ones too."""
    waiting = (
        select(
            BundleRow.broadcaster_id,
            func.count().label("bundles"),
            func.sum(BundleRow.size_bytes).label("bytes"),
            func.min(BundleRow.received_at).label("oldest"),
        )
        .where(BundleRow.state == "received")
        .group_by(BundleRow.broadcaster_id)
        .subquery()
    )
    rows = session.execute(
        select(
            BroadcasterRow.account,
            func.coalesce(waiting.c.bundles, 0),
            func.coalesce(waiting.c.bytes, 0),
            func.coalesce(func.extract("epoch", func.clock_timestamp() - waiting.c.oldest), 0),
        )
        .outerjoin(waiting, waiting.c.broadcaster_id == BroadcasterRow.id)
        .order_by(BroadcasterRow.account)
    )
    return [
        Backlog(
            account=account,
            bundle_count=int(bundles),
            byte_count=int(size),
            oldest_s=max(0.0, float(age_s)),
        )
        for account, bundles, size, age_s in rows
    ]


def count_waiting_of(session: Session, submitter_key: bytes, *, at_most: int) -> int:
    """Return how many bundles of a submitter wait for a verdict; stops counting at `at_most`."""
    waiting = (
        select(BundleRow.id)
        .where(BundleRow.submitter_key == submitter_key, BundleRow.state == "received")
        .limit(at_most)
        .subquery()
    )
    return session.scalar(select(func.count()).select_from(waiting)) or 0


def newest_bundle_id(session: Session) -> int:
    """Return the highest id of a bundle, 0 when there is none."""
    return session.scalar(select(func.max(BundleRow.id))) or 0


def list_verdicts(session: Session, *, after: int) -> list[Verdict]:
    """Return bundles above an id that have their verdict, by ascending id, a bounded number."""
    rows = session.execute(
        select(
            BundleRow.id,
            BroadcasterRow.account,
            BundleRow.kind,
            BundleRow.code,
            BundleRow.receipt_codes,
        )
        .join(BroadcasterRow, BroadcasterRow.id == BundleRow.broadcaster_id)
        .where(BundleRow.id > after, BundleRow.state != "received")
        .order_by(BundleRow.id)
        .limit(VERDICTS_PER_LOOK)
    )
    return [
        Verdict(
            bundle_id=row.id,
            account=row.account,
            kind=BundleKind(row.kind),
            code=BundleCode(row.code),
            receipt_codes=parse_codes(row.receipt_codes),
        )
        for row in rows
    ]


def verdicts_complete_to(session: Session) -> int:
    """Return an id up to which every bundle has its verdict and none can still appear.

    A bundle that waits while many others come counts as done with, so that pages stay short.
    """
    oldest = session.scalar(select(func.min(BundleRow.id)).where(BundleRow.state == "received"))
    newest = newest_bundle_id(session)
    complete = newest - _ID_SLACK if oldest is None else min(oldest - 1, newest - _ID_SLACK)
    return max(0, complete, newest - _ID_SPAN)


def list_epoch_progress(session: Session) -> list[EpochProgress]:
    """Return how far every broadcaster's epochs are, by ascending account."""
    accounts = dict(
        session.execute(
            select(BroadcasterRow.id, BroadcasterRow.account).order_by(BroadcasterRow.account)
        ).all()
    )
    counts: dict[int, dict[str, int]] = {id_: {} for id_ in accounts}
    oldest: dict[int, int] = {}
    for broadcaster_id, state, count, first in session.execute(
        select(EpochRow.broadcaster_id, EpochRow.state, func.count(), func.min(EpochRow.number))
        .where(EpochRow.state != "settled")
        .group_by(EpochRow.broadcaster_id, EpochRow.state)
    ):
        counts[broadcaster_id][state] = count
        oldest[broadcaster_id] = min(first, oldest.get(broadcaster_id, first))
    sizes = dict(
        session.execute(
            select(CheckpointRow.broadcaster_id, func.max(CheckpointRow.tree_size)).group_by(
                CheckpointRow.broadcaster_id
            )
        ).all()
    )
    return [
        EpochProgress(
            account=account,
            counts=counts[broadcaster_id],
            oldest_unsettled=oldest.get(broadcaster_id),
            log_size=sizes.get(broadcaster_id, 0),
        )
        for broadcaster_id, account in accounts.items()
    ]


def database_size(session: Session) -> int:
    """Return the bytes of the whole database on its disk."""
    return session.scalar(text("SELECT pg_database_size(current_database())")) or 0
