"""A real HTTP server that answers what a test tells it to, whole, slowly, or cut off."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """An answer; `drip_s` seconds lie between its bytes, `is_cut` closes in the middle."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    drip_s: float = 0.0
    is_cut: bool = False


Answering = Callable[[str, bytes], Reply]
"""(path with query, body) → answer."""


@contextmanager
def answering_server(answer: Answering) -> Iterator[str]:
    """Serve on a free port of this machine; the URL is yielded."""
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length", "0"))
            reply = answer(self.path, self.rfile.read(size))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            if reply.drip_s:
                self._drip(reply)
                return
            self.end_headers()
            end = len(reply.body) // 2 if reply.is_cut else len(reply.body)
            self.wfile.write(reply.body[:end])
            self.close_connection = self.close_connection or reply.is_cut

        def _drip(self, reply: Reply) -> None:
            head = b"".join(self._headers_buffer) + b"\r\n"
            self._headers_buffer = []
            self.close_connection = True
            try:
                for byte in head + reply.body:
                    self.wfile.write(bytes([byte]))
                    if stopping.wait(reply.drip_s):
                        return
            except OSError:  # the client has had enough
                return

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
