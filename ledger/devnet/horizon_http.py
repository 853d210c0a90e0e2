"""Horizon's reading paths: each request sees one view of the network, whole or as a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ledger.devnet import horizon
from ledger.devnet.entries import CLAIMABLE_BALANCE, ClaimableBalance, Data, claimable_key, data_key
from ledger.devnet.horizon import Json
from ledger.devnet.horizon_balances import balance_id, chosen, claimable_balance
from ledger.devnet.horizon_effects import effects
from ledger.devnet.horizon_operations import PAYMENT_KINDS, operations
from ledger.devnet.movements import is_successful
from ledger.devnet.network import Record
from ledger.devnet.paging import Page, bad, base_of, key_of, listing, missing, page_of
from ledger.devnet.service import Devnet
from ledger.devnet.streaming import is_stream, stream, stream_object
from ledger.devnet.view import View
from ledger.devnet.wire import i32

Handler = Callable[[Request], Awaitable[Response]]
Rendering = Callable[[View, Record, str], Iterator[tuple[int, Json]]]
_OPERATIONS_MAX: Final = 200


class HorizonReading:
    """What Horizon answers without changing anything."""

    def __init__(self, devnet: Devnet) -> None:
        self._devnet = devnet

    def table(self) -> list[tuple[str, Handler]]:
        """Paths and who answers them."""
        return [
            ("/", self.root),
            ("/fee_stats", self.fee_stats),
            ("/ledgers", self.ledgers),
            ("/ledgers/{sequence:int}", self.ledger),
            ("/ledgers/{sequence:int}/transactions", self.transactions),
            ("/ledgers/{sequence:int}/operations", self.operations),
            ("/ledgers/{sequence:int}/payments", self.payments),
            ("/ledgers/{sequence:int}/effects", self.effects),
            ("/accounts/{address}", self.account),
            ("/accounts/{address}/data/{name:path}", self.account_data),
            ("/accounts/{address}/transactions", self.transactions),
            ("/accounts/{address}/operations", self.operations),
            ("/accounts/{address}/payments", self.payments),
            ("/accounts/{address}/effects", self.effects),
            ("/transactions", self.transactions),
            ("/transactions/{hash}", self.transaction),
            ("/transactions/{hash}/operations", self.operations),
            ("/transactions/{hash}/payments", self.payments),
            ("/transactions/{hash}/effects", self.effects),
            ("/operations", self.operations),
            ("/operations/{token:int}", self.operation),
            ("/payments", self.payments),
            ("/effects", self.effects),
            ("/claimable_balances", self.claimable_balances),
            ("/claimable_balances/{id}", self.claimable_balance),
            ("/claimable_balances/{id}/transactions", self.balance_transactions),
        ]

    async def root(self, request: Request) -> Response:
        """GET /."""
        view = self._see(request)
        return _answer(view, horizon.root(view, base_of(request)))

    async def fee_stats(self, request: Request) -> Response:
        """GET /fee_stats."""
        view = self._see(request)
        return _answer(view, horizon.fee_stats(view))

    async def ledgers(self, request: Request) -> Response:
        """GET /ledgers."""
        base = base_of(request)

        def read(view: View, page: Page) -> list[Json]:
            window = page.window(view.ledgers(), lambda closed: closed.header.sequence << 32)
            return page.cut((c.header.sequence << 32, horizon.ledger(c, base)) for c in window)

        return self._list(request, read)

    async def ledger(self, request: Request) -> Response:
        """GET /ledgers/{sequence}."""
        view = self._see(request)
        closed = view.ledger(request.path_params["sequence"])
        if closed is None:
            raise missing()
        return _answer(view, horizon.ledger(closed, base_of(request)))

    async def account(self, request: Request) -> Response:
        """GET /accounts/{address}."""
        view = self._see(request)
        key, base = _account(request), base_of(request)
        found = horizon.account(view, key, base)
        if found is None:
            raise missing()
        if is_stream(request):
            return stream_object(
                self._devnet, lambda: horizon.account(self._see(request), key, base) or {}
            )
        return _answer(view, found)

    async def account_data(self, request: Request) -> Response:
        """GET /accounts/{address}/data/{name}."""
        view = self._see(request)
        entry = view.state.find(data_key(_account(request), request.path_params["name"].encode()))
        if entry is None or not isinstance(entry.body, Data):
            raise missing()
        return _answer(view, {"value": horizon.encode(entry.body.value)})

    async def transactions(self, request: Request) -> Response:
        """GET /transactions, of all, of an account or of a ledger."""
        base = base_of(request)

        def read(view: View, page: Page) -> list[Json]:
            found: list[tuple[int, Json]] = []
            for record in _chosen(view, request, page, page.cursor):
                if record.token != page.cursor:
                    found.append((record.token, horizon.transaction(view, record, base)))
                if len(found) == page.limit:
                    break
            return page.cut(found)

        return self._list(request, read)

    async def transaction(self, request: Request) -> Response:
        """GET /transactions/{hash}."""
        view = self._see(request, of_transactions=True)
        record = _by_hash(view, request)
        asked = bytes.fromhex(request.path_params["hash"])
        return _answer(view, horizon.transaction(view, record, base_of(request), asked))

    async def operations(self, request: Request) -> Response:
        """GET /operations, of all, of an account, of a ledger or of a transaction."""
        return self._list_parts(request, _render_operations)

    async def payments(self, request: Request) -> Response:
        """GET /payments: what moves money."""
        return self._list_parts(request, _render_payments)

    async def effects(self, request: Request) -> Response:
        """GET /effects: what came to accounts and what left them."""
        wanted = _account(request) if "address" in request.path_params else None

        def render(view: View, record: Record, base: str) -> Iterator[tuple[int, Json]]:
            return effects(view, record, base, wanted)

        return self._list_parts(request, render)

    async def operation(self, request: Request) -> Response:
        """GET /operations/{token}."""
        view = self._see(request, of_transactions=True)
        token = request.path_params["token"]
        record = view.record_at(token >> 12 << 12)
        items = () if record is None else operations(view, record, base_of(request))
        for found, _, resource in items:
            if found == token:
                return _answer(view, resource)
        raise missing()

    async def claimable_balances(self, request: Request) -> Response:
        """GET /claimable_balances, of all, of a claimant, of an asset or of a sponsor."""
        page, base = page_of(request, 0), base_of(request)
        view = self._see(request)
        wanted = chosen(view.state.of_kind(i32(CLAIMABLE_BALANCE)), request.query_params)
        found = [claimable_balance(entry, base) for entry in wanted]
        found.sort(key=lambda resource: _place_of(resource["paging_token"]))
        cursor = request.query_params.get("cursor", "")
        if page.descending:
            found.reverse()
            edge = _place_of(cursor)
            found = [r for r in found if not cursor or _place_of(r["paging_token"]) < edge]
        else:
            found = [r for r in found if _place_of(r["paging_token"]) > _place_of(cursor)]
        return listing(request, page, found[: page.limit], _headers(view))

    async def claimable_balance(self, request: Request) -> Response:
        """GET /claimable_balances/{id}."""
        view = self._see(request)
        entry = view.state.find(claimable_key(balance_id(request.path_params["id"])))
        if entry is None or not isinstance(entry.body, ClaimableBalance):
            raise missing()
        return _answer(view, claimable_balance(entry, base_of(request)))

    async def balance_transactions(self, request: Request) -> Response:
        """GET /claimable_balances/{id}/transactions."""
        base, wanted = base_of(request), balance_id(request.path_params["id"])

        def read(view: View, page: Page) -> list[Json]:
            # Who creates one has the id in its result, who claims it in its envelope.
            records = [
                record
                for record in view.records()
                if wanted in record.result_xdr or wanted in record.raw
            ]
            window = page.window(records, lambda record: record.token)
            return page.cut((r.token, horizon.transaction(view, r, base)) for r in window)

        return self._list(request, read)

    def _see(self, request: Request, *, of_transactions: bool = False) -> View:
        return self._devnet.view(request.url.path, of_transactions=of_transactions)

    def _list(self, request: Request, read: Callable[[View, Page], list[Json]]) -> Response:
        page = page_of(request, (self._devnet.network.header.sequence + 1) << 32)
        if is_stream(request):
            if page.descending:
                raise bad("order", "order: a stream goes forward")
            read(self._see(request), page)  # what cannot be listed is refused before it begins
            return stream(
                self._devnet,
                page,
                lambda asked: read(self._see(request, of_transactions=True), asked),
            )
        view = self._see(request, of_transactions=True)
        return listing(request, page, read(view, page), _headers(view))

    def _list_parts(self, request: Request, render: Rendering) -> Response:
        base = base_of(request)

        def read(view: View, page: Page) -> list[Json]:
            edge = None if page.cursor is None else page.cursor >> 12 << 12
            found: list[tuple[int, Json]] = []
            for record in _chosen(view, request, page, edge):
                found += render(view, record, base)
                if len(found) > page.limit + _OPERATIONS_MAX:
                    break
            return page.cut(found)

        return self._list(request, read)


def _render_operations(view: View, record: Record, base: str) -> Iterator[tuple[int, Json]]:
    return ((token, resource) for token, _, resource in operations(view, record, base))


def _render_payments(view: View, record: Record, base: str) -> Iterator[tuple[int, Json]]:
    items = operations(view, record, base)
    return ((token, resource) for token, kind, resource in items if kind in PAYMENT_KINDS)


def _records(view: View, request: Request) -> Sequence[Record]:
    records: Sequence[Record]
    if "hash" in request.path_params:
        return [_by_hash(view, request)]
    if "address" in request.path_params:
        records = view.records_of(_account(request))
    elif "sequence" in request.path_params:
        sequence = request.path_params["sequence"]
        if view.ledger(sequence) is None:
            raise missing()
        records = view.records_in(sequence, sequence)
    else:
        records = view.records()
    return records


def _chosen(view: View, request: Request, page: Page, cursor: int | None) -> Iterator[Record]:
    """The records of a listing in the page's order, from a cursor on, failed ones if wanted."""
    records = page.walk(_records(view, request), lambda record: record.token, cursor)
    if request.query_params.get("include_failed", "false").lower() == "true":
        return records
    return (record for record in records if is_successful(record.result_xdr))


def _by_hash(view: View, request: Request) -> Record:
    try:
        tx_hash = bytes.fromhex(request.path_params["hash"])
    except ValueError:
        raise bad("tx_id", "invalid hash format") from None
    record = view.record(tx_hash)
    if record is None:
        raise missing()
    return record


def _place_of(token: str) -> tuple[int, str]:
    """Order of claimable balances: the ledger that last modified one, then its id."""
    ledger, _, name = token.partition("-")
    return (int(ledger) if ledger.isdecimal() else 0, name)


def _account(request: Request) -> bytes:
    return key_of(request.path_params["address"], "account_id")


def _headers(view: View) -> dict[str, str]:
    return {"Latest-Ledger": str(view.last)}


def _answer(view: View, body: Json) -> Response:
    return JSONResponse(body, headers=_headers(view))
