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

from ledger.stellar.domain import Policy
from ledger.stellar.gateway import NetworkLedger
from ledger.store.settlement_store import Attempt

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
