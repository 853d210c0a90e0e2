"""Standing: what sealed instructions left behind, as rows of the state.

Where a payee is paid and whether it asked to be paid now, what was seen of an account on the
network, the broadcaster's request for a refund, and amounts that are still in their challenge
window. Types and small questions about them; how they change stands in `instructing`, what they
mean for a payout in `payouts`.
"""

from dataclasses import dataclass
from enum import IntEnum

from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.instruction import Readiness

BUCKETS_MAX = 8
"""Most amounts of a payee that wait for their challenge window at once, under one set of terms."""


class CarryReason(IntEnum):
    """Why a payee's money is still carried when an epoch closes. Numbers are never reused."""

    NOTHING_OWED = 0
    """Nothing is carried."""

    PLANNED = 1
    """A batch of this epoch pays what may be paid."""

    BELOW_THRESHOLD = 2
    """What may be paid is below the terms' threshold."""

    IN_CHALLENGE = 3
    """What is owed may only be paid when its challenge window is over."""

    UNDECIDED = 4
    """A batch of an earlier epoch would pay it, and no network ledger has decided that."""

    NOT_COVERED = 5
    """Escrow does not hold enough for everybody."""

    NO_CHANNEL = 6
    """No channel account of the terms is on the network yet."""

    FORBIDDEN_ADDRESS = 7
    """It would be paid to an account of the settlement itself, or to the asset's issuer."""

    NO_ACCOUNT = 17
    """The account to pay to does not exist, as the operator saw it."""

    NO_TRUSTLINE = 18
    """It holds no trustline to the asset."""

    NOT_AUTHORISED = 19
    """The issuer has not authorised its trustline."""

    LINE_FULL = 20
    """Its trustline has no room for the amount."""

    MEMO_REQUIRED = 21
    """Its owner takes no payment without a memo of its own."""

    FROZEN = 22
    """The network refuses transactions that touch it."""


NOT_READY_BASE = 16
"""A `Readiness` plus this is the `CarryReason` of a payee that is not ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A payee's own instructions."""

    pay_to: bytes = ZERO_KEY
    """Account that is paid; zeros: the payee's own; 32 bytes."""

    pay_to_serial: int = 0
    """Serial of the newest instruction about it."""

    next_pay_to: bytes = ZERO_KEY
    """Account that is paid from `next_from_s` on; zeros: no change is due; 32 bytes."""

    next_from_s: int = 0
    """Close time from which the next account is paid; 0 without one."""

    cash_out_serial: int = 0
    """Serial of the newest cash-out."""

    cash_out_open: bool = False
    """It asked to be paid below the threshold, and was not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenAccount:
    """What the operator saw last of an account on the network."""

    seen_ledger: int
    """Network ledger as of which it was seen."""

    readiness: int
    """A `Readiness`."""

    entry_ledger: int
    """Network ledger at or before which the entry that decides changed last; 0: none."""

    room_stroops: int
    """What its trustline could take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """The broadcaster asked for unspent deposits."""

    serial: int
    """Of the newest request."""

    left_stroops: int
    """What is still asked for; 0: nothing."""

    planned_stroops: int
    """What an undecided batch pays of this request."""

    due_s: int
    """End of an epoch from which it may be paid: the challenge window has passed."""

    first_epoch: int
    """Epoch from which it may be paid: those before can no longer be corrected."""


MaturingKey = tuple[bytes, int]
"""(payee's account, close time from which the amount may be paid)."""


def maturity_s(*, ended_s: int, window_s: int, genesis_s: int) -> int:
    """Return from when on an amount may be paid that an epoch accrued.

    The challenge window after the epoch's end, rounded up to a seventh of a window counted from
    genesis: so that at most `BUCKETS_MAX` amounts of a payee wait, however short the epochs are,
    and none is paid early.

    Args:
        ended_s: The epoch's end.
        window_s: The terms' challenge window; 0: at once.
        genesis_s: The terms' genesis.
    """
    step_s = -(-window_s // (BUCKETS_MAX - 1)) or 1
    return genesis_s - (genesis_s - ended_s - window_s) // step_s * step_s


def accepts(seen: SeenAccount | None, amount_stroops: int) -> Readiness:
    """Tell whether an account can take an amount, as far as anybody looked: `READY` or why not."""
    if seen is None:
        return Readiness.READY
    if seen.readiness == Readiness.READY and amount_stroops > seen.room_stroops:
        return Readiness.LINE_FULL
    return Readiness(seen.readiness)
