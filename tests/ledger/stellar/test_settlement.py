"""Settlement on a real devnet and database: paid exactly once under faults, in the right order."""

import threading
from dataclasses import replace

import pytest
from settlement_scene import PASSPHRASE, Scene
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from stellar_sdk import Account, Asset, HashMemo, Keypair, TransactionBuilder

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import NetworkFact
from ledger.stellar.envelopes import (
    Bounds,
    build_anchor,
    build_payout,
    own_demands,
    payout_demands,
    payout_memo,
    sign_envelope,
    sign_payout,
)
from ledger.stellar.gateway import Place, SubmitAnswer, TransactionPage
from ledger.stellar.horizon import HorizonGateway
from ledger.store import sending_store
from ledger.store import settlement_store as store
from ledger.store.halt_store import load_halts
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_tables import BATCH

pytestmark = [pytest.mark.postgres, pytest.mark.process]

SHORT = 8


def amounts(scene: Scene, *stroops: int) -> dict[bytes, int]:
    return dict(zip(scene.payees, stroops, strict=False))


def shorten(scene: Scene) -> None:
    """Let attempts end soon."""
    short = {"attempt_window_ledgers": SHORT, "attempt_window_s": SHORT}
    scene.domain = replace(scene.domain, terms=replace(scene.domain.terms, **short))


def attempts_of(scene: Scene, number: int) -> tuple[store.Attempt, ...]:
    with scene.sessions() as session:
        return store.load_attempts(session, scene.broadcaster, BATCH, number)


def test_planned_epoch_is_anchored_funded_and_paid_in_that_order(scene: Scene) -> None:
    scene.plan(amounts(scene, 101, 103), amounts(scene, 107))
    report = scene.settle_all()
    assert (report.undecided, report.is_halted, report.problem) == (0, False, "")
    assert scene.paid() == {scene.payees[0]: 208, scene.payees[1]: 103}
    assert scene.balance(scene.made.payout) == 0
    assert scene.balance(scene.made.escrow) == 10**12 - 311
    with scene.sessions() as session:
        anchor = store.anchor_fact(session, scene.broadcaster, 0)
        places = [
            store.facts_of_slot(
                session, scene.broadcaster, b.leaf.channel_account, b.leaf.channel_sequence
            )[0].ledger_sequence
            for b in scene.batches()
        ]
    assert anchor is not None
    assert read_transaction(anchor).memo_hash == scene.body_hash(0)
    assert anchor.ledger_sequence < places[0] < min(places[1:])
    assert all(len(attempts_of(scene, number)) == 1 for number in range(3))


def test_transaction_that_has_an_anchors_memo_and_moves_money_anchors_nothing(
    scene: Scene,
) -> None:
    """Settlers do not take it for an anchor either: operator and settlers have one rule."""
    scene.plan(amounts(scene, 5))
    key = Keypair.from_raw_ed25519_seed(scene.keys.anchor)
    view = scene.gateway.account(scene.made.anchor)
    assert view is not None
    builder = TransactionBuilder(Account(key.public_key, view.sequence), PASSPHRASE, 1_000)
    builder.add_hash_memo(scene.body_hash(0)).add_time_bounds(0, 0)
    payer = format_account(scene.made.issuer)
    false = builder.append_payment_op(payer, Asset.native(), "1").build()
    false.sign(key)
    scene.gateway.submit(false.to_xdr_object().to_xdr_bytes())
    scene.devnet.close_ledgers(2)
    scene.settle_all()
    with scene.sessions() as session:
        anchor = store.anchor_fact(session, scene.broadcaster, 0)
    assert anchor is not None
    assert read_transaction(anchor).tx_hash != false.hash()
    assert read_transaction(anchor).movements == ()


def test_settled_domain_stays_as_it_is_when_settled_again(scene: Scene) -> None:
    scene.plan(amounts(scene, 5))
    scene.settle_all()
    before = scene.batches()
    scene.tick(3)
    assert scene.batches() == before
    assert scene.paid() == {scene.payees[0]: 5}


def test_batch_without_its_anchor_on_the_chain_is_not_signed(scene: Scene) -> None:
    scene.plan(amounts(scene, 5), anchor=False)
    scene.tick(5)
    assert scene.states() == ["planned", "planned"]
    assert attempts_of(scene, 0) == ()


