"""Burning: a batch is cancelled by using its slot up with a transaction that does nothing.

The no-op is a set_options that sets nothing, from the same channel with the same sequence number;
its memo is a hash of the batch's memo under a domain of its own, so the books and everybody else
can tell that the batch is void. Payment and no-op may both be out: the network applies one of them,
and that one decides. A no-op whose bounds are over is followed by another one without further
evidence, because whichever of them is applied says the same.
"""

import logging

from ledger.evidence.leaf import PayoutLeaf
from ledger.evidence.terms import Terms
from ledger.stellar.burn_rules import build_burn
from ledger.stellar.domain import SettlementDomain
from ledger.stellar.envelopes import SignedEnvelope, next_attempt, own_demands, sign_envelope
from ledger.stellar.gateway import NetworkLedger
from ledger.stellar.gathering import ask_settlers
from ledger.stellar.sending import stored_attempt
from ledger.stellar.signing import SignaturesMissingError, Signer
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import Attempt, Batch
from ledger.store.settlement_tables import BURN

_log = logging.getLogger(__name__)

OPERATIONS = 1
"""Operations of a no-op."""


def sign_burn(
    leaf: PayoutLeaf,
    attempt: int,
    terms: Terms,
    passphrase: str,
    signer: Signer,
    *,
    isolates: bool,
) -> SignedEnvelope:
    """Return the signed no-op of one attempt: a pure function of the leaf and the flag.

    Raises:
        SignaturesMissingError: Others have not signed yet.
        StellarError: A key or its holder gave no usable answer.
    """
    unsigned = build_burn(leaf, attempt, terms, passphrase, isolates=isolates)
    return sign_envelope(unsigned, own_demands(leaf.channel_account), signer)


def tend_burn(
    sessions: SessionFactory, domain: SettlementDomain, batch: Batch, now: NetworkLedger
) -> Attempt | None:
    """Return the no-op to send for a burning batch, signed and committed if there was none.

    Returns:
        None if another worker moved the batch.

    Raises:
        SignaturesMissingError: Settlers have been asked, and not enough have signed yet.
        StellarError: A key or its holder gave no usable answer.
    """
    leaf = batch.leaf
    with sessions() as session:
        burns = store.load_attempts(session, domain.broadcaster, BURN, leaf.batch_number)
    if burns and not _is_over(burns[-1], now):
        return burns[-1]
    attempt = next_no_op(domain, batch, now)
    try:
        return sign_no_op(sessions, domain, batch, attempt, reason=batch.reason)
    except SignaturesMissingError as missing:
        ask_settlers(sessions, domain.terms, leaf, attempt, missing.transaction, purpose=BURN)
        raise


def next_no_op(domain: SettlementDomain, batch: Batch, now: NetworkLedger) -> int:
    """Return the attempt whose no-op has fresh bounds, behind the newest closed ledger."""
    return next_attempt(
        batch.leaf,
        domain.terms,
        now,
        least=batch.attempt + 1,
        margin_ledgers=domain.policy.room_ledgers,
        margin_s=domain.policy.room_s,
    )


def sign_no_op(
    sessions: SessionFactory, domain: SettlementDomain, batch: Batch, attempt: int, *, reason: str
) -> Attempt | None:
    """Let a batch burn with the no-op of an attempt; nothing is sent here.

    The signature comes first, then move and envelope are one commit: a batch that nobody can sign
    a no-op for stays as it is.

    Args:
        sessions: One commit is made.
        domain: Whose batch.
        batch: As it was read: signed, in flight, or burning without a no-op that is of use.
        attempt: From `next_no_op`.
        reason: What people read.

    Returns:
        What may be sent; None if another worker moved the batch.

    Raises:
        SignaturesMissingError: Others would have to sign.
        StellarError: A key or its holder gave no usable answer.
    """
    leaf = batch.leaf
    signed = sign_burn(
        leaf, attempt, domain.terms, domain.passphrase, domain.signer, isolates=batch.isolates
    )
    stored = stored_attempt(
        signed, attempt, account=leaf.channel_account, sequence=leaf.channel_sequence
    )
    with sessions.begin() as session:
        if not store.move_batch(
            session,
            domain.broadcaster,
            batch,
            SettlementState.BURNING,
            attempt=attempt,
            reason=reason,
            isolates=batch.isolates,
        ):
            return None
        store.insert_attempt(session, domain.broadcaster, BURN, leaf.batch_number, stored)
    # From here on the no-op and its hash are durable, and it may be sent.
    return stored


def _is_over(attempt: Attempt, now: NetworkLedger) -> bool:
    return now.sequence >= attempt.max_ledger_sequence or now.close_time_s > attempt.max_time_s
