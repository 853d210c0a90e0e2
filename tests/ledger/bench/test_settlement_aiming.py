"""Worlds aimed at the pairs of death and fault that were not met by chance."""

import re
from dataclasses import replace

import pytest

from ledger.bench import settlement_sim
from ledger.bench.errors import BenchError
from ledger.bench.settlement_aiming import (
    AMBUSHES_PER_MOMENT,
    aimed_plan,
    describe_deaths,
    missing_pairs,
)
from ledger.bench.settlement_sim import SettlementBench, run_settlement_bench
from ledger.simulation.domain import WorldPlan
from ledger.simulation.errors import SimulationError
from ledger.simulation.faults import CALM, SPELLS
from ledger.simulation.world import Outcome


def make_outcome() -> Outcome:
    outcome = Outcome()
    outcome.moments.update({("a", CALM): 3, ("gathering.b", "surge"): 1})
    outcome.deaths.update({("a", spell): 1 for spell in SPELLS if spell != "drop"})
    return outcome


def test_pairs_not_met_are_those_of_moments_that_came_and_spells_without_a_death() -> None:
    missing = missing_pairs(make_outcome())
    assert missing == [("a", "drop"), *(("gathering.b", spell) for spell in SPELLS)]
    told = describe_deaths(make_outcome())
    assert told["kill_and_fault_pairs"] == len(SPELLS) - 1
    assert told["kill_and_fault_pairs_possible"] == 2 * len(SPELLS)
    assert told["moments_never_killed_at"] == ["gathering.b"]
    assert told["kill_and_fault_pairs_never"] == {"a": "drop", "gathering.b": ", ".join(SPELLS)}


def test_an_aimed_world_has_a_few_ambushes_of_each_moment_and_settlers_where_they_are_asked() -> (
    None
):
    missing = missing_pairs(make_outcome())
    plans = [aimed_plan(1, number, missing) for number in range(20)]
    for number, plan in enumerate(plans):
        assert plan == aimed_plan(1, number, missing)
        assert set(plan.ambushes) <= set(missing)
        moments = [moment for moment, _ in plan.ambushes]
        assert moments.count("a") == 1
        assert moments.count("gathering.b") == AMBUSHES_PER_MOMENT
        assert (plan.settlers, plan.settlers_needed) == (3, 2)
    assert {ambush for plan in plans for ambush in plan.ambushes} == set(missing)
    assert aimed_plan(1, 0, [("a", "drop")]).settlers == 0


def break_down(plan: WorldPlan, _with_naive: bool) -> None:
    """Stand in for a world in which an invariant does not hold; run by another process."""
    raise SimulationError(f"world of seed {plan.seed}: broken")


@pytest.mark.postgres
def test_a_world_that_breaks_an_invariant_ends_the_run_with_its_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement_sim.worlds, "run", break_down)
    monkeypatch.setattr(settlement_sim, "CALM_PAYEES", 5)
    bench = SettlementBench(payouts=1, seed=3)
    told = re.escape(str(settlement_sim.plan_of(bench, 0)))
    with pytest.raises(BenchError, match=rf"world of seed \d+: broken; {told}"):
        run_settlement_bench(bench, print)


@pytest.mark.postgres
def test_a_run_goes_on_with_aimed_worlds_until_every_pair_was_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = ("after a submission", "frozen")

    def small(_: SettlementBench, number: int) -> WorldPlan:
        return WorldPlan(seed=number, payees=6, earning_epochs=2, batch_payments=4)

    def only_one(total: Outcome) -> list[tuple[str, str]]:
        return [] if total.deaths[pair] else [pair]

    monkeypatch.setattr(settlement_sim, "plan_of", small)

    def aimed(seed: int, number: int, missing: list[tuple[str, str]]) -> WorldPlan:
        return replace(aimed_plan(seed, number, missing), payees=6, earning_epochs=2)

    monkeypatch.setattr(settlement_sim, "aimed_plan", aimed)
    monkeypatch.setattr(settlement_sim, "missing_pairs", only_one)
    monkeypatch.setattr(settlement_sim, "CALM_PAYEES", 5)
    report = run_settlement_bench(SettlementBench(payouts=1, seed=3, every_pair=True), print)
    assert report["is_complete"]
    assert (report["worlds"], report["worlds_aimed"]) == (2, 1)
    assert report["faults"]["frozen"] > 0
    assert report["lost_stroops"] == report["double_paid_stroops"] == 0
