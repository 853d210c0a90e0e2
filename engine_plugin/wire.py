"""What two plugins say to each other on the side channel: records and frames.

A frame is one byte that names the record (`RecordCode`), its length where records of the type
differ in length, the record, and a seal where its sender does not sign it (`channel_keys`).

Hello is unsigned: it only says what the proof will sign. A proof signs both hellos whole, so both
keys, peer-ids, listening ends, roles and exchange keys, and can be neither replayed nor relayed
between two channels. A lane's first receipt travels as it is signed and stored; later ones as a
step from which the receiver rebuilds the signed bytes (`receipt_steps`).

Not here: sockets and time limits (`side_channel`), whether a receipt is good (`payee`).
Source: FORMATS.md, "Side channel".
"""

import asyncio
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from engine_plugin.errors import EngineError
from ledger.evidence.binding import BINDING
from ledger.evidence.encoding import Layout, RecordCode, RecordType
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.receipt import RECEIPT

FRAME_SIZE_MAX = 0xFFFF
"""Longest record in bytes."""

BLOCK_SIZE = 16 << 10
"""Unit of the unacknowledged bytes that an acknowledgement tells."""


class ChannelRole(IntEnum):
    """Which end of the channel a hello comes from; a reflected one never fits."""

    DIALLER = 1
    ANSWERER = 2


class ReceiptVerdict(IntEnum):
    """What a payee answers to a receipt; numbers are stable and never given twice."""

    ACCEPTED = 0
    BAD_SIGNATURE = 1
    WRONG_NETWORK = 2
    FOREIGN_PAYEE = 3
    UNKNOWN_ENTITLEMENT = 4
    FOREIGN_ISSUER = 5
    FOREIGN_SESSION = 6
    FOREIGN_CONTENT = 7
    ENTITLEMENT_NOT_VALID_NOW = 8
    STALE = 9
    EQUIVOCATION = 10
    MORE_THAN_SENT = 11
    WRONG_EPOCH = 12
    NOT_STORED = 13
    OVER_MAX_BYTES = 14
    """More than the entitlement's cap of bytes."""
    OVER_MAX_RATE = 15
    """More than its cap of the rate allows until now; time alone mends it."""
    OVER_MAX_MEDIA = 16
    """More media time than its cap."""
    ISSUING_KEY_REVOKED = 17
    """The broadcaster's account took the issuing key back before this epoch."""


class Endpoint(NamedTuple):
    """An IP address, as text without brackets, and a port."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def pack_address(ip: str) -> bytes:
    """Return 16 bytes: IPv6, or IPv4 mapped into it.

    Raises:
        ValueError: Not an IP address.
    """
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed


def unpack_address(packed: bytes) -> str:
    """Return the address as text; a mapped IPv4 address comes back as IPv4."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first record of either side. Claims only; the proof makes them count."""

    network_id: bytes
    """32 bytes."""

    key: bytes
    """Session key, 32 bytes."""

    exchange_key: bytes
    """X25519 key made for this channel only; 32 bytes."""

    peer_id: bytes
    """The sender's BitTorrent peer-id; 20 bytes."""

    session_id: bytes
    """What the peer-id commits to beside the key; 16 bytes."""

    broadcaster_account: bytes
    """Whose content is traded; zeros in a swarm without broadcaster; 32 bytes."""

    listen_address: bytes
    """Where the sender accepts BitTorrent connections (`pack_address`); 16 bytes."""

    listen_port: int
    """Port beside it."""

    role: int
    """A `ChannelRole`."""

    def __post_init__(self) -> None:
        if self.role not in set(ChannelRole):
            raise MalformedRecordError("hello.role", got=self.role, want="1 or 2")

    @property
    def listen_endpoint(self) -> Endpoint:
        """Where the sender says it accepts BitTorrent connections."""
        return Endpoint(unpack_address(self.listen_address), self.listen_port)


HELLO = RecordType(
    Hello,
    RecordCode.HELLO,
    [
        ("key", "bytes32"),
        ("exchange_key", "bytes32"),
        ("peer_id", "bytes20"),
        ("session_id", "bytes16"),
        ("broadcaster_account", "bytes32"),
        ("listen_address", "bytes16"),
        ("listen_port", "u16"),
        ("role", "u8"),
    ],
    signers=0,
)
"""Unsigned; 191 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofOfKey:
    """A session key's signature over both hellos and the addresses of the channel."""

    network_id: bytes
    """32 bytes."""

    own_hello: bytes
    """Digest of the signer's hello; 32 bytes."""

    peer_hello: bytes
    """Digest of the verifier's hello; 32 bytes."""

    own_address: bytes
    """The signer's address, as its own machine names it (`pack_address`); 16 bytes."""

    peer_address: bytes
    """The verifier's address, as the signer sees it; 16 bytes."""


