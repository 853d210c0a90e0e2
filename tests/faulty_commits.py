"""Commits that fail on demand.

`FaultyCommits` stands in for a session factory: real transactions on a real database, but a chosen
commit is lost (rolled back, as by a crash before it) or kept (durable, and its process dies before
it hears so). Workers that take turns are `ledger.simulation.turns`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import text

from ledger.simulation.turns import KilledError
from ledger.store.engine import Session, SessionFactory


class Fate(StrEnum):
    """What becomes of a write during which a process dies."""

    LOST = "lost"
    """Nothing of it is durable."""

    KEPT = "kept"
    """All of it is durable, and nobody was told."""


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
            with self.sessions.writing() as session:
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
