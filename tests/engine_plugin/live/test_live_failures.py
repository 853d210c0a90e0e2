"""A live stream when parts of it fail: the index dies, the CDN misses a segment, peers are slow."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import live_media
import pytest

from engine_plugin.key_files import write_seed
from ledger.bench.live_origin import LiveOrigin
from ledger.bench.transport_stream import make_segments

pytestmark = [pytest.mark.swarm, pytest.mark.process]


class Forwarder:
    """A TCP port in front of another that can be cut."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.2", 0))
        self.port = self.listener.getsockname()[1]
        self.target: tuple[str, int] | None = None
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            assert self.target is not None
            far = socket.create_connection(self.target)
            with self._lock:
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._pump, args=(one, other))
                    self._threads.append(thread)
                    thread.start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def cut(self) -> None:
        """Refuse everything from here on."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self._lock:
            for open_socket in self._sockets:
                try:
                    open_socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for thread in self._threads:
            thread.join()
        for open_socket in self._sockets:
            open_socket.close()


@pytest.fixture
def forwarder() -> Iterator[Forwarder]:
    made = Forwarder()
    yield made
    made.cut()


def watch(start: Any, folder: Path, number: int, *extra: object) -> Any:
    return start(
        "watch",
        folder / "a.stream",
        "--listen",
        f"127.0.0.{number}:0",
        "--state",
        folder / f"viewer-{number}",
        *extra,
        log=f"viewer-{number}",
    )


def broadcast(start: Any, folder: Path, source: object, *extra: object) -> Any:
    return start(
        "broadcast",
        "--input",
        source,
        "--listen",
        "127.0.0.2:0",
        "--index",
        "127.0.0.2:0",
        "--state",
        folder / "broadcaster",
        "--descriptor-out",
        folder / "a.stream",
        *extra,
        log="broadcaster",
    )


def test_viewers_follow_by_gossip_when_the_index_is_dead(
    tmp_path: Path,
    make_operator: Callable[..., Any],
    start_engine: Callable[..., Any],
    forwarder: Forwarder,
) -> None:
    operator = make_operator()
    (tmp_path / "terms").write_bytes(operator.terms.raw)
    write_seed(tmp_path / "issuing.seed", operator.issuing_seed)
    terms = ("--terms", tmp_path / "terms")
    write_seed(tmp_path / "stream.id", bytes(range(32)))
    (tmp_path / "broadcaster").mkdir(mode=0o700)
    (tmp_path / "stream.id").rename(tmp_path / "broadcaster" / "stream.id")
    source = live_media.make_media(tmp_path / "a.ts", seconds=6)
    url = f"http://127.0.0.2:{forwarder.port}/live/{bytes(range(32)).hex()}"
    broadcaster = broadcast(
        start_engine,
        tmp_path,
        source,
        "--realtime",
        "--loop",
        "--issuing-key",
        tmp_path / "issuing.seed",
        "--index-url",
        url,
        *terms,
    )
    index = urlsplit(broadcaster.wait_for("broadcasting")["index"])
    assert index.hostname is not None
    assert index.port is not None
    forwarder.target = (index.hostname, index.port)
    viewers = [
        watch(start_engine, tmp_path, number, "--entitlement-url", operator.url, *terms)
        for number in (3, 4)
    ]
    for viewer in viewers:
        viewer.wait_for("receipt")
    forwarder.cut()
    last = max(seen["number"] for seen in broadcaster.of("segment"))
    for viewer in viewers:
        viewer.wait_for("segment", number=last + 12)
        assert viewer.of("error")
    for process in (*viewers, broadcaster):
        process.stop()


class HoleyOrigin(LiveOrigin):
    """An origin that has lost some segments."""

    missing: frozenset[int] = frozenset()

    def segment(self, number: int) -> bytes | None:
        return None if number in self.missing else super().segment(number)


@pytest.fixture
def origin() -> Iterator[HoleyOrigin]:
    segments = make_segments(6, segment_s=1.0, rate_kbps=800)
    with HoleyOrigin(segments, 1.0, "127.0.0.9") as made:
        yield made


def test_origin_stays_untouched_and_peers_carry_the_stream(
    tmp_path: Path, start_engine: Callable[..., Any], origin: HoleyOrigin
) -> None:
    broadcaster = broadcast(start_engine, tmp_path, origin.url)
    broadcaster.wait_for("segment")
    viewer = watch(start_engine, tmp_path, 3, "--no-entitlement")
    number = viewer.wait_for("joined")["number"]
    viewer.wait_for("segment", number=number + 6)
    end = viewer.stop()
    assert end["bytes"]["p2p_unattested"] > 0
    indexed = broadcaster.of("segment")
    assert origin.served_bytes["whole"] >= sum(seen["bytes"] for seen in indexed)
    broadcaster.stop()


def test_cdn_carries_the_stream_when_peers_are_too_slow(
    tmp_path: Path, start_engine: Callable[..., Any], origin: HoleyOrigin
) -> None:
    broadcaster = broadcast(start_engine, tmp_path, origin.url, "--upload-limit", 2000)
    broadcaster.wait_for("segment")
    viewer = watch(start_engine, tmp_path, 3, "--no-entitlement")
    number = viewer.wait_for("joined")["number"]
    seen = viewer.wait_for("segment", number=number + 8)
    assert seen["used_cdn"]
    assert not viewer.of("gap")
    end = viewer.stop()
    assert 0 < end["bytes"]["cdn"] <= origin.served_bytes["range"]
    broadcaster.stop()


def test_segment_that_the_origin_has_lost_is_left_out_and_marked(
    tmp_path: Path, start_engine: Callable[..., Any], origin: HoleyOrigin
) -> None:
    lost = origin.published + 12
    origin.missing = frozenset({lost})
    broadcaster = broadcast(start_engine, tmp_path, origin.url)
    marked = broadcaster.wait_for("segment", discontinuity=True, number=lambda n: n > 0)
    viewer = watch(start_engine, tmp_path, 3, "--no-entitlement")
    viewer.wait_for("segment", number=marked["number"] + 2)
    numbers = [seen["number"] for seen in broadcaster.of("segment")]
    assert numbers == list(range(len(numbers)))
    assert any("left out" in seen["detail"] for seen in broadcaster.of("error"))
    viewer.stop()
    broadcaster.stop()
