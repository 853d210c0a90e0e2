"""Publishing a log: static files of c2sp.org/tlog-tiles, made from the database alone.

Tiles and instructions first, the checkpoint last, each file whole or not at all: a reader never
sees a checkpoint whose tiles are missing. A grown log costs its new leaves and the right edge of
its old tiles, which is read from the files. Writing again gives the same bytes, so a crash is
mended by running this again; and a folder that is lost, or behind what was published, or whose
edge has not the root of what was published, is written again from its first leaf.
"""

from collections.abc import Iterable
from pathlib import Path

import structlog

from ledger.audit.address import format_account
from ledger.evidence.checkpoint import Checkpoint, parse_checkpoint
from ledger.evidence.errors import MalformedError, MalformedTileError
from ledger.evidence.instruction_list import format_instruction_list, instruction_list_path
from ledger.evidence.note import VerifierKey, format_verifier_key, parse_note
from ledger.evidence.tile import (
    TILE_WIDTH,
    format_entry_bundle,
    growth_files,
    parse_tile_path,
    root_of_tiles,
)
from ledger.sealing.files import sync_folders, write_file
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import (
    StoredCheckpoint,
    find_checkpoint,
    find_checkpoint_before,
    find_published,
    find_unwritten,
    list_checkpoints,
    load_leaves,
    mark_published,
)
from ledger.store.errors import EpochOrderError, UnprovenError
from ledger.store.instruction_store import load_instructions
from ledger.store.shard_store import Shard, terms_in_force

_log = structlog.get_logger(__name__)


def log_folder(log_dir: Path, shard: Shard) -> Path:
    """Return the folder of a broadcaster's log."""
    return log_dir / format_account(shard.account)


def publish(sessions: SessionFactory, shard: Shard, log_dir: Path) -> int:
    """Write the files of all checkpoints that are not published, and all if the folder lost some.

    Args:
        sessions: Reads in one transaction a checkpoint; notes at the end what was written.
        shard: Whose log.
        log_dir: Folder of all logs.

    Returns:
        How many checkpoints' files were written.

    Raises:
        OSError: A file cannot be written; nothing is noted as published.
        UnprovenError: The folder's checkpoint cannot be read.
    """
    folder = log_folder(log_dir, shard)
    with sessions.begin() as session:
        newest, shown = find_published(session, shard), read_published(folder)
        wanted = _find_wanted(session, shard, folder, newest, shown)
        if not wanted:
            return 0
        # The key of the checkpoint that is published last.
        terms = terms_in_force(session, shard, wanted[-1]).value
    key = VerifierKey(name=terms.log_origin, public_key=terms.log_key)
    write_file(folder / "log.vkey", format_verifier_key(key).encode() + b"\n")
    # Readers may know the larger of these: an older one would look like a rollback.
    known_size = max(one.tree_size if one else 0 for one in (newest, shown))
    for number in wanted:
        with sessions.begin() as session:
            checkpoint = find_checkpoint(session, shard, number)
            if checkpoint is None:
                raise EpochOrderError(number, got="no checkpoint", want="a computed epoch")
            files = _growth(session, shard, folder, checkpoint)
            files += _instruction_list(session, shard, number)
        _write_files(folder, files)
        if checkpoint.tree_size >= known_size:
            write_file(folder / "checkpoint", checkpoint.note)
            sync_folders([folder])
    with sessions.begin() as session:
        new = [number for number in wanted if newest is None or number > newest.epoch]
        mark_published(session, shard, new)
    return len(wanted)


def read_published(folder: Path) -> Checkpoint | None:
    """Return the checkpoint that readers of a log's folder are shown; None: there is none.

    Raises:
        UnprovenError: The file is no checkpoint.
        OSError: The file cannot be read.
    """
    path = folder / "checkpoint"
    if not path.exists():
        return None
    try:
        return parse_checkpoint(parse_note(path.read_bytes()).text)
    except MalformedError as error:
        raise UnprovenError(
            f"public log: got {path.name} that cannot be read ({error}), want the signed "
            "checkpoint or no file; without a file all of them are written again"
        ) from error


def _find_wanted(
    session: Session,
    shard: Shard,
    folder: Path,
    newest: StoredCheckpoint | None,
    shown: Checkpoint | None,
) -> list[int]:
    """Return the epochs whose files are to be written: the unpublished, or all of them."""
    unpublished, _ = find_unwritten(session, shard)
    if newest is None:
        return unpublished
    is_shown = shown is not None and shown.tree_size >= newest.tree_size
    if is_shown and (not unpublished or _has_edge(folder, newest)):
        return unpublished
    _log.error("log_written_again", folder=str(folder), tree_size=newest.tree_size)
    through = max([newest.epoch, *unpublished])
    return [one.epoch for one in list_checkpoints(session, shard) if one.epoch <= through]


def _growth(
    session: Session, shard: Shard, folder: Path, checkpoint: StoredCheckpoint
) -> list[tuple[str, bytes]]:
    """Return path and content of the files that a checkpoint's leaves add or change."""
    before = find_checkpoint_before(session, shard, checkpoint.tree_size)
    old_size = 0 if before is None else before.tree_size
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


def _write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write tiles and lists so that they last: the checkpoint that needs them appears after."""
    folders = {folder}
    for path, content in files:
        write_file(folder / path, content)
        folders.add((folder / path).parent)
    sync_folders(folders)
