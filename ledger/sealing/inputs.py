"""Reading an epoch's inputs out of the database, the same before the seal and ever after.

What an epoch was computed from never changes once it is sealed, so seal, result and audit file are
functions of what this module returns. What was signed for before is proven, not believed: the
opening state by the result in the last signed checkpoint, counts of earlier epochs by the lane root
of their results, terms by the broadcaster's signatures, verdicts by the workers' marks. Not here:
deciding whether an epoch may be sealed (`transitions`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.bundle_check import BundleCheck
from ledger.books.epoch import EpochInputs
from ledger.books.gathering import BundleHead, GatheredChecks
from ledger.books.lanes import LaneCount, format_lane_entries
from ledger.books.state import State, genesis_state, state_root
from ledger.evidence.encoding import Signed
from ledger.evidence.merkle import RootBuilder, root_hash
from ledger.evidence.terms import Terms
from ledger.sealing.vouching import require_vouched
from ledger.store.bundle_store import StoredChecks
from ledger.store.engine import Session
from ledger.store.epoch_store import Epoch, first_epoch, load_closing_state
from ledger.store.errors import UnprovenError
from ledger.store.instruction_store import load_instructions
from ledger.store.lane_store import load_lanes
from ledger.store.settlement_store import LedgerPoint, load_facts
from ledger.store.shard_store import (
    Shard,
    activation_in_force,
    activations_of,
    authentic_terms,
    issued_through,
    rule_in_force,
)
from ledger.store.signed_log import load_signed_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Where an epoch begins."""

    state: State
    """Closing state of the epoch before."""

    frontier: bytes
    """State of a `RootBuilder` over the log before the epoch's leaves."""


def load_opening(session: Session, shard: Shard, epoch: int) -> Opening | None:
    """Return where an epoch begins; None while the epoch before is not computed.

    Raises:
        UnprovenError: The stored state is not the one in the result that the log's key signed for.
    """
    if epoch == first_epoch(session, shard):
        state = genesis_state(shard.network_id, shard.account, epoch)
        return Opening(state=state, frontier=RootBuilder().export_state())
    closing = load_closing_state(session, shard, epoch - 1)
    if closing is None:
        return None
    signed = load_signed_epoch(session, shard, epoch - 1)
    got, want = state_root(closing), signed.result().closing_state_root
    if got != want:
        raise UnprovenError(
            f"closing state of epoch {epoch - 1}: got root {got.hex()}, "
            f"want {want.hex()} as its result in the log says"
        )
    return Opening(state=closing, frontier=signed.frontier)


def load_inputs(
    session: Session,
    shard: Shard,
    epoch: Epoch,
    opening: State,
    *,
    last_ledger: LedgerPoint,
    log_seed: bytes,
) -> EpochInputs:
    """Return everything an epoch's leaves are computed from.

    Args:
        session: In a transaction.
        shard: Whose epoch.
        epoch: Sealing or later: no bundle can enter it any more.
        opening: Closing state of the epoch before.
        last_ledger: Last network ledger that closed before the epoch's end.
        log_seed: Seed of the log key, by which verdicts are vouched for.

    Raises:
        MalformedXdrError: A fact holds an operation that the reader does not know.
        UnknownRulesError: No installed contract is active.
        UnprovenError: Terms, rule or counts are not what was signed for, or a verdict is not what
            a worker found.
    """
    terms = authentic_terms(session, shard, epoch.number)
    rule = rule_in_force(session, shard, epoch.number)
    if rule.digest != terms.value.rules_digest:
        raise UnprovenError(
            f"rule of epoch {epoch.number}: got {rule.digest.hex()}, "
            f"want {terms.value.rules_digest.hex()} as the terms say"
        )
    facts = load_facts(
        session,
        shard.account,
        after_sequence=opening.head.last_ledger_sequence,
        through_sequence=last_ledger.sequence,
    )
    checks = _gather(
        StoredChecks(session, shard, epoch.number),
        log_seed,
        terms,
        epoch.number,
        issued_through=issued_through(session, shard, terms.value, epoch.number),
    )
    late = late_lanes(checks, opening, epoch.number)
    return EpochInputs(
        terms=terms,
        opening=opening,
        rule=rule,
        activations=activations_of(session, shard, epoch.number),
        checks=checks,
        counted_before=_counts_before(session, shard, late),
        facts=facts,
        transactions=tuple(read_transaction(fact) for fact in facts),
        last_ledger_sequence=last_ledger.sequence,
        last_ledger_close_s=last_ledger.close_time_s,
        salt_key=epoch.salt_key,
        instructions=load_instructions(session, shard, epoch.number),
        dao_key=activation_in_force(session, shard, epoch.number).value.dao_key,
    )


def _gather(
    stored: StoredChecks,
    log_seed: bytes,
    terms: Signed[Terms],
    sealing_epoch: int,
    *,
    issued_through: int,
) -> GatheredChecks:
    """Take the bundles in one after another; what is looked at again comes from the database."""

    def again(check: BundleCheck, head: BundleHead) -> BundleCheck:
        """The bundle with the verdict that was vouched for."""
        if check.bundle is None or check.bundle.digest != head.digest:
            raise UnprovenError(f"bundle {head.digest.hex()}: its bytes changed during the seal")
        return replace(
            check,
            code=head.code,
            receipt_codes=tuple(head.receipt_codes),
            payee_account=head.payee_account,
        )

    def load(index: int) -> BundleCheck:
        return again(stored[index].check, gathered.heads[index])

    def load_all() -> Iterator[BundleCheck]:
        for one, head in zip(stored, gathered.heads, strict=True):
            yield again(one.check, head)

    gathered = GatheredChecks(load, load_all)
    for check in require_vouched(
        log_seed, stored, terms, sealing_epoch, issued_through=issued_through
    ):
        gathered.add(check)
    return gathered


def late_lanes(checks: GatheredChecks, opening: State, epoch: int) -> dict[bytes, int]:
    """Return the lanes of earlier epochs that the state does not know yet, with their epochs."""
    known = opening.corrected_lanes
    before = checks.lanes_before(epoch)
    return {lane: of_epoch for lane, of_epoch in before.items() if lane not in known}


def _counts_before(
    session: Session, shard: Shard, late: Mapping[bytes, int]
) -> dict[bytes, LaneCount]:
    """Return what late lanes counted for in the seals of their own epochs.

    Raises:
        UnprovenError: An epoch's stored lanes are not those under the lane root of its result.
    """
    begin = first_epoch(session, shard)
    counts: dict[bytes, LaneCount] = {}
    for epoch in sorted(set(late.values())):
        if begin is None or epoch < begin:
            continue
        lanes = load_lanes(session, shard, epoch)
        got = root_hash(format_lane_entries(lanes))
        want = load_signed_epoch(session, shard, epoch).result().lane_root
        if got != want:
            raise UnprovenError(
                f"lanes of epoch {epoch}: got root {got.hex()}, "
                f"want {want.hex()} as its result in the log says"
            )
        for digest, sequence, bytes_total in lanes:
            # A lane's digest fixes its epoch, so this is the lane's own seal.
            if late.get(digest) == epoch:
                counts[digest] = LaneCount(sequence=sequence, bytes_total=bytes_total)
    return counts
