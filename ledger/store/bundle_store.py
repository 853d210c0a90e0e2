"""Bundles in the database: taken in, claimed, judged, asked after.

The row is the queue: a bundle waits as a committed row until a verdict stands in it. A verdict is
stored once; the seal only makes its receipt codes final. Not here: deciding anything
(`ledger.books.judgement`), and what is refused before it is stored (`ledger.api.collector`).
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, overload

from sqlalchemy import Row, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.books.bundle_check import BundleCheck
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.books.gathering import GatheredChecks
from ledger.books.refusals import RefusalReader
from ledger.evidence.bundle import Bundle, parse_bundle
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.store.errors import ExpiredError
from ledger.store.raw_cursor import raw_cursor
from ledger.store.raw_store import load_raws, store_raw
from ledger.store.receipt_store import merge_receipts
from ledger.store.shard_store import Shard
from ledger.store.tables import BundleRow, ConflictRow, RefusalRow

CONFLICTS_MAX = 4
"""Most other versions of a bundle that are kept as evidence."""

LOCK_TRIES = 5
REFUSALS_MAX = 1_000
"""Most refusals in one answer."""

ROWS_PER_STATEMENT = 1_000
_RAWS_PER_STATEMENT = 32

_GOOD_CODES = frozenset({ReceiptCode.COUNTED, ReceiptCode.SUPERSEDED, ReceiptCode.DUPLICATE})
"""Codes of receipts nobody has to hear about: they count, or another one counts for them."""


_LOCK_EPOCH = b"""
SELECT number FROM epochs WHERE broadcaster_id = %s AND number >= %s AND state = 'open'
ORDER BY number LIMIT 1 FOR SHARE
"""
_INSERT_BUNDLE = b"""
INSERT INTO bundles (broadcaster_id, submitter_key, epoch, kind, number, digest, size_bytes,
  promise, sealing_epoch)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING id
"""
_FIND = b"""
SELECT digest, promise, sealing_epoch, bundles.state, code, coalesce(final_codes, receipt_codes),
  epochs.state
FROM bundles JOIN epochs
  ON epochs.broadcaster_id = bundles.broadcaster_id AND epochs.number = sealing_epoch
"""
_FIND_BY_DIGEST = _FIND + b"WHERE digest = %s"
_FIND_BY_KEY = _FIND + (
    b"WHERE submitter_key = %s AND bundles.broadcaster_id = %s AND epoch = %s AND kind = %s"
    b" AND bundles.number = %s"
)
"""What is asked for every upload, as the driver takes it."""

_CODES = {int(code): code for code in ReceiptCode}


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
    field: str | None
    """What disagrees, what it holds and what was wanted; None for refusals from before."""
    got: str | None
    want: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheck:
    """A bundle's verdict as it stands in the database."""

    check: BundleCheck
    vouch: bytes
    """The mark of the worker that found it; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingBundle:
    """A bundle without a verdict."""

    id: int
    size_bytes: int
    attempts: int
    """How often a worker began to judge it."""


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
    return struct.pack(f"<{len(codes)}H", *codes)


def parse_codes(data: bytes) -> tuple[int, ...]:
    """Return receipt codes from their stored form."""
    return struct.unpack(f"<{len(data) // 2}H", data)


def lock_sealing_epoch(session: Session, shard: Shard, epoch: int) -> int | None:
    """Return the open epoch in whose seal a bundle of `epoch` will stand, locked against sealing.

    The lock lasts until the transaction's end, so nothing slips into an epoch that began to seal.

    Returns:
        The lowest open epoch that is not below `epoch`, or None if no such row exists.
    """
    with raw_cursor(session) as cursor:
        for _ in range(LOCK_TRIES):
            # A row that began to seal while we waited for it drops out; the next try sees the next.
            row = cursor.execute(_LOCK_EPOCH, (shard.id, epoch)).fetchone()
            if row is not None:
                return int(row[0])
    return None


def insert_bundle(
    session: Session, shard: Shard, signed: Signed[Bundle], *, sealing_epoch: int, promise: bytes
) -> bool:
    """Store a bundle with its promise, unless its key or digest is taken.

    Returns:
        Whether it was stored.
    """
    bundle = signed.value
    values = (
        shard.id,
        bundle.submitter_key,
        bundle.epoch,
        int(bundle.kind),
        bundle.number,
        signed.digest,
        len(signed.raw),
        promise,
        sealing_epoch,
    )
    with raw_cursor(session) as cursor:
        row = cursor.execute(_INSERT_BUNDLE, values).fetchone()
    if row is None:
        return False
    store_raw(session, sealing_epoch, row[0], signed.raw)
    return True


def find_by_key(session: Session, shard: Shard, bundle: Bundle) -> StoredBundle | None:
    """Return the stored bundle that has this bundle's key."""
    return _find(
        session,
        _FIND_BY_KEY,
        (bundle.submitter_key, shard.id, bundle.epoch, int(bundle.kind), bundle.number),
    )


