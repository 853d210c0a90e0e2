"""The devnet's HTTP surface: Horizon's paths, friendbot, JSON-RPC, and controls of its own.

Controls: POST /devnet/close, POST and DELETE and GET /devnet/faults, POST /devnet/incidents, GET
/devnet/status. `ledger.devnet.control` is their client. Everything else passes the fault plane.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import signal
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ledger.devnet import horizon, rpc
from ledger.devnet.envelope import EnvelopeError, Transaction
from ledger.devnet.faults import FaultError, FaultKind
from ledger.devnet.horizon import Json, problem
from ledger.devnet.horizon_http import HorizonReading
from ledger.devnet.incidents import happen
from ledger.devnet.paging import RefusalError, bad, base_of, key_of
from ledger.devnet.queue import Status, Submission
from ledger.devnet.service import FRIENDBOT_STROOPS, Devnet, ServiceError

_TRANSPORT: Final = "devnet.transport"
Handler = Callable[[Request], Awaitable[Response]]
MAX_BODY_BYTES: Final = 512 * 1024
"""Largest body taken; what an envelope with 100 operations needs, many times over."""

_ANSWERS_KEPT: Final = 1_000
_CONTROLS: Final = "/devnet/"
_RPC: Final = "/rpc"
_ASYNC_STATUS: Final = {
    Status.PENDING: 201,
    Status.DUPLICATE: 409,
    Status.TRY_AGAIN_LATER: 503,
    Status.ERROR: 400,
}
_INVALID_STATUS: Final = "transaction_submission_invalid_status"
_SPOILING: Final = (FaultKind.HTTP_500, FaultKind.GARBLE_ANSWER, FaultKind.REPEAT_ANSWER)


class _HangupError(Exception):
    """The connection is to be closed without an answer."""


class _HangupResponse(Response):
    """Closes the connection without a byte: what a client sees of a node that died."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del send
        scope[_TRANSPORT].abort()
        while (await receive())["type"] != "http.disconnect":
            pass


