"""A file with an index (MP4, Matroska) as HLS: its frames put into MPEG-TS, none coded anew.

The container's index says where key frames are, so the whole list is known once its head is read,
and any segment can be made alone: a player may seek anywhere. Every frame is in exactly one
segment; times go on from one to the next.

Not here: codecs that MPEG-TS has no place for (VP9, Vorbis); such files are served as they are.
"""

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NamedTuple, TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from engine_plugin.errors import EngineError
from engine_plugin.http_face.hls import HlsSegment, HlsWindow, MediaError, SegmentGoneError
from engine_plugin.http_face.media_file import MediaFile
from engine_plugin.http_face.segment_cache import SegmentCache
from engine_plugin.playback.reader import Reader

VIDEO_CODECS: Final = frozenset({"h264", "hevc", "mpeg2video", "mpeg4"})
AUDIO_CODECS: Final = frozenset({"aac", "ac3", "eac3", "mp2", "mp3"})

_OFFSET_S: Final = 10
"""Added to every time: frames that are decoded before time 0 must not be negative in MPEG-TS."""

_SKEW_S: Final = 3
"""How far sound may lie behind the picture in a file and still be found."""

_INDEX_GAP_S: Final = 60
"""A file whose index ends longer before its end has no whole index."""

_UNDATED_MAX: Final = 32
"""More pictures than any codec reorders."""

AnyPacket: TypeAlias = "Packet[Any]"

_MUXER_OPTIONS: Final = {
    "mpegts_copyts": "1",
    "avoid_negative_ts": "disabled",
    "mpegts_flags": "+resend_headers+initial_discontinuity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """Where a segment begins."""

    stamp: int
    """The index's time of its key frame, in the video's time base."""
    seek: int
    """Where to begin reading: it, or the key frame before."""


class _Dated(NamedTuple):
    """A frame and its times in its stream's time base."""

    packet: AnyPacket
    pts: int
    dts: int


class RemuxSource:
    """`HlsSource` of one file that FFmpeg has an index of."""

    is_live = False

    def __init__(self, reader: Reader, *, stream_id: bytes, name: str, segment_ms: int) -> None:
        """Bind a file; it is opened with the first question.

        Args:
            reader: The file.
            stream_id: The content's id; 32 bytes.
            name: For people.
            segment_ms: A segment ends with the first key frame after this time.
        """
        self.stream_id = stream_id
        self.name = name
        self._reader = reader
        self._segment_ms = segment_ms
        self._cache = SegmentCache()
        self._lock = asyncio.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._file: MediaFile | None = None
        self._container: InputContainer | None = None
        self._cuts: list[_Cut] = []
        self._segments: tuple[HlsSegment, ...] = ()

    async def window(self) -> HlsWindow:
        """Return all segments.

        Raises:
            MediaError: The file cannot be cut.
        """
        async with self._lock:
            await self._open()
        return HlsWindow(segments=self._segments, is_ended=True, is_growing=True)

    async def segment(self, number: int) -> bytes:
        """Return a segment's bytes.

        Raises:
            SegmentGoneError: There is no such segment.
            MediaError: The file cannot be cut.
        """
        async with self._lock:
            await self._open()
            if not 0 <= number < len(self._cuts):
                raise SegmentGoneError(f"segment: got {number}, want 0..{len(self._cuts) - 1}")
            if (data := self._cache.get(number)) is None:
                data = await self._run_make(number)
                self._cache.put(number, data)
            return data

    async def close(self) -> None:
        """Close the file; the next question opens it again."""
        if self._file is not None:
            await self._file.abort()
        async with self._lock:
            executor, container = self._executor, self._container
            self._executor = self._container = self._file = None
            if executor is not None:
                if container is not None:
                    await asyncio.get_running_loop().run_in_executor(executor, container.close)
                executor.shutdown(wait=False)

    async def _open(self) -> None:
        if self._container is not None:
            return
        loop = asyncio.get_running_loop()
        self._file = MediaFile(self._reader, loop)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="remux")
        try:
            await loop.run_in_executor(self._executor, self._read_index, self._file)
        except (av.FFmpegError, OSError, EngineError) as error:
            await self._file.abort()
            self._executor.shutdown(wait=False)
            raise MediaError(f"{self.name}: cannot be cut into segments: {error}") from error

    async def _run_make(self, number: int) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._make, number)
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"{self.name}: segment {number}: {error}") from error

    def _read_index(self, file: MediaFile) -> None:
        container = av.open(file, "r", buffer_size=1 << 17)
        try:
            self._cut_up(container)
        except BaseException:
            container.close()
            raise
        self._container = container

    def _cut_up(self, container: InputContainer) -> None:
        video = _choose_video(container, self.name)
        # Matroska reads its index at the first seek.
        container.seek(video.start_time or 0, stream=video)
        stamps = [entry.timestamp for entry in video.index_entries if entry.is_keyframe]
        base = video.time_base or Fraction(1, 1000)
        end = int((container.duration or 0) / Fraction(av.time_base) / base)
        if not stamps or (end - stamps[-1]) * base > _INDEX_GAP_S:
            raise MediaError(f"{self.name}: got no whole index of key frames")
        self._cuts = list(_choose_cuts(stamps, int(self._segment_ms / base / 1000)))
        bounds = [*(cut.stamp for cut in self._cuts), max(end, stamps[-1] + 1)]
        self._segments = tuple(
            HlsSegment(
                number=number,
                duration_ms=max(1, int((bounds[number + 1] - bounds[number]) * base * 1000)),
            )
            for number in range(len(self._cuts))
        )

    def _make(self, number: int) -> bytes:
        container = self._container
        if container is None:
            raise MediaError(f"{self.name}: is closed")
        streams = _choose_streams(container, self.name)
        cut = self._cuts[number]
        end = self._cuts[number + 1].stamp if number + 1 < len(self._cuts) else None
        container.seek(cut.seek, stream=streams[0])
        output = io.BytesIO()
        with av.open(output, "w", format="mpegts", options=_MUXER_OPTIONS) as muxer:
            targets = {stream.index: muxer.add_stream_from_template(stream) for stream in streams}
            packets = container.demux(streams)
            for packet, pts, dts in _between(packets, container, cut.stamp, end, number):
                shift = int(_OFFSET_S / packet.time_base)
                packet.pts, packet.dts = pts + shift, dts + shift
                packet.stream = targets[packet.stream.index]
                muxer.mux_one(packet)
        return output.getvalue()


