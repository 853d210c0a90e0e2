"""Sends one bundle in chunks, and after a cut only what is missing.

The client of the collector's resumable uploads (draft-ietf-httpbis-resumable-upload). Nothing is
remembered between tries: the same bytes from the same address are the same upload there, and its
creation tells how far it is. Not here: when to try again (`uploader`).
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urljoin

from engine_plugin.errors import CollectorUnavailableError

CHUNK_BYTES = 256 << 10
"""Sent at once, if the collector takes that much."""


class Exchange(Protocol):
    """Asks the collector; returns headers and body of a successful answer, raises otherwise."""

    async def __call__(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        """Ask once."""


class ChunkedUpload:
    """One try at one bundle."""

    def __init__(self, exchange: Exchange, base_url: str, raw: bytes) -> None:
        """Prepare a try.

        Args:
            exchange: Asks the collector.
            base_url: The collector's, without a slash at its end.
            raw: The bundle.
        """
        self._exchange = exchange
        self._create_url = f"{base_url}/v1/uploads"
        self._raw = raw

    async def send(self) -> bytes:
        """Send what is missing and return the collector's answer to the whole.

        Raises:
            CollectorUnavailableError: It was cut, or is to be tried later; what was taken stays.
            CollectorRefusedError: The bundle was refused.
        """
        size = len(self._raw)
        digest = base64.b64encode(hashlib.sha256(self._raw).digest()).decode()
        headers, _ = await self._exchange(
            "POST",
            self._create_url,
            headers={
                "Upload-Complete": "?0",
                "Upload-Length": str(size),
                "Repr-Digest": f"sha-256=:{digest}:",
            },
        )
        url = urljoin(self._create_url, headers.get("location", ""))
        if not url.startswith(f"{self._create_url}/"):
            raise CollectorUnavailableError("upload: got a place elsewhere, want the collector's")
        if headers.get("upload-complete") == "?1":
            _, answer = await self._exchange("GET", url)
            return answer
        offset, step = self._read_offset(headers), _chunk_bytes(headers)
        while True:
            end = min(offset + step, size)
            headers, answer = await self._exchange(
                "PATCH",
                url,
                content=self._raw[offset:end],
                headers={
                    "Content-Type": "application/partial-upload",
                    "Upload-Offset": str(offset),
                    "Upload-Complete": "?1" if end == size else "?0",
                },
            )
            if end == size:
                return answer
            if self._read_offset(headers) != end:
                raise CollectorUnavailableError(f"upload: got another offset than {end}")
            offset = end

    def _read_offset(self, headers: Mapping[str, str]) -> int:
        text = headers.get("upload-offset", "")
        if not (text.isascii() and text.isdigit()) or int(text) > len(self._raw):
            raise CollectorUnavailableError("upload: got no offset, want one within the bundle")
        return int(text)


def _chunk_bytes(headers: Mapping[str, str]) -> int:
    """Return how much to send at once: as much as both sides like."""
    for part in headers.get("upload-limit", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "max-append-size" and value.isascii() and value.isdigit() and int(value) > 0:
            return min(CHUNK_BYTES, int(value))
    return CHUNK_BYTES
