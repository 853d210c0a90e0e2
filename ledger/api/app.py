"""The operator's HTTP API: collector, uploads, clock, relay, public log, epochs, totals.

Requests parse, call one function, answer; what they call stands in the modules beside this one and
in the store. Answers are canonical records (`application/octet-stream`), JSON for people and
programs, or the log's static files; `/openapi.json` says which. Settlers are given audit files.
Not here: reports.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from ledger.api.answers import RefusedError, format_refusal
from ledger.api.collector import Admission, Collector
from ledger.api.collector_routes import add_collector
from ledger.api.coverage import CoverageReader, add_coverage
from ledger.api.documents import (
    UNAVAILABLE,
    StatusDocument,
    document_app,
    document_bytes,
)
from ledger.api.epoch_routes import add_epochs
from ledger.api.gate import Gate
from ledger.api.instruction_routes import add_instructions
from ledger.api.instructions import Instructions
from ledger.api.ledger_time import LedgerTimeSource
from ledger.api.limits import IntakeLimits
from ledger.api.log_routes import add_log
from ledger.api.metrics import CONTENT_TYPE, ApiMetrics
from ledger.api.pacing import Buckets
from ledger.api.payee_routes import add_payees
from ledger.api.payee_session import PayeeSessions
from ledger.api.pressure import Pressure
from ledger.api.provisional import Totals
from ledger.api.relay import Relay, RelayLimits, add_relay
from ledger.api.settler_routes import add_settlers
from ledger.api.stellar_toml import add_stellar_toml
from ledger.api.totals_routes import add_totals
from ledger.api.upload_routes import add_uploads
from ledger.api.uploads import Uploads
from ledger.api.watch import Watch
from ledger.stellar.web_auth import WebAuth
from ledger.store.engine import DatabaseUnavailableError, PoolExhaustedError, SessionFactory
from ledger.store.shard_store import list_shards

_SECRET_DOMAIN: Final = b"swarmledger sender secret v1\0"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """What the API is made of."""

    sessions: SessionFactory
    ledger_time: LedgerTimeSource
    log_seed: bytes = field(repr=False)
    """Seed of the log key: signs promises and the clock."""

    log_dir: Path
    """Where the public logs' files stand."""

    next_log_seed: bytes | None = field(default=None, repr=False)
    """Seed of the log key that later terms name; None: no rotation is going on."""

    audit_dir: Path | None = None
    """Where `epoch-N.audit` files stand; None: settlers are given none."""

    web_auth: WebAuth | None = None
    """Authenticates payees by SEP-10; None: they are not served."""

    relay_limits: RelayLimits = field(default_factory=RelayLimits)
    limits: IntakeLimits = field(default_factory=IntakeLimits)
    low_balance_stroops: int = 0
    """What is left of deposits at or below which the alarm says "low"."""

    stellar_toml: Path | None = None
    """The broadcaster's part of `/.well-known/stellar.toml`; None: only the API's own is told."""


