"""Batches that nobody waits for: their slots are used up, and ledgers decide within two.

The network recovers, and what was in flight cannot be in any ledger any more, or is banned; the
proof that it is dead is far away. Each test is about one way to get there, or one reason not to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from failure_rows import Answering, Row, shared_domain
from settlement_scene import PASSPHRASE, WINDOW, DevnetProcess, Scene

from ledger.audit.stellar_xdr import read_transaction
from ledger.devnet.control import DevnetControl
from ledger.embedded.postgres import PostgresCluster
from ledger.evidence.keys import public_key_of
from ledger.evidence.leaf import PayoutLeaf, burn_hash, payout_hash
from ledger.stellar.burning import sign_burn
from ledger.stellar.deciding import give_up
from ledger.stellar.domain import Policy
from ledger.stellar.gateway import FILTERED, NetworkLedger, SubmitAnswer, SubmitStatus
from ledger.stellar.overdue import BANNED, MAKES_WAY, OVERDUE, can_be_next, ledgers_to_proof
from ledger.stellar.preflight import REFUSED
from ledger.stellar.signing import (
    Demand,
    KeySignature,
    SeedSigner,
    SignaturesMissingError,
    UnsignedTransaction,
)
from ledger.stellar.sources import open_source
from ledger.store.sending_store import load_refusals
from ledger.store.settlement_store import Attempt
from ledger.store.settlement_tables import BURN

pytestmark = [pytest.mark.postgres, pytest.mark.process]

LOST = SubmitAnswer(status=SubmitStatus.PENDING)
"""A node says that it has the envelope, and is gone."""

TRY_AGAIN = SubmitAnswer(status=SubmitStatus.TRY_AGAIN)


@pytest.fixture(scope="module")
def domain(
    devnet_process: DevnetProcess,
    postgres_cluster: PostgresCluster,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    with shared_domain(
        devnet_process, postgres_cluster, template_database, tmp_path_factory, with_fee=False
    ) as made:
        yield made


@pytest.fixture
def row(domain: Scene, devnet: DevnetProcess) -> Iterator[Row]:
    made, settled = Row(domain), domain.domain
    yield made
    devnet.clear_faults()
    domain.domain = settled
    domain.settle_all()
    made.close()


def lose_a_payment(row: Row) -> PayoutLeaf:
    """Plan a batch whose payment is sent and reaches nobody."""
    leaf = row.plan()
    row.source.always = LOST
    row.tick_until("in_flight")
    row.source.always = None
    return leaf


def jump(devnet: DevnetProcess) -> None:
    """The next ledger closes so late that the times of all envelopes are over."""
    devnet.arm("time_jump", seconds=10 * WINDOW)


def test_payment_whose_time_jumped_over_is_decided_two_ledgers_later(row: Row) -> None:
    leaf = lose_a_payment(row)
    jump(row.scene.devnet)
    row.tick()
    # The network has recovered with this ledger; its envelope's last ledger is far ahead.
    (payment,) = row.attempts()
    now = row.scene.gateway.latest_ledger()
    assert now.close_time_s > payment.max_time_s
    assert now.sequence + 10 < payment.max_ledger_sequence
    assert row.state() == "burning"
    row.tick()
    assert (row.state(), row.batch().reason) == ("burned", OVERDUE)
    assert read_transaction(row.fact(leaf)).memo_hash == burn_hash(payout_hash(leaf))
    # What was signed before can never be applied any more.
    row.scene.gateway.submit(payment.envelope)
    row.tick(2)
    assert (row.paid(), len(row.attempts())) == (0, 1)


def test_no_op_has_fresh_bounds_and_the_same_bytes_on_every_machine(row: Row) -> None:
    leaf = lose_a_payment(row)
    jump(row.scene.devnet)
    row.tick()
    (payment,), (burn,) = row.attempts(), row.attempts(purpose=BURN)
    now, terms = row.scene.gateway.latest_ledger(), row.scene.domain.terms
    assert (burn.source_account, burn.sequence) == (payment.source_account, payment.sequence)
    assert burn.max_time_s >= now.close_time_s + row.scene.domain.policy.room_s
    assert burn.max_ledger_sequence > now.sequence + row.scene.domain.policy.room_ledgers
    signer = row.scene.domain.signer
    again = sign_burn(leaf, burn.attempt, terms, PASSPHRASE, signer, isolates=False)
    assert again.envelope == burn.envelope


def test_two_workers_that_see_it_at_once_send_one_no_op(row: Row) -> None:
    lose_a_payment(row)
    jump(row.scene.devnet)
    other = Answering(row.scene.devnet.url)
    row.scene.devnet.close_ledgers()
    sent = len(row.source.sent)
    row.scene.settle(row.source)
    row.scene.settle(other)
    assert len(row.attempts(purpose=BURN)) == 1
    assert [*row.source.sent[sent:], *other.sent] == [row.attempts(purpose=BURN)[0].envelope]
    other.close()
    row.tick_until("burned")


def test_payment_that_comes_late_to_a_node_still_decides_for_paid(row: Row) -> None:
    """The no-op is no conclusion: a bound that only seems over takes nothing from anybody."""
    leaf = row.plan()
    row.source.always = LOST
    row.tick_until("in_flight")
    row.source.always = None
    (payment,) = row.attempts()
    row.scene.gateway.submit(payment.envelope)
    row.scene.settle(row.source, close_s=10_000)
    assert (row.state(), len(row.attempts(purpose=BURN))) == ("burning", 1)
    row.tick()
    assert (row.state(), row.paid()) == ("paid", 7)
    assert read_transaction(row.fact(leaf)).memo_hash == payout_hash(leaf)


def test_one_source_that_lags_keeps_the_payment_in_flight(row: Row) -> None:
    lose_a_payment(row)
    second = Answering(row.scene.devnet.url, "second")
    second.lag = 1
    jump(row.scene.devnet)
    row.scene.devnet.close_ledgers()
    row.scene.settle(row.source, second, evidence_sources=2, apart_max_s=10_000)
    assert row.state() == "in_flight"
    second.lag = 0
    row.scene.settle(row.source, second, evidence_sources=2)
    assert row.state() == "burning"
    second.close()
    row.tick_until("burned")


class PaymentsOnly(SeedSigner):
    """Holds every key, and signs nothing that has no payments in it."""

    def sign(
        self, transaction: UnsignedTransaction, demands: Sequence[Demand]
    ) -> tuple[KeySignature, ...]:
        if len({demand.account for demand in demands}) == 1:
            raise SignaturesMissingError(transaction, "no key")
        return super().sign(transaction, demands)


def test_batch_whose_no_op_nobody_can_sign_waits_for_the_proof(row: Row) -> None:
    lose_a_payment(row)
    domain = row.scene.domain
    seeds = {public_key_of(seed): seed for seed in row.scene.keys.operator_seeds}
    row.scene.domain = replace(domain, signer=PaymentsOnly(seeds))
    jump(row.scene.devnet)
    row.tick()
    assert (row.state(), row.attempts(purpose=BURN)) == ("in_flight", ())
    row.scene.domain = domain
    row.tick_until("burned")


def test_payment_that_is_proven_dead_already_is_signed_anew_in_its_slot(row: Row) -> None:
    """After an outage of the worker no slot has to be used up."""
    lose_a_payment(row)
    row.scene.devnet.close_ledgers(2 * WINDOW)
    row.tick()
    assert (row.state(), len(row.attempts()), row.attempts(purpose=BURN)) == ("in_flight", 2, ())
    row.tick()
    assert (row.state(), row.paid()) == ("paid", 7)


def test_payment_near_its_proof_waits_as_long_as_the_policy_says(row: Row) -> None:
    lose_a_payment(row)
    row.scene.domain = replace(
        row.scene.domain, policy=replace(row.scene.domain.policy, proof_wait_ledgers=10_000)
    )
    jump(row.scene.devnet)
    row.tick(2)
    assert row.state() == "in_flight"


def test_banned_payment_without_a_higher_bid_gives_its_slot_up(row: Row) -> None:
    row.plan()
    row.source.always = TRY_AGAIN
    row.tick_until("in_flight")
    row.source.always = None
    row.source.answers = [TRY_AGAIN]
    row.tick()
    assert row.state() == "burning"
    row.tick()
    assert (row.state(), row.batch().reason, row.paid()) == ("burned", BANNED, 0)


@pytest.mark.parametrize("kind", ["horizon", "rpc"])
def test_overdue_batch_that_every_node_filters_is_burned_and_its_payees_are_owed_alone(
    row: Row, kind: str
) -> None:
    leaf = row.plan()
    url = row.scene.devnet.url
    source = open_source(f"{kind}:{url}" + ("/rpc" if kind == "rpc" else ""), PASSPHRASE)
    with DevnetControl(url) as control:
        control.filter(1)  # payments
        for jumps in (False, True):
            if jumps:
                jump(row.scene.devnet)
            row.scene.devnet.close_ledgers()
            row.scene.settle(source)
        control.filter()
    source.close()
    assert row.state() == "burning"
    row.tick()
    assert (row.state(), row.batch().reason, row.paid()) == ("burned", FILTERED, 0)
    # Alone in its batch, so it is the payee: preflight carries it from the next seal on.
    with row.scene.sessions() as session:
        refusals = load_refusals(session, row.scene.broadcaster, REFUSED)
    assert (refusals[row.payee].reason, refusals[row.payee].epoch) == (FILTERED, leaf.epoch)
    assert read_transaction(row.fact(leaf)).memo_hash == burn_hash(payout_hash(leaf), isolates=True)


def test_node_that_has_no_room_once_is_asked_again(row: Row) -> None:
    row.plan()
    row.source.answers = [TRY_AGAIN]
    row.tick_until("in_flight")
    row.tick_until("paid")
    assert (row.paid(), row.attempts(purpose=BURN)) == (7, ())


@pytest.mark.parametrize("answer", [TRY_AGAIN, SubmitAnswer(status=SubmitStatus.REJECTED)])
def test_no_op_that_is_of_no_use_is_followed_by_another_in_the_same_tick(
    row: Row, answer: SubmitAnswer
) -> None:
    row.plan()
    row.source.always = LOST
    row.tick_until("in_flight")
    assert give_up(row.scene.sessions, row.scene.domain, row.batch(), reason="cancelled")
    row.tick()
    row.source.always = None
    row.source.answers = [replace(answer, code="" if answer is TRY_AGAIN else "txTOO_LATE")]
    row.tick()
    assert len(row.attempts(purpose=BURN)) == 2
    row.tick()
    assert (row.state(), row.batch().reason) == ("burned", "cancelled")


def test_payments_without_money_make_way_for_the_funding_behind_them(row: Row) -> None:
    """A funding batch was burned, and the next one has a slot of a channel that waits for it."""
    scene = row.scene
    scene.plan({row.payee: 7_000_000}, {row.payee: 3_000_000})
    assert give_up(scene.sessions, scene.domain, row.batch(0), reason="test")
    row.tick_until("burned", 0)
    row.tick(2)
    assert [row.state(n) for n in range(3)] == ["burned", "planned", "planned"]
    stuck, (funding, _) = row.batch(1), scene.plan({row.payee: 50_000_000})
    assert funding.channel_account == stuck.leaf.channel_account
    row.tick_until("paid", 3)
    row.tick_until("paid", 2)
    assert (row.state(1), row.batch(1).reason, row.paid()) == ("burned", MAKES_WAY, 3_000_000)
    # Nobody has planned money for what is left.
    assert give_up(scene.sessions, scene.domain, row.batch(4), reason="test")


# The two rules


ATTEMPT = Attempt(
    attempt=0,
    source_account=b"\x01" * 32,
    sequence=11,
    envelope=b"envelope",
    tx_hash=b"\x02" * 32,
    max_ledger_sequence=100,
    max_time_s=5_000,
)


@pytest.mark.parametrize(
    ("sequence", "close_time_s", "is_possible"),
    [
        (98, 4_995, True),
        (99, 4_995, False),
        (98, 4_996, False),
    ],
)
def test_next_ledger_may_take_what_neither_bound_keeps_out(
    sequence: int, close_time_s: int, is_possible: bool
) -> None:
    closed = NetworkLedger(sequence=sequence, close_time_s=close_time_s)
    assert can_be_next(ATTEMPT, closed, Policy(close_s=5)) == is_possible


@pytest.mark.parametrize(
    ("sequence", "close_time_s", "ledgers"),
    [
        (102, 5_001, 1),
        (100, 5_001, 3),
        (50, 5_001, 53),
        (102, 4_950, 11),
    ],
)
def test_proof_takes_until_the_later_bound_and_its_margin(
    sequence: int, close_time_s: int, ledgers: int
) -> None:
    closed = NetworkLedger(sequence=sequence, close_time_s=close_time_s)
    later = replace(ATTEMPT, max_ledger_sequence=90, max_time_s=4_000)
    policy = Policy(margin_ledgers=2, close_s=5)
    assert ledgers_to_proof([ATTEMPT, later], closed, policy) == ledgers


def test_balance_from_before_the_last_payment_covers_nothing(
    row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that lags still shows what was paid since: what it covers would be underfunded."""
    scene, payout = row.scene, row.scene.made.payout
    spare_stroops = scene.balance(payout)
    row.plan(7_000_000)
    row.tick_until("paid", 0)
    tell = row.source.account
    funded = tell(payout, assets=[(scene.made.asset_code, scene.made.issuer)])
    row.tick_until("paid")
    scene.plan({row.payee: spare_stroops + 7_000_000})
    assert give_up(scene.sessions, scene.domain, row.batch(2), reason="test")
    row.tick_until("burned", 2)
    monkeypatch.setattr(
        row.source,
        "account",
        lambda account, **of: funded if account == payout else tell(account, **of),
    )
    row.tick(3)
    assert row.state(3) == "planned"
    monkeypatch.undo()
    assert give_up(scene.sessions, scene.domain, row.batch(3), reason="test")
    row.tick_until("burned", 3)
    assert row.paid() == 7_000_000
