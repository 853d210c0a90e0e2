"""Which BitTorrent connections belong to the key at the other end of a side channel.

A peer-id can be copied, so a connection belongs to a key only if its ends say so as well:

- we dialled the very endpoint where the proved peer says that it listens, at the address at which
  its channel ends; or
- the peer claims it by both ports, and it runs between the two addresses of the channel.

An address translator on the way changes ports. Then only the ports that arrive unchanged are
compared, each claim stands for one connection, and if more connections fit than are claimed, none
is attested.

Pure; no sockets. Not here: the channel (`side_channel`), what becomes of attested bytes.
Source: FORMATS.md, "Side channel".
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine_plugin.wire import ConnectionPorts, Endpoint

CONNECTIONS_KEPT_MAX = 1024
"""Most connections that are remembered of one peer-id at one address; the oldest go first."""

PEERS_KEPT_MAX = 4096
"""Of how many peer-ids and addresses; the longest unseen go first."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The two ends of one BitTorrent connection, as this side sees them."""

    own: Endpoint
    peer: Endpoint
    is_outgoing: bool
    """Whether we dialled."""

    @property
    def ports(self) -> ConnectionPorts:
        """Both ports, ours first."""
        return ConnectionPorts(self.own.port, self.peer.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEnds:
    """What a proved channel says of its two ends."""

    own_ip: str
    peer_ip: str
    peer_listen: Endpoint
    """Where the peer's signed hello says that it accepts BitTorrent connections."""

    own_listen_port: int
    is_peer_translated: bool
    is_own_translated: bool


class ConnectionBook:
    """The connections of this run by peer-id and address, ended ones included."""

    def __init__(self) -> None:
        self._peers: dict[tuple[bytes, str], dict[Connection, None]] = {}

    def note(self, peer_id: bytes, connection: Connection) -> None:
        """Take note of a connection that there is."""
        key = peer_id, connection.peer.ip
        kept = self._peers.pop(key, {})
        self._peers[key] = kept
        kept[connection] = None
        if len(kept) > CONNECTIONS_KEPT_MAX:
            del kept[next(iter(kept))]
        if len(self._peers) > PEERS_KEPT_MAX:
            del self._peers[next(iter(self._peers))]

    def of(self, peer_id: bytes, ip: str) -> list[Connection]:
        """Return the connections with a peer-id at an address, oldest first."""
        return list(self._peers.get((peer_id, ip), ()))


@dataclass(slots=True)
class Attestor:
    """Fits one channel's claims to connections; each claim is used once."""

    ends: ChannelEnds
    attested: dict[Connection, None] = field(default_factory=dict)
    """Connections that were attested over this channel; bounded, oldest first."""

    def list_claimable(self, connections: Iterable[Connection]) -> list[ConnectionPorts]:
        """Return what to claim: whatever the other side cannot attest by itself."""
        is_translated = self.ends.is_own_translated or self.ends.is_peer_translated
        return [
            connection.ports
            for connection in connections
            if is_translated
            or connection.is_outgoing
            or connection.own != Endpoint(self.ends.own_ip, self.ends.own_listen_port)
        ]

    def attest(
        self, connections: Iterable[Connection], claims: dict[ConnectionPorts, None]
    ) -> list[Connection]:
        """Return the connections that are attested now and were not before.

        Args:
            connections: Those of the peer's id at the channel's far address.
            claims: What the peer claims, our port first; what is used is taken out.
        """
        ends = self.ends
        fresh: list[Connection] = []
        open_by_name: defaultdict[ConnectionPorts, list[Connection]] = defaultdict(list)
        for connection in connections:
            if connection in self.attested or connection.peer.ip != ends.peer_ip:
                continue
            if self._is_dialled(connection):
                fresh.append(connection)
            else:
                open_by_name[self._name(connection.ports)].append(connection)
        if open_by_name and claims:
            fresh += self._fit(open_by_name, claims)
        self.attested.update(dict.fromkeys(fresh))
        while len(self.attested) > CONNECTIONS_KEPT_MAX:
            del self.attested[next(iter(self.attested))]
        return fresh

    def _is_dialled(self, connection: Connection) -> bool:
        is_there = connection.peer == self.ends.peer_listen
        return connection.is_outgoing and is_there and not self.ends.is_peer_translated

    def _fit(
        self,
        open_by_name: dict[ConnectionPorts, list[Connection]],
        claims: dict[ConnectionPorts, None],
    ) -> list[Connection]:
        claims_by_name: defaultdict[ConnectionPorts, list[ConnectionPorts]] = defaultdict(list)
        for claim in claims:
            claims_by_name[self._name(claim)].append(claim)
        fitting: list[Connection] = []
        for name, connections in open_by_name.items():
            claimed = claims_by_name.get(name, [])
            # More connections than claims: one of them is somebody else's, and who can tell which.
            if len(connections) <= len(claimed):
                fitting += connections
                for claim in claimed[: len(connections)]:
                    del claims[claim]
        return fitting

    def _name(self, ports: ConnectionPorts) -> ConnectionPorts:
        """Return the ports that both sides see alike; 0 for one that a translator changes."""
        return ConnectionPorts(
            0 if self.ends.is_own_translated else ports.own,
            0 if self.ends.is_peer_translated else ports.peer,
        )