def make_app(parts: ApiParts) -> FastAPI:
    """Make the application; its clock and its watch run from start-up to shut-down."""
    limits = parts.limits
    metrics = ApiMetrics(version("swarmledger"))
    pressure = Pressure(parts.sessions, limits, parts.log_dir)
    coverage = CoverageReader(parts.low_balance_stroops)
    secret = hashlib.sha256(_SECRET_DOMAIN + parts.log_seed).digest()
    watch = Watch(
        sessions=parts.sessions,
        ledger_time=parts.ledger_time,
        limits=limits,
        pressure=pressure,
        metrics=metrics,
        coverage=coverage,
    )
    admission = Admission(
        pressure=pressure,
        rates=Buckets(per_s=limits.sender_per_s, burst=limits.sender_burst),
        metrics=metrics,
        sender_secret=secret,
    )
    collector = Collector(
        sessions=parts.sessions,
        ledger_time=parts.ledger_time,
        log_seed=parts.log_seed,
        next_log_seed=parts.next_log_seed,
        admission=admission,
    )

    app = FastAPI(
        title="swarmledger", version="1", lifespan=_lifespan_of(parts, watch), docs_url=None
    )
    app.add_middleware(Gate, limits=limits, metrics=metrics, sender_secret=secret)
    add_error_answers(app)
    add_collector(app, collector, limits.body_timeout_s)
    uploads = Uploads(
        sessions=parts.sessions,
        limits=limits,
        pressure=pressure,
        metrics=metrics,
        collect=collector.collect,
    )
    add_uploads(app, uploads, secret)
    add_instructions(app, Instructions(collector=collector), limits.body_timeout_s)
    relay = Relay(sessions=parts.sessions, read_time=collector.read_time, limits=parts.relay_limits)
    add_relay(app, relay)
    add_epochs(app, parts.sessions)
    add_log(app, parts.sessions, parts.log_dir)
    add_coverage(app, parts.sessions, coverage)
    add_stellar_toml(app, parts.stellar_toml, parts.web_auth)
    totals = Totals(
        sessions=parts.sessions,
        read_time=collector.read_time,
        limits=limits,
        admission=admission,
    )
    add_totals(app, totals, parts.sessions, limits.body_timeout_s)
    add_settlers(app, parts.sessions, parts.audit_dir)
    if parts.web_auth is not None:
        tokens = PayeeSessions.of(f"https://{parts.web_auth.web_auth_domain}/auth", parts.log_seed)
        add_payees(app, parts.sessions, parts.web_auth, tokens)
    _add_health(app, parts, pressure, metrics)
    document_app(app)
    app.state.watch = watch
    return app


def _lifespan_of(
    parts: ApiParts, watch: Watch
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        parts.ledger_time.start()
        watch.start()
        yield
        await run_in_threadpool(watch.stop)
        await run_in_threadpool(parts.ledger_time.stop)

    return lifespan


def add_error_answers(app: FastAPI) -> None:
    """Answer every error as `{"code", "detail", "field", "got", "want"}`."""

    @app.exception_handler(RefusedError)
    async def refuse(_request: Request, error: RefusedError) -> JSONResponse:
        return format_refusal(error)

    @app.exception_handler(DatabaseUnavailableError)
    async def refuse_without_database(_request: Request, error: Exception) -> JSONResponse:
        _log.warning("database_unavailable", error=str(error))
        return format_refusal(RefusedError(503, "database_unavailable"))

    @app.exception_handler(PoolExhaustedError)
    async def refuse_without_connection(_request: Request, _error: Exception) -> JSONResponse:
        _log.warning("connections_exhausted")
        return format_refusal(RefusedError(503, "connections_exhausted"))

    @app.exception_handler(RequestValidationError)
    async def refuse_parameters(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        got = first.get("input", "")
        return format_refusal(
            RefusedError(400, "bad_parameter", field=field, got=got, want=first["msg"])
        )

    @app.exception_handler(HTTPException)
    async def refuse_http(_request: Request, error: HTTPException) -> JSONResponse:
        refusal = RefusedError(error.status_code, f"http_{error.status_code}")
        return format_refusal(refusal, error.headers)


def _add_health(app: FastAPI, parts: ApiParts, pressure: Pressure, metrics: ApiMetrics) -> None:
    @app.get("/healthz", response_model=StatusDocument)
    async def health() -> dict[str, Any]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=StatusDocument, responses=UNAVAILABLE)
    def ready() -> dict[str, Any]:
        """Whether a bundle would be taken now: database, ledger time, room and disk."""
        with parts.sessions.begin() as session:
            list_shards(session)
        if parts.ledger_time.read() is None:
            raise RefusedError(503, "clock_stale")
        for reason, holds in pressure.reasons().items():
            if holds:
                raise RefusedError(503, reason)
        return {"status": "ready"}

    @app.get(
        "/metrics",
        response_class=Response,
        responses=document_bytes("Prometheus' exposition format.", "text/plain"),
    )
    async def exposition() -> Response:
        """Metrics of this process and of the database; keep them from strangers."""
        body = await run_in_threadpool(metrics.format)
        return Response(body, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
