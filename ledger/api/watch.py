"""A thread that looks at the database for back-pressure and metrics, and sweeps what is done with.

Requests never wait for it. Once a second the backlog and the disks; every ten seconds verdicts,
epochs, uploads and sizes; every thirty seconds idle uploads and the provisional reports of sealed
epochs are dropped. A look that fails is told and tried again.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from ledger.api.coverage import CoverageReader
from ledger.api.ledger_time import LedgerTimeSource
from ledger.api.limits import IntakeLimits
from ledger.api.metrics import ApiMetrics
from ledger.api.pressure import Pressure
from ledger.store.coverage_store import EscrowLevel
from ledger.store.engine import (
    DatabaseUnavailableError,
    PoolExhaustedError,
    SessionFactory,
    connections_in_use,
)
from ledger.store.errors import UnknownBroadcasterError
from ledger.store.monitor_store import (
    VERDICTS_PER_LOOK,
    EpochProgress,
    Verdict,
    database_size,
    list_epoch_progress,
    list_verdicts,
    newest_bundle_id,
    verdicts_complete_to,
)
from ledger.store.settlement_store import count_halted
from ledger.store.shard_store import find_shard, terms_in_force
from ledger.store.totals_store import drop_sealed_reports
from ledger.store.upload_store import drop_idle, measure_uploads

LOOK_S: Final = 1.0
COUNT_S: Final = 10.0
SWEEP_S: Final = 30.0
SWEPT_MAX: Final = 1_000

_log = structlog.get_logger(__name__)


class Watch:
    """Looks until stopped."""

    def __init__(
        self,
        *,
        sessions: SessionFactory,
        ledger_time: LedgerTimeSource,
        limits: IntakeLimits,
        pressure: Pressure,
        metrics: ApiMetrics,
        coverage: CoverageReader,
    ) -> None:
        """Begin to look with `start`."""
        self._sessions = sessions
        self._ledger_time = ledger_time
        self._limits = limits
        self._pressure = pressure
        self._metrics = metrics
        self._coverage = coverage
        self._levels: dict[bytes, EscrowLevel] = {}
        self._verdicts: _VerdictCursor | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; returns when the thread has ended."""
        self._stop.set()
        self._thread.join(timeout=10)

    def look(self) -> None:
        """Look at what back-pressure needs.

        Raises:
            DatabaseUnavailableError: The database does not answer.
        """
        seen = self._pressure.look()
        metrics = self._metrics
        metrics.set_backlogs(seen.backlogs)
        for folder, free in seen.disk_free.items():
            metrics.disk_free.labels(folder).set(free)
        for reason, holds in self._pressure.reasons().items():
            metrics.pressure.labels(reason).set(holds)
        metrics.connections.set(connections_in_use(self._sessions))
        now = self._ledger_time.read()
        metrics.ledger_time_age_s.set(-1 if now is None else now.age_ms / 1_000)

    def count(self) -> None:
        """Count what only metrics need.

        Raises:
            DatabaseUnavailableError: The database does not answer.
        """
        with self._sessions.begin() as session:
            if self._verdicts is None:
                self._verdicts = _VerdictCursor(newest_bundle_id(session))
            complete = verdicts_complete_to(session)
            verdicts = list_verdicts(session, after=self._verdicts.low)
            while len(verdicts) % VERDICTS_PER_LOOK == 0 and verdicts:
                more = list_verdicts(session, after=verdicts[-1].bundle_id)
                if not more:
                    break
                verdicts += more
            progress = list_epoch_progress(session)
            uploads = measure_uploads(session)
            size = database_size(session)
        metrics = self._metrics
        metrics.count_verdicts(self._verdicts.take(verdicts, complete))
        for each in progress:
            metrics.begin_broadcaster(each.account)
            metrics.set_epochs(each, self._lag_s(each))
            self._look_at_escrow(each.account)
        metrics.uploads.set(uploads[0])
        metrics.upload_bytes.set(uploads[1])
        metrics.database_bytes.set(size)

    def _look_at_escrow(self, account: bytes) -> None:
        """Tell what is left of the deposits, and say so when its level changes."""
        try:
            with self._sessions.begin() as session:
                shard = find_shard(session, account)
                answer = self._coverage.read(session, shard)
                halts = count_halted(session, account)
        except UnknownBroadcasterError:
            return
        level = EscrowLevel(answer["level"])
        self._metrics.set_escrow(account, answer["free_stroops"], level)
        self._metrics.halts.labels(answer["broadcaster"]).set(halts)
        if self._levels.get(account, EscrowLevel.COVERED) != level:
            tell = _log.info if level is EscrowLevel.COVERED else _log.warning
            tell(
                f"escrow_{level}",
                broadcaster=answer["broadcaster"],
                free_stroops=answer["free_stroops"],
            )
        self._levels[account] = level

    def sweep(self) -> None:
        """Drop uploads that nobody goes on with and the reports of sealed epochs.

        Raises:
            DatabaseUnavailableError: The database does not answer.
        """
        now = datetime.now(UTC)
        with self._sessions.begin() as session:
            dropped = drop_idle(
                session,
                unfinished_before=now - timedelta(seconds=self._limits.upload_keep_s),
                answered_before=now - timedelta(seconds=self._limits.answer_keep_s),
                limit=SWEPT_MAX,
            )
            drop_sealed_reports(session)
        if dropped:
            _log.info("uploads_dropped", count=len(dropped))

    def _lag_s(self, progress: EpochProgress) -> float:
        now = self._ledger_time.read()
        if now is None or progress.oldest_unsettled is None:
            return 0.0
        try:
            with self._sessions.begin() as session:
                shard = find_shard(session, progress.account)
                terms = terms_in_force(session, shard).value
        except UnknownBroadcasterError:
            return 0.0
        return float(now.now_s - terms.epoch_end_s(progress.oldest_unsettled))

    def _run(self) -> None:
        beats: list[tuple[Callable[[], None], float]] = [
            (self.look, LOOK_S),
            (self.count, COUNT_S),
            (self.sweep, SWEEP_S),
        ]
        due_s = [0.0] * len(beats)
        while not self._stop.is_set():
            now_s = time.monotonic()
            for place, (beat, every_s) in enumerate(beats):
                if now_s >= due_s[place]:
                    due_s[place] = now_s + every_s
                    self._guard(beat)
            self._stop.wait(LOOK_S)

    def _guard(self, beat: Callable[[], None]) -> None:
        try:
            beat()
        except (DatabaseUnavailableError, PoolExhaustedError) as error:
            self._metrics.database_up.set(0)
            _log.warning("watch_failed", what=beat.__name__, error=str(error))
        else:
            self._metrics.database_up.set(1)
            self._metrics.looked_at.set_to_current_time()


class _VerdictCursor:
    """Which bundles' verdicts were counted: all up to `low`, and some above."""

    def __init__(self, low: int) -> None:
        self.low = low
        self._above: set[int] = set()

    def take(self, verdicts: list[Verdict], complete: int) -> list[Verdict]:
        """Return those that were not counted yet, and go on.

        Args:
            verdicts: All above `low`.
            complete: Up to which id every bundle had its verdict before they were read.
        """
        news = [each for each in verdicts if each.bundle_id not in self._above]
        self.low = max(self.low, complete)
        self._above = {each.bundle_id for each in verdicts if each.bundle_id > self.low}
        return news
