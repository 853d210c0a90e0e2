"""Simulated viewers whose real playing time is known, and the heartbeats that they would send."""

import random
from dataclasses import dataclass, field, replace
from hashlib import sha256

from builders import heartbeat

from ledger.books.viewing_time import Span, unite
from ledger.evidence.heartbeat import Heartbeat

PERIOD_MS = 10_000
_BASE = heartbeat().value


@dataclass(kw_only=True)
class Playback:
    """One tab: a script of (state, milliseconds), played from `start_ms`."""

    start_ms: int
    script: list[tuple[str, int]]
    name: str
    rate_permille: int = 1000

    def truth(self) -> list[Span]:
        """When media really played."""
        spans, at_ms = [], self.start_ms
        for state, length_ms in self.script:
            if state == "p":
                spans.append((at_ms, at_ms + length_ms))
            at_ms += length_ms
        return unite(spans)

    def heartbeats(self) -> list[Heartbeat]:
        """One at every change, and every ten seconds between."""
        beats: list[Heartbeat] = []
        at_ms, media_ms = self.start_ms, 0

        def send(state: str) -> None:
            beats.append(
                replace(
                    _BASE,
                    session_id=sha256(self.name.encode()).digest()[:16],
                    sequence_number=len(beats),
                    timestamp_ms=at_ms,
                    state=state,
                    media_ms_total=media_ms,
                )
            )

        send("s")
        for state, length_ms in self.script:
            end_ms = at_ms + length_ms
            while at_ms < end_ms:
                send(state)
                step_ms = min(PERIOD_MS, end_ms - at_ms)
                at_ms += step_ms
                media_ms += step_ms if state == "p" else 0
        send("q")
        return beats


@dataclass(kw_only=True)
class Viewer:
    """Some tabs of one person."""

    tabs: list[Playback] = field(default_factory=list)

    def truth(self) -> list[Span]:
        return unite(span for tab in self.tabs for span in tab.truth())

    def heartbeats(self, rng: random.Random, lost_permille: int = 0) -> list[Heartbeat]:
        sent = [beat for tab in self.tabs for beat in tab.heartbeats()]
        kept = [beat for beat in sent if rng.randrange(1000) >= lost_permille]
        return rng.sample(kept, len(kept))


def simulate_viewer(rng: random.Random, number: int, *, around_ms: int) -> Viewer:
    """A viewer with one or two tabs that seek, pause and stall."""
    viewer = Viewer()
    for tab in range(1 + (rng.random() < 0.2)):
        script: list[tuple[str, int]] = []
        for _ in range(rng.randint(1, 8)):
            script.append(("p", rng.randint(5_000, 900_000)))
            kind = rng.choice("akr")
            longest_ms = {"a": 120_000, "k": 3_000, "r": 8_000}[kind]
            script.append((kind, rng.randint(100, longest_ms)))
        script.append(("p", rng.randint(1_000, 600_000)))
        start_ms = around_ms + rng.randint(-1_800_000, 600_000)
        viewer.tabs.append(Playback(start_ms=start_ms, script=script, name=f"{number}/{tab}"))
    return viewer
