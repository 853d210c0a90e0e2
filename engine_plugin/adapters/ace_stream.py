"""An Ace Stream engine, read through the HTTP statistics that it gives to players.

It opens one playback, asks for its figures and closes it again. The figures are totals of one
playback: no peers' keys, no hashes, no blocks; so they are marked as such, never receipted.

Spec: the engine's public HTTP interface (`/ace/getstream?format=json`, `stat_url`,
`command_url?method=stop`), as `http_face` answers it too.
"""

from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from engine_plugin.adapters.protocol import EngineTotals
from engine_plugin.errors import EngineError

ANSWER_SIZE_MAX = 1 << 20
TIMEOUT_S = 10.0
_TOTAL_MAX = 1 << 62
_KEYS = ("content_id", "id", "infohash", "url", "magnet")


class AceEngineError(EngineError):
    """The engine cannot be reached, refused, or answered what its interface does not allow."""


class AceStreamEngine:
    """One playback of an Ace Stream engine; an asynchronous context manager."""

    def __init__(self, base_url: str, *, key: str, value: str) -> None:
        """Bind a playback; nothing is asked yet.

        Args:
            base_url: Where the engine listens, such as "http://127.0.0.1:6878".
            key: How the content is named: content_id, id, infohash, url or magnet.
            value: Its name.

        Raises:
            AceEngineError: An argument is no such thing.
        """
        if key not in _KEYS:
            raise AceEngineError(f"key: got {key!r}, want one of {', '.join(_KEYS)}")
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise AceEngineError(f"engine: got {base_url!r}, want an http URL")
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._query = {key: value, "format": "json"}
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        self._stat_url = self._command_url = ""
        self._content_id = self._playback_id = ""

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except AceEngineError:
            if error is None:
                raise

    async def open(self) -> None:
        """Open the playback.

        Raises:
            AceEngineError: The engine does not know the content, or did not answer.
        """
        opened = await self._ask(f"{self._origin}/ace/getstream", self._query)
        self._stat_url = self._own_url(_text(opened, "stat_url"))
        self._command_url = self._own_url(_text(opened, "command_url"))
        self._content_id = _text(opened, "infohash")
        self._playback_id = _text(opened, "playback_session_id")

    async def read(self) -> EngineTotals:
        """Return the totals as of now.

        Raises:
            AceEngineError: The playback is over, or the engine did not answer.
        """
        figures = await self._ask(self._stat_url)
        downloaded = _total(figures, "downloaded")
        http = _total(figures, "http_downloaded") if "http_downloaded" in figures else None
        if http is not None and http > downloaded:
            raise AceEngineError(f"http_downloaded: got {http}, want at most {downloaded}")
        return EngineTotals(
            content_id=self._content_id,
            playback_id=self._playback_id,
            is_live=figures.get("is_live") in {1, "1"},
            peer_count=_total(figures, "peers"),
            downloaded_bytes=downloaded,
            http_bytes=http,
            uploaded_bytes=_total(figures, "uploaded"),
        )

    async def close(self) -> None:
        """Stop the playback.

        Raises:
            AceEngineError: The engine did not answer; it stops a playback nobody reads by itself.
        """
        try:
            if self._command_url:
                await self._ask(self._command_url, {"method": "stop"})
                self._command_url = ""
        finally:
            await self._client.aclose()

    async def _ask(self, url: str, query: dict[str, str] | None = None) -> Any:
        try:
            async with self._client.stream("GET", url, params=query) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_SIZE_MAX:
                        raise AceEngineError(f"answer: want at most {ANSWER_SIZE_MAX} bytes")
                answer = httpx.Response(response.status_code, content=bytes(body)).json()
        except httpx.HTTPError as error:
            raise AceEngineError(f"{self._origin}: {error or type(error).__name__}") from None
        except ValueError:
            raise AceEngineError(f"{self._origin}: got no JSON") from None
        if not isinstance(answer, dict):
            raise AceEngineError(f"{self._origin}: got {type(answer).__name__}, want an object")
        if answer.get("error") is not None or answer.get("response") is None:
            raise AceEngineError(f"{self._origin}: {str(answer.get('error'))[:200]}")
        return answer["response"]

    def _own_url(self, url: str) -> str:
        """Return a URL of the engine's own; an answer must not send us elsewhere."""
        parts = urlsplit(url)
        if parts.netloc and f"{parts.scheme}://{parts.netloc}" != self._origin:
            raise AceEngineError(f"url: got {url[:200]!r}, want one of {self._origin}")
        return url if parts.netloc else f"{self._origin}{url}"


def _text(answer: Any, name: str) -> str:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        raise AceEngineError(f"{name}: got {str(value)[:100]!r}, want text")
    return value


def _total(answer: Any, name: str) -> int:
    value = answer.get(name, 0) if isinstance(answer, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _TOTAL_MAX:
        raise AceEngineError(f"{name}: got {str(value)[:100]!r}, want an integer from 0")
    return value
