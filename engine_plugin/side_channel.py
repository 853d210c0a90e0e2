"""The authenticated side channel: who may say what for which BitTorrent connection.

One TCP connection between two plugins, dialled from either side. Both say hello, both prove their
key over the other's nonce, both keys, both peer-ids and the two ends of a BitTorrent connection.
Only then are records handed on. A further BitTorrent connection of the same pair is proved by a
further proof on the same channel; a connection that nobody proved stays unattested, whatever its
peer-id says.

Bounded: the time to prove, the size and rate of frames, the number of channels and of strangers
per address. Every fault of the other side closes its channel and nothing else.

Not here: what a receipt must satisfy (`payee`), when one is due (`lanes`).
Source: FORMATS.md, "Side channel".
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from engine_plugin.errors import EngineError
from engine_plugin.identity import peer_id_commits
from engine_plugin.wire import (
    HELLO,
    NONCE_SIZE,
    PROOF_OF_KEY,
    ChannelRole,
    Endpoint,
    Hello,
    ProofOfKey,
    format_frame,
    pack_address,
    read_frame,
    unpack_address,
)
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.errors import EvidenceError

PROVE_TIMEOUT_S = 10
"""Seconds from the connection to the first valid proof."""

DIAL_TIMEOUT_S = 5
CHANNELS_MAX = 512
"""Most channels at once, unproved ones included."""

STRANGERS_PER_ADDRESS_MAX = 16
"""Most unproved channels from one address."""

ENDPOINTS_MAX = 64
"""Most BitTorrent connections that one channel may claim."""

UNSENT_BYTES_MAX = 1 << 20
"""A peer that lets so much pile up is not reading."""

_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
FRAMES_PER_SECOND = 50
FRAMES_BURST = 500


class Refusal(StrEnum):
    """Why a channel was closed by us."""

    WRONG_NETWORK = "wrong_network"
    WRONG_BROADCASTER = "wrong_broadcaster"
    WRONG_ROLE = "wrong_role"
    WRONG_KEY = "wrong_key"
    OWN_KEY = "own_key"
    PEER_ID_MISMATCH = "peer_id_mismatch"
    BAD_PROOF = "bad_proof"
    FOREIGN_ADDRESS = "foreign_address"
    MALFORMED = "malformed"
    OUT_OF_TURN = "out_of_turn"
    TOO_MANY = "too_many"
    TOO_FAST = "too_fast"
    TOO_SLOW = "too_slow"
    REPLACED = "replaced"
    CLOSED = "closed"


class ChannelRefusedError(EngineError):
    """The other side broke a rule of the channel; `refusal` says which."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(f"side channel: {refusal}{': ' if detail else ''}{detail}")
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelIdentity:
    """Who we are on every channel of this process run."""

    network_id: bytes
    broadcaster_account: bytes
    session_seed: bytes
    session_key: bytes
    session_id: bytes
    peer_id: bytes
    listen: Endpoint
    """Our BitTorrent endpoint."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The two ends of one BitTorrent connection, as this side sees them."""

    own: Endpoint
    peer: Endpoint


class ChannelOwner(Protocol):
    """What the plugin does with channels."""

    def connections_of(self, peer_id: bytes) -> Iterable[Connection]:
        """Return the BitTorrent connections of a peer-id."""

    def on_open(self, channel: "Channel") -> None:
        """Take note of a proved channel; it takes records from now on."""

    def on_attested(self, channel: "Channel", endpoint: Endpoint) -> None:
        """Take note that the channel's key proved the connection from this endpoint."""

    def on_record(self, channel: "Channel", code: RecordCode, raw: bytes) -> None:
        """Take a record of a proved peer; an `EvidenceError` closes the channel."""

    def on_closed(self, channel: "Channel", refusal: Refusal, detail: str) -> None:
        """Take note that a channel, proved or not, has ended."""


