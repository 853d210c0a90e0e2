"""Simulated settlement: nobody is paid twice, nothing is lost, and the faults do bite."""

import os
import random
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.bench import settlement_sim
from ledger.bench.settlement_sim import SettlementBench, run_settlement_bench
from ledger.bench.settlement_state import TotalsFile
from ledger.embedded.postgres import PostgresCluster
from ledger.simulation.database import WorldDatabase
from ledger.simulation.domain import ASSET_CODE, SimulatedDomain, WorldPlan
from ledger.simulation.errors import SimulationError
from ledger.simulation.faults import CALM, SPELLS, FaultKind, Weather
from ledger.simulation.parties import AILMENTS, LAST_DEPOSIT_STROOPS, Parties
from ledger.simulation.turns import KilledError, Mortal
from ledger.simulation.world import World, run_naive

pytestmark = pytest.mark.postgres

PAYOUTS = int(os.environ.get("SWARMLEDGER_SIMULATED_PAYOUTS", "1000"))


@pytest.mark.timeout(900)
def test_payouts_under_faults_kills_and_restored_backups_are_made_once_and_none_is_lost() -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    report = run_settlement_bench(SettlementBench(payouts=PAYOUTS, seed=seed), print)
    assert report["is_complete"]
    assert report["payouts"] >= PAYOUTS
    assert report["double_paid_stroops"] == 0
    assert report["lost_stroops"] == 0
    assert report["naive_policy_double_paid_ppm"] >= 1_000
    assert report["kills"] > 20
    assert report["faults_injected"] > 50
    assert report["payouts_with_spoiled_submission_ppm"] >= 50_000
    assert report["fee_per_payout_ratio"] <= 1.02


