"""Writing audit files: once an epoch's checkpoint is anchored, its file says everything about it.

The file is made from the database, and from the log's files as far as the signed root vouches for
them; it comes out the same however often, and the database keeps its digest. Not here: the file's
format (`ledger.audit.file`) and its proof (`ledger.audit.verify`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ledger.audit.compose import EpochLog, Notes, compose_contents
from ledger.audit.counts import CountEvidence, prove_counts
from ledger.audit.file import AuditContents, generate_audit_file
from ledger.audit.trust import Trust
from ledger.books.epoch import compute_epoch
from ledger.books.gathering import gather_checks
from ledger.books.lanes import format_lane_entries
from ledger.sealing.files import sync_folders, write_pieces
from ledger.sealing.inputs import late_lanes
from ledger.sealing.log_reading import open_log
from ledger.sealing.publishing import log_folder
from ledger.sealing.transitions import replay_seal, require_epoch
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import (
    EpochState,
    find_checkpoint,
    first_epoch,
    store_audit_digest,
)
from ledger.store.errors import EpochOrderError
from ledger.store.lane_store import load_lanes
from ledger.store.settlement_store import anchor_fact
from ledger.store.shard_store import Shard, issuing_binding


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFileParts:
    """What audit files are made with besides the database."""

    audit_dir: Path
    """Folder of the files `epoch-N.audit`."""

    trust: Trust
    """The published trust; files name its digest."""

    log_seed: bytes = field(repr=False)
    """Seed of the log key, which signs them."""

    log_dir: Path | None = None
    """Folder of all public logs; None: logs are read from the database."""


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
    late = late_lanes(gather_checks(replay.inputs.checks), replay.inputs.opening, number)
    results = {epoch: _result_index(session, shard, epoch) for epoch in sorted(set(late.values()))}
    log = open_log(
        session,
        shard,
        epoch,
        checkpoint,
        frontier=replay.frontier,
        previous_result_index=_result_index(session, shard, number - 1),
        needed=[index for index in results.values() if index is not None],
        folder=None if parts.log_dir is None else log_folder(parts.log_dir, shard),
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
        counts=_count_evidence(session, shard, late, results, log),
        anchor=anchor,
    )


def _result_index(session: Session, shard: Shard, number: int) -> int | None:
    """The result leaf follows the seal leaf; None before the log's first epoch."""
    begin = first_epoch(session, shard)
    if begin is None or number < begin:
        return None
    return require_epoch(session, shard, number).sealed_size


def _count_evidence(
    session: Session,
    shard: Shard,
    late: Mapping[bytes, int],
    results: Mapping[int, int | None],
    log: EpochLog,
) -> list[CountEvidence]:
    evidence: list[CountEvidence] = []
    for epoch, index in results.items():
        if index is None:
            raise EpochOrderError(epoch, got="before the log", want="an epoch of the log")
        entries = format_lane_entries(load_lanes(session, shard, epoch))
        lanes = sorted(digest for digest, of_epoch in late.items() if of_epoch == epoch)
        evidence.extend(prove_counts(lanes, entries, log.prove(index)))
    return evidence
