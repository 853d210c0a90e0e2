"""Back-pressure: says no before anything is lost, and to everybody alike.

A bundle is refused with 503 while too many bundles wait for their verdict (in all, or of one
broadcaster), while a disk is nearly full, and with 429 when its submitter takes more than its
share. What waits is counted in the database once a second, for all processes together; what this
process takes in between is added, so P processes may pass a limit by what they take in a second.
Nothing that was promised is ever dropped. Not here: the rate of requests (`pacing`, `gate`).
"""

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from ledger.api.answers import RefusedError
from ledger.api.limits import IntakeLimits
from ledger.store.engine import Session, SessionFactory
from ledger.store.monitor_store import Backlog, count_waiting_of, measure_backlog

BACKLOG_RETRY_S: Final = 5
"""Workers judge some thousand receipts a second: a full backlog takes seconds to shrink."""

DISK_RETRY_S: Final = 60

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen at one look."""

    backlogs: Mapping[bytes, Backlog] = field(default_factory=dict)
    """By broadcaster's account."""
    disk_free: Mapping[str, int] = field(default_factory=dict)
    """Bytes free by folder."""


class Pressure:
    """Knows how much waits and whether more may be taken; safe from any thread."""

    def __init__(self, sessions: SessionFactory, limits: IntakeLimits, log_dir: Path) -> None:
        """Begin with nothing seen: until the first look only what is taken here counts."""
        self._sessions = sessions
        self._limits = limits
        self._dirs = (log_dir, *limits.disk_dirs)
        self._lock = threading.RLock()
        self._seen = Look()
        self._taken: dict[bytes, tuple[int, int]] = {}
        """Stored since the last look, by account: bundles, bytes."""
        self._held: dict[bytes, tuple[int, int]] = {}
        """Being stored now."""

    def look(self) -> Look:
        """Count what waits and what is free.

        Raises:
            DatabaseUnavailableError: The database does not answer; what was seen stays.
        """
        with self._lock:
            before = dict(self._taken)
        with self._sessions.begin() as session:
            backlogs = {backlog.account: backlog for backlog in measure_backlog(session)}
        seen = Look(backlogs=backlogs, disk_free=_measure_disks(self._dirs))
        with self._lock:
            self._seen = seen
            # What came in while the database counted may be counted twice, never not at all.
            for account, (bundles, size) in before.items():
                _add(self._taken, account, -bundles, -size)
        return seen

    @property
    def seen(self) -> Look:
        """What the last look saw."""
        with self._lock:
            return self._seen

    @property
    def is_tight(self) -> bool:
        """Whether more than half of what may wait does: fair shares and luxuries end here."""
        bundles, size = self._sum()
        limits = self._limits
        return bundles * 2 >= limits.backlog_bundles or size * 2 >= limits.backlog_bytes

    def reasons(self) -> dict[str, bool]:
        """Return every reason to take nothing in, and whether it holds now."""
        bundles, size = self._sum()
        return {
            "backlog_full": bundles >= self._limits.backlog_bundles
            or size >= self._limits.backlog_bytes,
            "disk_low": self._is_disk_low(),
        }

    def require_disk(self) -> None:
        """Refuse while a disk is nearly full.

        Raises:
            RefusedError: 503.
        """
        if self._is_disk_low():
            raise RefusedError(503, "disk_low", retry_after_s=DISK_RETRY_S)

    def require_room(self) -> None:
        """Refuse before any work is done, while a disk is nearly full or too much waits in all.

        Raises:
            RefusedError: 503.
        """
        self.require_disk()
        if self.reasons()["backlog_full"]:
            raise _refuse_backlog("backlog_full")

    def require_share(self, submitter_key: bytes, session: Session) -> None:
        """Refuse a submitter that has its share of a backlog that is over half full.

        Args:
            submitter_key: The bundle's; its signature was verified.
            session: In a transaction, to count what waits of this submitter.

        Raises:
            RefusedError: 429.
        """
        share = self._limits.fair_bundles
        if not self.is_tight:
            return
        waiting = count_waiting_of(session, submitter_key, at_most=share)
        if waiting >= share:
            raise RefusedError(
                429,
                "sender_backlog_full",
                field="bundle.submitter_key",
                got=f"{waiting} bundles that wait",
                want=f"fewer than {share}",
                retry_after_s=BACKLOG_RETRY_S,
            )

    @contextmanager
    def place(self, account: bytes, size_bytes: int) -> Iterator["Place"]:
        """Hold a place in the backlog while a bundle is stored.

        Args:
            account: Its broadcaster's.
            size_bytes: Of the bundle.

        Raises:
            RefusedError: 503, too much waits, in all or of this broadcaster.
        """
        self._take_place(account, size_bytes)
        place = Place()
        try:
            yield place
        finally:
            with self._lock:
                _add(self._held, account, -1, -size_bytes)
                if place.is_used:
                    _add(self._taken, account, 1, size_bytes)

    def _take_place(self, account: bytes, size_bytes: int) -> None:
        limits, share = self._limits, self._limits.broadcaster_percent
        # Looked at and taken under one lock: requests at hand cannot pass a limit together.
        with self._lock:
            bundles, size = self._sum()
            if bundles >= limits.backlog_bundles or size >= limits.backlog_bytes:
                raise _refuse_backlog("backlog_full")
            own_bundles, own_size = self._sum(account)
            if (
                own_bundles * 100 >= limits.backlog_bundles * share
                or own_size * 100 >= limits.backlog_bytes * share
            ):
                raise _refuse_backlog("broadcaster_backlog_full")
            _add(self._held, account, 1, size_bytes)

    def _sum(self, account: bytes | None = None) -> tuple[int, int]:
        """Return bundles and bytes that wait, of one broadcaster or of all."""
        with self._lock:
            bundles = size = 0
            for one, backlog in self._seen.backlogs.items():
                if account in {None, one}:
                    bundles += backlog.bundle_count
                    size += backlog.byte_count
            for counts in (self._taken, self._held):
                for one, (count, byte_count) in counts.items():
                    if account in {None, one}:
                        bundles += count
                        size += byte_count
        return bundles, size

    def _is_disk_low(self) -> bool:
        return any(free < self._limits.disk_free_bytes for free in self.seen.disk_free.values())


@dataclass(slots=True)
class Place:
    """A place in the backlog; set `is_used` once the bundle is durable."""

    is_used: bool = False


def _add(counts: dict[bytes, tuple[int, int]], account: bytes, bundles: int, size: int) -> None:
    had = counts.pop(account, (0, 0))
    now = had[0] + bundles, had[1] + size
    if now != (0, 0):
        counts[account] = now


def _refuse_backlog(code: str) -> RefusedError:
    return RefusedError(503, code, retry_after_s=BACKLOG_RETRY_S)


def _measure_disks(dirs: tuple[Path, ...]) -> dict[str, int]:
    """Return the free bytes of the folders' disks; a folder that is not there yet says nothing."""
    free: dict[str, int] = {}
    for folder in dirs:
        try:
            free[str(folder)] = shutil.disk_usage(folder).free
        except OSError as error:
            _log.debug("disk_not_measured", folder=str(folder), error=str(error))
    return free
