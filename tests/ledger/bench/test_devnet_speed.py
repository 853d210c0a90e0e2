"""The devnet's bench: it applies what it says, in memory and in a file."""

from pathlib import Path

from ledger.bench.devnet_speed import run_devnet_bench
from ledger.devnet.measure import NETWORK, Load, measure
from ledger.devnet.network import Network, Settings
from ledger.devnet.state_file import StateFile


def test_report_has_both_places_figures() -> None:
    told: list[str] = []
    report = run_devnet_bench(runs=1, ledgers=1, channels=1, tell=told.append)
    assert set(report["figures"]) == {"memory_payments_per_cpu_s", "file_payments_per_cpu_s"}
    assert all(value > 0 for value in report["figures"].values())
    assert told == ["run 1 of 1"]


def test_measured_payments_stand_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.sqlite"
    figures = measure(Load(ledgers=2, channels=2), path)
    assert figures["payments"] == 400
    with StateFile(path) as file:
        network = Network(Settings(passphrase=NETWORK), 0, file)
    assert [len(closed.applied) for closed in network.ledgers[-2:]] == [2, 2]
    assert all(record.result.ok for record in network.records)
