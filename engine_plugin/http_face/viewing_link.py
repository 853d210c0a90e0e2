"""Ties play sessions to the viewing desk: who may report for them, and what they read.

Every play session gets one ticket of the desk, so that its player can report; what a player that
reports nothing reads is told to the desk, as media time: HLS segments by the playlist, a file by
its duration, which is looked up once it has been read for a while. Without a desk (an engine
without terms) nothing is told, and whatever fails here fails for the estimate only.

Not here: what reports and reads count for (`viewing`).
"""

import asyncio

import av
import structlog

from engine_plugin.errors import EngineError
from engine_plugin.http_face.hls import HlsSource
from engine_plugin.http_face.media_file import MediaFile
from engine_plugin.http_face.playables import FilePlayable, Playable
from engine_plugin.http_face.sessions import PlaySession
from engine_plugin.playback.reader import Reader
from engine_plugin.viewing.desk import ViewingDesk
from engine_plugin.viewing.routes import report_path

CMCD_PATH = "/ace/cmcd"
"""Where players report."""

LOOK_UP_AFTER_BYTES = 4 << 20
"""A player that took so much is playing, and not just looking at the file."""

LOOK_UP_MOST_S = 30.0
_DURATIONS_MAX = 256
_BITRATE_FACTOR = 2
"""How far a part of a file may have a lower bitrate than the whole."""

_RECEIVED_SLACK_MS = 10_000

_log = structlog.get_logger(__name__)


class ViewingLink:
    """The link of one face; used in the event loop."""

    def __init__(self, desk: ViewingDesk | None) -> None:
        """Tie to a desk, or to nothing."""
        self._desk = desk
        self._tickets: dict[str, str] = {}
        self._durations: dict[str, int | None] = {}
        """Playable's key → milliseconds; None: looked up already, in vain or still."""
        self._tasks: set[asyncio.Task[None]] = set()

    def report_path(self, session: PlaySession) -> str | None:
        """Return where the session's player reports, relative to the mount; None: nowhere."""
        ticket = self._ticket_of(session)
        return None if ticket is None else report_path(ticket)

    async def note_segment(self, session: PlaySession, source: HlsSource, number: int) -> None:
        """Take note that a player was handed an HLS segment."""
        ticket = self._ticket_of(session)
        if self._desk is None or ticket is None:
            return
        try:
            window = await source.window()
            position_ms = 0
            for segment in window.segments:
                if segment.number == number:
                    is_last = window.is_ended and segment is window.segments[-1]
                    # A live window slides, so positions in it are told by the stream's own clock.
                    begin_ms = segment.program_ms if source.is_live else position_ms
                    self._desk.note_read(
                        ticket,
                        position_ms=position_ms if begin_ms is None else begin_ms,
                        media_ms=segment.duration_ms,
                        is_last=is_last,
                    )
                    return
                position_ms += segment.duration_ms
        except EngineError as error:
            _log.info("segment_not_noted", number=number, reason=str(error))

    def note_part(self, session: PlaySession, offset: int, byte_count: int) -> None:
        """Take note that a player took a part of a file."""
        ticket, file = self._ticket_of(session), session.playable
        if self._desk is None or ticket is None or not isinstance(file, FilePlayable):
            return
        size = file.reader.size_bytes
        duration_ms = self._durations.get(file.key)
        if duration_ms is None:
            if session.sent_bytes >= min(LOOK_UP_AFTER_BYTES, size // 2):
                self._look_up(file)
            return
        begin_ms = offset * duration_ms // size
        end_ms = (offset + byte_count) * duration_ms // size
        try:
            self._desk.note_read(
                ticket,
                position_ms=begin_ms,
                media_ms=end_ms - begin_ms,
                is_last=offset + byte_count >= size,
            )
        except EngineError as error:
            _log.info("part_not_noted", reason=str(error))

    def note_closed(self, session: PlaySession) -> None:
        """Take note that the session's last connection is closed."""
        ticket = self._tickets.get(session.session_id)
        if self._desk is not None and ticket is not None and not session.connection_count:
            try:
                self._desk.note_closed(ticket)
            except EngineError as error:
                _log.info("end_not_noted", reason=str(error))

    def end(self, session: PlaySession) -> None:
        """Take note that the session has ended, and with it a playback that was estimated."""
        ticket = self._tickets.pop(session.session_id, None)
        if self._desk is not None and ticket is not None:
            self._desk.let_go(ticket)

    async def close(self) -> None:
        """Give up what is being looked up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ticket_of(self, session: PlaySession) -> str | None:
        if self._desk is None or session.ended.is_set():
            return None
        ticket = self._tickets.get(session.session_id)
        if ticket is None or not self._desk.is_open(ticket):
            playable = session.playable
            scope_id = (
                playable.content.scope_id
                if isinstance(playable, FilePlayable)
                else playable.hls.stream_id
            )
            ticket = self._tickets[session.session_id] = self._desk.open(
                scope_id, received_ms=lambda: self._received_ms(playable)
            )
        return ticket

    def _received_ms(self, playable: Playable) -> int | None:
        """Return the most media that can be here, of a content that is one file."""
        if not isinstance(playable, FilePlayable):
            return None
        duration_ms = self._durations.get(playable.key)
        if duration_ms is None or playable.content.torrent.content_bytes != (
            playable.reader.size_bytes
        ):
            return None
        here_ms = duration_ms * playable.progress_percent() * _BITRATE_FACTOR // 100
        return min(here_ms, duration_ms) + _RECEIVED_SLACK_MS

    def _look_up(self, file: FilePlayable) -> None:
        if file.key in self._durations:
            return
        if len(self._durations) >= _DURATIONS_MAX:
            del self._durations[next(iter(self._durations))]
        self._durations[file.key] = None
        task = asyncio.create_task(self._learn_duration(file))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _learn_duration(self, file: FilePlayable) -> None:
        self._durations[file.key] = await find_duration_ms(file.reader)


async def find_duration_ms(reader: Reader) -> int | None:
    """Return how long a media file lasts, by its container; None if that cannot be said."""
    loop = asyncio.get_running_loop()
    file = MediaFile(reader, loop)
    try:
        async with asyncio.timeout(LOOK_UP_MOST_S):
            return await asyncio.to_thread(_duration_of, file)
    except TimeoutError:
        return None
    finally:
        await file.abort()


def _duration_of(file: MediaFile) -> int | None:
    try:
        with av.open(file, "r") as container:
            lasts_us = container.duration
    except (av.FFmpegError, OSError, EngineError):
        return None
    return lasts_us * 1000 // av.time_base if lasts_us and lasts_us > 0 else None
