"""Which content a request names. Pure: what exists is the catalogue's business.

Exactly one of content id, info-hash, URL of a torrent file, magnet link; of several the first in
this order counts. Lenient: upper case, base32, the schemes that other programs put before an id.

Spec: Ace Stream engine API, "start playback"; BEP 9 (magnet).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qsl, urlsplit

from engine_plugin.http_face.errors import BadRequestError

_TEXT_MAX = 4096
_HASH_SIZES = frozenset({20, 32})
_FILES_MAX = 100_000


class QueryKind(StrEnum):
    """How a content is named."""

    HASH = "hash"
    URL = "url"
    MAGNET = "magnet"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentQuery:
    """One content, and which of its files."""

    kind: QueryKind
    hash: bytes = b""
    """Content id, stream id or info-hash; 20 or 32 bytes. Empty when only a URL is given."""
    text: str = ""
    """URL or magnet link."""
    sources: tuple[str, ...] = ()
    """URLs of torrent files that a magnet link names."""
    file_index: int | None = None
    """Which real file; None: the largest media file."""


def parse_query(parameters: Mapping[str, str]) -> ContentQuery:
    """Return which content a request's parameters name.

    Raises:
        BadRequestError: They name none, or malformed.
    """
    file_index = _parse_index(parameters)
    for name in ("content_id", "id", "infohash"):
        if text := parameters.get(name, "").strip():
            return ContentQuery(
                kind=QueryKind.HASH, hash=parse_hash(name, text), file_index=file_index
            )
    if text := parameters.get("url", "").strip():
        if text.startswith("magnet:"):
            return _parse_magnet(text, file_index)
        _require_length("url", text)
        return ContentQuery(kind=QueryKind.URL, text=text, file_index=file_index)
    if text := parameters.get("magnet", "").strip():
        return _parse_magnet(text, file_index)
    raise BadRequestError("content: got none, want content_id, infohash, url or magnet")


def parse_hash(name: str, text: str) -> bytes:
    """Return an id or info-hash: hexadecimal or base32; 20 or 32 bytes.

    Raises:
        BadRequestError: It is none.
    """
    for scheme in ("acestream://", "urn:btih:", "urn:btmh:"):
        text = text.removeprefix(scheme)
    parsed = b""
    try:
        if len(text) in {40, 64, 68}:
            parsed = bytes.fromhex(text)
        elif len(text) == 32:
            parsed = base64.b32decode(text.upper())
    except (ValueError, binascii.Error):
        parsed = b""
    # BEP 9 names a v2 hash as a multihash: SHA-256, 32 bytes.
    if len(parsed) == 34 and parsed.startswith(b"\x12\x20"):
        parsed = parsed[2:]
    if len(parsed) not in _HASH_SIZES:
        raise BadRequestError(f"{name}: got {text[:80]!r}, want 40 or 64 hexadecimal digits")
    return parsed


def _parse_magnet(text: str, file_index: int | None) -> ContentQuery:
    _require_length("magnet", text)
    parts = urlsplit(text)
    fields = parse_qsl(parts.query, max_num_fields=256)
    topics = [value for name, value in fields if name == "xt" or name.startswith("xt.")]
    hashes = [
        parse_hash("magnet", topic)
        for topic in topics
        if topic.startswith(("urn:btih:", "urn:btmh:"))
    ]
    if parts.scheme != "magnet" or not hashes:
        raise BadRequestError("magnet: got no BitTorrent info-hash, want xt=urn:btih:…")
    return ContentQuery(
        kind=QueryKind.MAGNET,
        # The v2 hash, where there are both, is the stronger name.
        hash=max(hashes, key=len),
        text=text,
        sources=tuple(
            value
            for name, value in fields
            if name in {"xs", "as"} and value.startswith(("http://", "https://"))
        ),
        file_index=file_index,
    )


def _parse_index(parameters: Mapping[str, str]) -> int | None:
    for name in ("file_index", "_idx"):
        if text := parameters.get(name, "").strip():
            if not (text.isascii() and text.isdigit()) or int(text) >= _FILES_MAX:
                raise BadRequestError(f"{name}: got {text[:20]!r}, want a number from 0")
            return int(text)
    return None


def _require_length(name: str, text: str) -> None:
    if len(text) > _TEXT_MAX:
        raise BadRequestError(f"{name}: got {len(text)} characters, want at most {_TEXT_MAX}")