PROOF_OF_KEY = RecordType(
    ProofOfKey,
    RecordCode.PROOF_OF_KEY,
    [
        ("own_hello", "bytes32"),
        ("peer_hello", "bytes32"),
        ("own_address", "bytes16"),
        ("peer_address", "bytes16"),
    ],
)
"""Signed by the session key of the signer's hello; 200 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptStep:
    """A receipt as the difference to the full one that the same channel carried before."""

    base: int
    """Which full receipt of this direction it builds on, counted from 0."""

    epoch_step: int
    """Its epoch less the full receipt's."""

    sequence: int
    """As in the receipt, and so on."""

    bytes_total: int
    """Payload bytes of the lane, cumulative within the epoch."""

    media_ms_total: int
    """Media milliseconds played in the session, cumulative."""

    credit_root: bytes
    """Root over the lane's credits; 32 bytes."""

    signature: bytes
    """The session key's, over the body of the whole receipt; 64 bytes."""


RECEIPT_STEP = Layout(
    "receipt_step",
    [
        ("base", "u8"),
        ("epoch_step", "u16"),
        ("sequence", "u32"),
        ("bytes_total", "u64"),
        ("media_ms_total", "u32"),
        ("credit_root", "bytes32"),
        ("signature", "bytes64"),
    ],
)
"""115 bytes; what does not fit goes as a full receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcknowledgementStep:
    """A payee's answer to one receipt of this channel."""

    receipt: bytes
    """First 8 bytes of the digest of the receipt it answers."""

    verdict: int
    """A `ReceiptVerdict`; 0: stored, and the receipts before it need not be kept."""

    unacknowledged_blocks: int
    """What the payee has sent and holds no receipt for, in units of 16 KiB; at most 65,535."""


ACKNOWLEDGEMENT_STEP = Layout(
    "acknowledgement_step",
    [("receipt", "bytes8"), ("verdict", "u8"), ("unacknowledged_blocks", "u16")],
)
"""11 bytes, sealed."""

RECEIPT_NAME_SIZE = 8
"""Bytes of a receipt's digest that name it in an acknowledgement."""

_UNACKNOWLEDGED_BLOCKS_MAX = 0xFFFF


