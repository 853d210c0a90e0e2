"""Writing audit files: once an epoch's checkpoint is anchored, its file says everything about it.

The file is made from the database alone and comes out the same however often; the database keeps
its digest. Not here: the file's format (`ledger.audit.file`) and its proof (`ledger.audit.verify`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ledger.audit.compose import LogView, Notes, compose_contents
from ledger.audit.counts import CountEvidence, prove_counts
from ledger.audit.file import AuditContents, generate_audit_file
from ledger.audit.trust import Trust
from ledger.books.epoch import compute_epoch
from ledger.books.gathering import gather_checks
from ledger.books.lanes import format_lane_entries
from ledger.sealing.files import sync_folders, write_pieces
from ledger.sealing.inputs import late_lanes
from ledger.sealing.transitions import Replay, replay_seal, require_epoch
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import (
    EpochState,
    find_checkpoint,
    first_epoch,
    load_leaves,
    store_audit_digest,
)
from ledger.store.errors import EpochOrderError
from ledger.store.lane_store import load_lanes
from ledger.store.settlement_store import anchor_fact
from ledger.store.shard_store import Shard, activation_in_force, issuing_binding


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFileParts:
    """What audit files are made with besides the database."""

    audit_dir: Path
    """Folder of the files `epoch-N.audit`."""

    trust: Trust
    """The published trust; files name its digest."""

    log_seed: bytes
    """Seed of the log key, which signs them."""


def write_audit_file(
    sessions: SessionFactory, shard: Shard, number: int, parts: AuditFileParts
) -> Path:
    """Write a settled epoch's audit file and note its digest.

    Raises:
        EpochOrderError: The epoch is not settled.
        OSError: The file cannot be written; nothing is noted.
    """
    path = parts.audit_dir / f"epoch-{number}.audit"
    digest = hashlib.sha256()
    with sessions.begin() as session:
        contents = _contents_of(session, shard, number, parts)
        pieces = generate_audit_file(contents, parts.log_seed)
        write_pieces(path, _hashed(pieces, digest.update))
    sync_folders([parts.audit_dir])
    with sessions.begin() as session:
        store_audit_digest(session, shard, number, digest.digest())
    return path


def _hashed(pieces: Iterable[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in pieces:
        update(piece)
        yield piece


def _contents_of(
    session: Session, shard: Shard, number: int, parts: AuditFileParts
) -> AuditContents:
    epoch = require_epoch(session, shard, number)
    anchor = anchor_fact(session, shard.account, number)
    checkpoint = find_checkpoint(session, shard, number)
    if epoch.state != EpochState.SETTLED or anchor is None or checkpoint is None:
        raise EpochOrderError(number, got=epoch.state, want=EpochState.SETTLED)
    replay = replay_seal(session, shard, epoch, parts.log_seed)
    previous = find_checkpoint(session, shard, number - 1)
    leaves = load_leaves(session, shard, end=epoch.result_size)
    log = LogView(
        leaves=leaves,
        first_leaf_index=epoch.opening_size or 0,
        activation_index=_activation_index(session, shard, number, leaves),
        previous_result_index=_result_index(session, shard, number - 1),
    )
    return compose_contents(
        inputs=replay.inputs,
        seal=replay.seal,
        result=compute_epoch(replay.inputs, replay.seal),
        log=log,
        notes=Notes(
            trust_digest=parts.trust.digest,
            issuing_binding=issuing_binding(
                session, shard, replay.inputs.terms.value.issuing_key, number
            ).raw,
            previous_checkpoint=b"" if previous is None else previous.note,
            checkpoint=checkpoint.note,
        ),
        counts=_count_evidence(session, shard, replay, log),
        anchor=anchor,
    )


def _activation_index(session: Session, shard: Shard, number: int, leaves: list[bytes]) -> int:
    return leaves.index(activation_in_force(session, shard, number).raw)


def _result_index(session: Session, shard: Shard, number: int) -> int | None:
    """The result leaf follows the seal leaf; None before the log's first epoch."""
    begin = first_epoch(session, shard)
    if begin is None or number < begin:
        return None
    return require_epoch(session, shard, number).sealed_size


def _count_evidence(
    session: Session, shard: Shard, replay: Replay, log: LogView
) -> list[CountEvidence]:
    inputs = replay.inputs
    late = late_lanes(gather_checks(inputs.checks), inputs.opening, inputs.epoch)
    evidence: list[CountEvidence] = []
    for epoch in sorted(set(late.values())):
        entries = format_lane_entries(load_lanes(session, shard, epoch))
        index = _result_index(session, shard, epoch)
        if index is None:
            raise EpochOrderError(epoch, got="before the log", want="an epoch of the log")
        result = log.prove(index)
        lanes = sorted(digest for digest, of_epoch in late.items() if of_epoch == epoch)
        evidence.extend(prove_counts(lanes, entries, result))
    return evidence