def test_stored_bytes_are_sent_again_unchanged_after_a_lost_queue(scene: Scene) -> None:
    scene.plan(amounts(scene, 11))
    scene.devnet.arm("lose_queue", count=3)
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 11}
    assert [len(attempts_of(scene, number)) for number in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset_after_accept", "count": 4},
        {"kind": "http_504", "count": 4},
        {"kind": "http_503", "count": 4},
        {"kind": "duplicate", "count": 4},
        {"kind": "drop_answer", "count": 9},
        {"kind": "hide_transactions", "count": 40, "ledgers": 6},
        {"kind": "stale_replica", "count": 40, "ledgers": 5},
    ],
    ids=lambda fault: str(fault["kind"]),
)
def test_api_fault_neither_loses_nor_repeats_a_payment(
    scene: Scene, fault: dict[str, object]
) -> None:
    scene.plan(amounts(scene, 13, 17), amounts(scene, 19))
    scene.tick()
    scene.devnet.arm(**fault)
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 32, scene.payees[1]: 17}
    assert scene.states() == ["paid", "paid", "paid"]


def test_attempt_that_expired_is_replaced_in_the_same_slot(scene: Scene) -> None:
    patient = replace(scene.domain.policy, proof_wait_ledgers=10_000)
    scene.domain = replace(scene.domain, policy=patient)
    shorten(scene)
    scene.plan(amounts(scene, 23))
    while scene.states()[0] != "in_flight":
        scene.tick()
    scene.devnet.arm("lose_queue", count=0)
    scene.tick(2 * SHORT)
    scene.devnet.clear_faults()
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 23}
    attempts = [attempt for number in (0, 1) for attempt in attempts_of(scene, number)]
    slots = {(attempt.source_account, attempt.sequence) for attempt in attempts}
    assert len(attempts) > len(slots) == 2
    assert len({attempt.tx_hash for attempt in attempts}) == len(attempts)


def test_unseen_envelope_is_not_replaced_before_its_bounds_are_over(scene: Scene) -> None:
    shorten(scene)
    scene.plan(amounts(scene, 29))
    scene.devnet.arm("lose_queue", count=0)
    scene.tick(3)
    first = max(attempt.max_ledger_sequence for attempt in anchor_attempts(scene))
    while scene.gateway.latest_ledger().sequence <= first:
        assert len(anchor_attempts(scene)) == 1
        scene.tick()
    scene.devnet.clear_faults()
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 29}


def anchor_attempts(scene: Scene) -> tuple[store.Attempt, ...]:
    with scene.sessions() as session:
        return store.load_attempts(session, scene.broadcaster, "anchor", 0)


def test_envelope_applied_while_the_source_hides_it_is_never_given_up(scene: Scene) -> None:
    """Not found behind both bounds, yet the account's sequence tells that the slot is used."""
    shorten(scene)
    scene.plan(amounts(scene, 31))
    while scene.states()[0] != "in_flight":
        scene.tick()
    scene.devnet.arm("hide_transactions", count=0, ledgers=500)
    scene.tick(3 * SHORT)
    assert scene.states()[0] == "in_flight"
    (attempt,) = attempts_of(scene, 0)
    with scene.sessions() as session:
        last_sent = sending_store.last_sent_sequence(session, attempt.tx_hash)
    assert 0 < last_sent < attempt.max_ledger_sequence
    scene.devnet.clear_faults()
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 31}


def test_two_workers_at_once_pay_once(scene: Scene) -> None:
    # So wide that no attempt expires, however slow the workers are.
    wide = replace(scene.domain.terms, attempt_window_ledgers=10_000, attempt_window_s=10_000)
    scene.domain = replace(scene.domain, terms=wide)
    scene.plan(amounts(scene, 37, 41), amounts(scene, 43))

    def run() -> None:
        gateway = HorizonGateway(scene.devnet.url, scene.domain.passphrase)
        for _ in range(30):
            if not (scene.settle(gateway).undecided or scene.open_anchors()):
                break
        gateway.close()

    with scene.devnet.closing():
        workers = [threading.Thread(target=run) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 80, scene.payees[1]: 41}
    assert all(len(attempts_of(scene, number)) == 1 for number in range(3))


def test_failed_payment_frees_the_channel_and_says_why(scene: Scene) -> None:
    stranger = b"\x07" * 32
    scene.plan({stranger: 3, **amounts(scene, 47)}, amounts(scene, 53))
    scene.settle_all()
    assert scene.states() == ["paid", "failed", "paid"]
    assert scene.batches()[1].reason == "txFAILED: PAYMENT_NO_DESTINATION"
    assert scene.paid() == {scene.payees[0]: 53}
    scene.plan(amounts(scene, 47))
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 100}


