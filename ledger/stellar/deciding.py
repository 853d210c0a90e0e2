"""Deciding: what a ledger or the lack of one says about a batch; nothing is signed or sent here.

A transaction in a batch's slot decides it: its own payment, the no-op that uses the slot up, a
failure that used it up, or one that nobody planned. A failure that took the fee only leaves the
slot open, which the channel account's sequence tells, not the code. An attempt is given up by the
rule of `ledger.stellar.evidence` alone. Where the sequence says that the slot is used and the facts
have nothing, every source is asked for the transaction of that slot: what one source has, no other
can take back.
"""

import logging
from collections.abc import Sequence

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import AppliedTransaction, NetworkFact
from ledger.evidence.leaf import PayoutLeaf, burn_hash, payout_hash
from ledger.evidence.units import format_stroops
from ledger.stellar.domain import SettlementDomain
from ledger.stellar.errors import GatewayError
from ledger.stellar.evidence import is_dead
from ledger.stellar.facts import bears_out, stored_fact
from ledger.stellar.failures import FROZEN, Reaction, reaction_to_failure, read_failure
from ledger.stellar.gateway import Gateway, NetworkLedger
from ledger.stellar.outlook import Outlook
from ledger.stellar.stopping import UNPLANNED, halt, stop_for
from ledger.store import sending_store
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import Attempt, Batch
from ledger.store.settlement_tables import BATCH, BURN

_log = logging.getLogger(__name__)


def decide_by_facts(
    sessions: SessionFactory,
    gateway: Gateway,
    domain: SettlementDomain,
    batches: Sequence[Batch],
    now: NetworkLedger,
) -> bool:
    """Decide the batches whose slot holds a transaction in some ledger; tells whether any does.

    Raises:
        GatewayError: The source gave no usable answer about a channel account.
    """
    # One question for all: of many open batches few are decided in a tick.
    with sessions() as session:
        found = store.batches_with_facts(session, domain.broadcaster) if batches else set()
    used = [batch for batch in batches if batch.leaf.batch_number in found]
    for batch in used:
        _decide_by_facts(sessions, gateway, domain, batch, now)
    return bool(used)


def _decide_by_facts(
    sessions: SessionFactory,
    gateway: Gateway,
    domain: SettlementDomain,
    batch: Batch,
    now: NetworkLedger,
) -> None:
    leaf = batch.leaf
    with sessions() as session:
        facts = store.facts_of_slot(
            session, domain.broadcaster, leaf.channel_account, leaf.channel_sequence
        )
    applied = [(read_transaction(fact), fact) for fact in facts]
    if not applied:
        return  # the database is another one by now
    transaction, fact = next(((tx, f) for tx, f in applied if tx.succeeded), applied[-1])
    paid_memo = payout_hash(leaf)
    burn_memos = {burn_hash(paid_memo, isolates=isolates) for isolates in (False, True)}
    if transaction.memo_hash not in {paid_memo, *burn_memos}:
        reason = f"slot holds {transaction.tx_hash.hex()}, which nobody planned"
        _halt_batch(sessions, domain, batch, transaction, reason, now)
    elif not transaction.succeeded:
        _decide_failure(sessions, gateway, domain, batch, transaction, fact, now)
    elif _moved(transaction) != (_planned(leaf) if transaction.memo_hash == paid_memo else []):
        count = len(_moved(transaction))
        reason = f"{transaction.tx_hash.hex()} moved {count} amounts, want the planned"
        _halt_batch(sessions, domain, batch, transaction, reason, now)
    else:
        is_paid = transaction.memo_hash == paid_memo
        after = SettlementState.PAID if is_paid else SettlementState.BURNED
        _decide(sessions, domain, batch, after, transaction, "" if is_paid else batch.reason)


def _moved(transaction: AppliedTransaction) -> list[tuple[str, bytes, bytes, bytes, int]]:
    return [
        (m.asset_code, m.asset_issuer, m.source, m.destination, m.amount_stroops)
        for m in transaction.movements
    ]


def _planned(leaf: PayoutLeaf) -> list[tuple[str, bytes, bytes, bytes, int]]:
    return [
        (leaf.asset_code, leaf.asset_issuer, leaf.source_account, p.account, p.amount_stroops)
        for p in leaf.payments
    ]


def _decide_failure(
    sessions: SessionFactory,
    gateway: Gateway,
    domain: SettlementDomain,
    batch: Batch,
    transaction: AppliedTransaction,
    fact: NetworkFact,
    now: NetworkLedger,
) -> None:
    leaf, failure = batch.leaf, read_failure(fact.result)
    # Some failures charge the fee and leave the slot open: the account tells, not the code.
    view = gateway.account(leaf.channel_account)
    is_seen = view is not None and view.as_of_sequence >= fact.ledger_sequence
    if view is None or view.sequence < leaf.channel_sequence:
        if is_seen and failure.code == FROZEN:
            give_up(sessions, domain, batch, reason=FROZEN, isolates=True)
        return
    reaction = reaction_to_failure(failure)
    with sessions.begin() as session:
        moved = store.move_batch(
            session,
            domain.broadcaster,
            batch,
            SettlementState.FAILED,
            tx_hash=transaction.tx_hash,
            reason=str(failure),
        )
        if moved and reaction != Reaction.WAIT:
            stop_for(
                session,
                domain,
                reaction,
                cause=str(failure),
                reason=f"batch {leaf.batch_number}: {transaction.tx_hash.hex()}",
                now=now,
                account=leaf.channel_account,
            )
    if moved:
        _log.error("batch %d: failed in a ledger: %s", leaf.batch_number, failure)


