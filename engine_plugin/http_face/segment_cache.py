"""The last segments that were made, for players that ask for the same one."""

from collections import OrderedDict

CACHE_BYTES = 24 << 20


class SegmentCache:
    """Bounded by bytes; the segment put last always stays."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, number: int) -> bytes | None:
        """Return a segment, or None."""
        if (data := self._kept.get(number)) is not None:
            self._kept.move_to_end(number)
        return data

    def put(self, number: int, data: bytes) -> None:
        """Keep a segment."""
        if number in self._kept:
            return
        self._kept[number] = data
        self._bytes += len(data)
        while self._bytes > self._limit_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)
