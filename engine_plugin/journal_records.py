"""The records and the schema of the meter journal. Plain data: no database access here."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

SCHEMA_VERSION = 2

SCHEMA = """
CREATE TABLE journal_run (
  id INTEGER PRIMARY KEY,
  session_id BLOB NOT NULL UNIQUE CHECK (length(session_id) = 16),
  session_key BLOB NOT NULL CHECK (length(session_key) = 32),
  started_at_ms INTEGER NOT NULL,
  recv_payload_bytes INTEGER NOT NULL DEFAULT 0,
  redundant_bytes INTEGER NOT NULL DEFAULT 0,
  recv_failed_bytes INTEGER NOT NULL DEFAULT 0,
  difference_bytes INTEGER,
  unexplained_bytes INTEGER NOT NULL DEFAULT 0 CHECK (unexplained_bytes >= 0)
) STRICT;
CREATE TABLE journal_torrent (
  id INTEGER PRIMARY KEY,
  content_id BLOB NOT NULL UNIQUE CHECK (length(content_id) = 32),
  name TEXT NOT NULL,
  content_bytes INTEGER NOT NULL CHECK (content_bytes >= 0),
  scope_id BLOB NOT NULL CHECK (length(scope_id) = 32)
) STRICT;
CREATE TABLE journal_torrent_run (
  run INTEGER NOT NULL REFERENCES journal_run,
  torrent INTEGER NOT NULL REFERENCES journal_torrent,
  passed_bytes INTEGER NOT NULL CHECK (passed_bytes >= 0),
  pending_bytes INTEGER NOT NULL CHECK (pending_bytes >= 0),
  ambiguous_bytes INTEGER NOT NULL CHECK (ambiguous_bytes >= 0),
  present_bytes INTEGER NOT NULL CHECK (present_bytes >= 0),
  is_estimated INTEGER NOT NULL CHECK (is_estimated IN (0, 1)),
  is_retired INTEGER NOT NULL DEFAULT 0 CHECK (is_retired IN (0, 1)),
  PRIMARY KEY (run, torrent)
) STRICT, WITHOUT ROWID;
CREATE TABLE journal_peer (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES journal_run,
  torrent INTEGER NOT NULL REFERENCES journal_torrent,
  peer_id BLOB NOT NULL CHECK (length(peer_id) = 20),
  endpoint TEXT NOT NULL,
  source TEXT NOT NULL CHECK (source IN ('p2p', 'cdn')),
  url TEXT NOT NULL,
  public_key BLOB CHECK (length(public_key) = 32),
  is_closed INTEGER NOT NULL DEFAULT 0 CHECK (is_closed IN (0, 1)),
  firm_bytes INTEGER NOT NULL DEFAULT 0 CHECK (firm_bytes >= 0),
  failed_bytes INTEGER NOT NULL DEFAULT 0 CHECK (failed_bytes >= 0),
  sent_bytes INTEGER NOT NULL DEFAULT 0 CHECK (sent_bytes >= 0),
  UNIQUE (run, torrent, peer_id, endpoint),
  CHECK (public_key IS NULL OR is_closed = 0)
) STRICT;
CREATE TABLE journal_credit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  peer INTEGER NOT NULL REFERENCES journal_peer,
  epoch INTEGER CHECK (epoch >= 0),
  bytes INTEGER NOT NULL CHECK (bytes > 0),
  blocks BLOB NOT NULL
) STRICT;
CREATE INDEX journal_credit_by_peer ON journal_credit (peer);
CREATE TABLE journal_lane (
  id INTEGER PRIMARY KEY,
  session_key BLOB NOT NULL CHECK (length(session_key) = 32),
  entitlement_digest BLOB NOT NULL CHECK (length(entitlement_digest) = 32),
  payee_key BLOB NOT NULL CHECK (length(payee_key) = 32),
  epoch INTEGER NOT NULL CHECK (epoch >= 0),
  nonce BLOB NOT NULL,
  source TEXT NOT NULL CHECK (source IN ('p2p', 'cdn')),
  sequence INTEGER NOT NULL CHECK (sequence >= 0),
  cumulative_bytes INTEGER NOT NULL CHECK (cumulative_bytes >= 0),
  media_ms INTEGER NOT NULL CHECK (media_ms >= 0),
  root_state BLOB NOT NULL,
  UNIQUE (entitlement_digest, payee_key, epoch, nonce)
) STRICT;
CREATE TRIGGER journal_peer_never_falls BEFORE UPDATE ON journal_peer
  WHEN NEW.firm_bytes < OLD.firm_bytes OR
       (OLD.public_key IS NOT NULL AND NEW.public_key IS NOT OLD.public_key)
  BEGIN SELECT RAISE(ABORT, 'firm bytes never fall and a proved key never changes'); END;
