"""A tracker inside the viewer's own process: it tells libtorrent whom to dial, at once.

libtorrent dials addresses it was given when its next full second begins, half a second later on
average, but dials whoever a tracker's first answer names right away. A live segment has no half
second to lose. It listens where the engine does, knows nobody but the
viewer's own neighbours, and answers at a path that only its own process knows.

Spec: BEP 3 (announce), BEP 23 (compact peers), BEP 7 (IPv6).
"""

import asyncio
import ipaddress
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress

from engine_plugin.wire import Endpoint

_HEAD_MOST = 8192
_INTERVAL_S = 1800

Neighbours = Callable[[], Sequence[Endpoint]]


class LocalTracker:
    """One tracker for all torrents of one viewer."""

    def __init__(self, neighbours: Neighbours, *, listen: Endpoint, delay_s: float) -> None:
        """Bind a tracker.

        Args:
            neighbours: Whom to dial now.
            listen: Where the engine listens: libtorrent announces to a tracker on loopback from
                a loopback socket only, and to others from the engine's address.
            delay_s: How long an answer waits: a neighbour that has not added a segment yet would
                refuse, and be dialled again seconds later only.
        """
        self._neighbours = neighbours
        is_everywhere = ipaddress.ip_address(listen.ip.partition("%")[0]).is_unspecified
        self._ip = "127.0.0.1" if is_everywhere else listen.ip
        self._delay_s = delay_s
        # libtorrent asks a tracker on loopback only when its path begins so.
        self._path = f"/announce/{secrets.token_hex(8)}"
        self._server: asyncio.Server | None = None
        self.url = ""
        """Where torrents announce; "" before `start`."""

    async def start(self) -> None:
        """Listen on a free port.

        Raises:
            OSError: There is none.
        """
        self._server = await asyncio.start_server(self._answer, self._ip, 0, limit=_HEAD_MOST)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{Endpoint(self._ip, port)}{self._path}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode("latin-1")
            is_ours = target.partition("?")[0] == self._path
            if is_ours and "event=stopped" not in target:
                await asyncio.sleep(self._delay_s)
                body, status = format_peers(self._neighbours()), b"200 OK"
            elif is_ours:
                body, status = format_peers(()), b"200 OK"
            else:
                body, status = b"", b"404 Not Found"
            writer.write(
                b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
                b"Connection: close\r\n\r\n%s" % (status, len(body), body)
            )
            await writer.drain()
        except (OSError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # not an announce of ours
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def format_peers(endpoints: Sequence[Endpoint]) -> bytes:
    """Return a bencoded announce answer that names these peers."""
    four, six = bytearray(), bytearray()
    for endpoint in endpoints:
        address = ipaddress.ip_address(endpoint.ip.partition("%")[0])
        packed = address.packed + endpoint.port.to_bytes(2, "big")
        if isinstance(address, ipaddress.IPv4Address):
            four += packed
        else:
            six += packed
    return b"d8:intervali%de5:peers%d:%s6:peers6%d:%se" % (
        _INTERVAL_S,
        len(four),
        bytes(four),
        len(six),
        bytes(six),
    )
