"""Retention and erasure: which epochs' viewer material goes, in the database and on the disk.

An epoch may go once it and every epoch that can hold its late receipts have their audit files (the
terms' correction window), and no earlier than the operator keeps evidence for disputes. The rows go
first, in one transaction an epoch; then the operator's own audit file, which holds the raw bundles.
A run that was stopped between the two is finished by the next. Files that parties keep are theirs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

from ledger.store.engine import SessionFactory
from ledger.store.erasure_store import (
    Reason,
    drop_empty_partitions,
    erase_epoch,
    erase_passing,
    find_viewer,
    list_erasable,
    list_erased,
    longest_window,
)
from ledger.store.expiry_store import list_without_bytes
from ledger.store.shard_store import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What an erasure did."""

    epochs: tuple[int, ...]
    """Epochs erased now."""

    bundles: int
    waiting: tuple[int, ...]
    """Epochs that name the viewer and may not be erased yet; run again later."""

    passing_rows: int
    """Relay frames and provisional reports deleted."""

    audit_files: tuple[str, ...]
    """The operator's audit files deleted."""


def erase_viewer(
    sessions: SessionFactory, shard: Shard, key: bytes, audit_dir: Path | None
) -> Erased:
    """Erase every epoch that names a viewer's key, as far as its window is over.

    Args:
        sessions: The database.
        shard: Whose viewer.
        key: Session key; 32 bytes.
        audit_dir: The operator's folder of audit files; None: there is none here.

    Raises:
        OSError: An audit file cannot be deleted; the next run tries again.
    """
    with sessions.begin() as session:
        window = longest_window(session, shard)
        found = find_viewer(session, shard, key)
        found |= _find_in_files(audit_dir, list_without_bytes(session, shard), key)
        due = sorted(found & set(list_erasable(session, shard, window)))
        passing = erase_passing(session, key)
    bundles = _erase(sessions, shard, due, window, Reason.VIEWER)
    return Erased(
        epochs=tuple(due),
        bundles=bundles,
        waiting=tuple(sorted(found - set(due))),
        passing_rows=passing,
        audit_files=_delete_files(sessions, shard, audit_dir),
    )


def erase_older(
    sessions: SessionFactory, shard: Shard, keep_epochs: int, audit_dir: Path | None
) -> Erased:
    """Erase every epoch that is older than the newest settled one by more than `keep_epochs`.

    Args:
        sessions: The database.
        shard: Whose epochs.
        keep_epochs: How many settled epochs keep their evidence; at least the correction window.
        audit_dir: The operator's folder of audit files; None: there is none here.

    Raises:
        OSError: An audit file cannot be deleted; the next run tries again.
    """
    with sessions.begin() as session:
        window = max(keep_epochs, longest_window(session, shard))
        due = list_erasable(session, shard, window)
    bundles = _erase(sessions, shard, due, window, Reason.RETENTION)
    return Erased(
        epochs=tuple(due),
        bundles=bundles,
        waiting=(),
        passing_rows=0,
        audit_files=_delete_files(sessions, shard, audit_dir),
    )


def _find_in_files(audit_dir: Path | None, epochs: Iterable[int], key: bytes) -> set[int]:
    """Return the epochs whose audit files hold a key; bundles that expired stand only there."""
    found: set[int] = set()
    for epoch in epochs if audit_dir is not None else ():
        path = Path(audit_dir or "") / f"epoch-{epoch}.audit"
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                if data.find(key) >= 0:
                    found.add(epoch)
    return found


def _erase(
    sessions: SessionFactory, shard: Shard, epochs: Iterable[int], window: int, reason: Reason
) -> int:
    bundles = 0
    for epoch in epochs:
        with sessions.begin() as session:
            bundles += erase_epoch(session, shard, epoch, window_epochs=window, reason=reason)
        with sessions.begin() as session:
            drop_empty_partitions(session, [epoch])
    return bundles


def _delete_files(
    sessions: SessionFactory, shard: Shard, audit_dir: Path | None
) -> tuple[str, ...]:
    if audit_dir is None or not audit_dir.is_dir():
        return ()
    with sessions.begin() as session:
        erased = list_erased(session, shard)
    paths = [audit_dir / f"epoch-{epoch}.audit" for epoch in erased]
    gone = [path for path in paths if path.is_file()]
    for path in gone:
        path.unlink()
    return tuple(path.name for path in gone)
