"""Commits that fail on demand, and workers that take turns at transactions.

`FaultyCommits` stands in for a session factory: real transactions on a real database, but a chosen
commit is lost (rolled back, as by a crash before it) or kept (durable, and its process dies before
it hears so). `Turns` lets threads run one transaction at a time, in an order that a seed decides,
so that an interleaving can be repeated.
"""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import text

from ledger.store.engine import Session, SessionFactory


class Fate(StrEnum):
    """What becomes of a write during which a process dies."""

    LOST = "lost"
    """Nothing of it is durable."""

    KEPT = "kept"
    """All of it is durable, and nobody was told."""


class KilledError(BaseException):
    """The process died here: nothing of it may go on, so no `except Exception` may see it."""


HAS_ID = text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
"""Whether this transaction wrote, or locked a row."""

CHANGES = text(
    "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_xact_user_tables"
)
"""Rows changed by this connection and not yet reported; locks alone do not count."""


def nobody_dies(_name: str) -> Fate | None:
    return None


@dataclass
class FaultyCommits:
    """A session factory with a say before each commit that wrote something."""

    sessions: SessionFactory
    decide: Callable[[str], Fate | None] = nobody_dies
    """Told the name of the function whose commit it is; what becomes of it, None: all is well."""

    before: Callable[[], None] = lambda: None
    """Called before each transaction."""

    counts_rows: bool = False
    """Whether a commit has to change rows to be one that wrote: exact, and slow."""

    after: Callable[[], None] = lambda: None
    """Called after each transaction."""

    writes: list[str] = field(default_factory=list)
    """Names of all commits that wrote, in order."""

    @contextmanager
    def begin(self) -> Iterator[Session]:
        # Past this generator and contextlib's `__enter__`: whoever wrote `with sessions.begin()`.
        name = sys._getframe(2).f_code.co_name
        self.before()
        try:
            with self.sessions() as session:
                transaction = session.begin()
                changes_before = session.scalar(CHANGES) if self.counts_rows else 0
                yield session
                session.flush()
                if self.counts_rows:
                    has_written = session.scalar(CHANGES) != changes_before
                else:
                    has_written = session.scalar(HAS_ID)
                fate = self._note(name) if has_written else None
                if fate == Fate.LOST:
                    transaction.rollback()
                    raise KilledError(f"before the commit of {name}")
                transaction.commit()
                if fate == Fate.KEPT:
                    raise KilledError(f"after the commit of {name}")
        finally:
            self.after()

    def __call__(self) -> Session:
        return self.sessions()

    def _note(self, name: str) -> Fate | None:
        self.writes.append(name)
        return self.decide(name)


class Turns:
    """Lets one of several threads at a time run a transaction; a seed decides whose turn it is."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._waiting: dict[str, threading.Event] = {}
        self._changed = threading.Condition()
        self._running = 0
        self._failures: list[Exception] = []

    def run(self, actors: list[Callable[[], None]]) -> None:
        """Run all actors to their ends; raise the first one's error, if any."""
        # Turns go by name: a thread's number differs from run to run.
        threads = [
            threading.Thread(target=self._act, args=(actor,), name=f"actor {place:03}")
            for place, actor in enumerate(actors)
        ]
        self._running = len(threads)
        for thread in threads:
            thread.start()
        while self._choose():
            pass
        for thread in threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def wait(self) -> None:
        """Wait for this thread's turn; called before each transaction."""
        turn = threading.Event()
        with self._changed:
            self._waiting[threading.current_thread().name] = turn
            self._changed.notify_all()
        turn.wait()

    def _act(self, actor: Callable[[], None]) -> None:
        try:
            self.wait()
            actor()
        except Exception as error:  # noqa: BLE001 - `run` raises it again, whatever it is
            self._failures.append(error)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _choose(self) -> bool:
        """Give one thread its turn once all that run wait for one; False when none is left."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) == self._running)
            if not self._running:
                return False
            chosen = self._chance.choice(sorted(self._waiting))
            turn = self._waiting.pop(chosen)
        turn.set()
        return True
