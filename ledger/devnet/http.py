"""The devnet's HTTP surface: Horizon's paths, friendbot, JSON-RPC, and controls of its own.

Controls: POST /devnet/close, POST and DELETE and GET /devnet/faults, GET /devnet/status.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import signal
import traceback
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import parse_qs, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from stellar_sdk import StrKey
from stellar_sdk.exceptions import Ed25519PublicKeyInvalidError

from ledger.devnet import horizon, rpc
from ledger.devnet.entries import Data, data_key
from ledger.devnet.envelope import EnvelopeError, Transaction
from ledger.devnet.faults import FaultError, FaultKind
from ledger.devnet.horizon import Json, problem
from ledger.devnet.horizon_operations import PAYMENT_KINDS, operations
from ledger.devnet.network import Record
from ledger.devnet.queue import Status, Submission
from ledger.devnet.service import FRIENDBOT_STROOPS, Devnet, ServiceError

_TRANSPORT: Final = "devnet.transport"
Handler = Callable[[Request], Awaitable[Response]]
_MAX_LIMIT: Final = 200
_MAX_BODY_BYTES: Final = 1_000_000
_ASYNC_STATUS: Final = {
    Status.PENDING: 201,
    Status.DUPLICATE: 409,
    Status.TRY_AGAIN_LATER: 503,
    Status.ERROR: 400,
}


class _HangupError(Exception):
    """The connection is to be closed without an answer."""


class _RefusalError(Exception):
    """A request answered with a problem."""

    def __init__(self, body: Json) -> None:
        super().__init__(body["detail"])
        self.body = body


def _missing(detail: str = "The resource at the url requested was not found.") -> _RefusalError:
    return _RefusalError(problem(404, "not_found", "Resource Missing", detail))


def _bad(field: str, reason: str) -> _RefusalError:
    extras = {"invalid_field": field, "reason": reason}
    detail = "The request you sent was invalid in some way."
    return _RefusalError(problem(400, "bad_request", "Bad Request", detail, extras))


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


@dataclass(frozen=True, slots=True)
class Page:
    """Paging parameters of a listing."""

    cursor: int | None
    limit: int
    descending: bool

    def cut(self, items: Iterable[tuple[int, Json]]) -> list[Json]:
        """The page of (token, resource) pairs given in ascending order."""
        ranked = sorted(items, key=lambda item: item[0], reverse=self.descending)
        if self.cursor is not None and self.descending:
            ranked = [item for item in ranked if item[0] < (self.cursor or 0)]
        elif self.cursor is not None:
            ranked = [item for item in ranked if item[0] > (self.cursor or 0)]
        return [resource for _, resource in ranked[: self.limit]]


class DevnetHttp:
    """Routes of one devnet."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet = devnet

    def application(self) -> ASGIApp:
        """ASGI application; its lifespan runs the devnet's timer."""
        get, post = ["GET"], ["POST"]
        table: list[tuple[str, Handler, list[str]]] = [
            ("/", self.root, get),
            ("/fee_stats", self.fee_stats, get),
            ("/ledgers", self.ledgers, get),
            ("/ledgers/{sequence:int}", self.ledger, get),
            ("/accounts/{address}", self.account, get),
            ("/accounts/{address}/data/{name:path}", self.account_data, get),
            ("/accounts/{address}/transactions", self.transactions, get),
            ("/accounts/{address}/operations", self.operations, get),
            ("/accounts/{address}/payments", self.payments, get),
            ("/ledgers/{sequence:int}/transactions", self.transactions, get),
            ("/transactions", self.transactions, get),
            ("/transactions", self.submit, post),
            ("/transactions_async", self.submit_async, post),
            ("/transactions/{hash}", self.transaction, get),
            ("/transactions/{hash}/operations", self.operations, get),
            ("/transactions/{hash}/payments", self.payments, get),
            ("/operations", self.operations, get),
            ("/payments", self.payments, get),
            ("/friendbot", self.friendbot, ["GET", "POST"]),
            ("/rpc", self.json_rpc, post),
            ("/devnet/close", self.close, post),
            ("/devnet/status", self.status, get),
            ("/devnet/faults", self.faults, ["GET", "POST", "DELETE"]),
        ]
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
        """Wrap a handler in the fault plane and in Horizon's problems."""

        async def guarded(request: Request) -> Response:
            faults, path = self.devnet.faults, request.url.path
            try:
                if not path.startswith("/devnet/"):
                    if faults.strike(FaultKind.DROP_ANSWER, path) is not None:
                        return _HangupResponse()
                    slow = faults.strike(FaultKind.DELAY, path)
                    if slow is not None:
                        await asyncio.sleep(slow.seconds)
                return await handler(request)
            except _HangupError:
                return _HangupResponse()
            except _RefusalError as refusal:
                kind = "application/problem+json"
                return JSONResponse(refusal.body, refusal.body["status"], media_type=kind)

        return guarded

    # Reading

    async def root(self, request: Request) -> Response:
        """GET /."""
        latest = self.devnet.horizon_ledger()
        return JSONResponse(horizon.root(self.devnet.network, _base(request), latest))

    async def fee_stats(self, _request: Request) -> Response:
        """GET /fee_stats."""
        latest = self.devnet.horizon_ledger()
        return JSONResponse(horizon.fee_stats(self.devnet.network, latest))

    async def ledgers(self, request: Request) -> Response:
        """GET /ledgers."""
        page, base = self._page(request), _base(request)
        closed = self.devnet.network.ledgers[: self.devnet.horizon_ledger()]
        window = _window(closed, page, lambda c: c.header.sequence << 32)
        pairs = ((c.header.sequence << 32, horizon.ledger(c, base)) for c in window)
        return _listing(request, page, page.cut(pairs))

    async def ledger(self, request: Request) -> Response:
        """GET /ledgers/{sequence}."""
        sequence = request.path_params["sequence"]
        closed = self.devnet.network.ledger(sequence)
        if closed is None or sequence > self.devnet.horizon_ledger():
            raise _missing()
        return JSONResponse(horizon.ledger(closed, _base(request)))

    async def account(self, request: Request) -> Response:
        """GET /accounts/{address}."""
        found = horizon.account(self.devnet.network, _account(request), _base(request))
        if found is None:
            raise _missing()
        return JSONResponse(found)

    async def account_data(self, request: Request) -> Response:
        """GET /accounts/{address}/data/{name}."""
        key = data_key(_account(request), request.path_params["name"].encode())
        entry = self.devnet.network.world.find(key)
        if entry is None or not isinstance(entry.body, Data):
            raise _missing()
        return JSONResponse({"value": horizon.encode(entry.body.value)})

    def _records(self, request: Request) -> list[Record]:
        network = self.devnet.network
        if "address" in request.path_params:
            records = network.records_of(_account(request))
        elif "hash" in request.path_params:
            return [self._by_hash(request)]
        elif "sequence" in request.path_params:
            sequence = request.path_params["sequence"]
            records = [r for r in network.records if r.ledger == sequence]
        else:
            records = network.records
        shown = self.devnet.visible(records)
        if request.query_params.get("include_failed", "false").lower() == "true":
            return shown
        return [record for record in shown if record.result.ok]

    def _by_hash(self, request: Request) -> Record:
        text = request.path_params["hash"]
        try:
            tx_hash = bytes.fromhex(text)
        except ValueError:
            raise _bad("tx_id", "invalid hash format") from None
        record = self.devnet.find(tx_hash)
        if record is None:
            raise _missing()
        return record

    async def transactions(self, request: Request) -> Response:
        """GET /transactions, of all, of an account or of a ledger."""
        page, base, network = self._page(request), _base(request), self.devnet.network
        window = _window(self._records(request), page, lambda r: r.token)
        pairs = ((r.token, horizon.transaction(network, r, base)) for r in window)
        return _listing(request, page, page.cut(pairs))

    async def transaction(self, request: Request) -> Response:
        """GET /transactions/{hash}."""
        record = self._by_hash(request)
        asked = bytes.fromhex(request.path_params["hash"])
        network, base = self.devnet.network, _base(request)
        return JSONResponse(horizon.transaction(network, record, base, asked))

    async def operations(self, request: Request) -> Response:
        """GET /operations, of all, of an account or of a transaction."""
        return self._operations(request, None)

    async def payments(self, request: Request) -> Response:
        """GET /payments: what moves money."""
        return self._operations(request, PAYMENT_KINDS)

    def _operations(self, request: Request, kinds: frozenset[int] | None) -> Response:
        page, base, network = self._page(request), _base(request), self.devnet.network
        records = self._records(request)
        if page.cursor is not None:
            edge = page.cursor >> 12 << 12
            records = [
                r for r in records if (r.token <= edge if page.descending else r.token >= edge)
            ]
        found: list[tuple[int, Json]] = []
        for record in reversed(records) if page.descending else records:
            items = operations(network, record, base)
            found += [
                (token, item) for token, kind, item in items if kinds is None or kind in kinds
            ]
            if len(found) > page.limit + 200:
                break
        return _listing(request, page, page.cut(found))

    def _page(self, request: Request) -> Page:
        query = request.query_params
        order, limit = query.get("order", "asc"), query.get("limit", "10")
        if order not in ("asc", "desc"):
            raise _bad("order", "order: invalid value")
        if not limit.isdecimal() or not 1 <= int(limit) <= _MAX_LIMIT:
            raise _bad("limit", f"limit: got {limit}, want 1 to {_MAX_LIMIT}")
        text = query.get("cursor", "")
        cursor: int | None = None
        if text == "now":
            cursor = (self.devnet.network.header.sequence + 1) << 32
        elif text:
            head = text.split("-", maxsplit=1)[0]
            if not head.isdecimal():
                raise _bad("cursor", "cursor: invalid value")
            cursor = int(head)
        return Page(cursor, int(limit), order == "desc")

    # Submitting

    async def _envelope(self, request: Request) -> Transaction:
        body = await request.body()
        if len(body) > _MAX_BODY_BYTES:
            raise _bad("tx", "too large")
        values = parse_qs(body.decode("ascii", "replace")).get("tx")
        text = values[0] if values else request.query_params.get("tx", "")
        try:
            return self.devnet.network.parse(base64.b64decode(text, validate=True))
        except (binascii.Error, EnvelopeError):
            title, detail = "Transaction Malformed", "Horizon could not decode the envelope."
            extras = {"envelope_xdr": text}
            body_json = problem(400, "transaction_malformed", title, detail, extras)
            raise _RefusalError(body_json) from None

    def _take(self, path: str, tx: Transaction) -> Submission:
        """Submit through the fault plane."""
        faults = self.devnet.faults
        if faults.strike(FaultKind.HTTP_503, path) is not None:
            title, detail = "Service Unavailable", "The devnet was told to refuse."
            raise _RefusalError(problem(503, "server_over_capacity", title, detail))
        submission = self.devnet.submit(tx)
        if faults.strike(FaultKind.DUPLICATE, path) is not None:
            submission = self.devnet.submit(tx)
        if faults.strike(FaultKind.RESET_AFTER_ACCEPT, path) is not None:
            raise _HangupError
        if faults.strike(FaultKind.HTTP_504, path) is not None:
            raise _RefusalError(_timeout_problem(tx))
        return submission

    async def submit(self, request: Request) -> Response:
        """POST /transactions: waits for the network ledger."""
        tx = await self._envelope(request)
        record = self.devnet.network.record(tx.hash)
        if record is None:
            submission = self._take(request.url.path, tx)
            if submission.result is not None:
                raise _RefusalError(horizon.failed_problem(tx, submission.result))
            seconds = self.devnet.options.submit_timeout_seconds
            record = await self.devnet.wait_applied(tx.hash, seconds)
        if record is None:
            raise _RefusalError(_timeout_problem(tx))
        if not record.result.ok:
            raise _RefusalError(horizon.failed_problem(tx, record.result))
        network, base = self.devnet.network, _base(request)
        return JSONResponse(horizon.transaction(network, record, base, tx.hash))

    async def submit_async(self, request: Request) -> Response:
        """POST /transactions_async: core's answer at once."""
        tx = await self._envelope(request)
        submission = self._take(request.url.path, tx)
        body: Json = {"tx_status": submission.status.value, "hash": tx.hash.hex()}
        if submission.result is not None:
            body["errorResultXdr"] = horizon.encode(submission.result.encode())
            body["error_result_xdr"] = body["errorResultXdr"]
        return JSONResponse(body, _ASYNC_STATUS[submission.status])

    async def friendbot(self, request: Request) -> Response:
        """GET /friendbot?addr=G…&starting_balance=10000.0000000."""
        values = dict(request.query_params)
        values |= {k: v[0] for k, v in parse_qs((await request.body()).decode()).items()}
        address = values.get("addr", "")
        _key_of(address, "addr")
        stroops = _stroops(values.get("starting_balance"))
        try:
            record = await self.devnet.fund(address, stroops)
        except ServiceError as error:
            title = "Friendbot Failed"
            raise _RefusalError(problem(400, "transaction_failed", title, str(error))) from error
        return JSONResponse(horizon.transaction(self.devnet.network, record, _base(request)))

    # The other doors

    async def json_rpc(self, request: Request) -> Response:
        """POST /rpc."""
        try:
            call = json.loads(await request.body())
        except ValueError:
            return JSONResponse(rpc.error(None, -32700, "parse error"))
        return JSONResponse(rpc.answer(self.devnet, call, lambda tx: self._take("/rpc", tx)))

    async def close(self, request: Request) -> Response:
        """POST /devnet/close {"count": 1, "close_time": seconds}: close now."""
        body = await _json_body(request)
        count, at = body.get("count", 1), body.get("close_time")
        if not isinstance(count, int) or not 1 <= count <= 1_000:
            raise _bad("count", f"count: got {count!r}, want 1 to 1000")
        if at is not None and not isinstance(at, int):
            raise _bad("close_time", f"close_time: got {at!r}, want Unix seconds")
        closed = [await self.devnet.close(at) for _ in range(count)][-1]
        return JSONResponse(horizon.ledger(closed, _base(request)))

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
                plane.arm(await _json_body(request))
            except FaultError as error:
                raise _bad("fault", str(error)) from error
        elif request.method == "DELETE":
            plane.clear()
        return JSONResponse({"faults": [fault.as_json() for fault in plane.armed]})


