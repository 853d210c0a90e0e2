"""Speaks the side channel by hand: honest by default, and every step can be bent.

No code of the channel itself is used beyond the formats, so an actor can do what no engine would.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from builders import NETWORK_ID, digest_of, key_of, peer_id_of, seed_of

from engine_plugin.channel_keys import SEAL_SIZE, ChannelSealers, derive_sealers
from engine_plugin.wire import (
    FRAMES,
    HELLO,
    PROOF_OF_KEY,
    ChannelRole,
    Endpoint,
    FrameReader,
    Hello,
    ProofOfKey,
    format_frame,
    pack_address,
)
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.keys import agree_secret, exchange_key_of, generate_seed


@dataclass(frozen=True, kw_only=True)
class Party:
    """Who an actor is; a name fixes its key."""

    name: str
    ip: str
    port: int = 6881
    network_id: bytes = NETWORK_ID
    broadcaster: bytes = key_of("broadcaster")

    @property
    def key(self) -> bytes:
        return key_of(self.name)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.ip, self.port)


class Speaker:
    """One TCP connection to a target, dialled by a party."""

    def __init__(self, party: Party, target: Endpoint) -> None:
        self.party = party
        self.target = target
        self.own_hello: Signed[Hello] | None = None
        self.peer_hello: Signed[Hello] | None = None
        self.sealers: ChannelSealers | None = None
        self.secret = generate_seed()

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            *self.target, local_addr=(self.party.ip, 0)
        )
        self.frames = FrameReader(self.reader, SEAL_SIZE)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    def make_hello(self, **changes: Any) -> Signed[Hello]:
        party = self.party
        values: dict[str, Any] = {
            "network_id": party.network_id,
            "key": party.key,
            "exchange_key": exchange_key_of(self.secret),
            "peer_id": peer_id_of(party.name),
            "session_id": digest_of(f"{party.name} session")[:16],
            "broadcaster_account": party.broadcaster,
            "listen_address": pack_address(party.ip),
            "listen_port": party.port,
            "role": ChannelRole.DIALLER,
        }
        return HELLO.sign(Hello(**values | changes))

    async def say_hello(self, **changes: Any) -> Signed[Hello]:
        """Send our hello and read the target's."""
        self.own_hello = self.make_hello(**changes)
        self.send(RecordCode.HELLO, self.own_hello.raw)
        return await self.hear_hello()

    async def hear_hello(self) -> Signed[Hello]:
        code, raw = await self.read()
        assert code is RecordCode.HELLO
        self.peer_hello = HELLO.parse(raw)
        return self.peer_hello

    def make_proof(self, seed: bytes | None = None, **changes: Any) -> bytes:
        assert self.own_hello is not None
        assert self.peer_hello is not None
        values: dict[str, Any] = {
            "network_id": self.own_hello.value.network_id,
            "own_hello": self.own_hello.digest,
            "peer_hello": self.peer_hello.digest,
            "own_address": pack_address(self.party.ip),
            "peer_address": pack_address(self.target.ip),
        }
        proof = ProofOfKey(**values | changes)
        return PROOF_OF_KEY.sign(proof, seed or seed_of(self.party.name)).raw

    async def shake_hands(self) -> None:
        """Go through hello and proof as an honest engine does."""
        peer = await self.say_hello()
        assert self.own_hello is not None
        secret = agree_secret(self.secret, peer.value.exchange_key)
        assert secret is not None
        self.sealers = derive_sealers(secret, self.own_hello.raw, peer.raw)
        self.send(RecordCode.PROOF_OF_KEY, self.make_proof())
        code, _ = await self.read()
        assert code is RecordCode.PROOF_OF_KEY

    def send(self, code: RecordCode, record: bytes, seal: bytes | None = None) -> None:
        """Send a record, with its right seal unless another is given."""
        if seal is None:
            seal = b""
            if FRAMES[code].is_sealed:
                assert self.sealers is not None
                seal = self.sealers.dialler.seal(code, record)
        self.writer.write(format_frame(code, record, seal))

    def send_raw(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self) -> tuple[RecordCode, bytes]:
        frame = await self.frames.read(10)
        return frame.code, frame.record

    async def await_end(self) -> None:
        """Read until the target closes."""
        with suppress(OSError):
            await self.writer.drain()
            while await self.reader.read(4096):
                pass
