"""A domain that many rows of the failure table share, and a gateway that answers as told."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from settlement_scene import PASSPHRASE, DevnetProcess, Scene, make_scene, setting_up
from stellar_sdk import Asset, Keypair
from stellar_sdk.operation import ChangeTrust, CreateAccount, SetOptions
from stellar_sdk.operation.set_options import AuthorizationFlag

from ledger.audit.address import format_account
from ledger.books.transactions import NetworkFact
from ledger.devnet.control import DevnetControl
from ledger.embedded.postgres import PostgresCluster
from ledger.evidence.leaf import PayoutLeaf
from ledger.stellar.gateway import NATIVE, NetworkLedger, SubmitAnswer, SubmitStatus
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.settlement import SettlementReport
from ledger.stellar.transacting import Transacting
from ledger.store import sending_store, stop_store
from ledger.store import settlement_store as store
from ledger.store.engine import make_session_factory, open_engine
from ledger.store.settlement_tables import BATCH

TICKS_MAX = 60
SHORT = 6
"""Ledgers and seconds that an attempt is valid where a row waits for its end."""


@contextmanager
def shared_domain(
    devnet: DevnetProcess,
    cluster: PostgresCluster,
    template: str,
    folders: pytest.TempPathFactory,
    *,
    with_fee: bool,
) -> Iterator[Scene]:
    """A domain with a database of its own, for all rows of a module."""
    name = f"rows_{uuid.uuid4().hex}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    engine = open_engine(cluster.url(name))
    folder = folders.mktemp("rows")
    made = make_scene(devnet, make_session_factory(engine), folder, with_fee=with_fee)
    yield made
    made.gateway.close()
    engine.dispose()
    shutil.rmtree(folder)


class Answering(HorizonGateway):
    """A gateway that gives other answers than the network did, or sends nothing."""

    def __init__(self, url: str, name: str = "") -> None:
        super().__init__(url, PASSPHRASE)
        self.own_name = name or url
        self.answers: list[SubmitAnswer] = []
        self.always: SubmitAnswer | None = None
        self.passes_on = False
        self.sent: list[bytes] = []
        self.clock_s = 0
        self.lag = 0

    @property
    def name(self) -> str:
        return self.own_name

    def submit(self, envelope: bytes) -> SubmitAnswer:
        self.sent.append(envelope)
        answer = self.answers.pop(0) if self.answers else self.always
        if answer is None or self.passes_on:
            told = super().submit(envelope)
            return told if answer is None else answer
        return answer

    def latest_ledger(self) -> NetworkLedger:
        told = super().latest_ledger()
        if self.lag:
            older = super().ledger(told.sequence - self.lag)
            assert older is not None
            return older
        return replace(told, close_time_s=told.close_time_s + self.clock_s)


def rejected(code: str) -> SubmitAnswer:
    return SubmitAnswer(status=SubmitStatus.REJECTED, code=code, result=b"")


class Row:
    """One row's look at the domain: what was there before does not count."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.source = Answering(scene.devnet.url)
        self.first = scene.next_number
        self.before = scene.paid()
        self.stops = 0

    def close(self) -> None:
        self.source.close()

    @property
    def payee(self) -> bytes:
        return self.scene.payees[0]

    def plan(self, stroops: int = 7) -> PayoutLeaf:
        """Plan an epoch up to its funding; the next tick signs and sends the returned payments."""
        leaf = self.scene.plan({self.payee: stroops})[-1]
        self.fund()
        return leaf

    def fund(self) -> None:
        self.tick_until("in_flight", 0)

    def tick(self, count: int = 1, **changes: int) -> SettlementReport:
        for _ in range(count):
            self.scene.devnet.close_ledgers()
            report = self.scene.settle(self.source, **changes)
        return report

    def tick_until(self, state: str, batch: int = 1) -> SettlementReport:
        for _ in range(TICKS_MAX):
            report = self.tick()
            if self.state(batch) == state:
                return report
        raise AssertionError(f"batch: got {self.state(batch)} after all ticks, want {state}")

    def tick_until_attempt(self, count: int) -> None:
        """An attempt that is given up is followed by the next one in the same tick."""
        for _ in range(TICKS_MAX):
            self.tick()
            if len(self.attempts()) == count:
                return
        raise AssertionError(f"batch: got {len(self.attempts())} attempts, want {count}")

    def state(self, batch: int = 1) -> str:
        return self.scene.states()[self.first + batch]

    def batch(self, batch: int = 1) -> store.Batch:
        return self.scene.batches()[self.first + batch]

    def attempts(self, batch: int = 1, purpose: str = BATCH) -> tuple[store.Attempt, ...]:
        with self.scene.sessions() as session:
            return store.load_attempts(session, self.scene.broadcaster, purpose, self.first + batch)

    def bumps(self) -> tuple[sending_store.Bump, ...]:
        with self.scene.sessions() as session:
            return sending_store.load_bumps(session, [a.tx_hash for a in self.attempts()])

    def open_stops(self) -> tuple[stop_store.Stop, ...]:
        with self.scene.sessions() as session:
            return stop_store.load_stops(session, self.scene.broadcaster)

    def lift_stops(self) -> None:
        for stop in self.open_stops():
            with self.scene.sessions.begin() as session:
                stop_store.lift_stop(
                    session, self.scene.broadcaster, stop.id, ledger_sequence=1, why="test"
                )

    def paid(self) -> int:
        """What the payee got since the row began."""
        return self.scene.paid().get(self.payee, 0) - self.before.get(self.payee, 0)

    def fact(self, leaf: PayoutLeaf) -> NetworkFact:
        with self.scene.sessions() as session:
            facts = store.facts_of_slot(
                session, self.scene.broadcaster, leaf.channel_account, leaf.channel_sequence
            )
        return facts[-1]

    def shorten(self) -> None:
        """Let attempts end soon, and wait for the proof of it before anything else is done."""
        terms = replace(
            self.scene.domain.terms, attempt_window_ledgers=SHORT, attempt_window_s=SHORT
        )
        policy = replace(self.scene.domain.policy, proof_wait_ledgers=10_000)
        self.scene.domain = replace(self.scene.domain, terms=terms, policy=policy)


def troubled_payees(scene: Scene) -> dict[str, bytes]:
    """Accounts that cannot be paid, each for its own reason."""
    pairs = {name: Keypair.random() for name in ("bare", "revoked", "full")}
    asset = Asset(scene.made.asset_code, format_account(scene.made.issuer))
    revocable = AuthorizationFlag.AUTHORIZATION_REVOCABLE
    creations = [CreateAccount(pair.public_key, "5") for pair in pairs.values()]
    work = [SetOptions(set_flags=revocable), *creations]
    lines = {"revoked": "1000", "full": "0.0000050"}
    with setting_up(scene.devnet) as setter:
        transacting = Transacting(setter, PASSPHRASE)
        transacting.apply_all([(work, [scene.keys.issuer])])
        transacting.apply_all(
            [
                ([ChangeTrust(asset, limit)], [pairs[name].raw_secret_key()])
                for name, limit in lines.items()
            ]
        )
    issuer = Keypair.from_raw_ed25519_seed(scene.keys.issuer)
    with DevnetControl(scene.devnet.url) as control:
        name = f"{asset.code}:{asset.issuer}"
        control.revoke(issuer.secret, pairs["revoked"].public_key, name)
        control.close_ledgers(1)
    return {name: pair.raw_public_key() for name, pair in pairs.items()}


def xlm_of(scene: Scene, account: bytes) -> int:
    view = scene.gateway.account(account)
    assert view is not None
    return view.balances[NATIVE]
