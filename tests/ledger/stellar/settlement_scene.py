"""A settlement domain on a real devnet and a real database, and the two who check it.

The log is a real one, signed and stored as the product does; only what would be computed is made
up: the leaves of an epoch are its planned payouts.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from ledger.audit.stellar_xdr import read_transaction
from ledger.devnet.network import root_keypair
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.checkpoint import Checkpoint, sign_checkpoint
from ledger.evidence.keys import network_id_of, public_key_of
from ledger.evidence.leaf import (
    ACTIVATION,
    EVIDENCE_DAO_KEY,
    PAYOUT_FUNDING,
    PAYOUT_PAYMENTS,
    Activation,
    Payment,
    PayoutLeaf,
    format_payout_leaf,
)
from ledger.evidence.merkle import RootBuilder, leaf_hash
from ledger.evidence.note import format_note
from ledger.evidence.terms import Terms, sign_terms
from ledger.stellar.command import all_transactions_of
from ledger.stellar.domain import DomainKeys, Policy, SettlementDomain, SetUp, set_up_domain
from ledger.stellar.gateway import Gateway, SubmitAnswer
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.settlement import SettlementReport, settle
from ledger.stellar.signing import SeedSigner
from ledger.stellar.transacting import Transacting, account_creation
from ledger.store import settlement_store as store
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import find_checkpoint, open_epochs, store_checkpoint
from ledger.store.shard_store import Shard, find_shard, parse_registration, register
from ledger.store.tables import LeafRow

PASSPHRASE = "swarmledger settlement tests"
ASSET_CODE = "USD"
LOG_ORIGIN = "log.example/settlement"
WINDOW = 20
POLICY = Policy(margin_ledgers=1, room_ledgers=3, room_s=6)
TICKS_MAX = 200
GIVEN_STROOPS = 10**11
LOG_SEED = sha256(b"log").digest()
ISSUING_SEED = sha256(b"issuing").digest()
DAO_SEED = sha256(b"dao").digest()


class DevnetProcess:
    """`swarmledger devnet serve`; network ledgers close on request only."""

    def __init__(self, folder: Path, passphrase: str = PASSPHRASE) -> None:
        ready = folder / "ready.json"
        arguments = ["--passphrase", passphrase, "--ready-file", str(ready)]
        code = "from ledger.devnet.command import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", *arguments, "--close-seconds", "0"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=subprocess.DEVNULL,
        )
        give_up_at = time.monotonic() + 60
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                self.stop()
                raise RuntimeError(f"devnet: got exit {self.process.returncode}, want it ready")
            time.sleep(0.02)
        self.url: str = json.loads(ready.read_text())["url"]
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def close_ledgers(self, count: int = 1) -> None:
        self.client.post("/devnet/close", json={"count": count}).raise_for_status()

    def arm(self, kind: str, **parameters: Any) -> None:
        self.client.post("/devnet/faults", json={"kind": kind, **parameters}).raise_for_status()

    def clear_faults(self) -> None:
        self.client.delete("/devnet/faults").raise_for_status()

    def faults(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/devnet/faults").json()["faults"]
        return found

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Network ledgers close all the time meanwhile."""
        stop = threading.Event()

        def run() -> None:
            with httpx.Client(base_url=self.url, trust_env=False, timeout=60) as client:
                while not stop.wait(0.05):
                    client.post("/devnet/close")

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class SetUpGateway(HorizonGateway):
    """A devnet on which a ledger closes after each transaction that is sent: nobody waits for one.

    The network's root account gives XLM away, since friendbot would wait.
    """

    def __init__(self, devnet: DevnetProcess, passphrase: str) -> None:
        super().__init__(devnet.url, passphrase)
        self._devnet, self._passphrase = devnet, passphrase

    def submit(self, envelope: bytes) -> SubmitAnswer:
        answer = super().submit(envelope)
        self._devnet.close_ledgers()
        return answer

    def fund_by_friendbot(self, account: bytes) -> None:
        root = root_keypair(self._passphrase)
        creation = account_creation(root.raw_public_key(), account, GIVEN_STROOPS)
        Transacting(self, self._passphrase).apply_all([([creation], [root.raw_secret_key()])])


@contextmanager
def setting_up(devnet: DevnetProcess, passphrase: str = PASSPHRASE) -> Iterator[SetUpGateway]:
    """A gateway for setting something up."""
    gateway = SetUpGateway(devnet, passphrase)
    try:
        yield gateway
    finally:
        gateway.close()


