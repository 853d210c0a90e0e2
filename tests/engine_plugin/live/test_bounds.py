"""What a live stream's nodes take of others is bounded: answers, callers, addresses, segments."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import builders
import httpx
import pytest

from engine_plugin.config import EngineConfig
from engine_plugin.engine import Engine
from engine_plugin.errors import ContentError
from engine_plugin.live import hls_origin
from engine_plugin.live.hls_origin import HlsOrigin
from engine_plugin.live.index_server import IndexServer, IndexService
from engine_plugin.live.policy import LivePolicy
from engine_plugin.live.rendezvous import Rendezvous
from engine_plugin.live.viewer import GOSSIPED_PEERS_MOST, LiveViewer
from engine_plugin.wire import Endpoint

PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nlong.ts?token=s3cret\n#EXT-X-ENDLIST\n"
PART = bytes(64 << 10)


class Endless(ThreadingHTTPServer):
    """Serves a playlist, and anything else without end."""

    daemon_threads = True
    sent_bytes = 0


class _Handler(BaseHTTPRequestHandler):
    server: Endless

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/a.m3u8":
            self.send_header("content-length", str(len(PLAYLIST)))
            self.end_headers()
            self.wfile.write(PLAYLIST)
            return
        self.end_headers()
        try:
            while self.server.sent_bytes < 1 << 30:
                self.wfile.write(PART)
                self.server.sent_bytes += len(PART)
        except OSError:
            return


@pytest.fixture
def endless() -> Iterator[Endless]:
    server = Endless(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _origin(server: Endless, name: str, told: list[str]) -> HlsOrigin:
    url = f"http://127.0.0.1:{server.server_address[1]}/{name}"
    return HlsOrigin(url, most_kbps=0, report=told.append)


def test_segment_without_end_is_given_up_at_the_bound(
    endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hls_origin, "_SEGMENT_MOST", 4 * len(PART))
    monkeypatch.setattr(hls_origin, "_TRIES", 1)
    told: list[str] = []

    async def run() -> None:
        origin = _origin(endless, "a.m3u8", told)
        await origin.open()
        assert [segment async for segment in origin.segments()] == []
        await origin.close()

    asyncio.run(run())
    assert "left out" in told[-1]
    assert "s3cret" not in told[-1]
    # What the sockets' buffers hold is sent besides.
    assert endless.sent_bytes < 32 << 20


def test_playlist_without_end_is_refused_at_the_bound(endless: Endless) -> None:
    async def run() -> None:
        origin = _origin(endless, "endless.m3u8", [])
        with pytest.raises(ContentError, match="got over"):
            await origin.open()
        await origin.close()

    asyncio.run(run())
    assert endless.sent_bytes < 64 << 20


def test_index_answers_so_many_at_a_time_and_refuses_the_others() -> None:
    async def run() -> None:
        service = IndexService(builders.signed_stream(), Rendezvous(Random(1)), sources=[])
        server = IndexServer(Endpoint("127.0.0.1", 0), connections_most=2)
        server.start(service.app())
        url = f"http://{server.endpoint}/live/{builders.digest_of('stream').hex()}/entries"
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.stop)
            http = await stack.enter_async_context(httpx.AsyncClient())
            waiting = [
                asyncio.create_task(http.get(url, params={"wait_ms": 20_000})) for _ in range(2)
            ]
            try:
                async with asyncio.timeout(10):
                    while (await http.get(url)).status_code != 503:
                        await asyncio.sleep(0.01)
                assert not any(task.done() for task in waiting)
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
            async with asyncio.timeout(10):
                while (await http.get(url)).status_code != 200:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_newest_addresses_told_of_take_the_place_of_the_oldest(tmp_path: Path) -> None:
    async def run() -> None:
        here = Endpoint("127.0.0.1", 6881)
        viewer = LiveViewer(
            engine=Engine(EngineConfig(listen=here, state_path=tmp_path)),
            descriptor=builders.signed_stream(),
            listen=here,
            folder=tmp_path,
            policy=LivePolicy(),
            emit=lambda *_, **__: None,
        )
        told = [Endpoint("192.0.2.1", port) for port in range(1, GOSSIPED_PEERS_MOST + 2)]
        viewer.take_peers(told[:-1])
        viewer.take_peers([told[0], here])
        viewer.take_peers(told[-1:])
        assert viewer.told_of == (*told[2:-1], told[0], told[-1])

    asyncio.run(run())
