"""Settlers as processes of their own: one dead, one lying, one killed, all are paid once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from operator_processes import BYTES, make_bundle_of, running_operator, wait_for
from served_app import serve_app
from simulated_operator import key, seed
from treasury_scene import CHANNELS, PASSPHRASE, TreasuryScene, treasury_scene

from ledger.api.app import add_error_answers
from ledger.api.settler_routes import add_settlers
from ledger.audit.trust import format_trust
from ledger.evidence.checkpoint import body_hash, parse_checkpoint
from ledger.evidence.keys import sign
from ledger.evidence.merkle import RootBuilder, leaf_hash
from ledger.stellar.cosigning import format_cosignature
from ledger.stellar.domain import Policy, SettlementDomain
from ledger.stellar.gathering import TreasurySigner
from ledger.stellar.seed_files import write_secret
from ledger.stellar.settlement import settle
from ledger.stellar.signing import KeySignature, SeedKeys
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory, make_session_factory, open_engine
from ledger.store.epoch_store import open_epochs, store_checkpoint
from ledger.store.shard_store import find_shard, parse_registration, register
from ledger.store.tables import LeafRow

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.process,
    pytest.mark.skipif(
        os.environ.get("SWARMLEDGER_LONG_TESTS") != "1", reason="wants SWARMLEDGER_LONG_TESTS=1"
    ),
]
ROUNDS_MAX = 400


@dataclass
class Settlement:
    """The operator's side: what the simulated operator sealed, in a real database."""

    scene: TreasuryScene
    sessions: SessionFactory
    folder: Path
    domain: SettlementDomain
    mirrored: int = 0

    def close_epoch(self, bytes_total: int) -> None:
        operator = self.scene.operator
        epoch = operator.epoch
        operator.close([operator.owe(bytes_total)])
        (self.folder / "audit" / f"epoch-{epoch}.audit").write_bytes(operator.audit_files[epoch])
        log = RootBuilder()
        with self.sessions.begin() as session:
            shard = find_shard(session, key("broadcaster"))
            open_epochs(session, shard, first=0, last=epoch)
            for index, data in enumerate(operator.leaves):
                log.append(data)
                if index >= self.mirrored:
                    session.add(
                        LeafRow(
                            broadcaster_id=shard.id, leaf_index=index, epoch=epoch, data=data,
                            leaf_hash=leaf_hash(data),
                        )
                    )  # fmt: skip
            session.flush()
            head = parse_checkpoint(operator.checkpoint.decode().partition("\n\n")[0] + "\n")
            store_checkpoint(
                session, shard, epoch, head, note=operator.checkpoint, frontier=log.export_state()
            )
            store.plan_anchor(session, shard.account, epoch, body_hash(head))
            store.plan_batches(session, shard.account, operator.plans[epoch])
        self.mirrored = len(operator.leaves)

    def tick(self) -> list[str]:
        self.scene.devnet.close_ledgers()
        settle(self.sessions, (self.scene.gateway,), self.domain)
        with self.sessions() as session:
            return [str(one.state) for one in store.load_batches(session, key("broadcaster"))]


@pytest.fixture
def settlement(database_url: str, tmp_path: Path) -> Iterator[Settlement]:
    engine = open_engine(database_url)
    with treasury_scene(tmp_path) as scene:
        sessions = make_session_factory(engine)
        operator = scene.operator
        registration = parse_registration(
            terms=operator.signed_terms.raw,
            binding=operator.issuing_binding,
            activation=operator.activation.raw,
        )
        with sessions.begin() as session:
            register(session, registration)
        own = SeedKeys({key(name): seed(name) for name in ("anchor", *CHANNELS)})
        domain = SettlementDomain(
            terms=operator.terms,
            passphrase=PASSPHRASE,
            signer=TreasurySigner(sessions, scene.gateway, operator.terms, own),
            policy=Policy(margin_ledgers=1, room_ledgers=3, room_s=6),
        )
        (tmp_path / "audit").mkdir()
        (tmp_path / "trust.json").write_text(format_trust(operator.trust))
        yield Settlement(scene, sessions, tmp_path, domain)
    engine.dispose()


