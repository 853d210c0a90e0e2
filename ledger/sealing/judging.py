"""Judging bundles before any seal, a batch at a time: claim, check, store the verdicts.

The attempt is committed before the check, so a bundle that kills its worker is counted, tried alone
the next time and set aside after some attempts: no other bundle goes with it. A database that is
away, full or not to be believed is no bundle's fault: the attempts are given back. Running it
twice, or twice at once, changes nothing. Not here: the check (`ledger.books.bundle_check`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from ledger.books.bundle_check import BundleCheck, check_bundle, set_aside
from ledger.books.codes import BundleCode
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.recent import RecentSet
from ledger.evidence.terms import Terms
from ledger.sealing.log_seeds import LogSeeds
from ledger.sealing.vouching import vouch_for
from ledger.store.bundle_store import (
    ClaimedBundle,
    WaitingBundle,
    claim_bundles,
    give_attempts_back,
    list_unjudged,
    store_verdicts,
)
from ledger.store.engine import (
    DatabaseUnavailableError,
    PoolExhaustedError,
    Session,
    SessionFactory,
)
from ledger.store.errors import StoreError
from ledger.store.shard_store import authentic_terms, issued_through, load_shard

BATCH_BUNDLES: Final = 16
"""Most bundles of a batch: one task, two transactions."""

BATCH_BYTES: Final = 8 << 20
"""Most bytes of a batch's bundles, about 13,000 receipts with their entitlements; a larger bundle
is a batch of its own."""

ENTITLEMENTS_REMEMBERED: Final = 1 << 19
"""Entitlements whose signatures a worker remembers at least, 160 bytes each: the viewers of an
event bring theirs with every bundle of every epoch."""


class JudgingOutcome(StrEnum):
    """What one run came to."""

    JUDGED = "judged"
    POISON = "poison"
    NOTHING_TO_DO = "nothing_to_do"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seal:
    """What bundles of one seal are judged by."""

    epoch: int
    terms: Signed[Terms]
    issued_through: int


def make_memory() -> RecentSet[bytes]:
    """Return an empty memory of entitlements, for one process."""
    return RecentSet(ENTITLEMENTS_REMEMBERED)


def judge_bundle(
    sessions: SessionFactory, bundle_id: int, *, attempts_max: int, log_seed: bytes
) -> JudgingOutcome:
    """Judge one bundle, like `judge_bundles`."""
    outcomes = judge_bundles(sessions, [bundle_id], attempts_max=attempts_max, log_seed=log_seed)
    return outcomes[bundle_id]


def judge_bundles(
    sessions: SessionFactory,
    bundle_ids: Sequence[int],
    *,
    attempts_max: int,
    log_seed: bytes,
    next_log_seed: bytes | None = None,
    known: RecentSet[bytes] | None = None,
) -> dict[int, JudgingOutcome]:
    """Judge bundles that have no verdict yet.

    Args:
        sessions: Two commits are made: the attempts, the verdicts.
        bundle_ids: The rows.
        attempts_max: After so many attempts a bundle is set aside as poison.
        log_seed: Seed of the log key; what vouches for the verdicts is derived from it.
        next_log_seed: The same of the log key that later terms name; None: there is none.
        known: The process's memory of entitlements; None: every signature is verified.

    Returns:
        The outcome by row.
    """
    outcomes = dict.fromkeys(bundle_ids, JudgingOutcome.NOTHING_TO_DO)
    with sessions.begin() as session:
        claimed = claim_bundles(session, bundle_ids)
    if not claimed:
        return outcomes
    # The attempts are counted from here on.
    with _blameless(sessions, claimed), sessions.begin() as session:
        seals = _load_seals(session, claimed)
    seeds = LogSeeds(current=log_seed, next=next_log_seed)
    verdicts: list[tuple[int, BundleCheck, bytes]] = []
    for one in claimed:
        seal = seals[one.broadcaster_id, one.sealing_epoch]
        if one.attempts > attempts_max:
            check = set_aside(_unchecked(one))
        else:
            check = check_bundle(
                one.raw, seal.terms, seal.epoch, issued_through=seal.issued_through, known=known
            )
        seed = seeds.of_key(seal.terms.value.log_key)
        verdicts.append((one.id, check, vouch_for(seed, check, seal.epoch)))
    with _blameless(sessions, claimed), sessions.begin() as session:
        stored = store_verdicts(session, verdicts)
    for bundle_id, check, _ in verdicts:
        if bundle_id in stored:
            is_poison = check.code == BundleCode.POISON
            outcomes[bundle_id] = JudgingOutcome.POISON if is_poison else JudgingOutcome.JUDGED
    return outcomes


@contextmanager
def _blameless(sessions: SessionFactory, claimed: Sequence[ClaimedBundle]) -> Iterator[None]:
    """Give the attempts back if what fails is the database: a repaired one finds no poison.

    A value that the database refuses is the bundle's fault, and counts. If it cannot be asked at
    all the attempts stay; but then nobody can claim either, and count more.
    """
    try:
        yield
    except (DatabaseUnavailableError, PoolExhaustedError, StoreError):
        with sessions.begin() as session:
            give_attempts_back(session, [one.id for one in claimed])
        raise


def _load_seals(
    session: Session, claimed: Iterable[ClaimedBundle]
) -> Mapping[tuple[int, int], _Seal]:
    seals: dict[tuple[int, int], _Seal] = {}
    for broadcaster_id, epoch in sorted(
        {(one.broadcaster_id, one.sealing_epoch) for one in claimed}
    ):
        shard = load_shard(session, broadcaster_id)
        terms = authentic_terms(session, shard, epoch)
        last = issued_through(session, shard, terms.value, epoch)
        seals[broadcaster_id, epoch] = _Seal(epoch=epoch, terms=terms, issued_through=last)
    return seals


def _unchecked(claimed: ClaimedBundle) -> BundleCheck:
    return BundleCheck(
        raw=claimed.raw,
        bundle=parse_bundle(claimed.raw),
        code=BundleCode.ACCEPTED,
        receipt_codes=(),
        payee_account=ZERO_KEY,
    )


def sweep_bundles(
    sessions: SessionFactory, *, now: datetime, lease: timedelta, limit: int
) -> list[int]:
    """Return the bundles to publish tasks for, like `sweep_batches`, one by one."""
    batches = sweep_batches(sessions, now=now, lease=lease, limit=limit)
    return [bundle_id for batch in batches for bundle_id in batch]


def sweep_batches(
    sessions: SessionFactory, *, now: datetime, lease: timedelta, limit: int
) -> list[list[int]]:
    """Return batches of bundles to publish a task each: new ones, and those whose task was lost.

    A bundle that was tried before is a batch of its own: it may be what killed the worker. The
    commit that notes the publication comes before it: a crash in between costs one lease.

    Args:
        sessions: One commit is made.
        now: Now; only differences count.
        lease: Age of a publication without a verdict that counts as lost.
        limit: Most bundles.
    """
    with sessions.begin() as session:
        waiting = list_unjudged(session, now=now, lease=lease, limit=limit)
    return _batch(waiting)


def _batch(waiting: Iterable[WaitingBundle]) -> list[list[int]]:
    batches: list[list[int]] = []
    batch: list[int] = []
    size_bytes = 0
    for bundle in waiting:
        if bundle.attempts:
            batches.append([bundle.id])
            continue
        is_full = len(batch) == BATCH_BUNDLES or size_bytes + bundle.size_bytes > BATCH_BYTES
        if batch and is_full:
            batches.append(batch)
            batch, size_bytes = [], 0
        batch.append(bundle.id)
        size_bytes += bundle.size_bytes
    return [*batches, batch] if batch else batches
