"""A file of a content as HLS, by whichever way fits it: cut as it is, or put into MPEG-TS."""

from typing import Final

from engine_plugin.http_face.hls import HlsWindow
from engine_plugin.http_face.remux_source import RemuxSource
from engine_plugin.http_face.ts_source import PACKET_BYTES, TsSource, is_transport_stream
from engine_plugin.playback.reader import Reader

SEGMENT_MS: Final = 6000


class VodSource:
    """`HlsSource` of any file; what it is, its first bytes tell."""

    is_live = False

    def __init__(
        self, reader: Reader, *, stream_id: bytes, name: str, segment_ms: int = SEGMENT_MS
    ) -> None:
        """Bind a file; it is looked at with the first question.

        Args:
            reader: The file.
            stream_id: The content's id; 32 bytes.
            name: For people.
            segment_ms: A segment ends with the first key frame after this time; n ≥ 1.
        """
        self.stream_id = stream_id
        self.name = name
        self._reader = reader
        self._segment_ms = segment_ms
        self._source: TsSource | RemuxSource | None = None

    async def window(self) -> HlsWindow:
        """Return the segments; see `TsSource.window` and `RemuxSource.window`.

        Raises:
            MediaError: The file cannot be cut.
        """
        return await (await self._find()).window()

    async def segment(self, number: int) -> bytes:
        """Return a segment's bytes.

        Raises:
            SegmentGoneError: There is no such segment.
            EngineError: Its bytes could not be read.
        """
        return await (await self._find()).segment(number)

    async def close(self) -> None:
        """Close what is open; the next question opens it again."""
        if self._source is not None:
            await self._source.close()

    async def _find(self) -> TsSource | RemuxSource:
        if self._source is None:
            size = min(8 * PACKET_BYTES, self._reader.size_bytes)
            head = await self._reader.read_all(0, size)
            kind = TsSource if is_transport_stream(head) else RemuxSource
            # Two questions at once may both get here: the first one's answer stays.
            self._source = self._source or kind(
                self._reader, stream_id=self.stream_id, name=self.name, segment_ms=self._segment_ms
            )
        return self._source
