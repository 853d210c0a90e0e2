"""The HTTP face of a running engine: assembly, life cycle, configuration.

It runs in the engine's own event loop. What the single paths do stands in `player_paths` and
`service_paths`; who may ask, in `access`.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount

from engine_plugin.config import ContentOptions
from engine_plugin.content import Content
from engine_plugin.engine import Engine
from engine_plugin.errors import EngineError
from engine_plugin.http_face.access import AccessRules, Network, write_token
from engine_plugin.http_face.admission import Admission, answer_fault, answer_http_error
from engine_plugin.http_face.catalogue import Catalogue
from engine_plugin.http_face.cdn_watch import CdnWatch
from engine_plugin.http_face.hls import HlsSource
from engine_plugin.http_face.player_paths import PlayerPaths
from engine_plugin.http_face.service_paths import ServicePaths
from engine_plugin.http_face.sessions import SessionLimits, SessionTable
from engine_plugin.http_face.torrent_fetch import fetch_torrent
from engine_plugin.http_face.viewing_link import CMCD_PATH, ViewingLink
from engine_plugin.libtorrent_door.magnet import fetch_torrent as fetch_magnet
from engine_plugin.playback.hybrid import HybridPolicy
from engine_plugin.playback.reader import WindowPolicy
from engine_plugin.torrents import TorrentFile
from engine_plugin.viewing.routes import make_routes
from engine_plugin.wire import Endpoint

DEFAULT_LISTEN = Endpoint("127.0.0.1", 6878)
TOKEN_NAME = "http-token"  # noqa: S105 - the name of the file that holds it
_SWEEP_S = 1.0
_METADATA_S = 30.0
_BACKLOG = 128
_KEEP_ALIVE_S = 30

_log = structlog.get_logger(__name__)


class ListenError(EngineError):
    """The address cannot be listened on, or the token cannot be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceConfig:
    """How an engine is reached over HTTP."""

    save_path: Path
    """Folder for what requests start; each content gets a folder of its own there."""
    token_path: Path
    """File that the token for private methods is written to, for the owner only."""
    listen: Endpoint = DEFAULT_LISTEN
    """Port 0 lets the system choose."""
    peers: Sequence[Endpoint] = ()
    """Peers to dial for what requests start, and to ask for what magnet links name."""
    discovers: bool = False
    """Whether to look for other peers of magnet links."""
    metadata_ip: str = "0.0.0.0"  # noqa: S104 - a client's address, nothing is served there
    """Address that peers are asked for the torrents of magnet links from."""
    limits: SessionLimits = field(default_factory=SessionLimits)
    window: WindowPolicy = field(default_factory=WindowPolicy)
    uses_web_seeds: bool = True
    """Whether the CDNs that a torrent names may help out."""
    hybrid: HybridPolicy = field(default_factory=HybridPolicy)
    """When they do."""
    added_max: int = 100
    """How many torrents requests may add in a run; n ≥ 0."""
    allows_private_urls: bool = False
    """Whether torrents may be fetched from addresses of private networks."""
    host_names: frozenset[str] = frozenset()
    """Names besides the loopback ones that requests may come in under."""
    networks: tuple[Network, ...] = ()
    """Networks besides this machine that may ask."""
    origins: frozenset[str] = frozenset()
    """Origins ("http://host:port") of pages that may ask what programs may."""


