"""Sending a stored envelope: unchanged, at most once for each closed ledger, and believing nothing.

The answer is noted for people. Whatever it says, the envelope's fate stands in a ledger or in the
proof that no ledger can have it (`ledger.stellar.evidence`).
"""

import logging

from ledger.stellar.envelopes import SignedEnvelope
from ledger.stellar.gateway import Gateway, NetworkLedger, SubmitStatus
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_store import Attempt

_log = logging.getLogger(__name__)


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
    sessions: SessionFactory, gateway: Gateway, attempt: Attempt, latest: NetworkLedger
) -> bool:
    """Send unless it was sent since the last close or its bounds are over; tells whether it did."""
    if latest.sequence >= attempt.max_ledger_sequence or latest.close_time_s > attempt.max_time_s:
        return False
    with sessions() as session:
        if store.last_sent_sequence(session, attempt.tx_hash) >= latest.sequence:
            return False
    answer = gateway.submit(attempt.envelope)
    if answer.status == SubmitStatus.REJECTED:
        _log.warning("transaction %s: refused with %s", attempt.tx_hash.hex(), answer.code)
    with sessions.begin() as session:
        store.note_sending(
            session,
            attempt.tx_hash,
            ledger_sequence=latest.sequence,
            status=answer.status,
            code=answer.code,
        )
    return True
