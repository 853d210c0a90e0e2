"""What an engine tells the program around it: named events with plain fields.

Any number of listeners, each with a bounded queue of its own; one that does not read loses its
oldest events and is told how many. Telling never waits and never fails.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import structlog

QUEUE_MAX = 10_000

_log = structlog.get_logger(__name__)

Emit = Callable[..., None]
"""Takes an event's name, and its fields as keywords; called in the event loop's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; the names and their fields stand in docs/engine.md."""

    name: str
    fields: dict[str, Any]
    missed: int = 0
    """Events before this one that the listener was too slow for."""


class EventHub:
    """Hands every event to every listener."""

    def __init__(self, emit: Emit | None = None) -> None:
        """Bind a hub.

        Args:
            emit: Called at once with each event, beside the listeners.
        """
        self._emit = emit
        self._listeners: list[_Listener] = []
        self._is_closed = False

    def tell(self, name: str, /, **fields: Any) -> None:
        """Tell an event."""
        if self._emit is not None:
            try:
                self._emit(name, **fields)
            except Exception as error:  # noqa: BLE001 - its fault must not stop a picture
                _log.warning("event_not_taken", name=name, error=f"{type(error).__name__}: {error}")
        for listener in self._listeners:
            listener.put(name, fields)

    async def listen(self) -> AsyncIterator[Event]:
        """Yield every event from now on, until the hub closes."""
        listener = _Listener()
        self._listeners.append(listener)
        try:
            while not (self._is_closed and not listener.waiting):
                if listener.waiting:
                    yield listener.take()
                else:
                    listener.wake.clear()
                    await listener.wake.wait()
        finally:
            self._listeners.remove(listener)

    def close(self) -> None:
        """End every listener after what it has not read yet."""
        self._is_closed = True
        for listener in self._listeners:
            listener.wake.set()


class _Listener:
    """One listener's queue."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=QUEUE_MAX)
        self.wake = asyncio.Event()
        self._missed = 0

    def put(self, name: str, fields: dict[str, Any]) -> None:
        self._missed += len(self.waiting) == QUEUE_MAX
        self.waiting.append((name, fields))
        self.wake.set()

    def take(self) -> Event:
        name, fields = self.waiting.popleft()
        missed, self._missed = self._missed, 0
        return Event(name=name, fields=fields, missed=missed)
