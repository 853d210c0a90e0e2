"""The parts of a medium that were played, united; bounded.

Source: the `played` attribute of HTML's media elements, which says the same.
"""

from bisect import bisect_left, bisect_right

RANGES_MAX = 512
"""Most separate ranges that are kept; beyond it the oldest positions are forgotten."""


class PlayedRanges:
    """A set of half-open ranges of media milliseconds."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self.total_ms = 0
        """Media played at least once."""

    def add(self, begin_ms: int, end_ms: int) -> int:
        """Add a range.

        Returns:
            How much of it is new.
        """
        if end_ms <= begin_ms:
            return 0
        first = bisect_left(self._ends, begin_ms)
        last = bisect_right(self._begins, end_ms)
        known_ms = 0
        merged_begin_ms, merged_end_ms = begin_ms, end_ms
        for place in range(first, last):
            low_ms, high_ms = self._begins[place], self._ends[place]
            known_ms += max(min(high_ms, end_ms) - max(low_ms, begin_ms), 0)
            merged_begin_ms = min(merged_begin_ms, low_ms)
            merged_end_ms = max(merged_end_ms, high_ms)
        self._begins[first:last] = [merged_begin_ms]
        self._ends[first:last] = [merged_end_ms]
        if len(self._begins) > RANGES_MAX:
            # Forgetting makes a replay look new: less can be claimed, never more.
            del self._begins[0], self._ends[0]
        new_ms = end_ms - begin_ms - known_ms
        self.total_ms += new_ms
        return new_ms
