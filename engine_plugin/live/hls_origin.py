"""Follows somebody's HLS playlist, so that its segments can be shared as they are.

The origin and its CDN stay untouched: each segment is fetched once, and viewers may fetch the same
URL when peers are too slow. Media playlists of MPEG-TS or packed audio; of a multivariant playlist
one variant is chosen. Encrypted segments, byte ranges and fragmented MP4 are refused in words.

Spec: RFC 8216.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import urljoin

import httpx
import m3u8

from engine_plugin.errors import ContentError
from engine_plugin.live.bounded_http import ask_bounded
from engine_plugin.url_text import hide_queries

_TIMEOUT_S = 10.0
"""Longest silence of an origin."""
_ANSWER_S = 30.0
"""Longest answer: what takes longer is no live stream's."""
_PLAYLIST_MOST = 4 << 20
_SEGMENT_MOST = 48 << 20
_TRIES = 4
_TRY_PAUSE_S = 0.25
_START_SEGMENTS = 3
"""Segments before the newest with which an origin is begun."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginSegment:
    """One segment of an origin, fetched."""

    url: str
    data: bytes = field(repr=False)
    media_ms: int
    is_discontinuous: bool
    """Whether it does not follow the one before, or one before it could not be had."""


class HlsOrigin:
    """One media playlist."""

    def __init__(self, url: str, *, most_kbps: int, report: Report) -> None:
        """Bind an origin.

        Args:
            url: Of a media playlist, or of a multivariant one.
            most_kbps: The best variant up to this rate is chosen; 0: the best.
            report: Told, in words, what is missing or tried again.
        """
        self.url = url
        self.target_ms = 0
        """Longest segment that the playlist announces; 0 before it was read."""
        self._most_kbps = most_kbps
        self._tell = report
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=True)
        self._next = -1
        self._is_broken = False

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def open(self) -> None:
        """Find the media playlist and read it once.

        Raises:
            ContentError: It cannot be had, or holds what cannot be shared.
        """
        try:
            playlist = await self._load()
            if playlist.is_variant:
                self.url = self._choose(playlist)
                playlist = await self._load()
        except (httpx.HTTPError, TimeoutError) as error:
            reason = hide_queries(f"{self.url}: {type(error).__name__} {error}")
            raise ContentError(reason) from None
        _require_shareable(self.url, playlist)
        self.target_ms = int(1000 * (playlist.target_duration or 0))

    async def segments(self) -> AsyncIterator[OriginSegment]:
        """Yield each new segment, until the playlist ends."""
        pause_s = 0.5
        while True:
            started_s = time.monotonic()
            try:
                playlist = await self._load()
            except (httpx.HTTPError, TimeoutError, ContentError) as error:
                self._report(f"{self.url}: {type(error).__name__} {error}; trying again")
                await asyncio.sleep(pause_s)
                continue
            fresh = self._list_fresh(playlist)
            for number, listed in fresh:
                segment = await self._fetch(number, listed)
                if segment is not None:
                    yield segment
            if playlist.is_endlist:
                return
            # RFC 8216 §6.3.4: a target duration, or half of it when nothing was new.
            target_s = float(playlist.target_duration or 1)
            pause_s = max(0.2, target_s / 2)
            await asyncio.sleep(max(0.05, pause_s - (time.monotonic() - started_s)))

    def _report(self, text: str) -> None:
        self._tell(hide_queries(text))

    async def _load(self) -> m3u8.M3U8:
        answer = await ask_bounded(
            self._http, "GET", self.url, most_bytes=_PLAYLIST_MOST, within_s=_ANSWER_S
        )
        try:
            # RFC 8216 §4.1: always UTF-8.
            return m3u8.loads(answer.body.decode(), uri=answer.url)
        except (ValueError, m3u8.ParseError) as error:
            raise ContentError(hide_queries(f"{self.url}: got no playlist: {error}")) from None

    def _choose(self, playlist: m3u8.M3U8) -> str:
        variants = sorted(playlist.playlists, key=lambda item: item.stream_info.bandwidth or 0)
        if not variants:
            raise ContentError(f"{self.url}: got no variant, want one")
        most = 1000 * self._most_kbps
        fitting = [v for v in variants if not most or (v.stream_info.bandwidth or 0) <= most]
        return str((fitting or variants[:1])[-1].absolute_uri)

    def _list_fresh(self, playlist: m3u8.M3U8) -> list[tuple[int, m3u8.Segment]]:
        first = int(playlist.media_sequence or 0)
        listed = list(enumerate(playlist.segments, first))
        if self._next < 0:
            listed = listed[-_START_SEGMENTS:] if not playlist.is_endlist else listed
        elif listed and listed[-1][0] + 1 < self._next - len(listed):
            self._report(f"{self.url}: began anew at segment {first}")
            self._is_broken = True
        elif listed and first > self._next:
            self._report(f"{self.url}: segments {self._next} to {first - 1} were missed")
            self._is_broken = True
        else:
            listed = [item for item in listed if item[0] >= self._next]
        if listed:
            self._next = listed[-1][0] + 1
        return listed

    async def _fetch(self, number: int, listed: m3u8.Segment) -> OriginSegment | None:
        url = str(urljoin(self.url, listed.absolute_uri))
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_TRY_PAUSE_S * 2**attempt)
            try:
                answer = await ask_bounded(
                    self._http, "GET", url, most_bytes=_SEGMENT_MOST, within_s=_ANSWER_S
                )
            except (httpx.HTTPError, TimeoutError) as error:
                reason = f"{type(error).__name__} {error}"
                continue
            if answer.body:
                is_broken, self._is_broken = self._is_broken, False
                return OriginSegment(
                    url=url,
                    data=answer.body,
                    media_ms=max(1, round(1000 * float(listed.duration or 0))),
                    is_discontinuous=bool(listed.discontinuity) or is_broken,
                )
            reason = "got 0 bytes"
        self._report(f"{url}: segment {number} is left out: {reason}")
        self._is_broken = True
        return None


def _require_shareable(url: str, playlist: m3u8.M3U8) -> None:
    for listed in playlist.segments:
        if listed.byterange:
            raise ContentError(f"{url}: got byte ranges, want one file a segment")
        if listed.init_section is not None:
            raise ContentError(f"{url}: got fragmented MP4, want MPEG-TS segments")
        if listed.key is not None and (listed.key.method or "NONE") != "NONE":
            raise ContentError(f"{url}: got encrypted segments, want plain ones")
