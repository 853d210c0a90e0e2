"""Lets requests in, and turns every error into the answer that players understand.

`{"response": null, "error": "text"}` with a fitting HTTP status, `result` in the place of
`response` on the paths that answer so.
"""

from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine_plugin.errors import EngineError
from engine_plugin.http_face.access import AccessRules, Caller
from engine_plugin.http_face.errors import FaceError
from engine_plugin.http_face.hls import MediaError, SegmentGoneError

_RESULT_PATHS = ("/search", "/webui/")
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

_log = structlog.get_logger(__name__)


class Admission:
    """ASGI middleware around all paths of the face."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit and pass on, or refuse."""
        if scope["type"] != "http":
            return
        has_begun = False

        async def note_begin(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        request = Request(scope)
        try:
            scope.setdefault("state", {})["caller"] = self._rules.admit(
                request.client.host if request.client else "",
                request.headers.items(),
                request.query_params,
            )
            await self._app(scope, receive, note_begin)
        except EngineError as error:
            if has_begun:
                _log.warning("answer_cut_short", path=scope["path"], reason=str(error))
                return
            answer = answer_error(scope["path"], _status_of(error), str(error))
            await answer(scope, receive, send)


def caller_of(request: Request) -> Caller:
    """Return who asks, as `Admission` found it."""
    caller = request.state.caller
    if not isinstance(caller, Caller):
        raise TypeError(f"caller: got {caller!r}, want a Caller")
    return caller


def answer_error(path: str, status: int, text: str) -> JSONResponse:
    """Return an error in the documented shape."""
    field = "result" if path.startswith(_RESULT_PATHS) else "response"
    return JSONResponse({field: None, "error": text}, status_code=status, headers=_HEADERS)


async def answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a path or method that is not there in the documented shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "failed"
    return answer_error(request.url.path, status, detail)


async def answer_fault(request: Request, error: Exception) -> JSONResponse:
    """Answer a fault of this program in the documented shape; the log says what it was."""
    _log.error("request_failed", path=request.url.path, fault=f"{type(error).__name__}: {error}")
    return answer_error(request.url.path, 500, "a fault of this engine; its log says more")


def answer(value: Any, *, field: str = "response") -> JSONResponse:
    """Return an answer in the documented shape."""
    return JSONResponse({field: value, "error": None}, headers=_HEADERS)


def _status_of(error: EngineError) -> int:
    if isinstance(error, FaceError):
        return error.status
    if isinstance(error, SegmentGoneError):
        return 404
    if isinstance(error, MediaError):
        return 415
    return 500
