"""Streams through a real collector: in order, once, from expected peers only, whatever breaks."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import key_of, seed_of, signed_terms
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import NETWORK

from engine_plugin import relay as relay_module
from engine_plugin.collector import Collector
from engine_plugin.relay import Relay
from engine_plugin.wire import ChannelRole
from ledger.api.app import make_app
from ledger.evidence.keys import seal
from ledger.evidence.relay import RelayFrame, sign_relay

pytestmark = pytest.mark.postgres


@dataclass
class Operator:
    """A collector on a socket, and ledger time as it tells it."""

    url: str
    client: httpx.Client
    ledger_ms: Callable[[], int]


@pytest.fixture
def operator(database_url: str, tmp_path: Path) -> Iterator[Operator]:
    with make_shard_scene(database_url, tmp_path) as scene:
        scene.reach_epoch(1)
        with serve_app(make_app(scene.api_parts())) as client:
            yield Operator(str(client.base_url), client, lambda: ledger_ms(scene))


def ledger_ms(scene: ShardScene) -> int:
    now = scene.ledger_time.read()
    assert now is not None
    return now.ledger.close_time_s * 1000 + now.age_ms


class Unreliable(httpx.AsyncHTTPTransport):
    """The network to the collector, with a switch."""

    is_down = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_down:
            raise httpx.ConnectError("no way")
        return await super().handle_async_request(request)


@dataclass
class Party:
    """One engine's relay and the streams it was given."""

    name: str
    relay: Relay
    network: Unreliable
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, ChannelRole, bytes]] = field(
        default_factory=list
    )

    async def stream(
        self, number: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, ChannelRole, bytes]:
        await until(lambda: len(self.streams) > number)
        return self.streams[number]


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def party(operator: Operator, name: str) -> AsyncIterator[Party]:
    network = Unreliable()
    collector = Collector(signed_terms(collector_url=operator.url), transport=network)
    relay = Relay(
        door=collector,
        network_id=NETWORK,
        session_seed=seed_of(name),
        ledger_ms=operator.ledger_ms,
        accept=lambda *stream: made.streams.append(stream),
    )
    made = Party(name, relay, network)
    task = asyncio.create_task(relay.run())
    yield made
    await relay.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await collector.close()


