"""Watching a log: every checkpoint goes on where the last one ended, or there is evidence.

The state file holds the last signed checkpoint that was believed, verbatim. A look reads the log's
checkpoint, proves from its tiles that the kept tree is its beginning, and that the key of the epoch
it closes signed it; only then it takes the kept one's place. O(log n) files a look.
"""

from dataclasses import dataclass
from pathlib import Path

from ledger.audit.errors import UndecidableError
from ledger.publiclog.folder import CHECKPOINT
from ledger.publiclog.heads import epoch_of_head, require_consistent
from ledger.publiclog.log_keys import LogKeys, SignedHead
from ledger.publiclog.source import LogSource, size_max
from ledger.sealing.files import sync_folders, write_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at a log found."""

    tree_size: int
    root: bytes
    epoch: int | None
    """Epoch that the checkpoint closes; None for an empty log."""

    old_size: int | None
    """Leaves of the checkpoint that was kept before; None: this is the first."""


def look_once(source: LogSource, state: Path, keys: LogKeys) -> Look:
    """Look at a log once.

    Args:
        source: The log.
        state: File with the last checkpoint; made by the first look.
        keys: Whose signature counts.

    Raises:
        ForkError: The log shows another history than it showed before; the state stays.
        DisprovenError: The checkpoint ends inside an epoch, or another epoch's key signed it.
        UndecidableError: The log cannot be read, shows an older tree, or the state is no
            checkpoint; the state stays.
        OSError: The state cannot be written.
    """
    kept = _read_state(state, keys)
    note = source.read(CHECKPOINT)
    if note is None:
        raise UndecidableError(f"{source.name}: got no checkpoint, want a signed one")
    head = keys.read_head(note)
    size = head.checkpoint.tree_size
    old_size = None if kept is None else kept.checkpoint.tree_size
    if kept is not None:
        _require_history(kept, head, source)
        if size < kept.checkpoint.tree_size:
            raise UndecidableError(
                f"{source.name}: got an older checkpoint of {size} leaves, want {old_size} or more"
            )
    epoch = epoch_of_head(head, source.read)
    if epoch is not None:
        keys.require_key_of(head, epoch)
    if kept is None or size > kept.checkpoint.tree_size:
        write_file(state, head.note)
        sync_folders([state.parent])
    return Look(tree_size=size, root=head.checkpoint.root_hash, epoch=epoch, old_size=old_size)


def _require_history(kept: SignedHead, head: SignedHead, source: LogSource) -> None:
    try:
        require_consistent(kept, head, source.read)
    except UndecidableError as error:
        size, old_size = head.checkpoint.tree_size, kept.checkpoint.tree_size
        if size < old_size:
            # The kept tree's files are needed, and a log that went back may not have them.
            raise UndecidableError(
                f"{source.name}: got a checkpoint of {size} leaves after one of {old_size}, "
                f"and no files that show its history: {error}"
            ) from error
        raise


def _read_state(state: Path, keys: LogKeys) -> SignedHead | None:
    try:
        with state.open("rb") as file:
            note = file.read(size_max(CHECKPOINT) + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UndecidableError(f"{state}: {error.strerror}") from None
    try:
        return keys.read_head(note)
    except UndecidableError as error:
        raise UndecidableError(f"{state}: {error}") from error
