"""Several streams' gossip over one side channel, and what happens when one of them ends."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from engine_plugin.live.gossip import PEERS, make_peers
from engine_plugin.live.gossip_link import GossipLink
from engine_plugin.wire import Endpoint
from ledger.evidence.encoding import RecordCode

NETWORK = b"n" * 32
PEER = Endpoint("127.0.0.5", 7000)


class Channel:
    """Stands where a proved channel stands."""

    def send(self, code: RecordCode, record: bytes) -> None:
        raise AssertionError("got a record, want none")


def _link(exchange: Any, stream_id: bytes, told: list[bytes]) -> GossipLink:
    def take_peers(_: Sequence[Endpoint]) -> None:
        told.append(stream_id)

    return GossipLink(
        SimpleNamespace(stream_id=stream_id, network_id=NETWORK),  # type: ignore[arg-type]
        exchange,
        take_entry=lambda _: True,
        take_peers=take_peers,
        clock=lambda: 0.0,
    )


def _scene() -> tuple[Any, Callable[[bytes], None]]:
    table = SimpleNamespace(proved={})
    exchange = SimpleNamespace(side=SimpleNamespace(table=table), handlers={})

    def say(stream_id: bytes) -> None:
        record = PEERS.format_body(make_peers(NETWORK, stream_id, [PEER]))
        if handler := exchange.handlers.get(RecordCode.PEERS):
            handler(Channel(), record)

    return exchange, say


def test_ended_stream_hears_nothing_and_leaves_the_others_alone() -> None:
    exchange, say = _scene()
    told: list[bytes] = []
    first, second, third = b"1" * 32, b"2" * 32, b"3" * 32
    links = [_link(exchange, stream_id, told) for stream_id in (first, second, third)]
    links[1].close()
    for stream_id in (first, second, third):
        say(stream_id)
    assert told == [first, third]


def test_last_stream_that_ends_leaves_no_handler() -> None:
    exchange, say = _scene()
    told: list[bytes] = []
    links = [_link(exchange, stream_id, told) for stream_id in (b"1" * 32, b"2" * 32)]
    links[1].close()
    say(b"1" * 32)
    links[0].close()
    assert exchange.handlers == {}
    assert told == [b"1" * 32]
