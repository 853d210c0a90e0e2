"""Which connections of this run which key proved, and what was sent to each key.

A live stream opens a connection per segment, so ended ones are folded into their key's sum after a
while. A sum never falls: no claim may exceed it.

Pure memory; not here: what proves a connection (`attestation`).
"""

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from engine_plugin.journal_records import PeerKey

KEPT_PER_KEY = 256
"""So many connections of a key are kept one by one, ended ones too."""


class ProvedPeers:
    """Keys by connection and connections by key."""

    def __init__(self, sent_to: Callable[[PeerKey], int]) -> None:
        """Bind it.

        Args:
            sent_to: Content bytes handed to a connection in this run; never falls.
        """
        self._sent_to = sent_to
        self._keys: dict[PeerKey, bytes] = {}
        self._peers: dict[bytes, dict[PeerKey, None]] = {}
        self._folded_bytes: defaultdict[bytes, int] = defaultdict(int)

    def add(self, peer: PeerKey, key: bytes) -> bool:
        """Take note that a key proved a connection; tells whether that is new."""
        if self._keys.get(peer) == key:
            return False
        self._keys[peer] = key
        self._peers.setdefault(key, {})[peer] = None
        return True

    def key_of(self, peer: PeerKey) -> bytes | None:
        """Return the key that proved a connection, if one did."""
        return self._keys.get(peer)

    def peers_of(self, key: bytes) -> list[PeerKey]:
        """Return the connections of a key, oldest first; of many only the latest."""
        return list(self._peers.get(key, ()))

    def list_keys(self) -> list[bytes]:
        """Return every key that proved a connection."""
        return list(self._peers)

    def sent_by(self, key: bytes) -> int:
        """Return content bytes handed to all connections of a key in this run."""
        return self._folded_bytes[key] + sum(map(self._sent_to, self._peers.get(key, ())))

    def fold(self, present: AbstractSet[PeerKey]) -> None:
        """Fold what has ended of keys with many connections.

        Args:
            present: The connections that there are.
        """
        for key, peers in self._peers.items():
            ended = [peer for peer in peers if peer not in present]
            for peer in ended[: max(0, len(peers) - KEPT_PER_KEY)]:
                self._folded_bytes[key] += self._sent_to(peer)
                del peers[peer], self._keys[peer]
