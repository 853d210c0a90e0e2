"""Heartbeat: a viewer's signed, hash-chained playback state.

Field words follow CMCD version 2 (sid, sn, ts, sta). A heartbeat proves that the key's holder said
so, not that a person watched. Not here: viewing time out of heartbeats.
"""

from dataclasses import dataclass

from ledger.evidence.encoding import RecordCode, RecordType
from ledger.evidence.errors import MalformedRecordError

FLAG_ESTIMATED = 1
"""Nothing was reported: playback is estimated from the pace at which the player read."""

STATES = "spkrawefqd"
"""CMCD v2 `sta`: starting, playing, seeking, rebuffering, paused, waiting, ended, fatal, quit,
preloading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One report of a playback session."""

    network_id: bytes
    """32 bytes."""

    entitlement_digest: bytes
    """32 bytes."""

    session_id: bytes
    """CMCD sid: 16 random bytes, one per playback."""

    sequence_number: int
    """CMCD sn: from 0, without gaps."""

    timestamp_ms: int
    """CMCD ts: ledger-aligned milliseconds since the Unix epoch."""

    state: str
    """CMCD sta, one letter of `STATES`: the state from this heartbeat on."""

    media_ms_total: int
    """Media played so far in the session, each stretch divided by its playback rate: never above
    the wall clock since the session began."""

    bytes_p2p_total: int
    """Payload received from peers so far in the session."""

    bytes_cdn_total: int
    """Payload received from CDNs so far in the session."""

    previous_digest: bytes
    """Digest of the heartbeat before; zeros for the first; 32 bytes."""

    flags: int = 0
    """`FLAG_ESTIMATED` or 0."""

    def __post_init__(self) -> None:
        if len(self.state) != 1 or self.state not in STATES:
            raise MalformedRecordError("heartbeat.state", got=self.state, want=f"one of {STATES}")


HEARTBEAT = RecordType(
    Heartbeat,
    RecordCode.HEARTBEAT,
    [
        ("entitlement_digest", "bytes32"),
        ("session_id", "bytes16"),
        ("sequence_number", "u32"),
        ("timestamp_ms", "u64"),
        ("state", "text1"),
        ("media_ms_total", "u64"),
        ("bytes_p2p_total", "u64"),
        ("bytes_cdn_total", "u64"),
        ("previous_digest", "bytes32"),
    ],
    flags=FLAG_ESTIMATED,
)
"""Signed by the session key of the entitlement."""
