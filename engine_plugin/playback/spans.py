"""Where a torrent's files lie in the row of its pieces.

Padding lies between files and belongs to none (BEP 47). Pure.
"""

from dataclasses import dataclass

from engine_plugin.errors import EngineError
from engine_plugin.torrents import TorrentFile


class SpanError(EngineError):
    """A file or a range of bytes that the content does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpan:
    """One real file of a torrent."""

    index: int
    """Its place among the real files; n ≥ 0."""
    path: str
    """Starts with the torrent's name; "/" between parts."""
    start: int
    """Its first byte in the row of pieces; n ≥ 0."""
    size_bytes: int
    """n ≥ 0."""

    @property
    def name(self) -> str:
        """The path's last part."""
        return self.path.rpartition("/")[2]


def list_spans(torrent: TorrentFile) -> tuple[FileSpan, ...]:
    """Return every real file with its place, in the torrent's order."""
    pads = torrent.layout.pads
    pad_ends = dict(pads)
    spans: list[FileSpan] = []
    at = 0
    for index, (path, size) in enumerate(torrent.files):
        while size and at in pad_ends:
            at = pad_ends[at]
        spans.append(FileSpan(index=index, path=path, start=at, size_bytes=size))
        at += size
    return tuple(spans)


def span_of(torrent: TorrentFile, file_index: int) -> FileSpan:
    """Return one real file with its place.

    Raises:
        SpanError: The torrent has no such file.
    """
    if not 0 <= file_index < len(torrent.files):
        raise SpanError(f"file: got {file_index}, want 0..{len(torrent.files) - 1}")
    return list_spans(torrent)[file_index]
