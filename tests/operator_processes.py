"""The operator's processes on a real database: devnet, API, workers, schedule; and who they serve.

Everything a test needs to start them, upload to them and read what came of it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import builders

from ledger.audit.trust import Trust, TrustedKey, format_trust
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import BundleKind, make_bundle, sign_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.keys import network_id_of, public_key_of
from ledger.evidence.leaf import ACTIVATION, EVIDENCE_DAO_KEY, Activation
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms, sign_terms
from ledger.stellar.domain import DomainKeys, SetUp, set_up_domain
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.treasury import treasury_of_accounts
from ledger.stellar.treasury_setup import set_up_signers

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


def make_terms(made: SetUp, genesis_s: int, **changes: object) -> Signed[Terms]:
    values: dict[str, object] = {
        "network_id": NETWORK,
        "broadcaster_account": made.broadcaster,
        "issuing_key": public_key_of(seed("issuing")),
        "log_key": public_key_of(seed("log")),
        "asset_code": made.asset_code,
        "asset_issuer": made.issuer,
        "escrow_account": made.escrow,
        "payout_account": made.payout,
        "anchor_account": made.anchor,
        "channel_accounts": made.channels,
        "price_stroops": 10_000_019,
        "price_quantity_bytes": 1_000_003,
        "genesis_s": genesis_s,
        "epoch_length_s": 3,
        "grace_s": 1,
        # However slowly the processes start, the bundle of epoch 0 is still taken.
        "correction_epochs": 1_000,
        "cdns": (),
    }
    return sign_terms(builders.terms(**{**values, **changes}), seed("issuing"))


def make_bundle_of(
    terms: Signed[Terms], payee_seed: bytes, *, epoch: int = 0, number: int = 0
) -> bytes:
    """A bundle of an epoch with one receipt of `BYTES` on a lane of its own."""
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
            epoch=epoch,
            nonce=number,
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
        epoch=epoch,
        kind=BundleKind.PAYEE,
        number=number,
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


@dataclass
class RunningOperator:
    """A broadcaster's operator with a network of its own, as processes."""

    folder: Path
    processes: Processes
    gateway: HorizonGateway
    keys: DomainKeys
    made: SetUp
    terms: Signed[Terms]
    trust: Trust
    started: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def payee_seed(self) -> bytes:
        return self.keys.payees["seeder"]

    def start(self, name: str, *arguments: str) -> subprocess.Popen:
        """Start a process under a name of its own; a stopped one is replaced."""
        self.started[name] = self.processes.start(name, *arguments)
        return self.started[name]

    def start_api(self) -> str:
        """Start the API; return its URL once it takes bundles."""
        ready = self.folder / "api.ready"
        ready.unlink(missing_ok=True)
        self.start("api", "api", "serve", "--listen", "127.0.0.1:0", "--ready-file", str(ready))
        return ready_url(ready)

    def audit_files(self) -> list[Path]:
        """Files of the audited epochs, in their order."""
        found = (self.folder / "audit").glob("epoch-*.audit")
        return sorted(found, key=lambda path: int(path.stem.split("-")[1]))

    def paid_stroops(self) -> int:
        """What the seeder's account holds of the priced asset."""
        asset = (self.made.asset_code, self.made.issuer)
        return self.gateway.account(self.made.payees["seeder"]).balances[asset]


def environment_of(folder: Path, database_url: str) -> dict[str, str]:
    """Settings of an operator whose papers stand in a folder."""
    files = {
        "LOG_KEY_FILE": "log.seed",
        "KEYS_DIR": "keys/operator",
        "TERMS_FILE": "terms",
        "BINDING_FILE": "binding",
        "ACTIVATION_FILE": "activation",
        "TRUST_FILE": "trust.json",
        "LOG_DIR": "log",
        "AUDIT_DIR": "audit",
    }
    return {
        "DATABASE_URL": database_url,
        "SWARMLEDGER_NETWORK_PASSPHRASE": PASSPHRASE,
        "SWARMLEDGER_PLAIN_KEYS": "allow",
        "SWARMLEDGER_MARGIN_LEDGERS": "1",
        "SWARMLEDGER_SCHEDULE_S": "0.3",
        "SWARMLEDGER_LEASE_S": "3",
        "SWARMLEDGER_VISIBILITY_TIMEOUT_S": "5",
        **{f"SWARMLEDGER_{name}": str(folder / path) for name, path in files.items()},
    }


@contextmanager
def running_operator(
    folder: Path,
    database_url: str,
    environment: dict[str, str] | None = None,
    settlers: Sequence[bytes] = (),
    **terms: object,
) -> Iterator[RunningOperator]:
    """Start a network, set up a broadcaster on it, register it; start nothing else yet.

    Two of the settlers, if there are any, sign for escrow and payout accounts.
    """
    with processes(folder, environment_of(folder, database_url)) as running:
        ready = folder / "devnet.ready"
        running.start(
            "devnet", "devnet", "serve", "--passphrase", PASSPHRASE,
            "--close-seconds", "1", "--ready-file", str(ready),
        )  # fmt: skip
        url = ready_url(ready)
        # The network runs elsewhere: what a test does to the operator is not done to it.
        running.environment |= {"SWARMLEDGER_GATEWAY_URL": url, **(environment or {})}
        gateway = HorizonGateway(url, PASSPHRASE)
        keys = DomainKeys.load_or_make(folder / "keys", channels=1, payees=["seeder"])
        made = set_up_domain(
            gateway, PASSPHRASE, keys, asset_code="USD", deposit_stroops=1_000_000_000
        )
        if settlers:
            treasury = treasury_of_accounts(
                (made.escrow, made.payout),
                (*made.channels, made.anchor),
                settlers=settlers,
                threshold=2,
            )
            set_up_signers(
                gateway, PASSPHRASE, treasury,
                payer_seed=keys.issuer, account_seeds=keys.operator_seeds,
            )  # fmt: skip
            running.environment["SWARMLEDGER_TREASURY"] = "settlers"
        signed = make_terms(made, gateway.latest_ledger().close_time_s, **terms)
        trust = write_papers(folder, signed, keys.broadcaster)
        running.run("db", "register")
        try:
            yield RunningOperator(folder, running, gateway, keys, made, signed, trust)
        finally:
            gateway.close()
