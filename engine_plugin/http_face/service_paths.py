"""What programs ask about the engine itself: its version, and what it can play.

    GET /webui/api/service?method=get_version
    GET /search?query=&category=&page=&page_size=      private

Spec: Ace Stream engine API, "api reference" and "search".
"""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from engine_plugin.http_face.admission import answer, caller_of
from engine_plugin.http_face.catalogue import Catalogue, Listing
from engine_plugin.http_face.errors import BadRequestError, ForbiddenError
from engine_plugin.http_face.sessions import SessionTable

PAGE_SIZE = 10
PAGE_SIZE_MAX = 200
_PAGE_MAX = 1_000_000
_PPM = 1_000_000
_GREEN, _YELLOW = 2, 1


class ServicePaths:
    """The paths of one face."""

    def __init__(self, catalogue: Catalogue, table: SessionTable) -> None:
        self._catalogue = catalogue
        self._table = table

    def routes(self) -> list[BaseRoute]:
        """Return what to serve."""
        return [
            Route("/webui/api/service", self._serve, methods=["GET"]),
            Route("/search", self._search, methods=["GET"]),
        ]

    async def _serve(self, request: Request) -> Response:
        method = request.query_params.get("method", "")
        if method == "get_version":
            return answer(describe_version(), field="result")
        if method == "get_status":
            _require_private(request)
            return answer({"sessions": len(self._table)}, field="result")
        raise BadRequestError(f"method: got {method[:40]!r}, want get_version or get_status")

    async def _search(self, request: Request) -> Response:
        _require_private(request)
        parameters = request.query_params
        page_size = _parse_number(parameters.get("page_size"), "page_size", PAGE_SIZE)
        if not 1 <= page_size <= PAGE_SIZE_MAX:
            raise BadRequestError(f"page_size: got {page_size}, want 1..{PAGE_SIZE_MAX}")
        total, found = self._catalogue.search(
            parameters.get("query", ""),
            parameters.get("category", ""),
            page=_parse_number(parameters.get("page"), "page", 0),
            page_size=page_size,
        )
        results = [_describe(listing, int(time.time())) for listing in found]
        return answer({"total": total, "results": results}, field="result")


def describe_version() -> dict[str, Any]:
    """Return version, number to compare it by, and platform."""
    try:
        text = version("swarmledger")
    except PackageNotFoundError:
        text = "0.0.0"
    major, minor, patch = (int(part) for part in (*text.split("."), "0", "0", "0")[:3])
    return {
        "version": text,
        "code": (major * 1000 + minor) * 1000 + patch,
        "platform": platform.system().lower(),
    }


def _describe(listing: Listing, now_s: int) -> dict[str, Any]:
    item = {
        "infohash": listing.infohash,
        "name": listing.name,
        "categories": [listing.category],
        "availability": listing.availability_ppm / _PPM,
        "availability_updated_at": now_s,
        "status": _GREEN if listing.is_here else _YELLOW,
        "languages": [],
        "countries": [],
        "channel_id": 0,
    }
    return {"name": listing.name, "icons": [], "items": [item]}


def _parse_number(text: str | None, name: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 7 or int(text) > _PAGE_MAX:
        raise BadRequestError(f"{name}: got {text[:20]!r}, want a number up to {_PAGE_MAX}")
    return int(text)


def _require_private(request: Request) -> None:
    if not caller_of(request).may_ask_private:
        raise ForbiddenError("token: needed for this")
