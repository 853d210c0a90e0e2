"""An MPEG-TS file as HLS: its own bytes, cut where key frames begin.

A transport stream has no index, so it is read through once, in order, as fast as it comes; until
its end is reached the list grows. Segments are the file's bytes: put together they are the file,
but for programme tables set before a segment that does not begin with them.

A list that grows shows no more than a few segments beyond the last one asked for: players that
take it for a live stream begin near its end, and that shall be the beginning.

Spec: ISO/IEC 13818-1 (packets of 188 bytes), RFC 8216 §3.2.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import av

from engine_plugin.errors import EngineError
from engine_plugin.http_face.hls import HlsSegment, HlsWindow, MediaError, SegmentGoneError
from engine_plugin.http_face.media_file import MediaFile
from engine_plugin.playback.reader import Reader

PACKET_BYTES = 188
_SYNC = 0x47
_HEAD_BYTES = 1 << 20
_AHEAD_SEGMENTS = 3
_INDEX_WAIT_S = 2.0
_SEGMENT_BYTES_MAX = 64 << 20


class TsSource:
    """`HlsSource` of one transport-stream file."""

    is_live = False

    def __init__(self, reader: Reader, *, stream_id: bytes, name: str, segment_ms: int) -> None:
        """Bind a file; reading begins with the first question.

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
        self._starts: list[tuple[int, int]] = []
        self._segments: list[HlsSegment] = []
        self._error: str | None = None
        self._is_indexed = False
        self._tables = b""
        self._asked = -1
        self._file: MediaFile | None = None
        self._scan: asyncio.Task[None] | None = None
        self._grown = asyncio.Event()

    async def window(self) -> HlsWindow:
        """Return the segments known, waiting for the first.

        Raises:
            MediaError: The file has no key frames that can be told.
        """
        self._start_scan()
        with suppress(TimeoutError):
            async with asyncio.timeout(_INDEX_WAIT_S):
                while not self._is_indexed:
                    await self._wait_grown()
        while not self._segments and not self._is_indexed:
            await self._wait_grown()
        if self._error is not None and not self._segments:
            raise MediaError(self._error)
        shown = self._segments
        if not self._is_indexed:
            shown = shown[: self._asked + 1 + _AHEAD_SEGMENTS]
        return HlsWindow(
            segments=tuple(shown),
            is_ended=self._is_indexed,
            is_growing=True,
            target_ms=2 * self._segment_ms,
        )

    async def segment(self, number: int) -> bytes:
        """Return a segment's bytes.

        Raises:
            SegmentGoneError: There is no such segment.
            EngineError: Its bytes could not be read.
        """
        self._start_scan()
        while number >= len(self._segments) and not self._is_indexed:
            if number > len(self._segments) + _AHEAD_SEGMENTS:
                break
            await self._wait_grown()
        if not 0 <= number < len(self._segments):
            raise SegmentGoneError(f"segment: got {number}, want 0..{len(self._segments) - 1}")
        self._asked = max(self._asked, number)
        start = self._starts[number][0]
        end = self._reader.size_bytes
        if number + 1 < len(self._starts):
            end = self._starts[number + 1][0]
        data = await self._reader.read_all(start, end - start)
        return data if _begins_with_tables(data) else await self._read_tables() + data

    async def close(self) -> None:
        """Stop reading; the next question starts again where the index was not complete."""
        scan, self._scan = self._scan, None
        if scan is not None:
            # It aborts its file on the way out.
            scan.cancel()
            await asyncio.gather(scan, return_exceptions=True)

    def _start_scan(self) -> None:
        if self._scan is None and not self._is_indexed:
            self._starts.clear()
            self._segments.clear()
            self._scan = asyncio.create_task(self._index())

    async def _wait_grown(self) -> None:
        self._grown.clear()
        await self._grown.wait()

    async def _index(self) -> None:
        loop = asyncio.get_running_loop()
        self._file = file = MediaFile(self._reader, loop)
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ts-index")
        try:
            await loop.run_in_executor(executor, self._find_cuts, file, loop)
        except (av.FFmpegError, OSError, EngineError, ValueError) as error:
            self._error = f"{self.name}: cannot be cut into segments: {error}"
        finally:
            await file.abort()
            executor.shutdown(wait=False)
        self._is_indexed = True
        self._grown.set()

    def _find_cuts(self, file: MediaFile, loop: asyncio.AbstractEventLoop) -> None:
        """Read the file through and tell every cut; in the index's own thread."""
        with av.open(file, "r", format="mpegts", buffer_size=1 << 17) as container:
            if not container.streams.video:
                raise MediaError(f"{self.name}: got no video in it")
            video = container.streams.video[0]
            base = video.time_base
            cut: tuple[int, int] | None = None
            last_ms = 0
            for packet in container.demux(video):
                if packet.pts is None or base is None:
                    continue
                at_ms = int(packet.pts * base * 1000)
                last_ms = max(last_ms, at_ms + int((packet.duration or 0) * base * 1000))
                if not packet.is_keyframe or packet.pos is None or packet.pos < 0:
                    continue
                if cut is None:
                    # What lies before the first key frame belongs to the first segment.
                    cut = 0, at_ms
                elif not 0 <= at_ms - cut[1] < self._segment_ms:
                    loop.call_soon_threadsafe(self._add, file, cut, at_ms)
                    cut = packet.pos - packet.pos % PACKET_BYTES, at_ms
            if cut is None:
                raise MediaError(f"{self.name}: got no key frame in it")
            loop.call_soon_threadsafe(self._add, file, cut, last_ms)

    def _add(self, file: MediaFile, cut: tuple[int, int], end_ms: int) -> None:
        if file is not self._file:
            return  # of a reading that was given up
        lasts_ms = end_ms - cut[1]
        # A clock that jumps (spliced files) says nothing about the time between.
        is_jump = not 0 < lasts_ms <= 10 * self._segment_ms
        self._starts.append(cut)
        self._segments.append(
            HlsSegment(
                number=len(self._segments),
                duration_ms=self._segment_ms if is_jump else lasts_ms,
            )
        )
        self._grown.set()

    async def _read_tables(self) -> bytes:
        if not self._tables:
            head = min(_HEAD_BYTES, self._reader.size_bytes)
            self._tables = find_tables(await self._reader.read_all(0, head))
        return self._tables


