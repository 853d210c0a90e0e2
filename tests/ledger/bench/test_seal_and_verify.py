"""The benches of sealing and verifying on an epoch of a hundred receipts: they add up."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ledger.bench.command import app
from ledger.bench.errors import BenchError
from ledger.bench.seal import EpochSize
from ledger.bench.signature_loop import SignatureLoop
from ledger.evidence.keys import public_key_of, sign

SIZE = ["--receipts", "100", "--per-bundle", "5"]


def test_reports_hold_the_figures_that_are_stated(tmp_path: Path) -> None:
    reports = {}
    for name in ("seal", "verify"):
        arguments = [name, *SIZE, "--folder", str(tmp_path), "--json"]
        ended = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        reports[name] = json.loads(ended.stdout)["figures"]
    assert reports["seal"].keys() >= {
        "cpu_s_per_million",
        "without_contract_cpu_s_per_million",
        "peak_mib",
    }
    # A receipt; a tenth of an entitlement; of 20 bundles each its own and two of its binding.
    assert reports["verify"]["signatures_per_receipt"] == pytest.approx(1 + 0.1 + 3 / 5)
    assert reports["verify"]["cpu_ratio"] > 1


def test_receipts_that_fill_no_bundles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="want a multiple of 50"):
        EpochSize(receipts=120, per_bundle=5, folder=tmp_path)


def test_loop_of_c_verifies_what_it_is_given(tmp_path: Path) -> None:
    seeds = [bytes([number]) * 32 for number in range(3)]
    body = b"what was signed"
    records = b"".join(sign(seed, body) + body for seed in seeds)
    keys = [public_key_of(seed) for seed in seeds]
    loop = SignatureLoop(tmp_path)
    loop.verify(b"head" + records, 4, 64 + len(body), keys)
    assert loop.signatures == 3
    assert loop.cpu_s >= 0
    with pytest.raises(BenchError, match="got 1 valid of 3"):
        loop.verify(records, 0, 64 + len(body), [keys[0], keys[0], keys[0]])
    with pytest.raises(BenchError, match="want one a record"):
        loop.verify(records, 4, 64 + len(body), keys)
