"""Who follows a stream now, and whom a newcomer should dial.

Every pair is linked once, by the one who came later: two viewers that dialled each other would
hold two connections for every segment. Everybody gets a random few, so the swarm stays connected
while it churns and no list of all viewers is ever handed out. A few, linked with each other, are
the **first**: they fetch from the source, which so uploads each segment a few times at most,
however many watch; everybody else dials it only when a segment is late. Pure: the caller brings
the time.

Not here: HTTP (`index_server`), and whether an address really is a viewer; whoever is dialled
proves its key.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from engine_plugin.wire import Endpoint

DEGREE = 6
"""Links that everybody is brought to, dialled and taken together."""

FIRST_MOST = 3
"""Viewers that fetch from the source, as long as they are there."""

EXPIRES_S = 12.0
"""Without a word for so long, a viewer counts as gone."""

VIEWERS_MAX = 100_000
VIEWERS_PER_ADDRESS_MAX = 256
"""Ports of one address cost their owner nothing, and everybody else's dials."""


@dataclass(slots=True)
class _Viewer:
    seen_s: float
    dials: set[Endpoint] = field(default_factory=set)
    dialled_by: set[Endpoint] = field(default_factory=set)

    @property
    def degree(self) -> int:
        return len(self.dials) + len(self.dialled_by)


class Rendezvous:
    """The viewers of one stream."""

    def __init__(
        self, random: Random, *, degree: int = DEGREE, first_most: int = FIRST_MOST
    ) -> None:
        """Begin without viewers.

        Args:
            random: Draws whom to dial.
            degree: Links to bring everybody to, ≥ 1.
            first_most: Viewers that fetch from the source, ≥ 1.
        """
        self._random = random
        self._degree = degree
        self._first_most = first_most
        self._first: dict[Endpoint, None] = {}
        self._viewers: dict[Endpoint, _Viewer] = {}
        self._at_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._viewers)

    def announce(self, endpoint: Endpoint, now_s: float) -> list[Endpoint]:
        """Note that a viewer is there; return all that it should be dialling.

        Args:
            endpoint: Where it listens.
            now_s: Monotonic seconds.
        """
        self._expire(now_s)
        viewer = self._viewers.get(endpoint)
        if viewer is None:
            is_crowded = self._at_address[endpoint.ip] >= VIEWERS_PER_ADDRESS_MAX
            if is_crowded or len(self._viewers) >= VIEWERS_MAX:
                return []
            self._at_address[endpoint.ip] += 1
            viewer = self._viewers[endpoint] = _Viewer(now_s)
        viewer.seen_s = now_s
        if endpoint not in self._first and len(self._first) < self._first_most:
            for other in self._first:
                if other not in viewer.dials | viewer.dialled_by:
                    self._join(endpoint, other)
            self._first[endpoint] = None
        wanted = self._degree - viewer.degree
        if wanted > 0:
            self._link(endpoint, viewer, wanted)
        return sorted(viewer.dials)

    def is_first(self, endpoint: Endpoint) -> bool:
        """Tell whether a viewer should fetch from the source."""
        return endpoint in self._first

    def leave(self, endpoint: Endpoint) -> None:
        """Forget a viewer at once."""
        viewer = self._viewers.pop(endpoint, None)
        self._first.pop(endpoint, None)
        if viewer is not None:
            self._at_address -= Counter([endpoint.ip])
            for other in viewer.dials:
                self._viewers[other].dialled_by.discard(endpoint)
            for other in viewer.dialled_by:
                self._viewers[other].dials.discard(endpoint)

    def _link(self, endpoint: Endpoint, viewer: _Viewer, wanted: int) -> None:
        linked = viewer.dials | viewer.dialled_by | {endpoint}
        free = [other for other in self._viewers if other not in linked]
        self._random.shuffle(free)
        # Those with the fewest links first, or the oldest would be dialled by everybody.
        free.sort(key=lambda other: self._viewers[other].degree)
        for other in free[:wanted]:
            self._join(endpoint, other)

    def _join(self, dialler: Endpoint, other: Endpoint) -> None:
        self._viewers[dialler].dials.add(other)
        self._viewers[other].dialled_by.add(dialler)

    def _expire(self, now_s: float) -> None:
        gone = [
            endpoint
            for endpoint, viewer in self._viewers.items()
            if now_s - viewer.seen_s > EXPIRES_S
        ]
        for endpoint in gone:
            self.leave(endpoint)
