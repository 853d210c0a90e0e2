"""Any container's pictures and sound as an MPEG transport stream, without coding a frame anew.

Spec: FFmpeg's demuxers and MPEG-TS muxer, through PyAV.
"""

from collections.abc import Iterator
from typing import Any

import av

from engine_plugin.errors import ContentError

_TS_OPTIONS = {"mpegts_flags": "pat_pmt_at_frames"}
"""Tables in front of every picture: each cut finds its own."""


class _Sink:
    """Takes what the muxer writes; it never seeks, so the muxer does not go back."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


def repack(source: Any) -> Iterator[bytes]:
    """Yield a transport stream with the coded frames of another container.

    Args:
        source: The container; has `read`, and `seek` and `tell` if it can go back.

    Raises:
        ContentError: FFmpeg cannot read it, or MPEG-TS cannot hold its frames.
    """
    try:
        with av.open(source, "r") as reader:
            yield from _repack_frames(reader)
    except (av.FFmpegError, ValueError) as error:
        raise ContentError(f"input: cannot be repacked as MPEG-TS: {error}") from None


def _repack_frames(reader: Any) -> Iterator[bytes]:
    streams = [*reader.streams.video[:1], *reader.streams.audio[:1]]
    if not streams:
        raise ContentError("input: got no picture or sound, want one")
    sink = _Sink()
    with av.open(sink, "w", format="mpegts", options=_TS_OPTIONS) as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in streams}
        for packet in reader.demux(streams):
            if packet.dts is None:
                continue
            packet.stream = copies[packet.stream_index]
            writer.mux(packet)
            if written := sink.take():
                yield written
    if written := sink.take():
        yield written