class Channel:
    """One connection to one plugin."""

    def __init__(
        self,
        identity: ChannelIdentity,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        role: ChannelRole,
        expected_key: bytes | None,
    ) -> None:
        self.role = role
        self.is_proved = False
        self.is_stranger = True
        self.peer: Hello | None = None
        self.endpoints: set[Endpoint] = set()
        """BitTorrent endpoints that the peer's key signed for."""
        self._identity = identity
        self._reader = reader
        self._writer = writer
        self._expected_key = expected_key
        self._nonce = os.urandom(NONCE_SIZE)
        self._proofs_sent: set[Connection] = set()
        self._allowance = float(FRAMES_BURST)
        self._counted_at = time.monotonic()
        host = writer.get_extra_info("peername")
        own = writer.get_extra_info("sockname")
        self.address = Endpoint(_plain_ip(host[0]), host[1])
        self.own_address = Endpoint(_plain_ip(own[0]), own[1])

    @property
    def peer_key(self) -> bytes:
        """The peer's session key: a claim until `is_proved`."""
        return b"" if self.peer is None else self.peer.key

    @property
    def peer_id(self) -> bytes:
        """The peer's BitTorrent peer-id; b"" before its hello."""
        return b"" if self.peer is None else self.peer.peer_id

    @property
    def session_id(self) -> bytes:
        """The peer's process run, as its hello states it."""
        return b"" if self.peer is None else self.peer.session_id

    @property
    def is_preferred(self) -> bool:
        """Whether the smaller key dialled; of two channels dialled at once this one stays."""
        own, peer = self._identity.session_key, self.peer_key
        return (own if self.role is ChannelRole.DIALLER else peer) == min(own, peer)

    def send(self, code: RecordCode, record: bytes) -> None:
        """Queue a record; a peer that does not read is cut off."""
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._writer.transport.abort()
            return
        self._writer.write(format_frame(code, record))

    def close(self) -> None:
        """Close after what is queued has left; the owner's `on_closed` follows."""
        self._writer.close()

    def prove_connections(self, connections: Iterable[Connection]) -> None:
        """Send a proof for each connection that has none yet."""
        if self.peer is None:
            return
        for connection in connections:
            if connection not in self._proofs_sent and len(self._proofs_sent) < ENDPOINTS_MAX:
                self._proofs_sent.add(connection)
                proof = self._make_proof(connection)
                self.send(RecordCode.PROOF_OF_KEY, proof.raw)

    async def run(self, owner: ChannelOwner, others: "ChannelTable") -> None:
        """Exchange hello and proof, then hand records to the owner until the stream ends."""
        refusal, detail = Refusal.CLOSED, ""
        try:
            self._say_hello()
            try:
                async with asyncio.timeout(PROVE_TIMEOUT_S):
                    await self._authenticate(owner)
            except TimeoutError:
                raise ChannelRefusedError(Refusal.TOO_SLOW) from None
            others.admit(self)
            self.is_proved = True
            owner.on_open(self)
            for endpoint in sorted(self.endpoints):
                owner.on_attested(self, endpoint)
            while True:
                self._take(owner, *await read_frame(self._reader))
        except EvidenceError as error:
            refusal, detail = Refusal.MALFORMED, str(error)
        except ChannelRefusedError as error:
            refusal, detail = error.refusal, str(error)
        except (OSError, EOFError) as error:
            detail = type(error).__name__
        finally:
            self.is_proved = False
            others.forget(self)
            self._writer.close()
            owner.on_closed(self, refusal, detail)

    def _take(self, owner: ChannelOwner, code: RecordCode, raw: bytes) -> None:
        self._count_frame()
        if code is RecordCode.PROOF_OF_KEY:
            known = len(self.endpoints)
            endpoint = self._check_proof(raw)
            if len(self.endpoints) > known:
                owner.on_attested(self, endpoint)
        elif code is RecordCode.HELLO:
            raise ChannelRefusedError(Refusal.OUT_OF_TURN, "second hello")
        else:
            owner.on_record(self, code, raw)

    def _say_hello(self) -> None:
        identity = self._identity
        hello = Hello(
            network_id=identity.network_id,
            key=identity.session_key,
            nonce=self._nonce,
            peer_id=identity.peer_id,
            session_id=identity.session_id,
            broadcaster_account=identity.broadcaster_account,
            listen_address=pack_address(self._listen_endpoint().ip),
            listen_port=identity.listen.port,
            role=self.role,
        )
        self.send(RecordCode.HELLO, HELLO.sign(hello).raw)

    def _listen_endpoint(self) -> Endpoint:
        # Bound to every address, we listen on the one that this channel uses.
        listen = self._identity.listen
        return Endpoint(self.own_address.ip, listen.port) if listen.ip in _EVERYWHERE else listen

    async def _authenticate(self, owner: ChannelOwner) -> None:
        code, raw = await read_frame(self._reader)
        if code is not RecordCode.HELLO:
            raise ChannelRefusedError(Refusal.OUT_OF_TURN, f"{code.name} before hello")
        self.peer = self._check_hello(HELLO.parse(raw).value)
        # The listening end is what a peer that dialled us by BitTorrent sees; then the connections.
        base = Connection(self._listen_endpoint(), Endpoint(self.address.ip, 0))
        self.prove_connections([base, *owner.connections_of(self.peer.peer_id)])
        code, raw = await read_frame(self._reader)
        if code is not RecordCode.PROOF_OF_KEY:
            raise ChannelRefusedError(Refusal.OUT_OF_TURN, f"{code.name} before proof")
        self._check_proof(raw)

    def _check_hello(self, hello: Hello) -> Hello:
        identity = self._identity
        answer = ChannelRole.ANSWERER if self.role is ChannelRole.DIALLER else ChannelRole.DIALLER
        faults = [
            (hello.network_id != identity.network_id, Refusal.WRONG_NETWORK),
            (
                hello.broadcaster_account != identity.broadcaster_account,
                Refusal.WRONG_BROADCASTER,
            ),
            (hello.role != answer, Refusal.WRONG_ROLE),
            (hello.key == identity.session_key, Refusal.OWN_KEY),
            (self._expected_key not in {None, hello.key}, Refusal.WRONG_KEY),
            (
                not peer_id_commits(hello.peer_id, hello.key, hello.session_id),
                Refusal.PEER_ID_MISMATCH,
            ),
        ]
        for is_fault, refusal in faults:
            if is_fault:
                raise ChannelRefusedError(refusal)
        return hello

    def _make_proof(self, connection: Connection) -> Signed[ProofOfKey]:
        identity, peer = self._identity, self.peer
        if peer is None:
            raise AssertionError("peer: got no hello, want one before a proof")
        proof = ProofOfKey(
            network_id=identity.network_id,
            peer_nonce=peer.nonce,
            own_nonce=self._nonce,
            own_key=identity.session_key,
            peer_key=peer.key,
            own_peer_id=identity.peer_id,
            peer_peer_id=peer.peer_id,
            broadcaster_account=identity.broadcaster_account,
            own_address=pack_address(connection.own.ip),
            peer_address=pack_address(connection.peer.ip),
            own_port=connection.own.port,
            peer_port=connection.peer.port,
            role=self.role,
        )
        return PROOF_OF_KEY.sign(proof, identity.session_seed)

    def _check_proof(self, raw: bytes) -> Endpoint:
        identity, peer = self._identity, self.peer
        if peer is None:
            raise AssertionError("peer: got no hello, want one before a proof")
        signed = PROOF_OF_KEY.parse(raw)
        proof = signed.value
        wanted = (
            identity.network_id,
            self._nonce,
            peer.nonce,
            peer.key,
            identity.session_key,
            peer.peer_id,
            identity.peer_id,
            identity.broadcaster_account,
            peer.role,
        )
        stated = (
            proof.network_id,
            proof.peer_nonce,
            proof.own_nonce,
            proof.own_key,
            proof.peer_key,
            proof.own_peer_id,
            proof.peer_peer_id,
            proof.broadcaster_account,
            proof.role,
        )
        if stated != wanted or not PROOF_OF_KEY.is_signed_by(signed, peer.key):
            raise ChannelRefusedError(Refusal.BAD_PROOF)
        # A key speaks for connections from its own address only, else it could claim a stranger's
        # that copied its peer-id.
        if unpack_address(proof.own_address) != self.address.ip:
            raise ChannelRefusedError(Refusal.FOREIGN_ADDRESS, str(proof.own_endpoint))
        self.endpoints.add(proof.own_endpoint)
        if len(self.endpoints) > ENDPOINTS_MAX:
            raise ChannelRefusedError(Refusal.TOO_MANY, "endpoints")
        return proof.own_endpoint

    def _count_frame(self) -> None:
        now = time.monotonic()
        gained = (now - self._counted_at) * FRAMES_PER_SECOND
        self._counted_at = now
        self._allowance = min(FRAMES_BURST, self._allowance + gained) - 1
        if self._allowance < 0:
            raise ChannelRefusedError(Refusal.TOO_FAST)


