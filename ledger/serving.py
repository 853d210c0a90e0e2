"""Serving: one uvicorn process on one socket, with a file that says when it is ready.

Used by API, issuer and demo CDN. Port 0 takes a free port; the ready file then holds the base URL,
so whoever started the process knows where it answers. Logs go to standard error.
"""

import gc
import json
import os
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
import uvicorn
from starlette.applications import Starlette

BACKLOG: Final = 1_024
SHUTDOWN_S: Final = 10
GC_OBJECTS: Final = 20_000
"""New objects after which the garbage collector looks for cycles among them."""


class ListenError(Exception):
    """The address cannot be listened on, or is not `host:port`."""


def bind(listen: str) -> socket.socket:
    """Return a socket bound to `host:port`; port 0 takes a free one.

    Raises:
        ListenError: It is no such address, or it is taken.
    """
    parts = urlsplit(f"//{listen}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.path:
        raise ListenError(f"listen: got {listen}, want host:port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named protocol: asyncio sets TCP_NODELAY on such sockets only, which saves 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"listen: got {listen}, {error.strerror}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the base URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Starlette, listener: socket.socket, ready_file: Path | None) -> None:
    """Serve until SIGINT or SIGTERM; requests under way get some seconds to end.

    Args:
        app: What answers; its `state.before_shutdown`, if any, is called when it is to stop.
        listener: Bound and listening.
        ready_file: Gets URL and process number as JSON when requests are answered.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    # What is loaded by now stays until the end, and requests make hardly any cycles.
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
    _Server(app, config, listener, ready_file).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Writes the ready file once start-up is through."""

    def __init__(
        self,
        app: Starlette,
        config: uvicorn.Config,
        listener: socket.socket,
        ready_file: Path | None,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._url = url_of(listener)
        self._ready_file = ready_file

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Requests that wait for something would hold the stop up.
        before = getattr(self._app.state, "before_shutdown", None)
        if before is not None:
            before()
        await super().shutdown(sockets=sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.should_exit:
            if self._ready_file is not None:
                write_ready_file(self._ready_file, self._url)
            structlog.get_logger(__name__).info("listening", url=self._url)


def write_ready_file(path: Path, url: str) -> None:
    """Write URL and process number as JSON so that a reader sees all of it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n", encoding="utf-8")
    draft.replace(path)
