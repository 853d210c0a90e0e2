"""The transitions of an epoch: one function each, one database commit each.

open → sealing → sealed → computed → settled. Each function looks whether its transition is due,
does it, and tells whether it did; run again, or by two processes at once, it changes nothing. A
crash between two of them loses nothing: the next run starts from the committed state by the same
code. Not here: in which order they are tried (`driver`), what they compute (`ledger.books.epoch`).
"""

from dataclasses import dataclass

from ledger.books.epoch import (
    EpochInputs,
    Result,
    Seal,
    begin_books,
    compute_epoch,
    seal_epoch,
)
from ledger.books.gathering import gather_checks
from ledger.books.refusals import RefusalReader
from ledger.evidence.checkpoint import Checkpoint, sign_checkpoint
from ledger.evidence.keys import public_key_of
from ledger.evidence.merkle import RootBuilder
from ledger.evidence.note import format_note
from ledger.sealing.inputs import load_inputs, load_opening
from ledger.store.bundle_store import count_unjudged, store_final_codes
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import (
    Epoch,
    EpochState,
    begin_sealing,
    find_epoch,
    load_leaves,
    lock_epoch,
    mark_settled,
    store_checkpoint,
    store_result,
    store_seal,
)
from ledger.store.errors import EpochOrderError, UnprovenError
from ledger.store.instruction_store import claim_instructions, store_instruction_codes
from ledger.store.settlement_store import (
    LedgerPoint,
    anchor_fact,
    epoch_ledger,
    fact_progress,
    plan_anchor,
    plan_batches,
)
from ledger.store.shard_store import Shard, issued_through, terms_in_force
from ledger.store.totals_store import store_content_totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A sealed epoch's inputs and its seal, computed again."""

    inputs: EpochInputs
    seal: Seal
    frontier: bytes
    """State of a `RootBuilder` over the log before the epoch's leaves."""


def close_to_bundles(sessions: SessionFactory, shard: Shard, number: int) -> bool:
    """Open → sealing, once a network ledger closed at or after the epoch's end and its grace."""
    with sessions.begin() as session:
        terms = terms_in_force(session, shard, number).value
        complete = fact_progress(session, shard.account)
        due_s = terms.epoch_end_s(number) + terms.grace_s
        if complete is None or complete.close_time_s < due_s:
            return False
        if lock_epoch(session, shard, number, EpochState.OPEN) is None:
            return False
        begin_sealing(session, shard, number)
    # No bundle can enter the epoch from here on.
    return True


def seal(sessions: SessionFactory, shard: Shard, number: int, log_seed: bytes) -> bool:
    """Sealing → sealed, once all its bundles have verdicts and its facts are complete.

    Raises:
        UnknownTransactionError: A transaction that nobody planned moved money, and no ruling says
            how it is booked; nothing is sealed before one does.
        UnprovenError: The database was changed by hand; nothing is sealed.
    """
    with sessions.begin() as session:
        epoch = lock_epoch(session, shard, number, EpochState.SEALING)
        last_ledger = epoch_ledger(session, shard.account, number)
        if epoch is None or last_ledger is None or count_unjudged(session, shard, number):
            return False
        opening = load_opening(session, shard, number)
        if opening is None:
            return False
        claim_instructions(session, shard, number)
        inputs = load_inputs(
            session, shard, epoch, opening.state, last_ledger=last_ledger, log_seed=log_seed
        )
        # What nobody can book is not sealed: a ruling on it could not come in any more.
        begin_books(inputs)
        sealed = seal_epoch(inputs)
        # Codes first: the database refuses any change of a sealed epoch's bundles.
        reader = RefusalReader(
            terms=inputs.terms,
            sealing_epoch=number,
            issued_through=issued_through(session, shard, inputs.terms.value, number),
            void_from=opening.state.void_from,
            equivocations=sealed.judgement.equivocations,
        )
        checks = gather_checks(inputs.checks)
        store_final_codes(session, shard, number, checks, sealed.judgement.codes, reader)
        store_seal(
            session,
            shard,
            epoch,
            sealed,
            last_ledger_sequence=last_ledger.sequence,
            last_ledger_close_s=last_ledger.close_time_s,
        )
        store_content_totals(session, shard, number, sealed.judgement.lanes)
    # The inputs are final and in the log from here on.
    return True


