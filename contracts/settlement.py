"""The typed face of a rule: lanes in, credits, charges and the closing state out.

What it is: the contract interface as frozen records, the call of the rule, and strict checks of
what it returned. What it does not do: it judges no receipt, reads no clock, and decides no price.
Specification: RULES.md, "Contract interface".

A rule that was voted on is still somebody else's program: nothing that it returns is believed
before it agrees with the lanes, the opening state, and itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.interface import (
    CapUse,
    Charge,
    ContractInputError,
    ContractState,
    CumulativeRow,
    LaneInput,
    LaneOutcome,
    LaneSource,
    Parameters,
)
from contracts.language import Limits, Value
from contracts.output import OutputReader
from contracts.registry import Rule

ENTRY_POINT = "settle"
"""The function of a rule that settles an epoch."""

BASE_STEPS = 1_000_000
STEPS_PER_LANE = 3_000
STEPS_PER_ROW = 1_000
BASE_ALLOCATION_BYTES = 16 << 20
ALLOCATION_BYTES_PER_LANE = 8_192
ALLOCATION_BYTES_PER_ROW = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementResult:
    """What a rule decided about one epoch; every number has been checked."""

    outcomes: tuple[LaneOutcome, ...]
    """One per lane, in the order of the lanes."""

    charges: tuple[Charge, ...]
    """What this epoch adds, sorted by payer, payee, source and price version."""

    closing: ContractState
    """The state with which the next epoch opens."""

    steps: int
    """Steps that the rule took."""

    @property
    def credited_bytes(self) -> int:
        """Bytes credited over all lanes."""
        return sum(outcome.credited_bytes for outcome in self.outcomes)

    @property
    def uncredited_bytes(self) -> int:
        """Bytes receipted but not credited, over all lanes."""
        return sum(outcome.uncredited_bytes for outcome in self.outcomes)

    @property
    def charge_stroops(self) -> int:
        """Sum of all charges, fees included."""
        return sum(charge.charge_stroops for charge in self.charges)

    @property
    def fee_stroops(self) -> int:
        """Sum of all fees."""
        return sum(charge.fee_stroops for charge in self.charges)


def settle(
    rule: Rule,
    lanes: Sequence[LaneInput],
    parameters: Parameters,
    opening: ContractState,
    limits: Limits | None = None,
) -> SettlementResult:
    """Settle one epoch by a rule.

    Args:
        rule: the rule that is in force.
        lanes: judged lanes in the ledger's order of lanes; on it depends who gets the odd byte
            of a cap.
        parameters: price, fee and CDN prices.
        opening: the closing state of the epoch before.
        limits: budgets of the rule; by default `limits_for` the lanes and rows.

    Raises:
        ContractInputError: lanes contradict each other.
        LanguageError: the rule does not parse, fails, or exceeds its limits.
        ContractOutputError: the rule returned what cannot be right.
    """
    check_lanes_agree(lanes)
    if limits is None:
        limits = limits_for(len(lanes), len(opening.cap_use) + len(opening.cumulative))
    arguments: list[Value] = [
        [_lane_value(lane) for lane in lanes],
        _parameters_value(parameters),
        _state_value(opening),
    ]
    result = rule.parse().call(ENTRY_POINT, arguments, limits=limits)
    reader = OutputReader(lanes=lanes, parameters=parameters, opening=opening)
    outcomes, charges, closing = reader.read(result.value)
    return SettlementResult(outcomes=outcomes, charges=charges, closing=closing, steps=result.steps)


def limits_for(lane_count: int, row_count: int) -> Limits:
    """Return the normative budgets of a settlement.

    Args:
        lane_count: lanes of the epoch; 0 or more.
        row_count: rows of the opening state, cap use and cumulative together; 0 or more.
    """
    return Limits(
        steps=BASE_STEPS + STEPS_PER_LANE * lane_count + STEPS_PER_ROW * row_count,
        allocation_bytes=BASE_ALLOCATION_BYTES
        + ALLOCATION_BYTES_PER_LANE * lane_count
        + ALLOCATION_BYTES_PER_ROW * row_count,
    )


def check_lanes_agree(lanes: Sequence[LaneInput]) -> None:
    """Refuse lanes that state different terms for one entitlement.

    Raises:
        ContractInputError: payer or caps of an entitlement differ between lanes.
    """
    terms_by_entitlement: dict[bytes, tuple[bytes, int, int]] = {}
    for place, lane in enumerate(lanes):
        terms = (lane.payer, lane.max_bytes, lane.max_media_ms)
        known = terms_by_entitlement.setdefault(lane.entitlement, terms)
        if known != terms:
            raise ContractInputError(
                f"lanes[{place}].terms", terms, f"{known}, as in the entitlement's first lane"
            )


def _lane_value(lane: LaneInput) -> dict[str, Value]:
    return {
        "entitlement": lane.entitlement.hex(),
        "payer": lane.payer.hex(),
        "payee": lane.payee.hex(),
        "payee_key": lane.payee_key.hex(),
        "content": lane.content.hex(),
        "source": lane.source.value,
        "bytes": lane.received_bytes,
        "media_ms": lane.media_ms,
        "max_bytes": lane.max_bytes,
        "max_media_ms": lane.max_media_ms,
    }


def _parameters_value(parameters: Parameters) -> dict[str, Value]:
    prices: Mapping[bytes, tuple[int, int]] = parameters.cdn_prices
    return {
        "price_version": parameters.price_version,
        "price_stroops": parameters.price_stroops,
        "price_quantity_bytes": parameters.price_quantity_bytes,
        "fee_ppm": parameters.fee_ppm,
        "cdn_prices": {key.hex(): list(prices[key]) for key in sorted(prices)},
    }


def _state_value(state: ContractState) -> dict[str, Value]:
    return {
        "cap_use": [
            [row.entitlement.hex(), row.credited_bytes, row.media_ms] for row in state.cap_use
        ],
        "cumulative": [
            [
                row.payer.hex(),
                row.payee.hex(),
                row.source.value,
                row.price_version,
                row.total_bytes,
                row.charge_stroops,
                row.fee_stroops,
            ]
            for row in state.cumulative
        ],
    }


__all__ = [
    "CapUse",
    "Charge",
    "ContractInputError",
    "ContractState",
    "CumulativeRow",
    "LaneInput",
    "LaneOutcome",
    "LaneSource",
    "Parameters",
    "SettlementResult",
    "limits_for",
    "settle",
]
