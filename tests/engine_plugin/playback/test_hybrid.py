"""Peers first, the CDN at risk: the policy alone, and on real sessions with servers that fail."""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_cdn import Fault, FaultyCdn
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.content import Content, SourceBytes
from engine_plugin.engine import Engine
from engine_plugin.playback.hybrid import (
    REST_FIRST_S,
    REST_MOST_S,
    CdnRoster,
    HybridDriver,
    HybridPolicy,
)
from engine_plugin.torrents import make_torrent
from engine_plugin.wire import Endpoint

POLICY = HybridPolicy(risk_s=4, safe_s=10, patience_s=0.7, stall_s=3)
SECONDS = st.floats(min_value=-100, max_value=100)


@given(slack_s=SECONDS, waited_s=SECONDS)
def test_cdn_stays_off_while_nothing_is_at_risk_or_peers_may_still_do_it(
    slack_s: float, waited_s: float
) -> None:
    wanted = POLICY.is_cdn_wanted(slack_s=slack_s, waited_s=waited_s, is_on=False)
    assert wanted == (slack_s < 4 and waited_s >= 0.7)


@given(slack_s=SECONDS, waited_s=SECONDS)
def test_cdn_goes_on_until_the_buffer_is_safe(slack_s: float, waited_s: float) -> None:
    wanted = POLICY.is_cdn_wanted(slack_s=slack_s, waited_s=waited_s, is_on=True)
    assert wanted == (slack_s < 10)


def test_nothing_missing_wants_no_cdn() -> None:
    assert not POLICY.is_cdn_wanted(slack_s=None, waited_s=9, is_on=True)


def test_policy_without_room_between_its_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="safe_s: got 4"):
        HybridPolicy(risk_s=4, safe_s=4)


def test_failing_cdns_rest_longer_each_time_and_the_next_one_serves() -> None:
    roster = CdnRoster(["a", "b"])
    now_s, rests_s = 0.0, []
    for _ in range(9):
        assert roster.choose(now_s) == "a"
        roster.note_failure("a", now_s)
        assert roster.choose(now_s) == "b"
        rest_s = next(r for r in range(1, 400) if roster.choose(now_s + r) == "a")
        rests_s.append(rest_s)
        now_s += rest_s
    assert rests_s[:3] == [REST_FIRST_S, 2 * REST_FIRST_S, 4 * REST_FIRST_S]
    assert rests_s[-1] == REST_MOST_S
    roster.note_success("a")
    roster.note_failure("a", now_s)
    assert roster.choose(now_s + REST_FIRST_S) == "a"


def test_all_resting_leaves_the_peers_alone() -> None:
    roster = CdnRoster(["a"])
    roster.note_failure("a", 0.0)
    assert roster.choose(1.0) is None


def test_player_that_waits_gets_the_cdn_that_failed_longest_ago_after_the_least_rest() -> None:
    roster = CdnRoster(["a", "b"])
    for second in range(4):
        roster.note_failure("b", float(second))
        roster.note_failure("a", second + 0.5)
    now_s = 3.0 + REST_FIRST_S
    assert roster.choose(now_s) is None
    assert roster.choose(now_s - 0.1, is_late=True) is None
    assert roster.choose(now_s, is_late=True) == "b"
    roster.note_success("b")
    assert roster.choose(now_s) == "b"


class _Told:
    """A content that remembers what it was told."""

    def __init__(self) -> None:
        self.active: list[str] = []
        self.delivered = 0
        self.failures: list[str] = []

    def add_web_seed(self, url: str) -> None:
        self.active.append(url)

    def remove_web_seed(self, url: str) -> None:
        self.active.remove(url)

    def web_seed_bytes(self) -> int:
        return self.delivered

    def take_web_seed_failures(self) -> list[str]:
        failed, self.failures = self.failures, []
        return failed


def test_silent_cdn_is_replaced_after_the_stall_time_and_not_before() -> None:
    content = _Told()
    driver = HybridDriver(content, ["a", "b"], policy=POLICY, next_due_s=lambda: 0.0)
    driver.tick(100.0)
    assert content.active == []
    driver.tick(100.7)
    assert content.active == ["a"]
    driver.tick(103.6)
    assert content.active == ["a"]
    driver.tick(103.7)
    assert content.active == ["b"]
    content.delivered = 1
    driver.tick(106.0)
    driver.tick(108.9)
    assert content.active == ["a"], "rested long enough, and is the preferred one"


def test_failure_told_by_the_session_switches_at_once() -> None:
    content = _Told()
    driver = HybridDriver(content, ["a", "b"], policy=POLICY, next_due_s=lambda: 0.0)
    driver.tick(0.0)
    driver.tick(1.0)
    content.failures = ["a"]
    driver.tick(1.25)
    assert content.active == ["b"]


class _Desk:
    """A desk of which a test says what is going on there."""

    def __init__(self) -> None:
        self.starting = True
        self.staged: list[bool] = []
        self.p2p = self.cdn = 0

    def is_starting(self) -> bool:
        return self.starting

    def stage(self, *, is_on: bool) -> None:
        if self.staged[-1:] != [is_on]:
            self.staged.append(is_on)

    def received(self) -> SourceBytes:
        return SourceBytes(p2p_bytes=self.p2p, cdn_bytes=self.cdn)