def _halt_batch(
    sessions: SessionFactory,
    domain: SettlementDomain,
    batch: Batch,
    transaction: AppliedTransaction,
    reason: str,
    now: NetworkLedger,
) -> None:
    halt_batch(
        sessions, domain, batch, cause=UNPLANNED, reason=reason, now=now, tx=transaction.tx_hash
    )


def halt_batch(
    sessions: SessionFactory,
    domain: SettlementDomain,
    batch: Batch,
    *,
    cause: str,
    reason: str,
    now: NetworkLedger,
    tx: bytes | None = None,
) -> None:
    """Halt a batch and its domain in one commit."""
    with sessions.begin() as session:
        if store.move_batch(
            session,
            domain.broadcaster,
            batch,
            SettlementState.HALTED,
            tx_hash=tx,
            reason=reason,
        ):
            text = f"batch {batch.leaf.batch_number}: {reason}"
            halt(session, domain, cause=cause, reason=text, now=now)


def _decide(
    sessions: SessionFactory,
    domain: SettlementDomain,
    batch: Batch,
    after: SettlementState,
    transaction: AppliedTransaction,
    reason: str,
) -> None:
    with sessions.begin() as session:
        moved = store.move_batch(
            session,
            domain.broadcaster,
            batch,
            after,
            tx_hash=transaction.tx_hash,
            reason=reason,
            isolates=batch.isolates,
        )
    if moved:
        _log.info(
            "batch %d: %s: %s in ledger %d",
            batch.leaf.batch_number,
            after,
            format_stroops(batch.leaf.total_stroops),
            transaction.ledger_sequence,
        )


def give_up(
    sessions: SessionFactory,
    domain: SettlementDomain,
    batch: Batch,
    *,
    reason: str,
    isolates: bool = False,
) -> bool:
    """Begin to use a batch's slot up by a no-op; tells whether this call did.

    Its payment may still be applied instead, and then it is paid.

    Args:
        sessions: One commit is made.
        domain: Whose batch.
        batch: As it was read; undecided.
        reason: What people read.
        isolates: Whether each of its payees is to be paid alone from then on.
    """
    with sessions.begin() as session:
        moved = store.move_batch(
            session,
            domain.broadcaster,
            batch,
            SettlementState.BURNING,
            reason=reason,
            isolates=isolates,
        )
    if moved:
        _log.warning("batch %d: its slot is used up: %s", batch.leaf.batch_number, reason)
    return moved


def envelopes_of(
    sessions: SessionFactory, domain: SettlementDomain, batch: Batch
) -> tuple[tuple[Attempt, ...], tuple[sending_store.Bump, ...]]:
    """Return everything ever signed for a batch's slot: payments, no-ops, and fee bumps."""
    number = batch.leaf.batch_number
    with sessions() as session:
        attempts = (
            *store.load_attempts(session, domain.broadcaster, BATCH, number),
            *store.load_attempts(session, domain.broadcaster, BURN, number),
        )
        bumps = sending_store.load_bumps(session, [attempt.tx_hash for attempt in attempts])
    return attempts, bumps


def expire(
    sessions: SessionFactory, outlook: Outlook, domain: SettlementDomain, batch: Batch
) -> bool:
    """Give a batch's attempt up once all envelopes of its slot are dead; tells whether it did.

    Raises:
        GatewayError: A source gave no usable answer.
    """
    leaf = batch.leaf
    slot = (leaf.channel_account, leaf.channel_sequence)
    attempts, bumps = envelopes_of(sessions, domain, batch)
    with sessions() as session:
        complete = store.fact_progress(session, domain.broadcaster)
    if not is_dead(
        outlook.gateways,
        domain.policy,
        slot=slot,
        attempts=attempts,
        complete=complete,
        outer_hashes=[bump.outer_hash for bump in bumps],
        marks=outlook.marks,
    ):
        if complete is not None and _is_over(attempts, complete.sequence):
            find_used(sessions, outlook.gateways, domain, leaf)
        return False
    with sessions.begin() as session:
        # What was stored since the facts were read above would forbid it.
        if store.facts_of_slot(session, domain.broadcaster, *slot):
            return False
        moved = store.move_batch(session, domain.broadcaster, batch, SettlementState.EXPIRED)
    if moved:
        _log.warning("batch %d: attempt %d expired", leaf.batch_number, batch.attempt)
    return moved


def _is_over(attempts: Sequence[Attempt], sequence: int) -> bool:
    return all(attempt.max_ledger_sequence < sequence for attempt in attempts)


def find_used(
    sessions: SessionFactory,
    gateways: Sequence[Gateway],
    domain: SettlementDomain,
    leaf: PayoutLeaf,
) -> None:
    """Ask every source for the transaction of a slot that is used; store what one has."""
    since, number = leaf.reference_ledger_sequence, leaf.batch_number
    wanted = max(1, domain.policy.evidence_sources)
    for gateway in gateways:
        try:
            view = gateway.account(leaf.channel_account)
            if view is None or view.sequence < leaf.channel_sequence:
                continue
            used = gateway.transaction_of_slot(
                leaf.channel_account, leaf.channel_sequence, since=since
            )
        except GatewayError as error:
            _log.warning("slot of batch %d: %s", leaf.batch_number, error)
            continue
        if used.fact is not None:
            others = [each for each in gateways[:wanted] if each is not gateway]
            if not all(bears_out(other, used.fact, {leaf.channel_account}) for other in others):
                _log.warning("batch %d: %s alone tells its slot's end", number, gateway.name)
                continue
            with sessions.begin() as session:
                store.insert_facts(session, domain.broadcaster, [stored_fact(used.fact)])
            _log.warning("batch %d: %s tells its slot's end", leaf.batch_number, gateway.name)
            return
        _log.error(
            "batch %d: %s has sequence %d used and no transaction for it",
            leaf.batch_number,
            gateway.name,
            leaf.channel_sequence,
        )