def compute(sessions: SessionFactory, shard: Shard, number: int, log_seed: bytes) -> bool:
    """Sealed → computed: result and payout leaves, closing state, batches, signed checkpoint.

    Raises:
        BooksError: The books of this epoch are unacceptable; a person looks.
        UnprovenError: The database was changed by hand; nothing is signed.
    """
    with sessions.begin() as session:
        epoch = lock_epoch(session, shard, number, EpochState.SEALED)
        if epoch is None:
            return False
        replay = replay_seal(session, shard, epoch, log_seed)
        result = compute_epoch(replay.inputs, replay.seal)
        log_size = store_result(session, shard, epoch, result)
        store_instruction_codes(
            session, shard, replay.inputs.instructions, result.instruction_codes
        )
        log = _grow_log(replay, result, log_size)
        terms = replay.inputs.terms.value
        if public_key_of(log_seed) != terms.log_key:
            raise UnprovenError(f"log key: got another seed, want that of {terms.log_key.hex()}")
        checkpoint = Checkpoint(origin=terms.log_origin, tree_size=log.size, root_hash=log.root())
        note = format_note(sign_checkpoint(checkpoint, log_seed))
        stored = store_checkpoint(
            session, shard, number, checkpoint, note=note, frontier=log.export_state()
        )
        plan_batches(session, shard.account, result.payouts)
        plan_anchor(session, shard.account, number, stored.body_hash)
    # Result, checkpoint, and what is to be paid and anchored are durable from here on.
    return True


def settle(sessions: SessionFactory, shard: Shard, number: int) -> bool:
    """Computed → settled, once its checkpoint is anchored on the chain."""
    with sessions.begin() as session:
        if lock_epoch(session, shard, number, EpochState.COMPUTED) is None:
            return False
        if anchor_fact(session, shard.account, number) is None:
            return False
        mark_settled(session, shard, number)
    return True


def replay_seal(session: Session, shard: Shard, epoch: Epoch, log_seed: bytes) -> Replay:
    """Read a sealed epoch's inputs and seal them again.

    Raises:
        UnprovenError: It does not give the leaves in the log, or what it starts from is not what
            was signed for: the database was changed by hand.
        EpochOrderError: The epoch is not sealed, or the one before is not computed.
    """
    opening = load_opening(session, shard, epoch.number)
    sequence, close_s = epoch.last_ledger_sequence, epoch.last_ledger_close_s
    if opening is None or sequence is None or close_s is None or epoch.sealed_size is None:
        raise EpochOrderError(epoch.number, got=epoch.state, want="sealed, after its predecessor")
    last_ledger = LedgerPoint(sequence=sequence, close_time_s=close_s)
    inputs = load_inputs(
        session, shard, epoch, opening.state, last_ledger=last_ledger, log_seed=log_seed
    )
    sealed = seal_epoch(inputs)
    stored = load_leaves(session, shard, first=epoch.opening_size or 0, end=epoch.sealed_size)
    if list(sealed.leaves) != stored:
        raise UnprovenError(
            f"epoch {epoch.number}: got {len(sealed.leaves)} leaves from its inputs, "
            f"want the {len(stored)} sealed ones"
        )
    return Replay(inputs=inputs, seal=sealed, frontier=opening.frontier)


def require_epoch(session: Session, shard: Shard, number: int) -> Epoch:
    """Return an epoch that must exist.

    Raises:
        EpochOrderError: It does not.
    """
    epoch = find_epoch(session, shard, number)
    if epoch is None:
        raise EpochOrderError(number, got="none", want="an epoch")
    return epoch


def _grow_log(replay: Replay, result: Result, stored_size: int) -> RootBuilder:
    """Return the log's tree with the epoch's leaves, from the signed tree before.

    The leaves are the computed ones, never rows, so nothing is signed that was not computed here.
    """
    log = RootBuilder.restore(replay.frontier)
    for leaf in (*replay.seal.leaves, *result.leaves):
        log.append(leaf)
    if log.size != stored_size:
        raise UnprovenError(f"log: got {stored_size} stored leaves, want {log.size}")
    return log
