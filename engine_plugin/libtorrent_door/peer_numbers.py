"""Small numbers for the (peer-id, endpoint) pairs that a session meets.

Blocks are counted by these numbers, so two pairs never share one, whichever thread meets them, and
a number is never used again. A live stream meets new pairs with every segment: whoever is of no use
any more is forgotten.

Pure memory; who is of use is the pump's to say.
"""

import threading
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from engine_plugin.libtorrent_door.session_options import format_endpoint, split_endpoint


class PeerNumbers:
    """Numbers by pair and pairs by number; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[tuple[bytes, tuple[str, int]], int] = {}
        self._keys: dict[int, tuple[bytes, str]] = {}
        self._next = 0

    def number_of(self, peer_id: bytes, endpoint: tuple[str, int]) -> int:
        """Return the number of a pair, a new one if it has none."""
        key = peer_id, endpoint
        if (number := self._numbers.get(key)) is None:
            # Snapshots are taken in other threads than alerts are read in.
            with self._lock:
                if (number := self._numbers.get(key)) is None:
                    number, self._next = self._next, self._next + 1
                    self._keys[number] = peer_id, format_endpoint(*endpoint)
                    self._numbers[key] = number
        return number

    def key_of(self, number: int) -> tuple[bytes, str]:
        """Return peer-id (20 bytes) and endpoint text of a number.

        Raises:
            KeyError: It was never given, or is forgotten.
        """
        return self._keys[number]

    def find(self, peer_id: bytes, endpoint: str) -> int | None:
        """Return the number of a pair, or None if it has none."""
        return self._numbers.get((peer_id, split_endpoint(endpoint)))

    def list_numbers(self) -> list[int]:
        """Return all numbers that are remembered, ascending."""
        return list(self._keys)

    def forget(self, unused: Iterable[int], *, kept: AbstractSet[int]) -> None:
        """Forget numbers, except those that are kept."""
        with self._lock:
            for number in unused:
                if number not in kept and (key := self._keys.pop(number, None)):
                    self._numbers.pop((key[0], split_endpoint(key[1])), None)
