"""Those who attack the side channel, each as a class with `attack(target)`.

`attack` returns when the target has closed the channel, or when the actor is done. An actor lies
about one thing only; everything else it does as an honest engine would.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from adversaries.speaker import Party, Speaker
from builders import peer_id_of, seed_of

from engine_plugin.wire import (
    FRAMES,
    ChannelRole,
    ConnectionPorts,
    Endpoint,
    format_acknowledgement,
    format_connections,
    format_frame,
)
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.keys import exchange_key_of
from ledger.evidence.receipt import Receipt


class Actor(Protocol):
    """Whoever attacks one endpoint of a side channel."""

    async def attack(self, target: Endpoint) -> None:
        """Do it."""


@dataclass
class CopiedClientString:
    """Shows another's client text and peer-id in the swarm, so that it is dialled in its place."""

    party: Party
    dialled: int = 0

    async def listen(self) -> int:
        """Answer as itself, for it cannot answer as the other; returns the port."""
        self._server = await asyncio.start_server(self._answer, self.party.ip, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dialled += 1
        speaker = Speaker(self.party, self.party.endpoint)
        hello = speaker.make_hello(role=ChannelRole.ANSWERER)
        writer.write(format_frame(RecordCode.HELLO, hello.raw))
        with suppress(OSError):
            while await reader.read(4096):
                pass
        writer.close()


@dataclass
class CopiedPeerId:
    """Says hello with another's peer-id under its own key."""

    party: Party
    victim: str

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.say_hello(peer_id=peer_id_of(self.victim))
            await speaker.await_end()


@dataclass
class StolenKey:
    """Claims another's key and everything about it, and has to sign with its own seed."""

    party: Party
    victim: str

    async def attack(self, target: Endpoint) -> None:
        as_victim = replace(self.party, name=self.victim)
        async with Speaker(as_victim, target) as speaker:
            await speaker.say_hello()
            proof = speaker.make_proof(seed_of(self.party.name))
            speaker.send(RecordCode.PROOF_OF_KEY, proof)
            await speaker.await_end()


@dataclass
class WrongNetwork:
    """Comes from another network, with everything else in order."""

    party: Party

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.say_hello(network_id=bytes(32))
            await speaker.await_end()


@dataclass
class Reflector:
    """Sends back whatever the target says."""

    party: Party
    as_role: ChannelRole | None = None
    """Changes the hello's role, if it is given."""

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            hello = await speaker.hear_hello()
            raw = bytearray(hello.raw)
            if self.as_role is not None:
                raw[-1] = self.as_role
            speaker.send(RecordCode.HELLO, bytes(raw))
            await speaker.await_end()


@dataclass
class ProofReflector:
    """Has a hello of its own and answers the target's proof with that very proof."""

    party: Party

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.say_hello()
            code, proof = await speaker.read()
            assert code is RecordCode.PROOF_OF_KEY
            speaker.send(code, proof)
            await speaker.await_end()


@dataclass
class Recorder:
    """Sits on a wire: what a victim sent to a target in one handshake can be played again."""

    victim: Party
    frames: list[tuple[RecordCode, bytes]] = field(default_factory=list)

    async def record(self, target: Endpoint) -> None:
        """Let the victim shake hands, and keep what it said."""
        async with Speaker(self.victim, target) as speaker:
            await speaker.shake_hands()
            assert speaker.own_hello is not None
            self.frames = [
                (RecordCode.HELLO, speaker.own_hello.raw),
                (RecordCode.PROOF_OF_KEY, speaker.make_proof()),
            ]

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.victim, target) as speaker:
            for code, record in self.frames:
                speaker.send(code, record)
            await speaker.await_end()


