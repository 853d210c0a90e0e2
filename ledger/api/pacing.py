"""How often somebody may ask: a bounded table of token buckets, one for each name.

A name is an address or a key. A bucket is one number, the time at which it will be full again
(GCRA), so the table costs the same whatever rates say; the name that was quiet longest is forgotten
first. Counts are those of this process: with N processes the sum is N times as much. Not here: what
is exact across processes, which the database counts (`pressure`, `uploads`).
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class Buckets:
    """Token buckets by name; safe from any thread."""

    def __init__(
        self,
        *,
        per_s: float,
        burst: int,
        names_max: int = 10_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with every bucket full.

        Args:
            per_s: Tokens that come back each second, > 0.
            burst: Tokens in a full bucket, ≥ 1.
            names_max: Buckets that are remembered.
            monotonic: Seconds that never step back.
        """
        self._interval_s = 1 / per_s
        self._capacity_s = burst / per_s
        self._names_max = names_max
        self._monotonic = monotonic
        self._full_at_s: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._full_at_s)

    def take(self, name: bytes) -> float:
        """Take a token if there is one.

        Returns:
            0.0 when it was taken, else the seconds until there will be one.
        """
        now_s = self._monotonic()
        with self._lock:
            full_at_s = max(self._full_at_s.pop(name, now_s), now_s)
            wait_s = full_at_s + self._interval_s - self._capacity_s - now_s
            is_taken = wait_s <= 1e-9
            self._full_at_s[name] = full_at_s + self._interval_s if is_taken else full_at_s
            if len(self._full_at_s) > self._names_max:
                self._full_at_s.popitem(last=False)
        return 0.0 if is_taken else wait_s
