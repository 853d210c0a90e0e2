"""A simulation that ended early goes on with what it had, and with nothing else."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ledger.bench import settlement_state
from ledger.bench.errors import BenchError
from ledger.bench.settlement_sim import SettlementBench, run_settlement_bench
from ledger.bench.settlement_state import Totals, TotalsFile, source_digest
from ledger.simulation.domain import WorldPlan
from ledger.simulation.world import Outcome


def make_outcome(number: int) -> Outcome:
    return Outcome(
        payouts=100 + number,
        ledgers=7,
        fees_stroops=10_000,
        restores=number,
        faults=Counter({"drop": 3, "stall": number}),
        deaths=Counter({("commit 3", "drop"): 2, ("submit", "none"): 1}),
        moments=Counter({("commit 3", "drop"): 20}),
        events=Counter({"deposits": 4}),
        decision_ledgers=[1, 2],
    )


def make_totals(*numbers: int) -> Totals:
    totals = Totals()
    for number in numbers:
        plan = WorldPlan(
            seed=number, payees=10 + number, earning_epochs=1, batch_payments=5, settlers=number
        )
        totals.add(number, plan, make_outcome(number), make_outcome(0) if number else None)
    return totals


def test_what_was_kept_comes_back_and_adds_up_as_if_nothing_had_happened(tmp_path: Path) -> None:
    file = TotalsFile(tmp_path / "state.json", seed=5, payouts=1_000)
    assert file.load() == Totals()
    file.save(make_totals(0, 2))
    back = file.load()
    assert back == make_totals(0, 2)
    plan = WorldPlan(seed=3, payees=13, earning_epochs=1, batch_payments=5, settlers=3)
    back.add(3, plan, make_outcome(3), make_outcome(0))
    assert back == make_totals(0, 2, 3)
    file.save(back)
    assert file.load() == back
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"seed": 6}, "seed: got 5, want 6"),
        ({"payouts": 2_000}, "payouts: got 1000, want 2000"),
    ],
)
def test_the_worlds_of_another_run_are_not_added(
    tmp_path: Path, other: dict[str, int], complaint: str
) -> None:
    path = tmp_path / "state.json"
    TotalsFile(path, seed=5, payouts=1_000).save(make_totals(0))
    with pytest.raises(BenchError, match=complaint):
        TotalsFile(path, **{"seed": 5, "payouts": 1_000, **other}).load()


def test_the_worlds_of_other_code_are_not_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    TotalsFile(path, seed=5, payouts=1_000).save(make_totals(0))
    monkeypatch.setattr(settlement_state, "source_digest", lambda: "0" * 64)
    with pytest.raises(BenchError, match="source_sha256"):
        TotalsFile(path, seed=5, payouts=1_000).load()


def test_any_change_of_the_code_is_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    module = package / "module.py"
    module.write_text("a = 1\n")
    monkeypatch.setattr(settlement_state.ledger, "__path__", [str(package)])
    before = source_digest()
    module.write_text("a = 2\n")
    assert source_digest() != before
    module.write_text("a = 1\n")
    assert source_digest() == before
    module.rename(package / "renamed.py")
    assert source_digest() != before


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"made_of": 1}), "{"])
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(BenchError, match=r"state\.json: got something else"):
        TotalsFile(path, seed=5, payouts=1_000).load()


def test_figures_that_are_missing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    file = TotalsFile(path, seed=5, payouts=1_000)
    file.save(make_totals(0))
    kept = json.loads(path.read_text())
    del kept["totals"]["settlement"]["deaths"]
    path.write_text(json.dumps(kept))
    with pytest.raises(BenchError, match=r"totals: got KeyError\('deaths'\)"):
        file.load()


def test_where_nothing_can_be_kept_no_world_runs(tmp_path: Path) -> None:
    bench = SettlementBench(payouts=10, seed=5, state_path=tmp_path / "missing" / "state.json")
    with pytest.raises(FileNotFoundError):
        run_settlement_bench(bench, pytest.fail)
