"""The bench of the rules: what the standard rule costs a lane, on this thread's processor time.

An epoch of viewers, each with an entitlement of its own and as many lanes as `per_viewer`, the last
one from a CDN; every viewer also seeds, so that there is about one row of charges a viewer. A third
of the entitlements has a cap, and some reach it. The epoch opens with the state that the same one
closed with. Three parts are timed apart: lanes into the rule's values, the rule, its result read
back and checked.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from contracts import settlement
from contracts.collector import collector_waits
from contracts.language import Value
from contracts.output import OutputReader
from contracts.registry import load_standard
from contracts.settlement import ContractState, LaneColumns, Parameters
from ledger.bench.report import Series, describe_machine

RULE = "traffic"
_PAYER = sha256(b"rules bench payer").digest()
_CDN = sha256(b"rules bench CDN").digest()
_CONTENTS = 20
_CAPPED_EVERY = 3
_TIGHT_EVERY = 20
_ROOMY_CAP_BYTES = 10**9
_TIGHT_CAP_BYTES = 10**7
_MEGABYTE = 1_000_000
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesBench:
    """How large an epoch, how often."""

    lanes: int = 100_000
    """1 or more."""

    per_viewer: int = 10
    """Lanes of each viewer; 1 or more."""

    runs: int = 3
    """1 or more."""

    def __post_init__(self) -> None:
        for name in ("lanes", "per_viewer", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want 1 or more")


@collector_waits()
def run_rules_bench(bench: RulesBench, tell: Callable[[str], None]) -> dict[str, Any]:
    """Settle one epoch so many times; returns the report."""
    columns = _make_columns(bench)
    parameters = Parameters(
        price_version=1,
        price_stroops=10_000_000,
        price_quantity_bytes=107_374_182_400,
        fee_ppm=100_000,
        cdn_prices={_CDN: (5_000_000, 107_374_182_400)},
    )
    rule = load_standard(RULE)
    opening = settlement.settle(rule, columns, parameters, ContractState()).closing
    series = Series()
    for run in range(bench.runs):
        times = [time.thread_time()]
        lanes = replace(columns)
        lanes.check_agree()
        texts = settlement.KeyTexts()
        arguments = settlement.make_arguments(lanes, parameters, opening, texts)
        times.append(time.thread_time())
        limits = settlement.limits_for(len(lanes), len(opening.cap_use) + len(opening.cumulative))
        result = rule.parse().call_on(settlement.ENTRY_POINT, _given(arguments), limits=limits)
        times.append(time.thread_time())
        reader = OutputReader(lanes=lanes, parameters=parameters, opening=opening, texts=texts)
        _, charges, _ = reader.read(result.value)
        times.append(time.thread_time())
        each = _MICROSECONDS / bench.lanes
        series.add("lane_us", (times[3] - times[0]) * each)
        series.add("lane_in_us", (times[1] - times[0]) * each)
        series.add("lane_run_us", (times[2] - times[1]) * each)
        series.add("lane_out_us", (times[3] - times[2]) * each)
        series.add("lanes_per_cpu_s", bench.lanes / (times[3] - times[0]))
        series.add("steps_per_lane", result.steps / bench.lanes)
        series.add("charges", len(charges))
        tell(f"run {run + 1}: {(times[3] - times[0]) * each:.2f} µs a lane")
    return {
        "bench": "rules",
        "parameters": {
            "rule": RULE,
            "lanes": bench.lanes,
            "per_viewer": bench.per_viewer,
            "runs": bench.runs,
        },
        "figures": series.medians(),
        "spreads": series.spreads(),
        "machine": describe_machine(),
    }


def _given(arguments: list[Value]) -> Callable[[], list[Value]]:
    return lambda: arguments


def _key(kind: str, number: int) -> bytes:
    return sha256(f"rules bench {kind} {number}".encode()).digest()


def _make_columns(bench: RulesBench) -> LaneColumns:
    """Return the lanes of an epoch, always the same."""
    viewers = -(-bench.lanes // bench.per_viewer)
    accounts = [_key("account", number) for number in range(viewers)]
    keys = [_key("session", number) for number in range(viewers)]
    entitlements = [_key("entitlement", number) for number in range(viewers)]
    contents = [_key("content", number) for number in range(_CONTENTS)]
    places = [divmod(place, bench.per_viewer) for place in range(bench.lanes)]
    seeders = [(viewer * 7 + lane * 13) % viewers for viewer, lane in places]
    are_cdn = [lane == bench.per_viewer - 1 for _, lane in places]
    caps = [
        0
        if viewer % _CAPPED_EVERY
        else (_ROOMY_CAP_BYTES if viewer % _TIGHT_EVERY else _TIGHT_CAP_BYTES)
        for viewer in range(viewers)
    ]
    parties = list(zip(seeders, are_cdn, strict=True))
    return LaneColumns(
        entitlements=[entitlements[viewer] for viewer, _ in places],
        payers=[_PAYER] * bench.lanes,
        payees=[_CDN if is_cdn else accounts[seeder] for seeder, is_cdn in parties],
        payee_keys=[_CDN if is_cdn else keys[seeder] for seeder, is_cdn in parties],
        contents=[contents[viewer % _CONTENTS] for viewer, _ in places],
        are_cdn=are_cdn,
        received_bytes=[
            _MEGABYTE * (1 + place % 37) + place % 1_000 for place in range(bench.lanes)
        ],
        media_ms=[300_000] * bench.lanes,
        max_bytes=[caps[viewer] for viewer, _ in places],
        max_media_ms=[3_600_000] * bench.lanes,
    )