def make_terms(made: SetUp, *, genesis_s: int, window: int = WINDOW) -> Terms:
    return Terms(
        network_id=network_id_of(PASSPHRASE),
        broadcaster_account=made.broadcaster,
        issuing_key=public_key_of(ISSUING_SEED),
        log_key=public_key_of(LOG_SEED),
        log_origin=LOG_ORIGIN,
        collector_url="http://127.0.0.1:1",
        asset_code=made.asset_code,
        asset_issuer=made.issuer,
        escrow_account=made.escrow,
        payout_account=made.payout,
        anchor_account=made.anchor,
        rules_digest=bytes(32),
        price_version=1,
        price_stroops=1,
        price_quantity_bytes=1,
        fee_ppm=0,
        genesis_s=genesis_s,
        epoch_length_s=7,
        grace_s=1,
        correction_epochs=1,
        first_epoch=0,
        last_epoch=1_000_000,
        payout_threshold_stroops=1,
        fee_bid_stroops=100,
        attempt_window_ledgers=window,
        attempt_window_s=window,
        batch_payments=100,
        fee_account=made.fee or bytes(32),
        fee_bid_max_stroops=100 if made.fee is None else 50_000,
        challenge_window_s=0,
        cash_out_least_stroops=1,
        address_delay_s=0,
        suspense_refund_s=604_800,
        channel_accounts=made.channels,
        cdns=(),
    )


@dataclass
class Scene:
    """One domain with its database; `plan` puts work in, `paid` reads the network's ledger."""

    devnet: DevnetProcess
    gateway: HorizonGateway
    sessions: SessionFactory
    domain: SettlementDomain
    made: SetUp
    keys: DomainKeys
    next_slots: dict[bytes, int]
    next_number: int = 0
    next_epoch: int = 0

    @property
    def broadcaster(self) -> bytes:
        return self.made.broadcaster

    @property
    def payees(self) -> list[bytes]:
        return sorted(self.made.payees.values())

    def plan(self, *groups: dict[bytes, int], anchor: bool = True) -> list[PayoutLeaf]:
        """Plan an epoch: its anchor, a funding batch, and a payments batch for each group.

        Their leaves go into the log under a signed checkpoint, as `compute` does it.
        """
        now = self.gateway.latest_ledger()
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        total = sum(sum(group.values()) for group in groups)
        batches = [(PAYOUT_FUNDING, {self.made.payout: total})]
        batches += [(PAYOUT_PAYMENTS, group) for group in groups]
        leaves = []
        for kind, group in batches:
            channel = self.made.channels[self.next_number % len(self.made.channels)]
            is_funding = kind == PAYOUT_FUNDING
            leaf = PayoutLeaf(
                network_id=self.gateway.network_id,
                epoch=epoch,
                batch_number=self.next_number,
                kind=kind,
                channel_account=channel,
                channel_sequence=self.next_slots[channel],
                reference_ledger_sequence=now.sequence,
                reference_close_s=now.close_time_s,
                fee_bid_stroops=100,
                asset_code=self.made.asset_code,
                asset_issuer=self.made.issuer,
                source_account=self.made.escrow if is_funding else self.made.payout,
                payments=tuple(
                    Payment(account=account, amount_stroops=stroops)
                    for account, stroops in sorted(group.items())
                ),
            )
            leaves.append(leaf)
            self.next_slots[channel] += 1
            self.next_number += 1
        with self.sessions.begin() as session:
            shard = find_shard(session, self.broadcaster)
            open_epochs(session, shard, first=0, last=epoch)
            append_to_log(session, shard, epoch, leaves)
        self.plan_again(epoch, leaves, anchor=anchor)
        return leaves

    def plan_again(self, epoch: int, leaves: list[PayoutLeaf], *, anchor: bool = True) -> None:
        """Plan what is in the log already."""
        with self.sessions.begin() as session:
            if anchor:
                store.plan_anchor(session, self.broadcaster, epoch, self.body_hash(epoch))
            store.plan_batches(session, self.broadcaster, leaves)

    def body_hash(self, epoch: int) -> bytes:
        """What the anchor of an epoch must say."""
        with self.sessions() as session:
            stored = find_checkpoint(session, find_shard(session, self.broadcaster), epoch)
        assert stored is not None
        return stored.body_hash

    def settle(self, *gateways: Gateway, **policy: int) -> SettlementReport:
        domain = self.domain
        if policy:
            domain = replace(domain, policy=replace(domain.policy, **policy))
        return settle(self.sessions, gateways or (self.gateway,), domain)

    def tick(self, count: int = 1) -> SettlementReport:
        for _ in range(count):
            self.devnet.close_ledgers()
            report = self.settle()
        return report

    def settle_all(self) -> SettlementReport:
        for _ in range(TICKS_MAX):
            report = self.tick()
            if report.is_halted or (not report.undecided and not self.open_anchors()):
                return report
        raise AssertionError(f"settlement: got {report} after {TICKS_MAX} ticks, want an end")

    def open_anchors(self) -> int:
        with self.sessions() as session:
            return len(store.load_undecided_anchors(session, self.broadcaster))

    def batches(self) -> tuple[store.Batch, ...]:
        with self.sessions() as session:
            return store.load_batches(session, self.broadcaster)

    def states(self) -> list[str]:
        return [str(batch.state) for batch in self.batches()]

    def paid(self) -> dict[bytes, int]:
        """What the network's ledger says was paid out of the payout account, by payee."""
        return paid_out_of(self.gateway, self.made.payout)

    def balance(self, account: bytes) -> int:
        view = self.gateway.account(account)
        assert view is not None
        return view.balances[(self.made.asset_code, self.made.issuer)]


