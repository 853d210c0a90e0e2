"""The settlement as a state machine: any order of ticks, faults, cancels and losses, and I1 to I9.

Hypothesis chooses what happens next on a real devnet and database; after every step what the design
promises is compared with the rows and with the chain. Each example goes on where the one before
ended, and ends settled.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from settlement_scene import PASSPHRASE, DevnetProcess, Scene, make_scene
from sqlalchemy import text

from ledger.audit.stellar_xdr import read_transaction
from ledger.evidence.leaf import PAYOUT_PAYMENTS, burn_hash, payout_hash
from ledger.stellar.burning import sign_burn
from ledger.stellar.deciding import give_up
from ledger.stellar.envelopes import payout_bounds, sign_payout
from ledger.stellar.gateway import SubmitAnswer
from ledger.stellar.horizon import HorizonGateway
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory, make_session_factory, open_engine
from ledger.store.settlement_states import UNDECIDED, SettlementState
from ledger.store.settlement_tables import BATCH, BURN

pytestmark = [pytest.mark.postgres, pytest.mark.process]

IS_LONG = bool(os.environ.get("SWARMLEDGER_LONG_TESTS"))
FAULTS = ("drop_answer", "http_503", "http_504", "reset_after_accept", "lose_queue", "duplicate")


class CommittedFirst(HorizonGateway):
    """I3: a gateway that looks every envelope up in the database before it lets it out."""

    sessions: SessionFactory
    sent = 0

    def submit(self, envelope: bytes) -> SubmitAnswer:
        query = text("SELECT count(*) FROM attempts WHERE envelope = :envelope")
        with self.sessions() as session:
            assert session.scalar(query, {"envelope": envelope}) == 1
        self.sent += 1
        return super().submit(envelope)


class Machine(RuleBasedStateMachine):
    """One domain, one or two workers, and everything that may happen to it."""

    scene: ClassVar[Scene]
    source: ClassVar[CommittedFirst]

    def __init__(self) -> None:
        super().__init__()
        self.planned = 0

    @initialize(stroops=st.integers(1, 99))
    def begin(self, stroops: int) -> None:
        self._plan([stroops])

    def _plan(self, stroops: list[int]) -> None:
        self.planned += 1
        self.scene.plan(dict(zip(self.scene.payees, stroops, strict=False)))

    @precondition(lambda self: self.planned < 2)
    @rule(stroops=st.lists(st.integers(1, 99), min_size=1, max_size=3))
    def plan(self, stroops: list[int]) -> None:
        self._plan(stroops)

    @rule(count=st.integers(1, 3))
    def tick(self, count: int) -> None:
        self.scene.devnet.close_ledgers(count)
        self.scene.settle(self.source)

    @rule()
    def settle_twice_without_a_ledger(self) -> None:
        self.scene.settle(self.source)
        self.scene.settle(self.source)

    @rule(kind=st.sampled_from(FAULTS), count=st.integers(1, 3))
    def arm(self, kind: str, count: int) -> None:
        self.scene.devnet.arm(kind, count=count)

    @rule(ledgers=st.integers(1, 5), count=st.integers(1, 9))
    def hide(self, ledgers: int, count: int) -> None:
        self.scene.devnet.arm("hide_transactions", count=count, ledgers=ledgers)

    @rule(isolates=st.booleans(), place=st.integers(0, 9))
    def cancel(self, isolates: bool, place: int) -> None:
        open_ones = [
            batch
            for batch in self.scene.batches()
            if batch.state in UNDECIDED - {SettlementState.BURNING}
            and batch.leaf.kind == PAYOUT_PAYMENTS
        ]
        if open_ones:
            batch = open_ones[place % len(open_ones)]
            give_up(
                self.scene.sessions,
                self.scene.domain,
                batch,
                reason="cancelled",
                isolates=isolates,
            )

    @rule(place=st.integers(0, 9))
    def forget_what_was_signed(self, place: int) -> None:
        """A restored backup: envelopes that may be on their way are not known any more."""
        open_ones = [batch for batch in self.scene.batches() if batch.state in UNDECIDED]
        if not open_ones:
            return
        number = open_ones[place % len(open_ones)].leaf.batch_number
        with self.scene.sessions.begin() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(
                text("DELETE FROM attempts WHERE purpose <> 'anchor' AND number = :number"),
                {"number": number},
            )
            session.execute(
                text("UPDATE batches SET state = 'planned', attempt = -1 WHERE number = :number"),
                {"number": number},
            )

    @invariant()
    def each_slot_has_one_batch_for_life(self) -> None:
        """I1, I2: the rows; the protocol's part is one transaction for a slot."""
        slots = Counter(
            (batch.leaf.channel_account, batch.leaf.channel_sequence)
            for batch in self.scene.batches()
        )
        assert set(slots.values()) <= {1}

    @invariant()
    def what_was_sent_is_signed_with_bounds_and_can_be_computed_again(self) -> None:
        """I4, I8: every copy of an attempt has the same bytes, from the leaf alone."""
        domain = self.scene.domain
        for batch in self.scene.batches():
            if batch.state not in UNDECIDED:
                continue
            for attempt, purpose in self._attempts(batch):
                if purpose == BATCH:
                    signed = sign_payout(
                        batch.leaf, attempt.attempt, domain.terms, PASSPHRASE, domain.signer
                    )
                else:
                    signed = sign_burn(
                        batch.leaf,
                        attempt.attempt,
                        domain.terms,
                        PASSPHRASE,
                        domain.signer,
                        isolates=batch.isolates,
                    )
                assert signed.envelope == attempt.envelope
                bounds = payout_bounds(batch.leaf, domain.terms, attempt.attempt)
                assert (attempt.max_ledger_sequence, attempt.max_time_s) == (
                    bounds.max_ledger_sequence,
                    bounds.max_time_s,
                )

    def _attempts(self, batch: store.Batch) -> Iterator[tuple[store.Attempt, str]]:
        number = batch.leaf.batch_number
        with self.scene.sessions() as session:
            for purpose in (BATCH, BURN):
                for attempt in store.load_attempts(
                    session, self.scene.broadcaster, purpose, number
                ):
                    yield attempt, purpose

    @invariant()
    def chain_and_rows_agree_on_what_is_paid(self) -> None:
        """I6, I9: paid ≤ on the chain ≤ paid + open, for everybody."""
        paid, still_open = Counter[bytes](), Counter[bytes]()
        for batch in self.scene.batches():
            if batch.leaf.kind != PAYOUT_PAYMENTS:
                continue
            into = paid if batch.state == SettlementState.PAID else still_open
            if batch.state in UNDECIDED | {SettlementState.PAID}:
                for payment in batch.leaf.payments:
                    into[payment.account] += payment.amount_stroops
        if self.scene.devnet.faults():
            return  # they would spoil this look too
        on_chain = self.scene.paid()
        for payee in self.scene.payees:
            got = on_chain.get(payee, 0)
            assert paid[payee] <= got <= paid[payee] + still_open[payee]

    def teardown(self) -> None:
        self.scene.devnet.clear_faults()
        report = self.scene.settle_all()
        assert not report.is_halted
        self.chain_and_rows_agree_on_what_is_paid()
        for batch in self.scene.batches():
            assert batch.state in {"paid", "burned"}
            self._require_evidence(batch)

    def _require_evidence(self, batch: store.Batch) -> None:
        """I5: a decided batch names the one transaction of its slot, and its memo says which."""
        leaf = batch.leaf
        with self.scene.sessions() as session:
            facts = store.facts_of_slot(
                session, self.scene.broadcaster, leaf.channel_account, leaf.channel_sequence
            )
        (transaction,) = (read_transaction(fact) for fact in facts)
        memo = payout_hash(leaf)
        burns = {burn_hash(memo, isolates=isolates) for isolates in (True, False)}
        assert transaction.memo_hash in (burns if batch.state == "burned" else {memo})
        assert batch.tx_hash == transaction.tx_hash


def test_any_order_of_events_pays_once_and_keeps_the_invariants(
    devnet: DevnetProcess, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = open_engine(database_url)
    folder = tmp_path_factory.mktemp("machine")
    scene = make_scene(devnet, make_session_factory(engine), folder)
    scene.gateway.close()
    source = CommittedFirst(devnet.url, PASSPHRASE)
    source.sessions, scene.gateway = scene.sessions, source
    Machine.scene, Machine.source = scene, source
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60 if IS_LONG else 5,
            stateful_step_count=20 if IS_LONG else 10,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert source.sent
    source.close()
    engine.dispose()
