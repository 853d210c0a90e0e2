"""Where a log's files are read from: a web server or a folder, every answer bounded.

Only paths of c2sp.org/tlog-tiles are asked for. A web server's redirects are not followed and its
answers are believed in nothing: who reads checks hashes and signatures. But an answer that was cut
short on its way is no answer: it must not speak against the log.
"""

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from ledger.audit.errors import UndecidableError
from ledger.evidence.instruction_list import INSTRUCTION_LIST_BYTES_MAX
from ledger.evidence.merkle import HASH_BYTES
from ledger.evidence.note import NOTE_BYTES_MAX
from ledger.evidence.tile import LEAF_BYTES_MAX, TILE_WIDTH
from ledger.stellar.bounded_http import DeadlineConnection

ENTRY_BUNDLE_BYTES_MAX: Final = TILE_WIDTH * (2 + LEAF_BYTES_MAX)
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
TIMEOUT_S: Final = 60
"""Seconds for a whole exchange: the longest entry bundle, 16 MiB, still comes at 2.3 Mbit/s."""

TRIES: Final = 3

_FAILURES = (OSError, http.client.HTTPException)


class LogSource(Protocol):
    """A log's files."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is none.

        Raises:
            UndecidableError: It cannot be read, or is longer than its kind may be.
        """

    def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder with a log's files, such as a mirror."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is none.

        Raises:
            UndecidableError: It cannot be read, or is longer than its kind may be.
        """
        try:
            with (self.folder / path).open("rb") as file:
                content = file.read(size_max(path) + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UndecidableError(f"{self.folder / path}: {error.strerror}") from None
        return _bounded(f"{self.folder / path}", path, content)

    def close(self) -> None:
        """Nothing is open between two reads."""


@dataclass(slots=True)
class WebSource:
    """A log's base URL, `http` or `https`; one connection that is kept open.

    Raises:
        UndecidableError: The URL is none.
    """

    url: str
    timeout_s: float = TIMEOUT_S
    """Seconds that an exchange may take, all in all; it is tried `TRIES` times."""

    _connection: DeadlineConnection | None = field(default=None, init=False)
    _host: str = field(default="", init=False)
    _port: int = field(default=0, init=False)
    _prefix: str = field(default="", init=False)
    _context: ssl.SSLContext | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise UndecidableError(f"{self.url}: {error}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise UndecidableError(f"{self.url}: want http(s)://host/path of a log")
        if parts.scheme == "https":
            self._context = ssl.create_default_context()
        self._host, self._port = parts.hostname, port or (443 if self._context else 80)
        self._prefix = parts.path.rstrip("/")

    @property
    def name(self) -> str:
        """The URL."""
        return self.url

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is none.

        Raises:
            UndecidableError: The server does not answer, or answers with anything but the file.
        """
        status, content = self.get(f"{self._prefix}/{path}", size_max(path))
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        if status != http.HTTPStatus.OK:
            raise UndecidableError(f"{self.url}/{path}: got HTTP {status}, want 200")
        return _bounded(f"{self.url}/{path}", path, content)

    def get(
        self, target: str, bytes_max: int, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Ask for a path of the server, and return status and at most `bytes_max` + 1 bytes.

        Raises:
            UndecidableError: The server does not answer in time, or not as long as it said.
        """
        failure: Exception | None = None
        for _ in range(TRIES):
            try:
                connection = self._connect()
                asked = {"Accept-Encoding": "identity", **(headers or {})}
                connection.request("GET", target, headers=asked)
                with connection.getresponse() as answer:
                    content = answer.read(bytes_max + 1)
                    is_whole = answer.isclosed()
                    status = answer.status
                    if answer.length and len(content) <= bytes_max:
                        # What `read` leaves unsaid: the connection ended before the body did.
                        raise http.client.IncompleteRead(content, answer.length)
            except _FAILURES as error:
                # A server may close an idle connection at any time: ask anew.
                failure = error
                self.close()
                continue
            if not is_whole:
                self.close()
            return status, content
        raise UndecidableError(f"{self.url}: {type(failure).__name__}: {failure}")

    def close(self) -> None:
        """Close the connection; the next read opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> DeadlineConnection:
        deadline_s = time.monotonic() + self.timeout_s
        if self._connection is None:
            self._connection = DeadlineConnection(self._host, self._port, self._context, deadline_s)
        self._connection.deadline_s = deadline_s
        return self._connection


def open_source(place: str) -> LogSource:
    """Return the source for a URL or a folder.

    Raises:
        UndecidableError: It is neither.
    """
    if "://" in place:
        return WebSource(place)
    folder = Path(place)
    if not folder.is_dir():
        raise UndecidableError(f"{place}: got no folder, want a log's URL or folder")
    return FolderSource(folder)


def size_max(path: str) -> int:
    """Return the most bytes that a file of the log may have."""
    if path.startswith("tile/entries/"):
        return ENTRY_BUNDLE_BYTES_MAX
    if path.startswith("instructions/"):
        return INSTRUCTION_LIST_BYTES_MAX
    return TILE_BYTES if path.startswith("tile/") else NOTE_BYTES_MAX


def _bounded(name: str, path: str, content: bytes) -> bytes:
    if len(content) > size_max(path):
        raise UndecidableError(f"{name}: got over {size_max(path)} bytes, want a file of a log")
    return content
