"""Overdue: envelopes that nobody waits for any more, and the no-op that takes their slot instead.

After a stall or a jump of the network's clock the last time of an envelope may be over while its
last ledger lies far ahead. It can never be applied then, but the proof of `ledger.stellar.evidence`
wants both bounds over. Nobody has to wait for that: a no-op in the same slot with bounds of its own
is decided by the next ledgers, and harmless whatever is true. If the payment was applied, the slot
is used and the no-op is refused; if both are out, the network takes one; if the payment is dead,
the no-op is applied and the batch is owed again. The same goes for an envelope that a node has
banned when nothing more can be bid. Nothing here concludes that a payment did not happen.
"""

from collections.abc import Sequence

from ledger.stellar.burning import sign_burn
from ledger.stellar.domain import Policy, SettlementDomain
from ledger.stellar.envelopes import next_attempt
from ledger.stellar.gateway import NetworkLedger
from ledger.stellar.sending import stored_attempt
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import Attempt, Batch
from ledger.store.settlement_tables import BURN

OVERDUE = "no ledger can take its envelope any more"
"""Reason: one of the bounds is over."""

TOO_LATE = "its envelope is refused as too late"
"""Reason: a node sees one of the bounds come."""

BANNED = "its envelope is banned, and no more can be bid"
"""Reason: a node has dropped it, and takes it only many ledgers later."""

MAKES_WAY = "the funding that covers it waits behind it"
"""Reason: an earlier funding batch was burned, and the next one has a slot of the same channel."""


def can_be_next(attempt: Attempt, closed: NetworkLedger, policy: Policy) -> bool:
    """Tell whether the ledger after a closed one may take an envelope, as far as bounds say."""
    return (
        closed.sequence + 1 < attempt.max_ledger_sequence
        and closed.close_time_s + policy.close_s <= attempt.max_time_s
    )


def ledgers_to_proof(attempts: Sequence[Attempt], closed: NetworkLedger, policy: Policy) -> int:
    """Return how many ledgers from now the proof that all attempts are dead takes about; ≥ 1.

    Args:
        attempts: Everything signed for the slot, at least one.
        closed: The newest ledger that every source has closed.
        policy: The margin, and how far ledgers lie apart.
    """
    last = max(attempt.max_ledger_sequence for attempt in attempts)
    last_s = max(attempt.max_time_s for attempt in attempts)
    by_ledger = last + policy.margin_ledgers + 1 - closed.sequence
    by_time = (last_s - closed.close_time_s) // policy.close_s + 1
    return max(1, by_ledger, by_time)


def sign_no_op(
    sessions: SessionFactory,
    domain: SettlementDomain,
    batch: Batch,
    now: NetworkLedger,
    *,
    reason: str,
) -> Batch | None:
    """Let a batch burn with a no-op whose bounds are fresh; nothing is sent here.

    The signature comes first, then move and envelope are one commit: a batch that nobody can sign
    a no-op for stays as it is.

    Args:
        sessions: One commit is made.
        domain: Whose batch.
        batch: As it was read: signed, in flight, or burning with a no-op that is of no use.
        now: The newest closed ledger; the no-op's bounds lie behind it.
        reason: What people read.

    Returns:
        The batch as it stands now; None if another worker moved it.

    Raises:
        SignaturesMissingError: Others would have to sign.
        StellarError: A key or its holder gave no usable answer.
    """
    leaf, policy, terms = batch.leaf, domain.policy, domain.terms
    attempt = next_attempt(
        leaf,
        terms,
        now,
        least=batch.attempt + 1,
        margin_ledgers=policy.room_ledgers,
        margin_s=policy.room_s,
    )
    signed = sign_burn(
        leaf, attempt, terms, domain.passphrase, domain.signer, isolates=batch.isolates
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
        return store.load_batch(session, domain.broadcaster, leaf.batch_number)
