"""Makes what was committed durable, in a thread of its own, and tells when it is.

Journal and spool are SQLite files in WAL mode whose commits only write. This thread syncs their
logs, one sync for whatever was committed until then, and carries the logs over into the files now
and then. So a disk that does not answer holds up this thread and what waits for it (receipts and
their answers, bundles, reports: persisted before sent), and nobody else: not the meter's pump, not
the event loop, not the picture.

A sync that fails says nothing about what reached the disk, even when the next one succeeds; so
after it the logs are carried over, which writes their content anew.

Not here: what waits (`lanes`, `exchange`, `uploader`), transactions (`journal`, `spool`).
Source: https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue

from engine_plugin.errors import EngineError

UNASKED_S = 1.0
"""What nobody waits for is durable so long after it was committed, at the next tick."""

LATE_S = 2.0
"""A disk that takes longer is told of."""

RETRY_S = 1.0
CARRY_OVER_ROUNDS = 128
"""After so many syncs the logs are carried over into their files."""

FINISH_S = 2.0
"""How long the end of a run waits for the last sync."""


class DiskSync:
    """The thread of one engine run; asked from the event loop's thread."""

    def __init__(
        self,
        fail: Callable[[str, str], None],
        *,
        sync: Callable[[int], None] = os.fdatasync,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start it, from the event loop that will ask and be told.

        Args:
            fail: Takes where something failed, and how, in the event loop's thread.
            sync: Makes a file's content durable, by its descriptor; raises OSError.
            clock: Monotonic seconds.
        """
        self.on_durable: list[Callable[[int], None]] = []
        """Told in the event loop's thread up to which ticket everything is durable."""
        self._fail = fail
        self._sync = sync
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._dirty: dict[Path, bool] = {}
        """Whether there are commits in a database that no sync has begun to cover."""
        self._logs: dict[Path, int] = {}
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_woken = False
        self._asked = self._done = 0
        self._asked_s: float | None = None
        """Since when somebody waits; None: nobody does."""
        self._last_s = clock()
        self._must_rewrite = False
        self._rounds = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    def adopt(self, path: Path, connection: sqlite3.Connection) -> None:
        """Sync a database from now on in place of its connection.

        Raises:
            sqlite3.Error: The connection refused.
        """
        # NORMAL still syncs a log that begins anew before it is written to: the order of the
        # writes of a log and its file is SQLite's own matter.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._dirty[path] = True

    def note_commit(self, path: Path) -> None:
        """Take note that something was committed to a database; any thread."""
        self._dirty[path] = True

    def request(self) -> int:
        """Ask that everything committed so far become durable.

        Returns:
            The ticket that `on_durable` will name or pass.
        """
        now_s = self._clock()
        self._asked += 1
        if self._asked_s is None:
            self._asked_s = now_s
        self._last_s = now_s
        if not self._is_woken:
            self._is_woken = True
            self._wake.put(None)
        return self._asked

    async def reach(self) -> None:
        """Wait until everything committed so far is durable."""
        ticket, waiter = self.request(), self._loop.create_future()

        def end(durable: int) -> None:
            if durable >= ticket and not waiter.done():
                waiter.set_result(None)

        self.on_durable.append(end)
        try:
            await waiter
        finally:
            self.on_durable.remove(end)

    def tick(self) -> None:
        """Ask for what nobody waits for, and tell of a disk that does not answer. Call it often."""
        now_s = self._clock()
        if now_s - self._last_s >= UNASKED_S and any(self._dirty.values()):
            self.request()
        if self._asked_s is not None and now_s - self._asked_s >= LATE_S:
            self._fail("disk", "the state folder's disk does not answer; receipts wait for it")

    def finish(self, timeout_s: float = FINISH_S) -> bool:
        """End the thread after a last sync; asking twice is the same as once.

        Returns:
            Whether it ended. If not, the disk hangs, and closing a database would hang as well.
        """
        if not self._ends.is_set():
            self._ends.set()
            self._asked += 1
            self._wake.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        target = -1
        while not (self._ends.is_set() and target == self._asked):
            self._wake.get()
            self._is_woken = False
            target = self._asked
            self._work(target)
        for log in self._logs.values():
            os.close(log)
        self._logs.clear()

    def _work(self, target: int) -> None:
        """Sync until it succeeds, and say so."""
        while True:
            try:
                if self._must_rewrite:
                    self._carry_over("TRUNCATE")
                self._sync_dirty()
            except (OSError, sqlite3.Error, EngineError) as error:
                self._must_rewrite = True
                self._call(self._fail, "disk", f"{type(error).__name__}: {error}")
                if self._ends.wait(RETRY_S):
                    return
                continue
            self._must_rewrite = False
            break
        self._call(self._tell, target)
        self._rounds += 1
        if self._rounds >= CARRY_OVER_ROUNDS or self._ends.is_set():
            self._rounds = 0
            with suppress(sqlite3.Error):  # the log goes on growing until it works again
                self._carry_over("PASSIVE")

    def _sync_dirty(self) -> None:
        for path, is_dirty in list(self._dirty.items()):
            if is_dirty:
                # What is committed from here on is for the next sync.
                self._dirty[path] = False
                try:
                    self._sync(self._log_of(path))
                except BaseException:
                    self._dirty[path] = True
                    raise

    def _log_of(self, path: Path) -> int:
        log = self._logs.get(path)
        if log is None:
            log = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
            self._logs[path] = log
            # The log's own entry in its folder, which SQLite made and did not sync.
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return log

    def _carry_over(self, how: str) -> None:
        for path in list(self._dirty):
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                (is_busy, _, _) = connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
            if is_busy and how != "PASSIVE":
                raise DiskBusyError(f"{path}: the log is in use, want it carried over")

    def _tell(self, durable: int) -> None:
        self._done = durable
        if durable == self._asked:
            self._asked_s = None
        else:
            self._asked_s = self._clock()
        for tell in list(self.on_durable):
            tell(durable)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self._loop.call_soon_threadsafe(function, *arguments)


class DiskBusyError(EngineError):
    """A log cannot be carried over now."""
