"""The side channel against honest peers and against every way to lie to it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pytest
from adversaries.channel_actors import (
    Actor,
    ClaimFlood,
    ConnectionFlood,
    CopiedPeerId,
    FrameFlood,
    KeyFlood,
    OversizedFrame,
    ProofReflector,
    Recorder,
    Reflector,
    Relay,
    SealForger,
    SlowDrip,
    StolenKey,
    WrongNetwork,
)
from adversaries.speaker import Party, Speaker
from builders import (
    NETWORK_ID,
    digest_of,
    entitlement,
    key_of,
    peer_id_of,
    receipt,
    seed_of,
)

from engine_plugin import channel_table, side_channel
from engine_plugin.channel_table import Refusal
from engine_plugin.identity import make_peer_id
from engine_plugin.side_channel import Channel, ChannelIdentity, SideChannel
from engine_plugin.wire import (
    HELLO,
    ChannelRole,
    ConnectionPorts,
    Endpoint,
    format_acknowledgement,
    format_connections,
    pack_address,
)
from ledger.evidence.encoding import RecordCode
from ledger.evidence.keys import exchange_key_of

IPS = {"alice": "127.0.0.21", "bob": "127.0.0.22", "mallory": "127.0.0.23"}
ALICE, BOB = IPS["alice"], IPS["bob"]
MALLORY = Party(name="mallory", ip=IPS["mallory"])


def identity_of(name: str, **changes: Any) -> ChannelIdentity:
    identity = ChannelIdentity(
        network_id=NETWORK_ID,
        broadcaster_account=key_of("broadcaster"),
        session_seed=seed_of(name),
        session_key=key_of(name),
        session_id=digest_of(f"{name} session")[:16],
        peer_id=peer_id_of(name),
        listen=Endpoint(IPS[name], 6881),
    )
    return replace(identity, **changes)


@dataclass
class Witness:
    """An owner that writes down what it is told."""

    opened: list[Channel] = field(default_factory=list)
    claimed: list[list[ConnectionPorts]] = field(default_factory=list)
    records: list[tuple[RecordCode, bytes]] = field(default_factory=list)
    closed: list[Refusal] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def on_open(self, channel: Channel) -> None:
        self.opened.append(channel)

    def on_claimed(self, channel: Channel) -> None:
        self.claimed.append(list(channel.claims))

    def on_record(self, channel: Channel, code: RecordCode, raw: bytes) -> None:
        self.records.append((code, raw))

    def on_closed(self, channel: Channel, refusal: Refusal, detail: str) -> None:
        self.closed.append(refusal)
        self.details.append(detail)


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

    async def dial(
        self, expected_key: bytes | None = None, address: Endpoint | None = None
    ) -> None:
        key = expected_key or self._identities[1].session_key
        where = address or Endpoint(BOB, self.port)
        assert await self.alice_side.dial(where, expected_key=key)


def pair(alice: ChannelIdentity | None = None, bob: ChannelIdentity | None = None) -> Pair:
    return Pair(alice or identity_of("alice"), bob or identity_of("bob"))


def test_both_sides_prove_their_keys_and_exchange_records() -> None:
    async def run() -> None:
        async with pair() as both:
            await both.dial()
            await until(lambda: both.alice.opened and both.bob.opened)
            (alice,), (bob,) = both.alice.opened, both.bob.opened
            assert (alice.peer_key, bob.peer_key) == (key_of("bob"), key_of("alice"))
            assert not any(c.is_translated or c.is_own_translated for c in (alice, bob))
            alice.claim_connections([ConnectionPorts(50_001, 6881)])
            alice.claim_connections([ConnectionPorts(50_001, 6881), ConnectionPorts(2, 6881)])
            await until(lambda: len(both.bob.claimed) == 2)
            # Seen from the other end, and told once each.
            assert both.bob.claimed[1] == [ConnectionPorts(6881, 50_001), ConnectionPorts(6881, 2)]
            for sequence in (1, 2):
                alice.send_receipt(receipt(sequence=sequence))
            bob.send(RecordCode.ACKNOWLEDGEMENT_STEP, format_acknowledgement(bytes(32), 0, 0))
            await until(lambda: len(both.bob.records) == 2 and both.alice.records)
            assert both.bob.records == [
                (RecordCode.RECEIPT, receipt(sequence=sequence).raw) for sequence in (1, 2)
            ]
            assert (alice.bytes_sent, alice.bytes_received) == (
                bob.bytes_received,
                bob.bytes_sent,
            )

    asyncio.run(run())


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"network_id": bytes(32)}, Refusal.WRONG_NETWORK),
        ({"broadcaster_account": bytes(32)}, Refusal.WRONG_BROADCASTER),
        ({"session_id": b"x" * 16}, Refusal.PEER_ID_MISMATCH),
        ({"peer_id": peer_id_of("bob")}, Refusal.PEER_ID_MISMATCH),
        ({"role": ChannelRole.ANSWERER}, Refusal.WRONG_ROLE),
        ({"exchange_key": bytes(32)}, Refusal.WEAK_KEY),
        ({"exchange_key": b"\1" + bytes(31)}, Refusal.WEAK_KEY),
    ],
    ids=["network", "broadcaster", "session", "peer-id", "role", "zero key", "order 1"],
)
def test_false_hello_is_refused(changes: dict[str, Any], refusal: Refusal) -> None:
    async def attack(port: int) -> None:
        async with Speaker(Party(name="alice", ip=ALICE), Endpoint(BOB, port)) as speaker:
            await speaker.say_hello(**changes)
            await speaker.await_end()

    run_against_bob(attack, refused_with(refusal))


@pytest.mark.parametrize(
    "changes",
    [
        {"network_id": bytes(32)},
        {"own_hello": bytes(32)},
        {"peer_hello": bytes(32)},
        {"seed": seed_of("mallory")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_proof_made_for_another_channel_is_refused(changes: dict[str, Any]) -> None:
    run_against_bob(lambda port: prove(port, **changes), refused_with(Refusal.BAD_PROOF))


@pytest.mark.parametrize(
    "bent",
    [
        {"exchange_key": exchange_key_of(seed_of("relay"))},
        {"listen_address": pack_address("127.0.0.99")},
        {"listen_port": 1},
    ],
    ids=lambda bent: next(iter(bent)),
)
def test_proof_covers_what_the_hello_alone_says(bent: dict[str, Any]) -> None:
    async def attack(port: int) -> None:
        async with Speaker(Party(name="alice", ip=ALICE), Endpoint(BOB, port)) as speaker:
            # Bob hears a hello that was changed on the way; Alice signs the one that she said.
            await speaker.say_hello(**bent)
            speaker.own_hello = speaker.make_hello()
            speaker.send(RecordCode.PROOF_OF_KEY, speaker.make_proof())
            await speaker.await_end()

    run_against_bob(attack, refused_with(Refusal.BAD_PROOF))


@pytest.mark.parametrize(
    "changes",
    [
        {"own_address": pack_address("127.0.0.99")},
        {"peer_address": pack_address("127.0.0.99")},
        {"own_address": pack_address("192.0.2.1")},
        {"peer_address": pack_address("10.0.0.1")},
    ],
    ids=["own", "peer", "own public", "peer private"],
)
def test_addresses_that_no_translator_explains_are_refused(changes: dict[str, Any]) -> None:
    run_against_bob(lambda port: prove(port, **changes), refused_with(Refusal.FOREIGN_ADDRESS))


def test_private_address_behind_a_translator_is_accepted_and_known() -> None:
    witness = run_against_bob(
        lambda port: prove(port, own_address=pack_address("192.168.1.7")), lambda _: None
    )
    (channel,) = witness.opened
    assert channel.is_translated
    assert not channel.is_own_translated


async def prove(port: int, **changes: Any) -> None:
    async with Speaker(Party(name="alice", ip=ALICE), Endpoint(BOB, port)) as speaker:
        await speaker.say_hello()
        speaker.send(RecordCode.PROOF_OF_KEY, speaker.make_proof(**changes))
        await speaker.writer.drain()
        speaker.writer.write_eof()
        await speaker.await_end()


def run_against_bob(
    attack: Callable[[int], Awaitable[None]], check: Callable[[Witness], None]
) -> Witness:
    witness = Witness()

    async def run() -> None:
        side = SideChannel(witness)
        port = await side.listen(BOB)
        side.start(identity_of("bob"))
        try:
            await attack(port)
            await until(lambda: witness.closed)
            check(witness)
            assert not side.table.proved or witness.opened
        finally:
            await side.close()

    asyncio.run(run())
    return witness


def refused_with(refusal: Refusal) -> Callable[[Witness], None]:
    def check(witness: Witness) -> None:
        assert witness.closed == [refusal]
        assert not witness.opened
        assert not witness.records

    return check


def run_actor(actor: Actor, check: Callable[[Witness], None]) -> Witness:
    return run_against_bob(lambda port: actor.attack(Endpoint(BOB, port)), check)


@pytest.mark.parametrize(
    ("actor", "refusal"),
    [
        (CopiedPeerId(MALLORY, victim="alice"), Refusal.PEER_ID_MISMATCH),
        (StolenKey(MALLORY, victim="alice"), Refusal.BAD_PROOF),
        (WrongNetwork(MALLORY), Refusal.WRONG_NETWORK),
        (Reflector(MALLORY), Refusal.WRONG_ROLE),
        (Reflector(MALLORY, as_role=ChannelRole.DIALLER), Refusal.OWN_KEY),
        (ProofReflector(MALLORY), Refusal.BAD_PROOF),
    ],
    ids=[
        "copied peer-id",
        "stolen key",
        "wrong network",
        "reflected",
        "reflected in role",
        "reflected proof",
    ],
)
def test_impostor_is_refused_before_anything_is_taken(actor: Actor, refusal: Refusal) -> None:
    run_actor(actor, refused_with(refusal))


def test_replayed_handshake_is_refused() -> None:
    recorder = Recorder(Party(name="alice", ip=ALICE))

    async def attack(port: int) -> None:
        await recorder.record(Endpoint(BOB, port))
        await recorder.attack(Endpoint(BOB, port))

    def check(witness: Witness) -> None:
        assert witness.closed == [Refusal.CLOSED, Refusal.BAD_PROOF]
        assert len(witness.opened) == 1

    async def both(port: int) -> None:
        await attack(port)

    witness = run_against_bob(both, lambda _: None)
    check(witness)


def test_relayed_handshake_is_refused_by_both_ends() -> None:
    async def run() -> None:
        async with pair() as both:
            relay = Relay(MALLORY.ip, Endpoint(BOB, both.port))
            address = await relay.listen()
            await both.dial(address=address)
            await until(lambda: both.alice.closed and both.bob.closed)
            await relay.close()
            refusals = {*both.alice.closed, *both.bob.closed}
            assert Refusal.FOREIGN_ADDRESS in refusals
            assert refusals <= {Refusal.FOREIGN_ADDRESS, Refusal.CLOSED}
            assert not both.alice.opened
            assert not both.bob.opened

    asyncio.run(run())


def test_relay_that_puts_in_its_own_exchange_keys_is_refused() -> None:
    async def run() -> None:
        async with pair() as both:
            relay = Relay(MALLORY.ip, Endpoint(BOB, both.port), substitutes=True)
            address = await relay.listen()
            await both.dial(address=address)
            await until(lambda: both.alice.closed and both.bob.closed)
            await relay.close()
            refusals = {*both.alice.closed, *both.bob.closed}
            assert Refusal.BAD_PROOF in refusals
            assert refusals <= {Refusal.BAD_PROOF, Refusal.CLOSED}

    asyncio.run(run())


@pytest.mark.parametrize("how", ["made up", "repeated", "reflected"])
def test_seal_that_does_not_fit_ends_the_channel(how: str) -> None:
    def check(witness: Witness) -> None:
        assert witness.closed == [Refusal.BAD_SEAL]
        assert len(witness.records) == (1 if how == "repeated" else 0)

    run_actor(SealForger(MALLORY, how), check)


def test_record_before_the_proof_is_refused() -> None:
    async def attack(port: int) -> None:
        async with Speaker(Party(name="alice", ip=ALICE), Endpoint(BOB, port)) as speaker:
            await speaker.say_hello()
            speaker.send(RecordCode.RECEIPT, receipt().raw)
            await speaker.await_end()

    run_against_bob(attack, refused_with(Refusal.OUT_OF_TURN))


def test_sealed_record_before_the_hello_is_refused() -> None:
    async def attack(port: int) -> None:
        async with Speaker(MALLORY, Endpoint(BOB, port)) as speaker:
            record = format_connections([ConnectionPorts(1, 1)])
            speaker.send(RecordCode.CONNECTIONS, record, bytes(16))
            await speaker.await_end()

    run_against_bob(attack, refused_with(Refusal.OUT_OF_TURN))


def test_second_hello_is_refused() -> None:
    async def attack(port: int) -> None:
        async with Speaker(MALLORY, Endpoint(BOB, port)) as speaker:
            await speaker.shake_hands()
            speaker.send(RecordCode.HELLO, speaker.make_hello().raw)
            await speaker.await_end()

    witness = run_against_bob(attack, lambda _: None)
    assert witness.closed == [Refusal.OUT_OF_TURN]


@pytest.mark.parametrize(
    "garbage",
    [
        bytes([RecordCode.CONNECTIONS]) + b"\xff\xff",
        bytes([RecordCode.CONNECTIONS]) + b"\0\0",
        bytes([RecordCode.HELLO]) + bytes(HELLO.size),
        b"\xc8" + bytes(10),
        bytes([RecordCode.TERMS]) + bytes(10),
        b"GET / HTTP/1.1\r\nHost: bob\r\n\r\n",
    ],
    ids=["huge", "short", "zeros", "unknown", "other record", "http"],
)
def test_garbage_closes_the_channel(garbage: bytes) -> None:
    async def attack(port: int) -> None:
        async with Speaker(MALLORY, Endpoint(BOB, port)) as speaker:
            speaker.send_raw(garbage)
            await speaker.await_end()

    run_against_bob(attack, refused_with(Refusal.MALFORMED))


def test_oversized_frame_is_refused_unread() -> None:
    def check(witness: Witness) -> None:
        assert witness.closed == [Refusal.MALFORMED]
        assert "frame.length" in witness.details[0]

    run_actor(OversizedFrame(MALLORY), check)


@pytest.mark.parametrize("is_proved", [False, True])
def test_slow_drip_is_cut_off(monkeypatch: pytest.MonkeyPatch, is_proved: bool) -> None:
    monkeypatch.setattr(side_channel, "PROVE_TIMEOUT_S", 10 if is_proved else 0.1)
    monkeypatch.setattr(side_channel, "FRAME_TIMEOUT_S", 0.1 if is_proved else 10)

    def check(witness: Witness) -> None:
        assert witness.closed == [Refusal.TOO_SLOW]
        assert bool(witness.opened) == is_proved

    run_actor(SlowDrip(MALLORY, is_proved), check)


def test_flood_of_frames_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_channel, "FRAMES_BURST", 20)

    def check(witness: Witness) -> None:
        assert witness.closed == [Refusal.TOO_FAST]
        assert len(witness.records) < 100

    run_actor(FrameFlood(MALLORY, RecordCode.ENTITLEMENT, entitlement().raw, 200), check)


def test_claims_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_channel, "CLAIMS_MAX", 300)

    def check(witness: Witness) -> None:
        assert witness.closed == [Refusal.CLOSED]
        assert max(len(claims) for claims in witness.claimed) == 300

    run_actor(ClaimFlood(MALLORY, records=20), check)


def test_strangers_of_one_address_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_table, "STRANGERS_PER_ADDRESS_MAX", 3)

    def check(witness: Witness) -> None:
        assert witness.closed.count(Refusal.TOO_MANY) == 2

    run_actor(ConnectionFlood(MALLORY, 5), check)


def test_keys_of_one_address_are_limited_and_leave_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_table, "PROVED_PER_ADDRESS_MAX", 3)

    async def attack(port: int) -> None:
        flood = KeyFlood(MALLORY.ip, 5)
        await flood.attack(Endpoint(BOB, port))
        async with Speaker(Party(name="alice", ip=ALICE), Endpoint(BOB, port)) as speaker:
            await speaker.shake_hands()
        await flood.leave()

    def check(witness: Witness) -> None:
        assert witness.closed.count(Refusal.TOO_MANY) == 2
        assert {channel.peer_key for channel in witness.opened} >= {key_of("alice")}

    run_against_bob(attack, check)


def test_wrong_key_behind_an_address_is_refused_by_the_dialler() -> None:
    async def run() -> None:
        async with pair() as both:
            # A client string that was copied names a key that does not answer there.
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
            kept.send_receipt(receipt())
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