def test_unplanned_transaction_in_a_slot_halts_the_domain(scene: Scene) -> None:
    leaves = scene.plan(amounts(scene, 59))
    now = scene.gateway.latest_ledger()
    thief = build_anchor(
        b"\x01" * 32,
        leaves[1].channel_account,
        sequence=leaves[1].channel_sequence,
        bounds=Bounds(max_ledger_sequence=now.sequence + 50, max_time_s=now.close_time_s + 500),
        fee_bid_stroops=100,
        passphrase=scene.domain.passphrase,
    )
    demands = own_demands(leaves[1].channel_account)
    signed = sign_envelope(thief, demands, scene.domain.signer)
    assert scene.gateway.submit(signed.envelope).status == "pending"
    report = scene.tick(4)
    assert report.is_halted
    assert scene.batches()[1].reason.startswith("slot holds")
    scene.tick(5)
    assert scene.paid() == {}
    assert scene.states() == ["planned", "halted"]


def test_planned_memo_with_other_amounts_halts_the_domain(scene: Scene) -> None:
    leaves = scene.plan(amounts(scene, 59))
    scene.tick()
    greedy = replace(leaves[0], payments=(replace(leaves[0].payments[0], amount_stroops=60),))
    unsigned = build_payout(greedy, 0, scene.domain.terms, scene.domain.passphrase)
    unsigned.transaction.memo = HashMemo(payout_memo(leaves[0]))
    signed = sign_envelope(unsigned, payout_demands(greedy), scene.domain.signer)
    assert scene.gateway.submit(signed.envelope).status == "pending"
    assert scene.tick(3).is_halted
    assert "moved 1 amounts" in scene.batches()[0].reason
    assert scene.paid() == {}


def test_failure_that_left_the_slot_open_decides_nothing(scene: Scene) -> None:
    """A transaction may stand in a ledger with its fee charged and its sequence not consumed."""
    leaf = scene.plan(amounts(scene, 61))[0]
    domain = scene.domain
    signed = sign_payout(leaf, 7, domain.terms, domain.passphrase, domain.signer)
    bad_auth = (100).to_bytes(8, "big") + (-6).to_bytes(4, "big", signed=True) + bytes(4)
    fact = NetworkFact(
        network_id=leaf.network_id,
        ledger_sequence=1,
        close_time_s=1,
        apply_order=1,
        envelope=signed.envelope,
        result=bad_auth,
    )
    stored = store.StoredFact(
        fact=fact,
        tx_hash=signed.tx_hash,
        source_account=leaf.channel_account,
        sequence=leaf.channel_sequence,
        memo_hash=payout_memo(leaf),
        succeeded=False,
    )
    with scene.sessions.begin() as session:
        store.insert_facts(session, scene.broadcaster, [stored])
    scene.settle_all()
    assert scene.states() == ["paid", "paid"]
    assert scene.paid() == {scene.payees[0]: 61}


class CommittedFirst(HorizonGateway):
    """A gateway that looks the envelope up in the database before it lets it out."""

    scene: Scene
    sent = 0

    def submit(self, envelope: bytes) -> SubmitAnswer:
        query = text("SELECT count(*) FROM attempts WHERE envelope = :envelope")
        with self.scene.sessions() as session:
            assert session.scalar(query, {"envelope": envelope}) == 1
        self.sent += 1
        return super().submit(envelope)


def test_envelope_is_committed_before_it_is_sent(scene: Scene) -> None:
    gateway = CommittedFirst(scene.devnet.url, scene.domain.passphrase)
    gateway.scene = scene
    scene.plan(amounts(scene, 67))
    while scene.settle(gateway).undecided:
        scene.devnet.close_ledgers()
    assert gateway.sent >= 3
    gateway.close()


def test_slots_of_one_channel_are_signed_one_after_another(scene: Scene) -> None:
    scene.plan(*(amounts(scene, stroops) for stroops in (2, 3, 5, 7, 11)))
    seen_together = 0
    while scene.tick().undecided:
        signed = [b.leaf.channel_account for b in scene.batches() if b.state in SENT]
        assert len(set(signed)) == len(signed)
        seen_together = max(seen_together, len(signed))
    assert seen_together == len(scene.made.channels)
    assert scene.paid() == {scene.payees[0]: 28}


SENT = {SettlementState.SIGNED, SettlementState.IN_FLIGHT}


