"""A live HLS origin made of files: one segment after the other appears in a playlist, by the clock.

It stands for the origin and CDN that a broadcaster already has: a folder that any web server
serves, untouched by the network that is put beside it. Source: RFC 8216 §4 and §6.2.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ledger.bench.transport_stream import make_segments

SEGMENT_S = 1.0
RATE_KBPS = 2_000
LISTED = 6
"""Segments that the playlist names at a time."""

PLAYLIST = "index.m3u8"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFiles:
    """A stream's segments, made before it begins."""

    folder: Path
    names: tuple[str, ...]
    size_bytes: int
    """Σ of the segments."""


def make_live_files(folder: Path, count: int) -> LiveFiles:
    """Write a stream's segments and a playlist that names none of them yet."""
    folder.mkdir(mode=0o700)
    segments = make_segments(count, segment_s=SEGMENT_S, rate_kbps=RATE_KBPS)
    names = tuple(f"{number:05}.ts" for number in range(count))
    for name, content in zip(names, segments, strict=True):
        (folder / name).write_bytes(content)
    files = LiveFiles(
        folder=folder, names=names, size_bytes=sum(len(content) for content in segments)
    )
    _publish(files, 1)
    return files


class LiveOrigin:
    """Publishes the segments by the clock, in a thread of its own."""

    def __init__(self, files: LiveFiles) -> None:
        self._files = files
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="origin", daemon=True)

    def start(self) -> None:
        """Let the stream begin."""
        self._thread.start()

    def stop(self) -> None:
        """Publish nothing more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        began_s = time.monotonic()
        for published in range(2, len(self._files.names) + 1):
            due_s = began_s + (published - 1) * SEGMENT_S
            if self._stopping.wait(max(0.0, due_s - time.monotonic())):
                return
            _publish(self._files, published)


def _publish(files: LiveFiles, published: int) -> None:
    """Name the newest segments; the last playlist says that the stream is over."""
    first = max(0, published - LISTED)
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{round(SEGMENT_S)}"]
    lines.append(f"#EXT-X-MEDIA-SEQUENCE:{first}")
    for name in files.names[first:published]:
        lines += [f"#EXTINF:{SEGMENT_S:.3f},", name]
    if published == len(files.names):
        lines.append("#EXT-X-ENDLIST")
    draft = files.folder / f".{PLAYLIST}"
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draft.replace(files.folder / PLAYLIST)