CREATE TRIGGER journal_credit_keeps_its_epoch BEFORE UPDATE ON journal_credit
  WHEN OLD.epoch IS NOT NULL AND NEW.epoch IS NOT OLD.epoch
  BEGIN SELECT RAISE(ABORT, 'a credit never changes its epoch'); END;
CREATE TRIGGER journal_lane_never_falls BEFORE UPDATE ON journal_lane
  WHEN NEW.sequence < OLD.sequence OR NEW.cumulative_bytes < OLD.cumulative_bytes
    OR NEW.media_ms < OLD.media_ms
  BEGIN SELECT RAISE(ABORT, 'sequence and totals never fall on a lane'); END;
CREATE TABLE journal_schema (version INTEGER NOT NULL) STRICT;
"""

_RETIRED = """
CREATE TABLE journal_retired (
  run INTEGER NOT NULL REFERENCES journal_run,
  scope_id BLOB NOT NULL CHECK (length(scope_id) = 32),
  source TEXT NOT NULL CHECK (source IN ('p2p', 'cdn')),
  public_key BLOB NOT NULL CHECK (length(public_key) IN (0, 32)),
  firm_bytes INTEGER NOT NULL CHECK (firm_bytes >= 0),
  failed_bytes INTEGER NOT NULL CHECK (failed_bytes >= 0),
  sent_bytes INTEGER NOT NULL CHECK (sent_bytes >= 0),
  PRIMARY KEY (run, scope_id, source, public_key)
) STRICT, WITHOUT ROWID;
CREATE TABLE journal_retired_run (
  run INTEGER NOT NULL REFERENCES journal_run,
  scope_id BLOB NOT NULL CHECK (length(scope_id) = 32),
  torrent_count INTEGER NOT NULL CHECK (torrent_count >= 1),
  passed_bytes INTEGER NOT NULL CHECK (passed_bytes >= 0),
  pending_bytes INTEGER NOT NULL CHECK (pending_bytes >= 0),
  ambiguous_bytes INTEGER NOT NULL CHECK (ambiguous_bytes >= 0),
  present_bytes INTEGER NOT NULL CHECK (present_bytes >= 0),
  is_estimated INTEGER NOT NULL CHECK (is_estimated IN (0, 1)),
  PRIMARY KEY (run, scope_id)
) STRICT, WITHOUT ROWID;
CREATE VIEW journal_foldable AS
  SELECT p.id FROM journal_peer p
  JOIN journal_torrent_run g ON g.run = p.run AND g.torrent = p.torrent AND g.is_retired = 1
  WHERE NOT EXISTS (SELECT 1 FROM journal_credit c WHERE c.peer = p.id);
CREATE VIEW journal_foldable_run AS
  SELECT g.run, g.torrent FROM journal_torrent_run g WHERE g.is_retired = 1
  AND NOT EXISTS (SELECT 1 FROM journal_peer p WHERE p.run = g.run AND p.torrent = g.torrent);
"""

SCHEMA += _RETIRED

UPGRADES = (
    "",
    """
ALTER TABLE journal_torrent ADD COLUMN scope_id BLOB NOT NULL DEFAULT x'';
UPDATE journal_torrent SET scope_id = content_id;
ALTER TABLE journal_torrent_run ADD COLUMN is_retired INTEGER NOT NULL DEFAULT 0;
"""
    + _RETIRED,
)
"""Script that takes a journal of version n to n + 1, by n."""

FOLD_PEERS = """
INSERT INTO journal_retired
SELECT p.run, t.scope_id, p.source, coalesce(p.public_key, x''), sum(p.firm_bytes),
       sum(p.failed_bytes), sum(p.sent_bytes)