class HttpFace:
    """A running face; made by `start_http_face`."""

    def __init__(
        self,
        catalogue: Catalogue,
        table: SessionTable,
        link: ViewingLink,
        cdn: CdnWatch,
        server: "_Server",
        listener: socket.socket,
    ) -> None:
        self._catalogue = catalogue
        self._table = table
        self._link = link
        self._server = server
        self._listener = listener
        address, port = listener.getsockname()[:2]
        self.listen = Endpoint(address, port)
        """Where it listens."""
        self._tasks = [
            asyncio.create_task(server.serve(sockets=[listener])),
            asyncio.create_task(self._sweep()),
            asyncio.create_task(cdn.run()),
        ]

    @property
    def url(self) -> str:
        """The base of all its addresses."""
        return f"http://{self.listen}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def add_torrent(self, torrent: TorrentFile) -> None:
        """Let a torrent be found; it starts when a player asks for it."""
        self._catalogue.add_torrent(torrent)

    def add_live(self, source: HlsSource) -> None:
        """Let a live stream be played."""
        self._catalogue.add_live(source)

    def remove_live(self, stream_id: bytes) -> None:
        """Let a live stream be played no more."""
        self._catalogue.remove_live(stream_id)

    async def stop(self) -> None:
        """End all sessions and stop listening; the engine goes on."""
        self._table.close()
        self._server.should_exit = True
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        await self._link.close()
        await self._catalogue.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            for session in self._table.sweep():
                if not self._table.uses(session.playable):
                    await session.playable.rest()


async def start_http_face(engine: Engine, config: FaceConfig) -> HttpFace:
    """Let an engine be asked over HTTP.

    Args:
        engine: A running one.
        config: Where and by whom.

    Raises:
        ListenError: The address is taken, or the token cannot be written.
    """
    try:
        token = write_token(config.token_path)
        listener = _bind(config.listen)
    except OSError as error:
        raise ListenError(f"http: {error.filename or config.listen}: {error.strerror}") from None
    desk = None if engine.ledger is None else engine.ledger.viewing
    link = ViewingLink(desk)
    table = SessionTable(config.limits)
    table.on_end = link.end
    cdn = CdnWatch(config.hybrid)
    catalogue = _open_catalogue(engine, config, cdn)
    rules = AccessRules(
        token=token,
        host_names=config.host_names | {config.listen.ip},
        networks=config.networks,
        origins=config.origins,
    )
    routes: list[BaseRoute] = [
        *PlayerPaths(catalogue, table, viewing=link, cdn=cdn).routes(),
        *ServicePaths(catalogue, table).routes(),
    ]
    if desk is not None:
        routes.append(Mount(CMCD_PATH, routes=make_routes(desk)))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Admission, rules=rules)],
        exception_handlers={HTTPException: answer_http_error, Exception: answer_fault},
    )
    face = HttpFace(catalogue, table, link, cdn, _Server(_serving(app)), listener)
    _log.info("http_face_listening", url=face.url)
    return face


def _open_catalogue(engine: Engine, config: FaceConfig, cdn: CdnWatch) -> Catalogue:
    async def start(torrent: TorrentFile) -> Content:
        folder = config.save_path / torrent.content_id.hex()
        await asyncio.to_thread(os.makedirs, folder, exist_ok=True)
        # Not in order: libtorrent's order of pieces would compete with the readers' deadlines, and
        # after a seek it can hold them up for seconds.
        options = ContentOptions(save_path=folder, peers=config.peers, uses_web_seeds=False)
        content = await engine.add(torrent, options)
        if config.uses_web_seeds:
            cdn.add(content, catalogue.desk_of(content))
        return content

    async def fetch(url: str) -> TorrentFile:
        return await fetch_torrent(url, allows_private=config.allows_private_urls)

    async def resolve_magnet(link: str) -> TorrentFile:
        stops = threading.Event()
        try:
            return await asyncio.to_thread(
                fetch_magnet,
                link,
                listen_ip=config.metadata_ip,
                peers=[(peer.ip, peer.port) for peer in config.peers],
                discovers=config.discovers,
                is_cancelled=stops.is_set,
                timeout_s=_METADATA_S,
            )
        finally:
            stops.set()

    catalogue = Catalogue(
        engine.contents,
        start=start,
        fetch=fetch,
        resolve_magnet=resolve_magnet if config.peers or config.discovers else None,
        policy=config.window,
        added_max=config.added_max,
    )
    return catalogue


def _bind(listen: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.ip else socket.AF_INET
    # Named protocol: asyncio sets TCP_NODELAY on such sockets only.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((listen.ip, listen.port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _serving(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        # Whoever says so would else be believed to come from another address.
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )


class _Server(uvicorn.Server):
    """Leaves signals to the program that the engine runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
