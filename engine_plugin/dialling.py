"""Whom to dial on the side channel, how often, and where a key was last found.

What a handshake says is a hint, and anybody can copy it: every address that claims a key is tried
by itself, so an impostor costs dials and hides nobody, and only an address at which the key was
proved is remembered for later.

Not here: sockets (`side_channel`), why somebody is wanted (`exchange`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from engine_plugin.wire import Endpoint

REDIAL_FIRST_S = 1.0
REDIAL_MOST_S = 30.0
_FORGET_S = 600.0
_PLACES_MAX = 10_000

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Place:
    """One address at which one key may be."""

    next_s: float
    """Monotonic seconds before which it is not dialled."""

    failures: int = 0
    task: asyncio.Task[None] | None = None


class Dialler:
    """Dials in the background, each address after longer and longer pauses."""

    def __init__(self, dial: Callable[[Endpoint, bytes], Awaitable[bool]]) -> None:
        """Bind it.

        Args:
            dial: Opens a channel to an address for a key; tells whether anybody answered.
        """
        self._dial_once = dial
        self._places: dict[tuple[bytes, bytes, str], _Place] = {}
        self._homes: dict[bytes, Endpoint] = {}

    @property
    def is_dialling(self) -> bool:
        """Whether an address is being dialled right now."""
        return any(
            place.task is not None and not place.task.done() for place in self._places.values()
        )

    def dial(
        self, key: bytes, address: Endpoint, now_s: float, *, run: bytes = b"", wait_s: float = 0.0
    ) -> None:
        """Dial an address if its turn has come.

        Args:
            key: Who has to answer there.
            address: Where.
            now_s: Monotonic seconds.
            run: The peer-id: whoever comes back with another one is dialled without old pauses.
            wait_s: How long the first attempt waits.
        """
        name = key, run, address.ip
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = _Place(now_s + wait_s)
            if len(self._places) > _PLACES_MAX:
                del self._places[next(iter(self._places))]
        if now_s >= place.next_s and (place.task is None or place.task.done()):
            place.next_s = now_s + min(REDIAL_FIRST_S * 2**place.failures, REDIAL_MOST_S)
            place.failures = min(place.failures + 1, 10)
            place.task = asyncio.create_task(self._dial(address, key))

    def dial_home(self, key: bytes, now_s: float, *, at_once: bool = False) -> None:
        """Dial where a key was proved before, whether or not it is in the swarm."""
        home = self._homes.get(key)
        if home is None:
            return
        if at_once and (place := self._places.get((key, b"", home.ip))):
            place.next_s = now_s
        self.dial(key, home, now_s)

    def note_proved(self, key: bytes, home: Endpoint | None) -> None:
        """Take note that a key was proved, and where it can be dialled, if that is known."""
        for name in [name for name in self._places if name[0] == key]:
            del self._places[name]
        if home is not None:
            self._homes.pop(key, None)
            self._homes[key] = home
            if len(self._homes) > _PLACES_MAX:
                del self._homes[next(iter(self._homes))]

    def forget_old(self, now_s: float) -> None:
        """Drop what was last dialled long ago."""
        if any(now_s - place.next_s >= _FORGET_S for place in self._places.values()):
            self._places = {
                name: place
                for name, place in self._places.items()
                if now_s - place.next_s < _FORGET_S
            }

    async def _dial(self, address: Endpoint, key: bytes) -> None:
        if not await self._dial_once(address, key):
            _log.info("dial_failed", peer=str(address))
