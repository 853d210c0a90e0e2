"""Demo: the whole path on real parts, from a byte to a payment to an audit.

Every part is an operating-system process of its own, reached over loopback; this module starts
them, tells their story and checks at the end that every byte and stroop adds up. It imports none of
them: engines, devnet, API, workers and verifier are commands. Secrets and scratch files live in a
private temporary folder that is removed however the demo ends.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.audit.address import format_account, parse_account
from ledger.embedded.content import Content, check_content, make_content
from ledger.embedded.errors import DemoError
from ledger.embedded.evidence_files import ClosedEpoch, read_closed_epoch
from ledger.embedded.outcome import Outcome, summarise
from ledger.embedded.papers import (
    EPOCH_LENGTH_S,
    GRACE_S,
    DomainAccounts,
    Papers,
    Places,
    make_party_keys,
    random_passphrase,
    sign_papers,
)
from ledger.embedded.postgres import PostgresCluster, create_state_dir
from ledger.embedded.processes import Child, StopRequest, Supervisor
from ledger.embedded.rates import Rates, plan_rates
from ledger.embedded.screen import Screen, mib
from ledger.embedded.summary import Summary
from ledger.embedded.swarm import Swarm
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.seed_files import read_seed

ASSET_CODE = "EURT"
CHANNELS = 2
DEPOSIT = "100"
"""Tokens the broadcaster deposits."""

TORRENT_PORT = 6881
RECEIPT_PORT = 6882
LEDGER_SECONDS = 1.0
START_ALLOWANCE_S = 8
"""Ledger seconds between signing the terms and the first byte: epoch 0 begins about with it."""

LAST_RECEIPTS_S = 3
"""Seconds after an epoch's end by which its last bundles have been promised."""

