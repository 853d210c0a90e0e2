"""The bench of rebuilding: what it makes is rebuilt to the same state, by several processes too."""

import pytest

from ledger.bench.rebuild import RebuildBench, run_rebuild_bench
from ledger.rebuilding.checking import CHUNK


def test_a_made_log_is_rebuilt_to_an_identical_state() -> None:
    payees = CHUNK + 6
    told: list[str] = []
    bench = RebuildBench(payouts=3 * payees, epochs=3, jobs=2)
    report = run_rebuild_bench(bench, told.append)
    assert report["identical_state_hash"] is True
    assert (report["payouts"], report["bundles"], report["epochs"]) == (3 * payees, 3 * payees, 3)
    assert report["cpu_s"] > 0
    assert told[-1] == "epoch 3 of 3"


def test_payouts_that_do_not_fill_the_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="want a multiple of 10"):
        RebuildBench(payouts=101)
