"""Sending a stored envelope: unchanged, at most once for each closed ledger, and believing nothing.

What goes out is the newest of an attempt's envelopes: itself, or the last fee bump around it. A
source that refuses by its own policy is passed over for the next one. The answer is noted for
people and for the next bid. Whatever it says, the envelope's fate stands in a ledger or in the
proof that no ledger can have it (`ledger.stellar.evidence`).
"""

import logging
from dataclasses import dataclass

from ledger.stellar.domain import SettlementDomain
from ledger.stellar.envelopes import SignedEnvelope
from ledger.stellar.failures import Reaction, reaction_to_answer
from ledger.stellar.fees import Bidding, raise_bid
from ledger.stellar.gateway import NetworkLedger, SubmitAnswer, SubmitStatus
from ledger.stellar.outlook import Outlook
from ledger.store import sending_store
from ledger.store.engine import SessionFactory
from ledger.store.sending_store import Sending
from ledger.store.settlement_store import Attempt

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What sending an envelope came to."""

    answer: SubmitAnswer
    """The last one."""

    is_banned: bool
    """Whether a node refuses again what it was sent ledgers ago, and no more could be bid."""


def stored_attempt(
    signed: SignedEnvelope, attempt: int, *, account: bytes, sequence: int
) -> Attempt:
    """Return a signed envelope in the form it is stored in."""
    return Attempt(
        attempt=attempt,
        source_account=account,
        sequence=sequence,
        envelope=signed.envelope,
        tx_hash=signed.tx_hash,
        max_ledger_sequence=signed.bounds.max_ledger_sequence,
        max_time_s=signed.bounds.max_time_s,
    )


def send_once(
    sessions: SessionFactory,
    outlook: Outlook,
    domain: SettlementDomain,
    bidding: Bidding,
    *,
    may_bump: bool,
) -> Sent | None:
    """Send unless it was sent since the last close or its bounds are over.

    Args:
        sessions: One commit for each raised bid and one for the answer.
        outlook: What the sources say now.
        domain: Whose envelope.
        bidding: The attempt, stored before, and what it offers.
        may_bump: Whether a higher bid may be offered.

    Returns:
        The last answer and what it means; None if nothing was sent.

    Raises:
        StellarError: The fee account's key or its holder gave no usable answer.
    """
    attempt, latest = bidding.attempt, outlook.latest
    if _is_over(attempt, latest):
        return None
    with sessions() as session:
        bumps = sending_store.load_bumps(session, [attempt.tx_hash])
        newest_hash = bumps[-1].outer_hash if bumps else attempt.tx_hash
        before = sending_store.load_sending(session, newest_hash)
    if before is not None and before.ledger_sequence >= latest.sequence:
        return None
    envelope = bumps[-1].envelope if bumps else attempt.envelope
    raised = None
    if may_bump:
        raised = raise_bid(sessions, outlook, domain, bidding, is_refused=False)
        if raised is not None:
            newest_hash, envelope = raised.outer_hash, raised.envelope
    answer = _submit(sessions, outlook, newest_hash, envelope)
    is_banned = raised is None and _is_banned(before, answer, domain, latest)
    while may_bump and (is_banned or reaction_to_answer(answer) == Reaction.RAISE_BID):
        raised = raise_bid(sessions, outlook, domain, bidding, is_refused=True)
        if raised is None:
            break
        is_banned = False
        answer = _submit(sessions, outlook, raised.outer_hash, raised.envelope)
    return Sent(answer=answer, is_banned=is_banned)


def _is_banned(
    before: Sending | None, answer: SubmitAnswer, domain: SettlementDomain, latest: NetworkLedger
) -> bool:
    """Tell whether a node that took an envelope once, or had no room for it, refuses it now."""
    if before is None or answer.status != SubmitStatus.TRY_AGAIN:
        return False
    waited = latest.sequence - before.first_sequence
    return before.status == SubmitStatus.TRY_AGAIN or waited >= domain.policy.bump_after_ledgers


def _is_over(attempt: Attempt, latest: NetworkLedger) -> bool:
    return (
        latest.sequence >= attempt.max_ledger_sequence or latest.close_time_s > attempt.max_time_s
    )


def _submit(
    sessions: SessionFactory, outlook: Outlook, envelope_hash: bytes, envelope: bytes
) -> SubmitAnswer:
    answer = SubmitAnswer(status=SubmitStatus.UNKNOWN)
    for gateway in outlook.gateways:
        answer = gateway.submit(envelope)
        if reaction_to_answer(answer) != Reaction.ASK_ELSEWHERE:
            break
    if answer.status == SubmitStatus.REJECTED:
        _log.warning("transaction %s: refused with %s", envelope_hash.hex(), answer.code)
    with sessions.begin() as session:
        sending_store.note_sending(
            session,
            envelope_hash,
            ledger_sequence=outlook.latest.sequence,
            status=answer.status,
            code=answer.code,
        )
    return answer
