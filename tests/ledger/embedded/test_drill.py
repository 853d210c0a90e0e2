"""The operator dies in the middle of payouts: strangers rebuild its books and pay everybody."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.postgres, pytest.mark.process]


def test_operator_dies_and_everybody_is_paid_to_the_stroop() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "ledger.cli", "drill", "operator-dies", "--payees", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4_000:]
    report = json.loads(ended.stdout)
    assert (report["lost_stroops"], report["double_paid_stroops"]) == (0, 0)
    assert report["identical_state_hash"] is True
    assert report["open_stroops"] > 0, "the operator died after the payouts, not in the middle"
    # One was sent under a bid that no ledger took: those who are left outbid the others.
    assert report["stuck_batches"] >= 1
    assert report["raised_bids"] >= report["open_batches"] >= 2
    assert report["paid_stroops"] > report["open_stroops"]
    assert (report["settlers_left"], report["settlers"], report["threshold"]) == (2, 3, 2)
    assert report["payouts"] == 2 * report["payees"] == 6
    assert report["minutes"] > 0
