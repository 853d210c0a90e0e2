"""HTTP for players' reports, in CMCD's event mode, and the script that sends them.

Mounted by the HTTP face at `/ace/cmcd`: players send to `/ace/cmcd/?token=…` (`report_path`). Only
this machine's programs may report, by a name of this machine (a page elsewhere cannot reach in by
rebinding a name), and only with the token of a playing session that the face has handed out.
Reports come from whatever page the player stands on, so any origin may send; nothing is told to it
but that the reports were taken.

Not here: what a body may hold (`cmcd`), what it counts for (`desk`).
"""

from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from engine_plugin.errors import EngineError
from engine_plugin.viewing.cmcd import BODY_BYTES_MAX, MalformedReportError, parse_reports
from engine_plugin.viewing.desk import TooManyPlaybacksError, UnknownTokenError, ViewingDesk

SCRIPT_PATH = Path(__file__).with_name("viewing.js")
"""The script for pages with a video element."""

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_IS_JSON = {"application/json": True, "application/cmcd": False, "text/plain": False}
_ANY_ORIGIN = {"Access-Control-Allow-Origin": "*"}
_PREFLIGHT = _ANY_ORIGIN | {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "content-type",
    "Access-Control-Max-Age": "600",
}


def report_path(token: str) -> str:
    """Return where the player with a token sends its reports, relative to the mount.

    The slash stands there because a redirect to it would not be followed across origins.
    """
    return f"/?token={token}"


def make_routes(desk: ViewingDesk) -> list[BaseRoute]:
    """Return the routes over a desk; call it in the event loop that the desk lives in."""

    async def take_reports(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=_PREFLIGHT)
        return await _take(request, desk)

    async def send_script(request: Request) -> Response:
        if not _is_local(request):
            return _refuse(403, "not_local")
        return PlainTextResponse(
            SCRIPT_PATH.read_text(), media_type="text/javascript", headers=_ANY_ORIGIN
        )

    return [
        Route("/", take_reports, methods=["POST", "OPTIONS"]),
        Route("/viewing.js", send_script, methods=["GET"]),
    ]


async def _take(request: Request, desk: ViewingDesk) -> Response:
    if not _is_local(request):
        return _refuse(403, "not_local")
    token = request.query_params.get("token", "")
    # Before the body is read: strangers are not listened to.
    if not desk.is_open(token):
        return _refuse(403, "unknown_token")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _IS_JSON:
        return _refuse(415, "unknown_content_type")
    try:
        body = await _read_body(request)
        desk.take(token, parse_reports(body, is_json=_IS_JSON[kind]))
    except MalformedReportError as error:
        return _refuse(400, "malformed", str(error))
    except UnknownTokenError:
        return _refuse(403, "unknown_token")
    except TooManyPlaybacksError as error:
        return _refuse(429, "too_many_playbacks", str(error))
    except EngineError as error:
        return _refuse(503, "not_stored", str(error))
    except ClientDisconnect:
        return _refuse(400, "disconnected")
    return Response(status_code=204, headers=_ANY_ORIGIN)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise MalformedReportError(f"body: got more than {BODY_BYTES_MAX} bytes, want fewer")
    return bytes(body)


def _is_local(request: Request) -> bool:
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname
        if name not in _LOCAL_NAMES or request.client is None:
            return False
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _refuse(status: int, code: str, detail: str = "") -> Response:
    return JSONResponse({"error": code, "detail": detail}, status_code=status, headers=_ANY_ORIGIN)
