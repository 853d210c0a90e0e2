"""Play sessions: what a player holds open, and when it ends.

A session belongs to one player (its own id, or its address) and one playable; range after range of
the same player joins it. Its number is a random secret: whoever knows it may see its figures and
stop it. It ends when it is stopped, when its player has neither a connection nor asked anything for
a while, and when a connection takes nothing for long. When there are too many, the one that rested
longest gives way; if all are in use the new one is refused.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine_plugin.http_face.errors import BusyError, NotKnownError
from engine_plugin.http_face.playables import Playable
from engine_plugin.http_face.rates import RateGauge

_ID_BYTES = 20
_PID_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How many sessions there may be, and for how long.

    Raises:
        ValueError: A field is out of range.
    """

    sessions_max: int = 32
    connections_max: int = 64
    """Bodies being sent at the same time, of all sessions; n ≥ 1."""
    idle_s: float = 60.0
    """A session without connections ends after this time without a question."""
    stalled_s: float = 1800.0
    """A connection that takes nothing for this time (a player long paused) is closed."""

    def __post_init__(self) -> None:
        for name in ("sessions_max", "connections_max", "idle_s", "stalled_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, want n > 0")


@dataclass(slots=True, kw_only=True, eq=False)
class PlaySession:
    """One player and what it plays."""

    session_id: str
    pid: str
    """The player's own id for it; "" if it gave none."""
    playable: Playable
    gauge: RateGauge
    used_s: float
    """When it was last asked for anything; monotonic."""
    connection_count: int = 0
    sent_bytes: int = 0
    """Given to the player."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        """End it; its connections are closed."""
        self.ended.set()


class SessionTable:
    """All sessions of one face."""

    def __init__(
        self, limits: SessionLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without sessions.

        Args:
            limits: How many, how long.
            clock: Monotonic seconds.
        """
        self.limits = limits
        self.on_end: Callable[[PlaySession], None] = _ignore
        """Told of every session that ends."""
        self._clock = clock
        self._by_id: dict[str, PlaySession] = {}
        self._ended: list[PlaySession] = []
        self._by_player: dict[tuple[str, str, str], PlaySession] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[PlaySession]:
        return iter(list(self._by_id.values()))

    def open(
        self, playable: Playable, *, pid: str, address: str, restarts: bool = False
    ) -> PlaySession:
        """Return a player's session for something to play, its old one where it has one.

        Args:
            playable: What it plays.
            pid: The player's own id, or "".
            address: Where it asks from.
            restarts: Whether its old one shall end first.

        Raises:
            BusyError: All sessions are in use.
        """
        player = (playable.key, pid[:_PID_MAX], address)
        known = self._by_player.get(player)
        # What was removed and came again under its old name is another one.
        if known is not None and (restarts or known.playable is not playable):
            self._drop(known)
        elif known is not None:
            known.used_s = self._clock()
            return known
        self._make_room()
        session = PlaySession(
            session_id=secrets.token_hex(_ID_BYTES),
            pid=pid[:_PID_MAX],
            playable=playable,
            gauge=RateGauge(playable.count, clock=self._clock),
            used_s=self._clock(),
        )
        self._by_id[session.session_id] = session
        self._by_player[player] = session
        return session

    def get(self, session_id: str) -> PlaySession:
        """Return a session by its number.

        Raises:
            NotKnownError: There is none, or it has ended.
        """
        session = self._by_id.get(session_id)
        if session is None:
            raise NotKnownError("session: not known, or ended")
        session.used_s = self._clock()
        return session

    def end(self, session: PlaySession) -> None:
        """End a session."""
        self._drop(session)

    @contextmanager
    def connection(self, session: PlaySession) -> Iterator[None]:
        """Hold a session open while a body is sent.

        Raises:
            BusyError: There are too many connections.
        """
        if sum(each.connection_count for each in self) >= self.limits.connections_max:
            raise BusyError(f"connections: got {self.limits.connections_max} already")
        session.connection_count += 1
        try:
            yield
        finally:
            session.connection_count -= 1
            session.used_s = self._clock()

    def sweep(self) -> list[PlaySession]:
        """End the sessions that nobody uses; return all that ended since the last call."""
        oldest_s = self._clock() - self.limits.idle_s
        for session in self:
            if not session.connection_count and session.used_s < oldest_s:
                self._drop(session)
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """End all."""
        for session in self:
            self._drop(session)

    def uses(self, playable: Playable) -> bool:
        """Say whether any session plays it."""
        return any(session.playable is playable for session in self)

    def _make_room(self) -> None:
        if len(self._by_id) < self.limits.sessions_max:
            return
        resting = [session for session in self if not session.connection_count]
        if not resting:
            raise BusyError(f"sessions: got {self.limits.sessions_max} in use already")
        self._drop(min(resting, key=lambda session: session.used_s))

    def _drop(self, session: PlaySession) -> None:
        session.end()
        if self._by_id.pop(session.session_id, None) is not None:
            self._ended.append(session)
        for player, known in list(self._by_player.items()):
            if known is session:
                del self._by_player[player]
        self.on_end(session)


def _ignore(_session: PlaySession) -> None:
    pass
