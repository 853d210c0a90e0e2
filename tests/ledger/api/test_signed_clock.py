"""Ledger time from the collector's signed clock; nothing else is believed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import FastAPI, Query, Response
from served_app import serve_app
from shard_scene import make_shard_scene
from simulated_operator import GENESIS_S, make_terms, seed

from ledger.api.app import make_app
from ledger.api.signed_clock import FRESH_S, STALE_S, ClockUnknownError, SignedClock
from ledger.evidence.clock import CLOCK, Clock


class Collector:
    """A collector that answers what the test says, and the clock that reads it."""

    def __init__(self) -> None:
        self.terms = make_terms()
        self.seed = seed("log")
        self.changes: dict[str, object] = {}
        self.close_time_s = GENESIS_S
        self.status = 200
        self.asked = 0
        self.monotonic_s = 0.0
        self.app = FastAPI()
        self.app.get("/v1/clock")(self.answer)

    def answer(self, nonce: Annotated[str, Query()]) -> Response:
        self.asked += 1
        clock = Clock(
            network_id=self.terms.network_id,
            nonce=bytes.fromhex(nonce),
            ledger_sequence=7,
            close_time_s=self.close_time_s,
            age_ms=1_500,
            genesis_s=self.terms.genesis_s,
            epoch_length_s=self.terms.epoch_length_s,
            grace_s=self.terms.grace_s,
        )
        raw = CLOCK.sign(replace(clock, **self.changes), self.seed).raw
        return Response(raw, status_code=self.status)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    with serve_app(made.app) as client:
        terms = replace(made.terms, collector_url=str(client.base_url).rstrip("/"))
        made.clock = SignedClock(terms, monotonic=lambda: made.monotonic_s)
        yield made
        made.clock.close()


@pytest.mark.postgres
def test_the_operators_own_api_is_believed(database_url: str, tmp_path: Path) -> None:
    with make_shard_scene(database_url, tmp_path) as scene:
        scene.reach(GENESIS_S + 41)
        with serve_app(make_app(scene.api_parts())) as client:
            terms = replace(scene.terms, collector_url=str(client.base_url).rstrip("/"))
            clock = SignedClock(terms)
            assert GENESIS_S + 41 <= clock.now_s() < GENESIS_S + 41 + 60
            clock.close()


def test_time_runs_on_between_readings_and_is_read_again_when_old(collector) -> None:
    assert collector.clock.now_s() == GENESIS_S + 1
    collector.monotonic_s += FRESH_S
    assert collector.clock.now_s() == GENESIS_S + 1 + FRESH_S
    assert collector.asked == 1
    collector.close_time_s += 400
    collector.monotonic_s += 1
    assert collector.clock.now_s() == GENESIS_S + 401
    assert collector.asked == 2


def test_time_never_goes_back(collector) -> None:
    before = collector.clock.now_s()
    collector.close_time_s -= 300
    collector.monotonic_s += FRESH_S + 1
    assert collector.clock.now_s() == before + FRESH_S + 1


def test_a_collector_that_fails_for_a_while_is_bridged_and_then_time_is_unknown(collector) -> None:
    collector.clock.now_s()
    collector.status = 503
    collector.monotonic_s = STALE_S
    assert collector.clock.now_s() == GENESIS_S + 1 + STALE_S
    collector.monotonic_s = STALE_S + 1
    with pytest.raises(ClockUnknownError, match="503"):
        collector.clock.now_s()
    collector.status = 200
    assert collector.clock.now_s() == GENESIS_S + 2 + STALE_S


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nonce", bytes(16)),
        ("network_id", b"\1" * 32),
        ("genesis_s", 1),
        ("epoch_length_s", 1),
    ],
)
def test_a_reading_for_something_else_is_not_believed(collector, field, value) -> None:
    collector.changes = {field: value}
    with pytest.raises(ClockUnknownError, match=field):
        collector.clock.now_s()


def test_a_reading_that_another_key_signed_is_not_believed(collector) -> None:
    collector.seed = seed("x")
    with pytest.raises(ClockUnknownError, match="signature"):
        collector.clock.now_s()


def test_a_collector_that_is_not_there_makes_time_unknown() -> None:
    clock = SignedClock(make_terms(collector_url="http://127.0.0.1:9"))
    with pytest.raises(ClockUnknownError):
        clock.now_s()
    clock.close()