def play(operator: Operator, scene: Callable[[Party, Party], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with party(operator, "ann") as ann, party(operator, "bob") as bob:
            await scene(ann, bob)

    asyncio.run(run())


def test_bytes_arrive_in_order_in_both_directions_and_so_does_the_end(operator: Operator) -> None:
    sent = os.urandom(150_000)

    async def scene(ann: Party, bob: Party) -> None:
        bob.relay.expect(key_of("ann"))
        assert ann.relay.dial(key_of("bob"))
        bob_in, bob_out, role, key = await bob.stream()
        assert (role, key) == (ChannelRole.ANSWERER, key_of("ann"))
        ann_in, ann_out, role, key = await ann.stream()
        assert (role, key) == (ChannelRole.DIALLER, key_of("bob"))
        assert ann_out.get_extra_info("peername")[0] == "127.0.0.1"
        assert ann_out.get_extra_info("sockname")[0] == "127.0.0.1"
        for at in range(0, len(sent), 10_000):
            ann_out.write(sent[at : at + 10_000])
        bob_out.write(b"answer")
        assert await bob_in.readexactly(len(sent)) == sent
        assert await ann_in.readexactly(6) == b"answer"
        ann_out.write(b"last")
        ann_out.close()
        assert await bob_in.read() == b"last"
        await until(lambda: bob_out.is_closing() and not bob.relay.is_dialling(key_of("ann")))

    play(operator, scene)


def test_two_that_dial_each_other_at_once_get_one_stream(operator: Operator) -> None:
    async def scene(ann: Party, bob: Party) -> None:
        ann.relay.dial(key_of("bob"))
        bob.relay.dial(key_of("ann"))
        a, b = await ann.stream(), await bob.stream()
        assert {a[2], b[2]} == {ChannelRole.DIALLER, ChannelRole.ANSWERER}
        a[1].write(b"to bob")
        assert await b[0].readexactly(6) == b"to bob"
        await asyncio.sleep(0.7)
        assert len(ann.streams) == len(bob.streams) == 1

    play(operator, scene)


def test_a_collector_that_is_away_for_a_while_loses_and_repeats_nothing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "RETRY_FIRST_S", 0.05)

    async def scene(ann: Party, bob: Party) -> None:
        bob.relay.expect(key_of("ann"))
        ann.relay.dial(key_of("bob"))
        bob_in, ann_out = (await bob.stream())[0], (await ann.stream())[1]
        for number in range(6):
            ann.network.is_down = number % 2 == 0
            bob.network.is_down = number % 3 == 0
            ann_out.write(b"%d" % number)
            await asyncio.sleep(0.4)
        ann.network.is_down = bob.network.is_down = False
        assert await bob_in.readexactly(6) == b"012345"

    play(operator, scene)


def test_an_opening_that_is_given_up_ends_and_asks_nobody_any_more(operator: Operator) -> None:
    async def scene(ann: Party, bob: Party) -> None:
        assert ann.relay.dial(key_of("bob"))
        ann.relay.give_up(key_of("bob"))
        await until(lambda: not ann.relay.is_dialling(key_of("bob")))
        # Nor is it answered when it comes from there.
        bob.relay.expect(key_of("ann"))
        assert bob.relay.dial(key_of("ann"))
        await asyncio.sleep(1)
        assert not ann.streams
        bob.relay.give_up(key_of("ann"))
        # What is open stays.
        bob.relay.expect(key_of("ann"))
        assert ann.relay.dial(key_of("bob"))
        await ann.stream()
        ann.relay.give_up(key_of("bob"))
        assert ann.relay.is_dialling(key_of("bob"))

    play(operator, scene)


def test_nobody_opens_a_stream_who_is_not_expected(operator: Operator) -> None:
    async def scene(ann: Party, bob: Party) -> None:
        bob.relay.expect(key_of("carl"))
        ann.relay.dial(key_of("bob"))
        await until(lambda: ann.relay._told_ip)
        await asyncio.sleep(1)
        assert bob.streams == ann.streams == []

    play(operator, scene)


def test_an_opening_that_came_before_its_peer_was_expected_is_answered(operator: Operator) -> None:
    async def scene(ann: Party, bob: Party) -> None:
        bob.relay.expect(key_of("carl"))
        ann.relay.dial(key_of("bob"))
        await until(lambda: bob.relay._acknowledged)
        assert bob.streams == []
        bob.relay.expect(key_of("ann"))
        await bob.stream()
        await ann.stream()

    play(operator, scene)


def test_openings_of_strangers_are_kept_in_bounds(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "EARLY_MAX", 2)

    async def scene(_: Party, bob: Party) -> None:
        bob.relay.expect(key_of("carl"))
        for number in range(5):
            name = f"stranger {number}"
            opening = seal(seed_of(name), key_of("bob"), preamble(operator))
            made = RelayFrame(
                network_id=NETWORK,
                from_key=key_of(name),
                to_key=key_of("bob"),
                channel_id=bytes(16),
                sequence=0,
                payload=opening,
            )
            post(operator, sign_relay(made, seed_of(name)).raw)
        await until(lambda: bob.relay._acknowledged >= 5)
        assert len(bob.relay._early) == 2
        assert bob.streams == []

    play(operator, scene)


def frame(channel: int, sequence: int, piece: bytes, **changes: Any) -> bytes:
    values = {
        "network_id": NETWORK,
        "from_key": key_of("ann"),
        "to_key": key_of("bob"),
        "channel_id": channel.to_bytes(16, "big"),
        "sequence": sequence,
        "payload": seal(seed_of("ann"), key_of("bob"), piece),
    }
    return sign_relay(RelayFrame(**values | changes), seed_of("ann")).raw


def preamble(operator: Operator, late_ms: int = 0) -> bytes:
    return bytes(16) + (operator.ledger_ms() - late_ms).to_bytes(8, "little")


def test_repeated_frames_count_once_and_a_missing_one_ends_the_stream(operator: Operator) -> None:
    async def scene(_: Party, bob: Party) -> None:
        bob.relay.expect(key_of("ann"))
        for sequence, piece in [(0, preamble(operator)), (1, b"one"), (2, b"two"), (1, b"ONE")]:
            post(operator, frame(1, sequence, piece))
        reader = (await bob.stream())[0]
        assert await reader.readexactly(6) == b"onetwo"
        post(operator, frame(1, 4, b"four"))
        assert await reader.read() == b""
        # What comes for a stream that has ended opens no new one.
        post(operator, frame(1, 0, preamble(operator, 1)))
        post(operator, frame(2, 0, preamble(operator)))
        await bob.stream(1)
        assert len(bob.streams) == 2

    play(operator, scene)


def post(operator: Operator, raw: bytes) -> None:
    assert operator.client.post("/v1/relay", content=raw).status_code == 200


def test_openings_that_are_old_malformed_or_sealed_by_another_are_not_answered(
    operator: Operator,
) -> None:
    async def scene(_: Party, bob: Party) -> None:
        bob.relay.expect(key_of("ann"))
        foreign = seal(seed_of("mallory"), key_of("bob"), preamble(operator))
        post(operator, frame(1, 0, preamble(operator, late_ms=60_000)))
        post(operator, frame(2, 0, b"short"))
        post(operator, frame(3, 0, b"", payload=foreign))
        post(operator, frame(4, 0, preamble(operator)))
        await bob.stream()
        assert len(bob.streams) == 1
        assert len(bob.relay._streams) == 1

    play(operator, scene)


def test_streams_are_bounded(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "STREAMS_MAX", 3)

    async def scene(_: Party, bob: Party) -> None:
        bob.relay.expect(key_of("ann"))
        for channel in range(8):
            post(operator, frame(channel, 0, preamble(operator)))
        await until(lambda: bob.relay._acknowledged >= 8)
        assert len(bob.streams) == 3
        assert not bob.relay.dial(key_of("carl"))

    play(operator, scene)
