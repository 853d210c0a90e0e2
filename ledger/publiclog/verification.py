"""Verifying a log's folder off-line: files against each other, and against what was signed.

Every leaf is read, every hash tile and entry bundle is made again and compared, the root must be
the signed one, the leaves must stand in an epoch's order, and every checkpoint that was kept must
be of a beginning of this log. Needs no network; a mirror or the operator's own folder will do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.evidence.errors import EvidenceError
from ledger.evidence.instruction_list import instruction_list_path
from ledger.evidence.tile import root_of_tiles
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.errors import ForkError
from ledger.publiclog.folder import CHECKPOINT, MirrorFolder
from ledger.publiclog.growth import grown_files
from ledger.publiclog.heads import epoch_of_last_leaf
from ledger.publiclog.leaf_order import LeafOrder
from ledger.publiclog.log_keys import LogKeys, SignedHead
from ledger.publiclog.sealed_instructions import require_instructions, seal_with_instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLog:
    """What was found right."""

    origin: str
    tree_size: int
    root: bytes
    first_epoch: int | None
    last_epoch: int | None
    files: int
    """Tiles and entry bundles compared."""

    kept: int
    """Earlier checkpoints that are of this log's beginnings."""


def verify_folder(path: Path, keys: LogKeys) -> VerifiedLog:
    """Verify a log's folder.

    Raises:
        ForkError: A kept checkpoint and the newest one are of two histories.
        DisprovenError: Files, leaves and signed root do not go together.
        UndecidableError: There is no checkpoint, none that a known key signed, or an older one than
            was kept.
    """
    folder = MirrorFolder(path)
    head = folder.head(keys)
    if head is None:
        raise UndecidableError(f"{path}: got no {CHECKPOINT}, want a signed one")
    size = head.checkpoint.tree_size
    order = LeafOrder(trust=keys.trust)
    first_epochs: list[int] = []

    def take_leaves(leaves: Sequence[bytes]) -> None:
        for leaf in leaves:
            order.take(leaf)
            for seal in seal_with_instructions(leaf):
                path = instruction_list_path(seal.epoch)
                require_instructions(folder.source.read(path), seal)
            if not first_epochs and order.epoch is not None:
                first_epochs.append(order.epoch)

    files = _compare_files(folder, size, take_leaves)
    root = root_of_tiles(size, folder.source.read)
    if root != head.checkpoint.root_hash:
        raise DisprovenError(
            f"root of {size} leaves: got {root.hex()}, "
            f"want the signed {head.checkpoint.root_hash.hex()}"
        )
    if not order.is_whole:
        raise DisprovenError(f"leaf {size}: got a checkpoint inside an epoch, want its end")
    if order.epoch is not None:
        keys.require_key_of(head, order.epoch)
    kept = folder.kept(keys)
    for earlier in kept:
        _require_beginning(folder, head, earlier, keys)
    return VerifiedLog(
        origin=keys.origin,
        tree_size=size,
        root=root,
        first_epoch=first_epochs[0] if first_epochs else None,
        last_epoch=order.epoch,
        files=files,
        kept=len(kept),
    )


def _compare_files(
    folder: MirrorFolder, size: int, take_leaves: Callable[[Sequence[bytes]], None]
) -> int:
    """Make every file again and compare it with the one that stands; return how many."""
    files = 0
    try:
        for path, text, content in grown_files(
            old_size=0,
            new_size=size,
            read_old=lambda _path: None,
            read_new=folder.source.read,
            take_leaves=take_leaves,
        ):
            found = folder.source.read(text)
            if found is None and path.is_partial:
                # It may have given way to the full one of a larger log.
                full = folder.source.read(text.partition(".p/")[0])
                found = None if full is None else full[: len(content)]
            if found != content:
                got = "no file" if found is None else "other content"
                raise DisprovenError(f"{text}: got {got}, want what the leaves say")
            files += 1
    except EvidenceError as error:
        raise DisprovenError(f"{folder.path}: {error}") from error
    return files


def _require_beginning(
    folder: MirrorFolder, head: SignedHead, earlier: SignedHead, keys: LogKeys
) -> None:
    """An earlier checkpoint is of this log's beginning, and its epoch's key signed it."""
    size, old = head.checkpoint.tree_size, earlier.checkpoint
    if old.tree_size > size:
        # So does a mirror run that was killed leave it, and no log can: it is not the operator's.
        raise UndecidableError(
            f"checkpoint: got {size} leaves, want at least the {old.tree_size} of a kept one: "
            "a mirror run was killed, or the folder changed by hand; run mirror again"
        )
    reader = TileReader(size, folder.source.read)
    if reader.root(old.tree_size) != old.root_hash:
        raise ForkError(
            f"fork: the kept checkpoint of {old.tree_size} leaves is of another history",
            first=earlier.note,
            second=head.note,
        )
    if old.tree_size:
        keys.require_key_of(earlier, epoch_of_last_leaf(reader.leaf(old.tree_size - 1)))
