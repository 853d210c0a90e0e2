"""What players open: the stream itself, its playlist and segments, figures, and stop.

    GET /ace/getstream?CONTENT            the file (ranges) or the live stream
    GET /ace/manifest.m3u8?CONTENT        the same as HLS
    GET /ace/c/<infohash>/<n>.ts          a segment
    GET /ace/r/<infohash>/<session>       the stream of a session opened with format=json
    GET /ace/m/<infohash>/<session>.m3u8  its playlist
    GET /ace/stat/<infohash>/<session>    its figures
    GET /ace/cmd/<infohash>/<session>?method=stop

CONTENT is one of content_id (or id), infohash, url, magnet. Parameters that are not known are
ignored, as the interface wants it.

Spec: Ace Stream engine API, "start playback"; RFC 9110 (HEAD, ranges), RFC 8216 (HLS).
"""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from engine_plugin.http_face.admission import answer, caller_of
from engine_plugin.http_face.bodies import MediaBody
from engine_plugin.http_face.catalogue import Catalogue
from engine_plugin.http_face.cdn_watch import CdnWatch
from engine_plugin.http_face.content_query import parse_hash, parse_query
from engine_plugin.http_face.errors import BadRequestError, NotKnownError
from engine_plugin.http_face.hls import PLAYLIST_TYPE, SEGMENT_TYPE, format_playlist
from engine_plugin.http_face.playables import FilePlayable, LivePlayable, Playable
from engine_plugin.http_face.ranges import UnsatisfiableRangeError, parse_range
from engine_plugin.http_face.sessions import PlaySession, SessionTable
from engine_plugin.http_face.viewing_link import CMCD_PATH, ViewingLink

_KIB = 1024
_SEGMENT_NUMBER_MAX = 1 << 53
_GET = ["GET", "HEAD"]
_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class PlayerPaths:
    """The paths of one face."""

    def __init__(
        self, catalogue: Catalogue, table: SessionTable, *, viewing: ViewingLink, cdn: CdnWatch
    ) -> None:
        self._catalogue = catalogue
        self._table = table
        self._viewing = viewing
        self._cdn = cdn

    def routes(self) -> list[BaseRoute]:
        """Return what to serve."""
        return [
            Route("/ace/getstream", self._get_stream, methods=_GET),
            Route("/ace/manifest.m3u8", self._get_manifest, methods=_GET),
            Route("/ace/c/{infohash}/{number}.ts", self._get_segment, methods=_GET),
            Route("/ace/r/{infohash}/{session}", self._replay, methods=_GET),
            Route("/ace/m/{infohash}/{session}.m3u8", self._replay_manifest, methods=_GET),
            Route("/ace/stat/{infohash}/{session}", self._get_stat, methods=_GET),
            Route("/ace/cmd/{infohash}/{session}", self._command, methods=[*_GET, "POST"]),
        ]

    async def _get_stream(self, request: Request) -> Response:
        session = await self._open(request)
        if request.query_params.get("format") == "json":
            return self._describe(request, session, f"/ace/r/{_tail(session)}")
        return self._stream(request, session)

    async def _get_manifest(self, request: Request) -> Response:
        session = await self._open(request)
        if request.query_params.get("format") == "json":
            return self._describe(request, session, f"/ace/m/{_tail(session)}.m3u8")
        return await self._manifest(request, session)

    async def _replay(self, request: Request) -> Response:
        return self._stream(request, self._session(request))

    async def _replay_manifest(self, request: Request) -> Response:
        return await self._manifest(request, self._session(request))

    async def _get_segment(self, request: Request) -> Response:
        text = request.path_params["number"]
        if not (text.isascii() and text.isdigit()) or int(text) > _SEGMENT_NUMBER_MAX:
            raise BadRequestError(f"segment: got {text[:40]!r}, want a number")
        if session_id := request.query_params.get("session"):
            session = self._table.get(session_id)
        else:
            infohash = parse_hash("infohash", request.path_params["infohash"])
            session = self._join(request, self._catalogue.find_hls(infohash, None))
        source = session.playable.hls
        data = await source.segment(int(text))
        await self._viewing.note_segment(session, source, int(text))
        return Response(data, media_type=SEGMENT_TYPE, headers=_NO_STORE)

    async def _get_stat(self, request: Request) -> Response:
        session = self._session(request)
        figures = await _describe_figures(session)
        if isinstance(session.playable, FilePlayable):
            # Not in the interface: which CDN helps out, and which has failed.
            figures["cdns"] = self._cdn.describe(session.playable.content)
        return answer(figures)

    async def _command(self, request: Request) -> Response:
        session = self._session(request)
        method = request.query_params.get("method", "")
        if method != "stop":
            raise BadRequestError(f"method: got {method[:40]!r}, want stop")
        self._table.end(session)
        if not self._table.uses(session.playable):
            await session.playable.rest()
        return answer("ok")

    async def _open(self, request: Request) -> PlaySession:
        query = parse_query(request.query_params)
        playable = await self._catalogue.open(query, may_add=caller_of(request).may_ask_private)
        return self._join(request, playable)

    def _join(self, request: Request, playable: Playable) -> PlaySession:
        parameters = request.query_params
        return self._table.open(
            playable,
            pid=parameters.get("pid") or parameters.get("sid") or "",
            address=request.client.host if request.client else "",
            restarts=parameters.get("force_session_restart") == "1",
        )

    def _session(self, request: Request) -> PlaySession:
        session = self._table.get(request.path_params["session"])
        if session.playable.infohash != request.path_params["infohash"].lower():
            raise NotKnownError("session: not known, or ended")
        return session

    def _stream(self, request: Request, session: PlaySession) -> Response:
        playable = session.playable
        if isinstance(playable, FilePlayable):
            return self._stream_file(request, session, playable)
        if isinstance(playable, LivePlayable):
            return MediaBody(
                playable.follow(
                    lambda number: self._viewing.note_segment(session, playable.hls, number)
                ),
                table=self._table,
                session=session,
                status_code=200,
                headers=_NO_STORE | {"content-type": playable.media_type},
                note_closed=self._viewing.note_closed,
            )
        raise NotKnownError(f"{playable.name}: no stream")

    def _stream_file(self, request: Request, session: PlaySession, file: FilePlayable) -> Response:
        size, etag = file.reader.size_bytes, f'"{file.key.replace("/", "-")}"'
        headers = _NO_STORE | {
            "content-type": file.media_type,
            "accept-ranges": "bytes",
            "etag": etag,
        }
        asked = request.headers.get("range")
        # RFC 9110 §13.1.5: a range of another version of the file is not asked for.
        if request.headers.get("if-range", etag) != etag:
            asked = None
        try:
            part = parse_range(asked, size)
        except UnsatisfiableRangeError:
            return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
        first, length, status = 0, size, 200
        if part is not None:
            first, length, status = part.first, part.length, 206
            headers["content-range"] = f"bytes {part.first}-{part.last}/{size}"
        headers["content-length"] = str(length)
        return MediaBody(
            None if request.method == "HEAD" else file.reader.read(first, length),
            table=self._table,
            session=session,
            status_code=status,
            headers=headers,
            note_taken=self._note_parts(session, first),
            note_closed=self._viewing.note_closed,
        )

    def _note_parts(self, session: PlaySession, first: int) -> Callable[[int], None]:
        at = first

        def note(byte_count: int) -> None:
            nonlocal at
            self._viewing.note_part(session, at, byte_count)
            at += byte_count

        return note

    def _describe(self, request: Request, session: PlaySession, playback_path: str) -> JSONResponse:
        base = _base_of(request)
        fields = {
            "playback_url": base + playback_path,
            "stat_url": f"{base}/ace/stat/{_tail(session)}",
            "command_url": f"{base}/ace/cmd/{_tail(session)}",
            "infohash": session.playable.infohash,
            "playback_session_id": session.session_id,
            "is_live": int(session.playable.hls.is_live),
            "is_encrypted": 0,
            "client_session_id": session.pid,
        }
        # Not in the interface: where a player that wants to may report what it plays.
        if (path := self._viewing.report_path(session)) is not None:
            fields["cmcd_url"] = f"{base}{CMCD_PATH}{path}"
        return answer(fields)

    async def _manifest(self, request: Request, session: PlaySession) -> Response:
        playable = session.playable
        window = await playable.hls.window()
        base = f"{_base_of(request)}/ace/c/{playable.infohash}"
        text = format_playlist(
            window, lambda number: f"{base}/{number}.ts?session={session.session_id}"
        )
        return PlainTextResponse(text, media_type=PLAYLIST_TYPE, headers=_NO_STORE)


