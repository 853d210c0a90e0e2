import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from ledger.bench.engine import KINDS, EngineBench, run_engine_bench
from ledger.bench.errors import BenchError
from ledger.bench.idle_peers import IdlePeers
from ledger.bench.report import Series, format_json, format_table, round_figure
from ledger.bench.transfer import _time_between
from ledger.bench.usage import read_usage

MIB = 1 << 20
UNITS = ("_ratio", "_share", "_mb_per_s", "_mbit_per_s", "_s_per_gib", "_mib", "_s")


@pytest.mark.swarm
@pytest.mark.process
def test_small_bench_measures_every_figure_with_its_unit() -> None:
    bench = EngineBench(
        size_bytes=32 * MIB, runs=1, kinds=("hybrid",), pace_seconds=1.0, peers=30, torrents=2
    )
    told: list[str] = []
    report = run_engine_bench(bench, tell=told.append)
    figures = report["figures"]
    assert all(key.endswith(UNITS) for key in figures)
    assert all(value > 0 for key, value in figures.items() if "added" not in key)
    assert {
        "throughput_hybrid_ratio",
        "receiver_cpu_hybrid_metered_s_per_gib",
        "sender_cpu_hybrid_unmetered_pread_s_per_gib",
        "receiver_100_mbit_added_core_share",
        "memory_30_peers_2_torrents_mib",
        "start_metered_s",
    } <= figures.keys()
    best = max(
        figures[f"throughput_hybrid_unmetered_{backend}_mb_per_s"] for backend in ("pread", "posix")
    )
    assert figures["throughput_hybrid_ratio"] == pytest.approx(
        figures["throughput_hybrid_metered_mb_per_s"] / best, rel=0.01
    )
    assert told
    assert json.loads(format_json(report))["parameters"]["size_bytes"] == 32 * MIB
    assert "throughput_hybrid_ratio" in format_table(report)


@pytest.mark.parametrize(
    "fields", [{"size_bytes": MIB}, {"runs": 0}, {"kinds": ("v3",)}, {"peers": 0}, {"torrents": 0}]
)
def test_bench_that_cannot_be_measured_is_refused(fields: dict[str, object]) -> None:
    good = {"size_bytes": 64 * MIB, "runs": 1, "kinds": KINDS}
    with pytest.raises(ValueError, match="got"):
        EngineBench(**{**good, **fields})  # type: ignore[arg-type]


def test_rate_is_that_between_a_tenth_and_nine_tenths() -> None:
    # Slow start, steady middle, slow end: 800 bytes of 1,000 in the middle's 4 seconds.
    progress = [(0.0, 0), (10.0, 100), (12.0, 500), (14.0, 900), (30.0, 1000)]
    assert _time_between(progress) == pytest.approx(4.0)
    with pytest.raises(BenchError, match="larger size"):
        _time_between([(0.0, 1000)])


def test_usage_counts_processor_and_writes_and_tells_of_an_ended_process(tmp_path: Path) -> None:
    before = read_usage(os.getpid())
    (tmp_path / "file").write_bytes(bytes(MIB))
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    after = read_usage(os.getpid())
    assert after.written_bytes - before.written_bytes >= MIB
    assert after.cpu_s - before.cpu_s >= 0.05
    assert after.resident_bytes > MIB
    with pytest.raises(BenchError, match="process"):
        read_usage(2**22 + 1)


def test_medians_and_spreads_are_of_all_runs() -> None:
    series = Series()
    for value in (3.0, 1.0, 2.0004):
        series.add("x_s", value)
    assert series.medians() == {"x_s": 2.0}
    assert series.spreads() == {"x_s": [1.0, 3.0]}
    with pytest.raises(KeyError):
        series.median("y_s")
    assert round_figure(12345.6) == 12350.0


def test_idle_peers_that_are_refused_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.bench.idle_peers.SHAKE_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            for _ in range(3):
                server.accept()[0].close()

        thread = threading.Thread(target=refuse)
        thread.start()
        with IdlePeers() as peers, pytest.raises(BenchError, match="got 0 handshakes, want 3"):
            peers.connect("127.0.0.1", server.getsockname()[1], [bytes(20)], 3)
        thread.join()
