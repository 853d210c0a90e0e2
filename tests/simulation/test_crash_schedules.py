"""Any order, repetition, delay and split of the work, with crashes anywhere: the same documents.

Each schedule is made from its seed: bundles are shuffled, some sent twice or late, by several
senders; one to eight workers judge and one or two schedulers advance the epochs, taking turns at
transactions; any commit may be the last thing that its process does, lost or kept. What comes out
(leaves, checkpoints, files of the log, audit files) is compared byte for byte with a run in which
nothing of this happened. A failure names its seed; `SWARMLEDGER_SCHEDULES=10000` runs more of them
and `SWARMLEDGER_SCHEDULE_SEED=n` begins with one.
"""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from databases import copied_database
from faulty_commits import Fate, FaultyCommits, nobody_dies
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    make_entitlement,
    make_heartbeats,
    make_payee_bundle,
    make_receipt,
    make_viewer_bundle,
    seed,
)

from ledger.audit.verify import Verdict, verify_audit_file
from ledger.sealing.driver import advance
from ledger.sealing.judging import judge_bundle
from ledger.simulation.turns import KilledError, Turns
from ledger.store import epoch_store
from ledger.store.epoch_store import EpochState, find_epoch, list_checkpoints, load_closing_state

pytestmark = pytest.mark.postgres

SCHEDULES = int(os.environ.get("SWARMLEDGER_SCHEDULES", "100"))
FIRST_SEED = int(os.environ.get("SWARMLEDGER_SCHEDULE_SEED", "0"))
EPOCHS = 2
KILLS_MAX = 40
"""Most deaths in a schedule: then it comes to an end."""

KILL_CHANCE = 0.2
NEVER_POISON = 1_000_000
"""Here workers die by chance, not of a bundle."""


@dataclass
class Schedule:
    """One run of the scenario, disturbed as a seed says; without a seed, undisturbed."""

    scene: ShardScene
    chance: random.Random
    is_disturbed: bool
    kills: int = 0
    found: dict[str, bytes] = field(default_factory=dict)
    """What others see of the epochs once it has run."""

    owed_stroops: dict[bytes, int] = field(default_factory=dict)
    """What each payee is owed at the end."""

    sends_again: ClassVar[bool] = True
    """Whether a sender that heard nothing sends again."""

    turns: Turns = field(init=False)
    faulty: FaultyCommits = field(init=False)

    def __post_init__(self) -> None:
        self.turns = Turns(self.chance)
        self.faulty = FaultyCommits(self.scene.sessions)
        self.scene.sessions = self.faulty
        # The scene's own parts are made anew, over sessions that may fail.
        self.scene.__post_init__()

    def run(self) -> None:
        self.scene.deposit(50_000_000_000, self.scene.terms.epoch_start_s(0) + 2)
        for epoch in range(EPOCHS):
            self.scene.reach_epoch(epoch)
            early, late = self._deliveries(epoch)
            self._together([*self._senders(early), *self._workers(8), *self._schedulers()])
            # Late, but within the grace: still of this seal. There is little left to judge.
            self.scene.reach(self.scene.terms.epoch_end_s(epoch) + self.scene.terms.grace_s - 1)
            self._together([*self._senders(late), *self._workers(2), *self._schedulers()])
            self.scene.end_epoch(epoch)
            self._until(epoch, EpochState.COMPUTED)
            self.scene.anchor(epoch, self.scene.terms.epoch_end_s(epoch) + 7)
            self._until(epoch, EpochState.SETTLED)
        # Files are written after the last state is committed.
        self._together([self._advance])

    def read_documents(self) -> dict[str, bytes]:
        with self.scene.sessions.begin() as session:
            found = {
                f"checkpoint {stored.epoch}": stored.note
                for stored in list_checkpoints(session, self.scene.shard)
            }
        found |= {f"leaf {at}": leaf for at, leaf in enumerate(self.scene.leaves())}
        for folder in (self.scene.log_dir, self.scene.audit_dir):
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    found[str(path.relative_to(self.scene.folder))] = path.read_bytes()
        return found

    def _deliveries(self, epoch: int) -> tuple[list[bytes], list[bytes]]:
        early, late = bundles_of(self.scene, epoch), []
        if self.is_disturbed:
            sent = early + self.chance.choices(early, k=self.chance.randrange(4))
            self.chance.shuffle(sent)
            cut = self.chance.randrange(len(sent) + 1)
            early, late = sent[:cut], sent[cut:]
        return early, late

    def _senders(self, bundles: list[bytes]) -> list[Callable[[], None]]:
        count = self.chance.randint(1, 3) if self.is_disturbed else 1

        def sender(mine: list[bytes]) -> Callable[[], None]:
            def send() -> None:
                for raw in mine:
                    if self.sends_again:
                        self._surviving(lambda raw=raw: self.scene.upload(raw))
                    else:
                        with suppress(KilledError):
                            self.scene.upload(raw)

            return send

        return [sender(bundles[place::count]) for place in range(count)]

    def _workers(self, most: int) -> list[Callable[[], None]]:
        count = self.chance.randint(1, most) if self.is_disturbed else 1
        return [lambda: self._surviving(self._judge)] * count

    def _schedulers(self) -> list[Callable[[], None]]:
        count = self.chance.randint(1, 2) if self.is_disturbed else 1
        return [lambda: self._surviving(self._advance)] * count

    def _judge(self) -> None:
        scene = self.scene
        bundle_ids = scene.sweep()
        if self.is_disturbed:
            self.chance.shuffle(bundle_ids)
        for bundle_id in bundle_ids:
            judge_bundle(scene.sessions, bundle_id, attempts_max=NEVER_POISON, log_seed=seed("log"))

    def _advance(self) -> None:
        advance(self.scene.sealing, self.scene.shard)

    def _surviving(self, work: Callable[[], object]) -> None:
        """Do something in processes that die now and then, until one lives through it."""
        while True:
            try:
                work()
            except KilledError:
                continue
            return

    def _until(self, epoch: int, state: EpochState) -> None:
        while True:
            self._together([*self._workers(2), *self._schedulers()])
            with self.scene.sessions.begin() as session:
                if find_epoch(session, self.scene.shard, epoch).state == state:
                    return

    def _together(self, actors: list[Callable[[], None]]) -> None:
        self.faulty.before, self.faulty.decide = self.turns.wait, self._decide
        try:
            self.turns.run(actors)
        finally:
            self.faulty.before, self.faulty.decide = (lambda: None), nobody_dies

    def _decide(self, _name: str) -> Fate | None:
        if not self.is_disturbed or self.kills >= KILLS_MAX or self.chance.random() > KILL_CHANCE:
            return None
        self.kills += 1
        return self.chance.choice(list(Fate))


