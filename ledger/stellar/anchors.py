"""Anchors: each epoch's checkpoint hash on the chain, by the anchor account's own transactions.

The same discipline as for payouts: the envelope is committed before it is sent, sent unchanged,
and replaced only after proof that it is dead. An anchor has no planned slot; it takes the account's
next sequence number, one anchor at a time, in the order of epochs. What counts is a successful
transaction of the anchor account, of the epoch's terms or of those in force, whose memo is the
checkpoint's hash and which does nothing else (`settler_chain.is_anchor`, the settlers' rule too).
"""

import logging
from dataclasses import replace

from ledger.stellar.domain import SettlementDomain
from ledger.stellar.envelopes import Bounds, build_anchor, own_demands, sign_envelope
from ledger.stellar.evidence import is_dead
from ledger.stellar.failures import Reaction, reaction_to_answer
from ledger.stellar.fees import Bidding
from ledger.stellar.gateway import Gateway, NetworkLedger
from ledger.stellar.outlook import Outlook
from ledger.stellar.sending import send_once, stored_attempt
from ledger.stellar.settler_chain import is_anchor
from ledger.stellar.signing import SignaturesMissingError
from ledger.stellar.stopping import load_stops, stop_for
from ledger.store import sending_store
from ledger.store import settlement_store as store
from ledger.store.engine import Session, SessionFactory
from ledger.store.errors import UnprovenError
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import Anchor, Attempt
from ledger.store.settlement_tables import ANCHOR
from ledger.store.shard_store import authentic_terms, find_shard

_log = logging.getLogger(__name__)


def settle_anchors(sessions: SessionFactory, outlook: Outlook, domain: SettlementDomain) -> None:
    """Decide, replace, sign and send anchors as far as it goes now.

    Raises:
        GatewayError: A source gave no usable answer; what was committed stays.
    """
    with sessions() as session:
        undecided = store.load_undecided_anchors(session, domain.broadcaster)
    for anchor in undecided:
        if not _is_decided(sessions, domain, anchor):
            # The next epoch's anchor waits for this one: both take the next sequence number.
            _push(sessions, outlook, domain, anchor)
            return


def _is_decided(sessions: SessionFactory, domain: SettlementDomain, anchor: Anchor) -> bool:
    with sessions.begin() as session:
        accounts = _anchor_accounts(session, domain, anchor.epoch)
        named = store.facts_with_memo(session, domain.broadcaster, accounts, anchor.body_hash)
        found = [each for each in named if is_anchor(each[1], {anchor.body_hash}, accounts)]
        if not found:
            return False
        tx_hash, fact = found[0]
        if store.move_anchor(
            session, domain.broadcaster, anchor, SettlementState.PAID, tx_hash=tx_hash
        ):
            _log.info("epoch %d: anchored in ledger %d", anchor.epoch, fact.ledger_sequence)
    return True


def _anchor_accounts(session: Session, domain: SettlementDomain, epoch: int) -> frozenset[bytes]:
    """Return the anchor accounts of the terms in force and of an epoch's own, if these are proven.

    Terms that the broadcaster did not sign name nobody; what is paid under them halts the domain.
    """
    own = domain.terms.anchor_account
    try:
        terms = authentic_terms(session, find_shard(session, domain.broadcaster), epoch).value
    except UnprovenError:
        return frozenset((own,))
    return frozenset((own, terms.anchor_account))


def _push(
    sessions: SessionFactory, outlook: Outlook, domain: SettlementDomain, anchor: Anchor
) -> None:
    """Bring one anchor as far as it goes: expire, sign, send."""
    broadcaster = domain.broadcaster
    with sessions() as session:
        attempts = store.load_attempts(session, broadcaster, ANCHOR, anchor.epoch)
    if anchor.state in {SettlementState.SIGNED, SettlementState.IN_FLIGHT}:
        if not _expire(sessions, outlook, domain, anchor, attempts[-1]):
            _send(sessions, outlook, domain, anchor, attempts[-1])
            return
        anchor = replace(anchor, state=SettlementState.EXPIRED)
    signed = _sign(sessions, outlook.primary, domain, anchor, outlook.latest)
    if signed is not None:
        anchor = replace(anchor, state=SettlementState.SIGNED, attempt=signed.attempt)
        _send(sessions, outlook, domain, anchor, signed)


