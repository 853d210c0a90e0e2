"""Torrents by URL: only from where a stranger may send this engine, and within bounds."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine_plugin.http_face import torrent_fetch
from engine_plugin.http_face.errors import BadGatewayError, BadRequestError, ForbiddenError
from engine_plugin.http_face.torrent_fetch import fetch_torrent, is_public
from engine_plugin.torrents import TorrentFile, make_torrent


def fetch(url: str, *, allows_private: bool = True) -> TorrentFile:
    return asyncio.run(fetch_torrent(url, allows_private=allows_private))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "x").write_bytes(b"x" * 1000)
    torrent = make_torrent(tmp_path / "x").data

    class Handler(BaseHTTPRequestHandler):
        paths: list[str] = []  # noqa: RUF012 - one site a test
        hosts: list[str] = []  # noqa: RUF012

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.paths.append(self.path)
            self.hosts.append(self.headers["host"])
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("location", self.path.removeprefix("/to/"))
                self.end_headers()
                return
            if self.path == "/loop":
                self.send_response(302)
                self.send_header("location", "/loop")
                self.end_headers()
                return
            self.send_response(200 if self.path in {"/x", "/big"} else 404)
            self.end_headers()
            self.wfile.write(torrent if self.path == "/x" else bytes(200_000))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    Handler.base = f"http://127.0.0.1:{server.server_address[1]}"
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_torrent_is_fetched(site: Any) -> None:
    assert fetch(f"{site.base}/x").name == "x"


def test_name_is_kept_when_its_address_is_dialled(site: Any) -> None:
    port = site.base.rpartition(":")[2]
    assert fetch(f"http://localhost:{port}/x").name == "x"
    assert site.hosts == [f"localhost:{port}"]


def test_redirect_is_followed(site: Any) -> None:
    assert fetch(f"{site.base}/to//x").name == "x"


@pytest.mark.parametrize("path", ["/nothing", "/loop", "/big"])
def test_what_is_no_torrent_is_refused(site: Any, path: str) -> None:
    with pytest.raises(BadGatewayError):
        fetch(f"{site.base}{path}")


def test_size_is_bounded(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torrent_fetch, "TORRENT_SIZE_MAX", 100)
    with pytest.raises(BadGatewayError, match="bytes"):
        fetch(f"{site.base}/x")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1"])
def test_private_address_is_not_dialled(site: Any, host: str) -> None:
    port = site.base.rpartition(":")[2]
    with pytest.raises(ForbiddenError):
        fetch(f"http://{host}:{port}/x", allows_private=False)
    assert site.paths == []


def test_redirect_to_a_private_address_is_not_followed(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first address passes for a public one, the second is judged as it is.
    port = site.base.rpartition(":")[2]
    monkeypatch.setattr(torrent_fetch, "is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(ForbiddenError):
        fetch(f"{site.base}/to/http://[::1]:{port}/x", allows_private=False)
    assert len(site.paths) == 1


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://x/y", "http://", "http://a:b@127.0.0.1/", "http://x:y/", "x"],
)
def test_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(BadRequestError):
        fetch(url)


def test_nobody_listening_is_told() -> None:
    with pytest.raises(BadGatewayError):
        fetch("http://127.0.0.1:1/x")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "2001:0:1::", "ff02::1",
    ],
)  # fmt: skip
def test_address_of_this_machine_or_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8"])
def test_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)
