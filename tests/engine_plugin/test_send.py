"""`engine send`: what waits in a state folder reaches the collector without a swarm."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine_plugin.spool import Spool
from engine_plugin.state_dir import StateDir
from ledger.evidence.bundle import BundleKind
from ledger.evidence.keys import generate_seed, public_key_of
from ledger.evidence.receipt import RECEIPT, Receipt

ROOT = Path(__file__).parents[2]
EPOCHS = 24
pytestmark = pytest.mark.process


def _fill(state: Path, operator: Any) -> bytes:
    """A day of hourly epochs with one receipt each; the payee's key."""
    folder = StateDir(state)
    payee = public_key_of(folder.load_session_seed())
    folder.load_account_seed(None)
    viewer = generate_seed()
    entitlement = operator.make_entitlement(public_key_of(viewer), bytes(32))
    spool = Spool(folder.spool_path)
    spool.add_entitlement(entitlement)
    for epoch in range(EPOCHS):
        receipt = Receipt(
            network_id=entitlement.value.network_id,
            flags=0,
            entitlement_digest=entitlement.digest,
            payee_key=payee,
            epoch=epoch,
            nonce=0,
            sequence=1,
            bytes_total=1000 + epoch,
            media_ms_total=0,
            credit_root=bytes(32),
        )
        spool.put_receipt(
            RECEIPT.sign(receipt, viewer),
            kind=BundleKind.PAYEE,
            session_key=public_key_of(viewer),
        )
    spool.close()
    folder.close()
    return payee


def _send(tmp_path: Path, operator: Any, *options: str) -> "subprocess.CompletedProcess[str]":
    terms = tmp_path / "terms.bin"
    terms.write_bytes(operator.terms.raw)
    arguments = ["send", "--state", str(tmp_path / "state"), "--terms", str(terms), "--json"]
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from engine_plugin.command import main; main()",
            *arguments,
            *options,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_a_day_without_a_collector_is_sent_whole_when_it_is_back(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    payee = _fill(tmp_path / "state", operator)
    operator.is_down = True

    def come_back() -> None:
        time.sleep(3)
        operator.is_down = False

    returning = threading.Thread(target=come_back)
    returning.start()
    sent = _send(tmp_path, operator)
    returning.join()
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout.splitlines()[-1]) == {"event": "stopped", "unsent": 0}
    finals = operator.final_receipts(BundleKind.PAYEE).values()
    assert {receipt.epoch: receipt.bytes_total for receipt in finals} == {
        epoch: 1000 + epoch for epoch in range(EPOCHS)
    }
    assert {receipt.payee_key for receipt in finals} == {payee}
    # Once more changes nothing.
    again = _send(tmp_path, operator)
    assert again.returncode == 0
    assert len(operator.list_bundles()) == EPOCHS


def test_collector_that_stays_away_leaves_everything_for_the_next_time(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    _fill(tmp_path / "state", operator)
    operator.is_down = True
    failed = _send(tmp_path, operator, "--wait-s", "2")
    assert failed.returncode == 1
    assert f"{EPOCHS} bundles are unsent; run it again later" in failed.stderr
    operator.is_down = False
    assert _send(tmp_path, operator).returncode == 0
    assert len(operator.list_bundles()) == EPOCHS


def test_refusals_are_told_with_their_code_and_end_the_wait(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    _fill(tmp_path / "state", operator)
    operator.refuses_with = "bundle_malformed"
    refused = _send(tmp_path, operator)
    assert refused.returncode == 0
    events = [json.loads(line) for line in refused.stdout.splitlines()]
    assert [event["code"] for event in events if event["event"] == "refused"] == [
        "bundle_malformed"
    ] * EPOCHS
