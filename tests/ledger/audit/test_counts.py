"""What a late lane counted for is proven or it is not: a lie for each check of the evidence."""

from dataclasses import replace

import builders
import pytest

from ledger.audit.counts import CountEvidence, check_count, prove_counts
from ledger.audit.errors import DisprovenError
from ledger.audit.file import LogProof, ProvenLeaf
from ledger.books.lanes import LaneCount, format_lane_entry
from ledger.evidence.errors import InclusionError
from ledger.evidence.leaf import RESULT_LEAF
from ledger.evidence.merkle import HashTree, leaf_hash, root_hash

EPOCH = builders.EPOCH
DIGESTS = sorted(builders.digest_of(f"lane {number}") for number in range(5))
ENTRIES = [
    format_lane_entry(digest, LaneCount(sequence=1, bytes_total=number))
    for number, digest in enumerate(DIGESTS)
]
LEAF = RESULT_LEAF.format_body(
    replace(
        builders.result_leaf(), epoch=EPOCH, lane_count=len(ENTRIES), lane_root=root_hash(ENTRIES)
    )
)
LOG = [b"another leaf", LEAF, b"one more"]
TREE = HashTree(leaf_hash(leaf) for leaf in LOG)
RESULT = ProvenLeaf(leaf=LEAF, proof=LogProof(leaf_index=1, hashes=tuple(TREE.prove_inclusion(1))))
BETWEEN = DIGESTS[2][:-1] + bytes([DIGESTS[2][-1] ^ 1])


def evidence_of(digest: bytes) -> CountEvidence:
    return prove_counts([digest], ENTRIES, RESULT)[0]


def check(evidence: CountEvidence, epoch: int = EPOCH) -> LaneCount | None:
    return check_count(evidence, epoch=epoch, tree_size=len(LOG), root=TREE.root())


@pytest.mark.parametrize("place", range(5))
def test_lane_that_counted_is_proven(place: int) -> None:
    want = LaneCount(sequence=1, bytes_total=place)
    assert check(evidence_of(DIGESTS[place])) == want


@pytest.mark.parametrize("digest", [bytes(32), BETWEEN, b"\xff" * 32])
def test_lane_that_never_counted_is_proven(digest: bytes) -> None:
    assert check(evidence_of(digest)) is None


def test_result_that_is_not_in_the_log_is_noticed() -> None:
    proof = replace(RESULT.proof, hashes=(bytes(32), *RESULT.proof.hashes[1:]))
    with pytest.raises(InclusionError):
        check(replace(evidence_of(DIGESTS[0]), result=replace(RESULT, proof=proof)))


def test_result_of_another_epoch_is_noticed() -> None:
    with pytest.raises(DisprovenError, match="epoch of the result leaf"):
        check(evidence_of(DIGESTS[0]), EPOCH + 1)


def test_other_count_is_noticed() -> None:
    evidence = evidence_of(DIGESTS[0])
    richer = replace(evidence.entries[0], entry=ENTRIES[0][:40] + bytes([9]) + bytes(7))
    with pytest.raises(InclusionError):
        check(replace(evidence, entries=(richer,)))


@pytest.mark.parametrize(
    ("digest", "places"),
    [
        (DIGESTS[1], (0, 2)),  # it stands between them
        (BETWEEN, (0, 4)),
        (BETWEEN, (2,)),
        (bytes(32), (1,)),
        (b"\xff" * 32, (3,)),
        (BETWEEN, ()),
    ],
)
def test_lane_is_not_absent_because_of_other_lanes(digest: bytes, places: tuple[int, ...]) -> None:
    pieces = prove_counts(DIGESTS, ENTRIES, RESULT)
    entries = tuple(pieces[place].entries[0] for place in places)
    with pytest.raises(DisprovenError, match="neighbours"):
        check(CountEvidence(lane_digest=digest, result=RESULT, entries=entries))