def find_by_digest(session: Session, digest: bytes) -> StoredBundle | None:
    """Return the stored bundle with this digest."""
    return _find(session, _FIND_BY_DIGEST, (digest,))


def _find(session: Session, query: bytes, values: tuple[int | bytes, ...]) -> StoredBundle | None:
    with raw_cursor(session) as cursor:
        row = cursor.execute(query, values).fetchone()
    if row is None:
        return None
    digest, promise, sealing_epoch, state, code, codes, epoch_state = row
    return StoredBundle(
        digest=digest,
        promise=promise,
        sealing_epoch=sealing_epoch,
        state=state if epoch_state in {"open", "sealing"} else epoch_state,
        code=code,
        receipt_codes=parse_codes(codes or b""),
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


def list_unjudged(
    session: Session, *, now: datetime, lease: timedelta, limit: int
) -> list[WaitingBundle]:
    """Return bundles for which a task is to be published, and note that it is.

    Args:
        session: In a transaction; publish after its commit.
        now: The database server's or the worker's clock; only differences count.
        lease: After this time without a verdict a published task counts as lost.
        limit: Most bundles, ≥ 1.
    """
    rows = session.execute(
        select(BundleRow.id, BundleRow.size_bytes, BundleRow.attempts)
        .where(
            BundleRow.state == "received",
            or_(BundleRow.enqueued_at.is_(None), BundleRow.enqueued_at < now - lease),
        )
        .order_by(BundleRow.enqueued_at.nulls_first(), BundleRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    ids = [row.id for row in rows]
    if ids:
        session.execute(update(BundleRow).where(BundleRow.id.in_(ids)).values(enqueued_at=now))
    return [
        WaitingBundle(id=row.id, size_bytes=row.size_bytes, attempts=row.attempts) for row in rows
    ]


def claim_bundle(session: Session, bundle_id: int) -> ClaimedBundle | None:
    """Claim one bundle, like `claim_bundles`."""
    return next(iter(claim_bundles(session, [bundle_id])), None)


def claim_bundles(session: Session, bundle_ids: Sequence[int]) -> list[ClaimedBundle]:
    """Count an attempt at each bundle and return them, by ascending id.

    Those that have their verdict, or that another worker is claiming just now, are left out. Commit
    before judging, so that an attempt that kills its worker is counted too.
    """
    waiting = (
        select(BundleRow.id)
        .where(BundleRow.id.in_(bundle_ids), BundleRow.state == "received")
        .order_by(BundleRow.id)
        .with_for_update(skip_locked=True)
        .cte("waiting")
    )
    rows = session.execute(
        update(BundleRow)
        .where(BundleRow.id == waiting.c.id)
        .values(attempts=BundleRow.attempts + 1)
        .returning(
            BundleRow.id, BundleRow.broadcaster_id, BundleRow.sealing_epoch, BundleRow.attempts
        )
        .execution_options(synchronize_session=False)
    ).all()
    raws = load_raws(session, {(row.sealing_epoch, row.id) for row in rows})
    return [
        ClaimedBundle(
            id=row.id,
            broadcaster_id=row.broadcaster_id,
            raw=raws[row.id],
            sealing_epoch=row.sealing_epoch,
            attempts=row.attempts,
        )
        for row in sorted(rows, key=lambda row: row.id)
    ]


def give_attempts_back(session: Session, bundle_ids: Sequence[int]) -> None:
    """Take a claim's attempt off bundles again: what failed had nothing to do with them."""
    session.execute(
        update(BundleRow)
        .where(BundleRow.id.in_(bundle_ids), BundleRow.state == "received", BundleRow.attempts > 0)
        .values(attempts=BundleRow.attempts - 1)
    )


def store_verdict(session: Session, bundle_id: int, check: BundleCheck, vouch: bytes) -> bool:
    """Store the verdict on one bundle, like `store_verdicts`.

    Returns:
        False if the bundle had a verdict already; nothing changed then.
    """
    return bool(store_verdicts(session, [(bundle_id, check, vouch)]))


def store_verdicts(
    session: Session, verdicts: Sequence[tuple[int, BundleCheck, bytes]]
) -> set[int]:
    """Store verdicts on bundles, and what counts so far of the receipts that passed; once.

    Args:
        session: In a transaction.
        verdicts: Of each bundle its row's id, the verdict, and the worker's mark on it, 32 bytes.

    Returns:
        Ids of the bundles that got their verdict now. The others had one, or another worker is
        storing it; nothing changed for them.
    """
    # Locked by ascending id, and never waited for: two workers that were both sent the same
    # bundles would deadlock.
    places = {
        row.id: (row.id, row.broadcaster_id, row.sealing_epoch)
        for row in session.execute(
            select(BundleRow.id, BundleRow.broadcaster_id, BundleRow.sealing_epoch)
            .where(
                BundleRow.id.in_([bundle_id for bundle_id, _, _ in verdicts]),
                BundleRow.state == "received",
            )
            .order_by(BundleRow.id)
            .with_for_update(skip_locked=True)
        )
    }
    due = [one for one in verdicts if one[0] in places]
    if due:
        session.execute(
            update(BundleRow),
            [
                {
                    "id": bundle_id,
                    "state": "poison" if check.code == BundleCode.POISON else "judged",
                    "code": int(check.code),
                    "receipt_codes": format_codes(check.receipt_codes),
                    "payee_account": check.payee_account,
                    "vouch": vouch,
                }
                for bundle_id, check, vouch in due
            ],
        )
    merge_receipts(
        session,
        (
            (*places[bundle_id], check.bundle.value, check.receipt_codes)
            for bundle_id, check, _ in due
            if check.bundle is not None and check.code == BundleCode.ACCEPTED
        ),
    )
    return set(places)


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


class StoredChecks(Sequence[StoredCheck]):
    """The bundles of a seal with their stored verdicts, in the seal's order, read some at a time.

    The receipt codes are those of the check, before and after the seal alike, so a sealed epoch
    can be judged again and comes out the same.
    """

    def __init__(self, session: Session, shard: Shard, sealing_epoch: int) -> None:
        """Read everything but the bundles' bytes.

        Args:
            session: In a transaction, which the object is used in.
            shard: Whose seal.
            sealing_epoch: Its epoch; no bundle can enter it any more.
        """
        self._session = session
        self._epoch = sealing_epoch
        self._rows = session.execute(
            select(
                BundleRow.id,
                BundleRow.code,
                BundleRow.receipt_codes,
                BundleRow.payee_account,
                BundleRow.vouch,
            )
            .where(BundleRow.broadcaster_id == shard.id, BundleRow.sealing_epoch == sealing_epoch)
            .order_by(
                BundleRow.submitter_key,
                BundleRow.epoch,
                BundleRow.kind,
                BundleRow.number,
                BundleRow.digest,
            )
        ).all()

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> StoredCheck: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[StoredCheck, ...]: ...

    def __getitem__(self, index: int | slice) -> StoredCheck | tuple[StoredCheck, ...]:
        if isinstance(index, slice):
            return tuple(self._load(self._rows[index]))
        return next(self._load([self._rows[index]]))

    def __iter__(self) -> Iterator[StoredCheck]:
        for at in range(0, len(self._rows), _RAWS_PER_STATEMENT):
            yield from self._load(self._rows[at : at + _RAWS_PER_STATEMENT])

    def _load(self, rows: Sequence[Row[*tuple[Any, ...]]]) -> Iterator[StoredCheck]:
        """Yield these bundles.

        Raises:
            ExpiredError: The epoch's bundles were dropped; its audit file has them.
        """
        raws = load_raws(self._session, [(self._epoch, row.id) for row in rows])
        missing = [row.id for row in rows if row.id not in raws]
        if missing:
            raise ExpiredError(f"bundles of epoch {self._epoch}: got {len(missing)} without bytes")
        for row in rows:
            raw = raws.pop(row.id)
            codes = tuple(map(_CODES.__getitem__, parse_codes(row.receipt_codes)))
            check = BundleCheck(
                raw=raw,
                bundle=parse_bundle(raw),
                code=BundleCode(row.code),
                receipt_codes=codes,
                payee_account=row.payee_account or ZERO_KEY,
            )
            yield StoredCheck(check=check, vouch=row.vouch or b"")


def ids_in_seal(session: Session, shard: Shard, sealing_epoch: int) -> dict[bytes, int]:
    """Return digest → row's id of the bundles that stand in a seal."""
    rows = session.execute(
        select(BundleRow.digest, BundleRow.id).where(
            BundleRow.broadcaster_id == shard.id, BundleRow.sealing_epoch == sealing_epoch
        )
    )
    return {row.digest: row.id for row in rows}


def store_final_codes(
    session: Session,
    shard: Shard,
    sealing_epoch: int,
    checks: GatheredChecks,
    codes: Sequence[Sequence[ReceiptCode]],
    reader: RefusalReader,
) -> None:
    """Write a seal's final receipt codes, and a row for everything refused with its reason."""
    ids = ids_in_seal(session, shard, sealing_epoch)
    refusals: list[dict[str, object]] = []
    changed: list[dict[str, object]] = []
    for index, (head, final) in enumerate(zip(checks.heads, codes, strict=True)):
        bundle_id = ids[head.digest]
        changed.append({"id": bundle_id, "final_codes": format_codes(final)})
        if head.code != BundleCode.ACCEPTED or not _GOOD_CODES.issuperset(final):
            refusals.extend(_refusals_of(bundle_id, checks[index], final, reader))
    if changed:
        session.execute(update(BundleRow), changed)
    for at in range(0, len(refusals), ROWS_PER_STATEMENT):
        session.execute(insert(RefusalRow).values(refusals[at : at + ROWS_PER_STATEMENT]))


def _refusals_of(
    bundle_id: int, check: BundleCheck, codes: Sequence[ReceiptCode], reader: RefusalReader
) -> Iterator[dict[str, object]]:
    if check.bundle is None or check.code != BundleCode.ACCEPTED:
        yield {
            "bundle_id": bundle_id,
            "place": None,
            "code": int(check.code),
            "lane_digest": None,
            "sequence": None,
            "bytes_total": None,
            **asdict(reader.explain_bundle(check)),
        }
        return
    receipts = check.bundle.value.receipts
    for place, code in enumerate(codes):
        if code not in _GOOD_CODES:
            receipt = receipts[place].value
            yield {
                "bundle_id": bundle_id,
                "place": place,
                "code": int(code),
                "lane_digest": receipt.lane_digest,
                "sequence": receipt.sequence,
                "bytes_total": receipt.bytes_total,
                **asdict(reader.explain_receipt(check, place, code)),
            }


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
            RefusalRow.field,
            RefusalRow.got,
            RefusalRow.want,
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
            field=row.field,
            got=row.got,
            want=row.want,
        )
        for row in rows
    ]