def _tail(session: PlaySession) -> str:
    return f"{session.playable.infohash}/{session.session_id}"


def _base_of(request: Request) -> str:
    # Admitted already; an old player without the header gets paths only.
    host = request.headers.get("host")
    return f"http://{host}" if host else ""


async def _describe_figures(session: PlaySession) -> dict[str, Any]:
    playable = session.playable
    count, rates = session.gauge.look()
    figures: dict[str, Any] = {
        "status": "dl" if session.sent_bytes or playable.progress_percent() == 100 else "prebuf",
        "peers": playable.peer_count(),
        "speed_down": rates.down // _KIB,
        "speed_up": rates.up // _KIB,
        "downloaded": count.received_bytes,
        "http_downloaded": count.cdn_bytes,
        "uploaded": count.sent_bytes,
        "total_progress": playable.progress_percent(),
        "infohash": playable.infohash,
        "playback_session_id": session.session_id,
        "client_session_id": session.pid,
        "is_live": int(playable.hls.is_live),
    }
    if playable.hls.is_live:
        figures["livepos"] = await _describe_live(playable)
    return figures


async def _describe_live(playable: Playable) -> dict[str, str]:
    """Return the live window, in numbers and times of segments; strings, as documented."""
    segments = (await playable.hls.window()).segments
    if not segments:
        return {"is_live": "1"}
    first, last = segments[0], segments[-1]
    lasts_s = sum(segment.duration_ms for segment in segments) // 1000
    last_s = (last.program_ms or 0) // 1000
    return {
        "pos": str(last.number),
        "live_first": str(first.number),
        "live_last": str(last.number),
        "first_ts": str(last_s - lasts_s if last_s else 0),
        "last_ts": str(last_s),
        "last": str(last.number),
        "is_live": "1",
        "buffer_pieces": str(len(segments)),
    }
