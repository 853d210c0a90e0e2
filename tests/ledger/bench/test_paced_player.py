"""The player without a screen: what it calls a start, a stall and the end."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ledger.bench.errors import BenchError
from ledger.bench.paced_player import PlayClock, play
from ledger.bench.playback import PlaybackBench

RATE = 1000


@dataclass
class Time:
    now_s: float = 50.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, clock: PlayClock, seconds: float, got: int = 0) -> None:
        self.now_s += seconds
        clock.tick(got)


def test_picture_comes_with_a_second_of_media() -> None:
    time = Time()
    clock = PlayClock(RATE, 5000, clock=time)
    time.wait(clock, 0.5, 999)
    assert clock.start_s is None
    time.wait(clock, 0.25, 1)
    assert clock.start_s == 0.75
    assert (clock.played, clock.stalls) == (0, 0)


def test_stall_lasts_until_a_second_of_media_is_there_again() -> None:
    time = Time()
    clock = PlayClock(RATE, 5000, clock=time)
    time.wait(clock, 1, 1000)
    time.wait(clock, 1.5)
    assert (clock.played, clock.stalls, clock.stalled_s) == (1000, 1, 0.5)
    time.wait(clock, 2, 500)
    time.wait(clock, 1, 500)
    assert (clock.stalls, clock.stalled_s) == (1, 3.5)
    time.wait(clock, 0.5)
    assert clock.played == 1500


def test_end_of_the_stretch_is_no_stall() -> None:
    time = Time()
    clock = PlayClock(RATE, 1500, clock=time)
    time.wait(clock, 1, 1500)
    time.wait(clock, 9)
    assert clock.is_over
    assert clock.stalls == 0


def test_stretch_shorter_than_a_start_is_played_too() -> None:
    time = Time()
    clock = PlayClock(RATE, 300, clock=time)
    time.wait(clock, 1, 300)
    time.wait(clock, 1)
    assert clock.is_over


def test_buffer_is_bounded() -> None:
    time = Time()
    clock = PlayClock(RATE, 100_000, clock=time)
    time.wait(clock, 1, 10_001)
    assert clock.is_full
    time.wait(clock, 0.5)
    assert not clock.is_full


DATA = os.urandom(200_000)


@pytest.fixture
def site() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
            part = DATA[int(first) : int(last) + 1]
            self.send_response(200 if self.path.startswith("/whole") else 206)
            self.send_header("content-length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[:100] if self.path.startswith("/short") else part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_was_played_is_told_by_its_digest(site: str) -> None:
    figures = play(f"{site}/x?y=1", offset=500, length=100_000, rate_bytes_per_s=400_000)
    assert figures.digest == sha256(DATA[500:100_500]).digest()
    assert figures.start_s >= figures.first_byte_s > 0


@pytest.mark.parametrize("path", ["/whole", "/short"])
def test_answer_that_is_not_the_stretch_is_refused(site: str, path: str) -> None:
    with pytest.raises(BenchError):
        play(f"{site}{path}", offset=0, length=1000, rate_bytes_per_s=10**6)


def test_nobody_listening_is_told() -> None:
    with pytest.raises(BenchError):
        play("http://127.0.0.1:1/", offset=0, length=1, rate_bytes_per_s=1)


@pytest.mark.parametrize("name", ["mbit_per_s", "film_s", "seeks", "runs"])
def test_bench_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        PlaybackBench(**{name: 0})