def append_to_log(session: Session, shard: Shard, epoch: int, leaves: list[PayoutLeaf]) -> None:
    """Append an epoch's payout leaves and sign the checkpoint over them."""
    before = find_checkpoint(session, shard, epoch - 1)
    log = RootBuilder() if before is None else RootBuilder.restore(before.frontier)
    for leaf in leaves:
        data = format_payout_leaf(leaf)
        session.add(
            LeafRow(
                broadcaster_id=shard.id,
                leaf_index=log.size,
                epoch=epoch,
                data=data,
                leaf_hash=leaf_hash(data),
            )
        )
        log.append(data)
    session.flush()
    head = Checkpoint(origin=LOG_ORIGIN, tree_size=log.size, root_hash=log.root())
    note = format_note(sign_checkpoint(head, LOG_SEED))
    store_checkpoint(session, shard, epoch, head, note=note, frontier=log.export_state())


def register_broadcaster(sessions: SessionFactory, terms: Terms, broadcaster_seed: bytes) -> None:
    """Register the scene's broadcaster with terms, binding and activation, all signed."""
    account, network_id = terms.broadcaster_account, terms.network_id
    binding = Binding(
        network_id=network_id,
        account=account,
        key=terms.issuing_key,
        role=Role.ISSUING,
        first_epoch=0,
        last_epoch=10**6,
        serial=1,
    )
    activation = Activation(
        network_id=network_id,
        broadcaster_account=account,
        rules_digest=terms.rules_digest,
        first_epoch=0,
        evidence_kind=EVIDENCE_DAO_KEY,
        dao_key=public_key_of(DAO_SEED),
    )
    registration = parse_registration(
        terms=sign_terms(terms, ISSUING_SEED).raw,
        binding=BINDING.sign(binding, broadcaster_seed, ISSUING_SEED).raw,
        activation=ACTIVATION.sign(activation, DAO_SEED).raw,
    )
    with sessions.begin() as session:
        register(session, registration)


def paid_out_of(gateway: Gateway, account: bytes) -> dict[bytes, int]:
    paid: dict[bytes, int] = {}
    for fact in all_transactions_of(gateway, account):
        for movement in read_transaction(fact).movements:
            if movement.source == account and not movement.is_native:
                got = paid.get(movement.destination, 0)
                paid[movement.destination] = got + movement.amount_stroops
    return paid


def make_scene(
    devnet: DevnetProcess, sessions: SessionFactory, folder: Path, *, with_fee: bool = False
) -> Scene:
    """Set a fresh domain up on the devnet: two channels, three payees, money in escrow."""
    gateway = HorizonGateway(devnet.url, PASSPHRASE)
    keys = DomainKeys.load_or_make(folder / "keys", 2, ["ann", "ben", "cay"], with_fee=with_fee)
    genesis_s = gateway.latest_ledger().close_time_s
    with setting_up(devnet) as setter:
        made = set_up_domain(
            setter, PASSPHRASE, keys, asset_code=ASSET_CODE, deposit_stroops=10**12
        )
    seeds = keys.operator_seeds
    domain = SettlementDomain(
        terms=make_terms(made, genesis_s=genesis_s),
        passphrase=PASSPHRASE,
        signer=SeedSigner({public_key_of(seed): seed for seed in seeds}),
        policy=POLICY,
    )
    register_broadcaster(sessions, domain.terms, keys.broadcaster)
    slots = {}
    for channel in made.channels:
        view = gateway.account(channel)
        assert view is not None
        slots[channel] = view.sequence + 1
    return Scene(devnet, gateway, sessions, domain, made, keys, slots)
