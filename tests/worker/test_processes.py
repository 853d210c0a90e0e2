"""API, worker, beat and devnet as processes: from an upload to a payment and a proven audit."""

import httpx
import pytest
from operator_processes import BYTES, make_bundle_of, running_operator, wait_for

from ledger.audit.verify import Verdict, verify_audit_file
from ledger.evidence.promise import PROMISE

pytestmark = [pytest.mark.postgres, pytest.mark.process]


def test_an_upload_is_judged_sealed_anchored_paid_and_proven_though_the_worker_is_killed(
    database_url, tmp_path
):
    with running_operator(tmp_path, database_url) as operator:
        api_url = operator.start_api()
        operator.start("beat", "worker", "beat")
        workers = [
            operator.start(name, "worker", "run", "--concurrency", "1")
            for name in ("worker 1", "worker 2")
        ]
        with httpx.Client(base_url=api_url, trust_env=False) as client:
            wait_for("ready", lambda: client.get("/readyz").status_code == 200)
            answer = client.post(
                "/v1/bundles", content=make_bundle_of(operator.terms, operator.payee_seed)
            )
            promise = PROMISE.parse(answer.content).value
            # Wherever it is in its work: the other one goes on from what is committed.
            operator.processes.kill(workers[0])
            status_url = f"/v1/bundles/{promise.bundle_digest.hex()}"
            wait_for("verdict", lambda: client.get(status_url).json()["state"] != "received")
            sealing = promise.sealing_epoch
            files = [tmp_path / "audit" / f"epoch-{number}.audit" for number in range(sealing + 1)]
            wait_for("audit files", lambda: all(file.exists() for file in files))
            assert client.get(status_url).json()["codes"] == [0]
        charge = 10_000_019 * BYTES // 1_000_003
        fee = charge * 100_000 // 1_000_000
        balance = wait_for("payment", operator.paid_stroops)
    assert balance == charge - fee
    for file in files:
        report = verify_audit_file(file.read_bytes(), operator.trust)
        assert [step for step in report.steps if step.verdict != Verdict.PROVEN] == []
