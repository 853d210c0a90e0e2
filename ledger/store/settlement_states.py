"""What a payout batch and an anchor can be, and which moves exist.

    planned ──sign, commit envelope──> signed(k) ──send──> in_flight(k)
       signed, in_flight ── found in a ledger, succeeded ───────────────────> paid
       signed, in_flight ── found, failed, sequence consumed ───────────────> failed
       signed, in_flight ── not found, and proof that it never can be ──────> expired(k)
       expired(k) ──sign, commit envelope──> signed(k+1), the same slot
       any undecided ── cancelled, or stuck ────────────────────────────────> burning
       burning(k) ──sign a no-op for the slot, commit it──> burning(k+1), the same slot
       any undecided ── our no-op found in a ledger, sequence consumed ─────> burned
       any undecided ── the slot holds a transaction nobody planned, ───────> halted
                        or the leaf to sign is not proven to be in the log

A batch is bound to one slot for life, so whatever happens twice (a crash, a second worker, a lost
database), the protocol applies at most one transaction for it. While a batch burns, its payment and
its no-op race for the slot, and the one that the network applies decides: paid or burned. That a
ledger has it is believed from any state that is not decided, `planned` and `expired` included: a
restored backup may have forgotten the envelope that was sent. What failed or burned is owed again,
in a new batch with a new slot. Anchors never burn.
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
    BURNING = "burning"
    PAID = "paid"
    BURNED = "burned"
    FAILED = "failed"
    HALTED = "halted"


_P, _S, _I, _E, _B = (
    SettlementState.PLANNED,
    SettlementState.SIGNED,
    SettlementState.IN_FLIGHT,
    SettlementState.EXPIRED,
    SettlementState.BURNING,
)
DECIDED: Final = frozenset(
    {
        SettlementState.PAID,
        SettlementState.BURNED,
        SettlementState.FAILED,
        SettlementState.HALTED,
    }
)
"""States in which a slot is used up for good."""

TRANSITIONS: Final[Mapping[SettlementState, frozenset[SettlementState]]] = {
    _P: frozenset({_S, _B}) | DECIDED,
    _S: frozenset({_I, _E, _B}) | DECIDED,
    _I: frozenset({_E, _B}) | DECIDED,
    _E: frozenset({_S, _B}) | DECIDED,
    _B: frozenset({_B}) | DECIDED,
    **dict.fromkeys(DECIDED, frozenset[SettlementState]()),
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
