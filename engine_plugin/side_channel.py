"""The authenticated side channel: who may say what for which BitTorrent connection.

One TCP connection between two plugins, dialled from either side. Both say hello, both sign both
hellos and the addresses they see; the exchange keys in the hellos give keys for seals. Only then
are records handed on. BitTorrent connections of the pair are claimed by their ports, in sealed
records; whether a claim fits a connection is the owner's to say (`attestation`).

Bounded: the time to prove and to finish a frame, the size and rate of frames, the number of
channels, of strangers and of claims. Every fault of the other side closes its channel and nothing
else.

Not here: what a receipt must satisfy (`payee`), when one is due (`lanes`).
Source: FORMATS.md, "Side channel".
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from engine_plugin.channel_keys import SEAL_SIZE, ChannelSealers, derive_sealers
from engine_plugin.channel_table import ChannelRefusedError, ChannelTable, Refusal
from engine_plugin.identity import peer_id_commits
from engine_plugin.receipt_steps import ReceiptBases
from engine_plugin.wire import (
    CONNECTIONS_MAX,
    FRAMES,
    HELLO,
    PROOF_OF_KEY,
    ChannelRole,
    ConnectionPorts,
    Endpoint,
    FrameReader,
    Hello,
    ProofOfKey,
    SlowFrameError,
    format_connections,
    format_frame,
    pack_address,
    parse_connections,
    unpack_address,
)
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import agree_secret, exchange_key_of, generate_seed
from ledger.evidence.receipt import RECEIPT, Receipt

PROVE_TIMEOUT_S = 10
"""Seconds from the connection to the valid proof."""

FRAME_TIMEOUT_S = 20
"""Seconds from the first byte of a frame to its last."""

DIAL_TIMEOUT_S = 5

CLAIMS_MAX = 4096
"""Most claims of connections that are remembered of one channel; the oldest go first."""

UNSENT_BYTES_MAX = 1 << 20
"""A peer that lets so much pile up is not reading."""

READ_AHEAD_BYTES = 8 << 10
"""About how much is read of a stream before somebody asks for it."""

FRAMES_PER_SECOND = 50
FRAMES_BURST = 500

EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_TRANSLATABLE = tuple(
    ipaddress.ip_network(block)
    for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
"""Addresses that an address translator replaces on the way; all others arrive as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelIdentity:
    """Who we are on every channel of this process run."""

    network_id: bytes
    broadcaster_account: bytes
    session_seed: bytes = field(repr=False)
    session_key: bytes
    session_id: bytes
    peer_id: bytes
    listen: Endpoint
    """Our BitTorrent endpoint."""