class ChannelTable:
    """Every channel of this process, at most one proved one per key."""

    def __init__(self) -> None:
        self.proved: dict[bytes, Channel] = {}
        self.strangers: Counter[str] = Counter()
        self.all: set[Channel] = set()

    def add(self, channel: Channel) -> None:
        """Take a new, unproved channel.

        Raises:
            ChannelRefusedError: There are too many, in all or from one address.
        """
        is_crowded = self.strangers[channel.address.ip] >= STRANGERS_PER_ADDRESS_MAX
        if is_crowded or len(self.all) >= CHANNELS_MAX:
            raise ChannelRefusedError(Refusal.TOO_MANY, channel.address.ip)
        self.all.add(channel)
        self.strangers[channel.address.ip] += 1

    def admit(self, channel: Channel) -> None:
        """Make a channel the one of its key; both sides choose the same of two.

        Raises:
            ChannelRefusedError: Another channel of the key is kept.
        """
        self._leave_strangers(channel)
        current = self.proved.get(channel.peer_key)
        if current is not None:
            is_same_run = current.session_id == channel.session_id
            # Both dialled at once: the channel that the smaller key dialled stays. Otherwise the
            # peer has come back, and the newer channel is the one it listens on.
            if is_same_run and current.role is not channel.role and current.is_preferred:
                raise ChannelRefusedError(Refusal.REPLACED)
            current.close()
        self.proved[channel.peer_key] = channel

    def forget(self, channel: Channel) -> None:
        """Drop a channel that has ended."""
        if self.proved.get(channel.peer_key) is channel:
            del self.proved[channel.peer_key]
        if channel in self.all:
            self._leave_strangers(channel)
            self.all.discard(channel)

    def _leave_strangers(self, channel: Channel) -> None:
        if channel in self.all and channel.is_stranger:
            channel.is_stranger = False
            self.strangers[channel.address.ip] -= 1
            if not self.strangers[channel.address.ip]:
                del self.strangers[channel.address.ip]


