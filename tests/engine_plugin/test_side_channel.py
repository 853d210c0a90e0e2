"""The side channel against honest peers and against every way to lie to it."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pytest
from builders import NETWORK_ID, entitlement, key_of, receipt, seed_of

from engine_plugin import side_channel
from engine_plugin.identity import make_peer_id
from engine_plugin.side_channel import (
    Channel,
    ChannelIdentity,
    Connection,
    Refusal,
    SideChannel,
)
from engine_plugin.wire import (
    FRAME_HEAD,
    HELLO,
    PROOF_OF_KEY,
    ChannelRole,
    Endpoint,
    Hello,
    ProofOfKey,
    format_frame,
    pack_address,
    read_frame,
)
from ledger.evidence.encoding import RecordCode

ALICE, BOB = "127.0.0.21", "127.0.0.22"
SESSION_IDS = {"alice": b"a" * 16, "bob": b"b" * 16, "mallory": b"m" * 16}
IPS = {"alice": ALICE, "bob": BOB, "mallory": "127.0.0.23"}


def identity_of(name: str, **changes: Any) -> ChannelIdentity:
    identity = ChannelIdentity(
        network_id=NETWORK_ID,
        broadcaster_account=key_of("broadcaster"),
        session_seed=seed_of(name),
        session_key=key_of(name),
        session_id=SESSION_IDS[name],
        peer_id=make_peer_id(key_of(name), SESSION_IDS[name]),
        listen=Endpoint(IPS[name], 6881),
    )
    return replace(identity, **changes)


@dataclass
class Witness:
    """An owner that writes down what it is told."""

    connections: list[Connection] = field(default_factory=list)
    opened: list[Channel] = field(default_factory=list)
    attested: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    records: list[tuple[RecordCode, bytes]] = field(default_factory=list)
    closed: list[Refusal] = field(default_factory=list)

    def connections_of(self, peer_id: bytes) -> Iterable[Connection]:
        return self.connections

    def on_open(self, channel: Channel) -> None:
        self.opened.append(channel)

    def on_attested(self, channel: Channel, endpoint: Endpoint) -> None:
        self.attested.append((channel.peer_key, endpoint))

    def on_record(self, channel: Channel, code: RecordCode, raw: bytes) -> None:
        self.records.append((code, raw))

    def on_closed(self, channel: Channel, refusal: Refusal, detail: str) -> None:
        self.closed.append(refusal)


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


class Pair:
    """Bob listens; Alice dials him."""

    def __init__(self, alice: ChannelIdentity, bob: ChannelIdentity) -> None:
        self.alice, self.bob = Witness(), Witness()
        self.alice_side, self.bob_side = SideChannel(self.alice), SideChannel(self.bob)
        self._identities = alice, bob

    async def __aenter__(self) -> Self:
        self.alice_port = await self.alice_side.listen(ALICE)
        self.port = await self.bob_side.listen(BOB)
        self.alice_side.start(self._identities[0])
        self.bob_side.start(self._identities[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.alice_side.close()
        await self.bob_side.close()

    async def dial(self, expected_key: bytes | None = None) -> None:
        key = expected_key or self._identities[1].session_key
        assert await self.alice_side.dial(Endpoint(BOB, self.port), expected_key=key)


def pair(alice: ChannelIdentity | None = None, bob: ChannelIdentity | None = None) -> Pair:
    return Pair(alice or identity_of("alice"), bob or identity_of("bob"))


def test_both_sides_prove_their_keys_and_connections() -> None:
    async def run() -> None:
        async with pair() as both:
            here, there = Endpoint(ALICE, 50_001), Endpoint(BOB, 6881)
            both.alice.connections.append(Connection(here, there))
            both.bob.connections.append(Connection(there, here))
            await both.dial()
            await until(lambda: both.alice.opened and len(both.bob.attested) == 2)
            assert both.alice.attested == [(key_of("bob"), there)]
            assert set(both.bob.attested) == {
                (key_of("alice"), Endpoint(ALICE, 6881)),
                (key_of("alice"), here),
            }
            # A connection made later is proved on the same channel; an unproved one never is.
            later = Connection(Endpoint(ALICE, 50_002), there)
            both.alice.opened[0].prove_connections([later])
            await until(lambda: (key_of("alice"), later.own) in both.bob.attested)
            both.alice.opened[0].send(RecordCode.RECEIPT, receipt().raw)
            await until(lambda: both.bob.records)
            assert both.bob.records == [(RecordCode.RECEIPT, receipt().raw)]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("alice", "refusal"),
    [
        ({"network_id": bytes(32)}, Refusal.WRONG_NETWORK),
        ({"broadcaster_account": bytes(32)}, Refusal.WRONG_BROADCASTER),
        ({"session_id": b"x" * 16}, Refusal.PEER_ID_MISMATCH),
        ({"peer_id": make_peer_id(key_of("bob"), b"b" * 16)}, Refusal.PEER_ID_MISMATCH),
        ({"session_seed": seed_of("mallory")}, Refusal.BAD_PROOF),
        ({"session_key": key_of("bob")}, Refusal.OWN_KEY),
        ({"listen": Endpoint("127.0.0.99", 6881)}, Refusal.FOREIGN_ADDRESS),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else str(value),
)
def test_false_identity_is_refused_before_anything_is_taken(
    alice: dict[str, Any], refusal: Refusal
) -> None:
    async def run() -> None:
        bob = identity_of("bob")
        witness = Witness()
        side = SideChannel(witness)
        port = await side.listen(BOB)
        side.start(bob)
        try:
            await speak(port, identity_of("alice"), identity_of("alice", **alice))
            await until(lambda: witness.closed)
            assert witness.closed == [refusal]
            assert not witness.opened
            assert not witness.attested
        finally:
            await side.close()

    asyncio.run(run())


async def speak(port: int, true: ChannelIdentity, stated: ChannelIdentity) -> None:
    """Dial from the true address and go through the handshake as the stated identity."""
    await speak_raw(port, true.listen.ip, lambda hello, nonce: frames_of(stated, hello, nonce))


def hello_of(identity: ChannelIdentity, nonce: bytes, role: ChannelRole) -> bytes:
    hello = Hello(
        network_id=identity.network_id,
        key=identity.session_key,
        nonce=nonce,
        peer_id=identity.peer_id,
        session_id=identity.session_id,
        broadcaster_account=identity.broadcaster_account,
        listen_address=pack_address(identity.listen.ip),
        listen_port=identity.listen.port,
        role=role,
    )
    return format_frame(RecordCode.HELLO, HELLO.sign(hello).raw)


def proof_of(identity: ChannelIdentity, peer: Hello, nonce: bytes, **changes: Any) -> bytes:
    proof = ProofOfKey(
        network_id=identity.network_id,
        peer_nonce=peer.nonce,
        own_nonce=nonce,
        own_key=identity.session_key,
        peer_key=peer.key,
        own_peer_id=identity.peer_id,
        peer_peer_id=peer.peer_id,
        broadcaster_account=identity.broadcaster_account,
        own_address=pack_address(identity.listen.ip),
        peer_address=pack_address(BOB),
        own_port=identity.listen.port,
        peer_port=6881,
        role=ChannelRole.DIALLER,
    )
    signed = PROOF_OF_KEY.sign(replace(proof, **changes), identity.session_seed)
    return format_frame(RecordCode.PROOF_OF_KEY, signed.raw)


def frames_of(identity: ChannelIdentity, peer: Hello, nonce: bytes) -> list[bytes]:
    return [hello_of(identity, nonce, ChannelRole.DIALLER), proof_of(identity, peer, nonce)]


async def speak_raw(port: int, ip: str, make_frames: Callable[[Hello, bytes], list[bytes]]) -> None:
    reader, writer = await asyncio.open_connection(BOB, port, local_addr=(ip, 0))
    try:
        code, raw = await read_frame(reader)
        assert code is RecordCode.HELLO
        for frame in make_frames(HELLO.parse(raw).value, os.urandom(32)):
            writer.write(frame)
        await writer.drain()
        while await reader.read(4096):
            pass
    except OSError:
        pass
    finally:
        writer.close()


def run_against_bob(
    attack: Callable[[int], Awaitable[None]], check: Callable[[Witness], None]
) -> None:
    async def run() -> None:
        witness = Witness()
        side = SideChannel(witness)
        port = await side.listen(BOB)
        side.start(identity_of("bob"))
        try:
            await attack(port)
            await until(lambda: witness.closed)
            check(witness)
        finally:
            await side.close()

    asyncio.run(run())


def refused_with(refusal: Refusal) -> Callable[[Witness], None]:
    def check(witness: Witness) -> None:
        assert witness.closed == [refusal]
        assert not witness.opened
        assert not witness.records

    return check


@pytest.mark.parametrize(
    "changes",
    [
        {"peer_nonce": bytes(32)},
        {"own_nonce": bytes(32)},
        {"peer_key": key_of("mallory")},
        {"own_key": key_of("mallory")},
        {"own_peer_id": bytes(20)},
        {"peer_peer_id": bytes(20)},
        {"broadcaster_account": bytes(32)},
        {"network_id": bytes(32)},
        {"role": ChannelRole.ANSWERER},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_proof_made_for_another_channel_is_refused(changes: dict[str, Any]) -> None:
    alice = identity_of("alice")

    def frames(peer: Hello, nonce: bytes) -> list[bytes]:
        return [
            hello_of(alice, nonce, ChannelRole.DIALLER),
            proof_of(alice, peer, nonce, **changes),
        ]

    run_against_bob(lambda port: speak_raw(port, ALICE, frames), refused_with(Refusal.BAD_PROOF))


def test_hello_in_our_own_role_is_refused() -> None:
    alice = identity_of("alice")

    def frames(peer: Hello, nonce: bytes) -> list[bytes]:
        return [hello_of(alice, nonce, ChannelRole.ANSWERER), proof_of(alice, peer, nonce)]

    run_against_bob(lambda port: speak_raw(port, ALICE, frames), refused_with(Refusal.WRONG_ROLE))


def test_receipt_before_the_proof_is_refused() -> None:
    def frames(peer: Hello, nonce: bytes) -> list[bytes]:
        return [
            hello_of(identity_of("alice"), nonce, ChannelRole.DIALLER),
            format_frame(RecordCode.RECEIPT, receipt().raw),
        ]

    run_against_bob(lambda port: speak_raw(port, ALICE, frames), refused_with(Refusal.OUT_OF_TURN))


@pytest.mark.parametrize(
    "garbage",
    [
        FRAME_HEAD.pack(0xFFFFFFFF, RecordCode.HELLO),
        FRAME_HEAD.pack(10, RecordCode.HELLO) + bytes(10),
        FRAME_HEAD.pack(HELLO.size, RecordCode.HELLO) + bytes(HELLO.size),
        FRAME_HEAD.pack(10, 200) + bytes(10),
        FRAME_HEAD.pack(10, RecordCode.TERMS) + bytes(10),
        b"GET / HTTP/1.1\r\nHost: bob\r\n\r\n",
    ],
    ids=["huge", "short", "zeros", "unknown", "other record", "http"],
)
def test_garbage_closes_the_channel(garbage: bytes) -> None:
    run_against_bob(
        lambda port: speak_raw(port, ALICE, lambda *_: [garbage]),
        refused_with(Refusal.MALFORMED),
    )


def test_silent_stranger_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_channel, "PROVE_TIMEOUT_S", 0.1)
    run_against_bob(
        lambda port: speak_raw(port, ALICE, lambda *_: []), refused_with(Refusal.TOO_SLOW)
    )


def test_flood_of_a_proved_peer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_channel, "FRAMES_BURST", 20)

    def frames(peer: Hello, nonce: bytes) -> list[bytes]:
        flood = [format_frame(RecordCode.ENTITLEMENT, entitlement().raw)] * 200
        return [*frames_of(identity_of("alice"), peer, nonce), *flood]

    def check(witness: Witness) -> None:
        assert witness.closed == [Refusal.TOO_FAST]
        assert len(witness.records) < 100

    run_against_bob(lambda port: speak_raw(port, ALICE, frames), check)


def test_claim_to_too_many_endpoints_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_channel, "ENDPOINTS_MAX", 10)
    alice = identity_of("alice")

    def frames(peer: Hello, nonce: bytes) -> list[bytes]:
        proofs = [proof_of(alice, peer, nonce, own_port=port) for port in range(1, 40)]
        return [hello_of(alice, nonce, ChannelRole.DIALLER), *proofs]

    def check(witness: Witness) -> None:
        assert witness.closed == [Refusal.TOO_MANY]
        assert len(witness.attested) == 10

    run_against_bob(lambda port: speak_raw(port, ALICE, frames), check)


def test_strangers_of_one_address_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_channel, "STRANGERS_PER_ADDRESS_MAX", 3)

    async def attack(port: int) -> None:
        streams = [
            await asyncio.open_connection(BOB, port, local_addr=(ALICE, 0)) for _ in range(5)
        ]
        await asyncio.sleep(0.1)
        for _, writer in streams:
            writer.close()

    def check(witness: Witness) -> None:
        assert witness.closed.count(Refusal.TOO_MANY) == 2

    run_against_bob(attack, check)


def test_wrong_key_behind_an_address_is_refused_by_the_dialler() -> None:
    async def run() -> None:
        async with pair() as both:
            await both.dial(expected_key=key_of("mallory"))
            await until(lambda: both.alice.closed)
            assert both.alice.closed == [Refusal.WRONG_KEY]
            assert not both.alice.opened

    asyncio.run(run())


def test_two_who_dial_each_other_keep_one_channel() -> None:
    async def run() -> None:
        async with pair() as both:
            await asyncio.gather(
                both.dial(),
                both.bob_side.dial(Endpoint(ALICE, both.alice_port), expected_key=key_of("alice")),
            )
            await until(lambda: len(both.alice_side.table.all) == 1)
            await until(lambda: len(both.bob_side.table.all) == 1)
            (kept,) = both.alice_side.table.proved.values()
            (other,) = both.bob_side.table.proved.values()
            assert kept.address == other.own_address
            kept.send(RecordCode.RECEIPT, receipt().raw)
            await until(lambda: both.bob.records)

    asyncio.run(run())


def test_peer_that_comes_back_replaces_its_old_channel() -> None:
    async def run() -> None:
        async with pair() as both:
            await both.dial()
            await until(lambda: both.bob.opened)
            again = Witness()
            side = SideChannel(again)
            await side.listen(ALICE)
            session_id = b"A" * 16
            side.start(
                identity_of(
                    "alice",
                    session_id=session_id,
                    peer_id=make_peer_id(key_of("alice"), session_id),
                )
            )
            assert await side.dial(Endpoint(BOB, both.port), expected_key=key_of("bob"))
            await until(lambda: len(both.bob.opened) == 2 and both.bob.closed)
            (kept,) = both.bob_side.table.proved.values()
            assert kept.session_id == session_id
            await side.close()

    asyncio.run(run())
