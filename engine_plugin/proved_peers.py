"""Which connections of this run which key proved, and what was sent to each key.

A live stream opens a connection per segment, and many of them between the same ends: so ended ones
are dropped after a while, what was sent over them stays in their key's sum, and what comes back
goes on where it stopped. A sum never falls and counts no byte twice: no claim may exceed it, and
nobody owes more than it.

Pure memory; not here: what proves a connection (`attestation`).
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from itertools import islice

from engine_plugin.journal_records import PeerKey

KEPT_PER_KEY = 256
"""So many connections of a key are kept one by one, ended ones too."""

DROPPED_MAX = 16_384
"""Of so many dropped connections it is remembered what was counted; the longest gone go first."""

KEYS_KEPT = 16_384
"""So many keys are remembered; of more, those go that have had no connection for longest. Whoever
is forgotten begins anew: what was sent to it before is in nobody's sum any more."""

_LOOKS_OPEN = 2


class ProvedPeers:
    """Keys by connection and connections by key."""

    def __init__(self, sent_to: Callable[[PeerKey], int]) -> None:
        """Bind it.

        Args:
            sent_to: Content bytes handed to a connection in this run; begins at 0 again when the
                connection was forgotten in between.
        """
        self._sent_to = sent_to
        self._keys: dict[PeerKey, bytes] = {}
        self._peers: dict[bytes, dict[PeerKey, int]] = {}
        """What is in its key's sum already, by connection."""
        self._sums: defaultdict[bytes, int] = defaultdict(int)
        self._dropped: OrderedDict[PeerKey, int] = OrderedDict()
        self._open: defaultdict[bytes, dict[PeerKey, int]] = defaultdict(dict)
        """Connections whose count may still grow: at how many looks in a row they were gone."""

    def add(self, peer: PeerKey, key: bytes) -> bool:
        """Take note that a key proved a connection; tells whether that is new."""
        if self._keys.get(peer) == key:
            return False
        self._keys[peer] = key
        peers = self._peers.pop(key, {})
        self._peers[key] = peers
        peers[peer] = self._dropped.pop(peer, 0)
        self._open[key][peer] = 0
        self._count(peer, key, peers)
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
        peers = self._peers.get(key)
        if peers is None:
            return 0
        for peer in self._open.get(key, ()):
            self._count(peer, key, peers)
        return self._sums[key]

    def fold(self, present: AbstractSet[PeerKey]) -> list[bytes]:
        """Count what was sent to those that have ended; drop some of keys with many connections.

        Args:
            present: The connections that there are.

        Returns:
            The keys that were forgotten, for there are too many.
        """
        for peer in present:
            if key := self._keys.get(peer):
                self._open[key][peer] = -1
        self._close_ended()
        for key, peers in self._peers.items():
            if len(peers) <= KEPT_PER_KEY:
                continue
            ended = [peer for peer in peers if peer not in present]
            for peer in ended[: len(peers) - KEPT_PER_KEY]:
                self._count(peer, key, peers)
                self._dropped[peer] = peers.pop(peer)
                self._open.get(key, {}).pop(peer, None)
                del self._keys[peer]
        forgotten = self._forget_keys()
        while len(self._dropped) > DROPPED_MAX:
            self._dropped.popitem(last=False)
        return forgotten

    def _forget_keys(self) -> list[bytes]:
        idle = (key for key in self._peers if key not in self._open)
        forgotten = list(islice(idle, max(0, len(self._peers) - KEYS_KEPT)))
        for key in forgotten:
            # A connection that comes back counts from where it stopped.
            self._dropped |= self._peers[key]
            for peer in self._peers.pop(key):
                self._keys.pop(peer, None)
            self._sums.pop(key, None)
        return forgotten

    def _close_ended(self) -> None:
        for key, peers in list(self._open.items()):
            for peer, looks in list(peers.items()):
                peers[peer] = looks + 1
                # A look later all is counted that was on its way when the connection ended.
                if looks + 1 >= _LOOKS_OPEN:
                    self._count(peer, key, self._peers[key])
                    del peers[peer]
            if not peers:
                del self._open[key]

    def _count(self, peer: PeerKey, key: bytes, peers: dict[PeerKey, int]) -> None:
        counted, sent = peers[peer], self._sent_to(peer)
        self._sums[key] += sent - counted if sent >= counted else sent
        peers[peer] = sent
