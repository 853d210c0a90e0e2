"""What two plugins tell each other about a live stream on the side channel.

Entries of the index travel as they are signed (`ledger.evidence.segment`), each followed by the
hashes of its pieces; addresses of others who follow the stream travel as one record of fixed size.
Both are hints: an entry counts by its signature, an address by whoever answers there. Not here:
the channel itself, and when to say what.

Source: FORMATS.md, "Live stream".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine_plugin.wire import Endpoint, pack_address, unpack_address
from ledger.evidence.encoding import Reader, RecordCode, RecordType, Signed
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.segment import SEGMENT, Segment, info_of

PEERS_MAX = 16
"""Most addresses in one record."""

_SLOT_BYTES = 18

ENTRY_BYTES_MAX = 60 * 1024
"""Longest entry that is passed on: it has to fit a frame of the side channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Addresses of some who follow a stream."""

    network_id: bytes
    """32 bytes."""

    stream_id: bytes
    """Whose followers; 32 bytes."""

    count: int
    """Addresses that follow, at most 16."""

    endpoints: bytes
    """16 slots of 18 bytes: IPv6 or mapped IPv4 address, port u16; unused slots are zeros."""

    def __post_init__(self) -> None:
        if self.count > PEERS_MAX:
            raise MalformedRecordError("peers.count", got=self.count, want=f"at most {PEERS_MAX}")
        if self.endpoints[self.count * _SLOT_BYTES :].strip(b"\0"):
            raise MalformedRecordError(
                "peers.endpoints", got="bytes after the last address", want="zeros"
            )

    def list_endpoints(self) -> list[Endpoint]:
        """Return the addresses; those with port 0 are left out."""
        slots = [
            self.endpoints[at : at + _SLOT_BYTES]
            for at in range(0, self.count * _SLOT_BYTES, _SLOT_BYTES)
        ]
        found = [
            Endpoint(unpack_address(slot[:16]), int.from_bytes(slot[16:], "little"))
            for slot in slots
        ]
        return [endpoint for endpoint in found if endpoint.port]


PEERS = RecordType(
    Peers,
    RecordCode.PEERS,
    [
        ("stream_id", "bytes32"),
        ("count", "u8"),
        ("endpoints", f"bytes{PEERS_MAX * _SLOT_BYTES}"),
    ],
    signers=0,
)
"""Unsigned; 361 bytes."""


def make_peers(network_id: bytes, stream_id: bytes, endpoints: Sequence[Endpoint]) -> Peers:
    """Return a record of the first 16 addresses."""
    chosen = endpoints[:PEERS_MAX]
    packed = b"".join(
        pack_address(endpoint.ip) + endpoint.port.to_bytes(2, "little") for endpoint in chosen
    )
    return Peers(
        network_id=network_id,
        stream_id=stream_id,
        count=len(chosen),
        endpoints=packed.ljust(PEERS_MAX * _SLOT_BYTES, b"\0"),
    )


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A segment's entry with what its torrent needs beside it."""

    signed: Signed[Segment]
    hashes: bytes
    """Of its pieces, as `ledger.evidence.segment.hash_pieces` makes them."""

    @property
    def segment(self) -> Segment:
        """What the entry says."""
        return self.signed.value


def format_entry(entry: IndexEntry) -> bytes:
    """Return an entry as it travels: the signed record, then the hashes."""
    return entry.signed.raw + entry.hashes


def parse_entries(data: bytes, *, most: int) -> list[IndexEntry]:
    """Return the entries that bytes are made of; signatures are not verified yet.

    Args:
        data: Entries one after the other, as `format_entry` prints them.
        most: Largest number of entries to accept.

    Raises:
        MalformedRecordError: An entry is malformed, hashes are not the segment's, or too many.
    """
    reader = Reader("entries", data)
    entries: list[IndexEntry] = []
    left = len(data)
    while left:
        if len(entries) == most:
            raise MalformedRecordError("entries", got=f"over {most}", want=f"at most {most}")
        signed = SEGMENT.parse(reader.take(SEGMENT.size, "entry"))
        hashes = reader.take(signed.value.hashes_bytes, "hashes")
        info_of(signed.value, hashes)
        entries.append(IndexEntry(signed, hashes))
        left -= SEGMENT.size + len(hashes)
    return entries
