"""An HLS origin and its CDN in one server of the bench: a live playlist, segments, ranges.

It counts the bytes that viewers took, and knows when each segment was published.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_LISTED = 6


class LiveOrigin:
    """Publishes one segment after the other, over and over, by the clock."""

    def __init__(self, segments: Sequence[bytes], segment_s: float, address: str) -> None:
        """Bind a free port of an address and begin to publish.

        Args:
            segments: What is repeated.
            segment_s: Media time of each.
            address: Where to listen.
        """
        self._segments = segments
        self._segment_s = segment_s
        self._started_s = time.time()
        self.served_bytes: defaultdict[str, int] = defaultdict(int)
        """By kind of request: "whole" or "range"."""
        handler = type("Handler", (_Handler,), {"origin": self})
        self._server = _Server((address, 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://{address}:{self._server.server_address[1]}/live/index.m3u8"
        """Of the playlist."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def published(self) -> int:
        """Segments published so far."""
        return int((time.time() - self._started_s) / self._segment_s)

    def published_at_ms(self, number: int) -> int:
        """Return when a segment was published, milliseconds since the Unix epoch."""
        return int(1000 * (self._started_s + (number + 1) * self._segment_s))

    def playlist(self) -> bytes:
        """Return the playlist as of now."""
        end = self.published
        first = max(0, end - _LISTED)
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:3",
            f"#EXT-X-TARGETDURATION:{max(1, round(self._segment_s))}",
            f"#EXT-X-MEDIA-SEQUENCE:{first}",
        ]
        for number in range(first, end):
            lines += [f"#EXTINF:{self._segment_s:.3f},", f"{number}.ts"]
        return "\n".join([*lines, ""]).encode()

    def segment(self, number: int) -> bytes | None:
        """Return a segment's bytes, if it is published."""
        if 0 <= number < self.published:
            return self._segments[number % len(self._segments)]
        return None


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    origin: LiveOrigin

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer with the playlist, a segment, or a part of one."""
        name = self.path.rpartition("/")[2]
        if name == "index.m3u8":
            self._answer(200, self.origin.playlist(), {})
            return
        text = name.removesuffix(".ts")
        data = self.origin.segment(int(text)) if text.isdecimal() else None
        if data is None:
            self._answer(404, b"", {})
            return
        wanted = self.headers.get("range", "")
        if not wanted.startswith("bytes="):
            self.origin.served_bytes["whole"] += len(data)
            self._answer(200, data, {})
            return
        first_text, _, last_text = wanted.removeprefix("bytes=").partition("-")
        first = int(first_text)
        last = min(int(last_text) if last_text else len(data) - 1, len(data) - 1)
        part = data[first : last + 1]
        self.origin.served_bytes["range"] += len(part)
        self._answer(206, part, {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
