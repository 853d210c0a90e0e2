"""Where a live stream comes from: a file, a pipe, or a transport stream over HTTP.

Each input is a generator of segments that blocks, for a thread of its own. A transport stream is
cut as it is; any other container is repacked into one first (`repacking`). Not here: HLS origins,
whose segments exist already (`hls_origin`).
"""

import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO

import httpx

from engine_plugin.errors import ContentError
from engine_plugin.live.ts_cutter import CutSegment, TsCutter, is_transport_stream

_CHUNK_BYTES = 64 * 1024
_HEAD_BYTES = 1024
_HTTP_TIMEOUT_S = 10.0
_RETRY_LEAST_S, _RETRY_MOST_S = 0.5, 10.0

Report = Callable[[str], None]
"""Takes a line for people about what went wrong and is being tried again."""


def open_input(
    source: str,
    *,
    segment_ms: int,
    is_realtime: bool,
    loops: bool,
    stopping: threading.Event,
    report: Report,
) -> Iterator[CutSegment]:
    """Yield the segments of an input; it blocks while the input has no more yet.

    Args:
        source: A path, "-" for standard input, or the http(s) URL of a transport stream.
        segment_ms: Wanted media time of a segment.
        is_realtime: Whether to hold a segment back until its media time has passed.
        loops: Whether to begin a file again at its end.
        stopping: Ends the generator at the next segment or chunk.
        report: Told what is tried again.

    Raises:
        ContentError: The input cannot be opened, or holds nothing that can be cut.
    """
    if source.startswith(("http://", "https://")):
        segments = _read_http(source, segment_ms, stopping, report)
    else:
        segments = _read_local(source, segment_ms, loops=loops)
    return _pace(segments, stopping) if is_realtime else segments


def _pace(segments: Iterator[CutSegment], stopping: threading.Event) -> Iterator[CutSegment]:
    """Yield each segment when its last picture would have been taken."""
    due_s = time.monotonic()
    for segment in segments:
        due_s += segment.media_ms / 1000
        if stopping.wait(max(0.0, due_s - time.monotonic())):
            return
        yield segment


def _read_local(source: str, segment_ms: int, *, loops: bool) -> Iterator[CutSegment]:
    is_again = False
    while True:
        with _open_local(source) as stream:
            can_loop = loops and source != "-" and _is_regular(source)
            found = False
            for segment in _cut_stream(stream, segment_ms, is_again=is_again):
                found = True
                yield segment
        if not found:
            raise ContentError(f"{source}: got no picture or sound, want at least one segment")
        if not can_loop:
            return
        is_again = True


def _is_regular(source: str) -> bool:
    return stat.S_ISREG(Path(source).stat().st_mode)


@contextmanager
def _open_local(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(source).open("rb") as stream:
            yield stream
    except OSError as error:
        raise ContentError(f"{source}: {error.strerror}") from None


def _cut_stream(stream: IO[bytes], segment_ms: int, *, is_again: bool) -> Iterator[CutSegment]:
    cutter = TsCutter(segment_ms)
    if is_again:
        cutter.mark_discontinuity()
    head = stream.read(_HEAD_BYTES)
    if is_transport_stream(head):
        chunks = _read_chunks(stream, head)
    else:
        # FFmpeg's libraries are large: who needs no repacking does not load them.
        repack = import_module("engine_plugin.live.repacking").repack
        chunks = repack(_Joined(head, stream))
    for chunk in chunks:
        yield from cutter.feed(chunk)
    yield from cutter.finish()


def _read_chunks(stream: IO[bytes], head: bytes) -> Iterator[bytes]:
    yield head
    # A pipe gives what it has; waiting for a full chunk would add delay.
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    while chunk := read(_CHUNK_BYTES):
        yield chunk


class _Joined:
    """A stream whose first bytes were looked at already; seekable when the stream is."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head = head
        self._stream = stream
        if stream.seekable():
            stream.seek(0)
            self._head = b""
            self.seek = stream.seek
            self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if self._head:
            taken, self._head = self._head[:size], self._head[size:]
            return taken
        return self._stream.read(size)


def _read_http(
    url: str, segment_ms: int, stopping: threading.Event, report: Report
) -> Iterator[CutSegment]:
    """Yield the segments of an endless transport stream; connects again whenever it ends."""
    cutter = TsCutter(segment_ms)
    pause_s = _RETRY_LEAST_S
    while not stopping.is_set():
        try:
            with httpx.stream("GET", url, timeout=_HTTP_TIMEOUT_S, follow_redirects=True) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_raw(_CHUNK_BYTES):
                    pause_s = _RETRY_LEAST_S
                    yield from cutter.feed(chunk)
                    if stopping.is_set():
                        return
            report(f"{url}: ended; connecting again")
        except httpx.HTTPError as error:
            report(f"{url}: {error}; connecting again in {pause_s:.1f} s")
        yield from cutter.finish()
        stopping.wait(pause_s)
        pause_s = min(_RETRY_MOST_S, 2 * pause_s)


def is_playlist_url(source: str) -> bool:
    """Tell whether a source is an HLS playlist rather than a transport stream."""
    return source.startswith(("http://", "https://")) and ".m3u8" in source.rpartition("/")[2]