def _choose_cuts(stamps: list[int], least: int) -> Iterator[_Cut]:
    last = None
    for place, stamp in enumerate(stamps):
        if last is None or stamp - last >= least:
            yield _Cut(stamp=stamp, seek=stamps[max(0, place - 1)])
            last = stamp


def _between(
    packets: Iterator[AnyPacket],
    container: InputContainer,
    start: int,
    end: int | None,
    number: int,
) -> Iterator[_Dated]:
    """Yield the frames of one segment.

    MP4's index counts decoding times, Matroska's showing times. Pictures belong to the segment from
    its key frame in file order; sound by its time against the key frames' times.
    """
    video, *sounds = _choose_streams(container, "")
    counts_decoding = "mp4" in container.format.name
    base = video.time_base or Fraction(1, 1000)
    start_s = start * base if number else None
    end_s = None if end is None else end * base
    has_begun, has_ended = False, False
    late: set[int] = set()
    for dated in _date(packets, video):
        packet, pts, dts = dated
        if packet.stream.index == video.index:
            stamp = dts if counts_decoding else pts
            has_begun = has_begun or (packet.is_keyframe and stamp >= start)
            has_ended = has_ended or (packet.is_keyframe and end is not None and stamp >= end)
            if has_begun and not has_ended:
                yield dated
            elif has_ended and end_s is not None and dts * base > end_s + _SKEW_S:
                return
        else:
            at_s = pts * (packet.stream.time_base or base)
            if end_s is not None and at_s >= end_s:
                late.add(packet.stream.index)
            elif start_s is None or at_s >= start_s:
                yield dated
        if has_ended and len(late) == len(sounds):
            return


def _date(packets: Iterator[AnyPacket], video: Stream) -> Iterator[_Dated]:
    """Yield packets with their times, and with decoding times for the first pictures.

    Matroska does not hold them, and FFmpeg cannot tell those of the first pictures after a seek.
    """
    undated: list[tuple[AnyPacket, int]] = []
    for packet in packets:
        pts, dts = packet.pts, packet.dts
        if pts is None:
            continue
        if packet.stream.index != video.index or (dts is not None and not undated):
            if dts is not None:
                yield _Dated(packet, pts, dts)
            continue
        undated.append((packet, pts))
        if dts is not None or len(undated) == _UNDATED_MAX:
            yield from _count_back(undated, dts)
            undated.clear()
    yield from _count_back(undated, None)


def _count_back(undated: list[tuple[AnyPacket, int]], last_dts: int | None) -> Iterator[_Dated]:
    """Yield pictures in decoding order, dated backwards from the last one."""
    earliest = min((pts for _, pts in undated), default=0)
    for place, (packet, pts) in enumerate(undated, start=1):
        before = (len(undated) - place) * max(1, packet.duration or 1)
        dts = (earliest if last_dts is None else last_dts) - before
        yield _Dated(packet, pts, min(dts, pts))


def _fit_sound(container: InputContainer) -> list[Stream]:
    return [
        stream
        for stream in container.streams.audio
        if stream.codec_context is not None and stream.codec_context.name in AUDIO_CODECS
    ]


def _choose_video(container: InputContainer, name: str) -> Stream:
    for stream in container.streams.video:
        if stream.codec_context is not None and stream.codec_context.name in VIDEO_CODECS:
            return stream
    raise MediaError(f"{name}: got no video that MPEG-TS can hold")


def _choose_streams(container: InputContainer, name: str) -> list[Stream]:
    return [_choose_video(container, name), *_fit_sound(container)]