def test_lost_database_is_found_again_on_the_chain(scene: Scene, database_url: str) -> None:
    """The same plan in an empty database after all was paid: nothing is paid again."""
    leaves = scene.plan(amounts(scene, 61), amounts(scene, 67))
    scene.settle_all()
    before = scene.states()
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        tables = ("network_facts", "fact_cursors", "fact_progress", "batches", "anchors")
        for table in (*tables, "attempts", "sendings", "epoch_ledgers"):
            session.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - fixed names
    scene.plan_again(0, leaves)
    scene.settle_all()
    assert scene.states() == before == ["paid", "paid", "paid"]
    assert scene.paid() == {scene.payees[0]: 128}
    assert all(attempts_of(scene, number) == () for number in range(3))


def test_sent_envelope_that_a_restored_backup_forgot_is_not_paid_twice(scene: Scene) -> None:
    scene.plan(amounts(scene, 71))
    while scene.states()[1] != "in_flight":
        scene.tick()
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("DELETE FROM attempts WHERE purpose = 'batch' AND number = 1"))
        session.execute(text("UPDATE batches SET state = 'planned', attempt = -1 WHERE number = 1"))
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 71}


def halts_of(scene: Scene) -> list[str]:
    with scene.sessions() as session:
        return [str(halt.name) for halt in load_halts(session, scene.broadcaster)]


def test_network_that_tells_another_history_stops_settlement_until_it_no_longer_does(
    scene: Scene,
) -> None:
    scene.plan(amounts(scene, 83))
    scene.tick(3)
    spoiled = [
        "UPDATE network_facts SET result = result || 'x'",
        "UPDATE network_facts SET result = substring(result for length(result) - 1)",
    ]
    for place, change in enumerate(spoiled):
        with scene.sessions.begin() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(text(change))
            session.execute(text("DELETE FROM fact_cursors"))
        if place == 0:
            report = scene.settle()
            assert (report.is_halted, halts_of(scene)) == (True, ["conflicting_facts"])
            assert "another now" in report.problem
            assert scene.tick().is_halted
    scene.settle()
    assert halts_of(scene) == []
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 83}


class NewerProtocol(HorizonGateway):
    """Tells transactions with an operation that nobody here knows."""

    def transactions_of(self, account: bytes, *, after: Place) -> TransactionPage:
        page = super().transactions_of(account, after=after)
        facts = tuple(replace(fact, envelope=fact.envelope[:-200]) for fact in page.facts)
        return replace(page, facts=facts)


def test_operation_that_this_release_does_not_know_stops_settlement_until_it_does(
    scene: Scene,
) -> None:
    scene.plan(amounts(scene, 89))
    newer = NewerProtocol(scene.devnet.url, scene.domain.passphrase)
    scene.devnet.close_ledgers()
    for _ in range(2):
        report = scene.settle(newer)
        assert (report.is_halted, halts_of(scene)) == (True, ["unreadable_transaction"])
        assert report.problem
    newer.close()
    scene.settle()
    assert halts_of(scene) == []
    scene.settle_all()
    assert scene.paid() == {scene.payees[0]: 89}


def test_too_few_sources_are_refused(scene: Scene) -> None:
    with pytest.raises(ValueError, match="gateways: got 1, want 2"):
        scene.settle(evidence_sources=2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE batches SET state = 'planned' WHERE number = 0",
        "DELETE FROM batches",
        "UPDATE attempts SET envelope = 'x'",
        "DELETE FROM network_facts",
        "UPDATE anchors SET tx_hash = NULL",
    ],
)
def test_decided_rows_and_evidence_refuse_change(scene: Scene, statement: str) -> None:
    scene.plan(amounts(scene, 73))
    scene.settle_all()
    with (
        pytest.raises(DBAPIError, match="want no"),
        scene.sessions.begin() as session,
    ):
        session.execute(text(statement))


def test_slot_is_given_to_one_batch_only(scene: Scene) -> None:
    leaves = scene.plan(amounts(scene, 79))
    with (
        pytest.raises(DBAPIError, match="uq_batches_channel_account_channel_sequence"),
        scene.sessions.begin() as session,
    ):
        store.plan_batches(session, b"\x09" * 32, leaves)


def test_row_that_another_worker_moved_is_not_moved_again(scene: Scene) -> None:
    scene.plan(amounts(scene, 83))
    batch = scene.batches()[0]
    with scene.sessions.begin() as session:
        assert store.move_batch(
            session, scene.broadcaster, batch, SettlementState.SIGNED, attempt=0
        )
        assert not store.move_batch(
            session, scene.broadcaster, batch, SettlementState.SIGNED, attempt=0
        )
