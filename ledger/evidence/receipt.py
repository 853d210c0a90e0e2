"""Receipt: a session key's signed, cumulative claim of bytes received from one payee.

A lane is (entitlement, payee key, epoch, nonce): what a receipt is cumulative along. On a lane the
sequence rises and totals never fall; the highest sequence counts and replaces the others, so loss,
repetition and reordering are harmless. Bytes are payload that passed the piece hash, padding
excluded. Not here: judging a lane's receipts as a set (`ledger.books.lane_judgement`).
"""

from dataclasses import dataclass
from hashlib import sha256

from ledger.evidence.encoding import RecordCode, RecordType
from ledger.evidence.errors import MalformedRecordError

FLAG_CDN = 1
"""The payee is a CDN named in the terms; otherwise a peer."""

LANE_DOMAIN = b"swarmledger lane v1\0"
"""Stands before a lane's key fields when they are hashed."""

_CREDIT_BYTES = 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one session key received from one payee in one epoch, so far."""

    network_id: bytes
    """32 bytes."""

    flags: int
    """`FLAG_CDN` or 0."""

    entitlement_digest: bytes
    """What the bytes were received under; 32 bytes."""

    payee_key: bytes
    """Session key of the serving peer, or the CDN's key; 32 bytes."""

    epoch: int
    """Epoch, by ledger clock, in which the bytes became creditable."""

    nonce: int
    """Tells lanes of the same three keys apart."""

    sequence: int
    """Rises with every receipt of the lane, from 1."""

    bytes_total: int
    """Payload bytes of this lane, cumulative within the epoch."""

    media_ms_total: int
    """Media milliseconds played in the session, cumulative; 0 when nothing plays."""

    credit_root: bytes
    """RFC 6962 root over the lane's credits (`format_credit`) in credit order; 32 bytes."""

    def __post_init__(self) -> None:
        if self.sequence < 1:
            raise MalformedRecordError("receipt.sequence", got=self.sequence, want="≥ 1")

    @property
    def is_cdn(self) -> bool:
        """Tell whether the payee is a CDN."""
        return bool(self.flags & FLAG_CDN)

    @property
    def lane_digest(self) -> bytes:
        """SHA-256 over domain and lane key; the lane's 32-byte name."""
        return lane_digest_of(self.entitlement_digest, self.payee_key, self.epoch, self.nonce)


def lane_digest_of(entitlement_digest: bytes, payee_key: bytes, epoch: int, nonce: int) -> bytes:
    """Return a lane's 32-byte name: SHA-256 over domain, entitlement, payee, epoch, nonce."""
    numbers = epoch.to_bytes(4, "little") + nonce.to_bytes(4, "little")
    return sha256(LANE_DOMAIN + entitlement_digest + payee_key + numbers).digest()


RECEIPT = RecordType(
    Receipt,
    RecordCode.RECEIPT,
    [
        ("entitlement_digest", "bytes32"),
        ("payee_key", "bytes32"),
        ("epoch", "u32"),
        ("nonce", "u32"),
        ("sequence", "u64"),
        ("bytes_total", "u64"),
        ("media_ms_total", "u64"),
        ("credit_root", "bytes32"),
    ],
    flags=FLAG_CDN,
)
"""Signed by the session key of the entitlement; 232 bytes."""


def format_credit(content_id: bytes, piece: int, block_offset: int, length_bytes: int) -> bytes:
    """Return the 44-byte leaf of one credited block.

    Args:
        content_id: Info-hash as in the entitlement, 32 bytes.
        piece: Piece index, from 0.
        block_offset: First byte of the block within its piece.
        length_bytes: Payload bytes credited, padding excluded, 1 to 16,384.
    """
    numbers = (piece, block_offset, length_bytes)
    leaf = content_id + b"".join(number.to_bytes(4, "little") for number in numbers)
    if len(leaf) != _CREDIT_BYTES:
        raise ValueError(f"content_id: got {len(content_id)} bytes, want 32")
    return leaf