class _TransportInScope:
    """ASGI wrapper that lets a response reach the connection it would be written to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            cycle = getattr(send, "__self__", None)
            scope[_TRANSPORT] = getattr(cycle, "transport", None)
        await self._app(scope, receive, send)


class DevnetHttp:
    """Routes of one devnet."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet = devnet
        self._given: dict[str, tuple[int, bytes, str]] = {}

    def application(self) -> ASGIApp:
        """ASGI application; its lifespan runs the devnet's timer."""
        get, post = ["GET"], ["POST"]
        table: list[tuple[str, Handler, list[str]]] = [
            ("/transactions", self.submit, post),
            ("/transactions_async", self.submit_async, post),
            ("/friendbot", self.friendbot, ["GET", "POST"]),
            (_RPC, self.json_rpc, post),
            ("/devnet/close", self.close, post),
            ("/devnet/status", self.status, get),
            ("/devnet/faults", self.faults, ["GET", "POST", "DELETE"]),
            ("/devnet/incidents", self.incidents, post),
        ]
        table += [(path, handler, get) for path, handler in HorizonReading(self.devnet).table()]
        routes = [Route(path, self._guard(handler), methods=ways) for path, handler, ways in table]

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            timer = asyncio.create_task(self.devnet.run())
            timer.add_done_callback(_stop_if_broken)
            try:
                yield
            finally:
                timer.cancel()

        return _TransportInScope(Starlette(routes=routes, lifespan=lifespan))

    def _guard(self, handler: Handler) -> Handler:
        """Wrap a handler in the limits, the fault plane and Horizon's problems."""

        async def guarded(request: Request) -> Response:
            path = request.url.path
            try:
                request.state.body = await _limited_body(request)
                if path.startswith(_CONTROLS) or path == _RPC:
                    return await handler(request)
                return await self._spoiled(path, str(request.url), lambda: handler(request))
            except _HangupError:
                return _HangupResponse()
            except RefusalError as refusal:
                return _problem_response(refusal.body)

        return guarded

    async def _spoiled(
        self, path: str, place: str, answer: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Answer through the faults that spoil answers; `place` names what a cache would."""
        faults = self.devnet.faults
        if faults.strike(FaultKind.DROP_ANSWER, path) is not None:
            raise _HangupError
        slow = faults.strike(FaultKind.DELAY, path)
        if slow is not None:
            await asyncio.sleep(slow.seconds)
        struck = next((kind for kind in _SPOILING if faults.strike(kind, path) is not None), None)
        if struck is FaultKind.HTTP_500:
            raise RefusalError(
                problem(500, "server_error", "Internal Server Error", "The devnet was told to.")
            )
        if struck is FaultKind.GARBLE_ANSWER:
            return Response("<html>Bad gateway</html>", media_type="text/html")
        if struck is FaultKind.REPEAT_ANSWER and place in self._given:
            status, body, kind = self._given[place]
            return Response(body, status, media_type=kind)
        try:
            response = await answer()
        except RefusalError as refusal:
            response = _problem_response(refusal.body)
        given = getattr(response, "body", None)
        if isinstance(given, bytes):  # a stream has none
            self._given.pop(place, None)  # so that the oldest stand first
            self._given[place] = (response.status_code, given, response.media_type or "")
            while len(self._given) > _ANSWERS_KEPT:
                del self._given[next(iter(self._given))]
        return response

    # Submitting

    def _envelope(self, request: Request) -> Transaction:
        values = parse_qs(_body_of(request).decode("ascii", "replace")).get("tx")
        text = values[0] if values else request.query_params.get("tx", "")
        try:
            return self.devnet.network.parse(base64.b64decode(text, validate=True))
        except (ValueError, binascii.Error, EnvelopeError):
            title, detail = "Transaction Malformed", "Horizon could not decode the envelope."
            extras = {"envelope_xdr": text}
            body_json = problem(400, "transaction_malformed", title, detail, extras)
            raise RefusalError(body_json) from None

    def _take(self, path: str, tx: Transaction) -> Submission:
        """Submit through the fault plane."""
        faults = self.devnet.faults
        if faults.strike(FaultKind.HTTP_503, path) is not None:
            title, detail = "Service Unavailable", "The devnet was told to refuse."
            raise RefusalError(problem(503, "server_over_capacity", title, detail))
        submission = self.devnet.submit(tx)
        if faults.strike(FaultKind.DUPLICATE, path) is not None:
            submission = self.devnet.submit(tx)
        if faults.strike(FaultKind.RESET_AFTER_ACCEPT, path) is not None:
            raise _HangupError
        if faults.strike(FaultKind.HTTP_504, path) is not None:
            raise RefusalError(_timeout_problem(tx))
        return submission

    async def submit(self, request: Request) -> Response:
        """POST /transactions: waits for the network ledger."""
        tx = self._envelope(request)
        record = self.devnet.network.record(tx.hash)
        if record is None:
            submission = self._take(request.url.path, tx)
            if submission.result is not None:
                raise RefusalError(horizon.failed_problem(tx, submission.result))
            seconds = self.devnet.options.submit_timeout_seconds
            record = await self.devnet.wait_applied(tx.hash, seconds)
        if record is None:
            raise RefusalError(_timeout_problem(tx))
        if not record.result.ok:
            raise RefusalError(horizon.failed_problem(tx, record.result))
        view = self.devnet.view(request.url.path)
        return JSONResponse(horizon.transaction(view, record, base_of(request), tx.hash))

    async def submit_async(self, request: Request) -> Response:
        """POST /transactions_async: core's answer at once."""
        tx = self._envelope(request)
        submission = self._take(request.url.path, tx)
        if submission.status == Status.FILTERED:
            # Horizon knows four statuses of a node, and calls any other one invalid.
            title, kind = "Transaction Submission Invalid Status", _INVALID_STATUS
            detail = "Received invalid status from stellar-core."
            raise RefusalError(problem(500, kind, title, detail))
        body: Json = {"tx_status": submission.status.value, "hash": tx.hash.hex()}
        if submission.result is not None:
            body["errorResultXdr"] = horizon.encode(submission.result.encode())
            body["error_result_xdr"] = body["errorResultXdr"]
        return JSONResponse(body, _ASYNC_STATUS[submission.status])

    async def friendbot(self, request: Request) -> Response:
        """GET /friendbot?addr=G…&starting_balance=10000.0000000."""
        values = dict(request.query_params)
        body = _body_of(request).decode("ascii", "replace")
        values |= {k: v[0] for k, v in parse_qs(body).items()}
        address = values.get("addr", "")
        key_of(address, "addr")
        stroops = _stroops(values.get("starting_balance"))
        try:
            record = await self.devnet.fund(address, stroops)
        except ServiceError as error:
            title = "Friendbot Failed"
            raise RefusalError(problem(400, "transaction_failed", title, str(error))) from error
        view = self.devnet.view(request.url.path)
        return JSONResponse(horizon.transaction(view, record, base_of(request)))

    # The other doors

    async def json_rpc(self, request: Request) -> Response:
        """POST /rpc."""
        body = _body_of(request)
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            return JSONResponse(rpc.error(None, -32700, "parse error"))
        path = f"{_RPC}/{rpc.method_of(call)}"

        async def answer() -> Response:
            taking = rpc.Call(self.devnet, path, lambda tx: self._take(path, tx), base_of(request))
            return JSONResponse(rpc.answer(taking, call))

        place = f"{path} {json.dumps(call.get('params'))}" if isinstance(call, dict) else path
        return await self._spoiled(path, place, answer)

    async def close(self, request: Request) -> Response:
        """POST /devnet/close {"count": 1, "close_time": seconds}: close now."""
        body = _json_body(request)
        count, at = body.get("count", 1), body.get("close_time")
        if not isinstance(count, int) or not 1 <= count <= 1_000:
            raise bad("count", f"count: got {count!r}, want 1 to 1000")
        if at is not None and not isinstance(at, int):
            raise bad("close_time", f"close_time: got {at!r}, want Unix seconds")
        closed = [await self.devnet.close(at) for _ in range(count)][-1]
        return JSONResponse(horizon.ledger(closed, base_of(request)))

    async def status(self, _request: Request) -> Response:
        """GET /devnet/status."""
        network = self.devnet.network
        return JSONResponse(
            {
                "sequence": network.header.sequence,
                "close_time": network.header.close_time,
                "queued_transactions": len(network.queue),
                "queued_operations": network.queue.operations(),
                "root_account": network.root.public_key,
                "protocol": network.settings.protocol,
                "faults": [fault.as_json() for fault in self.devnet.faults.armed],
            }
        )

    async def faults(self, request: Request) -> Response:
        """GET, POST (arm one) or DELETE (clear) /devnet/faults."""
        plane = self.devnet.faults
        if request.method == "POST":
            try:
                fault = plane.arm(_json_body(request))
            except FaultError as error:
                raise bad("fault", str(error)) from error
            if fault.kind is FaultKind.SURGE:
                await self.devnet.crowd(fault.fee)
        elif request.method == "DELETE":
            self.devnet.calm()
        return JSONResponse({"faults": [fault.as_json() for fault in plane.armed]})

    async def incidents(self, request: Request) -> Response:
        """POST /devnet/incidents: let something happen at once."""
        try:
            happen(self.devnet.network, _json_body(request))
        except FaultError as error:
            raise bad("incident", str(error)) from error
        return JSONResponse({"queued_transactions": len(self.devnet.network.queue)})


async def _limited_body(request: Request) -> bytes:
    """Read the body whole, up to the limit."""
    size, chunks = 0, []
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            title, detail = "Payload Too Large", f"The body is over {MAX_BODY_BYTES} bytes."
            raise RefusalError(problem(413, "payload_too_large", title, detail))
        chunks.append(chunk)
    return b"".join(chunks)


def _body_of(request: Request) -> bytes:
    body: bytes = request.state.body
    return body


def _problem_response(body: Json) -> Response:
    return JSONResponse(body, body["status"], media_type="application/problem+json")


def _stop_if_broken(timer: asyncio.Task[None]) -> None:
    """A network whose timer died must not look alive."""
    error = None if timer.cancelled() else timer.exception()
    if error is not None:
        traceback.print_exception(error)
        signal.raise_signal(signal.SIGTERM)


def _json_body(request: Request) -> Json:
    raw = _body_of(request)
    try:
        body = json.loads(raw) if raw else {}
    except (ValueError, RecursionError):
        raise bad("body", "body: want JSON") from None
    if not isinstance(body, dict):
        raise bad("body", "body: want a JSON object")
    return body


def _timeout_problem(tx: Transaction) -> Json:
    detail = "Your request timed out before completing; the transaction may still be applied."
    extras = {"hash": tx.hash.hex(), "envelope_xdr": horizon.encode(tx.raw)}
    return problem(504, "timeout", "Timeout", detail, extras)


def _stroops(text: str | None) -> int:
    if text is None:
        return FRIENDBOT_STROOPS
    whole, _, rest = text.partition(".")
    digits = whole + rest.ljust(7, "0")
    if not digits.isdecimal() or len(rest) > 7 or len(whole) > 12:
        raise bad("starting_balance", f"starting_balance: got {text:.40}, want XLM with 7 places")
    return int(digits)