def _expire(
    sessions: SessionFactory,
    outlook: Outlook,
    domain: SettlementDomain,
    anchor: Anchor,
    attempt: Attempt,
) -> bool:
    """Give an attempt up once it is dead; tells whether this call did."""
    slot = (attempt.source_account, attempt.sequence)
    with sessions() as session:
        complete = store.fact_progress(session, domain.broadcaster)
        facts = store.facts_of_slot(session, domain.broadcaster, *slot)
        bumps = sending_store.load_bumps(session, [attempt.tx_hash])
    # Without our memo (that was looked for first) the slot went to something else for good.
    is_taken = any(complete and fact.ledger_sequence <= complete.sequence for fact in facts)
    if not is_taken and not is_dead(
        outlook.gateways,
        domain.policy,
        slot=slot,
        attempts=[attempt],
        complete=complete,
        outer_hashes=[bump.outer_hash for bump in bumps],
        marks=outlook.marks,
    ):
        return False
    with sessions.begin() as session:
        moved = store.move_anchor(session, domain.broadcaster, anchor, SettlementState.EXPIRED)
    if moved:
        _log.warning("anchor of epoch %d: attempt %d expired", anchor.epoch, anchor.attempt)
    return moved


def _sign(
    sessions: SessionFactory,
    gateway: Gateway,
    domain: SettlementDomain,
    anchor: Anchor,
    latest: NetworkLedger,
) -> Attempt | None:
    """Sign the next attempt and commit it; None if it cannot be done now."""
    terms = domain.terms
    view = gateway.account(terms.anchor_account)
    if view is None or view.as_of_sequence < latest.sequence:
        return None
    sequence, number = view.sequence + 1, anchor.attempt + 1
    unsigned = build_anchor(
        anchor.body_hash,
        terms.anchor_account,
        sequence=sequence,
        bounds=Bounds(
            max_ledger_sequence=latest.sequence
            + max(terms.attempt_window_ledgers, domain.policy.room_ledgers + 1),
            max_time_s=latest.close_time_s + max(terms.attempt_window_s, domain.policy.room_s),
        ),
        fee_bid_stroops=terms.fee_bid_stroops,
        passphrase=domain.passphrase,
    )
    try:
        signed = sign_envelope(unsigned, own_demands(terms.anchor_account), domain.signer)
    except SignaturesMissingError as missing:
        _log.error("anchor of epoch %d: got no key that signs it: %s", anchor.epoch, missing)
        return None
    attempt = stored_attempt(signed, number, account=terms.anchor_account, sequence=sequence)
    with sessions.begin() as session:
        if not store.move_anchor(
            session, domain.broadcaster, anchor, SettlementState.SIGNED, attempt=number
        ):
            return None
        store.insert_attempt(session, domain.broadcaster, ANCHOR, anchor.epoch, attempt)
    # From here on the envelope and its hash are durable, and it may be sent.
    return attempt


def _send(
    sessions: SessionFactory,
    outlook: Outlook,
    domain: SettlementDomain,
    anchor: Anchor,
    attempt: Attempt,
) -> None:
    account = domain.terms.anchor_account
    stopped = {stop.account for stop in load_stops(sessions, domain)}
    if account in stopped:
        return
    bid_stroops = domain.terms.fee_bid_stroops
    bidding = Bidding(
        attempt=attempt, operations=1, bid_stroops=bid_stroops, replaces_stroops=bid_stroops
    )
    may_bump = domain.terms.fee_account not in stopped
    sent = send_once(sessions, outlook, domain, bidding, may_bump=may_bump)
    if sent is None:
        return
    answer = sent.answer
    if anchor.state == SettlementState.SIGNED:
        with sessions.begin() as session:
            store.move_anchor(session, domain.broadcaster, anchor, SettlementState.IN_FLIGHT)
    reaction = reaction_to_answer(answer)
    # Nothing but the account itself is in an anchor: whatever refuses it for good is its lane's.
    if reaction in {Reaction.BURN, Reaction.HALT}:
        reaction = Reaction.HALT_LANE
    with sessions.begin() as session:
        stop_for(
            session,
            domain,
            reaction,
            cause=answer.code,
            reason=f"anchor of epoch {anchor.epoch}: refused with {answer.code}",
            now=outlook.latest,
            account=account,
        )