@contextmanager
def settler_process(
    settlement: Settlement, url: str, name: str
) -> Iterator[subprocess.Popen[bytes]]:
    folder = settlement.folder
    key_file = folder / f"{name}.seed"
    if not key_file.exists():
        write_secret(key_file, seed(name).hex())
    code = "import sys; from ledger.stellar.settler_command import main; sys.exit(main())"
    options = ["--api", url, "--gateway", f"horizon:{settlement.scene.devnet.url}"]
    options += ["--trust", str(folder / "trust.json"), "--key-file", str(key_file)]
    options += ["--state", str(folder / name), "--poll-seconds", "0.1", "--margin-ledgers", "1"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SWARMLEDGER_PLAIN_KEYS": "allow",
    }
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "run", *options], env=environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def lie(client: httpx.Client) -> int:
    """A settler that signs something else, and says it had signed what is wanted."""
    answers = []
    for row in client.get("/v1/settlement/wanted").json()["wanted"]:
        tx_hash = bytes.fromhex(row["tx_hash"])
        lied = KeySignature(key=key("settler c"), signature=sign(seed("settler c"), bytes(32)))
        posted = format_cosignature(tx_hash, lied)
        answers.append(client.post("/v1/settlement/signatures", content=posted).status_code)
    assert set(answers) <= {403, 404}
    return len(answers)


def run_until(settlement: Settlement, client: httpx.Client, count: int, state: str) -> list[str]:
    for _ in range(ROUNDS_MAX):
        states = settlement.tick()
        lie(client)
        if states.count(state) >= count:
            return states
        time.sleep(0.05)
    logs = "".join(path.read_text()[-2000:] for path in settlement.folder.glob("*.log"))
    raise AssertionError(f"{states}: {logs}")


def test_settlers_sign_in_their_own_processes(settlement: Settlement) -> None:
    app = FastAPI()
    add_error_answers(app)
    add_settlers(app, settlement.sessions, settlement.folder / "audit")
    with serve_app(app) as client, ExitStack() as running:
        url = str(client.base_url)
        settlement.close_epoch(999_983)
        first = running.enter_context(settler_process(settlement, url, "settler a"))
        # One of two that must agree: nothing is paid, and what is wanted stays wanted.
        for _ in range(20):
            assert settlement.tick()[0] == "planned"
            lie(client)
        running.enter_context(settler_process(settlement, url, "settler b"))
        run_until(settlement, client, 2, "paid")
        os.kill(first.pid, signal.SIGKILL)
        settlement.close_epoch(1_999_983)
        running.enter_context(settler_process(settlement, url, "settler a"))
        states = run_until(settlement, client, 4, "paid")
    assert states == ["paid"] * 4
    planned = [leaf for plan in settlement.scene.operator.plans.values() for leaf in plan]
    total = sum(leaf.total_stroops for leaf in planned if leaf.source_account == key("payout"))
    assert settlement.scene.balance("seeder account") == total


def test_whole_operator_pays_by_settlers_signatures(database_url: str, tmp_path: Path) -> None:
    """Every process is the product's: API, worker, schedule, settlers; escrow's seed is gone."""
    names = ("settler a", "settler b", "settler c")
    settlers = [key(name) for name in names]
    with running_operator(
        tmp_path, database_url, settlers=settlers, epoch_length_s=8, attempt_window_ledgers=60,
        attempt_window_s=120,
    ) as operator:  # fmt: skip
        for name in ("escrow", "payout"):
            (tmp_path / "keys" / "operator" / f"{name}.seed").unlink()
        url, network = operator.start_api(), operator.gateway.name
        operator.start("beat", "worker", "beat")
        operator.start("worker", "worker", "run", "--concurrency", "1")
        for name in names[:2]:
            key_file = tmp_path / f"{name}.seed"
            write_secret(key_file, seed(name).hex())
            operator.start(
                name, "settler", "run", "--api", url, "--gateway", f"horizon:{network}",
                "--trust", str(tmp_path / "trust.json"), "--key-file", str(key_file),
                "--state", str(tmp_path / name), "--poll-seconds", "0.5", "--margin-ledgers", "1",
            )  # fmt: skip
        with httpx.Client(base_url=url, trust_env=False) as client:
            wait_for("ready", lambda: client.get("/readyz").status_code == 200)
            bundle = make_bundle_of(operator.terms, operator.payee_seed)
            assert client.post("/v1/bundles", content=bundle).status_code == 200
        charge = 10_000_019 * BYTES // 1_000_003
        assert wait_for("payment", operator.paid_stroops) == charge - charge // 10
