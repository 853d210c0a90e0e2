"""The door of the API: numbers a request, bounds how many are at hand, counts it and logs it.

One JSON line a request: its id, method, route (never the path, which may name a key), status,
refusal, duration and a keyed name of the sender; an address in clear only when the configuration
says so. Health, readiness and metrics are answered whatever waits; the relay's long polls have a
bound of their own. Pure ASGI, so bodies are streamed through untouched.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.api.answers import RefusedError, format_refusal
from ledger.api.limits import IntakeLimits
from ledger.api.metrics import ApiMetrics
from ledger.api.pacing import Buckets
from ledger.api.request_note import RequestNote, begin_note, network_of, sender_tag

ALWAYS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered whatever waits: who asks decides what is to be done about it."""

LONG_POLLS: Final = frozenset({"/v1/relay/fetch"})
"""Wait on purpose; the relay bounds them."""

REQUEST_ID: Final = "x-request-id"
BUSY_RETRY_S: Final = 1
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNMATCHED: Final = "unmatched"

_log = structlog.get_logger(__name__)


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: IntakeLimits,
        metrics: ApiMetrics,
        sender_secret: bytes,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with no request at hand.

        Args:
            app: What answers.
            limits: How much may be at hand.
            metrics: Where requests are counted.
            sender_secret: Makes senders' names in the log lead back to nobody.
            monotonic: Seconds that never step back.
        """
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._secret = sender_secret
        self._monotonic = monotonic
        self._rates = Buckets(
            per_s=limits.address_per_s, burst=limits.address_burst, monotonic=monotonic
        )
        self._at_hand = 0
        self._bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send, begin_note(), self._monotonic())
        path = scope["path"]
        is_counted = path not in ALWAYS and path not in LONG_POLLS
        has_body = is_counted and scope["method"] in _BODY_METHODS
        self._count(is_counted, has_body, 1)
        try:
            refusal = self._refuse(scope, is_counted, has_body)
            if refusal is not None:
                await format_refusal(refusal)(scope, receive, request.send)
            else:
                await self._app(scope, receive, request.send)
        finally:
            self._count(is_counted, has_body, -1)
            self._tell(request, path)

    def _count(self, is_counted: bool, has_body: bool, step: int) -> None:
        self._at_hand += step * is_counted
        self._bodies += step * has_body
        self._metrics.in_progress.set(self._at_hand)
        self._metrics.bodies.set(self._bodies)

    def _refuse(self, scope: Scope, is_counted: bool, has_body: bool) -> RefusedError | None:
        if not is_counted:
            return None
        if self._at_hand > self._limits.requests or (
            has_body and self._bodies > self._limits.bodies
        ):
            return RefusedError(503, "busy", retry_after_s=BUSY_RETRY_S)
        if has_body and (wait_s := self._rates.take(network_of(_host_of(scope)))):
            return RefusedError(
                429,
                "too_many_requests",
                field="address",
                got="more",
                want="fewer",
                retry_after_s=wait_s,
            )
        return None

    def _tell(self, request: "_Request", path: str) -> None:
        metrics, note, scope = self._metrics, request.note, request.scope
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        method = _known(scope["method"])
        duration_s = self._monotonic() - request.began_s
        metrics.requests.labels(route, method, str(request.status)).inc()
        metrics.seconds.labels(route).observe(duration_s)
        if note.code:
            metrics.refusals.labels(note.code).inc()
        host = _host_of(scope)
        fields: dict[str, Any] = {
            "request": request.id,
            "method": method,
            "route": route,
            "status": request.status,
            "duration_ms": round(duration_s * 1_000, 1),
            "sender": note.sender or sender_tag(self._secret, network_of(host)).hex(),
        }
        if note.code:
            fields["code"] = note.code
        if self._limits.logs_addresses:
            fields["address"] = host or ""
        tell = _log.debug if path in ALWAYS else _log.info
        tell("request", **fields)


class _Request:
    """One request at hand, and the status of its answer once that has begun."""

    def __init__(self, scope: Scope, send: Send, note: RequestNote, began_s: float) -> None:
        self.scope = scope
        self.note = note
        self.began_s = began_s
        self.status = 500
        self.id = _given_id(scope) or secrets.token_hex(8)
        self._send: Callable[[Message], Awaitable[None]] = send

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            headers.append((REQUEST_ID.encode(), self.id.encode()))
            message = {**message, "headers": headers}
        await self._send(message)


def _host_of(scope: Scope) -> str | None:
    client = scope.get("client")
    return None if client is None else client[0]


def _given_id(scope: Scope) -> str:
    """Return the id that a proxy gave the request, if it looks like one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode():
            text: str = value.decode("latin-1")
            return text if _GIVEN_ID.fullmatch(text) else ""
    return ""


def _known(method: str) -> str:
    """Return the method, or one word for all that nobody defined: labels are bounded."""
    return method if method in _METHODS else "OTHER"


_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
