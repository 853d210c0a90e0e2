"""Workers that take turns at transactions, and die at any of them.

`Turns` lets threads run one transaction at a time, in an order that a seed decides, so that an
interleaving can be repeated. `Mortal` decides where a worker dies, and `MortalSessions` is a
session factory whose commits are such places: real transactions on a real database, but a worker
may be gone just before one is durable or just after.
"""

import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from ledger.simulation.faults import CALM
from ledger.store.engine import Session, SessionFactory

FIRST_DEATH_SHARE: Final = 0.1
"""How much likelier a death is at a moment, under a spell, where nobody has died yet."""


class KilledError(BaseException):
    """The process died here: nothing of it may go on, so no `except Exception` may see it."""


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


@dataclass
class Mortal:
    """Where workers die: at each moment by chance, more readily where none has died yet."""

    chance: random.Random
    share: float
    """Chance of dying at a moment at which many have, 0 to 1."""

    spell: Callable[[], str] = lambda: CALM
    """Tells what is wrong outside while a moment comes."""

    moments: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(moment, spell that was on) → how often it came."""

    deaths: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(moment, spell that was on) → how many died."""

    is_armed: bool = True

    ambushes: set[tuple[str, str]] = field(default_factory=set)
    """(moment, spell): whoever comes there next dies for certain, and the spell begins; each once,
    a moment's in the order of their spells."""

    turn_to: Callable[[str], None] = lambda _spell: None
    """Begins a spell."""

    def at(self, moment: str) -> None:
        """Pass a moment, or die there.

        Raises:
            KilledError: The worker is dead.
        """
        is_ambush = self.is_armed and self._falls_into_ambush(moment)
        pair = (moment, self.spell())
        self.moments[pair] += 1
        if not self.is_armed or not self.share:
            return
        # Rare moments are as good a place for a defect as common ones.
        share = self.share if self.deaths[pair] else self.share + FIRST_DEATH_SHARE
        if is_ambush or self.chance.random() < share:
            self.deaths[pair] += 1
            raise KilledError(moment)

    def _falls_into_ambush(self, moment: str) -> bool:
        ambush = min((each for each in self.ambushes if each[0] == moment), default=None)
        if ambush is None:
            return False
        self.ambushes.remove(ambush)
        self.turn_to(ambush[1])
        return True


@dataclass(eq=False)
class MortalSessions:
    """A session factory over whose commits workers die; stands in for `SessionFactory`.

    Two are equal only if they are one, so that what is kept by factory can be kept by it.
    """

    sessions: SessionFactory
    mortal: Mortal
    wait: Callable[[], None] = lambda: None
    """Called before each transaction that may write."""

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Begin a transaction; it is rolled back or kept when its worker dies at its end."""
        # Past this generator and contextlib's `__enter__`: whoever wrote `with sessions.begin()`.
        frame = sys._getframe(2)
        name = f"{frame.f_globals['__name__'].rpartition('.')[2]}.{frame.f_code.co_name}"
        self.wait()
        with self.sessions.writing() as session:
            transaction = session.begin()
            yield session
            session.flush()
            self.mortal.at(f"before the commit of {name}")
            transaction.commit()
        self.mortal.at(f"after the commit of {name}")

    def __call__(self) -> Session:
        """Return a session for reading."""
        return self.sessions()
