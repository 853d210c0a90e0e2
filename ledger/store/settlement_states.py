"""What a payout batch and an anchor can be, and which moves exist.

    planned ──sign, commit envelope──> signed(k) ──send──> in_flight(k)
       signed, in_flight ── found in a ledger, succeeded ───────────────────> paid
       signed, in_flight ── found, failed, sequence consumed ───────────────> failed
       signed, in_flight ── not found, and proof that it never can be ──────> expired(k)
       expired(k) ──sign, commit envelope──> signed(k+1), the same slot
       any undecided ── the slot holds a transaction nobody planned, ───────> halted
                        or the leaf to sign is not proven to be in the log

A batch is bound to one slot for life, so whatever happens twice (a crash, a second worker, a lost
database), the protocol applies at most one transaction for it. That a ledger has it is believed
from any state that is not decided, `planned` and `expired` included: a restored backup may have
forgotten the envelope that was sent.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class SettlementState(StrEnum):
    """State of a batch or an anchor; an anchor that is `paid` stands on the chain."""

    PLANNED = "planned"
    SIGNED = "signed"
    IN_FLIGHT = "in_flight"
    EXPIRED = "expired"
    PAID = "paid"
    FAILED = "failed"
    HALTED = "halted"


_P, _S, _I, _E = (
    SettlementState.PLANNED,
    SettlementState.SIGNED,
    SettlementState.IN_FLIGHT,
    SettlementState.EXPIRED,
)
_DECIDED = frozenset({SettlementState.PAID, SettlementState.FAILED, SettlementState.HALTED})

TRANSITIONS: Final[Mapping[SettlementState, frozenset[SettlementState]]] = {
    _P: frozenset({_S}) | _DECIDED,
    _S: frozenset({_I, _E}) | _DECIDED,
    _I: frozenset({_E}) | _DECIDED,
    _E: frozenset({_S}) | _DECIDED,
    SettlementState.PAID: frozenset(),
    SettlementState.FAILED: frozenset(),
    SettlementState.HALTED: frozenset(),
}
"""State → states that may follow it; everything else is a programming error."""

UNDECIDED: Final = frozenset(state for state, following in TRANSITIONS.items() if following)
"""States in which the outcome is open."""


def require_transition(before: SettlementState, after: SettlementState) -> None:
    """Raise unless the table has this move.

    Raises:
        AssertionError: It has not: our own error, never caught.
    """
    if after not in TRANSITIONS[before]:
        raise AssertionError(f"settlement state: got {before} to {after}, want a listed move")
