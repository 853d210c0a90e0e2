"""What leaves a session: notices, read pieces, snapshots and counters. Plain data."""

from dataclasses import dataclass, field
from enum import StrEnum

ALL_TORRENTS = -1
UNKNOWN_TORRENT = -2
"""Of a torrent that was removed before its last alerts were drained."""
NO_PEER = -1


class NoticeKind(StrEnum):
    """What a notice is about."""

    LISTENING = "listening"
    LISTEN_FAILED = "listen_failed"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    BANNED = "banned"
    CHECKED = "checked"
    FINISHED = "finished"
    WEB_SEED_FAILED = "web_seed_failed"
    FILE_FAILED = "file_failed"
    TORRENT_FAILED = "torrent_failed"
    HASH_FAILED = "hash_failed"
    ALERTS_DROPPED = "alerts_dropped"
    PORT_MAPPED = "port_mapped"
    PORT_MAPPING_FAILED = "port_mapping_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that happened apart from blocks and pieces."""

    kind: NoticeKind
    torrent: int = ALL_TORRENTS
    """Number of the torrent; -1: none in particular, -2: one that was removed."""
    peer: int = NO_PEER
    """Number of the peer, or -1."""
    text: str = ""
    """For people: the error, URL or address."""
    url: str = ""
    """Of a web seed that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceRead:
    """The answer to `EngineSession.read_piece`."""

    torrent: int
    piece: int
    data: bytes = field(repr=False)
    """The piece, padding included; b"" on failure."""
    error: str = ""
    """Why it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What the alert queue held, in queue order."""

    events: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """`meter.Event` tuples of all torrents."""
    notices: list[Notice] = field(default_factory=list)
    reads: list[PieceRead] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSnapshot:
    """One connection of one torrent at the moment of asking."""

    torrent: int
    peer: int
    """Number of the (peer-id, endpoint) pair."""
    peer_id: bytes
    """20 bytes; random for a web seed."""
    endpoint: str
    """"IP:port" or "[IP]:port"."""
    local_endpoint: str
    """Our end; "" if unknown."""
    client: str
    """The peer's client text (BEP 10), or a web seed's Server header; undecodable replaced."""
    is_web_seed: bool
    is_outgoing: bool
    """Whether we dialled."""
    handshake_done: bool
    downloaded_bytes: int
    """Payload from this peer, duplicates included; for people only."""
    uploaded_bytes: int
    """Payload to this peer; for people only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCounters:
    """libtorrent's own counters of this session, wire payload bytes."""

    recv_payload_bytes: int
    redundant_bytes: int
    failed_bytes: int
