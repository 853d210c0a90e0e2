"""Reading the log for an audit file: out of its published files, so that a long log costs no more.

Proofs come from the tiles and are checked against the signed root; a leaf is one row. Where files
are missing or wrong, the whole log is read from the database instead: the audit file comes out the
same. Not here: writing the files (`publishing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.audit.compose import EpochLog, LogView
from ledger.audit.file import LogProof, ProvenLeaf
from ledger.evidence.errors import InclusionError, MalformedTileError
from ledger.evidence.merkle import check_inclusion, leaf_hash
from ledger.evidence.tile_proofs import TileReader
from ledger.store.engine import Session
from ledger.store.epoch_store import Epoch, StoredCheckpoint, find_epoch, load_leaves
from ledger.store.errors import EpochOrderError
from ledger.store.shard_store import Shard, activation_in_force


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLog:
    """The log up to an epoch's checkpoint, in published tiles."""

    session: Session
    shard: Shard
    tiles: TileReader
    root: bytes
    epoch_leaves: Sequence[bytes]
    frontier: bytes
    activation_index: int
    previous_result_index: int | None

    def prove(self, leaf_index: int) -> ProvenLeaf:
        """Return a leaf with its inclusion proof.

        Raises:
            MalformedTileError: A tile is missing or malformed.
            InclusionError: A tile holds another hash.
        """
        (leaf,) = load_leaves(self.session, self.shard, first=leaf_index, end=leaf_index + 1)
        hashes = tuple(self.tiles.prove_inclusion(leaf_index))
        size = self.tiles.size
        check_inclusion(leaf_hash(leaf), leaf_index, size, hashes, self.root)
        return ProvenLeaf(leaf=leaf, proof=LogProof(leaf_index=leaf_index, hashes=hashes))


def open_log(
    session: Session,
    shard: Shard,
    epoch: Epoch,
    checkpoint: StoredCheckpoint,
    *,
    frontier: bytes,
    previous_result_index: int | None,
    needed: Sequence[int],
    folder: Path | None,
) -> EpochLog:
    """Return the log as an epoch's checkpoint signed it.

    Args:
        session: In a transaction, which the log is used in.
        shard: Whose log.
        epoch: Computed.
        checkpoint: The epoch's.
        frontier: State of a `RootBuilder` over the log before the epoch's leaves.
        previous_result_index: Of the result of the epoch before, if there is one.
        needed: Further leaves of which proofs will be asked.
        folder: Folder of the log's files; None: there is none.

    Raises:
        EpochOrderError: The epoch is not computed, or no epoch began with the contract in force.
    """
    first, end = epoch.opening_size, epoch.result_size
    if first is None or end is None:
        raise EpochOrderError(epoch.number, got=epoch.state, want="computed")
    activation_index = _activation_index(session, shard, epoch.number)
    if folder is not None:
        log = PublishedLog(
            session=session,
            shard=shard,
            tiles=TileReader(end, _Files(folder).read),
            root=checkpoint.root,
            epoch_leaves=load_leaves(session, shard, first=first, end=end),
            frontier=frontier,
            activation_index=activation_index,
            previous_result_index=previous_result_index,
        )
        asked = [activation_index, *needed]
        asked += [] if previous_result_index is None else [previous_result_index]
        if _can_prove(log, asked):
            return log
    return LogView(
        leaves=load_leaves(session, shard, end=end),
        first_leaf_index=first,
        activation_index=activation_index,
        previous_result_index=previous_result_index,
    )


class _Files:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes | None:
        file = self._folder / path
        return file.read_bytes() if file.is_file() else None


def _can_prove(log: PublishedLog, leaf_indexes: Sequence[int]) -> bool:
    try:
        for leaf_index in leaf_indexes:
            log.prove(leaf_index)
    except (MalformedTileError, InclusionError):
        return False
    return True


def _activation_index(session: Session, shard: Shard, number: int) -> int:
    """Activations are the first leaves of the epoch that they begin with."""
    activation = activation_in_force(session, shard, number)
    begun = find_epoch(session, shard, activation.value.first_epoch)
    if begun is None or begun.opening_size is None or begun.sealed_size is None:
        raise EpochOrderError(activation.value.first_epoch, got="none", want="a sealed epoch")
    leaves = load_leaves(session, shard, first=begun.opening_size, end=begun.sealed_size)
    return begun.opening_size + leaves.index(activation.raw)