def _stop_if_broken(timer: asyncio.Task[None]) -> None:
    """A network whose timer died must not look alive."""
    error = None if timer.cancelled() else timer.exception()
    if error is not None:
        traceback.print_exception(error)
        signal.raise_signal(signal.SIGTERM)


async def _json_body(request: Request) -> Json:
    raw = await request.body()
    try:
        body = json.loads(raw) if raw else {}
    except ValueError:
        raise _bad("body", "body: want JSON") from None
    if not isinstance(body, dict):
        raise _bad("body", "body: want a JSON object")
    return body


def _timeout_problem(tx: Transaction) -> Json:
    detail = "Your request timed out before completing; the transaction may still be applied."
    extras = {"hash": tx.hash.hex(), "envelope_xdr": horizon.encode(tx.raw)}
    return problem(504, "timeout", "Timeout", detail, extras)


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _key_of(address: str, field: str) -> bytes:
    try:
        return StrKey.decode_ed25519_public_key(address)
    except (Ed25519PublicKeyInvalidError, ValueError):
        raise _bad(field, f"{field}: got {address!r}, want a G-address") from None


def _account(request: Request) -> bytes:
    return _key_of(request.path_params["address"], "account_id")


def _stroops(text: str | None) -> int:
    if text is None:
        return FRIENDBOT_STROOPS
    whole, _, rest = text.partition(".")
    digits = whole + rest.ljust(7, "0")
    if not digits.isdecimal() or len(rest) > 7 or len(whole) > 12:
        raise _bad("starting_balance", f"starting_balance: got {text!r}, want XLM with 7 places")
    return int(digits)


