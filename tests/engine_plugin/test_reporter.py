"""Provisional reports: what changed goes out, nothing else, and no failure matters."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_operator import (
    EPOCH_S,
    GENESIS_S,
    NETWORK,
    Operator,
    key,
    make_entitlement,
    make_receipt,
    make_terms,
    seed,
)

from engine_plugin.errors import CollectorRefusedError, CollectorUnavailableError
from engine_plugin.ledger_side import LedgerSide
from engine_plugin.owner_settings import OwnerSettings
from engine_plugin.reporter import INTERVAL_LEAST_S, INTERVAL_S, RECEIPTS_MAX, Reporter
from engine_plugin.spool import Spool
from ledger.evidence.bundle import BundleKind
from ledger.evidence.provisional import REPORT_SIZE_MAX, Report, parse_report, sign_report


class Door:
    """Takes reports, or answers with what the test says."""

    def __init__(self) -> None:
        self.raws: list[bytes] = []
        self.error: Exception | None = None

    @property
    def reports(self) -> list[Report]:
        return [parse_report(raw) for raw in self.raws]

    async def send_report(self, raw: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.raws.append(raw)


class Clock:
    """Ledger time under the test's hand."""

    def __init__(self) -> None:
        self.ms: int | None = (GENESIS_S + EPOCH_S) * 1_000 + 250

    def now_ms(self) -> int | None:
        return self.ms

    def epoch(self) -> int | None:
        return None if self.ms is None else (self.ms // 1_000 - GENESIS_S) // EPOCH_S


class NoLanes:
    """No CDN receipts."""

    def list_cdn(self, _epoch: int) -> list[object]:
        return []


class Scene:
    def __init__(self, folder: Path) -> None:
        self.operator = Operator(terms=make_terms())
        self.spool = Spool(folder / "spool.sqlite")
        self.door, self.clock = Door(), Clock()
        self.reporter = self.make_reporter()

    def make_reporter(self, **terms: int) -> Reporter:
        return Reporter(
            terms=replace(self.operator.terms, **terms),
            spool=self.spool,
            lanes=NoLanes(),
            clock=self.clock,
            door=self.door,
            session_seed=seed("seeder"),
            session_key=key("seeder"),
        )

    def receive(self, total: int, sequence: int, viewer: str = "ann", epoch: int = 1) -> None:
        entitlement = make_entitlement(self.operator, viewer)
        self.spool.add_entitlement(entitlement)
        receipt = make_receipt(entitlement, viewer, "seeder", epoch, total, sequence=sequence)
        self.spool.put_receipt(receipt, kind=BundleKind.PAYEE, session_key=key(viewer))

    def report(self) -> None:
        asyncio.run(self.reporter.report())


@pytest.fixture
def scene(tmp_path: Path):
    made = Scene(tmp_path)
    yield made
    made.spool.close()


def test_newest_receipts_of_the_running_epoch_are_reported_once(scene):
    scene.receive(100, 1)
    scene.receive(900, 2)
    scene.receive(77, 1, viewer="bob")
    scene.report()
    scene.report()
    (report,) = scene.door.reports
    assert report.is_signed
    assert sorted(each.value.bytes_total for each in report.bundle.receipts) == [77, 900]
    assert (report.bundle.epoch, report.bundle.network_id) == (1, NETWORK)
    assert report.head.value.taken_ms == scene.clock.ms
    scene.receive(950, 3)
    scene.report()
    assert len(scene.door.reports) == 2


def test_last_receipts_of_an_epoch_are_reported_after_its_turn(scene):
    scene.receive(100, 1)
    scene.report()
    scene.receive(170, 2)
    scene.clock.ms += EPOCH_S * 1_000
    scene.report()
    scene.report()
    assert [each.bundle.epoch for each in scene.door.reports] == [1, 1]
    assert scene.door.reports[1].bundle.receipts[0].value.bytes_total == 170


def test_epoch_that_is_sealed_meanwhile_holds_up_nothing(scene):
    scene.receive(100, 1, epoch=0)
    scene.receive(50, 1)
    sent = scene.door.send_report

    async def refuse_what_is_sealed(raw: bytes) -> None:
        if parse_report(raw).bundle.epoch == 0:
            refused.append(raw)
            raise CollectorRefusedError("epoch_not_open", "")
        await sent(raw)

    refused: list[bytes] = []
    scene.door.send_report = refuse_what_is_sealed
    for _ in range(3):
        scene.report()
    assert [each.bundle.epoch for each in scene.door.reports] == [1]
    assert len(refused) == 1


def test_engine_with_nothing_new_or_no_clock_sends_nothing(scene):
    scene.report()
    scene.receive(100, 1)
    scene.clock.ms = None
    scene.report()
    assert scene.door.raws == []


def test_report_that_did_not_arrive_is_said_again(scene):
    scene.receive(100, 1)
    for error in (CollectorUnavailableError("away"), CollectorRefusedError("reports_full", "")):
        scene.door.error = error
        with pytest.raises(type(error)):
            scene.report()
    scene.door.error = None
    scene.report()
    assert len(scene.door.reports) == 1


def test_failures_never_end_the_loop(scene):
    scene.receive(100, 1)
    scene.door.error = CollectorUnavailableError("away")
    reporter = scene.make_reporter()
    reporter._interval_s = 0.001

    async def scene_of_recovery() -> None:
        running = asyncio.create_task(reporter.run())
        await asyncio.sleep(0.05)
        scene.door.error = None
        async with asyncio.timeout(10):
            while not scene.door.raws:
                await asyncio.sleep(0.005)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scene_of_recovery())


def test_report_of_a_crowd_keeps_to_its_size(scene):
    """As many lanes as a report may have, each with an entitlement of its own."""
    size = 144 + 40 + 96 + RECEIPTS_MAX * (384 + 232)
    assert size < REPORT_SIZE_MAX


@pytest.mark.parametrize(
    ("epoch_s", "interval_s"), [(3_600, INTERVAL_S), (20, 5.0), (4, INTERVAL_LEAST_S)]
)
def test_interval_follows_the_epochs_length(scene, epoch_s, interval_s):
    assert scene.make_reporter(epoch_length_s=epoch_s)._interval_s == interval_s


def test_head_of_another_body_is_malformed(scene):
    scene.receive(100, 1)
    scene.report()
    raw = scene.door.raws[0]
    from ledger.evidence.errors import MalformedError

    for damaged in (raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1]), raw[:143], b""):
        with pytest.raises(MalformedError):
            parse_report(damaged)
    assert sign_report(parse_report(raw).bundle, scene.clock.ms, seed("seeder")) == raw


@pytest.mark.parametrize("owner", [None, OwnerSettings(), OwnerSettings(tells_totals=False)])
def test_owner_may_say_no(owner):
    class Config:
        pass

    side = object.__new__(LedgerSide)
    side._config = Config()
    side._config.owner = owner
    for name in ("uploader", "_upkeep", "relay", "_reporter"):
        setattr(side, name, _Anything())
    loops = side.loops(gate=None)
    assert ("totals" in loops) is (owner is None or owner.tells_totals)


class _Anything:
    def __getattr__(self, name: str) -> object:
        return None
