"""The operator of a drill: every process of it, its settlers, and how it is destroyed.

Set up as in a demo, with escrow and payout accounts that settlers sign for. Everything that is the
operator's own stands below one folder and in one Postgres cluster, so that destroying it is
deleting both. Settlers' folders and keys, the parties' spools and the papers stand beside.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from ledger.audit.address import format_account, parse_account
from ledger.books.state import State
from ledger.embedded.errors import DemoError
from ledger.embedded.papers import (
    DomainAccounts,
    Papers,
    Places,
    make_party_keys,
    random_passphrase,
    sign_papers,
    write_secret,
)
from ledger.embedded.postgres import PostgresCluster
from ledger.embedded.processes import Child, Supervisor
from ledger.embedded.screen import Screen
from ledger.evidence.keys import generate_seed, public_key_of
from ledger.stellar.command import all_transactions_of
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.seed_files import read_seed
from ledger.stellar.settler_chain import fee_payer
from ledger.store.engine import SessionFactory, make_session_factory, open_engine
from ledger.store.epoch_store import EpochState, list_in_state, load_closing_state
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import load_batches
from ledger.store.shard_store import find_shard

ASSET_CODE: Final = "EURT"
CHANNELS: Final = 2
EPOCH_LENGTH_S: Final = 5
GRACE_S: Final = 1
START_ALLOWANCE_S: Final = 3
LEDGER_SECONDS: Final = 1.0
LEDGER_OPERATIONS: Final = 200
"""Operations that a network ledger takes, as on the test network."""

OTHERS_BID_STROOPS: Final = 2_000
"""What others bid per operation in a surge: more than batches do, less than the terms allow."""

_HTTP_S: Final = 30
DEPOSIT_LEAST: Final = 100
"""Tokens; and one more for every payee beyond so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a drill is set up with."""

    scratch: Path
    """Everything is below; the drill has made `private` in it."""

    payees: int
    settlers: tuple[str, ...]
    threshold: int

    @property
    def private(self) -> Path:
        """Folder of what is the parties'."""
        return self.scratch / "private"

    @property
    def own(self) -> Path:
        """Folder of what is the operator's, and goes with it."""
        return self.private / "operator"

    @property
    def payee_names(self) -> list[str]:
        """Names of the payees."""
        return [f"payee-{number}" for number in range(1, self.payees + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the operator's database says."""

    closing: State | None
    """State after an epoch; None: not computed."""

    settled: int
    """Newest epoch that is anchored; -1: none."""

    open_epochs: tuple[int, ...]
    """Epochs of the batches whose outcome is open."""


class DrillOperator:
    """Starts, shows and destroys one operator."""

    def __init__(self, setting: Setting, supervisor: Supervisor, screen: Screen) -> None:
        self.setting = setting
        self._supervisor, self._screen = supervisor, screen
        self._cluster = PostgresCluster(setting.scratch / "postgres")
        self._children: list[Child] = []
        self._sessions: SessionFactory | None = None
        self._gateway: HorizonGateway | None = None
        self._broadcaster = b""
        self.devnet_url = ""
        self.api_url = ""

    @property
    def gateway(self) -> HorizonGateway:
        """A source of the network."""
        if self._gateway is None:
            raise AssertionError("set_up comes first")
        return self._gateway

    # Set-up.

    def set_up(self) -> Papers:
        """Start everything but the settlers, and register the broadcaster.

        Raises:
            EmbeddedError: Something failed.
        """
        own = self.setting.own
        for folder in (own, own / "log", own / "audit"):
            folder.mkdir(mode=0o700)
        for name in self.setting.settlers:
            self.settler_folder(name).mkdir(parents=True, mode=0o700)
            write_secret(self.settler_key_file(name), generate_seed())
        seeds = make_party_keys(own)
        self.issuing_seed = seeds["issuing"]
        passphrase = random_passphrase()
        devnet = self._start_devnet(passphrase)
        self._cluster.start()
        self.devnet_url = self._ready(devnet)["url"]
        self._supervisor.add_environment(self._environment(passphrase))
        with ThreadPoolExecutor(max_workers=2) as pool:
            accounts = pool.submit(self._set_up_accounts, passphrase)
            self._supervisor.run("db", ["db", "upgrade"])
            made = accounts.result()
        self._screen.stage(
            f"devnet: {len(self.setting.settlers)} settlers of whom {self.setting.threshold} must "
            f"agree sign for escrow and payout accounts; {self.setting.payees} payees"
        )
        self._gateway = HorizonGateway(self.devnet_url, passphrase)
        arguments = ["api", "serve", "--listen", "127.0.0.1:0"]
        arguments += ["--ready-file", str(own / "api.ready")]
        api = self._supervisor.start("api", arguments)
        self.api_url = self._ready(api)["url"]
        papers = self._sign(passphrase, seeds, made)
        self._supervisor.run("register", ["db", "register"])
        worker = self._supervisor.start("worker", ["worker", "run", "--concurrency", "1"])
        beat = self._supervisor.start("beat", ["worker", "beat"])
        self._children = [beat, worker, api]
        self._sessions = make_session_factory(open_engine(self._cluster.url()))
        return papers

    def _start_devnet(self, passphrase: str) -> Child:
        arguments = ["devnet", "serve", "--passphrase", passphrase, "--listen", "127.0.0.1:0"]
        arguments += ["--close-seconds", str(LEDGER_SECONDS)]
        arguments += ["--max-tx-set-size", str(LEDGER_OPERATIONS)]
        arguments += ["--ready-file", str(self.setting.own / "devnet.ready")]
        return self._supervisor.start("devnet", arguments)

    def _set_up_accounts(self, passphrase: str) -> dict[str, Any]:
        names = self.setting.private / "payees.txt"
        names.write_text("\n".join(self.setting.payee_names) + "\n", encoding="utf-8")
        arguments = ["stellar", "setup", "--gateway", self.devnet_url]
        arguments += ["--passphrase", passphrase, "--keys-dir", str(self._keys)]
        arguments += ["--channels", str(CHANNELS), "--payees", str(names), "--asset", ASSET_CODE]
        arguments += ["--deposit", str(max(DEPOSIT_LEAST, self.setting.payees))]
        arguments += ["--fee-account"]
        arguments += ["--threshold", str(self.setting.threshold), "--settlers"]
        arguments += [
            format_account(public_key_of(read_seed(self.settler_key_file(name))))
            for name in self.setting.settlers
        ]
        return read_json(self._supervisor.run("stellar-setup", [*arguments, "--json"]))

    def _environment(self, passphrase: str) -> dict[str, str]:
        own, private = self.setting.own, self.setting.private
        values = {
            "LOG_KEY_FILE": own / "log.seed",
            "KEYS_DIR": self._keys / "operator",
            "TERMS_FILE": private / "broadcaster.terms",
            "BINDING_FILE": private / "issuing.binding",
            "ACTIVATION_FILE": private / "traffic.activation",
            "TRUST_FILE": private / "trust.json",
            "LOG_DIR": own / "log",
            "AUDIT_DIR": own / "audit",
            "DATABASE_URL": self._cluster.url(),
            "GATEWAY_URL": self.devnet_url,
            "NETWORK_PASSPHRASE": passphrase,
            "PLAIN_KEYS": "allow",
            "TREASURY": "settlers",
            "MARGIN_LEDGERS": "1",
            "SCHEDULE_S": "0.5",
        }
        return {f"SWARMLEDGER_{name}": str(value) for name, value in values.items()}

    def _sign(self, passphrase: str, seeds: dict[str, bytes], made: dict[str, Any]) -> Papers:
        accounts = made["accounts"]
        single = {
            name: parse_account(accounts[name])
            for name in ("issuer", "broadcaster", "escrow", "payout", "anchor", "fee")
        }
        self._broadcaster, self._fee = single["broadcaster"], single["fee"]
        return sign_papers(
            self.setting.private,
            seeds=seeds,
            places=Places(
                passphrase=passphrase,
                collector_url=self.api_url,
                cdn_host="127.0.0.1:1",
                asset_code=ASSET_CODE,
            ),
            accounts=DomainAccounts(
                channels=tuple(map(parse_account, accounts["channels"])), **single
            ),
            broadcaster_seed=read_seed(self._keys / "broadcaster.seed"),
            genesis_s=self.gateway.latest_ledger().close_time_s + START_ALLOWANCE_S,
            epoch_length_s=EPOCH_LENGTH_S,
            grace_s=GRACE_S,
        )

    def _ready(self, child: Child) -> dict[str, Any]:
        return self._supervisor.wait_for_file(child, self.setting.own / f"{child.name}.ready")

    # Places.

    @property
    def _keys(self) -> Path:
        return self.setting.own / "keys"

    @property
    def log_folder(self) -> Path:
        """The published log."""
        return self.setting.own / "log" / format_account(self._broadcaster)

    def settler_folder(self, name: str) -> Path:
        """A settler's own folder."""
        return self.setting.private / "settlers" / name

    def settler_key_file(self, name: str) -> Path:
        """A settler's seed."""
        return self.setting.private / "settlers" / f"{name}.seed"

    def payee_seed(self, name: str) -> bytes:
        """Seed of a payee's account."""
        return read_seed(self._keys / "payees" / f"{name}.seed")

    # Settlers.

    def start_settler(self, name: str) -> Child:
        """Start a settler that serves the operator."""
        return self._supervisor.start(
            name, ["settler", "run", "--api", self.api_url, *self._settler_options(name)]
        )

    def start_settler_alone(self, name: str) -> Child:
        """Start a settler that needs no operator, only the others."""
        none = self.setting.private / "no-audit-files"
        none.mkdir(exist_ok=True)
        exchange = self.setting.private / "exchange"
        exchange.mkdir(exist_ok=True)
        arguments = ["settler", "together", "--audit-dir", str(none)]
        arguments += ["--exchange", str(exchange), *self._settler_options(name)]
        return self._supervisor.start(f"{name}-together", arguments)

    def _settler_options(self, name: str) -> list[str]:
        options = ["--gateway", f"horizon:{self.devnet_url}"]
        options += ["--trust", str(self.setting.private / "trust.json")]
        options += ["--key-file", str(self.settler_key_file(name))]
        options += ["--state", str(self.settler_folder(name))]
        return [*options, "--poll-seconds", "0.5", "--margin-ledgers", "1"]

    # What it says, and its end.

    def view(self, epoch: int) -> View:
        """Return what the database says, with the state after an epoch."""
        if self._sessions is None:
            raise AssertionError("set_up comes first")
        with self._sessions() as session:
            shard = find_shard(session, self._broadcaster)
            settled = list_in_state(session, shard, EpochState.SETTLED)
            batches = load_batches(session, self._broadcaster, undecided=True)
            closing = load_closing_state(session, shard, epoch)
        return View(
            closing=closing,
            settled=max(settled, default=-1),
            open_epochs=tuple(sorted({batch.leaf.epoch for batch in batches})),
        )

    def surge(self) -> None:
        """Let others outbid what batches offer, for all of every network ledger from now on.

        Raises:
            DemoError: The devnet does not do it.
        """
        surge = {"kind": "surge", "count": 0, "fee": OTHERS_BID_STROOPS}
        answer = httpx.post(
            f"{self.devnet_url}/devnet/faults", json=surge, timeout=_HTTP_S, trust_env=False
        )
        if not answer.is_success:
            raise DemoError(f"devnet: got {answer.status_code}: {answer.text[:200]}")

    def count_in_flight(self) -> int:
        """Return how many batches are sent and not decided."""
        if self._sessions is None:
            raise AssertionError("set_up comes first")
        with self._sessions() as session:
            batches = load_batches(session, self._broadcaster, undecided=True)
        return sum(batch.state == SettlementState.IN_FLIGHT for batch in batches)

    def count_raised_bids(self) -> int:
        """Return how many transactions the fee account has paid for."""
        facts = all_transactions_of(self.gateway, self._fee)
        return sum(fee_payer(fact.envelope) == self._fee for fact in facts)

    def kill(self) -> None:
        """Kill schedule, workers and API as a power cut would."""
        self._supervisor.kill(self._children)

    def destroy(self) -> None:
        """Delete database, log, audit files and every key of the operator's."""
        self._close_sessions()
        self._cluster.stop()
        shutil.rmtree(self.setting.scratch / "postgres")
        shutil.rmtree(self.setting.own)

    def close(self) -> None:
        """Close connections and stop the cluster, if there is one left."""
        self._close_sessions()
        self._cluster.stop()
        if self._gateway is not None:
            self._gateway.close()

    def _close_sessions(self) -> None:
        if self._sessions is not None:
            self._sessions.engine.dispose()
            self._sessions = None


def read_json(text: str) -> dict[str, Any]:
    """Return a command's JSON object."""
    document: dict[str, Any] = json.loads(text)
    return document