def test_player_who_waits_gets_the_cdn_at_once_unless_peers_have_kept_one_supplied() -> None:
    content, desk = _Told(), _Desk()
    due_s = 0.0
    driver = HybridDriver(content, ["a"], policy=POLICY, next_due_s=lambda: due_s, desk=desk)
    driver.tick(0.0)
    assert content.active == ["a"]
    assert desk.staged == [True]
    desk.starting, due_s = False, 30.0
    for second in range(1, 40):
        due_s = second + 15.0
        driver.tick(float(second))
    assert content.active == []
    assert desk.staged == [True, False]
    desk.starting, due_s = True, 39.0
    driver.tick(39.5)
    driver.tick(40.0)
    assert content.active == [], "peers have their patience"
    driver.tick(40.3)
    assert content.active == ["a"]


def test_peers_that_deliver_twice_as_much_end_the_cdns_help() -> None:
    content, desk = _Told(), _Desk()
    driver = HybridDriver(content, ["a"], policy=POLICY, next_due_s=lambda: 0.0, desk=desk)
    seen: list[bool] = []
    for now_s, p2p, cdn in ((0.0, 0, 0), (2.1, 19, 10), (4.2, 40, 20), (4.8, 41, 20), (5, 41, 20)):
        content.delivered, desk.p2p, desk.cdn = cdn, p2p, cdn
        driver.tick(now_s)
        seen.append(content.active == ["a"])
    assert seen == [True, True, False, False, True], "at the end something is late even so"


def test_next_pieces_are_the_cdns_until_the_buffer_is_out_of_danger() -> None:
    content, desk = _Told(), _Desk()
    desk.starting = False
    due_s = 0.0
    driver = HybridDriver(content, ["a"], policy=POLICY, next_due_s=lambda: due_s, desk=desk)
    steps = ((0.0, 0.5), (1.0, 0.5), (1.2, 3.9), (1.4, 4.0), (1.6, 1.0), (1.8, 0.9))
    for now_s, slack_s in steps:
        content.delivered += 1
        due_s = now_s + slack_s
        driver.tick(now_s)
    assert desk.staged == [False, True, False, True]


def test_cdn_is_let_go_when_all_that_was_asked_for_is_here() -> None:
    due: list[float | None] = [0.0]
    content = _Told()
    driver = HybridDriver(content, ["a"], policy=POLICY, next_due_s=lambda: due[0])
    driver.tick(0.0)
    driver.tick(1.0)
    assert content.active == ["a"]
    due[0] = None
    driver.tick(1.25)
    assert content.active == []


MIB = 1 << 20
FILM = hashlib.shake_128(b"film").digest(3 * MIB + 777)


@pytest.fixture
def cdns() -> Iterator[list[FaultyCdn]]:
    opened: list[FaultyCdn] = []
    yield opened
    for cdn in opened:
        cdn.close()


def _config(state: Path, address: str, **changes: Any) -> EngineConfig:
    return EngineConfig(
        listen=Endpoint(address, 0),
        state_path=state,
        dials_utp=False,
        allows_local_web_seeds=True,
        **changes,
    )


async def _fetch(
    tmp_path: Path, urls: list[str], *, peer_rate: int
) -> tuple[Content, float, list[dict[str, object]]]:
    """Fetch the film with a peer of some rate and CDNs; what is missing is always needed now."""
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "film.bin").write_bytes(FILM)
    torrent = make_torrent(tmp_path / "seed" / "film.bin", piece_bytes=64 << 10)
    ready: dict[str, Any] = {}

    def listen(name: str, /, **fields: Any) -> None:
        if name == "ready":
            ready.update(fields)

    seeding = _config(tmp_path / "a", "127.0.0.81", upload_limit=peer_rate)
    async with (
        Engine(seeding, listen) as seeder,
        Engine(_config(tmp_path / "b", "127.0.0.82")) as viewer,
    ):
        await seeder.add(torrent, ContentOptions(save_path=tmp_path / "seed", is_complete=True))
        ip, _, port = ready["listen"].rpartition(":")
        options = ContentOptions(
            save_path=tmp_path / "saved", peers=[Endpoint(ip, int(port))], uses_web_seeds=False
        )
        content = await viewer.add(torrent, options)
        policy = HybridPolicy(patience_s=0.5, stall_s=2)
        driver = HybridDriver(
            content,
            urls,
            policy=policy,
            next_due_s=lambda: time.monotonic() if content.missing_pieces() else None,
        )
        began_s = time.monotonic()
        async with asyncio.timeout(60):
            while content.missing_pieces():
                driver.tick(time.monotonic())
                await asyncio.sleep(0.1)
        took_s = time.monotonic() - began_s
        while not content.is_settled:
            await asyncio.sleep(0.05)
        assert (tmp_path / "saved" / "film.bin").read_bytes() == FILM
        driver.stop()
        total = content.bytes_by_source()
        assert total.p2p_bytes + total.cdn_bytes == len(FILM)
        return content, took_s, driver.roster.describe(time.monotonic())


@pytest.mark.swarm
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_content_arrives_through_the_second_cdn_whatever_the_first_does(
    tmp_path: Path, cdns: list[FaultyCdn], fault: Fault
) -> None:
    cdns += [FaultyCdn(FILM, fault=fault), FaultyCdn(FILM, rate_bytes=2 * MIB)]
    urls = [cdn.url("film.bin") for cdn in cdns]
    # Alone, the peer would need half a minute.
    asyncio.run(_fetch(tmp_path, urls, peer_rate=100_000))
    assert cdns[0].requests > 0


@pytest.mark.swarm
def test_peers_that_are_quick_enough_leave_the_cdn_alone(
    tmp_path: Path, cdns: list[FaultyCdn]
) -> None:
    cdns.append(FaultyCdn(FILM))
    content, _, _ = asyncio.run(_fetch(tmp_path, [cdns[0].url("film.bin")], peer_rate=0))
    assert cdns[0].requests <= 1
    assert content.torrent.content_bytes == len(FILM)