def bundles_of(scene: ShardScene, epoch: int) -> list[bytes]:
    """Bundles that meet in lanes: repeated, superseded, contradicting and late receipts."""
    ann, bob, eve = (make_entitlement(scene.operator, name) for name in ("ann", "bob", "eve"))
    first = make_receipt(ann, "ann", "seeder", epoch, 7_919_001)
    second = make_receipt(ann, "ann", "seeder", epoch, 7_950_001, sequence=2)
    lies = [
        make_receipt(eve, "eve", "seeder", epoch, 999_983, sequence=3),
        make_receipt(eve, "eve", "seeder", epoch, 500_009, sequence=4),
    ]
    found = [
        make_payee_bundle("seeder", epoch, [ann, eve], [first, lies[0]]),
        make_payee_bundle("seeder", epoch, [ann, bob, eve], [second, first, lies[1]], 1),
        make_payee_bundle("ann", epoch, [bob], [make_receipt(bob, "bob", "ann", epoch, 104_729)]),
        make_viewer_bundle(
            "ann",
            epoch,
            [ann],
            [make_receipt(ann, "ann", "cdn", epoch, 1_299_709)],
            heartbeats=make_heartbeats(scene.operator, ann, "ann", epoch, 2),
        ),
    ]
    if epoch:
        cat = make_entitlement(scene.operator, "cat")
        corrections = [
            make_receipt(ann, "ann", "seeder", epoch - 1, 8_000_009, sequence=9),
            make_receipt(cat, "cat", "seeder", epoch - 1, 500_009),
        ]
        found.append(make_payee_bundle("seeder", epoch - 1, [ann, cat], corrections, 7))
    return found


@pytest.fixture
def run_schedule(postgres_cluster, template_database, tmp_path, monkeypatch):
    # Salts are random; two runs can be compared only if they have the same.
    monkeypatch.setattr(epoch_store, "generate_seed", lambda: b"\7" * 32)

    def run(number: int | None) -> Schedule:
        folder = tmp_path / ("undisturbed" if number is None else str(number))
        with (
            copied_database(postgres_cluster, template_database) as url,
            make_shard_scene(url, folder) as scene,
        ):
            schedule = Schedule(scene, random.Random(number or 0), number is not None)
            schedule.run()
            schedule.found = schedule.read_documents()
            with scene.sessions.begin() as session:
                state = load_closing_state(session, scene.shard, EPOCHS - 1)
            schedule.owed_stroops = {
                account: balance.owed_stroops for account, balance in state.payees.items()
            }
        return schedule

    return run


@pytest.mark.timeout(max(1_200, 12 * SCHEDULES))
def test_no_order_repetition_delay_split_or_crash_changes_a_byte(run_schedule):
    undisturbed = run_schedule(None)
    for epoch in range(EPOCHS):
        data = undisturbed.found[f"audit/epoch-{epoch}.audit"]
        report = verify_audit_file(data, undisturbed.scene.operator.trust)
        assert report.verdict == Verdict.PROVEN
    kills = 0
    for number in range(FIRST_SEED, FIRST_SEED + SCHEDULES):
        schedule = run_schedule(number)
        kills += schedule.kills
        differing = {
            name
            for name in {*schedule.found, *undisturbed.found}
            if schedule.found.get(name) != undisturbed.found.get(name)
        }
        assert not differing, f"seed {number}: {sorted(differing)}"
    print(f"{SCHEDULES} schedules from seed {FIRST_SEED}, {kills} deaths")
    assert kills > SCHEDULES


def test_trap_11_debts_survive_a_death_at_any_point(run_schedule):
    undisturbed = run_schedule(None)
    assert sum(undisturbed.owed_stroops.values()) > 0
    for number in range(2):
        schedule = run_schedule(1_000_000 + number)
        assert schedule.kills > 0
        assert schedule.owed_stroops == undisturbed.owed_stroops


def test_the_schedules_bite(run_schedule, monkeypatch):
    """Senders that trust a write of which they heard nothing are found out: bundles are missing."""
    undisturbed = run_schedule(None)
    monkeypatch.setattr(Schedule, "sends_again", False)
    assert any(run_schedule(number).found != undisturbed.found for number in range(5))
