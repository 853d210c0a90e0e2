"""The bench of ingest: its load is what workers accept, its sums are right, and it runs."""

import json
import os
import time

import pytest

from ledger.bench.capacity import capacity_of
from ledger.bench.ingest import IngestBench, run_ingest_bench
from ledger.bench.ingest_load import Yardsticks, sign_bundles, write_papers
from ledger.bench.ingest_parts import _children, _tree_seconds
from ledger.books.bundle_check import check_bundle
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.recent import RecentSet


def test_load_is_good_and_a_later_round_is_the_same_viewers_with_other_payees(tmp_path):
    terms = write_papers(tmp_path, int(time.time())).terms
    known: RecentSet[bytes] = RecentSet(100)
    viewers, payees = [], []
    for round_number in (0, 1):
        for raw in sign_bundles(
            terms, receipts=60, per_bundle=3, first_group=0, round_number=round_number
        ):
            check = check_bundle(raw, terms, 0, known=known)
            assert check.receipt_codes == (0, 0, 0)
            bundle = parse_bundle(raw).value
            payees.append(bundle.submitter_key)
            viewers.append({one.value.session_key for one in bundle.entitlements})
    assert len(set(payees)) == len(payees) == 40
    assert viewers[:20] == viewers[20:]
    assert len(known) == 6


def test_yardstick_counts_each_kind_of_signature(tmp_path):
    terms = write_papers(tmp_path, int(time.time())).terms
    (raw, *_) = sign_bundles(terms, receipts=30, per_bundle=3, first_group=0, round_number=0)
    yardsticks = Yardsticks(tmp_path)
    yardsticks.verify(raw)
    assert min(yardsticks.receipt_s, yardsticks.entitlement_s, yardsticks.bundle_s) > 0


def test_processor_time_of_a_tree_holds_that_of_ended_children(tmp_path):
    before = _tree_seconds(os.getpid(), _children())
    child = os.fork()
    if not child:
        end_s = time.process_time() + 0.3
        while time.process_time() < end_s:
            pass
        os._exit(0)
    os.waitpid(child, 0)
    assert _tree_seconds(os.getpid(), _children()) - before > 0.25


def test_capacity_is_the_model_of_its_page():
    figures = {
        "cpu_us_per_receipt": 60.0,
        "raw_us_per_receipt": 48.0,
        "postgres_us_per_receipt": 9.0,
        "bundle_raws_bytes_per_receipt": 600.0,
        "receipts_bytes_per_receipt": 150.0,
    }
    one = capacity_of(figures)["1_million_viewers"]
    assert (one["receipts_per_s"], one["cores_busy"]) == (33_333, 2.0)
    assert one["cores_verifying"] == 1.6
    assert one["postgres_live_gb"] == 30.0
    assert capacity_of(figures)["30_million_viewers"]["cores_busy"] == 60.0


def test_round_of_another_size_than_its_groups_is_refused():
    with pytest.raises(ValueError, match="multiple of 10000"):
        IngestBench(receipts=15_000, per_bundle=1_000, rounds=1, workers=1)


@pytest.mark.postgres
@pytest.mark.process
@pytest.mark.skipif(
    os.environ.get("SWARMLEDGER_LONG_TESTS") != "1", reason="starts an operator's processes"
)
def test_bench_measures_a_running_operator():
    bench = IngestBench(receipts=200, per_bundle=10, rounds=1, workers=1)
    report = run_ingest_bench(bench, lambda _: None)
    json.dumps(report)
    assert 0 < report["cpu_ratio"] < 1
    assert report["signatures_per_receipt"] == pytest.approx(1.2)
    assert report["figures"]["bundle_raws_bytes_per_receipt"] > 600
