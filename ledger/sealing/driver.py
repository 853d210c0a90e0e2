"""The driver: tries every transition that may be due, in order, until none is.

Called on a schedule, by any number of schedulers: a lock per broadcaster lets one of them work at a
time, and a run that was killed is continued by the next. It reads no clock and no network: ledger
time is how far the network's facts are complete in the database.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog

from ledger.sealing.audit_files import AuditFileParts, write_audit_file
from ledger.sealing.log_seeds import LogSeeds
from ledger.sealing.published_log import require_published_known
from ledger.sealing.publishing import publish
from ledger.sealing.transitions import close_to_bundles, compute, seal, settle
from ledger.store.engine import SessionFactory, try_advisory_lock
from ledger.store.epoch_store import EpochState, find_unwritten, list_in_state, open_epochs
from ledger.store.settlement_store import fact_progress
from ledger.store.shard_store import Shard, activation_in_force, terms_in_force

EPOCHS_AHEAD: Final = 2
"""Epochs that are open ahead of the current one."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingParts:
    """What sealing is done with."""

    sessions: SessionFactory
    log_seed: bytes = field(repr=False)
    """Seed of the log key."""

    log_dir: Path
    """Folder of all public logs."""

    audit: AuditFileParts | None
    """None: no audit files are written yet; they follow once there is."""

    next_log_seed: bytes | None = field(default=None, repr=False)
    """Seed of the log key that later terms name; None: no rotation is going on."""

    @property
    def log_seeds(self) -> LogSeeds:
        """Both seeds."""
        return LogSeeds(current=self.log_seed, next=self.next_log_seed)


def advance(parts: SealingParts, shard: Shard) -> int:
    """Do what is due for a broadcaster's epochs.

    Returns:
        How many transitions were done and files written; 0 also if another process is at it.

    Raises:
        BooksError: An epoch's books are unacceptable; the epochs before are safe, and a person
            has to look.
        UnprovenError: The database is not the one that the published log comes from, or was changed
            by hand; nothing is sealed.
        OSError: A file cannot be written; the next run tries again.
    """
    with parts.sessions.begin() as guard:
        if not try_advisory_lock(guard, f"advance {shard.account.hex()}"):
            return 0
        require_published_known(guard, shard, parts.log_dir)
        _open(parts.sessions, shard)
        # Files of finished epochs first: an epoch that nobody can compute must not hold them back.
        written = _write(parts, shard)
        return written + sum(_advance_epochs(parts, shard)) + _write(parts, shard)


def _open(sessions: SessionFactory, shard: Shard) -> None:
    with sessions.begin() as session:
        terms = terms_in_force(session, shard).value
        complete = fact_progress(session, shard.account)
        current = terms.first_epoch
        if complete is not None:
            current = max(current, terms.epoch_at(complete.close_time_s))
        open_epochs(session, shard, first=terms.first_epoch, last=current + EPOCHS_AHEAD)


def _advance_epochs(parts: SealingParts, shard: Shard) -> list[int]:
    sessions = parts.sessions
    steps: tuple[tuple[EpochState, Callable[[int], bool]], ...] = (
        (
            EpochState.OPEN,
            lambda number: (
                _is_ruled(parts, shard, number) and close_to_bundles(sessions, shard, number)
            ),
        ),
        (
            EpochState.SEALING,
            lambda number: seal(sessions, shard, number, _seed_of(parts, shard, number)),
        ),
        (
            EpochState.SEALED,
            lambda number: compute(sessions, shard, number, _seed_of(parts, shard, number)),
        ),
        (EpochState.COMPUTED, lambda number: settle(sessions, shard, number)),
    )
    done: list[int] = []
    progress = True
    while progress:
        progress = False
        for state, step in steps:
            for number in _numbers(sessions, shard, state):
                # In order: what is not due for an epoch is not due for a later one.
                if not step(number):
                    break
                _log.info("epoch_advanced", epoch=number, was=state.value)
                done.append(1)
                progress = True
    return done


def _is_ruled(parts: SealingParts, shard: Shard, number: int) -> bool:
    """Whether the DAO key that the trust file names for an epoch activated its rule.

    What is sealed under a key that was replaced nobody can prove any more. While the epoch is open,
    an activation that begins with it is still taken, and bundles for it are.
    """
    if parts.audit is None:
        return True
    with parts.sessions.begin() as session:
        got = activation_in_force(session, shard, number).value.dao_key
    want = parts.audit.trust.dao_key_at(number)
    if got != want:
        _log.error("dao_key_without_activation", epoch=number, got=got.hex(), want=want.hex())
    return got == want


def _seed_of(parts: SealingParts, shard: Shard, number: int) -> bytes:
    """Return the seed of the log key that an epoch's terms name."""
    with parts.sessions.begin() as session:
        log_key = terms_in_force(session, shard, number).value.log_key
    return parts.log_seeds.of_key(log_key)


def _numbers(sessions: SessionFactory, shard: Shard, state: EpochState) -> list[int]:
    with sessions.begin() as session:
        return list_in_state(session, shard, state)


def _write(parts: SealingParts, shard: Shard) -> int:
    written = publish(parts.sessions, shard, parts.log_dir)
    if parts.audit is None:
        return written
    with parts.sessions.begin() as session:
        _, unaudited = find_unwritten(session, shard)
    for number in unaudited:
        seed = _seed_of(parts, shard, number)
        audit = replace(parts.audit, log_seed=seed, log_dir=parts.log_dir)
        path = write_audit_file(parts.sessions, shard, number, audit)
        _log.info("audit_file_written", epoch=number, path=str(path))
    return written + len(unaudited)