def test_an_interrupted_run_reports_the_worlds_that_ended_and_the_next_goes_on_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(_: SettlementBench, number: int) -> WorldPlan:
        return WorldPlan(seed=number, payees=6, earning_epochs=2, batch_payments=4)

    monkeypatch.setattr(settlement_sim, "plan_of", small)
    monkeypatch.setattr(settlement_sim, "CALM_PAYEES", 5)
    before = signal.getsignal(signal.SIGINT)
    bench = SettlementBench(payouts=1_000, seed=3, state_path=tmp_path / "state.json")
    reports = []
    for _ in range(2):
        report = run_settlement_bench(bench, lambda _: os.kill(os.getpid(), signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is before
        reports.append(report)
    first, second = reports
    assert not first["is_complete"]
    assert (first["worlds"], second["worlds"]) == (1, 2)
    assert 0 < first["payouts"] < second["payouts"]
    assert TotalsFile(bench.state_path, seed=3, payouts=1_000).load().worlds == {0, 1}


@pytest.fixture
def database(postgres_cluster: PostgresCluster, template_database: str) -> Iterator[WorldDatabase]:
    made = WorldDatabase(postgres_cluster.url(), template_database, "simulated_world")
    yield made
    made.close()


def test_payees_who_cannot_be_paid_for_a_while_and_everybody_else_get_what_is_theirs(
    database: WorldDatabase,
) -> None:
    plan = WorldPlan(
        seed=11,
        payees=12,
        earning_epochs=3,
        batch_payments=4,
        has_ailing_payees=True,
        has_wishes=True,
        has_low_escrow=True,
        has_strangers=True,
        challenge_window_s=30,
        settlers=5,
        settlers_needed=3,
        settlers_dead=1,
        settlers_lying=1,
    )
    outcome = World(plan, database).run()
    assert outcome.double_paid_stroops == outcome.lost_stroops == 0
    assert outcome.payouts > 0
    told = ("deposits", "instructions sealed", "strangers' payments", "payouts to second addresses")
    for event in told:
        assert outcome.events[event] > 0, event
    assert sum(outcome.events[f"payees' accounts or lines {kind}"] for kind in AILMENTS) > 0


def test_settlers_who_lie_cannot_make_up_for_those_who_are_dead(
    database: WorldDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.simulation.world.DRAIN_LEDGERS_MAX", 10)
    plan = WorldPlan(
        seed=7,
        payees=6,
        earning_epochs=2,
        batch_payments=4,
        is_calm=True,
        settlers=3,
        settlers_needed=2,
        settlers_dead=1,
        settlers_lying=1,
    )
    world = World(plan, database)
    with pytest.raises(SimulationError, match="want everything paid"):
        world.run()
    assert world.paid.payouts == 0


def test_escrow_is_filled_in_the_end_whatever_the_network_does_with_a_deposit() -> None:
    plan = WorldPlan(
        seed=7, payees=2, earning_epochs=1, batch_payments=4, is_calm=True, has_low_escrow=True
    )
    domain = SimulatedDomain(plan)
    parties, submit, lost = Parties(domain), domain.network.submit, []
    domain.network.submit = lambda envelope: submit(envelope) if lost else lost.append(envelope)
    for _ in range(4):
        parties.recover()
        domain.close_ledger()
    assert len(lost) == 1
    assert parties.events["deposits"] == 2
    balances = domain.network.account_at(domain.made.escrow, domain.network.sequence).balances
    assert balances[ASSET_CODE, domain.made.issuer] >= LAST_DEPOSIT_STROOPS


def test_frozen_revoked_and_clawed_back_payees_and_escrow_cost_nobody_a_stroop(
    database: WorldDatabase,
) -> None:
    plan = WorldPlan(
        seed=2,
        payees=12,
        earning_epochs=4,
        batch_payments=4,
        has_seizures=True,
        focus=FaultKind.CLAWED_BACK,
        ambushes=(
            ("after a submission", "frozen"),
            ("after the commit of settlement._sign", "revoked"),
            ("before the commit of deciding._decide", "clawed_back"),
        ),
    )
    outcome = World(plan, database).run()
    assert outcome.double_paid_stroops == outcome.lost_stroops == 0
    assert outcome.events["network ledgers with a halt"] > 0
    for pair in plan.ambushes:
        assert outcome.deaths[pair] > 0, pair
    for kind in (FaultKind.FROZEN, FaultKind.REVOKED, FaultKind.CLAWED_BACK):
        assert outcome.faults[kind] > 0, kind


def seize_later(world: World) -> None:
    """Let the issuer claw back from escrow once there are books to see it with."""
    act, powers = world.parties.act, world.domain.powers

    def act_and_seize() -> None:
        if len(world.books.computed) == 1 and not powers.seizures:
            powers.seize(5)
        act()

    world.parties.act = act_and_seize


def test_a_seizure_stops_payouts_until_it_is_ruled_to_be_a_loss(world: World) -> None:
    seize_later(world)
    outcome = world.run()
    assert outcome.events["network ledgers with a halt"] > 0
    assert outcome.lost_stroops == 0
    losses = [epoch.closing.head.lost_stroops for epoch in world.books.computed.values()]
    assert (losses[0], losses[-1]) == (0, 5)


def test_a_seizure_that_nobody_rules_on_stops_payouts_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.simulation.world.DRAIN_LEDGERS_MAX", 10)
    monkeypatch.setattr(Parties, "_rulings", lambda _parties, _number: [])
    seize_later(world)
    with pytest.raises(SimulationError, match="want everything paid"):
        world.run()


def test_a_halt_that_nothing_demanded_ends_a_world(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "_demanded_halts", lambda _world: set())
    seize_later(world)
    with pytest.raises(SimulationError, match="nothing demanded one: unknown_transaction"):
        world.run()


@pytest.fixture
def world(database: WorldDatabase) -> World:
    plan = WorldPlan(seed=7, payees=6, earning_epochs=2, batch_payments=4, is_calm=True)
    return World(plan, database)


def test_a_payment_that_nobody_earned_ends_a_world(world: World) -> None:
    world.books.earned_stroops = dict
    with pytest.raises(SimulationError, match="paid twice"):
        world.run()
    assert world.paid.double_paid_stroops > 0


def test_books_that_differ_from_the_chain_end_a_world(world: World) -> None:
    take = world.domain.network.account_at

    def less(account: bytes, sequence: int):
        seen = take(account, sequence)
        return None if account == world.domain.made.escrow else seen

    world.domain.network.account_at = less
    with pytest.raises(SimulationError, match="escrow holds 0 stroops"):
        world.run()


@pytest.mark.parametrize(("decision_ledgers_max", "told"), [(2, "undecided 2"), (99, "paid$")])
def test_a_payment_that_is_never_made_ends_a_world(
    world: World, monkeypatch: pytest.MonkeyPatch, decision_ledgers_max: int, told: str
) -> None:
    monkeypatch.setattr("ledger.simulation.world.DECISION_LEDGERS_MAX", decision_ledgers_max)
    monkeypatch.setattr("ledger.simulation.world.DRAIN_LEDGERS_MAX", 10)
    world.domain.network.set_room = lambda _: None
    world.domain.network.network.header.max_tx_set_size = 1
    with pytest.raises(SimulationError, match=told):
        world.run()


def test_a_policy_that_builds_payments_anew_after_a_timeout_pays_twice() -> None:
    plan = WorldPlan(
        seed=5, payees=10, earning_epochs=3, batch_payments=4, focus=FaultKind.RESET_AFTER_ACCEPT
    )
    outcome = run_naive(plan)
    assert outcome.double_paid_payouts > 0
    assert outcome.double_paid_stroops > 0


def test_the_same_policy_in_calm_weather_pays_everybody_once() -> None:
    outcome = run_naive(
        WorldPlan(seed=5, payees=10, earning_epochs=3, batch_payments=4, is_calm=True)
    )
    assert outcome.payouts > 0
    assert outcome.double_paid_payouts == 0


def test_weather_strikes_only_with_the_spell_that_is_on() -> None:
    weather = Weather(random.Random(1), FaultKind.STALL)
    struck = set()
    for _ in range(200):
        weather.turn()
        spell = weather.spell
        struck |= {(str(kind), spell) for kind in FaultKind if weather.strikes(kind)}
    assert struck
    assert all(kind == spell for kind, spell in struck)
    weather.clear_up()
    assert not any(weather.strikes(kind) for kind in FaultKind)


def test_a_spell_begins_at_once_and_lasts_into_the_next_network_ledger() -> None:
    for seed in range(20):
        weather = Weather(random.Random(seed), FaultKind.STALL)
        for spell in SPELLS:
            weather.turn_to(spell)
            assert weather.spell == spell
            weather.turn()
            assert weather.spell == spell


def test_whoever_falls_into_an_ambush_dies_of_it_once_under_its_spell() -> None:
    spells = [CALM]
    mortal = Mortal(
        random.Random(1), 1e-9, lambda: spells[-1], ambushes={("a", "surge"), ("a", "drop")}
    )
    mortal.turn_to = spells.append
    mortal.deaths.update({("a", "drop"): 1, ("a", "surge"): 1, ("b", CALM): 1})
    mortal.at("b")
    for spell in ("drop", "surge"):
        with pytest.raises(KilledError):
            mortal.at("a")
        assert spells[-1] == spell
    mortal.at("a")
    assert (mortal.deaths["a", "drop"], mortal.deaths["a", "surge"]) == (2, 2)


def test_an_account_is_told_as_it_was_however_far_the_books_lag(world: World) -> None:
    network, escrow = world.domain.network, world.domain.made.escrow
    before, sequence = network.account_at(escrow, network.sequence), network.sequence
    world.run()
    for _ in range(200):
        network.close()
    assert before is not None
    assert network.account_at(escrow, network.sequence) != before
    assert network.account_at(escrow, sequence) == before
