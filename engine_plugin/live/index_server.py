"""The segment index over HTTP, and the place where viewers find each other.

    GET  /live/<stream id>/descriptor                      the signed descriptor
    GET  /live/<stream id>/entries?from=N&wait_ms=W        entries from number N, waits for one
    GET  /live/<stream id>/entries?newest=K                the newest K entries
    POST /live/<stream id>/peers {"listen": "IP:PORT"}     whom to dial

Entries are bytes one after the other, as `gossip.format_entry` prints them; what they say is
signed, so any cache or mirror may stand in between. Not here: who may watch.
"""

import asyncio
import contextlib
import ipaddress
import json
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from engine_plugin.config import ConfigError, parse_endpoint
from engine_plugin.errors import SessionError
from engine_plugin.live.gossip import IndexEntry, format_entry
from engine_plugin.live.rendezvous import Rendezvous
from engine_plugin.wire import Endpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.stream import Stream

ENTRIES_MOST = 64
"""Most entries in one answer."""

WAIT_MOST_MS = 25_000
"""Longest wait for the next entry: below the idle limits of common proxies."""

CONNECTIONS_MOST = 800
"""Each viewer waits on one, and a process may have 1,024 files open as systems come."""

_BODY_MOST = 1024
_BYTES_TYPE = "application/octet-stream"


class IndexService:
    """The newest entries of one stream, and who follows it; for the event loop's thread."""

    def __init__(
        self,
        descriptor: Signed[Stream],
        rendezvous: Rendezvous,
        *,
        sources: Sequence[Endpoint],
        kept: int = 512,
    ) -> None:
        """Begin without entries.

        Args:
            descriptor: The stream's.
            rendezvous: Its viewers.
            sources: Where the broadcaster's own nodes listen.
            kept: Entries that are kept.
        """
        self.descriptor = descriptor
        self.rendezvous = rendezvous
        self._sources = list(sources)
        self._entries: deque[IndexEntry] = deque(maxlen=kept)
        self._grown = asyncio.Condition()

    async def publish(self, entry: IndexEntry) -> None:
        """Add the next entry and wake whoever waits for it."""
        async with self._grown:
            self._entries.append(entry)
            self._grown.notify_all()

    def entries_from(self, number: int) -> list[IndexEntry]:
        """Return the entries from a number on, at most 64."""
        if not self._entries:
            return []
        skipped = max(0, number - self._entries[0].segment.number)
        return [
            self._entries[at]
            for at in range(skipped, min(len(self._entries), skipped + ENTRIES_MOST))
        ]

    def newest(self, count: int) -> list[IndexEntry]:
        """Return the newest entries, oldest first."""
        return list(self._entries)[-count:] if count > 0 else []

    async def wait_from(self, number: int, wait_ms: int) -> list[IndexEntry]:
        """Return the entries from a number on; wait for the first, at most `wait_ms`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000), self._grown:
                await self._grown.wait_for(lambda: bool(self.entries_from(number)))
        return self.entries_from(number)

    async def answer_descriptor(self, _: Request) -> Response:
        """Answer with the signed descriptor."""
        return Response(
            self.descriptor.raw, media_type=_BYTES_TYPE, headers={"cache-control": "max-age=5"}
        )

    async def answer_entries(self, request: Request) -> Response:
        """Answer with entries."""
        query = request.query_params
        try:
            number, count = int(query.get("from", "0")), int(query.get("newest", "0"))
            wait_ms = min(WAIT_MOST_MS, max(0, int(query.get("wait_ms", "0"))))
        except ValueError:
            return PlainTextResponse("from, newest, wait_ms: want integers\n", status_code=400)
        if "newest" in query:
            found = self.newest(min(count, ENTRIES_MOST))
        else:
            found = await self.wait_from(max(0, number), wait_ms)
        return Response(
            b"".join(format_entry(entry) for entry in found),
            media_type=_BYTES_TYPE,
            headers={"cache-control": "no-store"},
        )

    async def answer_peers(self, request: Request) -> Response:
        """Take a viewer's address, answer with some others."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_MOST:
                return PlainTextResponse("body: too long\n", status_code=413)
        try:
            named = json.loads(body)
            listen = parse_endpoint(str(named["listen"]), "listen")
            is_leaving = bool(named.get("leaving", False))
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError):
            return PlainTextResponse('body: want {"listen": "IP:PORT"}\n', status_code=400)
        viewer = _address_of(listen, request.client.host if request.client else listen.ip)
        if is_leaving:
            self.rendezvous.leave(viewer)
            return JSONResponse({})
        peers = self.rendezvous.announce(viewer, time.monotonic())
        sources = [str(source) for source in self._sources]
        is_first = self.rendezvous.is_first(viewer)
        return JSONResponse(
            {
                "sources": sources if is_first else [],
                "reserve": [] if is_first else sources,
                "peers": [str(peer) for peer in peers],
            }
        )

    def app(self) -> Starlette:
        """Return the HTTP application."""
        base = f"/live/{self.descriptor.value.stream_id.hex()}"
        return Starlette(
            routes=[
                Route(f"{base}/descriptor", self.answer_descriptor),
                Route(f"{base}/entries", self.answer_entries),
                Route(f"{base}/peers", self.answer_peers, methods=["POST"]),
            ]
        )


def _address_of(listen: Endpoint, client_ip: str) -> Endpoint:
    """Return where a viewer is reached: what it says about its address counts on loopback only.

    Otherwise anybody could have others dial a third party.
    """
    try:
        is_local = ipaddress.ip_address(client_ip).is_loopback
    except ValueError:
        is_local = False
    return listen if is_local else Endpoint(client_ip, listen.port)


class _Server(uvicorn.Server):
    """Leaves signals to the program it runs in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class IndexServer:
    """Serves one application in the running event loop."""

    def __init__(self, endpoint: Endpoint, *, connections_most: int = CONNECTIONS_MOST) -> None:
        """Bind the port; port 0 lets the system choose.

        Args:
            endpoint: Where to listen.
            connections_most: Whoever comes beyond is answered 503; n ≥ 1.

        Raises:
            SessionError: It is taken.
        """
        family = socket.AF_INET6 if ":" in endpoint.ip else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(endpoint)
        except OSError as error:
            self._socket.close()
            raise SessionError(f"index: {endpoint}: {error.strerror}") from None
        self.endpoint = Endpoint(endpoint.ip, self._socket.getsockname()[1])
        """Where it listens."""
        self._connections_most = connections_most
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, app: Starlette) -> None:
        """Begin to answer."""
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            limit_concurrency=self._connections_most + 1,  # uvicorn refuses the one that reaches it
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Stop answering; waiting requests are ended."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = self._server.force_exit = True
            await self._task
        self._socket.close()
