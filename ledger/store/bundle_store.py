"""Bundles in the database: taken in, claimed, judged, asked after.

The row is the queue: a bundle waits as a committed row until a verdict stands in it. A verdict is
stored once; the seal only makes its receipt codes final. Not here: deciding anything
(`ledger.books.judgement`), and what is refused before it is stored (`ledger.api.collector`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.books.judgement import BundleCheck, BundleCode, ReceiptCode
from ledger.evidence.bundle import Bundle, parse_bundle
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.store.shard_store import Shard
from ledger.store.tables import BundleRow, ConflictRow, EpochRow, ReceiptRow, RefusalRow

CONFLICTS_MAX = 4
"""Most other versions of a bundle that are kept as evidence."""

LOCK_TRIES = 5
REFUSALS_MAX = 1_000
"""Most refusals in one answer."""

RECEIPTS_PER_STATEMENT = 1_000

_GOOD_CODES = frozenset({ReceiptCode.COUNTED, ReceiptCode.SUPERSEDED, ReceiptCode.DUPLICATE})
"""Codes of receipts nobody has to hear about: they count, or another one counts for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBundle:
    """A bundle's row as far as its sender may know it."""

    digest: bytes
    promise: bytes
    sealing_epoch: int
    state: str
    """received, judged or poison; and then the state of its epoch: sealed, computed, settled."""
    code: int | None
    """A `BundleCode`; None before the verdict."""
    receipt_codes: tuple[int, ...]
    """Final once the epoch is sealed; empty before the verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One refused bundle or receipt."""

    id: int
    bundle_digest: bytes
    epoch: int
    sealing_epoch: int
    place: int | None
    code: int
    lane_digest: bytes | None
    sequence: int | None
    bytes_total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheck:
    """A bundle's verdict as it stands in the database."""

    check: BundleCheck
    vouch: bytes
    """The mark of the worker that found it; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedBundle:
    """A bundle that a worker is to judge."""

    id: int
    broadcaster_id: int
    raw: bytes
    sealing_epoch: int
    attempts: int
    """This one included."""


def format_codes(codes: Sequence[int]) -> bytes:
    """Return receipt codes as they are stored: u16 little-endian each."""
    return b"".join(int(code).to_bytes(2, "little") for code in codes)


def parse_codes(data: bytes) -> tuple[int, ...]:
    """Return receipt codes from their stored form."""
    return tuple(int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2))


def lock_sealing_epoch(session: Session, shard: Shard, epoch: int) -> int | None:
    """Return the open epoch in whose seal a bundle of `epoch` will stand, locked against sealing.

    The lock lasts until the transaction's end, so nothing slips into an epoch that began to seal.

    Returns:
        The lowest open epoch that is not below `epoch`, or None if no such row exists.
    """
    statement = (
        select(EpochRow.number)
        .where(
            EpochRow.broadcaster_id == shard.id,
            EpochRow.number >= epoch,
            EpochRow.state == "open",
        )
        .order_by(EpochRow.number)
        .limit(1)
        .with_for_update(read=True)
    )
    for _ in range(LOCK_TRIES):
        # A row that began to seal while we waited for it drops out; the next try sees the next.
        number = session.scalar(statement)
        if number is not None:
            return number
    return None


def insert_bundle(
    session: Session, shard: Shard, signed: Signed[Bundle], *, sealing_epoch: int, promise: bytes
) -> bool:
    """Store a bundle with its promise, unless its key or digest is taken.

    Returns:
        Whether it was stored.
    """
    bundle = signed.value
    inserted = session.execute(
        insert(BundleRow)
        .values(
            broadcaster_id=shard.id,
            submitter_key=bundle.submitter_key,
            epoch=bundle.epoch,
            kind=bundle.kind,
            number=bundle.number,
            digest=signed.digest,
            raw=signed.raw,
            promise=promise,
            sealing_epoch=sealing_epoch,
        )
        .on_conflict_do_nothing()
        .returning(BundleRow.id)
    ).scalar()
    return inserted is not None


def find_by_key(session: Session, shard: Shard, bundle: Bundle) -> StoredBundle | None:
    """Return the stored bundle that has this bundle's key."""
    return _find(
        session,
        BundleRow.submitter_key == bundle.submitter_key,
        BundleRow.broadcaster_id == shard.id,
        BundleRow.epoch == bundle.epoch,
        BundleRow.kind == bundle.kind,
        BundleRow.number == bundle.number,
    )


def find_by_digest(session: Session, digest: bytes) -> StoredBundle | None:
    """Return the stored bundle with this digest."""
    return _find(session, BundleRow.digest == digest)


