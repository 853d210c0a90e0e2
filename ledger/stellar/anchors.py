"""Anchors: each epoch's checkpoint hash on the chain, by the anchor account's own transactions.

The same discipline as for payouts: the envelope is committed before it is sent, sent unchanged,
and replaced only after proof that it is dead. An anchor has no planned slot; it takes the account's
next sequence number, one anchor at a time, in the order of epochs. What counts is a successful
transaction of the anchor account whose memo is the checkpoint's hash.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from ledger.stellar.domain import SettlementDomain
from ledger.stellar.envelopes import Bounds, build_anchor, own_demands, sign_envelope
from ledger.stellar.evidence import is_dead
from ledger.stellar.gateway import Gateway, NetworkLedger
from ledger.stellar.sending import send_once, stored_attempt
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import Anchor, Attempt
from ledger.store.settlement_tables import ANCHOR

_log = logging.getLogger(__name__)


def settle_anchors(
    sessions: SessionFactory,
    gateways: Sequence[Gateway],
    domain: SettlementDomain,
    latest: NetworkLedger,
) -> None:
    """Decide, replace, sign and send anchors as far as it goes now.

    Raises:
        GatewayError: A source gave no usable answer; what was committed stays.
    """
    with sessions() as session:
        undecided = store.load_undecided_anchors(session, domain.broadcaster)
    for anchor in undecided:
        if not _is_decided(sessions, domain, anchor):
            # The next epoch's anchor waits for this one: both take the next sequence number.
            _push(sessions, gateways, domain, anchor, latest)
            return


def _is_decided(sessions: SessionFactory, domain: SettlementDomain, anchor: Anchor) -> bool:
    with sessions.begin() as session:
        found = store.fact_with_memo(
            session, domain.broadcaster, domain.terms.anchor_account, anchor.body_hash
        )
        if found is None:
            return False
        tx_hash, fact = found
        if store.move_anchor(
            session, domain.broadcaster, anchor, SettlementState.PAID, tx_hash=tx_hash
        ):
            _log.info("epoch %d: anchored in ledger %d", anchor.epoch, fact.ledger_sequence)
    return True


def _push(
    sessions: SessionFactory,
    gateways: Sequence[Gateway],
    domain: SettlementDomain,
    anchor: Anchor,
    latest: NetworkLedger,
) -> None:
    """Bring one anchor as far as it goes: expire, sign, send."""
    broadcaster = domain.broadcaster
    with sessions() as session:
        attempts = store.load_attempts(session, broadcaster, ANCHOR, anchor.epoch)
    if anchor.state in {SettlementState.SIGNED, SettlementState.IN_FLIGHT}:
        if not _expire(sessions, gateways, domain, anchor, attempts[-1]):
            _send(sessions, gateways[0], domain, anchor, attempts[-1], latest)
            return
        anchor = replace(anchor, state=SettlementState.EXPIRED)
    signed = _sign(sessions, gateways[0], domain, anchor, latest)
    if signed is not None:
        anchor = replace(anchor, state=SettlementState.SIGNED, attempt=signed.attempt)
        _send(sessions, gateways[0], domain, anchor, signed, latest)


def _expire(
    sessions: SessionFactory,
    gateways: Sequence[Gateway],
    domain: SettlementDomain,
    anchor: Anchor,
    attempt: Attempt,
) -> bool:
    """Give an attempt up once it is dead; tells whether this call did."""
    slot = (attempt.source_account, attempt.sequence)
    with sessions() as session:
        complete = store.fact_progress(session, domain.broadcaster)
        facts = store.facts_of_slot(session, domain.broadcaster, *slot)
    # Without our memo (that was looked for first) the slot went to something else for good.
    is_taken = any(complete and fact.ledger_sequence <= complete.sequence for fact in facts)
    if not is_taken and not is_dead(
        gateways, domain.policy, slot=slot, attempts=[attempt], complete=complete
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
    signed = sign_envelope(unsigned, own_demands(terms.anchor_account), domain.signer)
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
    gateway: Gateway,
    domain: SettlementDomain,
    anchor: Anchor,
    attempt: Attempt,
    latest: NetworkLedger,
) -> None:
    if send_once(sessions, gateway, attempt, latest) and anchor.state == SettlementState.SIGNED:
        with sessions.begin() as session:
            store.move_anchor(session, domain.broadcaster, anchor, SettlementState.IN_FLIGHT)
