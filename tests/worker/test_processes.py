"""API, worker, beat and devnet as processes: from an upload to a payment and a proven audit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import builders
import httpx
import pytest

from ledger.audit.trust import Trust, TrustedKey, format_trust
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import BundleKind, make_bundle, sign_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.keys import network_id_of, public_key_of
from ledger.evidence.leaf import ACTIVATION, EVIDENCE_DAO_KEY, Activation
from ledger.evidence.promise import PROMISE
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms, sign_terms
from ledger.stellar.domain import DomainKeys, SetUp, set_up_domain
from ledger.stellar.horizon import HorizonGateway

pytestmark = [pytest.mark.postgres, pytest.mark.process]

PASSPHRASE = "swarmledger process tests"
NETWORK = network_id_of(PASSPHRASE)
PATIENCE_S = 120
BYTES = 999_983


def seed(name: str) -> bytes:
    return sha256(f"process test {name}".encode()).digest()


def wait_for(what: str, found: Callable[[], object]) -> object:
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        value = found()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


class Processes:
    """Processes of the product, each in a group of its own, all ended at the end."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {**os.environ, **environment}
        self.running: list[subprocess.Popen] = []

    def start(self, name: str, *arguments: str) -> subprocess.Popen:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "ledger.cli", *arguments],
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.running.append(process)
        return process

    def run(self, *arguments: str) -> None:
        process = self.start(arguments[0], *arguments)
        assert process.wait(PATIENCE_S) == 0, (self.folder / f"{arguments[0]}.log").read_text()

    def kill(self, process: subprocess.Popen) -> None:
        """End a process and its children as a power cut would."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop_all(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill(process)


@contextmanager
def processes(folder: Path, environment: dict[str, str]) -> Iterator[Processes]:
    made = Processes(folder, environment)
    try:
        yield made
    finally:
        made.stop_all()


def ready_url(path: Path) -> str:
    text = str(wait_for(path.name, lambda: path.exists() and path.read_text()))
    return json.loads(text)["url"] if text.startswith("{") else text.strip()


def make_terms(made: SetUp, genesis_s: int) -> Signed[Terms]:
    terms = builders.terms(
        network_id=NETWORK,
        broadcaster_account=made.broadcaster,
        issuing_key=public_key_of(seed("issuing")),
        log_key=public_key_of(seed("log")),
        asset_code=made.asset_code,
        asset_issuer=made.issuer,
        escrow_account=made.escrow,
        payout_account=made.payout,
        anchor_account=made.anchor,
        channel_accounts=made.channels,
        price_stroops=10_000_019,
        price_quantity_bytes=1_000_003,
        genesis_s=genesis_s,
        epoch_length_s=3,
        grace_s=1,
        # However slowly the processes start, the bundle of epoch 0 is still taken.
        correction_epochs=1_000,
        cdns=(),
    )
    return sign_terms(terms, seed("issuing"))


def make_bundle_of(terms: Signed[Terms], payee_seed: bytes) -> bytes:
    """A bundle of epoch 0 with one receipt."""
    value = terms.value
    entitlement = ENTITLEMENT.sign(
        Entitlement(
            network_id=NETWORK,
            broadcaster_account=value.broadcaster_account,
            issuing_key=value.issuing_key,
            terms_digest=terms.digest,
            content_id=bytes(32),
            session_key=public_key_of(seed("viewer")),
            payer_account=value.broadcaster_account,
            serial=bytes(16),
            assignment_seed=bytes(32),
            not_before_s=value.genesis_s,
            not_after_s=value.genesis_s + 3_600,
            max_bytes=0,
            max_media_ms=0,
            max_rate_kbps=0,
            assignment_policy=0,
            country="",
        ),
        seed("issuing"),
    )
    receipt = RECEIPT.sign(
        Receipt(
            network_id=NETWORK,
            flags=0,
            entitlement_digest=entitlement.digest,
            payee_key=public_key_of(seed("seeder")),
            epoch=0,
            nonce=0,
            sequence=1,
            bytes_total=BYTES,
            media_ms_total=0,
            credit_root=bytes(32),
        ),
        seed("viewer"),
    )
    bundle = make_bundle(
        network_id=NETWORK,
        submitter_key=public_key_of(seed("seeder")),
        broadcaster_account=value.broadcaster_account,
        epoch=0,
        kind=BundleKind.PAYEE,
        number=0,
        bindings=[make_binding(payee_seed, seed("seeder"), Role.SESSION)],
        entitlements=[entitlement],
        receipts=[receipt],
        heartbeats=[],
    )
    return sign_bundle(bundle, seed("seeder")).raw


def make_binding(account_seed: bytes, key_seed: bytes, role: Role) -> Signed[Binding]:
    binding = Binding(
        network_id=NETWORK,
        account=public_key_of(account_seed),
        key=public_key_of(key_seed),
        role=role,
        first_epoch=0,
        last_epoch=1_000_000,
        serial=1,
    )
    return BINDING.sign(binding, account_seed, key_seed)


def write_papers(folder: Path, terms: Signed[Terms], broadcaster_seed: bytes) -> Trust:
    """Write what the operator's processes read; return the auditor's trust."""
    value = terms.value
    activation = Activation(
        network_id=NETWORK,
        broadcaster_account=value.broadcaster_account,
        rules_digest=value.rules_digest,
        first_epoch=0,
        evidence_kind=EVIDENCE_DAO_KEY,
        dao_key=public_key_of(seed("dao")),
    )
    trust = Trust(
        network_passphrase=PASSPHRASE,
        log_origin=value.log_origin,
        log_keys=(TrustedKey(key=value.log_key, first_epoch=0),),
        dao_keys=(TrustedKey(key=activation.dao_key, first_epoch=0),),
        broadcaster_account=value.broadcaster_account,
        genesis_s=value.genesis_s,
        epoch_length_s=value.epoch_length_s,
        grace_s=value.grace_s,
        first_epoch=0,
    )
    issuing = make_binding(broadcaster_seed, seed("issuing"), Role.ISSUING)
    (folder / "terms").write_bytes(terms.raw)
    (folder / "binding").write_bytes(issuing.raw)
    (folder / "activation").write_bytes(ACTIVATION.sign(activation, seed("dao")).raw)
    (folder / "trust.json").write_text(format_trust(trust))
    key_file = folder / "log.seed"
    key_file.touch(mode=0o600)
    key_file.write_text(seed("log").hex())
    return trust


def test_an_upload_is_judged_sealed_anchored_paid_and_proven_though_the_worker_is_killed(
    database_url, tmp_path
):
    environment = {
        "DATABASE_URL": database_url,
        "SWARMLEDGER_NETWORK_PASSPHRASE": PASSPHRASE,
        "SWARMLEDGER_LOG_KEY_FILE": str(tmp_path / "log.seed"),
        "SWARMLEDGER_KEYS_DIR": str(tmp_path / "keys" / "operator"),
        "SWARMLEDGER_TERMS_FILE": str(tmp_path / "terms"),
        "SWARMLEDGER_BINDING_FILE": str(tmp_path / "binding"),
        "SWARMLEDGER_ACTIVATION_FILE": str(tmp_path / "activation"),
        "SWARMLEDGER_TRUST_FILE": str(tmp_path / "trust.json"),
        "SWARMLEDGER_LOG_DIR": str(tmp_path / "log"),
        "SWARMLEDGER_AUDIT_DIR": str(tmp_path / "audit"),
        "SWARMLEDGER_MARGIN_LEDGERS": "1",
        "SWARMLEDGER_SCHEDULE_S": "0.3",
        "SWARMLEDGER_LEASE_S": "3",
        "SWARMLEDGER_VISIBILITY_TIMEOUT_S": "5",
    }
    with processes(tmp_path, environment) as running:
        devnet_ready, api_ready = tmp_path / "devnet.ready", tmp_path / "api.ready"
        running.start(
            "devnet", "devnet", "serve", "--passphrase", PASSPHRASE,
            "--close-seconds", "1", "--ready-file", str(devnet_ready),
        )  # fmt: skip
        gateway_url = ready_url(devnet_ready)
        running.environment["SWARMLEDGER_GATEWAY_URL"] = gateway_url
        gateway = HorizonGateway(gateway_url, PASSPHRASE)
        keys = DomainKeys.load_or_make(tmp_path / "keys", channels=1, payees=["seeder"])
        made = set_up_domain(
            gateway, PASSPHRASE, keys, asset_code="USD", deposit_stroops=1_000_000_000
        )
        terms = make_terms(made, gateway.latest_ledger().close_time_s)
        trust = write_papers(tmp_path, terms, keys.broadcaster)
        running.run("db", "register")
        running.start(
            "api", "api", "serve", "--listen", "127.0.0.1:0", "--ready-file", str(api_ready)
        )
        running.start("beat", "worker", "beat")
        worker, _ = [running.start("worker", "worker", "run", "--concurrency", "1") for _ in "12"]
        with httpx.Client(base_url=ready_url(api_ready), trust_env=False) as client:
            wait_for("ready", lambda: client.get("/readyz").status_code == 200)
            answer = client.post(
                "/v1/bundles", content=make_bundle_of(terms, keys.payees["seeder"])
            )
            promise = PROMISE.parse(answer.content).value
            # Wherever it is in its work: the other one goes on from what is committed.
            running.kill(worker)
            status_url = f"/v1/bundles/{promise.bundle_digest.hex()}"
            wait_for("verdict", lambda: client.get(status_url).json()["state"] != "received")
            sealing = promise.sealing_epoch
            files = [tmp_path / "audit" / f"epoch-{number}.audit" for number in range(sealing + 1)]
            wait_for("audit files", lambda: all(file.exists() for file in files))
            assert client.get(status_url).json()["codes"] == [0]
        charge = 10_000_019 * BYTES // 1_000_003
        fee = charge * 100_000 // 1_000_000
        payee, asset = made.payees["seeder"], (made.asset_code, made.issuer)
        balance = wait_for("payment", lambda: gateway.account(payee).balances[asset])
        gateway.close()
    assert balance == charge - fee
    for file in files:
        report = verify_audit_file(file.read_bytes(), trust)
        assert [step for step in report.steps if step.verdict != Verdict.PROVEN] == []
