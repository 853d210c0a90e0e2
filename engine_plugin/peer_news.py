"""Tells of new connections, and gives up the blocks of peers that can never be proved.

A plugin's peer-id commits to its key, so a peer-id of another form belongs to no key: the bytes of
such a peer stay counted as unattested, and its blocks need not be kept. Kept, they would grow
without bound.
"""

from collections.abc import Callable, Iterable

from engine_plugin.events import Emit
from engine_plugin.identity import CLIENT_PREFIX
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import PeerKey
from engine_plugin.libtorrent_door import PeerSnapshot


class PeerNews:
    """Remembers which connections were told of, and which are strangers'."""

    def __init__(
        self, *, journal: MeterJournal, peer_key: Callable[[int], PeerKey], emit: Emit
    ) -> None:
        """Bind it.

        Args:
            journal: Where blocks are kept.
            peer_key: Peer-id and endpoint of a peer's number.
            emit: Takes events.
        """
        self._journal = journal
        self._peer_key = peer_key
        self._emit = emit
        self._told: set[int] = set()
        self._strangers: dict[int, int] = {}

    def tell(self, snapshots: Iterable[PeerSnapshot], *, has_ledger: bool) -> None:
        """Tell of every connection that is new.

        Args:
            snapshots: All connections.
            has_ledger: Whether plugins can be proved at all.
        """
        connected = set()
        for snapshot in snapshots:
            connected.add(snapshot.peer)
            if not snapshot.handshake_done or snapshot.peer in self._told:
                continue
            self._told.add(snapshot.peer)
            is_provable = has_ledger and snapshot.peer_id.startswith(CLIENT_PREFIX)
            if not snapshot.is_web_seed and not is_provable:
                self._strangers[snapshot.peer] = snapshot.torrent
            self._emit(
                "peer",
                endpoint=snapshot.endpoint,
                client=snapshot.client,
                web_seed=snapshot.is_web_seed,
                attested=False,
            )
        # A connection that comes back is news again, and the set stays small.
        self._told &= connected

    def give_up_strangers(self, firm_bytes: Callable[[int, int], int | None]) -> None:
        """Close the rows of strangers that delivered something.

        Args:
            firm_bytes: Of a torrent's peer, by both numbers; None when the torrent is gone.
        """
        for peer, torrent in list(self._strangers.items()):
            try:
                key = self._peer_key(peer)
            except LookupError:  # forgotten: it left nothing
                del self._strangers[peer]
                continue
            firm = firm_bytes(torrent, peer)
            if firm == 0:
                continue
            closed = self._journal.close_unproved(key)
            if closed or firm is None:
                del self._strangers[peer]