FROM journal_peer p JOIN journal_torrent t ON t.id = p.torrent
WHERE p.id IN (SELECT id FROM journal_foldable) GROUP BY 1, 2, 3, 4
ON CONFLICT (run, scope_id, source, public_key) DO UPDATE SET
  firm_bytes = firm_bytes + excluded.firm_bytes,
  failed_bytes = failed_bytes + excluded.failed_bytes,
  sent_bytes = sent_bytes + excluded.sent_bytes
"""
DROP_FOLDED_PEERS = """
DELETE FROM journal_peer WHERE id IN (SELECT id FROM journal_foldable)
"""
FOLD_RUNS = """
INSERT INTO journal_retired_run
SELECT g.run, t.scope_id, count(*), sum(g.passed_bytes), sum(g.pending_bytes),
       sum(g.ambiguous_bytes), sum(g.present_bytes), max(g.is_estimated)
FROM journal_foldable_run f JOIN journal_torrent_run g USING (run, torrent)
JOIN journal_torrent t ON t.id = g.torrent GROUP BY 1, 2
ON CONFLICT (run, scope_id) DO UPDATE SET
  torrent_count = torrent_count + excluded.torrent_count,
  passed_bytes = passed_bytes + excluded.passed_bytes,
  pending_bytes = pending_bytes + excluded.pending_bytes,
  ambiguous_bytes = ambiguous_bytes + excluded.ambiguous_bytes,
  present_bytes = present_bytes + excluded.present_bytes,
  is_estimated = max(is_estimated, excluded.is_estimated)
"""
DROP_FOLDED_RUNS = """
DELETE FROM journal_torrent_run
WHERE (run, torrent) IN (SELECT run, torrent FROM journal_foldable_run)
"""
LIST_EMPTY_TORRENTS = """
SELECT id FROM journal_torrent WHERE id NOT IN (SELECT torrent FROM journal_torrent_run)
  AND id NOT IN (SELECT torrent FROM journal_peer) AND id <> (SELECT max(id) FROM journal_torrent)
"""


_BLOCK = struct.Struct("<IHH")
_HIGHEST_LENGTH = 16384


class Source(StrEnum):
    """Where bytes came from."""

    P2P = "p2p"
    """A BitTorrent peer."""
    CDN = "cdn"
    """A web seed (BEP 19)."""


class PeerKey(NamedTuple):
    """What identifies a connection's far end: a copied peer-id has another endpoint."""

    peer_id: bytes
    """20 bytes."""
    endpoint: str
    """"IP:port", or "[IP]:port" for IPv6."""


class CreditedBlock(NamedTuple):
    """One firm block."""

    piece: int
    block: int
    length: int
    """Content bytes; 1 to 16,384."""


