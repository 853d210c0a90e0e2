"""The side channel over a real relay: the same proofs, and the marks of a translator on the way."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from builders import digest_of, entitlement, key_of, seed_of, signed_terms
from served_app import serve_app
from shard_scene import make_shard_scene
from simulated_operator import NETWORK

from engine_plugin.channel_table import Refusal
from engine_plugin.collector import Collector
from engine_plugin.identity import make_peer_id
from engine_plugin.relay import Relay
from engine_plugin.side_channel import Channel, ChannelIdentity, SideChannel
from engine_plugin.wire import ConnectionPorts, Endpoint
from ledger.api.app import make_app
from ledger.evidence.encoding import RecordCode

pytestmark = pytest.mark.postgres

TOLD = "127.0.0.1"
"""What the collector sees of everybody here."""


@dataclass
class Operator:
    """A collector on a socket, and ledger time as it tells it."""

    url: str
    ledger_ms: Callable[[], int]


@pytest.fixture
def operator(database_url: str, tmp_path: Path) -> Iterator[Operator]:
    with make_shard_scene(database_url, tmp_path) as scene:
        scene.reach_epoch(1)

        def ledger_ms() -> int:
            now = scene.ledger_time.read()
            assert now is not None
            return now.ledger.close_time_s * 1000 + now.age_ms

        with serve_app(make_app(scene.api_parts())) as client:
            yield Operator(str(client.base_url), ledger_ms)


@dataclass
class Owner:
    """Writes down what its channels tell."""

    opened: list[Channel] = field(default_factory=list)
    claimed: list[Channel] = field(default_factory=list)
    records: list[tuple[RecordCode, bytes]] = field(default_factory=list)
    closed: list[Refusal] = field(default_factory=list)

    def on_open(self, channel: Channel) -> None:
        self.opened.append(channel)

    def on_claimed(self, channel: Channel) -> None:
        self.claimed.append(channel)

    def on_record(self, channel: Channel, code: RecordCode, raw: bytes) -> None:
        self.records.append((code, raw))

    def on_closed(self, channel: Channel, refusal: Refusal, detail: str) -> None:
        self.closed.append(refusal)


@dataclass
class Party:
    """One engine's side channel with nothing but the relay under it."""

    owner: Owner
    relay: Relay
    side: SideChannel


@asynccontextmanager
async def party(operator: Operator, name: str, own_ip: str) -> AsyncIterator[Party]:
    owner = Owner()
    side = SideChannel(owner, clock=time.monotonic)
    session_id = digest_of(f"{name} session")[:16]
    side.start(
        ChannelIdentity(
            network_id=NETWORK,
            broadcaster_account=key_of("broadcaster"),
            session_seed=seed_of(name),
            session_key=key_of(name),
            session_id=session_id,
            peer_id=make_peer_id(key_of(name), session_id),
            listen=Endpoint(own_ip, 6881),
        )
    )
    collector = Collector(signed_terms(collector_url=operator.url))
    relay = Relay(
        door=collector,
        network_id=NETWORK,
        session_seed=seed_of(name),
        ledger_ms=operator.ledger_ms,
        accept=side.begin,
    )
    relay.own_ip = own_ip
    task = asyncio.create_task(relay.run())
    yield Party(owner, relay, side)
    await side.close()
    await relay.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await collector.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def meet(ann: Party, bob: Party) -> None:
    bob.relay.expect(key_of("ann"))
    assert ann.relay.dial(key_of("bob"))


def test_records_and_claims_pass_and_translated_ends_are_known_as_such(operator: Operator) -> None:
    async def run() -> None:
        async with (
            party(operator, "ann", "192.168.1.2") as ann,
            party(operator, "bob", TOLD) as bob,
        ):
            await meet(ann, bob)
            await until(lambda: ann.owner.opened and bob.owner.opened)
            (here,), (there,) = ann.owner.opened, bob.owner.opened
            assert (here.peer_key, there.peer_key) == (key_of("bob"), key_of("ann"))
            assert (here.is_translated, here.is_own_translated) == (False, True)
            assert (there.is_translated, there.is_own_translated) == (True, False)
            assert here.address.ip == there.address.ip == TOLD
            here.send(RecordCode.ENTITLEMENT, entitlement("ann").raw)
            here.claim_connections([ConnectionPorts(50_001, 6881)])
            await until(lambda: bob.owner.claimed and bob.owner.records)
            assert list(there.claims) == [ConnectionPorts(6881, 50_001)]
            assert bob.owner.records == [(RecordCode.ENTITLEMENT, entitlement("ann").raw)]
            here.close()
            await until(lambda: ann.owner.closed and bob.owner.closed)
            assert ann.owner.closed == bob.owner.closed == [Refusal.CLOSED]

    asyncio.run(run())


def test_a_public_address_that_no_translator_explains_is_refused(operator: Operator) -> None:
    async def run() -> None:
        async with (
            party(operator, "ann", "198.51.100.7") as ann,
            party(operator, "bob", TOLD) as bob,
        ):
            await meet(ann, bob)
            await until(lambda: bob.owner.closed)
            assert bob.owner.closed == [Refusal.FOREIGN_ADDRESS]
            assert ann.side.table.proved == bob.side.table.proved == {}

    asyncio.run(run())