class SideChannel:
    """Listens and dials; owns the tasks of all channels."""

    def __init__(self, owner: ChannelOwner) -> None:
        self.table = ChannelTable()
        self._owner = owner
        self._identity: ChannelIdentity | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, ip: str, port: int = 0) -> int:
        """Start to listen and return the port; connections are refused until `start`.

        Raises:
            OSError: The address cannot be bound.
        """
        self._server = await asyncio.start_server(self._answer, ip, port, limit=1 << 16)
        return int(self._server.sockets[0].getsockname()[1])

    def start(self, identity: ChannelIdentity) -> None:
        """Say who we are; from now on connections are answered."""
        self._identity = identity

    async def dial(self, address: Endpoint, *, expected_key: bytes) -> bool:
        """Connect to a plugin and run the channel in the background.

        Returns:
            Whether somebody answered; the owner hears the rest.
        """
        identity = self._identity
        if identity is None:
            return False
        source = None if identity.listen.ip in _EVERYWHERE else (identity.listen.ip, 0)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(
                    address.ip, address.port, local_addr=source, limit=1 << 16
                )
        except OSError:
            return False
        self._begin(reader, writer, ChannelRole.DIALLER, expected_key)
        return True

    async def close(self) -> None:
        """Stop listening and end all channels; what is queued is still sent."""
        if self._server is not None:
            self._server.close()
        for channel in list(self.table.all):
            channel.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._begin(reader, writer, ChannelRole.ANSWERER, None)

    def _begin(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        role: ChannelRole,
        expected_key: bytes | None,
    ) -> None:
        if self._identity is None:
            writer.transport.abort()
            return
        channel = Channel(self._identity, reader, writer, role, expected_key)
        try:
            self.table.add(channel)
        except ChannelRefusedError as error:
            writer.transport.abort()
            self._owner.on_closed(channel, error.refusal, str(error))
            return
        task = asyncio.create_task(channel.run(self._owner, self.table))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _plain_ip(ip: str) -> str:
    return unpack_address(pack_address(ip))
