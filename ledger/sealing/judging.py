"""Judging bundles one by one, before any seal: claim, check, store the verdict.

The attempt is committed before the check, so a bundle that kills its worker is counted and set
aside after some attempts. Running it twice, or twice at once, changes nothing. Not here: the check
(`ledger.books.judgement`).
"""

from datetime import datetime, timedelta
from enum import StrEnum

from ledger.books.judgement import BundleCheck, BundleCode, check_bundle, set_aside
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.encoding import ZERO_KEY
from ledger.sealing.vouching import vouch_for
from ledger.store.bundle_store import ClaimedBundle, claim_bundle, list_unjudged, store_verdict
from ledger.store.engine import SessionFactory
from ledger.store.shard_store import authentic_terms, issued_through, load_shard


class JudgingOutcome(StrEnum):
    """What one run came to."""

    JUDGED = "judged"
    POISON = "poison"
    NOTHING_TO_DO = "nothing_to_do"


def judge_bundle(
    sessions: SessionFactory, bundle_id: int, *, attempts_max: int, log_seed: bytes
) -> JudgingOutcome:
    """Judge a bundle that has no verdict yet.

    Args:
        sessions: Two commits are made: the attempt, the verdict.
        bundle_id: The row.
        attempts_max: After so many attempts the bundle is set aside as poison.
        log_seed: Seed of the log key; what vouches for the verdict is derived from it.
    """
    with sessions.begin() as session:
        claimed = claim_bundle(session, bundle_id)
    if claimed is None:
        return JudgingOutcome.NOTHING_TO_DO
    # The attempt is counted from here on.
    with sessions.begin() as session:
        shard = load_shard(session, claimed.broadcaster_id)
        terms = authentic_terms(session, shard, claimed.sealing_epoch)
        last = issued_through(session, shard, terms.value, claimed.sealing_epoch)
    if claimed.attempts > attempts_max:
        check = set_aside(_unchecked(claimed))
    else:
        check = check_bundle(claimed.raw, terms, claimed.sealing_epoch, issued_through=last)
    with sessions.begin() as session:
        vouch = vouch_for(log_seed, check, claimed.sealing_epoch)
        is_stored = store_verdict(session, bundle_id, check, vouch)
    if not is_stored:
        return JudgingOutcome.NOTHING_TO_DO
    is_poison = check.code == BundleCode.POISON
    return JudgingOutcome.POISON if is_poison else JudgingOutcome.JUDGED


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
    """Return the bundles to publish tasks for: new ones, and those whose task was lost.

    The commit that notes the publication comes before it: a crash in between costs one lease.

    Args:
        sessions: One commit is made.
        now: Now; only differences count.
        lease: Age of a publication without a verdict that counts as lost.
        limit: Most bundles.
    """
    with sessions.begin() as session:
        return list_unjudged(session, now=now, lease=lease, limit=limit)
