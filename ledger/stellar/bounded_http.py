"""One HTTP exchange with a source that is not trusted: bounded in time, in size, and unrepeated.

A call ends within its deadline however slowly the other side speaks: connecting, the TLS handshake,
the head and each piece of the body share it. Bodies above a limit are not read. Redirects are not
followed, proxies of the environment are not used, and nothing is sent twice: whether to ask again
is the settlement's to decide. What it does not bound is the resolver of names, which has limits of
its own.
"""

import http.client
import io
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

from ledger.stellar.errors import GatewayError, SourceError

EXCHANGE_TIMEOUT_S: Final = 20.0
"""Seconds for a whole exchange."""

ANSWER_BYTES_MAX: Final = 32 << 20
"""Largest answer read: 200 transactions with their meta."""

_IDLE_MAX: Final = 4
_AGENT: Final = "swarmledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer."""

    url: str
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""

    body: bytes

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            GatewayError: It is none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise GatewayError(f"{self.url}: got no JSON, want it") from error


class BoundedHttp:
    """Exchanges with one host; idle connections are kept for the next one."""

    def __init__(self, base_url: str, *, timeout_s: float = EXCHANGE_TIMEOUT_S) -> None:
        """Take the host from a URL.

        Args:
            base_url: http or https.
            timeout_s: Seconds that an exchange may take, all in all.

        Raises:
            SourceError: The URL is not http or https, or names no host.
        """
        try:
            parts = urlsplit(base_url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise SourceError(f"gateway: got {base_url!r}: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SourceError(f"gateway: got {base_url!r}, want an http or https URL")
        self._host = parts.hostname
        self._port = port
        self._timeout_s = timeout_s
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        self._idle: list[DeadlineConnection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def get(self, url: str, parameters: Mapping[str, str] | None = None) -> Answer:
        """Ask for a resource.

        Raises:
            GatewayError: No answer in time, or one that is too large.
        """
        query = urlencode(parameters) if parameters else ""
        separator = "&" if "?" in url else "?"
        return self._exchange("GET", f"{url}{separator}{query}" if query else url)

    def post(self, url: str, body: bytes, content_type: str) -> Answer:
        """Send a body.

        Raises:
            GatewayError: No answer in time, or one that is too large; the body may have arrived.
        """
        return self._exchange("POST", url, body, content_type)

    def _exchange(self, method: str, url: str, body: bytes = b"", content_type: str = "") -> Answer:
        headers = {"Accept": "application/json", "User-Agent": _AGENT}
        if content_type:
            headers["Content-Type"] = content_type
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._take(time.monotonic() + self._timeout_s)
        is_kept = False
        try:
            connection.request(method, target, body or None, headers)
            with connection.getresponse() as response:
                content = response.read(ANSWER_BYTES_MAX + 1)
                names = {name.lower(): value for name, value in response.getheaders()}
                answer = Answer(url=url, status=response.status, headers=names, body=content)
                is_kept = not response.will_close and response.isclosed()
                if response.length and len(content) <= ANSWER_BYTES_MAX:
                    raise http.client.IncompleteRead(b"", response.length)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GatewayError(f"{url}: {type(error).__name__}: {error}") from error
        finally:
            if is_kept:
                self._put_back(connection)
            else:
                connection.close()
        if len(answer.body) > ANSWER_BYTES_MAX:
            raise GatewayError(f"{url}: got over {ANSWER_BYTES_MAX} bytes, want less")
        return answer

    def _take(self, deadline_s: float) -> "DeadlineConnection":
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return DeadlineConnection(self._host, self._port, self._context, deadline_s)
            if connection.is_quiet():
                connection.deadline_s = deadline_s
                return connection
            connection.close()

    def _put_back(self, connection: "DeadlineConnection") -> None:
        with self._lock:
            if len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()


class DeadlineConnection(http.client.HTTPConnection):
    """An HTTP/1.1 connection whose every wait ends at a deadline, plain or TLS.

    The deadline is in seconds of `time.monotonic` and can be set anew for each exchange. When it
    has passed, `TimeoutError` is raised.
    """

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext | None, deadline_s: float
    ) -> None:
        super().__init__(host, port)
        if context is not None:
            # Which port the Host header leaves out.
            self.default_port = http.client.HTTPS_PORT
        self.deadline_s = deadline_s
        self._context = context
        self._raw: socket.socket | None = None

    def connect(self) -> None:
        """Connect within the deadline."""
        raw = socket.create_connection((self.host, self.port), self.left_s())
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                raw.settimeout(self.left_s())
                raw = self._context.wrap_socket(raw, server_hostname=self.host)
        except OSError:
            raw.close()
            raise
        self._raw = raw
        self.sock = cast("socket.socket", _TimedSocket(self, raw))

    def left_s(self) -> float:
        """Return the time that is left.

        Raises:
            TimeoutError: None is.
        """
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("deadline passed")
        return left_s

    def is_quiet(self) -> bool:
        """Return whether the other side has neither closed the connection nor sent anything."""
        if self._raw is None or self._raw.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._raw, select.POLLIN | select.POLLHUP)
        return not poll.poll(0)


class _TimedSocket:
    """What `http.client` uses of a socket, with the connection's deadline on each wait.

    As with a real socket, closing it leaves open what was made of it.
    """

    def __init__(self, connection: DeadlineConnection, raw: socket.socket) -> None:
        self._connection = connection
        self._raw = raw
        self._readers = 0
        self._is_closed = False

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(self._connection.left_s())
        self._raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        if mode != "rb":
            raise ValueError(f"mode: got {mode!r}, want 'rb'")
        self._readers += 1
        return io.BufferedReader(_TimedReader(self._connection, self._raw, self._release))

    def close(self) -> None:
        self._is_closed = True
        if self._readers == 0:
            self._raw.close()

    def _release(self) -> None:
        self._readers -= 1
        if self._is_closed and self._readers == 0:
            self._raw.close()


class _TimedReader(io.RawIOBase):
    """Reads a socket until the connection's deadline."""

    def __init__(
        self, connection: DeadlineConnection, raw: socket.socket, release: Callable[[], None]
    ) -> None:
        super().__init__()
        self._connection = connection
        self._raw = raw
        self._release = release

    def close(self) -> None:
        if not self.closed:
            self._release()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._raw.settimeout(self._connection.left_s())
        return self._raw.recv_into(buffer)
