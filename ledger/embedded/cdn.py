"""A content delivery network in one process: ranges, a rate limit and an access log.

It stands in a demo for the CDN a broadcaster already has, and serves a torrent's content as a
BEP 19 web seed. Rate is limited over all connections together. The access log is nginx's combined
format with the body bytes really sent, so an aborted range counts what went out. Source: RFC 9110
§14.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 16_384


class RateLimit:
    """A token bucket over all connections; chunks wait for their turn."""

    def __init__(self, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at_s = 0.0

    async def take(self, size_bytes: int) -> None:
        """Wait until so many bytes may be sent; zero rate means no limit."""
        if not self._bytes_per_second:
            return
        now_s = time.monotonic()
        start_s = max(now_s, self._free_at_s)
        self._free_at_s = start_s + size_bytes / self._bytes_per_second
        await asyncio.sleep(max(0.0, start_s - now_s))


class _LoggedBody(Response):
    """Streams part of a file and logs what was sent, however the connection ends."""

    def __init__(self, cdn: "Cdn", request: Request, path: Path, start: int, end: int) -> None:
        super().__init__(media_type="application/octet-stream")
        self._cdn, self._request, self._path = cdn, request, path
        self._start, self._end = start, end

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers and the range; a client that leaves ends the body early."""
        sent_bytes = 0
        listener = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            head = {"type": "http.response.start", "status": self.status_code}
            await send({**head, "headers": self.raw_headers})
            if self._request.method == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            async for chunk in _read_range(self._path, self._start, self._end):
                await self._cdn.limit.take(len(chunk))
                if listener.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                sent_bytes += len(chunk)
            await send({"type": "http.response.body", "body": b""})
        finally:
            listener.cancel()
            is_whole = sent_bytes == self._end - self._start
            self._cdn.log(self._request, self.status_code if is_whole else 499, sent_bytes)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_range(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        while start < end:
            chunk = stream.read(min(CHUNK_BYTES, end - start))
            if not chunk:
                return
            start += len(chunk)
            yield chunk


class Cdn:
    """Serves one file or folder under its own name, nothing beside it, and keeps the access log."""

    def __init__(self, content: Path, *, bytes_per_second: int, access_log: TextIO) -> None:
        self._content = content.resolve()
        self._access_log = access_log
        self.limit = RateLimit(bytes_per_second)

    def application(self) -> Starlette:
        """Return the ASGI application."""
        route = Route("/{path:path}", self._serve, methods=["GET", "HEAD"])
        return Starlette(routes=[route])

    async def _serve(self, request: Request) -> Response:
        path = (self._content.parent / unquote(request.path_params["path"])).resolve()
        if not path.is_relative_to(self._content) or not path.is_file():
            self.log(request, 404, 0)
            return PlainTextResponse("not found\n", status_code=404)
        size = path.stat().st_size
        try:
            span = parse_range(request.headers.get("range"), size)
        except ValueError:
            self.log(request, 416, 0)
            headers = {"content-range": f"bytes */{size}"}
            return PlainTextResponse("range\n", status_code=416, headers=headers)
        start, end = span or (0, size)
        body = _LoggedBody(self, request, path, start, end)
        body.headers["accept-ranges"] = "bytes"
        body.headers["content-length"] = str(end - start)
        body.headers["server"] = "swarmledger-demo-cdn"
        if span:
            body.status_code = 206
            body.headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        return body

    def log(self, request: Request, status: int, body_bytes: int) -> None:
        """Write one line in nginx's combined format; 499 marks a client that left early."""
        client = request.client.host if request.client else "-"
        when = datetime.now(UTC).strftime("%d/%b/%Y:%H:%M:%S %z")
        agent = request.headers.get("user-agent", "-").replace('"', "'")
        target = request.url.path.replace('"', "%22")
        self._access_log.write(
            f'{client} - - [{when}] "{request.method} {target} HTTP/1.1" {status} {body_bytes} '
            f'"-" "{agent}"\n'
        )
        self._access_log.flush()


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, end exclusive) of a single byte range; None without one.

    Raises:
        ValueError: It cannot be satisfied, or asks for several ranges (RFC 9110 §14.1.2).
    """
    if header is None:
        return None
    unit, _, spec = header.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip() != "bytes" or not dash or "," in spec:
        raise ValueError(f"range: got {header!r}, want one range of bytes")
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
    if not 0 <= start < end:
        raise ValueError(f"range: got {header!r}, want one within {size} bytes")
    return start, end


def sum_access_log(path: Path) -> dict[str, int]:
    """Return what an access log adds up to: requests, body bytes, aborted requests."""
    sums = {"requests": 0, "body_bytes": 0, "aborted_requests": 0}
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            status, body_bytes = line.split('" ')[1].split()[:2]
            sums["requests"] += 1
            sums["body_bytes"] += int(body_bytes)
            sums["aborted_requests"] += status == "499"
    return sums
