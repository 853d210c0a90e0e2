"""When the relay is turned to, and under whose address a relayed channel is counted."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from builders import key_of, peer_id_of

from engine_plugin.identity import format_handshake
from engine_plugin.libtorrent_door import PeerSnapshot
from engine_plugin.relay_dialling import (
    AGAIN_FIRST_S,
    AGAIN_MOST_S,
    RELAYED_ORIGIN,
    SEEK_AFTER_S,
    SEEN_S,
    RelayDialling,
    find_origin,
)

BOB = key_of("bob")


@dataclass
class Opener:
    """Writes down what it is asked for."""

    dialled: list[bytes] = field(default_factory=list)
    expected: list[bytes] = field(default_factory=list)
    given_up: list[bytes] = field(default_factory=list)
    takes: bool = True

    def expect(self, key: bytes) -> None:
        self.expected.append(key)

    def dial(self, key: bytes) -> bool:
        self.dialled.append(key)
        return self.takes

    def give_up(self, key: bytes) -> None:
        self.given_up.append(key)


def test_relay_is_left_alone_while_dialling_may_still_succeed() -> None:
    opener = Opener()
    dialling = RelayDialling(opener)
    for now_s in (0.0, SEEK_AFTER_S / 2):
        dialling.seek(BOB, now_s)
    dialling.forget(BOB)
    dialling.seek(BOB, SEEK_AFTER_S)
    assert opener.dialled == opener.expected == []


def test_whoever_does_not_answer_is_sought_ever_more_seldom() -> None:
    opener = Opener()
    dialling = RelayDialling(opener)
    times: list[float] = []
    for now_s in range(4000):
        before = len(opener.dialled)
        dialling.seek(BOB, float(now_s))
        times += [float(now_s)] * (len(opener.dialled) - before)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits[:3] == [AGAIN_FIRST_S, 2 * AGAIN_FIRST_S, 4 * AGAIN_FIRST_S]
    assert max(waits) == AGAIN_MOST_S


def test_whoever_left_the_swarm_is_sought_for_a_while_and_expected_meanwhile() -> None:
    opener = Opener()
    dialling = RelayDialling(opener)
    dialling.seek(BOB, 0.0)
    for now_s in range(1, int(3 * SEEN_S)):
        dialling.tick(float(now_s))
    assert len(opener.dialled) == 4
    assert len(opener.expected) == SEEN_S - 1


def test_the_relay_gives_up_whom_a_channel_reached_otherwise() -> None:
    opener = Opener()
    dialling = RelayDialling(opener)
    dialling.forget(BOB)
    assert opener.given_up == []
    dialling.seek(BOB, 0.0)
    dialling.forget(BOB)
    assert opener.given_up == [BOB]


def test_whom_we_owe_a_receipt_and_who_is_not_here_is_not_expected() -> None:
    opener = Opener()
    dialling = RelayDialling(opener)
    for now_s in range(100):
        dialling.seek(BOB, float(now_s), is_here=False)
        dialling.tick(float(now_s))
    assert len(opener.dialled) == 3
    assert opener.expected == []


def test_an_opening_that_the_relay_does_not_take_is_tried_again_at_once() -> None:
    opener = Opener(takes=False)
    dialling = RelayDialling(opener)
    for now_s in (0.0, SEEK_AFTER_S, SEEK_AFTER_S + 0.25):
        dialling.seek(BOB, now_s)
    assert opener.dialled == [BOB, BOB]


def seen(ip: str, key: bytes, **changes: Any) -> PeerSnapshot:
    values: dict[str, Any] = {
        "torrent": 0,
        "peer": 0,
        "peer_id": peer_id_of("bob"),
        "endpoint": f"{ip}:6881",
        "local_endpoint": "192.0.2.1:6881",
        "client": format_handshake(key, 7000),
        "is_web_seed": False,
        "is_outgoing": False,
        "handshake_done": True,
        "downloaded_bytes": 0,
        "uploaded_bytes": 0,
    }
    return PeerSnapshot(**values | changes)


def test_stated_address_counts_only_where_a_connection_from_there_names_the_key() -> None:
    snapshots = [seen("198.51.100.1", BOB), seen("198.51.100.9", key_of("victim"))]
    assert find_origin(BOB, "198.51.100.1", snapshots) == "198.51.100.1"
    assert find_origin(BOB, "198.51.100.9", snapshots) == RELAYED_ORIGIN
    assert find_origin(BOB, "198.51.100.2", snapshots) == RELAYED_ORIGIN
