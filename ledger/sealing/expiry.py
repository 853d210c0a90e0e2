"""Expiry of what is in an epoch's audit file: the file is read once more, then the rows go.

Run on a schedule, by any number of workers. Bundles' bytes and merged receipts go once the epoch
and the two after it are settled and filed; lanes once no late receipt of theirs can count any more.
What stays of an epoch is what the log is made of, and a row a bundle. Broadcasters of one database
share partitions by the epoch's number: one goes when all who have bundles in it are done with it.
Not here: erasing what names viewers, the file itself included (`ledger.store.erasing`).
"""

import hashlib
from pathlib import Path
from typing import Final

import structlog

from ledger.store.engine import DatabaseUnavailableError, Session, SessionFactory, try_advisory_lock
from ledger.store.erasure_store import longest_window
from ledger.store.expiry_store import (
    EVIDENCE,
    LANES,
    drop_partitions,
    has_bundles,
    list_filed,
    list_partitions,
    list_sharers,
)
from ledger.store.shard_store import Shard

EPOCHS_KEPT: Final = 2
"""Filed epochs that keep their rows: time in which the folder of audit files is copied away."""

_READ_BYTES: Final = 1 << 20

_log = structlog.get_logger(__name__)


def expire(sessions: SessionFactory, shard: Shard, audit_dir: Path) -> int:
    """Drop the partitions of a broadcaster's epochs that nothing needs any more.

    Args:
        sessions: One commit is made a partition.
        shard: Whose epochs.
        audit_dir: Folder of its audit files.

    Returns:
        How many epochs' partitions were dropped, evidence and lanes counted apart.
    """
    with sessions.begin() as guard:
        if not try_advisory_lock(guard, f"expire {shard.account.hex()}"):
            return 0
        filed = list_filed(guard, shard)
        evidence = _due(guard, shard, EVIDENCE)
        lanes = _due(guard, shard, LANES)
        dropped = 0
        for epoch in evidence:
            if _is_file_whole(audit_dir / f"epoch-{epoch}.audit", filed[epoch]):
                dropped += _drop(sessions, EVIDENCE, epoch)
            else:
                _log.error("audit_file_not_whole", epoch=epoch, folder=str(audit_dir))
        return dropped + sum(_drop(sessions, LANES, epoch) for epoch in lanes)


def _due(session: Session, shard: Shard, parents: tuple[str, ...]) -> list[int]:
    """Return epochs whose partitions the broadcaster needs no longer, nor another one in them."""
    epochs = _finished(session, shard, parents, list_partitions(session, parents[0]))
    for other in list_sharers(session, shard):
        shared = [epoch for epoch in epochs if has_bundles(session, other, epoch)]
        needed = set(shared) - set(_finished(session, other, parents, shared))
        epochs = [epoch for epoch in epochs if epoch not in needed]
    return epochs


def _finished(
    session: Session, shard: Shard, parents: tuple[str, ...], epochs: list[int]
) -> list[int]:
    """Return epochs that are filed, and so many after them too, as one broadcaster needs it."""
    later = EPOCHS_KEPT
    if parents == LANES:
        later = max(later, longest_window(session, shard))
    filed = list_filed(session, shard)
    return [
        epoch
        for epoch in epochs
        if all(number in filed for number in range(epoch, epoch + later + 1))
    ]


def _drop(sessions: SessionFactory, parents: tuple[str, ...], epoch: int) -> int:
    try:
        with sessions.begin() as session:
            drop_partitions(session, parents, epoch)
    except DatabaseUnavailableError as error:
        _log.warning("expiry_put_off", epoch=epoch, error=str(error.orig))
        return 0
    _log.info("epoch_expired", epoch=epoch, tables=parents)
    return 1


def _is_file_whole(path: Path, digest: bytes) -> bool:
    """Tell whether a file is there and has this SHA-256."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                found.update(block)
    except FileNotFoundError:
        return False
    return found.digest() == digest