def _find(session: Session, *conditions: object) -> StoredBundle | None:
    row = session.execute(
        select(
            BundleRow.digest,
            BundleRow.promise,
            BundleRow.sealing_epoch,
            BundleRow.state,
            BundleRow.code,
            func.coalesce(BundleRow.final_codes, BundleRow.receipt_codes).label("codes"),
            EpochRow.state.label("epoch_state"),
        )
        .join(
            EpochRow,
            (EpochRow.broadcaster_id == BundleRow.broadcaster_id)
            & (EpochRow.number == BundleRow.sealing_epoch),
        )
        .where(*conditions)  # type: ignore[arg-type]  # SQLAlchemy's own column expressions
    ).one_or_none()
    if row is None:
        return None
    is_sealed = row.epoch_state not in {"open", "sealing"}
    return StoredBundle(
        digest=row.digest,
        promise=row.promise,
        sealing_epoch=row.sealing_epoch,
        state=row.epoch_state if is_sealed else row.state,
        code=row.code,
        receipt_codes=parse_codes(row.codes or b""),
    )


def keep_conflict(session: Session, digest: bytes, signed: Signed[Bundle]) -> None:
    """Keep other bytes under the key of the bundle `digest` as evidence, up to a bound."""
    bundle_id = session.scalar(
        select(BundleRow.id).where(BundleRow.digest == digest).with_for_update(key_share=True)
    )
    count = session.scalar(
        select(func.count()).select_from(ConflictRow).where(ConflictRow.bundle_id == bundle_id)
    )
    if bundle_id is None or (count or 0) >= CONFLICTS_MAX:
        return
    session.execute(
        insert(ConflictRow)
        .values(bundle_id=bundle_id, digest=signed.digest, raw=signed.raw)
        .on_conflict_do_nothing(index_elements=["digest"])
    )


