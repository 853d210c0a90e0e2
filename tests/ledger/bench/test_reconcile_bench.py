"""A simulated event: every cause that was put in is found again, and the right CDN is named."""

import json

import pytest
from typer.testing import CliRunner

from ledger.bench.cdn_event import CDNS, EventFaults, SimulatedEvent
from ledger.bench.command import app
from ledger.bench.reconcile import CAUSES, ReconcileBench, run_reconcile_bench

VIEWERS = 2_500


def run(seed: int, viewers: int = VIEWERS, **faults: int) -> dict:
    bench = ReconcileBench(viewers=viewers, seed=seed, faults=EventFaults(**faults))
    print(f"seed {seed}")
    return run_reconcile_bench(bench, tell=lambda _line: None)


def test_every_cause_is_recovered_and_the_inflated_cdn_is_named() -> None:
    report = run(20_261_126)
    assert report["is_recovered"]
    assert report["named_cdns"] == [report["inflated_cdn"]]
    for cdn in CDNS:
        found = report["cdns"][cdn]
        assert max(found["errors_ppm"].values()) <= 1_000, cdn
        assert all(found["injected_ppm"][cause] for cause in CAUSES if cause != "conflict")
        counters = found["counters"]
        parts = [counters[name] for name in ("accepted", "duplicate", "conflict", "late")]
        assert sum(parts) + sum(counters["excluded"].values()) == found["lines"]
    figures = report["figures"]
    assert figures["traffic_unexplained_ppm"] <= 100
    assert abs(figures["inflated_invoice_excess_ppm"] - 10_000) <= 1_000


def test_honest_invoices_name_nobody() -> None:
    report = run(7, viewers=1_000, inflated_ppm=0)
    assert report["named_cdns"] == []
    assert {found["invoice_finding"] for found in report["cdns"].values()} == {"agrees"}


def test_a_seed_makes_the_same_bytes() -> None:
    first, second = (
        SimulatedEvent(viewers=20, seed=3, faults=EventFaults()).make_cdn("cirrus.example")
        for _ in range(2)
    )
    assert (first.files, first.invoice) == (second.files, second.invoice)


def test_a_bench_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="viewers"):
        ReconcileBench(viewers=0, seed=1, faults=EventFaults())


def test_the_command_prints_json_and_says_by_its_status_whether_all_was_found() -> None:
    result = CliRunner().invoke(app, ["reconcile", "--viewers", "300", "--seed", "4", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["is_recovered"] is True
