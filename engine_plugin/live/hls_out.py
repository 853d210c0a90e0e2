"""One stream as a local HLS playlist: the smallest server a player can be pointed at.

    GET /live.m3u8           the sliding playlist
    GET /segment/<n>.ts      a segment

Not here: sessions, statistics, seeking, access rules (`http_face`).
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from engine_plugin.errors import EngineError
from engine_plugin.http_face.hls import (
    PLAYLIST_TYPE,
    SEGMENT_TYPE,
    HlsSource,
    format_playlist,
)

_NO_STORE = {"cache-control": "no-store"}


def hls_app(source: HlsSource) -> Starlette:
    """Return the HTTP application that serves one source."""

    async def playlist(_: Request) -> Response:
        text = format_playlist(await source.window(), lambda number: f"segment/{number}.ts")
        return Response(text, media_type=PLAYLIST_TYPE, headers=_NO_STORE)

    async def segment(request: Request) -> Response:
        try:
            data = await source.segment(request.path_params["number"])
        except EngineError as error:
            return PlainTextResponse(f"{error}\n", status_code=404, headers=_NO_STORE)
        return Response(data, media_type=SEGMENT_TYPE, headers=_NO_STORE)

    return Starlette(
        routes=[Route("/live.m3u8", playlist), Route("/segment/{number:int}.ts", segment)]
    )
