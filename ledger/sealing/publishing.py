"""Publishing a log: static files of c2sp.org/tlog-tiles, made from the database alone.

Tiles first, the checkpoint last, each file whole or not at all: a reader never sees a checkpoint
whose tiles are missing. Writing again gives the same bytes, so a crash or a lost disk is mended by
running this again; `publish(…, anew=True)` makes every file.
"""

from pathlib import Path

from ledger.audit.address import format_account
from ledger.evidence.note import VerifierKey, format_verifier_key
from ledger.evidence.tile import growth_files_of
from ledger.sealing.files import sync_folders, write_file
from ledger.store.engine import SessionFactory
from ledger.store.epoch_store import (
    StoredCheckpoint,
    find_unwritten,
    list_checkpoints,
    load_leaves,
    mark_published,
)
from ledger.store.shard_store import Shard, terms_in_force


def log_folder(log_dir: Path, shard: Shard) -> Path:
    """Return the folder of a broadcaster's log."""
    return log_dir / format_account(shard.account)


def publish(sessions: SessionFactory, shard: Shard, log_dir: Path, *, anew: bool = False) -> int:
    """Write the files of all checkpoints that are not published.

    Args:
        sessions: Reads in one transaction; notes in a second one what was written.
        shard: Whose log.
        log_dir: Folder of all logs.
        anew: Write the files of published checkpoints too.

    Returns:
        How many checkpoints were published.

    Raises:
        OSError: A file cannot be written; nothing is noted as published.
    """
    with sessions.begin() as session:
        unpublished, _ = find_unwritten(session, shard)
        checkpoints = list_checkpoints(session, shard)
        wanted = [one.epoch for one in checkpoints] if anew else unpublished
        if not wanted:
            return 0
        leaves = load_leaves(session, shard)
        terms = terms_in_force(session, shard).value
    folder = log_folder(log_dir, shard)
    key = VerifierKey(name=terms.log_origin, public_key=terms.log_key)
    write_file(folder / "log.vkey", format_verifier_key(key).encode() + b"\n")
    before = 0
    for checkpoint in checkpoints:
        if checkpoint.epoch in wanted:
            _write_growth(folder, leaves, before, checkpoint)
        before = checkpoint.tree_size
    with sessions.begin() as session:
        mark_published(session, shard, wanted)
    return len(wanted)


def _write_growth(
    folder: Path, leaves: list[bytes], old_size: int, checkpoint: StoredCheckpoint
) -> None:
    folders = {folder}
    for path, content in growth_files_of(leaves, old_size, checkpoint.tree_size):
        write_file(folder / path, content)
        folders.add((folder / path).parent)
    # Tiles are durable before the checkpoint that needs them appears.
    sync_folders(folders)
    write_file(folder / "checkpoint", checkpoint.note)
    sync_folders([folder])
