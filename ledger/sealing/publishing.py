"""Publishing a log: static files of c2sp.org/tlog-tiles, made from the database alone.

Tiles and instructions first, the checkpoint last, each file whole or not at all: a reader never
sees a checkpoint whose tiles are missing. A grown log costs its new leaves and the right edge of
its old tiles, which is read from the files if its root is the one before, else made again from all
leaves. Writing again gives the same bytes, so a crash or a lost disk is mended by running this
again; `publish(…, anew=True)` makes every file.
"""

from collections.abc import Iterable
from pathlib import Path

from ledger.audit.address import format_account
from ledger.evidence.errors import MalformedTileError
from ledger.evidence.instruction_list import format_instruction_list, instruction_list_path
from ledger.evidence.note import VerifierKey, format_verifier_key
from ledger.evidence.tile import (
    TILE_WIDTH,
    format_entry_bundle,
    growth_files,
    growth_files_of,
    parse_tile_path,
    root_of_tiles,
)
from ledger.sealing.files import sync_folders, write_file
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import (
    StoredCheckpoint,
    find_checkpoint,
    find_checkpoint_before,
    find_unwritten,
    list_checkpoints,
    load_leaves,
    mark_published,
)
from ledger.store.errors import EpochOrderError
from ledger.store.instruction_store import load_instructions
from ledger.store.shard_store import Shard, terms_in_force


def log_folder(log_dir: Path, shard: Shard) -> Path:
    """Return the folder of a broadcaster's log."""
    return log_dir / format_account(shard.account)


def publish(sessions: SessionFactory, shard: Shard, log_dir: Path, *, anew: bool = False) -> int:
    """Write the files of all checkpoints that are not published.

    Args:
        sessions: Reads in one transaction a checkpoint; notes at the end what was written.
        shard: Whose log.
        log_dir: Folder of all logs.
        anew: Write the files of published checkpoints too.

    Returns:
        How many checkpoints were published.

    Raises:
        OSError: A file cannot be written; nothing is noted as published.
    """
    with sessions.begin() as session:
        wanted, _ = find_unwritten(session, shard)
        if anew:
            wanted = [one.epoch for one in list_checkpoints(session, shard)]
        if not wanted:
            return 0
        # The key of the checkpoint that is published last.
        terms = terms_in_force(session, shard, wanted[-1]).value
    folder = log_folder(log_dir, shard)
    key = VerifierKey(name=terms.log_origin, public_key=terms.log_key)
    write_file(folder / "log.vkey", format_verifier_key(key).encode() + b"\n")
    for number in wanted:
        with sessions.begin() as session:
            checkpoint = find_checkpoint(session, shard, number)
            if checkpoint is None:
                raise EpochOrderError(number, got="no checkpoint", want="a computed epoch")
            files = _growth(session, shard, folder, checkpoint, is_trusted=not anew)
            files += _instruction_list(session, shard, number)
        _write_growth(folder, files, checkpoint)
    with sessions.begin() as session:
        mark_published(session, shard, wanted)
    return len(wanted)


def _growth(
    session: Session, shard: Shard, folder: Path, checkpoint: StoredCheckpoint, *, is_trusted: bool
) -> list[tuple[str, bytes]]:
    """Return path and content of the files that a checkpoint's leaves add or change."""
    before = find_checkpoint_before(session, shard, checkpoint.tree_size)
    old_size = 0 if before is None else before.tree_size
    if before is None or not (is_trusted and _has_edge(folder, before)):
        leaves = load_leaves(session, shard, end=checkpoint.tree_size)
        return list(growth_files_of(leaves, old_size))
    first = old_size - old_size % TILE_WIDTH
    leaves = load_leaves(session, shard, first=first, end=checkpoint.tree_size)
    old_leaves, new_leaves = leaves[: old_size - first], leaves[old_size - first :]

    def read_old(path: str) -> bytes | None:
        if parse_tile_path(path).level is None:
            # The root vouches for hashes only; the leaves come from the database.
            return format_entry_bundle(old_leaves)
        return _read(folder, path)

    return list(growth_files(old_size=old_size, new_leaves=new_leaves, read_file=read_old))


def _instruction_list(session: Session, shard: Shard, epoch: int) -> list[tuple[str, bytes]]:
    """Return path and content of an epoch's instructions; nothing if it sealed none."""
    raws = [signed.raw for signed in load_instructions(session, shard, epoch)]
    return [(instruction_list_path(epoch), format_instruction_list(raws))] if raws else []


def _has_edge(folder: Path, before: StoredCheckpoint) -> bool:
    """Tell whether the files on the right edge of the log give a checkpoint's root."""
    try:
        return root_of_tiles(before.tree_size, lambda path: _read(folder, path)) == before.root
    except MalformedTileError:
        return False


def _read(folder: Path, path: str) -> bytes | None:
    file = folder / path
    return file.read_bytes() if file.is_file() else None


def _write_growth(
    folder: Path, files: Iterable[tuple[str, bytes]], checkpoint: StoredCheckpoint
) -> None:
    folders = {folder}
    for path, content in files:
        write_file(folder / path, content)
        folders.add((folder / path).parent)
    # Tiles are durable before the checkpoint that needs them appears.
    sync_folders(folders)
    write_file(folder / "checkpoint", checkpoint.note)
    sync_folders([folder])
