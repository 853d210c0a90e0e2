"""The failure table of the exactly-once design, row by row, on a real devnet and database.

One domain serves all rows: each row plans an epoch of its own, and leaves nothing open behind.
Answers that no fault of the devnet makes are put in the place of a node's by a gateway. Rows about
kills and lost databases stand in test_crashes and test_settlement, those about money that moved
without a plan in test_book_watch, those of a payee's own failures at the end.
"""

from collections.abc import Iterator

import pytest
from failure_rows import (
    SHORT,
    TICKS_MAX,
    Answering,
    Row,
    rejected,
    shared_domain,
    troubled_payees,
    xlm_of,
)
from settlement_scene import DevnetProcess, Scene

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.devnet.control import DevnetControl
from ledger.embedded.postgres import PostgresCluster
from ledger.evidence.leaf import burn_hash, payout_hash
from ledger.stellar.command import all_transactions_of
from ledger.stellar.deciding import give_up
from ledger.stellar.envelopes import sign_payout
from ledger.stellar.failures import FROZEN
from ledger.stellar.gateway import SubmitAnswer, SubmitStatus
from ledger.store import sending_store
from ledger.store.settlement_tables import BURN

pytestmark = [pytest.mark.postgres, pytest.mark.process]


@pytest.fixture(scope="module")
def domain(
    devnet_process: DevnetProcess,
    postgres_cluster: PostgresCluster,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    with shared_domain(
        devnet_process, postgres_cluster, template_database, tmp_path_factory, with_fee=True
    ) as made:
        yield made


@pytest.fixture
def row(domain: Scene, devnet: DevnetProcess) -> Iterator["Row"]:
    """The domain for one row; it must be settled afterwards."""
    made = Row(domain)
    yield made
    devnet.clear_faults()
    made.lift_stops()
    domain.settle_all()
    made.close()


@pytest.fixture
def short_row(row: Row) -> Iterator[Row]:
    """A row whose attempts end soon."""
    domain = row.scene.domain
    row.shorten()
    yield row
    row.scene.domain = domain


# Answers that tell nothing


@pytest.mark.parametrize("fault", ["drop_answer", "http_504", "reset_after_accept"])
def test_broken_answer_leaves_the_batch_in_flight_and_the_same_bytes_go_out(
    row: Row, fault: str
) -> None:
    row.plan()
    row.scene.devnet.arm(fault, count=1, path="/transactions_async")
    row.tick()
    assert row.state() in {"in_flight", "paid"}
    row.tick_until("paid")
    assert len(set(row.source.sent[2:])) == len(row.attempts()) == 1
    assert row.paid() == 7


@pytest.mark.parametrize(
    ("answer", "is_taken"),
    [
        (SubmitAnswer(status=SubmitStatus.PENDING), False),
        (SubmitAnswer(status=SubmitStatus.DUPLICATE), True),
        (SubmitAnswer(status=SubmitStatus.UNKNOWN, code="HTTP 502"), True),
        (rejected("txBAD_SEQ"), False),
        (rejected("txBAD_SEQ"), True),
        (rejected("txTOO_EARLY"), False),
        (rejected("no result"), False),
    ],
    ids=lambda value: ("taken" if value else "lost") if isinstance(value, bool) else value.code,
)
def test_answer_that_decides_nothing_never_takes_another_slot_or_number(
    row: Row, answer: SubmitAnswer, is_taken: bool
) -> None:
    leaf = row.plan()
    row.source.answers, row.source.passes_on = [answer, answer], is_taken
    row.tick_until("paid")
    (attempt,) = row.attempts()
    assert (attempt.source_account, attempt.sequence) == (
        leaf.channel_account,
        leaf.channel_sequence,
    )
    assert (row.paid(), row.open_stops()) == (7, ())


def test_envelope_that_no_node_takes_before_its_bounds_is_replaced_in_the_same_slot(
    short_row: Row,
) -> None:
    row = short_row
    row.plan()
    row.source.always = rejected("txTOO_LATE")
    row.tick_until_attempt(2)
    row.source.always = None
    row.tick_until("paid")
    attempts = row.attempts()
    assert len(attempts) == 2
    assert len({(attempt.source_account, attempt.sequence) for attempt in attempts}) == 1
    assert row.paid() == 7


# Bids


def test_banned_envelope_is_wrapped_into_a_higher_bid_with_its_bytes_unchanged(row: Row) -> None:
    leaf = row.plan()
    row.source.answers = [SubmitAnswer(status=SubmitStatus.TRY_AGAIN)] * 3
    row.tick_until("paid")
    (attempt,), (bump,) = row.attempts(), row.bumps()
    assert attempt.envelope in bump.envelope
    assert bump.bid_stroops >= 10 * leaf.fee_bid_stroops
    fact = row.fact(leaf)
    assert fact.envelope == bump.envelope
    assert read_transaction(fact).fee_account == row.scene.domain.terms.fee_account
    assert read_transaction(fact).tx_hash == attempt.tx_hash
    assert row.paid() == 7
    assert row.scene.gateway.transaction(bump.outer_hash) is not None


def test_bid_that_is_too_low_is_raised_along_a_ladder_that_ends_at_the_terms_cap(
    row: Row,
) -> None:
    row.plan()
    row.source.answers = [rejected("txINSUFFICIENT_FEE")] * 20
    row.tick()
    bids = [bump.bid_stroops for bump in row.bumps()]
    assert bids == [1_000, 10_000, 50_000]
    assert bids[-1] == row.scene.domain.terms.fee_bid_max_stroops
    row.source.answers = []
    row.tick_until("paid")
    assert [bump.bid_stroops for bump in row.bumps()] == bids
    assert row.paid() == 7


def test_bids_stop_at_the_fee_accounts_daily_cap(row: Row) -> None:
    row.plan()
    row.source.answers = [rejected("txINSUFFICIENT_FEE")] * 20
    with row.scene.sessions() as session:
        spent = sending_store.bump_costs(session, row.scene.broadcaster, after_s=0)
    row.tick(fee_day_max_stroops=spent + 2 * 1_000)
    assert [bump.fee_stroops for bump in row.bumps()] == [2_000]
    row.source.answers = []
    row.tick_until("paid")
    assert row.paid() == 7


def test_bid_is_raised_until_it_gets_through_a_surge(row: Row) -> None:
    row.plan()
    row.scene.devnet.arm("surge", count=0, fee=5_000)
    row.tick_until("paid")
    bids = [bump.bid_stroops for bump in row.bumps()]
    assert bids
    assert max(bids) >= 5_000
    assert row.paid() == 7


def test_calm_network_is_paid_its_least_fee_and_no_bid_is_raised(row: Row) -> None:
    leaf = row.plan()
    row.tick_until("paid")
    assert row.bumps() == ()
    assert read_transaction(row.fact(leaf)).fee_charged_stroops == 100


# Nodes that refuse


def test_envelope_that_one_node_filters_goes_to_another(row: Row) -> None:
    row.plan()
    row.source.always = SubmitAnswer(status=SubmitStatus.UNKNOWN, code="FILTERED")
    other = Answering(row.scene.devnet.url, "other")
    for _ in range(TICKS_MAX):
        row.scene.devnet.close_ledgers()
        row.scene.settle(row.source, other)
        if row.state() == "paid":
            break
    other.close()
    assert (row.paid(), len(other.sent)) == (7, 1)


def test_batch_that_every_node_filters_is_burned_and_its_payees_are_owed_alone(
    short_row: Row,
) -> None:
    row = short_row
    leaf = row.plan()
    row.source.always = SubmitAnswer(status=SubmitStatus.UNKNOWN, code="FILTERED")
    row.tick_until("burning")
    row.source.always = None
    row.tick_until("burned")
    assert read_transaction(row.fact(leaf)).memo_hash == burn_hash(payout_hash(leaf), isolates=True)
    assert row.paid() == 0


def test_frozen_payee_voids_its_batch_by_a_burn_and_holds_nothing_else_up(row: Row) -> None:
    with DevnetControl(row.scene.devnet.url) as control:
        asset = f"{row.scene.made.asset_code}:{format_account(row.scene.made.issuer)}"
        control.freeze(format_account(row.scene.payees[2]), asset)
        leaves = row.scene.plan({row.scene.payees[2]: 5, row.payee: 3}, {row.payee: 4})
        row.tick_until("paid", 2)
        row.tick_until("burned", 1)
        control.unfreeze(format_account(row.scene.payees[2]), asset)
    assert (row.state(1), row.batch(1).reason) == ("burned", FROZEN)
    memo = read_transaction(row.fact(leaves[1])).memo_hash
    assert memo == burn_hash(payout_hash(leaves[1]), isolates=True)
    assert (row.paid(), row.open_stops()) == (4, ())


# What a person or more XLM has to mend


def test_lane_without_xlm_pauses_and_goes_on_by_itself(row: Row) -> None:
    leaf = row.plan()
    row.source.answers = [rejected("txINSUFFICIENT_BALANCE")]
    report = row.tick()
    (stop,) = report.stops
    assert (stop.is_halt, stop.account) == (False, leaf.channel_account)
    assert "stroops of XLM" in stop.reason
    sent = len(row.source.sent)
    row.tick()
    assert len(row.source.sent) == sent
    row.tick_until("paid")
    assert (row.paid(), row.open_stops(), len(row.attempts())) == (7, (), 1)


@pytest.mark.parametrize("code", ["txBAD_AUTH", "txBAD_AUTH_EXTRA"])
def test_wrong_signers_halt_their_lane_and_no_other(row: Row, code: str) -> None:
    row.scene.plan({row.payee: 3}, {row.payee: 4})
    row.fund()
    row.source.answers = [rejected(code)]
    report = row.tick()
    (stop,) = report.stops
    assert (stop.is_halt, stop.cause, report.is_halted) == (True, code, False)
    stuck = next(n for n in (1, 2) if row.batch(n).leaf.channel_account == stop.account)
    row.tick_until("paid", 3 - stuck)
    row.tick(3)
    assert row.state(stuck) == "in_flight"
    row.lift_stops()
    row.tick_until("paid", stuck)
    assert row.paid() == 7


@pytest.mark.parametrize(
    "code",
    [
        "txNO_ACCOUNT",
        "tx result -77",
    ],
)
def test_result_that_nobody_planned_for_halts_everything(row: Row, code: str) -> None:
    row.plan()
    row.source.answers = [rejected(code)]
    report = row.tick()
    assert report.is_halted
    assert [stop.cause for stop in report.stops] == [code]
    sent = len(row.source.sent)
    row.tick(2)
    assert len(row.source.sent) == sent
    row.lift_stops()
    row.tick_until("paid")
    assert row.paid() == 7


# Failures in a ledger


def test_payments_without_money_behind_them_are_not_sent(row: Row) -> None:
    """Every send has its cover; the batch waits for it, and can be cancelled."""
    row.scene.plan({row.payee: 10**11})
    assert give_up(row.scene.sessions, row.scene.domain, row.batch(0), reason="test")
    row.tick_until("burned", 0)
    row.tick(2)
    assert (row.state(), row.attempts()) == ("planned", ())
    assert give_up(row.scene.sessions, row.scene.domain, row.batch(1), reason="test")
    row.tick_until("burned")
    assert row.paid() == 0


def test_payer_without_money_in_a_ledger_halts_everything(row: Row) -> None:
    leaf = row.scene.plan({row.payee: 10**9})[-1]
    domain = row.scene.domain
    signed = sign_payout(leaf, 3, domain.terms, domain.passphrase, domain.signer)
    assert row.scene.gateway.submit(signed.envelope).status == SubmitStatus.PENDING
    row.tick_until("failed")
    assert row.batch().reason == "txFAILED: PAYMENT_UNDERFUNDED"
    assert row.tick().is_halted
    row.lift_stops()
    row.tick_until("paid", 0)
    # The money moved to the payout account; it is what the next rows' payments are covered by.
    assert row.paid() == 0


def test_payees_own_failures_decide_the_batch_and_halt_nothing(row: Row) -> None:
    """No account, no trustline, not authorised, line full: each owed again in a new slot."""
    people = troubled_payees(row.scene)
    codes = {
        "PAYMENT_NO_DESTINATION": b"\x0b" * 32,
        "PAYMENT_NO_TRUST": people["bare"],
        "PAYMENT_NOT_AUTHORIZED": people["revoked"],
        "PAYMENT_LINE_FULL": people["full"],
    }
    leaves = row.scene.plan(*({account: 90, row.payee: 1} for account in codes.values()))
    for number, code in enumerate(codes, start=1):
        row.tick_until("failed", number)
        assert row.batch(number).reason == f"txFAILED: {code}"
        failed = read_transaction(row.fact(leaves[number])).failed_destinations
        assert failed == (codes[code],)
    assert (row.open_stops(), row.paid()) == ((), 0)


# Sources


def test_source_below_its_own_mark_proves_no_absence(short_row: Row) -> None:
    """Nothing is given up on the word of a replica that once told more."""
    row = short_row
    row.plan()
    row.source.always = SubmitAnswer(status=SubmitStatus.PENDING)
    second = Answering(row.scene.devnet.url, "second")
    row.tick()
    row.scene.settle(row.source, second, evidence_sources=2)
    second.lag = 1
    for _ in range(3 * SHORT):
        row.scene.devnet.close_ledgers()
        row.scene.settle(row.source, second, evidence_sources=2)
        # It goes on, but always one ledger behind what it told last.
        second.lag += 1
    assert len(row.attempts()) == 1
    second.lag = 0
    row.scene.devnet.close_ledgers()
    row.scene.settle(row.source, second, evidence_sources=2)
    assert len(row.attempts()) == 2
    second.close()
    row.source.always = None
    row.tick_until("paid")
    assert row.paid() == 7


def test_transaction_once_seen_stays_seen_when_the_source_forgets_it(row: Row) -> None:
    row.plan()
    row.tick_until("paid")
    row.scene.devnet.arm("hide_transactions", count=0, ledgers=400)
    row.tick(3)
    assert row.state() == "paid"
    row.scene.devnet.clear_faults()
    assert row.paid() == 7


def test_sources_whose_clocks_differ_by_more_than_a_minute_sign_nothing(row: Row) -> None:
    row.plan()
    second = Answering(row.scene.devnet.url, "ahead")
    second.clock_s = -61
    row.scene.devnet.close_ledgers()
    report = row.scene.settle(row.source, second)
    assert "61 s apart" in report.problem
    assert row.state() == "planned"
    second.close()
    row.tick_until("paid")
    assert row.paid() == 7


def test_network_that_began_anew_halts_everything(row: Row) -> None:
    row.plan()
    row.tick()
    row.source.lag, row.source.clock_s = 0, 5
    report = row.scene.settle(row.source)
    assert report.is_halted
    assert [stop.cause for stop in report.stops] == ["other_history"]
    row.source.clock_s = 0
    assert row.tick().is_halted
    row.lift_stops()
    row.tick_until("paid")
    assert row.paid() == 7


def test_stalled_network_is_called_paused_and_nothing_is_concluded(short_row: Row) -> None:
    row = short_row
    row.plan()
    row.source.always = SubmitAnswer(status=SubmitStatus.PENDING)
    row.tick()
    for _ in range(5):
        report = row.scene.settle(row.source, paused_after_looks=3)
    assert report.is_network_paused
    assert (row.state(), len(row.attempts())) == ("in_flight", 1)
    # The first ledger after the stall may lie behind the bound of time; the one of ledgers counts
    # as well, so both have to be over.
    row.scene.devnet.arm("time_jump", seconds=10 * SHORT)
    assert not row.tick().is_network_paused
    assert row.state() == "in_flight"
    row.tick_until_attempt(2)
    row.source.always = None
    row.tick_until("paid")
    assert row.paid() == 7


# Cancelling


def test_cancelled_batch_that_no_node_has_is_burned_and_never_pays(row: Row) -> None:
    leaf = row.plan()
    row.source.always = SubmitAnswer(status=SubmitStatus.UNKNOWN, code="HTTP 504")
    row.tick()
    assert give_up(row.scene.sessions, row.scene.domain, row.batch(), reason="cancelled")
    row.source.always = None
    row.tick_until("burned")
    found = read_transaction(row.fact(leaf))
    assert found.memo_hash == burn_hash(payout_hash(leaf))
    assert (found.movements, row.batch().reason, row.paid()) == ((), "cancelled", 0)
    # What was signed before can never be applied any more.
    (attempt,) = row.attempts()
    row.scene.gateway.submit(attempt.envelope)
    row.tick(3)
    assert row.paid() == 0


def test_cancelled_batch_whose_payment_was_faster_is_paid(row: Row) -> None:
    row.plan()
    row.tick()
    assert row.state() == "in_flight"
    assert give_up(row.scene.sessions, row.scene.domain, row.batch(), reason="cancelled")
    row.tick()
    row.scene.settle(row.source)
    assert (row.state(), row.paid()) == ("paid", 7)


def test_no_op_that_expired_is_followed_by_another_in_the_same_slot(short_row: Row) -> None:
    row = short_row
    leaf = row.plan()
    assert give_up(row.scene.sessions, row.scene.domain, row.batch(), reason="cancelled")
    row.source.always = SubmitAnswer(status=SubmitStatus.UNKNOWN, code="HTTP 504")
    row.tick(2 * SHORT)
    row.source.always = None
    row.tick_until("burned")
    burns = row.attempts(purpose=BURN)
    assert len(burns) >= 2
    slots = {(burn.source_account, burn.sequence) for burn in burns}
    assert slots == {(leaf.channel_account, leaf.channel_sequence)}
    assert row.paid() == 0


def test_batch_that_never_gets_into_a_ledger_gives_its_slot_up(short_row: Row) -> None:
    row = short_row
    row.plan()
    row.source.always = SubmitAnswer(status=SubmitStatus.UNKNOWN, code="HTTP 504")
    for _ in range(TICKS_MAX):
        row.tick(attempts_max=2)
        if row.state() == "burning":
            break
    assert len(row.attempts()) == 2
    row.source.always = None
    row.tick_until("burned")
    assert row.batch().reason == "stuck after 2 attempts"
    assert row.paid() == 0


# The lane's share


def test_payments_take_no_more_of_a_ledger_than_the_lanes_share(row: Row) -> None:
    people = row.scene.payees
    row.scene.plan(*(dict.fromkeys(people, n + 1) for n in range(2)))
    for _ in range(TICKS_MAX):
        row.tick(lane_share_ppm=3_000)
        under_way = [
            len(batch.leaf.payments)
            for batch in row.scene.batches()[row.first :]
            if batch.state in {"signed", "in_flight"}
        ]
        assert sum(under_way) <= 3
        if row.state(1) == row.state(2) == "paid":
            break
    assert row.paid() == 3


def test_network_fees_of_bumps_come_out_of_the_fee_account_alone(row: Row) -> None:
    leaf = row.plan()
    account = row.scene.domain.terms.fee_account
    before = xlm_of(row.scene, account), xlm_of(row.scene, leaf.channel_account)
    row.source.answers = [rejected("txINSUFFICIENT_FEE")]
    row.tick_until("paid")
    charged = read_transaction(row.fact(leaf)).fee_charged_stroops
    after = xlm_of(row.scene, account), xlm_of(row.scene, leaf.channel_account)
    assert (before[0] - after[0], before[1] - after[1]) == (charged, 0)
    hashes = [read_transaction(f).tx_hash for f in all_transactions_of(row.scene.gateway, account)]
    assert row.attempts()[0].tx_hash in hashes
