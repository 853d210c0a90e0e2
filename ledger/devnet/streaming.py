"""Horizon's streams: server-sent events of a listing, as its clients and stellar-sdk read them.

A stream says "hello" with a retry time, then each resource with its paging token as the event's id,
new ones as network ledgers close. After as many as the page's limit, or when its time is up, it
says "byebye" with a short retry time, and the client comes back with the last id as its cursor.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ledger.devnet.horizon import Json
from ledger.devnet.paging import Page
from ledger.devnet.service import Devnet

STREAM_SECONDS: Final = 55.0
"""Horizon's connection time-out."""

_HELLO: Final = 'retry: 1000\nevent: open\ndata: "hello"\n\n'
_GOODBYE: Final = 'retry: 10\nevent: close\ndata: "byebye"\n\n'
_TYPE: Final = "text/event-stream"

Reading = Callable[[Page], list[Json]]
"""Gives the resources of a page; asked again after each network ledger."""


def is_stream(request: Request) -> bool:
    """Whether a client asks for events."""
    return _TYPE in request.headers.get("accept", "")


def stream(devnet: Devnet, page: Page, read: Reading) -> Response:
    """Answer with the events of a listing from a page on."""
    return StreamingResponse(
        _events(devnet, page, read), media_type=_TYPE, headers={"Cache-Control": "no-cache"}
    )


def stream_object(devnet: Devnet, read: Callable[[], Json]) -> Response:
    """Answer with a resource now and again each time it has changed."""
    return StreamingResponse(
        _changes(devnet, read), media_type=_TYPE, headers={"Cache-Control": "no-cache"}
    )


async def _changes(devnet: Devnet, read: Callable[[], Json]) -> AsyncIterator[str]:
    yield _HELLO
    until, told = time.monotonic() + STREAM_SECONDS, ""
    while time.monotonic() < until:
        seen = devnet.network.header.sequence
        text = json.dumps(read(), separators=(",", ":"))
        if text != told:
            told = text
            yield f"data: {text}\n\n"
        await devnet.wait_ledger(seen, until - time.monotonic())
    yield _GOODBYE


async def _events(devnet: Devnet, page: Page, read: Reading) -> AsyncIterator[str]:
    yield _HELLO
    left, until = page.limit, time.monotonic() + STREAM_SECONDS
    while left > 0 and time.monotonic() < until:
        seen = devnet.network.header.sequence
        for resource in read(replace(page, limit=left)):
            page = replace(page, cursor=int(resource["paging_token"]))
            left -= 1
            yield _event(resource)
        if left > 0:
            await devnet.wait_ledger(seen, until - time.monotonic())
    yield _GOODBYE


def _event(resource: Json) -> str:
    text = json.dumps(resource, separators=(",", ":"))
    return f"id: {resource['paging_token']}\ndata: {text}\n\n"
