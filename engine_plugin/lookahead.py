"""When to look and to commit next, so that receipts over new credits are neither late nor early.

A receipt is due once so many bytes of its payee are firm; how many are left until then is the
`cadence`'s word. From them and the rate at which they come follows when the queue is next worth a
look, and after a look whether a commit is due for a receipt's sake. Between two receipts nothing
needs to be durable in a hurry.

Pure; the clock is handed in. Not here: what a receipt needs (`cadence`), libtorrent, the journal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

LOOK_MOST_S = 0.25
"""Longest time between two looks at the queue."""

LOOK_LEAST_S = 0.01

RATE_WINDOW_S = 1.0
"""Over about so long the rate of a payee is averaged."""

PAYEES_MAX = 4096

BURST_BYTES = 1 << 20
BURST_S = 0.15
"""No more than this is let come between two looks, in bytes or in time, whichever is longer: the
rate is a mean, and senders burst; but fast ones would have the queue looked at all the time."""

_IDLE_S = 10.0
"""Of a payee that brought nothing for so long no rate is known any more."""


@dataclass(slots=True)
class _Flow:
    """What comes from one payee."""

    since_s: float
    """When it was last credited, or when its rate began to be measured."""
    fresh_bytes: int = 0
    """Firm and not durable."""
    bytes_per_s: float = 0.0
    grain_bytes: int = 0
    """By how much its firm bytes grow at a time: a piece."""


class Lookahead:
    """The flows of one session; used from one thread, but for `jump_of` and `rate_of`."""

    def __init__(self, room_of: Callable[[bytes], int | None] = lambda _key: 0) -> None:
        """Begin with none.

        Args:
            room_of: How many more durable bytes make a payee's receipt due; 0 or less: no receipt
                could be signed; None: nobody has looked yet.
        """
        self.room_of = room_of
        self._flows: dict[bytes, _Flow] = {}

    def note(self, credited: Mapping[bytes, int], now_s: float, *, grain_bytes: int) -> None:
        """Take note of the firm bytes that a look brought.

        Args:
            credited: By payee.
            now_s: Monotonic seconds.
            grain_bytes: Size of the pieces that they came in.
        """
        for key, count in credited.items():
            flow = self._flows.pop(key, None)
            if flow is None or now_s - flow.since_s > _IDLE_S:
                flow = _Flow(now_s, 0 if flow is None else flow.fresh_bytes)
            self._flows[key] = flow
            passed_s = now_s - flow.since_s
            share = min(1.0, passed_s / RATE_WINDOW_S) if flow.bytes_per_s else 1.0
            if passed_s > 0:
                flow.bytes_per_s += share * (count / passed_s - flow.bytes_per_s)
            flow.since_s = now_s
            flow.fresh_bytes += count
            flow.grain_bytes = grain_bytes
        while len(self._flows) > PAYEES_MAX:
            del self._flows[next(iter(self._flows))]

    def note_commit(self) -> None:
        """Take note that all that was firm is durable."""
        for flow in self._flows.values():
            flow.fresh_bytes = 0

    def jump_of(self, key: bytes) -> int:
        """Return by how much a payee's firm bytes grow at a time; n ≥ 0."""
        flow = self._flows.get(key)
        return 0 if flow is None else flow.grain_bytes

    def rate_of(self, key: bytes) -> float:
        """Return the bytes a second that come from a payee, as of its last bytes; n ≥ 0."""
        flow = self._flows.get(key)
        return 0.0 if flow is None else flow.bytes_per_s

    @property
    def is_due(self) -> bool:
        """Whether a commit would make some receipt due; a payee's first credits do."""
        return any(
            self.room_of(key) is None or ((room := self._room(key, flow)) is not None and room <= 0)
            for key, flow in self._flows.items()
            if flow.fresh_bytes
        )

    def wait_s(self, now_s: float) -> float:
        """Return how long the next look can wait for the sake of receipts."""
        wait_s = LOOK_MOST_S
        for key, flow in self._flows.items():
            if flow.bytes_per_s and now_s - flow.since_s < _IDLE_S:
                room = self._room(key, flow)
                if room is not None:
                    # Bytes come in pieces: more than two looks a piece tell nothing new.
                    room_s = max(room, flow.grain_bytes // 2) / flow.bytes_per_s
                    burst_s = max(BURST_BYTES / flow.bytes_per_s, BURST_S)
                    wait_s = min(wait_s, room_s, burst_s)
        return max(wait_s, LOOK_LEAST_S)

    def _room(self, key: bytes, flow: _Flow) -> int | None:
        """Return how many more bytes are to come before the nearest look to the step."""
        room = self.room_of(key)
        if room is None or room <= 0:
            return None  # nobody signs for it: a commit would not help
        return room - flow.fresh_bytes - flow.grain_bytes // 2
