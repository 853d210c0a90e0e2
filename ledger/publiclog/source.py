"""Where a log's files are read from: a web server or a folder, every answer bounded.

Only paths of c2sp.org/tlog-tiles are asked for. A web server's redirects are not followed and its
answers are believed in nothing: who reads checks hashes and signatures.
"""

import http.client
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

ENTRY_BUNDLE_BYTES_MAX: Final = TILE_WIDTH * (2 + LEAF_BYTES_MAX)
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
TIMEOUT_S: Final = 20
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
    _connection: http.client.HTTPConnection | None = field(default=None, init=False)
    _host: str = field(default="", init=False)
    _prefix: str = field(default="", init=False)
    _is_secure: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            parts.port  # noqa: B018 - raises for a port that is none
        except ValueError as error:
            raise UndecidableError(f"{self.url}: {error}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise UndecidableError(f"{self.url}: want http(s)://host/path of a log")
        self._is_secure = parts.scheme == "https"
        self._host = parts.netloc.rpartition("@")[2]
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
            UndecidableError: The server does not answer.
        """
        failure: Exception | None = None
        for _ in range(TRIES):
            connection = self._connect()
            try:
                asked = {"Accept-Encoding": "identity", **(headers or {})}
                connection.request("GET", target, headers=asked)
                with connection.getresponse() as answer:
                    content = answer.read(bytes_max + 1)
                    is_whole = answer.isclosed()
                    status = answer.status
            except _FAILURES as error:
                # A server may close an idle connection at any time: ask anew.
                failure = error
                self.close()
                continue
            if not is_whole:
                self.close()
            return status, content
        raise UndecidableError(f"{self.url}: {failure}")

    def close(self) -> None:
        """Close the connection; the next read opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
            self._connection = kind(self._host, timeout=self.timeout_s)
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