class ChannelOwner(Protocol):
    """What the plugin does with channels."""

    def on_open(self, channel: "Channel") -> None:
        """Take note of a proved channel; it takes records from now on."""

    def on_claimed(self, channel: "Channel") -> None:
        """Take note that the peer claimed further connections."""

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
        clock: Callable[[], float],
    ) -> None:
        self.role = role
        self.is_proved = False
        self.is_stranger = True
        self.peer: Hello | None = None
        self.is_translated = False
        """Whether the peer's address is another here than on its own machine."""
        self.is_own_translated = False
        """Whether ours is another there than on this machine."""
        self.claims: dict[ConnectionPorts, None] = {}
        """Connections that the peer claims and the owner has not found yet; oldest first."""
        self.bases_out, self.bases_in = ReceiptBases(), ReceiptBases()
        self.bytes_sent = 0
        """Bytes of all frames written to the stream so far."""
        self.bytes_received = 0
        """The same for those read."""
        self._identity = identity
        self._frames = FrameReader(reader, SEAL_SIZE)
        self._writer = writer
        self._expected_key = expected_key
        self._exchange_secret = generate_seed()
        self._sealers: ChannelSealers | None = None
        self._claimed: dict[ConnectionPorts, None] = {}
        self._allowance = float(FRAMES_BURST)
        self._clock = clock
        self._counted_at = clock()
        host = writer.get_extra_info("peername")
        own = writer.get_extra_info("sockname")
        self.address = Endpoint(_plain_ip(host[0]), host[1])
        self.own_address = Endpoint(_plain_ip(own[0]), own[1])
        self.origin = self.address.ip
        self.prove_timeout_s = 0
        """Seconds to the valid proof, if not the usual ones."""

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
        """Queue a record, sealed where its type wants it; a peer that does not read is cut off."""
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._writer.transport.abort()
            return
        seal = b""
        if FRAMES[code].is_sealed:
            if self._sealers is None:
                raise AssertionError(f"{code.name}: got no keys, want them before a sealed record")
            dials = self.role is ChannelRole.DIALLER
            sealer = self._sealers.dialler if dials else self._sealers.answerer
            seal = sealer.seal(code, record)
        frame = format_frame(code, record, seal)
        self.bytes_sent += len(frame)
        self._writer.write(frame)

    def send_receipt(self, signed: Signed[Receipt]) -> None:
        """Queue a receipt, in as few bytes as what was sent before allows."""
        self.send(*self.bases_out.format(signed))

    def claim_connections(self, connections: Iterable[ConnectionPorts]) -> None:
        """Tell the peer of BitTorrent connections to it that it has not been told of yet."""
        fresh = [ports for ports in connections if ports not in self._claimed]
        for at in range(0, len(fresh), CONNECTIONS_MAX):
            self.send(RecordCode.CONNECTIONS, format_connections(fresh[at : at + CONNECTIONS_MAX]))
        _remember(self._claimed, fresh)

    def close(self) -> None:
        """Close after what is queued has left; the owner's `on_closed` follows."""
        self._writer.close()

    async def run(self, owner: ChannelOwner, others: "ChannelTable[Channel]") -> None:
        """Exchange hello and proof, then hand records to the owner until the stream ends."""
        refusal, detail = Refusal.CLOSED, ""
        try:
            own_hello = self._say_hello()
            try:
                async with asyncio.timeout(self.prove_timeout_s or PROVE_TIMEOUT_S):
                    await self._authenticate(own_hello)
            except TimeoutError:
                raise ChannelRefusedError(Refusal.TOO_SLOW) from None
            others.admit(self)
            self.is_proved = True
            owner.on_open(self)
            while True:
                self._take(owner, *await self._read())
        except EvidenceError as error:
            refusal, detail = Refusal.MALFORMED, str(error)
        except ChannelRefusedError as error:
            refusal, detail = error.refusal, str(error)
        except (OSError, EOFError) as error:
            detail = type(error).__name__
        finally:
            self.is_proved = False
            others.forget(self)
            if refusal in {Refusal.CLOSED, Refusal.REPLACED}:
                self._writer.close()
            else:
                # Whoever broke a rule is not waited for.
                self._writer.transport.abort()
            owner.on_closed(self, refusal, detail)

    async def _read(self) -> tuple[RecordCode, bytes]:
        """Read one frame."""
        try:
            code, record, seal, size = await self._frames.read(FRAME_TIMEOUT_S)
        except SlowFrameError as error:
            raise ChannelRefusedError(Refusal.TOO_SLOW, str(error)) from None
        self.bytes_received += size
        if FRAMES[code].is_sealed:
            if self._sealers is None:
                raise ChannelRefusedError(Refusal.OUT_OF_TURN, f"{code.name} before hello")
            answers = self.role is ChannelRole.ANSWERER
            sealer = self._sealers.dialler if answers else self._sealers.answerer
            if not sealer.opens(code, record, seal):
                raise ChannelRefusedError(Refusal.BAD_SEAL, code.name)
        return code, record

    def _take(self, owner: ChannelOwner, code: RecordCode, raw: bytes) -> None:
        self._count_frame()
        if code in {RecordCode.HELLO, RecordCode.PROOF_OF_KEY}:
            raise ChannelRefusedError(Refusal.OUT_OF_TURN, f"second {code.name}")
        if code is RecordCode.CONNECTIONS:
            # What is the sender's own end is the far end here.
            claims = [ConnectionPorts(peer, own) for own, peer in parse_connections(raw)]
            _remember(self.claims, claims)
            owner.on_claimed(self)
        elif code is RecordCode.RECEIPT_STEP:
            owner.on_record(self, RecordCode.RECEIPT, self.bases_in.rebuild(raw))
        else:
            if code is RecordCode.RECEIPT:
                self.bases_in.note(RECEIPT.parse(raw).value)
            owner.on_record(self, code, raw)

    def _say_hello(self) -> Signed[Hello]:
        identity = self._identity
        hello = Hello(
            network_id=identity.network_id,
            key=identity.session_key,
            exchange_key=exchange_key_of(self._exchange_secret),
            peer_id=identity.peer_id,
            session_id=identity.session_id,
            broadcaster_account=identity.broadcaster_account,
            listen_address=pack_address(self._listen_endpoint().ip),
            listen_port=identity.listen.port,
            role=self.role,
        )
        signed = HELLO.sign(hello)
        self.send(RecordCode.HELLO, signed.raw)
        return signed

    def _listen_endpoint(self) -> Endpoint:
        # Bound to every address, we listen on the one that this channel uses.
        listen = self._identity.listen
        return Endpoint(self.own_address.ip, listen.port) if listen.ip in EVERYWHERE else listen

    async def _authenticate(self, own_hello: Signed[Hello]) -> None:
        code, raw = await self._read()
        if code is not RecordCode.HELLO:
            raise ChannelRefusedError(Refusal.OUT_OF_TURN, f"{code.name} before hello")
        peer_hello = HELLO.parse(raw)
        self.peer = self._check_hello(peer_hello.value)
        self._sealers = self._derive_sealers(own_hello, peer_hello)
        proof = self._make_proof(own_hello, peer_hello)
        self.send(RecordCode.PROOF_OF_KEY, proof.raw)
        code, raw = await self._read()
        if code is not RecordCode.PROOF_OF_KEY:
            raise ChannelRefusedError(Refusal.OUT_OF_TURN, f"{code.name} before proof")
        self._check_proof(PROOF_OF_KEY.parse(raw), own_hello, peer_hello)

    def _derive_sealers(
        self, own_hello: Signed[Hello], peer_hello: Signed[Hello]
    ) -> ChannelSealers:
        secret = agree_secret(self._exchange_secret, peer_hello.value.exchange_key)
        if secret is None:
            raise ChannelRefusedError(Refusal.WEAK_KEY)
        if self.role is ChannelRole.DIALLER:
            return derive_sealers(secret, own_hello.raw, peer_hello.raw)
        return derive_sealers(secret, peer_hello.raw, own_hello.raw)

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

    def _make_proof(
        self, own_hello: Signed[Hello], peer_hello: Signed[Hello]
    ) -> Signed[ProofOfKey]:
        proof = ProofOfKey(
            network_id=self._identity.network_id,
            own_hello=own_hello.digest,
            peer_hello=peer_hello.digest,
            own_address=pack_address(self.own_address.ip),
            peer_address=pack_address(self.address.ip),
        )
        return PROOF_OF_KEY.sign(proof, self._identity.session_seed)

    def _check_proof(
        self,
        signed: Signed[ProofOfKey],
        own_hello: Signed[Hello],
        peer_hello: Signed[Hello],
    ) -> None:
        proof = signed.value
        stated = (proof.network_id, proof.own_hello, proof.peer_hello)
        wanted = (self._identity.network_id, peer_hello.digest, own_hello.digest)
        if stated != wanted or not PROOF_OF_KEY.is_signed_by(signed, peer_hello.value.key):
            raise ChannelRefusedError(Refusal.BAD_PROOF)
        # Somebody who only passes the bytes on stands at another address than either side signs.
        # Behind a translator that is so too, but then the signed address is a private one.
        own, peer = unpack_address(proof.own_address), unpack_address(proof.peer_address)
        self.is_translated = own != self.address.ip
        if self.is_translated and not _is_translatable(own):
            raise ChannelRefusedError(Refusal.FOREIGN_ADDRESS, own)
        self.is_own_translated = peer != self.own_address.ip
        if self.is_own_translated and not _is_translatable(self.own_address.ip):
            raise ChannelRefusedError(Refusal.FOREIGN_ADDRESS, peer)

    def _count_frame(self) -> None:
        now = self._clock()
        gained = (now - self._counted_at) * FRAMES_PER_SECOND
        self._counted_at = now
        self._allowance = min(FRAMES_BURST, self._allowance + gained) - 1
        if self._allowance < 0:
            raise ChannelRefusedError(Refusal.TOO_FAST)


