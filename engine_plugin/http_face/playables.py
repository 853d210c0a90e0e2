"""What a session plays: a file of a content, or a live stream."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol

from engine_plugin.content import Content
from engine_plugin.errors import EngineError
from engine_plugin.http_face.hls import HlsSource, SegmentGoneError
from engine_plugin.http_face.media_types import type_of
from engine_plugin.http_face.rates import ByteCount
from engine_plugin.http_face.vod_source import VodSource
from engine_plugin.playback.piece_desk import PieceDesk
from engine_plugin.playback.reader import Reader, WindowPolicy

_LIVE_START_SEGMENTS = 2


class Playable(Protocol):
    """Either kind."""

    @property
    def key(self) -> str:
        """Tells it from every other one."""

    @property
    def infohash(self) -> str:
        """The name that players see: hexadecimal."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def hls(self) -> HlsSource:
        """The same in segments."""

    def count(self) -> ByteCount:
        """Return its bytes in this run."""

    def peer_count(self) -> int:
        """Return the number of peers connected for it."""

    def progress_percent(self) -> int:
        """Return how much of it is here; 0 to 100."""

    async def rest(self) -> None:
        """Give up what is only held for players; it can be played again."""


class FilePlayable:
    """One file of a content that runs."""

    def __init__(
        self, content: Content, desk: PieceDesk, file_index: int, *, policy: WindowPolicy
    ) -> None:
        """Bind a file.

        Args:
            content: What it belongs to.
            desk: The content's desk.
            file_index: Its place among the real files.
            policy: How far deadlines run ahead of a player.

        Raises:
            SpanError: The content has no such file.
        """
        self.content = content
        self._desk = desk
        self.reader = Reader(desk, file_index, policy=policy)
        self.infohash = infohash_of(content)
        self.key = f"{content.torrent.content_id.hex()}/{file_index}"
        self.name = self.reader.span.name
        self.media_type = type_of(self.name)
        self.hls = VodSource(self.reader, stream_id=content.torrent.content_id, name=self.name)

    def count(self) -> ByteCount:
        """Return the content's bytes in this run."""
        received = self.content.bytes_by_source()
        return ByteCount(
            p2p_bytes=received.p2p_bytes,
            cdn_bytes=received.cdn_bytes,
            sent_bytes=sum(peer.uploaded_bytes for peer in self.content.peers()),
        )

    def peer_count(self) -> int:
        """Return the number of peers connected, web seeds apart."""
        return sum(not peer.is_web_seed for peer in self.content.peers())

    def progress_percent(self) -> int:
        """Return how much of the whole content is here."""
        pieces = self.content.torrent.layout.piece_count
        return 100 * (pieces - len(self.content.missing_pieces())) // pieces

    async def rest(self) -> None:
        """Close what FFmpeg holds open, and forget pieces that were read."""
        await self.hls.close()
        self._desk.forget_kept()


class LivePlayable:
    """A live stream that some part of the engine follows."""

    media_type = "video/mp2t"

    def __init__(self, source: HlsSource, contents: Callable[[], list[Content]]) -> None:
        """Bind a stream.

        Args:
            source: Its segments.
            contents: Returns the contents that its segments are.
        """
        self.hls = source
        self.key = self.infohash = source.stream_id.hex()
        self.name = source.name
        self._contents = contents

    def count(self) -> ByteCount:
        """Return bytes of the segments that are still here."""
        received = [content.bytes_by_source() for content in self._contents()]
        return ByteCount(
            p2p_bytes=sum(each.p2p_bytes for each in received),
            cdn_bytes=sum(each.cdn_bytes for each in received),
            sent_bytes=sum(
                peer.uploaded_bytes for content in self._contents() for peer in content.peers()
            ),
        )

    def peer_count(self) -> int:
        """Return the number of peers of all segments, each counted once."""
        return len(
            {
                peer.endpoint
                for content in self._contents()
                for peer in content.peers()
                if not peer.is_web_seed
            }
        )

    def progress_percent(self) -> int:
        """Return 100: what there is of a live stream is here."""
        return 100

    async def rest(self) -> None:
        """Hold on: others may follow the stream."""

    async def follow(
        self, note_taken: Callable[[int], Awaitable[None]]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the stream's bytes from near its end, on and on, until it ends.

        A player that falls out of the window goes on with the oldest segment there is.
        """
        window = await self.hls.window()
        numbers = [segment.number for segment in window.segments]
        at = numbers[max(0, len(numbers) - _LIVE_START_SEGMENTS)] if numbers else 0
        while True:
            try:
                yield await self.hls.segment(at)
                await note_taken(at)
                at += 1
            except SegmentGoneError:
                window = await self.hls.window()
                numbers = [segment.number for segment in window.segments]
                if window.is_ended and (not numbers or at > numbers[-1]):
                    return
                if not numbers or at > numbers[0]:
                    raise
                at = numbers[0]


def infohash_of(content: Content) -> str:
    """Return the info-hash that players know: v1 where there is one."""
    torrent = content.torrent
    return (torrent.infohash_v1 or torrent.infohash_v2).hex()


def require_file(playable: Playable) -> FilePlayable:
    """Return a playable as a file.

    Raises:
        EngineError: It is a live stream.
    """
    if not isinstance(playable, FilePlayable):
        raise EngineError(f"{playable.name}: is no file")
    return playable
