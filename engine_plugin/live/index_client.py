"""Reads a stream's index over HTTP, from whichever of its URLs answers.

Bytes that do not parse count as no answer. Signatures and links are the chain's to judge.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from engine_plugin.config import ConfigError, parse_endpoint
from engine_plugin.errors import EngineError
from engine_plugin.live.bounded_http import ask_bounded
from engine_plugin.live.gossip import IndexEntry, parse_entries
from engine_plugin.name_lookup import NameLookup
from engine_plugin.url_text import hide_queries
from engine_plugin.wire import Endpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.stream import Stream, parse_stream, require_valid_stream

_WAIT_MS = 15_000
_SLACK_S = 3.0
_CONNECT_S = 3.0
_DESCRIPTOR_S = 10.0
_ENTRIES_MOST = 64
_ANSWER_MOST = 4 << 20


class IndexUnreachableError(EngineError):
    """No URL of the index answered as it should; it is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Whom to dial."""

    sources: tuple[Endpoint, ...]
    """The broadcaster's own nodes, if this viewer is one of the first to fetch from them."""
    reserve: tuple[Endpoint, ...] = ()
    """The same, to dial only when a segment is late."""
    peers: tuple[Endpoint, ...]
    """Other viewers."""


class IndexClient:
    """A client of one stream's index."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        wait_ms: int = _WAIT_MS,
        names: NameLookup | None = None,
    ) -> None:
        """Bind a client.

        Args:
            urls: Base URLs, tried in order; the last that answered is tried first.
            wait_ms: How long an answer may wait for the next entry; one that stays silent for
                longer counts as dead.
            names: How hosts are looked up before they are asked.
        """
        self._names = names or NameLookup()
        self._urls = [url.rstrip("/") for url in urls]
        self._at = 0
        self._wait_ms = wait_ms
        self._longest_s = wait_ms / 1000 + _SLACK_S
        timeout = httpx.Timeout(self._longest_s, connect=_CONNECT_S)
        self._http = httpx.AsyncClient(timeout=timeout, follow_redirects=True)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def wait_entries(self, number: int) -> list[IndexEntry]:
        """Return entries from a number on; waits some seconds for the first.

        Raises:
            IndexUnreachableError: Nobody answered as it should.
        """
        return await self._entries(f"from={number}&wait_ms={self._wait_ms}")

    async def newest(self, count: int) -> list[IndexEntry]:
        """Return the newest entries.

        Raises:
            IndexUnreachableError: Nobody answered as it should.
        """
        return await self._entries(f"newest={count}")

    async def announce(self, listen: Endpoint, *, is_leaving: bool = False) -> Found:
        """Say where we listen, and learn whom to dial.

        Raises:
            IndexUnreachableError: Nobody answered as it should.
        """
        body = {"listen": str(listen), "leaving": is_leaving}
        raw = await self._ask("POST", "/peers", json.dumps(body).encode())
        try:
            answer = json.loads(raw)
            lists = [
                tuple(parse_endpoint(str(text), name) for text in answer.get(name, ())[:64])
                for name in ("sources", "reserve", "peers")
            ]
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, ConfigError):
            raise IndexUnreachableError("index: peers: got an answer that does not parse") from None
        return Found(sources=lists[0], reserve=lists[1], peers=lists[2])

    async def _entries(self, query: str) -> list[IndexEntry]:
        raw = await self._ask("GET", f"/entries?{query}")
        try:
            return parse_entries(raw, most=_ENTRIES_MOST)
        except EvidenceError as error:
            raise IndexUnreachableError(f"index: {error}") from None

    async def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        reasons: list[str] = []
        for _ in self._urls:
            url = self._urls[self._at]
            try:
                await self._names.require(urlsplit(url).hostname or "", within_s=_CONNECT_S)
                answer = await ask_bounded(
                    self._http,
                    method,
                    url + path,
                    body=body,
                    most_bytes=_ANSWER_MOST,
                    within_s=2 * self._longest_s,
                )
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                reasons.append(hide_queries(f"{url}: {type(error).__name__} {error}"))
            else:
                return answer.body
            self._at = (self._at + 1) % len(self._urls)
        raise IndexUnreachableError("index: " + ("; ".join(reasons) or "no URL"))


async def fetch_descriptor(url: str) -> Signed[Stream]:
    """Return the descriptor at an index's base URL, or at a URL of its own.

    Raises:
        IndexUnreachableError: It cannot be had, or is not signed by the key it names.
    """
    whole = url if url.endswith(("/descriptor", ".stream")) else url.rstrip("/") + "/descriptor"
    try:
        async with httpx.AsyncClient(timeout=_DESCRIPTOR_S, follow_redirects=True) as http:
            answer = await ask_bounded(
                http, "GET", whole, most_bytes=_ANSWER_MOST, within_s=2 * _DESCRIPTOR_S
            )
            return read_descriptor(answer.body)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        reason = hide_queries(f"{whole}: {type(error).__name__} {error}")
        raise IndexUnreachableError(reason) from None


def read_descriptor(raw: bytes) -> Signed[Stream]:
    """Return a descriptor whose signature is good.

    Raises:
        IndexUnreachableError: It is malformed or not signed by the key it names.
    """
    try:
        signed = parse_stream(raw)
        require_valid_stream(signed)
    except EvidenceError as error:
        raise IndexUnreachableError(f"stream: {error}") from None
    return signed
