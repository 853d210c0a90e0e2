"""Where a peer's bytes come from: another peer, or which web seed.

The table of connections tells; a peer that came, delivered and left between two looks at it is
told by its address. Owned by the pump, which looks.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from engine_plugin.journal_records import Source
from engine_plugin.libtorrent_door import PeerSnapshot


@dataclass(slots=True)
class WebSeeds:
    """The web seeds of one torrent."""

    every: list[str] = field(default_factory=list)
    """Every one that it was ever given."""
    active: list[str] = field(default_factory=list)
    """Those that it may use now."""

    def note(self, url: str, *, is_active: bool) -> None:
        """Take note of one that is given, before it is used, or lost."""
        if url not in self.every:
            self.every.append(url)
        others = [other for other in self.active if other != url]
        self.active = [*others, url] if is_active else others


_NONE = WebSeeds()


class PeerSources:
    """Source and URL by peer number."""

    def __init__(
        self,
        endpoint_of: Callable[[int], str],
        web_seeds_of: Callable[[int], WebSeeds | None],
    ) -> None:
        """Bind it.

        Args:
            endpoint_of: Address of a peer's number.
            web_seeds_of: Of a torrent's number; None: there is no such torrent.
        """
        self._endpoint_of = endpoint_of
        self._web_seeds_of = web_seeds_of
        self._sources: dict[int, tuple[Source, str]] = {}

    def note(self, snapshots: Iterable[PeerSnapshot]) -> None:
        """Learn from the table of connections."""
        for snapshot in snapshots:
            if snapshot.peer in self._sources or not snapshot.handshake_done:
                continue
            if snapshot.is_web_seed:
                url = self._url_of(snapshot.torrent, snapshot.endpoint)
                self._sources[snapshot.peer] = Source.CDN, url
            else:
                self._sources[snapshot.peer] = Source.P2P, ""

    def knows_all(self, peers: AbstractSet[int]) -> bool:
        """Tell whether every one of these peers is known."""
        return self._sources.keys() >= peers

    def of(self, torrent: int, peer: int) -> tuple[Source, str]:
        """Return source and URL of a peer; one that left unseen is told by its address.

        A server's listening address cannot be a BitTorrent connection's far end as well.
        """
        source = self._sources.get(peer)
        if source is None:
            endpoint = self._endpoint_of(peer)
            every = (self._web_seeds_of(torrent) or _NONE).every
            literal = [url for url in every if _endpoint_in(url) == endpoint]
            source = (Source.CDN, literal[0]) if literal else (Source.P2P, "")
            self._sources[peer] = source
        return source

    def forget(self, peers: Iterable[int]) -> None:
        """Forget peers whose numbers are not used again."""
        for peer in peers:
            self._sources.pop(peer, None)

    def _url_of(self, torrent: int, endpoint: str) -> str:
        """Returns which web seed's URL an address belongs to, or "" when it cannot be told."""
        seeds = self._web_seeds_of(torrent) or _NONE
        for url in seeds.every:
            if _endpoint_in(url) == endpoint:
                return url
        # A server behind a name: it is known when there is no other.
        for urls in (seeds.every, seeds.active):
            if len(urls) == 1:
                return urls[0]
        return ""


def _endpoint_in(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
