"""Provisional reports and totals over HTTP. Rules: `provisional`."""

from typing import Annotated, Any

from fastapi import FastAPI, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ledger.api.documents import (
    RETRIES,
    UNAVAILABLE,
    TotalsDocument,
    body_of,
    document_refusals,
)
from ledger.api.provisional import Totals
from ledger.api.requests import read_bounded
from ledger.api.shards import Broadcaster, shard_of
from ledger.evidence.provisional import REPORT_SIZE_MAX
from ledger.store.engine import SessionFactory

Authorization = Annotated[str | None, Header(description="`Bearer` and the operator's token.")]


def add_totals(
    app: FastAPI, totals: Totals, sessions: SessionFactory, body_timeout_s: float
) -> None:
    """Add the routes of reports and totals to an application."""

    @app.post(
        "/v1/provisional",
        response_class=Response,
        status_code=204,
        openapi_extra=body_of("A signed provisional report", REPORT_SIZE_MAX),
        responses={
            204: {"description": "Taken, or an older one than is known."},
            **document_refusals(400, 403, 404, 408, 413, 422),
            **RETRIES,
        },
    )
    async def post_report(request: Request) -> Response:
        """Take what a party has receipts for so far; only the totals people watch come of it."""
        raw = await read_bounded(request, REPORT_SIZE_MAX, body_timeout_s)
        await run_in_threadpool(totals.take, raw)
        return Response(status_code=204)

    @app.get(
        "/v1/totals",
        response_model=TotalsDocument,
        responses={**document_refusals(400, 401, 404), **UNAVAILABLE},
    )
    def read_totals(
        broadcaster: Broadcaster = None, authorization: Authorization = None
    ) -> dict[str, Any]:
        """Bytes per epoch and source, provisional until sealed; per content with the token."""
        asker = totals.identify(authorization)
        with sessions.begin() as session:
            return totals.describe(session, shard_of(session, broadcaster), asker)
