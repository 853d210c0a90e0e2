"""Whether a host's name can be looked up now, found out in a thread of its own.

A resolver that hangs holds the thread that asked it for half a minute, whatever time limit its
caller has. The event loop has few threads, and pieces, files and containers need them: so a name is
asked for here first, once at a time, and nobody goes on to the network before there is an answer.

Not here: connecting (`collector`), which looks the name up again.
"""

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

KEPT_S = 30.0
"""How long an answer holds."""

Resolve = Callable[[str], object]
"""Looks a name up; raises `OSError`."""


def _ask_system(host: str) -> object:
    return socket.getaddrinfo(host, None)


class NameLookup:
    """Lookups of a few names; for the event loop's thread."""

    def __init__(self, resolve: Resolve = _ask_system) -> None:
        """Bind it.

        Args:
            resolve: The system's resolver.
        """
        self._resolve = resolve
        self._pending: dict[str, asyncio.Future[str]] = {}
        self._good_until_s: dict[str, float] = {}

    async def require(self, host: str, *, within_s: float) -> None:
        """Return when a name can be looked up.

        Args:
            host: A name or an IP address.
            within_s: How long to wait for the resolver; it is not asked twice at once.

        Raises:
            OSError: The resolver says no, or nothing in time.
        """
        if _is_address(host) or time.monotonic() < self._good_until_s.get(host, 0.0):
            return
        pending = self._pending.get(host)
        if pending is None or pending.done():
            pending = self._pending[host] = self._start(host)
        done, _ = await asyncio.wait({pending}, timeout=within_s)
        if not done:
            raise TimeoutError(f"{host}: the resolver does not answer")
        if fault := pending.result():
            raise OSError(f"{host}: {fault}")
        self._good_until_s[host] = time.monotonic() + KEPT_S

    def _start(self, host: str) -> "asyncio.Future[str]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()

        def look_up() -> None:
            fault = ""
            try:
                self._resolve(host)
            except (OSError, UnicodeError) as error:
                fault = str(error) or type(error).__name__
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(future.set_result, fault)

        # Not one of the loop's threads: the end of a program would wait for those.
        threading.Thread(target=look_up, name="names", daemon=True).start()
        return future


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
