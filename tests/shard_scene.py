"""A broadcaster's shard on a real database, with time and network facts under the test's hand.

Parties, keys and XDR come from `simulated_operator`; everything between a bundle's bytes and an
audit file is the product's own code. One network ledger closes every second.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from simulated_operator import GENESIS_S, Operator, seed

from ledger.api.app import ApiParts
from ledger.api.collector import Collector
from ledger.api.ledger_time import LedgerTimeSource
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import NetworkFact
from ledger.evidence.encoding import Signed
from ledger.evidence.promise import PROMISE, Promise
from ledger.sealing.audit_files import AuditFileParts
from ledger.sealing.driver import SealingParts, advance
from ledger.sealing.judging import judge_bundle, sweep_bundles
from ledger.stellar.gateway import NetworkLedger
from ledger.store import settlement_store
from ledger.store.engine import SessionFactory, make_session_factory, open_engine
from ledger.store.epoch_store import find_checkpoint, load_leaves
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import LedgerPoint, StoredFact
from ledger.store.shard_store import Shard, parse_registration, register

FIRST_LEDGER = 100
PAST = datetime(2020, 1, 1, tzinfo=UTC)


class HandClock:
    """The part of a gateway that tells ledger time; the test says what it is."""

    name = "hand clock"

    def __init__(self) -> None:
        self.ledger = ledger_at(GENESIS_S)

    def latest_ledger(self) -> NetworkLedger:
        return self.ledger


def ledger_at(close_time_s: int) -> NetworkLedger:
    return NetworkLedger(
        sequence=FIRST_LEDGER + close_time_s - GENESIS_S, close_time_s=close_time_s
    )


@dataclass
class ShardScene:
    """One registered broadcaster and everything to drive it with."""

    sessions: SessionFactory
    shard: Shard
    operator: Operator
    folder: Path
    clock: HandClock = field(default_factory=HandClock)
    now: datetime = PAST
    log_seed: bytes = seed("log")

    def __post_init__(self) -> None:
        self.ledger_time = LedgerTimeSource(self.clock, interval_s=0.05, stale_s=60)
        self.ledger_time.look()
        self.collector = Collector(
            sessions=self.sessions, ledger_time=self.ledger_time, log_seed=self.log_seed
        )
        self.log_dir = self.folder / "log"
        self.audit_dir = self.folder / "audit"
        self.sealing = SealingParts(
            sessions=self.sessions,
            log_seed=self.log_seed,
            log_dir=self.log_dir,
            audit=AuditFileParts(
                audit_dir=self.audit_dir, trust=self.operator.trust, log_seed=self.log_seed
            ),
        )

    @property
    def terms(self):
        return self.operator.terms

    def api_parts(self) -> ApiParts:
        return ApiParts(
            sessions=self.sessions,
            ledger_time=self.ledger_time,
            log_seed=self.log_seed,
            log_dir=self.log_dir,
        )

    def reach(self, close_time_s: int) -> None:
        """Let network ledgers close up to a time, with complete facts."""
        self.clock.ledger = ledger_at(close_time_s)
        self.ledger_time.look()
        account = self.shard.account
        with self.sessions.begin() as session:
            last = settlement_store.last_epoch_ledger(session, account)
            settlement_store.save_progress(session, account, _point(ledger_at(close_time_s)))
            epoch = 0 if last is None else last[0] + 1
            while self.terms.epoch_end_s(epoch) <= close_time_s:
                end = ledger_at(self.terms.epoch_end_s(epoch) - 1)
                settlement_store.save_epoch_ledger(session, account, epoch, _point(end))
                epoch += 1

    def reach_epoch(self, epoch: int) -> None:
        """Let ledgers close until an epoch has begun."""
        self.reach(self.terms.epoch_start_s(epoch) + 1)

    def end_epoch(self, epoch: int) -> None:
        """Let ledgers close until an epoch and its grace are over."""
        self.reach(self.terms.epoch_end_s(epoch) + self.terms.grace_s)

    def deposit(self, stroops: int, close_time_s: int) -> None:
        """Create the settlement accounts and deposit, in two ledgers that close then."""
        self.operator.set_up(stroops)
        self.store_pending(close_time_s)

    def store_pending(self, close_time_s: int) -> list[StoredFact]:
        """Store the facts that the operator made, in ledgers from a close time on."""
        stored = []
        for offset, fact in enumerate(self.operator.pending):
            ledger = ledger_at(close_time_s + offset)
            stored.append(_stored(fact, ledger))
        self.operator.pending.clear()
        with self.sessions.begin() as session:
            settlement_store.insert_facts(session, self.shard.account, stored)
        return stored

    def upload(self, raw: bytes) -> Signed[Promise]:
        return PROMISE.parse(self.collector.collect(raw))

    def sweep(self) -> list[int]:
        """Sweep, a lease after the sweep before."""
        self.now += timedelta(seconds=31)
        return sweep_bundles(self.sessions, now=self.now, lease=timedelta(seconds=30), limit=1_000)

    def judge_all(self) -> None:
        for bundle_id in self.sweep():
            judge_bundle(self.sessions, bundle_id, attempts_max=5, log_seed=self.log_seed)

    def advance(self) -> int:
        return advance(self.sealing, self.shard)

    def anchor(self, epoch: int, close_time_s: int) -> None:
        """Put an epoch's checkpoint on the chain, in a ledger that closes then."""
        with self.sessions.begin() as session:
            body_hash = find_checkpoint(session, self.shard, epoch).body_hash
            anchor = settlement_store.load_anchor(session, self.shard.account, epoch)
        transaction = self.operator.builder("anchor", 100 + epoch)
        transaction.add_hash_memo(body_hash).append_set_options_op()
        self.operator.fact(transaction, "anchor")
        (fact,) = self.store_pending(close_time_s)
        with self.sessions.begin() as session:
            settlement_store.move_anchor(
                session,
                self.shard.account,
                anchor,
                SettlementState.PAID,
                tx_hash=fact.tx_hash,
            )

    def leaves(self) -> list[bytes]:
        with self.sessions.begin() as session:
            return load_leaves(session, self.shard)


def _point(ledger: NetworkLedger) -> LedgerPoint:
    return LedgerPoint(sequence=ledger.sequence, close_time_s=ledger.close_time_s)


def _stored(fact: NetworkFact, ledger: NetworkLedger) -> StoredFact:
    placed = replace(fact, ledger_sequence=ledger.sequence, close_time_s=ledger.close_time_s)
    transaction = read_transaction(placed)
    return StoredFact(
        fact=placed,
        tx_hash=transaction.tx_hash,
        source_account=transaction.source_account,
        sequence=transaction.sequence,
        memo_hash=transaction.memo_hash,
        succeeded=transaction.succeeded,
    )


@contextmanager
def make_shard_scene(database_url: str, folder: Path, **terms: object) -> Iterator[ShardScene]:
    """Register a broadcaster in an empty database."""
    from simulated_operator import make_terms

    engine = open_engine(database_url)
    sessions = make_session_factory(engine)
    operator = Operator(terms=make_terms(**terms))
    registration = parse_registration(
        terms=operator.signed_terms.raw,
        binding=operator.issuing_binding,
        activation=operator.activation.raw,
    )
    with sessions.begin() as session:
        shard = register(session, registration)
    try:
        yield ShardScene(sessions=sessions, shard=shard, operator=operator, folder=folder)
    finally:
        engine.dispose()


def digest(raw: bytes) -> bytes:
    """SHA-256 of a bundle's signed bytes."""
    return hashlib.sha256(raw[64:]).digest()
