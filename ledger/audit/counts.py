"""Counts: evidence of what a late receipt's lane counted for in its own epoch's seal.

A correction pays new minus counted. What was counted is proven against the lane root in the result
leaf of the lane's epoch: by the lane's entry, or, when the lane was not counted at all, by the two
neighbours between which it would stand. The result leaf itself is proven in the log. Lanes that
were corrected already stand in the state and need no such evidence.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ledger.audit.errors import require, require_same
from ledger.audit.file import (
    LogProof,
    ProvenLeaf,
    format_log_proof,
    format_proven_leaf,
    parse_proven_leaf,
    read_log_proof,
)
from ledger.books.judgement import LaneCount
from ledger.evidence.encoding import Reader, format_counted
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.leaf import RESULT_LEAF
from ledger.evidence.merkle import HashTree, check_inclusion, leaf_hash

_ENTRY_SIZE = 48
_PROOFS_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryProof:
    """A lane entry with its proof under the lane root."""

    entry: bytes
    """Lane digest 32, sequence u64, counted bytes u64."""

    proof: LogProof


@dataclass(frozen=True, slots=True, kw_only=True)
class CountEvidence:
    """What one lane counted for, with proof."""

    lane_digest: bytes
    """32 bytes."""

    result: ProvenLeaf
    """Result leaf of the lane's epoch, proven in the log."""

    entries: tuple[EntryProof, ...]
    """The lane's own entry; or its neighbours (one at either end, none under an empty root)."""


def prove_counts(
    lane_digests: Iterable[bytes], entries: Sequence[bytes], result: ProvenLeaf
) -> list[CountEvidence]:
    """Prove what lanes counted for in a seal; the tree over its entries is built once.

    Args:
        lane_digests: The lanes, 32 bytes each.
        entries: All lane entries of that seal, ascending.
        result: That epoch's result leaf with its proof in the log.

    Returns:
        One piece of evidence per lane, in the order given.
    """
    tree = HashTree(leaf_hash(entry) for entry in entries)
    evidence: list[CountEvidence] = []
    for lane_digest in lane_digests:
        place = bisect_left(entries, lane_digest)
        own = place < len(entries) and entries[place][:32] == lane_digest
        places = [place] if own else [at for at in (place - 1, place) if 0 <= at < len(entries)]
        proofs = tuple(
            EntryProof(
                entry=entries[at],
                proof=LogProof(leaf_index=at, hashes=tuple(tree.prove_inclusion(at))),
            )
            for at in places
        )
        evidence.append(CountEvidence(lane_digest=lane_digest, result=result, entries=proofs))
    return evidence


def check_count(
    evidence: CountEvidence, *, epoch: int, tree_size: int, root: bytes
) -> LaneCount | None:
    """Return what the lane counted for in its epoch's seal; None if it was not counted.

    Args:
        evidence: The evidence.
        epoch: Epoch of the lane.
        tree_size: Size of the log the result leaf is proven in.
        root: Its root hash.

    Raises:
        DisprovenError: The evidence does not show it.
        InclusionError: A proof fails.
        MalformedRecordError: The result leaf is malformed.
    """
    proof = evidence.result.proof
    check_inclusion(
        leaf_hash(evidence.result.leaf), proof.leaf_index, tree_size, proof.hashes, root
    )
    result = RESULT_LEAF.parse_body(evidence.result.leaf)
    require_same("count evidence: epoch of the result leaf", got=result.epoch, want=epoch)
    for entry in evidence.entries:
        check_inclusion(
            leaf_hash(entry.entry),
            entry.proof.leaf_index,
            result.lane_count,
            entry.proof.hashes,
            result.lane_root,
        )
    digests = [entry.entry[:32] for entry in evidence.entries]
    if digests == [evidence.lane_digest]:
        return read_lane_entry(evidence.entries[0].entry)[1]
    _require_absent(evidence, digests, result.lane_count)
    return None


def _require_absent(evidence: CountEvidence, digests: list[bytes], lane_count: int) -> None:
    """The neighbours must be adjacent, at the ends where there is only one, and around the lane."""
    places = [entry.proof.leaf_index for entry in evidence.entries]
    left_count = sum(digest < evidence.lane_digest for digest in digests)
    want: list[int] | None = None
    if left_count == 0:
        want = [0] if lane_count else []
    elif left_count == 1 and len(places) == 1:
        want = [lane_count - 1]
    elif left_count == 1:
        want = [places[0], places[0] + 1]
    require(
        evidence.lane_digest not in digests and len(digests) <= _PROOFS_MAX and places == want,
        "count evidence: neighbours",
        got=places,
        want=want,
    )


def read_lane_entry(entry: bytes) -> tuple[bytes, LaneCount]:
    """Return (lane digest, count) of a 48-byte lane entry.

    Raises:
        MalformedRecordError: It is not 48 bytes.
    """
    if len(entry) != _ENTRY_SIZE:
        raise MalformedRecordError("lane entry", got=f"{len(entry)} bytes", want="48 bytes")
    count = LaneCount(
        sequence=int.from_bytes(entry[32:40], "little"),
        bytes_total=int.from_bytes(entry[40:], "little"),
    )
    return entry[:32], count


def format_count_evidence(evidence: CountEvidence) -> bytes:
    """Return evidence as bytes: lane, proven result leaf, u8 count, entries with proofs."""
    parts = [evidence.lane_digest, format_counted(format_proven_leaf(evidence.result))]
    parts.append(len(evidence.entries).to_bytes(1, "little"))
    parts.extend(entry.entry + format_log_proof(entry.proof) for entry in evidence.entries)
    return b"".join(parts)


def parse_count_evidence(data: bytes) -> CountEvidence:
    """Return evidence from its bytes.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    reader = Reader("count evidence", data)
    lane_digest = reader.take(32, "lane digest")
    result = parse_proven_leaf(reader.counted("result leaf", limit=len(data)))
    count = reader.integer(1, "entry count", limit=_PROOFS_MAX)
    entries = tuple(
        EntryProof(entry=reader.take(_ENTRY_SIZE, "entry"), proof=read_log_proof(reader))
        for _ in range(count)
    )
    reader.finish()
    return CountEvidence(lane_digest=lane_digest, result=result, entries=entries)


def counts_by_lane(
    evidence: Sequence[CountEvidence], lane_epochs: Mapping[bytes, int], tree_size: int, root: bytes
) -> dict[bytes, LaneCount]:
    """Check all evidence and return what the lanes counted for; lanes never counted are absent.

    Args:
        evidence: One piece per lane, ascending by lane.
        lane_epochs: Which lanes need evidence, with their epochs; exactly these must be there.
        tree_size: Size of the log.
        root: Its root hash.

    Raises:
        DisprovenError: A piece is missing, superfluous, out of order or shows something else.
        InclusionError: A proof fails.
    """
    require_same(
        "count evidence: lanes",
        got=[piece.lane_digest.hex() for piece in evidence],
        want=[digest.hex() for digest in sorted(lane_epochs)],
    )
    counts: dict[bytes, LaneCount] = {}
    for piece in evidence:
        epoch = lane_epochs[piece.lane_digest]
        count = check_count(piece, epoch=epoch, tree_size=tree_size, root=root)
        if count is not None:
            counts[piece.lane_digest] = count
    return counts
