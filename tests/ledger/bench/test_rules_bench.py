"""The rules' bench: it settles the epoch that it says, and its parts add up."""

import pytest

from ledger.bench.rules import RulesBench, run_rules_bench


def test_report_has_the_figures_of_an_epoch() -> None:
    told: list[str] = []
    report = run_rules_bench(RulesBench(lanes=105, per_viewer=10, runs=2), told.append)
    figures = report["figures"]
    assert report["parameters"] == {"rule": "traffic", "lanes": 105, "per_viewer": 10, "runs": 2}
    assert set(figures) == {
        "lane_us", "lane_in_us", "lane_run_us", "lane_out_us", "lanes_per_cpu_s",
        "steps_per_lane", "charges",
    }  # fmt: skip
    assert all(value > 0 for value in figures.values())
    assert len(told) == 2


def test_epoch_without_lanes_is_refused() -> None:
    with pytest.raises(ValueError, match="lanes: got 0"):
        RulesBench(lanes=0)
