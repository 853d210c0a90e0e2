"""Segment: one entry of a live stream's index, signed by the index key and hash-chained.

An entry maps a torrent's info-hash to the stream, so whoever holds credits by info-hash can tell
which stream they belong to. The torrent is hybrid (BEP 3 and BEP 52) with one file; its info
dictionary is a function of the entry and the pieces' hashes, which travel behind the entry and
count by the info-hash, so there is no metadata exchange. Not here: the descriptor (`stream`),
files, time, or how entries travel.

Entries form a chain: number n names the digest of number n - 1. `SegmentChain` takes entries in any
order, from any sender, and keeps as evidence every pair that the index key should never have
signed.
"""

from dataclasses import dataclass
from enum import Enum
from hashlib import sha1, sha256
from typing import NamedTuple

from ledger.evidence.encoding import RecordCode, RecordType, Signed
from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.stream import PIECE_BYTES_MAX, PIECE_BYTES_MIN, Stream

FLAG_DISCONTINUITY = 1
"""Flag bit 0: media time or coding starts anew with this segment."""

SEGMENT_BYTES_MAX = 64 << 20
"""Largest segment."""

BLOCK_BYTES = 16_384
"""Leaf of BEP 52's Merkle tree."""

_HASHES_BYTES = 20 + 32

