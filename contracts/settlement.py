"""The typed face of a rule: lanes in, credits, charges and the closing state out.

What it is: the contract interface as frozen records, the call of the rule, and strict checks of
what it returned. What it does not do: it judges no receipt, reads no clock, and decides no price.
Specification: RULES.md, "Contract interface".

A rule that was voted on is still somebody else's program: nothing that it returns is believed
before it agrees with the lanes, the opening state, and itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.collector import collector_waits
from contracts.columns import LaneColumns, LaneOutcomes
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
    name_of_source,
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

    outcomes: LaneOutcomes
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
        return sum(self.outcomes.credited_bytes)

    @property
    def uncredited_bytes(self) -> int:
        """Bytes receipted but not credited, over all lanes."""
        return sum(self.outcomes.uncredited_bytes)

    @property
    def charge_stroops(self) -> int:
        """Sum of all charges, fees included."""
        return sum(charge.charge_stroops for charge in self.charges)

    @property
    def fee_stroops(self) -> int:
        """Sum of all fees."""
        return sum(charge.fee_stroops for charge in self.charges)


@collector_waits()
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
            of a cap. `LaneColumns` are taken as they are.
        parameters: price, fee and CDN prices.
        opening: the closing state of the epoch before.
        limits: budgets of the rule; by default `limits_for` the lanes and rows.

    Raises:
        ContractInputError: lanes contradict each other.
        LanguageError: the rule does not parse, fails, or exceeds its limits.
        ContractOutputError: the rule returned what cannot be right.
    """
    columns = LaneColumns.of(lanes)
    columns.check_agree()
    if limits is None:
        limits = limits_for(len(lanes), len(opening.cap_use) + len(opening.cumulative))
    texts = KeyTexts()
    result = rule.parse().call_on(
        ENTRY_POINT,
        lambda: make_arguments(columns, parameters, opening, texts),
        limits=limits,
    )
    reader = OutputReader(lanes=columns, parameters=parameters, opening=opening, texts=texts)
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


class KeyTexts(dict[bytes, str]):
    """Keys as rules see them; each is made once, so that a rule finds them quickly."""

    def __missing__(self, key: bytes) -> str:
        text = self[key] = key.hex()
        return text


def make_arguments(
    lanes: LaneColumns,
    parameters: Parameters,
    opening: ContractState,
    texts: Mapping[bytes, str],
) -> list[Value]:
    """Make the arguments of a rule, which it may change.

    Args:
        lanes: judged lanes.
        parameters: price, fee and CDN prices.
        opening: the closing state of the epoch before.
        texts: `KeyTexts`.
    """
    return [
        _lane_values(lanes, texts),
        _parameters_value(parameters),
        _state_value(opening, texts),
    ]


def _lane_values(lanes: LaneColumns, texts: Mapping[bytes, str]) -> list[Value]:
    text_of = texts.__getitem__
    return [
        {
            "entitlement": entitlement,
            "payer": payer,
            "payee": payee,
            "payee_key": payee_key,
            "content": content,
            "source": "cdn" if is_cdn else "p2p",
            "bytes": received_bytes,
            "media_ms": media_ms,
            "max_bytes": max_bytes,
            "max_media_ms": max_media_ms,
        }
        for (
            entitlement,
            payer,
            payee,
            payee_key,
            content,
            is_cdn,
            received_bytes,
            media_ms,
            max_bytes,
            max_media_ms,
        ) in zip(
            map(text_of, lanes.entitlements),
            map(text_of, lanes.payers),
            map(text_of, lanes.payees),
            map(text_of, lanes.payee_keys),
            map(text_of, lanes.contents),
            lanes.are_cdn,
            lanes.received_bytes,
            lanes.media_ms,
            lanes.max_bytes,
            lanes.max_media_ms,
            strict=True,
        )
    ]


def _parameters_value(parameters: Parameters) -> dict[str, Value]:
    prices: Mapping[bytes, tuple[int, int]] = parameters.cdn_prices
    return {
        "price_version": parameters.price_version,
        "price_stroops": parameters.price_stroops,
        "price_quantity_bytes": parameters.price_quantity_bytes,
        "fee_ppm": parameters.fee_ppm,
        "cdn_prices": {key.hex(): list(prices[key]) for key in sorted(prices)},
    }


def _state_value(state: ContractState, texts: Mapping[bytes, str]) -> dict[str, Value]:
    return {
        "cap_use": [
            [texts[row.entitlement], row.credited_bytes, row.media_ms] for row in state.cap_use
        ],
        "cumulative": [
            [
                texts[row.payer],
                texts[row.payee],
                name_of_source(row.source),
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
    "LaneColumns",
    "LaneInput",
    "LaneOutcome",
    "LaneOutcomes",
    "LaneSource",
    "Parameters",
    "SettlementResult",
    "limits_for",
    "settle",
]