class SideChannel:
    """Listens and dials; owns the tasks of all channels."""

    def __init__(self, owner: ChannelOwner, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Bind; nothing listens yet.

        Args:
            owner: Who hears of channels.
            clock: Monotonic seconds; what frames are counted by.
        """
        self.table: ChannelTable[Channel] = ChannelTable()
        self._owner = owner
        self._clock = clock
        self._identity: ChannelIdentity | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, ip: str, port: int = 0) -> int:
        """Start to listen and return the port; connections are refused until `start`.

        Raises:
            OSError: The address cannot be bound.
        """
        self._server = await asyncio.start_server(self._answer, ip, port, limit=READ_AHEAD_BYTES)
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
        source = None if identity.listen.ip in EVERYWHERE else (identity.listen.ip, 0)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(
                    address.ip, address.port, local_addr=source, limit=READ_AHEAD_BYTES
                )
        except OSError:
            return False
        self.begin(reader, writer, ChannelRole.DIALLER, expected_key)
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
        self.begin(reader, writer, ChannelRole.ANSWERER, None)

    def begin(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        role: ChannelRole,
        expected_key: bytes | None,
        origin: str | None = None,
        prove_timeout_s: int = 0,
    ) -> None:
        """Run a channel over a stream in the background; the owner hears how it goes.

        Args:
            reader: What the peer says.
            writer: What we say.
            role: Whether we opened the stream.
            expected_key: Whose it has to be; None: anybody's.
            origin: Under what the channel is counted, if not under the stream's far address.
            prove_timeout_s: Seconds to the valid proof; 0: the usual ones.
        """
        # Whoever has left already has no address any more.
        if self._identity is None or writer.get_extra_info("peername") is None:
            writer.transport.abort()
            return
        channel = Channel(self._identity, reader, writer, role, expected_key, self._clock)
        channel.origin = origin or channel.origin
        channel.prove_timeout_s = prove_timeout_s
        try:
            self.table.add(channel)
        except ChannelRefusedError as error:
            writer.transport.abort()
            self._owner.on_closed(channel, error.refusal, str(error))
            return
        task = asyncio.create_task(channel.run(self._owner, self.table))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _remember(claims: dict[ConnectionPorts, None], fresh: Iterable[ConnectionPorts]) -> None:
    claims.update(dict.fromkeys(fresh))
    while len(claims) > CLAIMS_MAX:
        del claims[next(iter(claims))]


def _plain_ip(ip: str) -> str:
    return unpack_address(pack_address(ip))


def _is_translatable(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    return any(address in block for block in _TRANSLATABLE)
