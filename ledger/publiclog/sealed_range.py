"""What a seal holds, complete: the run of leaves from the end of the epoch before to the seal leaf.

The run begins with the last leaf of the epoch before (or with the log), ends with the seal leaf,
and the seal leaf says how many bundle leaves it holds. With the hashes beside it, it leads to a
signed root. So what is not among these leaves is not in this seal, and that is proven, without a
secret and without the rest of the log.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ledger.audit.errors import DisprovenError
from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import EvidenceError, MalformedRecordError
from ledger.evidence.leaf import (
    ACTIVATION,
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    RESULT_LEAF,
    SEAL_LEAF,
    BundleLeaf,
    code_of_leaf,
    parse_payout_leaf,
)
from ledger.evidence.merkle import leaf_hash
from ledger.evidence.tile_proofs import TileReader, root_of_range

_LAST_KINDS = frozenset({RecordCode.LEAF_RESULT, RecordCode.LEAF_PAYOUT})
_SEALED_KINDS = frozenset(
    {RecordCode.LEAF_ACTIVATION, RecordCode.LEAF_BUNDLE, RecordCode.LEAF_CORRECTION}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRange:
    """A run of leaves with its proof."""

    first_index: int
    """Index of the run's first leaf."""

    leaves: tuple[bytes, ...]
    """The last leaf of the epoch before, unless the log begins here; then up to the seal leaf."""

    hashes: tuple[bytes, ...]
    """What lies beside the run (`root_of_range`)."""


def epoch_of_leaf(leaf: bytes) -> int:
    """Return the epoch that appended a leaf; it never falls from leaf to leaf.

    Raises:
        MalformedRecordError: It is no leaf.
    """
    readers: dict[RecordCode, Callable[[bytes], int]] = {
        RecordCode.LEAF_ACTIVATION: lambda data: ACTIVATION.parse(data).value.first_epoch,
        RecordCode.LEAF_BUNDLE: lambda data: BUNDLE_LEAF.parse_body(data).sealing_epoch,
        RecordCode.LEAF_CORRECTION: lambda data: CORRECTION_LEAF.parse_body(data).sealing_epoch,
        RecordCode.LEAF_SEAL: lambda data: SEAL_LEAF.parse_body(data).epoch,
        RecordCode.LEAF_RESULT: lambda data: RESULT_LEAF.parse_body(data).epoch,
        RecordCode.LEAF_PAYOUT: lambda data: parse_payout_leaf(data).epoch,
    }
    reader = readers.get(code_of_leaf(leaf))
    if reader is None:
        raise MalformedRecordError("leaf", got=leaf[:8], want="a known kind of leaf")
    return reader(leaf)


def read_sealed_range(reader: TileReader, epoch: int) -> SealedRange | None:
    """Return the run of an epoch's seal from a log's files; None if it is not sealed there.

    Raises:
        EvidenceError: A file is missing or malformed.
    """
    begin = first_leaf_of(reader, epoch)
    first_index = max(0, begin - 1)
    end = begin
    while end < reader.size:
        leaf = reader.leaf(end)
        end += 1
        if code_of_leaf(leaf) == RecordCode.LEAF_SEAL:
            if epoch_of_leaf(leaf) != epoch:
                return None
            break
    else:
        return None
    return SealedRange(
        first_index=first_index,
        leaves=tuple(reader.leaf(index) for index in range(first_index, end)),
        hashes=tuple(reader.prove_range(first_index, end)),
    )


def check_sealed_range(found: SealedRange, checkpoint: Checkpoint, epoch: int) -> list[BundleLeaf]:
    """Check that a run is the whole of an epoch's seal, and return its bundle leaves.

    Args:
        found: The run.
        checkpoint: A tree head that the log signed.
        epoch: The epoch that it seals.

    Raises:
        DisprovenError: It is not.
    """
    try:
        hashes = [leaf_hash(leaf) for leaf in found.leaves]
        root = root_of_range(found.first_index, hashes, checkpoint.tree_size, found.hashes)
        kinds = [code_of_leaf(leaf) for leaf in found.leaves]
        epochs = [epoch_of_leaf(leaf) for leaf in found.leaves]
        if root != checkpoint.root_hash:
            raise DisprovenError(
                f"run of leaves: got root {root.hex()}, want {checkpoint.root_hash.hex()}"
            )
        begin = 0
        if found.first_index:
            begin = 1
            if kinds[0] not in _LAST_KINDS or epochs[0] >= epoch:
                raise DisprovenError(
                    f"run of leaves: got one that begins with {kinds[0].name} of epoch "
                    f"{epochs[0]}, want the last leaf of the epoch before {epoch}"
                )
        if kinds[-1] != RecordCode.LEAF_SEAL or not set(kinds[begin:-1]) <= _SEALED_KINDS:
            raise DisprovenError("run of leaves: got other kinds, want one seal leaf at its end")
        if set(epochs[begin:]) != {epoch}:
            raise DisprovenError(f"run of leaves: got another epoch's, want those of {epoch}")
        bundles = [
            BUNDLE_LEAF.parse_body(leaf)
            for leaf, kind in zip(found.leaves, kinds, strict=True)
            if kind == RecordCode.LEAF_BUNDLE
        ]
        seal = SEAL_LEAF.parse_body(found.leaves[-1])
    except EvidenceError as error:
        raise DisprovenError(f"run of leaves: {error}") from error
    if seal.bundle_count != len(bundles):
        raise DisprovenError(
            f"run of leaves: got {len(bundles)} bundle leaves, want {seal.bundle_count}"
        )
    return bundles


def first_leaf_of(reader: TileReader, epoch: int) -> int:
    """Return the index of the first leaf of an epoch or a later one, or the size of the log.

    Leaves stand by rising epoch, so O(log n) of them are read.

    Raises:
        EvidenceError: A file is missing or malformed.
    """
    low, high = 0, reader.size
    while low < high:
        middle = (low + high) // 2
        if epoch_of_leaf(reader.leaf(middle)) < epoch:
            low = middle + 1
        else:
            high = middle
    return low