class Relay:
    """Stands between two honest engines and passes on what they say.

    Give one engine the relay's address for the other's; `substitutes` makes it put exchange keys
    of its own into the hellos, to read and write on the channel afterwards.
    """

    def __init__(self, ip: str, onward: Endpoint, *, substitutes: bool = False) -> None:
        self.ip = ip
        self.onward = onward
        self.substitutes = substitutes
        self._writers: list[asyncio.StreamWriter] = []

    async def listen(self) -> Endpoint:
        self._server = await asyncio.start_server(self._answer, self.ip, 0)
        return Endpoint(self.ip, self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection(*self.onward, local_addr=(self.ip, 0))
        self._writers += [writer, onward[1]]
        await asyncio.gather(self._pass_on(reader, onward[1]), self._pass_on(onward[0], writer))

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            size = 1 + FRAMES[RecordCode.HELLO].most
            hello = bytearray(await source.readexactly(size))
            if self.substitutes:
                # Tag 40, key 32, then the exchange key; one byte of type before.
                hello[73:105] = exchange_key_of(seed_of("relay"))
            sink.write(hello)
            while data := await source.read(4096):
                sink.write(data)
        sink.close()


@dataclass
class OversizedFrame:
    """Announces more than a record of its type may be."""

    party: Party

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.shake_hands()
            code = RecordCode.CONNECTIONS
            speaker.send_raw(bytes([code]) + b"\xff\xff" + bytes(1 << 16))
            await speaker.await_end()


@dataclass
class SlowDrip:
    """Begins a frame and never ends it; before its proof, or after."""

    party: Party
    is_proved: bool

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            if self.is_proved:
                await speaker.shake_hands()
            speaker.send_raw(bytes([RecordCode.HELLO if not self.is_proved else 4, 1, 2]))
            await speaker.await_end()


@dataclass
class ConnectionFlood:
    """Opens connections and says nothing on them."""

    party: Party
    count: int

    async def attack(self, target: Endpoint) -> None:
        speakers = [Speaker(self.party, target) for _ in range(self.count)]
        for speaker in speakers:
            await speaker.__aenter__()
        await asyncio.gather(*(self._linger(speaker) for speaker in speakers))

    async def _linger(self, speaker: Speaker) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await speaker.await_end()
        await speaker.__aexit__(None, None, None)


@dataclass
class KeyFlood:
    """Proves one key after the other from one address, and keeps the channels."""

    ip: str
    count: int
    speakers: list[Speaker] = field(default_factory=list)

    async def attack(self, target: Endpoint) -> None:
        for number in range(self.count):
            speaker = Speaker(Party(name=f"sybil {number}", ip=self.ip), target)
            await speaker.__aenter__()
            self.speakers.append(speaker)
            await speaker.shake_hands()

    async def leave(self) -> None:
        for speaker in self.speakers:
            await speaker.__aexit__(None, None, None)


@dataclass
class FrameFlood:
    """Sends one good record over and over."""

    party: Party
    code: RecordCode
    record: bytes
    count: int

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.shake_hands()
            frame = format_frame(self.code, self.record)
            for _ in range(self.count):
                speaker.send_raw(frame)
            await speaker.await_end()


@dataclass
class ClaimFlood:
    """Claims every port there is."""

    party: Party
    records: int

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.shake_hands()
            for number in range(self.records):
                ports = [ConnectionPorts(1 + number * 256 + at, 6881) for at in range(256)]
                speaker.send(RecordCode.CONNECTIONS, format_connections(ports))
            await speaker.writer.drain()
            speaker.writer.write_eof()
            await speaker.await_end()


@dataclass
class Claimant:
    """Claims BitTorrent connections by their ports; whether they are its own or not."""

    party: Party
    ports: list[ConnectionPorts]

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.shake_hands()
            speaker.send(RecordCode.CONNECTIONS, format_connections(self.ports))
            await speaker.writer.drain()
            speaker.writer.write_eof()
            await speaker.await_end()


@dataclass
class SealForger:
    """Proves its key, then sends sealed records with seals that do not fit.

    `how` is "made up", "repeated" (a good record twice), or "reflected" (with the key of the
    other direction).
    """

    party: Party
    how: str

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.shake_hands()
            assert speaker.sealers is not None
            code, record = RecordCode.ACKNOWLEDGEMENT_STEP, format_acknowledgement(bytes(32), 0, 0)
            seals = {
                "made up": [bytes(16)],
                "repeated": [speaker.sealers.dialler.seal(code, record)] * 2,
                "reflected": [speaker.sealers.answerer.seal(code, record)],
            }
            for seal in seals[self.how]:
                speaker.send(code, record, seal)
            await speaker.await_end()


@dataclass
class Viewer:
    """Presents entitlements and receipts as they are given, and reads the answers.

    Honest with honest records. With others it is the forger, the inflater, the equivocator or the
    holder of a foreign or expired entitlement; without receipts it is the one who withholds them.
    """

    party: Party
    entitlements: list[Signed[Entitlement]] = field(default_factory=list)
    receipts: list[Signed[Receipt]] = field(default_factory=list)
    claims: list[ConnectionPorts] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    """Acknowledgement records, in the order of the receipts."""

    async def attack(self, target: Endpoint) -> None:
        async with Speaker(self.party, target) as speaker:
            await speaker.shake_hands()
            if self.claims:
                speaker.send(RecordCode.CONNECTIONS, format_connections(self.claims))
            for signed in self.entitlements:
                speaker.send(RecordCode.ENTITLEMENT, signed.raw)
            for receipt in self.receipts:
                speaker.send(RecordCode.RECEIPT, receipt.raw)
            with suppress(OSError, EOFError):
                while len(self.answers) < len(self.receipts):
                    code, record = await speaker.read()
                    if code is RecordCode.ACKNOWLEDGEMENT_STEP:
                        self.answers.append(record)
            speaker.writer.write_eof()
            await speaker.await_end()
