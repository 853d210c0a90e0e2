"""Stream: a broadcaster's signed descriptor of one live stream.

It names the stream, the key that signs its segments, where the segment index is served, and which
CDNs hold the segments too. Signed by the broadcaster's issuing key, so whoever has the terms knows
that the broadcaster stands behind the index key. Not here: the segments themselves (`segment`),
and who may watch (entitlements name the stream id as their content id).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from urllib.parse import urlsplit

from ledger.evidence.encoding import (
    TAG_SIZE,
    Layout,
    Reader,
    RecordCode,
    Signed,
    format_tag,
    parse_tag,
)
from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.keys import SIGNATURE_SIZE, sign, verify

INDEX_URLS_MAX = 4
"""Most places where one stream's index is served."""

CDN_URLS_MAX = 8
"""Most CDNs of one stream."""

SEGMENT_MS_MAX = 60_000
"""Longest nominal segment."""

PIECE_BYTES_MIN, PIECE_BYTES_MAX = 16_384, 1 << 24
"""Bounds of a segment torrent's piece size (BEP 52: a power of two from 16 KiB)."""

_FIXED = Layout(
    "stream",
    [
        ("broadcaster_account", "bytes32"),
        ("issuing_key", "bytes32"),
        ("stream_id", "bytes32"),
        ("index_key", "bytes32"),
        ("serial", "u64"),
        ("started_at_ms", "u64"),
        ("segment_ms", "u32"),
        ("piece_bytes", "u32"),
        ("window_segments", "u32"),
        ("container", "u8"),
        ("title", "text64"),
    ],
)
_URL = Layout("stream.url", [("url", "text200")])


class Container(IntEnum):
    """What the segments are; numbers are stable and never given twice."""

    MPEG_TS = 1
    """MPEG-2 transport stream (ISO/IEC 13818-1); every segment plays alone."""

    PACKED_AUDIO = 2
    """Elementary audio with ID3 timestamps (RFC 8216, section 3.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamUrl:
    """One URL of a descriptor, as its layout has it."""

    url: str
    """http or https, at most 200 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What a broadcaster says about one live stream; see the field notes."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """Who pays; Stellar account key, 32 bytes."""

    issuing_key: bytes
    """Signs this descriptor; the one of the broadcaster's terms, 32 bytes."""

    stream_id: bytes
    """What entitlements, receipts and minutes of this stream are counted under; 32 bytes."""

    index_key: bytes
    """Signs the segment entries; 32 bytes."""

    serial: int
    """Rises with every descriptor of the same stream: the highest one counts."""

    started_at_ms: int
    """Milliseconds since the Unix epoch at which segment numbers began."""

    segment_ms: int
    """Nominal media time of a segment, 1 to 60,000; entries say the true one."""

    piece_bytes: int
    """Piece size of the segment torrents; a power of two, 16 KiB to 16 MiB."""

    window_segments: int
    """Segments behind the newest that the broadcaster's node keeps serving, ≥ 1."""

    container: int
    """A `Container`."""

    title: str
    """For people; at most 64 bytes."""

    index_urls: tuple[str, ...]
    """Base URLs of the segment index, at most 4; entries lie below them."""

    cdn_urls: tuple[str, ...]
    """Base URLs that a segment's `path` is resolved against (RFC 3986), at most 8; may be empty."""

    def __post_init__(self) -> None:
        pieces = self.piece_bytes
        checks = [
            ("segment_ms", 1 <= self.segment_ms <= SEGMENT_MS_MAX, f"1..{SEGMENT_MS_MAX}"),
            ("window_segments", self.window_segments >= 1, "≥ 1"),
            (
                "piece_bytes",
                PIECE_BYTES_MIN <= pieces <= PIECE_BYTES_MAX and not pieces & (pieces - 1),
                "a power of two from 16 KiB to 16 MiB",
            ),
            ("container", self.container in set(Container), "a Container"),
        ]
        for field, holds, want in checks:
            if not holds:
                raise MalformedRecordError(f"stream.{field}", got=getattr(self, field), want=want)
        _require_urls("stream.index_urls", self.index_urls, INDEX_URLS_MAX)
        _require_urls("stream.cdn_urls", self.cdn_urls, CDN_URLS_MAX)


def _require_urls(field: str, urls: Sequence[str], most: int) -> None:
    if len(urls) > most:
        raise MalformedRecordError(field, got=f"{len(urls)} URLs", want=f"at most {most}")
    if len(set(urls)) != len(urls):
        raise MalformedRecordError(field, got=urls, want="every URL once")
    for url in urls:
        if not is_web_url(url):
            raise MalformedRecordError(field, got=url, want="http or https URLs")


def is_web_url(url: str) -> bool:
    """Tell whether a text is an absolute http or https URL with a host and no odd characters."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def format_stream_body(stream: Stream) -> bytes:
    """Return the bytes that the issuing key signs.

    Raises:
        MalformedRecordError: A value does not fit its field.
    """
    parts = [format_tag(RecordCode.STREAM, stream.network_id), _FIXED.pack(stream)]
    parts.append(bytes((len(stream.index_urls), len(stream.cdn_urls))))
    parts.extend(_URL.pack(StreamUrl(url=url)) for url in (*stream.index_urls, *stream.cdn_urls))
    return b"".join(parts)


def sign_stream(stream: Stream, issuing_seed: bytes) -> Signed[Stream]:
    """Return the descriptor signed by the issuing key."""
    body = format_stream_body(stream)
    signature = sign(issuing_seed, body)
    return Signed(stream, signature + body, (signature,))


def parse_stream(raw: bytes) -> Signed[Stream]:
    """Return a signed descriptor; the signature is not verified yet.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    reader = Reader("stream", raw)
    signature = reader.take(SIGNATURE_SIZE, "signature")
    _, network_id = parse_tag(RecordCode.STREAM, raw[SIGNATURE_SIZE:])
    reader.take(TAG_SIZE, "tag")
    values = _FIXED.unpack(reader.take(_FIXED.size, "fixed part"))
    index_count = reader.integer(1, "index URL count", limit=INDEX_URLS_MAX)
    cdn_count = reader.integer(1, "CDN URL count", limit=CDN_URLS_MAX)
    urls = [
        str(_URL.unpack(reader.take(_URL.size, "url"))["url"])
        for _ in range(index_count + cdn_count)
    ]
    reader.finish()
    stream = Stream(
        network_id=network_id,
        index_urls=tuple(urls[:index_count]),
        cdn_urls=tuple(urls[index_count:]),
        **values,
    )
    return Signed(stream, bytes(raw), (signature,))


def require_valid_stream(signed: Signed[Stream]) -> None:
    """Raise unless the descriptor is signed by the issuing key it names.

    That the key is the broadcaster's stands in the terms: compare with them.

    Raises:
        BadSignatureError: The signature is not valid.
    """
    if not verify(signed.value.issuing_key, signed.body, signed.signatures[0]):
        raise BadSignatureError("stream: signature not valid under its issuing key")


STREAM_LAYOUTS = (_FIXED, _URL)
"""The fixed part and one URL, for the format document's test."""

_NOT_FIXED = {"network_id", "index_urls", "cdn_urls"}
if {field.name for field in fields(Stream)} - _NOT_FIXED != {f.name for f in _FIXED.fields}:
    raise AssertionError("stream: layout and dataclass differ")
