"""Settlement: from planned batches and anchors to payments and anchors on the chain, exactly once.

`settle` is one tick: read the network's facts, decide what they decide, give up what provably can
never happen, sign what is ready, and send what is signed. Each step is one commit and may be the
last one before a crash; the next tick goes on from what is stored. Two workers may run at once:
they make the same bytes, and only one moves a row. The rules:

- an envelope and its hash are committed before they are sent, and re-sent unchanged;
- that something happened is believed when a ledger has it, from any source;
- that it never will is believed only of closed ledgers behind both its bounds, a source account
  whose sequence is still below the slot, and unknown hashes, from as many sources as configured;
  never of an API's error or a refused submission;
- a new attempt takes the same slot, so the network can apply at most one of them;
- only a payout leaf that is proven to be in the anchored log is signed; another halts the domain;
- a slot that holds a transaction nobody planned halts the domain: a person looks; so does money
  of ours that moved without a plan, and a balance that is not the books' (`book_watch`).

Order: the anchor of an epoch, then its funding batch, then its payments; slots of one channel one
after another.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import AppliedTransaction
from ledger.evidence.leaf import PAYOUT_FUNDING, PayoutLeaf
from ledger.evidence.units import format_stroops
from ledger.stellar.anchors import settle_anchors
from ledger.stellar.book_watch import watch_books
from ledger.stellar.domain import SettlementDomain
from ledger.stellar.envelopes import next_attempt, payout_memo, sign_payout
from ledger.stellar.errors import ExternalSignerError, GatewayError, TreasuryError
from ledger.stellar.evidence import is_dead
from ledger.stellar.facts import ingest_facts
from ledger.stellar.gateway import Gateway, NetworkLedger
from ledger.stellar.gathering import ask_settlers, drop_requests
from ledger.stellar.horizon import result_code_of
from ledger.stellar.payout_proof import AnchoredLog
from ledger.stellar.sending import send_once, stored_attempt
from ledger.stellar.signing import SignaturesMissingError
from ledger.store import settlement_store as store
from ledger.store.engine import Session, SessionFactory
from ledger.store.errors import UnprovenError
from ledger.store.halt_store import load_halts
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import Batch
from ledger.store.settlement_tables import BATCH

_log = logging.getLogger(__name__)

_SIGNED = frozenset({SettlementState.SIGNED, SettlementState.IN_FLIGHT})
_UNSIGNED = frozenset({SettlementState.PLANNED, SettlementState.EXPIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementReport:
    """What one tick found and did."""

    latest: NetworkLedger | None
    """Newest closed ledger of the first source; None if it gave no answer."""

    undecided: int
    """Batches whose outcome is open."""

    is_halted: bool
    """Whether a batch is halted or there is a named halt, so that nothing is signed or sent."""

    problem: str
    """Why the tick ended early; empty if it did not. The next tick tries again."""


def settle(
    sessions: SessionFactory, gateways: Sequence[Gateway], domain: SettlementDomain
) -> SettlementReport:
    """Do everything that can be done for one domain now; running it twice changes nothing.

    Args:
        sessions: One transaction a step.
        gateways: Sources; the first one is read and submitted to, the others are asked for
            evidence. At least as many as the policy's `evidence_sources`.
        domain: Whose accounts.

    Raises:
        ValueError: Too few gateways.
        ConflictingFactError: The network tells another history than before.
    """
    policy = domain.policy
    if len(gateways) < max(1, policy.evidence_sources):
        raise ValueError(f"gateways: got {len(gateways)}, want {max(1, policy.evidence_sources)}")
    latest: NetworkLedger | None = None
    problem = ""
    try:
        latest = ingest_facts(
            sessions,
            gateways[0],
            domain.terms,
            margin_ledgers=policy.margin_ledgers,
            witnesses=gateways[1 : policy.evidence_sources],
        )
        domain.signer.refresh()
        settle_anchors(sessions, gateways, domain, latest)
        watch_books(
            sessions,
            gateways[0],
            domain.terms,
            surplus_max_stroops=policy.surplus_max_stroops,
        )
        _settle_batches(sessions, gateways, domain, latest)
    except (GatewayError, ExternalSignerError, TreasuryError) as error:
        _log.warning("settlement: %s", error)
        problem = str(error)
    with sessions() as session:
        undecided = store.load_batches(session, domain.broadcaster, undecided=True)
        is_halted = _is_halted(session, domain)
    return SettlementReport(
        latest=latest, undecided=len(undecided), is_halted=is_halted, problem=problem
    )


def _settle_batches(
    sessions: SessionFactory,
    gateways: Sequence[Gateway],
    domain: SettlementDomain,
    latest: NetworkLedger,
) -> None:
    for batch in _undecided(sessions, domain):
        _decide_by_facts(sessions, gateways[0], domain, batch)
    with sessions() as session:
        if _is_halted(session, domain):
            return
    for batch in _undecided(sessions, domain):
        if batch.state in _SIGNED:
            _expire(sessions, gateways, domain, batch)
    log = AnchoredLog(sessions, gateways[0], domain.terms)
    waiting: list[int] = []
    for batch in _ready(sessions, domain):
        try:
            log.require(batch.leaf)
        except UnprovenError as error:
            _decide(sessions, domain, batch, SettlementState.HALTED, None, str(error))
            return
        if not _sign(sessions, domain, batch, latest):
            waiting.append(batch.leaf.batch_number)
    drop_requests(sessions, domain.broadcaster, waiting)
    for batch in _undecided(sessions, domain):
        if batch.state in _SIGNED:
            _send(sessions, gateways[0], domain, batch, latest)


def _is_halted(session: Session, domain: SettlementDomain) -> bool:
    """Tell whether a batch is halted, or everything for a named reason."""
    is_batch = store.count_halted(session, domain.broadcaster) > 0
    return is_batch or bool(load_halts(session, domain.broadcaster))


def _undecided(sessions: SessionFactory, domain: SettlementDomain) -> tuple[Batch, ...]:
    with sessions() as session:
        return store.load_batches(session, domain.broadcaster, undecided=True)


def _decide_by_facts(
    sessions: SessionFactory, gateway: Gateway, domain: SettlementDomain, batch: Batch
) -> None:
    """Decide a batch whose slot holds a transaction in some ledger."""
    leaf = batch.leaf
    with sessions() as session:
        facts = store.facts_of_slot(
            session, domain.broadcaster, leaf.channel_account, leaf.channel_sequence
        )
    applied = [(read_transaction(fact), fact) for fact in facts]
    if not applied:
        return
    transaction, fact = next(((tx, f) for tx, f in applied if tx.succeeded), applied[-1])
    if transaction.memo_hash != payout_memo(leaf):
        reason = f"slot holds {transaction.tx_hash.hex()}, which nobody planned"
        _decide(sessions, domain, batch, SettlementState.HALTED, transaction, reason)
    elif transaction.succeeded:
        moved, planned = _moved(transaction), _planned(leaf)
        if moved == planned:
            _decide(sessions, domain, batch, SettlementState.PAID, transaction, "")
        else:
            reason = f"{transaction.tx_hash.hex()} moved {len(moved)} amounts, want the planned"
            _decide(sessions, domain, batch, SettlementState.HALTED, transaction, reason)
    else:
        # Some failures charge the fee and leave the slot open: the account tells, not the code.
        view = gateway.account(leaf.channel_account)
        is_consumed = view is not None and view.sequence >= leaf.channel_sequence
        if is_consumed:
            reason = result_code_of(fact.result)
            _decide(sessions, domain, batch, SettlementState.FAILED, transaction, reason)


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


def _decide(
    sessions: SessionFactory,
    domain: SettlementDomain,
    batch: Batch,
    after: SettlementState,
    transaction: AppliedTransaction | None,
    reason: str,
) -> None:
    tx_hash = None if transaction is None else transaction.tx_hash
    with sessions.begin() as session:
        moved = store.move_batch(
            session, domain.broadcaster, batch, after, tx_hash=tx_hash, reason=reason
        )
    if not moved:
        return
    number, total = batch.leaf.batch_number, format_stroops(batch.leaf.total_stroops)
    if after == SettlementState.PAID and transaction is not None:
        _log.info("batch %d: paid %s in ledger %d", number, total, transaction.ledger_sequence)
    else:
        _log.error("batch %d of %s: %s: %s", number, total, after, reason)


def _expire(
    sessions: SessionFactory,
    gateways: Sequence[Gateway],
    domain: SettlementDomain,
    batch: Batch,
) -> None:
    leaf = batch.leaf
    slot = (leaf.channel_account, leaf.channel_sequence)
    with sessions() as session:
        attempts = store.load_attempts(session, domain.broadcaster, BATCH, leaf.batch_number)
        complete = store.fact_progress(session, domain.broadcaster)
    if not is_dead(gateways, domain.policy, slot=slot, attempts=attempts, complete=complete):
        return
    with sessions.begin() as session:
        # What was stored since the facts were read above would forbid it.
        if store.facts_of_slot(session, domain.broadcaster, *slot):
            return
        if store.move_batch(session, domain.broadcaster, batch, SettlementState.EXPIRED):
            _log.warning("batch %d: attempt %d expired", leaf.batch_number, batch.attempt)


def _ready(sessions: SessionFactory, domain: SettlementDomain) -> list[Batch]:
    """Return unsigned batches whose turn it is.

    The first undecided slot of each channel, once the epoch's anchor stands on the chain and, for
    payments, every earlier funding batch is decided.
    """
    with sessions() as session:
        undecided = store.load_batches(session, domain.broadcaster, undecided=True)
        anchored = {
            epoch: anchor is not None and anchor.state == SettlementState.PAID
            for epoch in {batch.leaf.epoch for batch in undecided}
            for anchor in [store.load_anchor(session, domain.broadcaster, epoch)]
        }
    ready: list[Batch] = []
    busy_channels: set[bytes] = set()
    is_funding_open = False
    for batch in undecided:
        leaf = batch.leaf
        is_next_slot = leaf.channel_account not in busy_channels
        busy_channels.add(leaf.channel_account)
        is_funding = leaf.kind == PAYOUT_FUNDING
        if (
            is_next_slot
            and batch.state in _UNSIGNED
            and anchored[leaf.epoch]
            and (is_funding or not is_funding_open)
        ):
            ready.append(batch)
        is_funding_open |= is_funding
    return ready


def _sign(
    sessions: SessionFactory, domain: SettlementDomain, batch: Batch, latest: NetworkLedger
) -> bool:
    """Sign the next attempt and commit it, or ask settlers to; nothing is sent here.

    Returns:
        Whether it does not wait for signatures.
    """
    leaf, policy = batch.leaf, domain.policy
    attempt = next_attempt(
        leaf,
        domain.terms,
        latest,
        least=batch.attempt + 1,
        margin_ledgers=policy.room_ledgers,
        margin_s=policy.room_s,
    )
    try:
        signed = sign_payout(leaf, attempt, domain.terms, domain.passphrase, domain.signer)
    except SignaturesMissingError as missing:
        ask_settlers(sessions, domain.terms, leaf, attempt, missing.transaction)
        return False
    stored = stored_attempt(
        signed, attempt, account=leaf.channel_account, sequence=leaf.channel_sequence
    )
    with sessions.begin() as session:
        if store.move_batch(
            session, domain.broadcaster, batch, SettlementState.SIGNED, attempt=attempt
        ):
            store.insert_attempt(session, domain.broadcaster, BATCH, leaf.batch_number, stored)
    # From here on the envelope and its hash are durable, and it may be sent.
    return True


def _send(
    sessions: SessionFactory,
    gateway: Gateway,
    domain: SettlementDomain,
    batch: Batch,
    latest: NetworkLedger,
) -> None:
    """Send the stored envelope, at most once a ledger."""
    number = batch.leaf.batch_number
    with sessions() as session:
        attempt = store.load_attempts(session, domain.broadcaster, BATCH, number)[-1]
    if send_once(sessions, gateway, attempt, latest) and batch.state == SettlementState.SIGNED:
        with sessions.begin() as session:
            store.move_batch(session, domain.broadcaster, batch, SettlementState.IN_FLIGHT)