CLOSING_LIMIT_S = 10 * EPOCH_LENGTH_S
EMPTY_SPOOL = ("unbundled", "unsent", "unsigned_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What a user may choose."""

    content: Path | None
    """File or folder; None makes one."""

    seeders: int
    viewers: int
    out: Path
    keep: bool
    """Keep the scratch folder, with all logs, for a look afterwards."""


@dataclass(slots=True)
class _Parts:
    """Children and addresses, as they come up."""

    subnet: str
    children: dict[str, Child] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    def address(self, host: int) -> str:
        """Return a loopback address of this demo's own subnet."""
        return f"{self.subnet}.{host}"


class Demo:
    """One run; `run` tells the story."""

    def __init__(self, options: DemoOptions, screen: Screen, stop: StopRequest) -> None:
        self._options = options
        self._stop = stop
        self._screen = screen
        self._swarm = Swarm()
        self._seconds: dict[str, float] = {}
        self._engines: list[Child] = []
        self._epochs: list[ClosedEpoch] = []
        self._started_s = time.monotonic()
        # Two demos at once must not meet: 127.0.0.0/8 is all loopback, so each takes a subnet.
        self._parts = _Parts(f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(254) + 1}")

    def run(self) -> Summary:
        """Run the demo and return its summary, all identities checked.

        Raises:
            EmbeddedError: Something failed or does not add up; everything has been cleaned up.
        """
        given = check_content(self._options.content) if self._options.content else None
        prepare_out(self._options.out)
        scratch = create_state_dir("swarmledger-demo-")
        try:
            return self._run_in(scratch, given)
        finally:
            if self._options.keep:
                self._screen.stage(f"kept {scratch}")
            else:
                shutil.rmtree(scratch, ignore_errors=True)

    def _run_in(self, scratch: Path, given: Content | None) -> Summary:
        self._private = _new_folder(scratch / "private")
        self._logs = _new_folder(self._private / "logs")
        self._audit = _new_folder(self._private / "audit")
        self._log = _new_folder(self._private / "log")
        self._party_seeds = make_party_keys(self._private)
        cluster = PostgresCluster(scratch / "postgres")
        self._supervisor = Supervisor(self._logs, self._stop)
        try:
            with self._timed("set-up"):
                content = given or self._make_content()
                rates = self._plan(content)
                papers = self._set_up(cluster, content, rates)
            with self._timed("delivery"):
                last_epoch = self._deliver(content, rates, papers)
            with self._timed("closing"):
                outcome = self._close(content, papers, last_epoch)
            with self._timed("audit and reports"):
                return self._conclude(outcome)
        finally:
            self._screen.hide_transfer()
            self._supervisor.stop_all()
            cluster.stop()

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        before_s = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - before_s, 1)

    def _make_content(self) -> Content:
        return make_content(self._private / "swarmledger-demo.bin")

    def _plan(self, content: Content) -> Rates:
        return plan_rates(content.size_bytes, self._options.viewers, self._options.seeders)

    # Set-up: Postgres, devnet, accounts, papers, services.

    def _set_up(self, cluster: PostgresCluster, content: Content, rates: Rates) -> Papers:
        self._screen.stage(f"content: {content.path.name}, {mib(content.size_bytes)}")
        passphrase = random_passphrase()
        devnet = self._start_devnet(passphrase)
        cdn = self._start_cdn(content, rates)
        cluster.start()
        self._screen.stage("Postgres runs from its wheel, on a Unix socket")
        self._parts.urls |= {"devnet": self._ready(devnet)["url"], "cdn": self._ready(cdn)["url"]}
        self._supervisor.add_environment(self._server_environment(cluster.url(), passphrase))
        # Whatever needs no terms comes first, side by side: epoch 0 should begin with the traffic.
        with ThreadPoolExecutor(max_workers=3) as pool:
            accounts = pool.submit(self._set_up_accounts, passphrase)
            torrent = pool.submit(self._make_torrent, content)
            schema = pool.submit(self._supervisor.run, "db", ["db", "upgrade"])
            schema.result()
            api = self._start_service("api", "serve", 2)
            torrent.result()
            made = accounts.result()
        self._screen.stage(
            f"devnet: {len(made['accounts']['payees']) + CHANNELS + 5} accounts with trustlines, "
            f"{DEPOSIT} {ASSET_CODE} deposited into escrow"
        )
        self._parts.urls["api"] = self._ready(api)["url"]
        papers = self._sign(passphrase, made)
        issuer = self._start_issuer(papers)
        self._start_seeders(content, rates, papers)
        self._supervisor.run("register", ["db", "register"])
        self._start("worker", ["worker", "run", "--concurrency", "2"])
        self._start("beat", ["worker", "beat"])
        self._parts.urls["issuer"] = self._ready(issuer)["url"]
        self._screen.stage("collector, workers, schedule and the broadcaster's back end run")
        return papers

    def _start_devnet(self, passphrase: str) -> Child:
        arguments = ["devnet", "serve", "--passphrase", passphrase]
        arguments += ["--listen", f"{self._parts.address(1)}:0"]
        arguments += ["--close-seconds", str(LEDGER_SECONDS)]
        arguments += ["--ready-file", str(self._private / "devnet.ready")]
        return self._start("devnet", arguments)

    def _start_cdn(self, content: Content, rates: Rates) -> Child:
        arguments = ["cdn", "--content", str(content.path)]
        arguments += ["--listen", f"{self._parts.address(4)}:0", "--rate", str(rates.cdn)]
        arguments += ["--access-log", str(self._private / "cdn-access.log")]
        arguments += ["--ready-file", str(self._private / "cdn.ready")]
        return self._start("cdn", arguments)

    def _set_up_accounts(self, passphrase: str) -> dict[str, Any]:
        names = self._private / "payees.txt"
        engines = [*self._seeder_names(), *self._viewer_names()]
        names.write_text("\n".join(engines) + "\n", encoding="utf-8")
        arguments = ["stellar", "setup", "--gateway", self._parts.urls["devnet"]]
        arguments += ["--passphrase", passphrase, "--keys-dir", str(self._private / "keys")]
        arguments += ["--channels", str(CHANNELS), "--payees", str(names)]
        arguments += ["--deposit", DEPOSIT, "--asset", ASSET_CODE, "--json"]
        made: dict[str, Any] = json.loads(self._supervisor.run("stellar-setup", arguments))
        return made

    def _server_environment(self, database_url: str, passphrase: str) -> dict[str, str]:
        files = {
            "LOG_KEY_FILE": self._private / "log.seed",
            "KEYS_DIR": self._private / "keys" / "operator",
            "TERMS_FILE": self._private / "broadcaster.terms",
            "BINDING_FILE": self._private / "issuing.binding",
            "ACTIVATION_FILE": self._private / "traffic.activation",
            "TRUST_FILE": self._private / "trust.json",
            "LOG_DIR": self._log,
            "AUDIT_DIR": self._audit,
        }
        values = {
            "DATABASE_URL": database_url,
            "GATEWAY_URL": self._parts.urls["devnet"],
            "NETWORK_PASSPHRASE": passphrase,
            # Its keys live as long as the demo, in a private folder.
            "PLAIN_KEYS": "allow",
        }
        return {
            **{f"SWARMLEDGER_{name}": str(path) for name, path in files.items()},
            **{f"SWARMLEDGER_{name}": value for name, value in values.items()},
        }

    def _sign(self, passphrase: str, made: dict[str, Any]) -> Papers:
        accounts = made["accounts"]
        single = {
            name: parse_account(accounts[name])
            for name in ("issuer", "broadcaster", "escrow", "payout", "anchor")
        }
        channels = tuple(parse_account(channel) for channel in accounts["channels"])
        places = Places(
            passphrase=passphrase,
            collector_url=self._parts.urls["api"],
            cdn_host=self._parts.urls["cdn"].removeprefix("http://"),
            asset_code=ASSET_CODE,
        )
        self._gateway = HorizonGateway(self._parts.urls["devnet"], passphrase)
        genesis_s = self._gateway.latest_ledger().close_time_s + START_ALLOWANCE_S
        papers = sign_papers(
            self._private,
            seeds=self._party_seeds,
            places=places,
            accounts=DomainAccounts(channels=channels, **single),
            broadcaster_seed=read_seed(self._private / "keys" / "broadcaster.seed"),
            genesis_s=genesis_s,
        )
        self._screen.stage("broadcaster signed its terms, the DAO activated the traffic contract")
        return papers

    def _start_service(self, name: str, command: str, host: int, *more: str) -> Child:
        arguments = ["api", command, "--listen", f"{self._parts.address(host)}:0"]
        arguments += ["--ready-file", str(self._private / f"{name}.ready"), *more]
        return self._start(name, arguments)

    def _start_issuer(self, papers: Papers) -> Child:
        more = ["--issuing-key", str(papers.issuing_key_file), "--terms", str(papers.terms_file)]
        more += ["--issued", str(self._private / "issued.jsonl")]
        return self._start_service("issuer", "issuer", 3, *more)

    def _make_torrent(self, content: Content) -> None:
        self._torrent = self._private / "content.torrent"
        arguments = ["engine", "torrent", str(content.path), "--out", str(self._torrent)]
        arguments += ["--web-seed", f"{self._parts.urls['cdn']}/"]
        described = json.loads(self._supervisor.run("torrent", arguments))
        if described["content_bytes"] != content.size_bytes:
            raise DemoError(
                f"torrent: got {described['content_bytes']} bytes, want {content.size_bytes}"
            )
        title = {described["content_id"]: described["name"]}
        (self._private / "catalogue.json").write_text(json.dumps(title), encoding="utf-8")
        self._content_id = described["content_id"]

    def _start(self, name: str, arguments: Sequence[str]) -> Child:
        child = self._supervisor.start(name, arguments)
        self._parts.children[name] = child
        return child

    def _ready(self, child: Child) -> dict[str, Any]:
        return self._supervisor.wait_for_file(child, self._private / f"{child.name}.ready")

    # Delivery: seeders, viewers, until every viewer has everything.

    def _seeder_names(self) -> list[str]:
        return [f"seeder-{number}" for number in range(1, self._options.seeders + 1)]

    def _viewer_names(self) -> list[str]:
        return [f"viewer-{number}" for number in range(1, self._options.viewers + 1)]

    def _engine_address(self, name: str) -> str:
        kind, _, number = name.partition("-")
        return self._parts.address((10 if kind == "seeder" else 100) + int(number))

    def _engine_arguments(self, name: str, papers: Papers) -> list[str]:
        return [
            "--listen",
            f"{self._engine_address(name)}:{TORRENT_PORT}",
            "--receipt-port",
            str(RECEIPT_PORT),
            "--state",
            str(self._private / "engines" / name),
            "--terms",
            str(papers.terms_file),
            "--account-key",
            str(self._private / "keys" / "payees" / f"{name}.seed"),
            "--json",
        ]

    def _deliver(self, content: Content, rates: Rates, papers: Papers) -> int:
        """Return the epoch in which the last viewer completed."""
        for name in self._viewer_names():
            self._start_engine(name, self._viewer_arguments(name, rates, papers))
        names = [*self._seeder_names(), *self._viewer_names()]
        self._supervisor.wait_until(
            lambda: self._swarm.are_ready(names), what="the engines to be ready", seconds=60
        )
        self._screen.stage(f"{len(names)} libtorrent sessions trade; receipts flow")
        wanted_bytes = content.size_bytes * self._options.viewers
        self._supervisor.wait_until(
            lambda: self._transfer_is_done(wanted_bytes),
            what="the viewers to complete",
            seconds=rates.limit_s,
        )
        self._transfer_is_done(wanted_bytes)
        self._screen.hide_transfer()
        received = self._swarm.received()
        self._screen.stage(
            "every viewer has every byte: "
            + ", ".join(f"{name} {mib(size)}" for name, size in received.items())
        )
        return papers.terms.value.epoch_at(self._gateway.latest_ledger().close_time_s)

    def _start_seeders(self, content: Content, rates: Rates, papers: Papers) -> None:
        _new_folder(self._private / "engines")
        for name in self._seeder_names():
            arguments = ["engine", "seed", str(content.path), "--torrent", str(self._torrent)]
            arguments += self._engine_arguments(name, papers)
            arguments += ["--upload-limit", str(rates.seeder_up)]
            self._start_engine(name, arguments)

    def _start_engine(self, name: str, arguments: Sequence[str]) -> None:
        self._swarm.add(name, is_viewer=name.startswith("viewer"))
        child = self._supervisor.start(name, arguments, on_event=self._swarm.take)
        self._engines.append(child)

    def _viewer_arguments(self, name: str, rates: Rates, papers: Papers) -> list[str]:
        arguments = ["engine", "view", str(self._torrent)]
        arguments += ["--save", str(self._private / "engines" / f"{name}-content")]
        arguments += self._engine_arguments(name, papers)
        arguments += ["--entitlement-url", self._parts.urls["issuer"]]
        arguments += ["--download-limit", str(rates.viewer_down)]
        arguments += ["--upload-limit", str(rates.viewer_up)]
        for other in (*self._seeder_names(), *self._viewer_names()):
            if other != name:
                arguments += ["--peer", f"{self._engine_address(other)}:{TORRENT_PORT}"]
        return arguments

    def _transfer_is_done(self, wanted_bytes: int) -> bool:
        self._take_closed_epoch()
        done, viewers = self._swarm.completed(), len(self._swarm.viewers)
        self._screen.transfer(self._swarm.received(), wanted_bytes, f"{done}/{viewers} complete")
        return done == viewers

    # Closing: last receipts, then epochs until the books are at rest.

    def _close(self, content: Content, papers: Papers, last_epoch: int) -> Outcome:
        terms = papers.terms.value
        self._wait_for_ledger_time(terms.epoch_end_s(last_epoch) + LAST_RECEIPTS_S)
        self._supervisor.stop(self._engines)
        self._screen.stage(f"epoch {last_epoch} ended; engines stopped with their last receipts")
        states = self._read_engines()
        self._require_whole_content(content)
        emptied_epoch = terms.epoch_at(self._gateway.latest_ledger().close_time_s)
        self._screen.stage("every file is whole; sealing on until an epoch closes at rest")
        epochs = self._wait_for_rest(papers, max(emptied_epoch, last_epoch + 1))
        self._screen.stage(f"epoch {epochs[-1].epoch} closed at rest and is anchored")
        services = ("beat", "worker", "issuer", "api", "cdn")
        self._supervisor.ask_to_stop([self._parts.children[name] for name in services])
        network = self._read_network(papers)
        return Outcome(
            content_bytes=content.size_bytes,
            wanted_bytes=self._wanted_bytes(content),
            content_id=self._content_id,
            viewers=self._options.viewers,
            seeders=len(self._seeder_names()),
            seeder_keys=frozenset(
                bytes.fromhex(self._swarm.engines[name].ready["session_key"])
                for name in self._seeder_names()
            ),
            viewer_states=[states[name] for name in self._viewer_names()],
            epochs=epochs,
            papers=papers,
            network=network,
            private=self._private,
            log_dir=self._log,
            out=self._options.out,
        )

    def _wait_for_ledger_time(self, close_time_s: int) -> None:
        def has_come() -> bool:
            self._take_closed_epoch()
            return self._gateway.latest_ledger().close_time_s >= close_time_s

        self._supervisor.wait_until(
            has_come, what=f"network time {close_time_s}", seconds=CLOSING_LIMIT_S
        )

    def _read_engines(self) -> dict[str, dict[str, Any]]:
        """Read every engine's journal and spool through its command; spools must be empty."""
        names = [*self._seeder_names(), *self._viewer_names()]
        arguments = ["engine", "status", "--json"]
        for name in names:
            arguments += ["--state", str(self._private / "engines" / name)]
        lines = self._supervisor.run("engine-status", arguments).splitlines()
        states = {
            name: {**json.loads(line), "stopped": self._swarm.engines[name].stopped}
            for name, line in zip(names, lines, strict=True)
        }
        for name, state in states.items():
            left = {key: state["spool"][key] for key in EMPTY_SPOOL if state["spool"][key]}
            if left or not state["stopped"]:
                raise DemoError(f"{name}: got {left or 'no clean stop'}, want an empty spool")
        return states

    def _require_whole_content(self, content: Content) -> None:
        """Compare every file of every viewer with the original, byte by byte."""
        for name in self._viewer_names():
            for file in content.files:
                copy = self._private / "engines" / f"{name}-content" / file
                if not _same_bytes(content.path.parent / file, copy):
                    raise DemoError(f"{name}: {file} differs from the original")

    def _wanted_bytes(self, content: Content) -> int:
        """Return what all viewers together must have received."""
        return content.size_bytes * self._options.viewers

    def _wait_for_rest(self, papers: Papers, first_epoch: int) -> list[ClosedEpoch]:
        threshold_stroops = papers.terms.value.payout_threshold_stroops

        def at_rest() -> bool:
            self._take_closed_epoch()
            return any(
                epoch.epoch >= first_epoch and epoch.is_at_rest(threshold_stroops)
                for epoch in self._epochs
            )

        self._supervisor.wait_until(
            at_rest, what="an epoch that closes at rest", seconds=CLOSING_LIMIT_S + GRACE_S
        )
        return self._epochs

    def _take_closed_epoch(self) -> None:
        """Read the next audit file, if it is there: an epoch is settled."""
        path = self._audit / f"epoch-{len(self._epochs)}.audit"
        if not path.exists():
            return
        epoch = read_closed_epoch(path)
        self._epochs.append(epoch)
        self._screen.stage(
            f"epoch {epoch.epoch} settled: {epoch.receipt_count} receipts, "
            f"P2P {mib(epoch.result.bytes_p2p_credited)}, "
            f"CDN {mib(epoch.result.bytes_cdn_credited)}, "
            f"{epoch.result.payout_count} payout batches"
        )

    def _read_network(self, papers: Papers) -> dict[str, Any]:
        terms = papers.terms.value
        common = ["--gateway", self._parts.urls["devnet"]]
        common += ["--passphrase", papers.trust.network_passphrase, "--json"]
        escrow, payout = format_account(terms.escrow_account), format_account(terms.payout_account)
        balances = self._supervisor.run(
            "balances", ["stellar", "balances", *common, escrow, payout]
        )
        payments = self._supervisor.run(
            "payments", ["stellar", "payments", *common, "--account", payout]
        )
        asset = f"{terms.asset_code}:{format_account(terms.asset_issuer)}"
        accounts = json.loads(balances)["accounts"]
        return {
            "escrow_stroops": accounts[escrow].get(asset, 0),
            "payout_stroops": accounts[payout].get(asset, 0),
            "payments": [
                payment for payment in json.loads(payments)["payments"] if payment["asset"] == asset
            ],
        }

    # Conclusion: independent audit, tamper test, reports, summary.

    def _conclude(self, outcome: Outcome) -> Summary:
        self._gateway.close()
        seconds = {**self._seconds, "total": round(time.monotonic() - self._started_s, 1)}
        return summarise(outcome, self._supervisor, self._screen, seconds)


def prepare_out(out: Path) -> None:
    """Make the output folder; refuse one that holds anything but an earlier demo's output.

    Raises:
        DemoError: It cannot be used.
    """
    try:
        if out.exists() and any(out.iterdir()) and not (out / "summary.json").exists():
            raise DemoError(f"--out {out}: got a folder with other files, want a new or a demo's")
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
    except NotADirectoryError:
        raise DemoError(f"--out {out}: got a file, want a folder") from None
    except OSError as error:
        raise DemoError(f"--out {out}: {error.strerror}") from None


def _new_folder(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def _same_bytes(one: Path, other: Path) -> bool:
    with suppress(OSError), one.open("rb") as left, other.open("rb") as right:
        if os.fstat(left.fileno()).st_size != os.fstat(right.fileno()).st_size:
            return False
        while chunk := left.read(1 << 20):
            if chunk != right.read(1 << 20):
                return False
        return True
    return False