EVIDENCE_MAX = 64
"""Contradictions that a chain keeps; more prove nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of a live stream."""

    network_id: bytes
    """32 bytes."""

    flags: int = 0
    """`FLAG_DISCONTINUITY` or 0."""

    stream_id: bytes
    """The stream's; 32 bytes."""

    number: int
    """From 0, without gaps."""

    info_hash: bytes
    """v2 info-hash of the segment's torrent; 32 bytes."""

    piece_bytes: int
    """Piece size of the torrent; a power of two, 16 KiB to 16 MiB."""

    size_bytes: int
    """Length of the file, 1 to 64 MiB."""

    media_start_ms: int
    """Media time at which it begins, from the stream's start."""

    media_ms: int
    """Media time it lasts."""

    cut_at_ms: int
    """Milliseconds since the Unix epoch at which its last byte was there."""

    path: str
    """Where a CDN has it: a reference that every CDN URL of the stream resolves; "" if nowhere."""

    previous_digest: bytes
    """Digest of the entry before; zeros for number 0; 32 bytes."""

    def __post_init__(self) -> None:
        pieces = self.piece_bytes
        if not PIECE_BYTES_MIN <= pieces <= PIECE_BYTES_MAX or pieces & (pieces - 1):
            raise MalformedRecordError(
                "segment.piece_bytes", got=pieces, want="a power of two from 16 KiB to 16 MiB"
            )
        if not 1 <= self.size_bytes <= SEGMENT_BYTES_MAX:
            raise MalformedRecordError(
                "segment.size_bytes", got=self.size_bytes, want=f"1..{SEGMENT_BYTES_MAX}"
            )
        if not self.path.isascii() or not self.path.isprintable() or " " in self.path:
            raise MalformedRecordError(
                "segment.path", got=self.path, want="a URL reference in ASCII"
            )
        if (self.number == 0) != (self.previous_digest == bytes(32)):
            raise MalformedRecordError(
                "segment.previous_digest",
                got=self.previous_digest.hex(),
                want="zeros for number 0, and for no other",
            )

    @property
    def is_discontinuous(self) -> bool:
        """Whether media time or coding starts anew with it."""
        return bool(self.flags & FLAG_DISCONTINUITY)

    @property
    def piece_count(self) -> int:
        """Pieces of the torrent, ≥ 1."""
        return -(-self.size_bytes // self.piece_bytes)

    @property
    def hashes_bytes(self) -> int:
        """Length of the pieces' hashes that travel behind the entry."""
        return _HASHES_BYTES * self.piece_count

    @property
    def file_name(self) -> str:
        """Name of the torrent and of its one file."""
        return segment_name(self.stream_id, self.number)


SEGMENT = RecordType(
    Segment,
    RecordCode.SEGMENT,
    [
        ("stream_id", "bytes32"),
        ("number", "u64"),
        ("info_hash", "bytes32"),
        ("piece_bytes", "u32"),
        ("size_bytes", "u32"),
        ("media_start_ms", "u64"),
        ("media_ms", "u32"),
        ("cut_at_ms", "u64"),
        ("path", "text200"),
        ("previous_digest", "bytes32"),
    ],
    flags=FLAG_DISCONTINUITY,
)
"""Signed by the index key of the stream's descriptor."""


def segment_name(stream_id: bytes, number: int) -> str:
    """Return the name of a segment's torrent and file."""
    return f"{stream_id.hex()[:32]}-{number}.ts"


def hash_pieces(data: bytes, piece_bytes: int) -> bytes:
    """Return the hashes of a file's pieces: all SHA-1 (BEP 3), then all SHA-256 roots (BEP 52).

    Args:
        data: The file, ≥ 1 byte.
        piece_bytes: A power of two from 16 KiB.
    """
    pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    sha1s = [sha1(piece, usedforsecurity=False).digest() for piece in pieces]
    width = piece_bytes // BLOCK_BYTES
    if len(pieces) == 1:  # the tree of a file within one piece is only as wide as its blocks
        width = _width(-(-len(data) // BLOCK_BYTES))
    roots = [
        _merkle_root(
            [
                sha256(piece[at : at + BLOCK_BYTES]).digest()
                for at in range(0, len(piece), BLOCK_BYTES)
            ],
            bytes(32),
            width,
        )
        for piece in pieces
    ]
    return b"".join(sha1s) + b"".join(roots)


def split_hashes(hashes: bytes, piece_bytes: int) -> tuple[bytes, bytes, bytes]:
    """Return (SHA-1 hashes, pieces root, piece layer) of what `hash_pieces` made.

    The layer is b"" for a single piece, whose hash is the root itself (BEP 52).
    """
    count = len(hashes) // _HASHES_BYTES
    layer = hashes[20 * count :]
    if count == 1:
        return hashes[:20], layer, b""
    filler = bytes(32)
    for _ in range((piece_bytes // BLOCK_BYTES).bit_length() - 1):
        filler = sha256(filler + filler).digest()
    level = [layer[at : at + 32] for at in range(0, len(layer), 32)]
    return hashes[: 20 * count], _merkle_root(level, filler, _width(count)), layer


def format_info(name: str, size_bytes: int, piece_bytes: int, hashes: bytes) -> bytes:
    """Return the bencoded info dictionary of a hybrid torrent with one file.

    Args:
        name: Name of the torrent and of its file, ASCII.
        size_bytes: Length of the file, ≥ 1.
        piece_bytes: A power of two from 16 KiB.
        hashes: As `hash_pieces` returns them.
    """
    sha1s, root, _ = split_hashes(hashes, piece_bytes)
    encoded = b"%d:%s" % (len(name), name.encode())
    file = b"d0:d6:lengthi%de11:pieces root32:%see" % (size_bytes, root)
    return b"".join(
        (
            b"d9:file treed%s%se6:lengthi%de" % (encoded, file, size_bytes),
            b"12:meta versioni2e4:name%s" % encoded,
            b"12:piece lengthi%de6:pieces%d:%se" % (piece_bytes, len(sha1s), sha1s),
        )
    )


def info_of(segment: Segment, hashes: bytes) -> bytes:
    """Return the info dictionary of an entry's torrent.

    Raises:
        MalformedRecordError: The hashes are not those of the entry's info-hash.
    """
    if len(hashes) == segment.hashes_bytes:
        info = format_info(segment.file_name, segment.size_bytes, segment.piece_bytes, hashes)
        if sha256(info).digest() == segment.info_hash:
            return info
    raise MalformedRecordError(
        "segment.hashes", got=f"{len(hashes)} bytes", want="the hashes under its info-hash"
    )


def _width(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _merkle_root(level: list[bytes], filler: bytes, width: int) -> bytes:
    level = level + [filler] * (width - len(level))
    while len(level) > 1:
        level = [
            sha256(left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0]


class Link(Enum):
    """What an entry was to the chain that took it."""

    NEW = "new"
    """It fits, and was not there."""

    KNOWN = "known"
    """The same statement was there."""

    FORKED = "forked"
    """It contradicts what was there: kept as evidence."""

    TOO_OLD = "too_old"
    """Before the window; not compared with anything."""


class Fork(NamedTuple):
    """Two entries that the index key should not both have signed."""

    first: Signed[Segment]
    second: Signed[Segment]


class SegmentChain:
    """A window of one stream's entries, linked, from wherever they came.

    A forked entry never stops the stream: the first statement about a number stands, and an entry
    whose link does not fit is taken all the same, beside the evidence. What follows from a fork
    is for people and auditors to decide.
    """

    def __init__(self, stream: Stream, *, window: int = 4096) -> None:
        """Begin an empty chain.

        Args:
            stream: The verified descriptor.
            window: Entries kept, ≥ 2.
        """
        self.stream = stream
        self.forks: list[Fork] = []
        self._window = window
        self._entries: dict[int, Signed[Segment]] = {}

    @property
    def newest(self) -> int:
        """The highest number; -1 while empty."""
        return max(self._entries, default=-1)

    @property
    def oldest(self) -> int:
        """The lowest number that is kept; -1 while empty."""
        return min(self._entries, default=-1)

    def get(self, number: int) -> Signed[Segment] | None:
        """Return an entry, if it is there."""
        return self._entries.get(number)

    def gaps(self) -> list[int]:
        """Return the numbers between oldest and newest that are missing."""
        return [n for n in range(self.oldest, self.newest) if n not in self._entries]

    def take(self, signed: Signed[Segment]) -> Link:
        """Take one entry.

        Raises:
            BadSignatureError: Not signed by the stream's index key.
            MalformedRecordError: Of another network or stream.
        """
        entry = signed.value
        if (entry.network_id, entry.stream_id) != (self.stream.network_id, self.stream.stream_id):
            raise MalformedRecordError(
                "segment.stream_id", got=entry.stream_id.hex(), want=self.stream.stream_id.hex()
            )
        known = self._entries.get(entry.number)
        if known is not None and known.digest == signed.digest:
            return Link.KNOWN
        if not SEGMENT.is_signed_by(signed, self.stream.index_key):
            raise BadSignatureError("segment: signature not valid under the stream's index key")
        if known is not None:
            self._keep(Fork(known, signed))
            return Link.FORKED
        if entry.number <= self.newest - self._window:
            return Link.TOO_OLD
        self._entries[entry.number] = signed
        fits = self._check_links(signed)
        while len(self._entries) > self._window:
            del self._entries[self.oldest]
        return Link.NEW if fits else Link.FORKED

    def _check_links(self, signed: Signed[Segment]) -> bool:
        before = self._entries.get(signed.value.number - 1)
        after = self._entries.get(signed.value.number + 1)
        fits = True
        if before is not None and signed.value.previous_digest != before.digest:
            self._keep(Fork(before, signed))
            fits = False
        if after is not None and after.value.previous_digest != signed.digest:
            self._keep(Fork(signed, after))
            fits = False
        return fits

    def _keep(self, fork: Fork) -> None:
        if len(self.forks) < EVIDENCE_MAX:
            self.forks.append(fork)