def find_tables(head: bytes) -> bytes:
    """Return the first PAT and PMT packets of a transport stream, or b"" when there are none.

    Tables that need several packets are not looked for: those of files fit into one.
    """
    pat, pmt_pid = b"", -1
    for at in range(0, len(head) - PACKET_BYTES + 1, PACKET_BYTES):
        packet = head[at : at + PACKET_BYTES]
        if packet[0] != _SYNC:
            return b""
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if not packet[1] & 0x40:
            continue
        if pid == 0 and not pat:
            pat, pmt_pid = packet, _pmt_pid_of(packet)
        elif pid == pmt_pid:
            return pat + packet
    return b""


def is_transport_stream(head: bytes) -> bool:
    """Say whether bytes are the beginning of a stream of 188-byte packets."""
    places = range(0, min(len(head), 8 * PACKET_BYTES), PACKET_BYTES)
    return len(places) > 1 and all(head[at] == _SYNC for at in places)


def _pmt_pid_of(packet: bytes) -> int:
    # ISO/IEC 13818-1 §2.4.3.2, §2.4.4.3: header, adaptation field, pointer, table of 4-byte rows.
    at = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
    if at >= PACKET_BYTES:
        return -1
    at += 1 + packet[at]
    row = at + 8
    if row + 4 > PACKET_BYTES:
        return -1
    if not packet[row] and not packet[row + 1]:
        row += 4  # the network's own row
    if row + 4 > PACKET_BYTES:
        return -1
    return (packet[row + 2] & 0x1F) << 8 | packet[row + 3]


def _begins_with_tables(data: bytes) -> bool:
    """Say whether a PAT comes before any payload of another kind, service tables apart."""
    for at in range(0, min(len(data), 4 * PACKET_BYTES), PACKET_BYTES):
        if len(data) < at + 3:
            return False
        pid = (data[at + 1] & 0x1F) << 8 | data[at + 2]
        if pid == 0:
            return True
        if pid > 0x1F:
            return False
    return False
