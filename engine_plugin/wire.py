"""What two plugins say to each other on the side channel: records and frames.

A frame is a u32 little-endian length, one byte that names the record (`RecordCode`), and the record
itself as it is signed and stored; so a receipt is verified, hashed and spooled without a copy.
Hello is unsigned: it only says what the proof will sign. A proof names one BitTorrent connection
by both its ends and both nonces of the channel, so it can be neither replayed on another channel
nor used for a connection that its signer did not make. An acknowledgement answers one receipt.

Not here: sockets and time limits (`side_channel`), whether a receipt is good (`payee`).
Source: FORMATS.md, "Side channel".
"""

import asyncio
import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ledger.evidence.binding import BINDING
from ledger.evidence.encoding import RecordCode, RecordType
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.receipt import RECEIPT

FRAME_SIZE_MAX = 64 * 1024
"""Largest frame in bytes, head excluded."""

FRAME_HEAD = struct.Struct("<IB")
"""Length of the record (u32), record code (u8)."""

NONCE_SIZE = 32


class ChannelRole(IntEnum):
    """Which end of the channel a hello or a proof comes from; a reflected one never fits."""

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

    nonce: bytes
    """Fresh for this channel; 32 bytes."""

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
        ("nonce", "bytes32"),
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
    """A key's signature over both hellos and the two ends of one BitTorrent connection."""

    network_id: bytes
    """32 bytes."""

    peer_nonce: bytes
    """Nonce of the verifier's hello; 32 bytes."""

    own_nonce: bytes
    """Nonce of the signer's hello; 32 bytes."""

    own_key: bytes
    """Signer; 32 bytes."""

    peer_key: bytes
    """Verifier; 32 bytes."""

    own_peer_id: bytes
    """Signer's peer-id; 20 bytes."""

    peer_peer_id: bytes
    """Verifier's peer-id; 20 bytes."""

    broadcaster_account: bytes
    """As in both hellos; 32 bytes."""

    own_address: bytes
    """The signer's end of the connection (`pack_address`); 16 bytes."""

    peer_address: bytes
    """The verifier's end, as the signer sees it; 16 bytes."""

    own_port: int
    """Port of the signer's end."""

    peer_port: int
    """Port of the verifier's end; 0 when the signer knows no connection yet."""

    role: int
    """The signer's `ChannelRole`."""

    @property
    def own_endpoint(self) -> Endpoint:
        """The signer's end of the connection."""
        return Endpoint(unpack_address(self.own_address), self.own_port)


PROOF_OF_KEY = RecordType(
    ProofOfKey,
    RecordCode.PROOF_OF_KEY,
    [
        ("peer_nonce", "bytes32"),
        ("own_nonce", "bytes32"),
        ("own_key", "bytes32"),
        ("peer_key", "bytes32"),
        ("own_peer_id", "bytes20"),
        ("peer_peer_id", "bytes20"),
        ("broadcaster_account", "bytes32"),
        ("own_address", "bytes16"),
        ("peer_address", "bytes16"),
        ("own_port", "u16"),
        ("peer_port", "u16"),
        ("role", "u8"),
    ],
)
"""Signed by the session key whose hello it answers for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """A payee's answer to one receipt."""

    network_id: bytes
    """32 bytes."""

    receipt_digest: bytes
    """Digest of the receipt it answers; 32 bytes."""

    verdict: int
    """A `ReceiptVerdict`; 0: stored, and the receipts before it need not be kept."""


ACKNOWLEDGEMENT = RecordType(
    Acknowledgement,
    RecordCode.ACKNOWLEDGEMENT,
    [("receipt_digest", "bytes32"), ("verdict", "u16")],
)
"""Signed by the payee's session key; 138 bytes."""


def format_frame(code: RecordCode, record: bytes) -> bytes:
    """Return one frame.

    Raises:
        ValueError: The record is larger than a frame may be.
    """
    if len(record) > FRAME_SIZE_MAX:
        raise ValueError(f"frame: got {len(record)} bytes, want at most {FRAME_SIZE_MAX}")
    return FRAME_HEAD.pack(len(record), code) + record


async def read_frame(reader: asyncio.StreamReader) -> tuple[RecordCode, bytes]:
    """Read one frame.

    Raises:
        MalformedRecordError: The length or the record code is out of range.
        asyncio.IncompleteReadError: The peer closed the stream.
    """
    length, code = FRAME_HEAD.unpack(await reader.readexactly(FRAME_HEAD.size))
    if code not in _FRAME_SIZES:
        raise MalformedRecordError("frame.code", got=code, want="a record of the side channel")
    # Every record of the channel has one size, so nobody makes us wait for, or hold, more.
    if length != _FRAME_SIZES[code]:
        raise MalformedRecordError("frame.length", got=length, want=f"{_FRAME_SIZES[code]} bytes")
    return RecordCode(code), await reader.readexactly(length)


_FRAME_SIZES: dict[int, int] = {
    kind.code: kind.size
    for kind in (HELLO, PROOF_OF_KEY, ACKNOWLEDGEMENT, BINDING, ENTITLEMENT, RECEIPT)
}