class LaneCredits(NamedTuple):
    """Firm blocks of one torrent on their way onto a lane."""

    content_id: bytes
    """The torrent they belong to; 32 bytes."""
    byte_count: int
    """Content bytes of all of them; n ≥ 1."""
    packed: bytes
    """As `pack_blocks` prints them, in credit order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerUpdate:
    """What a batch says of one peer of one torrent."""

    torrent: int
    """Id that `MeterJournal.add_torrent` gave."""
    peer: PeerKey
    source: Source
    url: str = ""
    """The web seed's URL as the torrent states it; "" for a peer, or if it could not be told."""
    failed_bytes: int = 0
    """Hash-failed content bytes of this run so far."""
    sent_bytes: int = 0
    """Content bytes handed to this peer's send buffer in this run so far."""
    blocks: Sequence[tuple[int, int, int]] = ()
    """New firm blocks as (piece, block, content bytes), in credit order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorrentGauges:
    """A torrent's figures of this run so far; content bytes, n ≥ 0."""

    torrent: int
    passed_bytes: int
    pending_bytes: int
    ambiguous_bytes: int
    present_bytes: int
    is_estimated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterBatch:
    """What becomes durable together."""

    peers: tuple[PeerUpdate, ...] = ()
    torrents: tuple[TorrentGauges, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAudit:
    """libtorrent's own counters of this run, and what the meter's sum differs from them by."""

    recv_payload_bytes: int
    redundant_bytes: int
    recv_failed_bytes: int
    difference_bytes: int
    """received − redundant − failed − metered, with the padding that peers send."""
    tolerance_bytes: int = 0
    """How far below 0 the difference may lie: padding that was never received, counted redundant.
    n ≥ 0; 0 unless a web seed serves content with padding."""

    @property
    def unexplained_bytes(self) -> int:
        """What the meter and libtorrent disagree by; n ≥ 0, 0 at rest if no event was lost."""
        return max(self.difference_bytes, -self.difference_bytes - self.tolerance_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Creditable bytes that no receipt covers yet; one group may become one lane's next step."""

    session_key: bytes
    """Key of the process run that received them: the only key that may sign for them; 32 bytes."""
    scope_id: bytes
    """What an entitlement names: the content id, or the id of the stream it belongs to."""
    source: Source
    payee_key: bytes
    """The proved key of the peer, or the CDN's key; 32 bytes."""
    epoch: int
    """n ≥ 0."""
    byte_count: int
    """n ≥ 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneKey:
    """What a receipt is cumulative along."""

    entitlement_digest: bytes
    """32 bytes."""
    payee_key: bytes
    """32 bytes."""
    epoch: int
    """n ≥ 0."""
    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A lane's state; what its next receipt continues."""

    key: LaneKey
    session_key: bytes
    """The key that signs this lane; 32 bytes."""
    source: Source
    sequence: int = 0
    """Sequence of the last receipt; 0: none yet."""
    cumulative_bytes: int = 0
    media_ms: int = 0
    root_state: bytes = field(default=b"", repr=False)
    """The receipt layer's own encoding of its incremental root; b"": empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTotals:
    """One (run, torrent, peer) row; content bytes."""

    session_id: bytes
    content_id: bytes
    peer: PeerKey
    source: Source
    url: str
    public_key: bytes | None
    """The proved key, or None: unattested."""
    firm_bytes: int
    failed_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalTotals:
    """The journal's byte classes over all its runs; content bytes unless said otherwise."""

    delivered_p2p_bytes: int
    """Firm, from peers whose key is proved."""
    delivered_cdn_bytes: int
    """Firm, from web seeds."""
    unattested_bytes: int
    """Firm, from peers whose key is not proved."""
    ambiguous_bytes: int
    """Passed the hash check, attributed to nobody."""
    pending_bytes: int
    """Passed the hash check, attribution still open."""
    failed_bytes: int
    """Of pieces that failed the hash check."""
    redundant_bytes: int
    """Wire payload that arrived twice, by libtorrent's counters."""
    present_bytes: int
    """Found on disk by the last run's check of the files."""
    sent_bytes: int
    """Handed to peers' send buffers; an upper bound."""
    unclaimed_bytes: int
    """Part of delivered: proved, or from a CDN, and not on a lane yet."""
    claimed_bytes: int
    """Σ cumulative bytes of all lanes."""
    unexplained_bytes: int
    """Σ over the runs of what the meter and libtorrent last disagreed by; 0 if all is well."""
    is_estimated: bool
    """Whether events were lost in some run: figures may be too low."""


def pack_blocks(blocks: Iterable[tuple[int, int, int]]) -> bytes:
    """Packs blocks into 8 bytes each: piece u32, block u16, length − 1 u16; little-endian."""
    pack = _BLOCK.pack
    return b"".join([pack(piece, block, length - 1) for piece, block, length in blocks])


def iterate_blocks(packed: bytes) -> Iterator[tuple[int, int, int]]:
    """Iterates (piece, block, length − 1) of what `pack_blocks` printed here; nothing is checked.

    Raises:
        struct.error: The bytes are no whole records.
    """
    return _BLOCK.iter_unpack(packed)


def unpack_blocks(packed: bytes) -> list[CreditedBlock]:
    """Reverses `pack_blocks`.

    Raises:
        ValueError: The bytes are no whole records, or a length is out of range.
    """
    if len(packed) % _BLOCK.size:
        raise ValueError(f"blocks: got {len(packed)} bytes, want a multiple of {_BLOCK.size}")
    blocks = [
        CreditedBlock(piece, block, less + 1) for piece, block, less in _BLOCK.iter_unpack(packed)
    ]
    for record in blocks:
        if record.length > _HIGHEST_LENGTH:
            raise ValueError(f"length: got {record.length}, want 1..{_HIGHEST_LENGTH}")
    return blocks
