"""Peers that shake hands and then only listen: cheap company for one engine.

They speak the handshake and the extension handshake (BEP 3, BEP 10), say that they have nothing
and want everything, and send keep-alives. Each comes from an address of its own, for an engine
takes one connection per address.
"""

import os
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from ledger.bench.errors import BenchError

SHAKE_TIMEOUT_S = 20.0
"""How long the last handshakes may take."""

_PROTOCOL = b"\x13BitTorrent protocol"
_EXTENSIONS = bytes([0, 0, 0, 0, 0, 0x10, 0, 0x04])
"""Extension protocol (BEP 10) and fast extension (BEP 6)."""
_EXTENDED = b"d1:md11:ut_metadatai1ee1:v10:idle peer.e"
_HAVE_NONE, _INTERESTED, _EXTENDED_ID = 15, 2, 20
_HANDSHAKE_BYTES = 68
_READ_BYTES = 1 << 16


def _message(kind: int, payload: bytes = b"") -> bytes:
    return (1 + len(payload)).to_bytes(4, "big") + bytes([kind]) + payload


class IdlePeers:
    """Open connections to one engine; closed when the `with` block ends."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._received: dict[socket.socket, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._selector.close()
        for connection in self._sockets:
            connection.close()

    def connect(self, address: str, port: int, infohashes: Sequence[bytes], count: int) -> None:
        """Open connections, spread evenly over torrents, until all hands are shaken.

        Args:
            address: IPv4 loopback address of the engine.
            port: Its port.
            infohashes: 20 bytes each.
            count: How many connections; 1 to 60,000.

        Raises:
            BenchError: The engine refused some of them.
        """
        for number in range(count):
            source = f"127.{100 + number // 50_000}.{number // 250 % 250}.{number % 250 + 1}"
            connection = socket.create_connection(
                (address, port), timeout=10, source_address=(source, 0)
            )
            self._sockets.append(connection)
            peer_id = b"-ID0001-" + os.urandom(12)
            infohash = infohashes[number % len(infohashes)]
            connection.sendall(
                _PROTOCOL
                + _EXTENSIONS
                + infohash
                + peer_id
                + _message(_HAVE_NONE)
                + _message(_EXTENDED_ID, b"\0" + _EXTENDED)
                + _message(_INTERESTED)
            )
            connection.setblocking(False)
            self._received[connection] = 0
            self._selector.register(connection, selectors.EVENT_READ)
            self.listen(0)
        deadline_s = time.monotonic() + SHAKE_TIMEOUT_S
        while self.count_shaken() < count and time.monotonic() < deadline_s:
            self.listen(0.2)
        if (shaken := self.count_shaken()) < count:
            raise BenchError(f"idle peers: got {shaken} handshakes, want {count}")

    def count_shaken(self) -> int:
        """Return how many connections are open after a whole handshake."""
        return sum(count >= _HANDSHAKE_BYTES for count in self._received.values())

    def listen(self, seconds: float) -> None:
        """Take what comes in for a while, so that the engine's buffers stay empty."""
        deadline_s = time.monotonic() + seconds
        while True:
            for key, _ in self._selector.select(max(0.0, deadline_s - time.monotonic())):
                connection = key.fileobj
                if isinstance(connection, socket.socket):
                    self._take(connection)
            if time.monotonic() >= deadline_s:
                return

    def keep_alive(self) -> None:
        """Send a keep-alive on every connection."""
        for connection in list(self._received):
            with suppress(OSError):
                connection.send(bytes(4))

    def _take(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_READ_BYTES)
        except OSError:
            data = b""
        if data:
            self._received[connection] += len(data)
        else:
            self._selector.unregister(connection)
            del self._received[connection]
