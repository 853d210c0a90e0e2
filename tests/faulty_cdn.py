"""A web server of one file that misbehaves as real ones do; the content stays the same."""

import threading
import time
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Fault(StrEnum):
    """What a server does wrong."""

    NONE = "none"
    IGNORES_RANGES = "ignores_ranges"
    """Answers every request with the whole file."""
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    STALLS = "stalls"
    """Takes the request and never answers."""
    LIES = "lies"
    """Sends the right number of wrong bytes."""
    CUTS_OFF = "cuts_off"
    """Closes in the middle of the body."""


class FaultyCdn:
    """Serves bytes at `url` until closed; `fault` may be changed at any time."""

    def __init__(self, content: bytes, *, fault: Fault = Fault.NONE, rate_bytes: int = 0) -> None:
        self.content = content
        self.fault = fault
        self.rate_bytes = rate_bytes
        """Bytes per second and connection; 0 = as fast as can be."""
        self.requests = 0
        self.body_bytes = 0
        """Sent in answers, headers excluded."""
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"cdn": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, name: str) -> str:
        """Return the address of the file."""
        return f"http://{self.host}/{name}"

    def wait_until_closing(self) -> None:
        """Hold a request."""
        self._closing.wait(60)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cdn: FaultyCdn

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        cdn = self.cdn
        cdn.requests += 1
        if cdn.fault is Fault.STALLS:
            cdn.wait_until_closing()
            self.close_connection = True
            return
        if cdn.fault in {Fault.NOT_FOUND, Fault.UNAVAILABLE}:
            self.send_response(404 if cdn.fault is Fault.NOT_FOUND else 503)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self._send(cdn)

    def _send(self, cdn: FaultyCdn) -> None:
        size, begin, end = len(cdn.content), 0, len(cdn.content)
        wanted = self.headers.get("range")
        if wanted and cdn.fault is not Fault.IGNORES_RANGES:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or size - 1) + 1, size)
            self.send_response(206)
            self.send_header("content-range", f"bytes {begin}-{end - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("content-length", str(end - begin))
        self.end_headers()
        body = cdn.content[begin:end]
        if cdn.fault is Fault.LIES:
            body = bytes(byte ^ 0xFF for byte in body)
        if cdn.fault is Fault.CUTS_OFF:
            body = body[: len(body) // 2]
            self.close_connection = True
        step = 16 << 10
        try:
            for at in range(0, len(body), step):
                part = body[at : at + step]
                self.wfile.write(part)
                cdn.body_bytes += len(part)
                if cdn.rate_bytes:
                    time.sleep(len(part) / cdn.rate_bytes)
        except OSError:
            self.close_connection = True
