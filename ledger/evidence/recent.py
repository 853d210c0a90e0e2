"""A set that remembers what was seen last, in bounded memory.

For what is costly to find out and never changes: that a key is valid, that a signature was good.
Forgetting costs time, never correctness.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class RecentSet(Generic[ItemT]):
    """Remembers at least the last `size` distinct items and at most twice as many."""

    __slots__ = ("_new", "_old", "_size")

    def __init__(self, size: int) -> None:
        """Make an empty one.

        Args:
            size: ≥ 1.
        """
        self._size = size
        self._new: set[ItemT] = set()
        self._old: set[ItemT] = set()

    def __contains__(self, item: ItemT) -> bool:
        if item in self._new:
            return True
        if item not in self._old:
            return False
        self.add(item)
        return True

    def recall(self, items: Sequence[ItemT]) -> list[bool]:
        """Tell of each item whether it is remembered; like `in`, many at once."""
        new = self._new
        found = [item in new for item in items]
        if all(found) or not self._old:
            return found
        return [is_new or item in self for item, is_new in zip(items, found, strict=True)]

    def __len__(self) -> int:
        return len(self._new | self._old)

    def add(self, item: ItemT) -> None:
        """Remember an item."""
        if len(self._new) >= self._size:
            self._old, self._new = self._new, set()
        self._new.add(item)

    def clear(self) -> None:
        """Forget everything."""
        self._old, self._new = set(), set()