def list_unjudged(session: Session, *, now: datetime, lease: timedelta, limit: int) -> list[int]:
    """Return ids of bundles for which a task is to be published, and note that it is.

    Args:
        session: In a transaction; publish after its commit.
        now: The database server's or the worker's clock; only differences count.
        lease: After this time without a verdict a published task counts as lost.
        limit: Most ids, ≥ 1.
    """
    waiting = (
        select(BundleRow.id)
        .where(
            BundleRow.state == "received",
            or_(BundleRow.enqueued_at.is_(None), BundleRow.enqueued_at < now - lease),
        )
        .order_by(BundleRow.enqueued_at.nulls_first(), BundleRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(session.scalars(waiting))
    if ids:
        session.execute(update(BundleRow).where(BundleRow.id.in_(ids)).values(enqueued_at=now))
    return ids


def claim_bundle(session: Session, bundle_id: int) -> ClaimedBundle | None:
    """Count an attempt at a bundle and return it; None if it has its verdict or is being judged.

    Commit before judging, so that an attempt that kills its worker is counted too.
    """
    row = session.scalar(
        select(BundleRow)
        .where(BundleRow.id == bundle_id, BundleRow.state == "received")
        .with_for_update(skip_locked=True)
    )
    if row is None:
        return None
    row.attempts += 1
    return ClaimedBundle(
        id=row.id,
        broadcaster_id=row.broadcaster_id,
        raw=row.raw,
        sealing_epoch=row.sealing_epoch,
        attempts=row.attempts,
    )


def store_verdict(session: Session, bundle_id: int, check: BundleCheck, vouch: bytes) -> bool:
    """Store the verdict on a bundle and its distinct receipts that passed; once.

    Args:
        session: In a transaction.
        bundle_id: The row.
        check: The verdict.
        vouch: The worker's mark on it; 32 bytes.

    Returns:
        False if the bundle had a verdict already; nothing changed then.
    """
    is_poison = check.code == BundleCode.POISON
    judged = session.execute(
        update(BundleRow)
        .where(BundleRow.id == bundle_id, BundleRow.state == "received")
        .values(
            state="poison" if is_poison else "judged",
            code=int(check.code),
            receipt_codes=format_codes(check.receipt_codes),
            payee_account=check.payee_account,
            vouch=vouch,
        )
        .returning(BundleRow.broadcaster_id)
    ).scalar()
    if judged is None:
        return False
    if check.bundle is not None and check.code == BundleCode.ACCEPTED:
        _insert_receipts(session, bundle_id, judged, check.bundle.value, check.receipt_codes)
    return True


def _insert_receipts(
    session: Session,
    bundle_id: int,
    broadcaster_id: int,
    bundle: Bundle,
    codes: Sequence[ReceiptCode],
) -> None:
    rows = [
        {
            "broadcaster_id": broadcaster_id,
            "epoch": receipt.value.epoch,
            "lane_digest": receipt.value.lane_digest,
            "sequence": receipt.value.sequence,
            "body_digest": hashlib.sha256(receipt.body).digest(),
            "bundle_id": bundle_id,
            "place": place,
            "is_cdn": receipt.value.is_cdn,
            "bytes_total": receipt.value.bytes_total,
        }
        for place, (receipt, code) in enumerate(zip(bundle.receipts, codes, strict=True))
        if code == ReceiptCode.COUNTED
    ]
    # By key: two workers that insert the same receipts in different order would deadlock.
    rows.sort(key=lambda row: (row["lane_digest"], row["sequence"], row["body_digest"]))
    for at in range(0, len(rows), RECEIPTS_PER_STATEMENT):
        statement = insert(ReceiptRow).values(rows[at : at + RECEIPTS_PER_STATEMENT])
        session.execute(statement.on_conflict_do_nothing())


def count_unjudged(session: Session, shard: Shard, sealing_epoch: int) -> int:
    """Return how many bundles of a seal have no verdict yet."""
    return (
        session.scalar(
            select(func.count())
            .select_from(BundleRow)
            .where(
                BundleRow.broadcaster_id == shard.id,
                BundleRow.sealing_epoch == sealing_epoch,
                BundleRow.state == "received",
            )
        )
        or 0
    )


def load_checks(session: Session, shard: Shard, sealing_epoch: int) -> list[StoredCheck]:
    """Return all bundles of a seal with their stored verdicts, in no defined order.

    The receipt codes are those of the check, before and after the seal alike, so a sealed epoch
    can be judged again and comes out the same.
    """
    rows = session.execute(
        select(
            BundleRow.raw,
            BundleRow.code,
            BundleRow.receipt_codes,
            BundleRow.payee_account,
            BundleRow.vouch,
        )
        .where(BundleRow.broadcaster_id == shard.id, BundleRow.sealing_epoch == sealing_epoch)
        .order_by(BundleRow.id)
    )
    return [
        StoredCheck(
            check=BundleCheck(
                raw=row.raw,
                bundle=parse_bundle(row.raw),
                code=BundleCode(row.code),
                receipt_codes=tuple(ReceiptCode(code) for code in parse_codes(row.receipt_codes)),
                payee_account=row.payee_account or ZERO_KEY,
            ),
            vouch=row.vouch or b"",
        )
        for row in rows
    ]


def store_final_codes(
    session: Session,
    shard: Shard,
    sealing_epoch: int,
    checks: Sequence[BundleCheck],
    codes: Sequence[Sequence[ReceiptCode]],
) -> None:
    """Write a seal's final receipt codes, and a row for everything refused."""
    ids = {
        row.digest: row.id
        for row in session.execute(
            select(BundleRow.id, BundleRow.digest).where(
                BundleRow.broadcaster_id == shard.id, BundleRow.sealing_epoch == sealing_epoch
            )
        )
    }
    refusals: list[dict[str, object]] = []
    changed: list[dict[str, object]] = []
    for check, final in zip(checks, codes, strict=True):
        if check.bundle is None:
            raise AssertionError("a bundle in a seal is framed")
        bundle_id = ids[check.bundle.digest]
        changed.append({"id": bundle_id, "final_codes": format_codes(final)})
        refusals.extend(_refusals_of(bundle_id, check.bundle.value, check.code, final))
    if changed:
        session.execute(update(BundleRow), changed)
    for at in range(0, len(refusals), RECEIPTS_PER_STATEMENT):
        session.execute(insert(RefusalRow).values(refusals[at : at + RECEIPTS_PER_STATEMENT]))


def _refusals_of(
    bundle_id: int, bundle: Bundle, code: BundleCode, codes: Sequence[ReceiptCode]
) -> list[dict[str, object]]:
    if code != BundleCode.ACCEPTED:
        whole = {"lane_digest": None, "sequence": None, "bytes_total": None}
        return [{"bundle_id": bundle_id, "place": None, "code": int(code), **whole}]
    return [
        {
            "bundle_id": bundle_id,
            "place": place,
            "code": int(receipt_code),
            "lane_digest": receipt.value.lane_digest,
            "sequence": receipt.value.sequence,
            "bytes_total": receipt.value.bytes_total,
        }
        for place, (receipt, receipt_code) in enumerate(zip(bundle.receipts, codes, strict=True))
        if receipt_code not in _GOOD_CODES
    ]


def list_refusals(session: Session, submitter_key: bytes, *, after: int = 0) -> list[Refusal]:
    """Return what was refused of a submitter, oldest first, at most `REFUSALS_MAX` after an id."""
    rows = session.execute(
        select(
            RefusalRow.id,
            RefusalRow.place,
            RefusalRow.code,
            RefusalRow.lane_digest,
            RefusalRow.sequence,
            RefusalRow.bytes_total,
            BundleRow.digest,
            BundleRow.epoch,
            BundleRow.sealing_epoch,
        )
        .join(BundleRow, BundleRow.id == RefusalRow.bundle_id)
        .where(BundleRow.submitter_key == submitter_key, RefusalRow.id > after)
        .order_by(RefusalRow.id)
        .limit(REFUSALS_MAX)
    )
    return [
        Refusal(
            id=row.id,
            bundle_digest=row.digest,
            epoch=row.epoch,
            sealing_epoch=row.sealing_epoch,
            place=row.place,
            code=row.code,
            lane_digest=row.lane_digest,
            sequence=row.sequence,
            bytes_total=row.bytes_total,
        )
        for row in rows
    ]
