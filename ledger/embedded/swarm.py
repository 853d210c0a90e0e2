"""Swarm of a demo: what its engines tell, kept for the screen and for the end's decisions."""

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class EngineTale:
    """The latest of what one engine said."""

    name: str
    is_viewer: bool
    ready: dict[str, Any] = field(default_factory=dict)
    broadcasting: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    complete: dict[str, Any] = field(default_factory=dict)
    stopped: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def bytes_of(self, kind: str) -> int:
        """Return the latest figure of a byte class; 0 before the first."""
        latest = self.stopped or self.complete or self.progress
        classes = latest.get("bytes", {}) if isinstance(latest, dict) else {}
        return int(classes.get(kind, 0))


class Swarm:
    """All engines' tales; filled by reader threads, read by the demo."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.engines: dict[str, EngineTale] = {}

    def add(self, name: str, *, is_viewer: bool) -> None:
        """Expect an engine."""
        with self._lock:
            self.engines[name] = EngineTale(name, is_viewer)

    def take(self, name: str, event: dict[str, Any]) -> None:
        """Take one event of an engine."""
        with self._lock:
            tale = self.engines[name]
            kind = event.get("event")
            if kind in {"ready", "broadcasting", "progress", "complete", "stopped"}:
                setattr(tale, str(kind), event)
            elif kind in {"error", "refused"}:
                tale.problems.append(", ".join(f"{key}={value}" for key, value in event.items()))

    @property
    def viewers(self) -> list[EngineTale]:
        """Engines that fetch."""
        return [tale for tale in self.engines.values() if tale.is_viewer]

    def are_ready(self, names: list[str]) -> bool:
        """Tell whether these engines have said that they are ready."""
        return all(self.engines[name].ready for name in names)

    def completed(self) -> int:
        """Return how many viewers have everything."""
        return sum(bool(tale.complete) for tale in self.viewers)

    def received(self) -> dict[str, int]:
        """Return bytes by source over all viewers: peers with a plugin, without, CDN."""
        kinds = {"p2p": "p2p_attested", "unattested": "p2p_unattested", "cdn": "cdn"}
        return {
            name: sum(tale.bytes_of(kind) for tale in self.viewers) for name, kind in kinds.items()
        }