T = TypeVar("T")


def _window(items: Sequence[T], page: Page, token: Callable[[T], int]) -> Sequence[T]:
    """The part of an ascending listing that a page needs, so that only it is rendered."""
    if page.descending:
        end = len(items) if page.cursor is None else bisect_left(items, page.cursor, key=token)
        return items[max(0, end - page.limit) : end]
    start = 0 if page.cursor is None else bisect_right(items, page.cursor, key=token)
    return items[start : start + page.limit]


def _listing(request: Request, page: Page, records: list[Json]) -> Response:
    query = {"limit": str(page.limit), "order": "desc" if page.descending else "asc"}
    if "include_failed" in request.query_params:
        query["include_failed"] = request.query_params["include_failed"]
    here = f"{_base(request)}{request.url.path}"
    current = request.query_params.get("cursor", "")
    last = records[-1]["paging_token"] if records else current
    first = records[0]["paging_token"] if records else current
    turned = query | {"order": "asc" if page.descending else "desc"}
    links = {
        "self": {"href": f"{here}?{urlencode(query | {'cursor': current})}"},
        "next": {"href": f"{here}?{urlencode(query | {'cursor': last})}"},
        "prev": {"href": f"{here}?{urlencode(turned | {'cursor': first})}"},
    }
    return JSONResponse({"_links": links, "_embedded": {"records": records}})