def format_acknowledgement(receipt_digest: bytes, verdict: int, unacknowledged_bytes: int) -> bytes:
    """Return the record that answers a receipt."""
    blocks = min(max(unacknowledged_bytes, 0) // BLOCK_SIZE, _UNACKNOWLEDGED_BLOCKS_MAX)
    return ACKNOWLEDGEMENT_STEP.pack(
        AcknowledgementStep(
            receipt=receipt_digest[:RECEIPT_NAME_SIZE],
            verdict=verdict,
            unacknowledged_blocks=blocks,
        )
    )


class ConnectionPorts(NamedTuple):
    """A BitTorrent connection of the channel's two addresses that the sender dialled."""

    own: int
    """The sender's port."""

    peer: int
    """The other side's port."""


CONNECTIONS_MAX = 256
"""Most connections in one record."""

_PORTS_SIZE = 4


def format_connections(connections: Iterable[ConnectionPorts]) -> bytes:
    """Return the record that claims connections: two ports each, u16."""
    return b"".join(
        own.to_bytes(2, "little") + peer.to_bytes(2, "little") for own, peer in connections
    )


def parse_connections(record: bytes) -> list[ConnectionPorts]:
    """Return the connections that a record claims.

    Raises:
        MalformedRecordError: No whole connections, none, or one with port 0.
    """
    if not record or len(record) % _PORTS_SIZE:
        raise MalformedRecordError(
            "connections", got=f"{len(record)} bytes", want="4 bytes per connection"
        )
    claims = [
        ConnectionPorts(
            int.from_bytes(record[at : at + 2], "little"),
            int.from_bytes(record[at + 2 : at + _PORTS_SIZE], "little"),
        )
        for at in range(0, len(record), _PORTS_SIZE)
    ]
    if not all(own and peer for own, peer in claims):
        raise MalformedRecordError("connections.port", got=0, want="1..65535")
    return claims


class FrameKind(NamedTuple):
    """How records of one type travel."""

    least: int
    """Shortest record in bytes."""

    most: int
    """Longest; where it differs from the shortest, the length stands in the frame."""

    is_sealed: bool = False
    """Whether a seal follows: the sender does not sign such records."""


FRAMES: dict[RecordCode, FrameKind] = {
    RecordCode.HELLO: FrameKind(HELLO.size, HELLO.size),
    RecordCode.PROOF_OF_KEY: FrameKind(PROOF_OF_KEY.size, PROOF_OF_KEY.size),
    RecordCode.BINDING: FrameKind(BINDING.size, BINDING.size),
    RecordCode.ENTITLEMENT: FrameKind(ENTITLEMENT.size, ENTITLEMENT.size),
    RecordCode.RECEIPT: FrameKind(RECEIPT.size, RECEIPT.size),
    RecordCode.RECEIPT_STEP: FrameKind(RECEIPT_STEP.size, RECEIPT_STEP.size),
    RecordCode.ACKNOWLEDGEMENT_STEP: FrameKind(
        ACKNOWLEDGEMENT_STEP.size, ACKNOWLEDGEMENT_STEP.size, is_sealed=True
    ),
    RecordCode.CONNECTIONS: FrameKind(_PORTS_SIZE, _PORTS_SIZE * CONNECTIONS_MAX, is_sealed=True),
    # A segment's entry is signed by the stream's index key, and its piece layer hashes under it.
    RecordCode.SEGMENT: FrameKind(64, FRAME_SIZE_MAX),
    RecordCode.PEERS: FrameKind(1, 1024, is_sealed=True),
}
"""The records of the side channel; all others are refused."""


_READ_BYTES = 8 << 10


def format_frame(code: RecordCode, record: bytes, seal: bytes = b"") -> bytes:
    """Return one frame.

    Raises:
        ValueError: The record is no record of the side channel, or its length is out of range.
    """
    kind = FRAMES.get(code)
    if kind is None or not kind.least <= len(record) <= kind.most:
        raise ValueError(f"frame: got {len(record)} bytes of {code.name}, want {kind}")
    length = b"" if kind.least == kind.most else len(record).to_bytes(2, "little")
    return code.to_bytes(1, "little") + length + record + seal


class Frame(NamedTuple):
    """One frame that came in."""

    code: RecordCode
    record: bytes
    seal: bytes
    size: int
    """Bytes of the whole frame."""


class SlowFrameError(EngineError):
    """A frame that began did not become whole in time."""


class FrameReader:
    """Cuts a stream into frames; what came at once is read at once.

    Nobody makes us wait for, or hold, more than a frame of its kind and one read of the stream.
    """

    def __init__(self, reader: asyncio.StreamReader, seal_size: int) -> None:
        """Bind it to a stream that nobody else reads.

        Args:
            reader: The stream.
            seal_size: Bytes of a seal, where a kind has one.
        """
        self._reader = reader
        self._seal_size = seal_size
        self._buffer = bytearray()

    async def read(self, timeout_s: float) -> Frame:
        """Read the next frame; between frames a peer may be silent, within one it may not.

        Args:
            timeout_s: Longest time from a frame's first byte to its last.

        Raises:
            MalformedRecordError: It names no record of the side channel, or its length is out of
                range.
            SlowFrameError: It did not become whole in time.
            asyncio.IncompleteReadError: The peer closed the stream.
        """
        if not self._buffer:
            await self._fill()
        frame = self._take()
        if frame is None:
            try:
                async with asyncio.timeout(timeout_s):
                    while frame is None:
                        await self._fill()
                        frame = self._take()
            except TimeoutError:
                raise SlowFrameError(f"frame: not whole after {timeout_s} s") from None
        return frame

    async def _fill(self) -> None:
        data = await self._reader.read(_READ_BYTES)
        if not data:
            raise asyncio.IncompleteReadError(bytes(self._buffer), None)
        self._buffer += data

    def _take(self) -> Frame | None:
        """Take the first frame off the buffer; None: it is not whole yet."""
        buffer = self._buffer
        if buffer[0] not in FRAMES:
            raise MalformedRecordError(
                "frame.code", got=buffer[0], want="a record of the side channel"
            )
        code = RecordCode(buffer[0])
        kind = FRAMES[code]
        length, begin = kind.most, 1
        if kind.least != kind.most:
            begin = 3
            if len(buffer) < begin:
                return None
            length = int.from_bytes(buffer[1:begin], "little")
        if not kind.least <= length <= kind.most:
            raise MalformedRecordError(
                "frame.length", got=length, want=f"{kind.least}..{kind.most} for {code.name}"
            )
        middle = begin + length
        end = middle + self._seal_size if kind.is_sealed else middle
        if len(buffer) < end:
            return None
        frame = Frame(code, bytes(buffer[begin:middle]), bytes(buffer[middle:end]), end)
        del buffer[:end]
        return frame
