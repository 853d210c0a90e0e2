"""The operator's HTTP API: collector, signed clock, relay, public log, epochs.

Requests parse, call one function, answer; what they call stands in `collector` and in the store.
Answers are canonical records (`application/octet-stream`), JSON for people and programs, or the
log's static files. Not here: reports, and anything that only an auditor may read.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from ledger.api.answers import RefusedError, format_refusal
from ledger.api.collector import Collector
from ledger.api.coverage import add_coverage
from ledger.api.ledger_time import LedgerTimeSource
from ledger.api.log_files import read_log_file
from ledger.api.relay import Relay, RelayLimits, add_relay
from ledger.api.requests import parse_hex, read_bounded
from ledger.api.shards import Broadcaster, shard_of
from ledger.audit.address import format_account
from ledger.books.judgement import BundleCode, ReceiptCode
from ledger.evidence.bundle import BUNDLE_SIZE_MAX
from ledger.evidence.clock import CLOCK, Clock
from ledger.store.bundle_store import Refusal, StoredBundle, find_by_digest, list_refusals
from ledger.store.engine import DatabaseUnavailableError, Session, SessionFactory
from ledger.store.epoch_store import (
    Epoch,
    StoredCheckpoint,
    find_checkpoint,
    find_epoch,
    find_result,
    list_epochs,
)
from ledger.store.settlement_store import load_anchor
from ledger.store.shard_store import Shard, list_shards, terms_in_force

OCTETS: Final = "application/octet-stream"
EPOCHS_MAX: Final = 1_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """What the API is made of."""

    sessions: SessionFactory
    ledger_time: LedgerTimeSource
    log_seed: bytes
    """Seed of the log key: signs promises and the clock."""

    log_dir: Path
    """Where the public logs' files stand."""

    relay_limits: RelayLimits = field(default_factory=RelayLimits)


def make_app(parts: ApiParts) -> FastAPI:
    """Make the application; its clock runs from start-up to shut-down."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        parts.ledger_time.start()
        yield
        await run_in_threadpool(parts.ledger_time.stop)

    app = FastAPI(title="swarmledger", version="1", lifespan=lifespan, docs_url=None)
    add_error_answers(app)
    collector = Collector(
        sessions=parts.sessions, ledger_time=parts.ledger_time, log_seed=parts.log_seed
    )
    _add_collector(app, parts, collector)
    relay = Relay(sessions=parts.sessions, read_time=collector.read_time, limits=parts.relay_limits)
    add_relay(app, relay)
    _add_epochs(app, parts)
    add_coverage(app, parts.sessions)
    _add_health(app, parts)
    return app


def add_error_answers(app: FastAPI) -> None:
    """Answer every error as `{"code", "detail", "field", "got", "want"}`."""

    @app.exception_handler(RefusedError)
    def refuse(_request: Request, error: RefusedError) -> JSONResponse:
        return format_refusal(error)

    @app.exception_handler(DatabaseUnavailableError)
    def refuse_without_database(_request: Request, error: Exception) -> JSONResponse:
        _log.warning("database_unavailable", error=str(error))
        return format_refusal(RefusedError(503, "database_unavailable"))

    @app.exception_handler(RequestValidationError)
    def refuse_parameters(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        got = first.get("input", "")
        return format_refusal(
            RefusedError(400, "bad_parameter", field=field, got=got, want=first["msg"])
        )

    @app.exception_handler(HTTPException)
    def refuse_http(_request: Request, error: HTTPException) -> JSONResponse:
        return format_refusal(RefusedError(error.status_code, f"http_{error.status_code}"))


def _add_collector(app: FastAPI, parts: ApiParts, collector: Collector) -> None:
    @app.get("/v1/clock", response_class=Response)
    def clock(nonce: str, broadcaster: Broadcaster = None) -> Response:
        """Ledger time, signed over the asker's nonce (32 hexadecimal digits)."""
        nonce_bytes = parse_hex("nonce", nonce, 16)
        now = collector.read_time()
        with parts.sessions.begin() as session:
            terms = terms_in_force(session, shard_of(session, broadcaster)).value
        record = Clock(
            network_id=terms.network_id,
            nonce=nonce_bytes,
            ledger_sequence=now.ledger.sequence,
            close_time_s=now.ledger.close_time_s,
            age_ms=now.age_ms,
            genesis_s=terms.genesis_s,
            epoch_length_s=terms.epoch_length_s,
            grace_s=terms.grace_s,
        )
        return Response(
            CLOCK.sign(record, parts.log_seed).raw,
            media_type=OCTETS,
            headers={"Cache-Control": "no-store"},
        )

    @app.get("/v1/terms", response_class=Response)
    def terms(broadcaster: Broadcaster = None) -> Response:
        """The signed terms in force."""
        with parts.sessions.begin() as session:
            raw = terms_in_force(session, shard_of(session, broadcaster)).raw
        return Response(raw, media_type=OCTETS, headers={"Cache-Control": "max-age=10"})

    @app.post("/v1/bundles", response_class=Response)
    async def bundles(request: Request) -> Response:
        """Take a bundle; the answer is the signed promise."""
        raw = await read_bounded(request, BUNDLE_SIZE_MAX)
        promise = await run_in_threadpool(collector.collect, raw)
        return Response(promise, media_type=OCTETS)

    @app.get("/v1/bundles/{digest}")
    def bundle(digest: str) -> dict[str, Any]:
        """What became of a bundle: its code, and a code per receipt."""
        wanted = parse_hex("digest", digest, 32)
        with parts.sessions.begin() as session:
            stored = find_by_digest(session, wanted)
        if stored is None:
            raise RefusedError(
                404, "unknown_bundle", field="digest", got=digest, want="a promised bundle"
            )
        return _describe_bundle(stored)

    @app.get("/v1/submitters/{key}/refusals")
    def refusals(key: str, after: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        """What was refused of a submitter, oldest first; `after` pages by `id`."""
        submitter_key = parse_hex("key", key, 32)
        with parts.sessions.begin() as session:
            rows = list_refusals(session, submitter_key, after=after)
        return {"submitter_key": key, "refusals": [_describe_refusal(row) for row in rows]}


def _add_epochs(app: FastAPI, parts: ApiParts) -> None:
    @app.get("/v1/epochs")
    def epochs(
        broadcaster: Broadcaster = None,
        after: Annotated[int, Query(ge=-1)] = -1,
        limit: Annotated[int, Query(ge=1, le=EPOCHS_MAX)] = 100,
    ) -> dict[str, Any]:
        """Epochs, ascending; `after` pages by number."""
        with parts.sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            found = list_epochs(session, shard, after=after, limit=limit)
        return {
            "broadcaster": format_account(shard.account),
            "epochs": [{"epoch": epoch.number, "state": epoch.state} for epoch in found],
        }

    @app.get("/v1/epochs/{number}")
    def epoch(number: int, broadcaster: Broadcaster = None) -> dict[str, Any]:
        """One epoch: state, roots, sizes, and what anchors it."""
        with parts.sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            found = find_epoch(session, shard, number)
            if found is None:
                raise RefusedError(
                    404, "unknown_epoch", field="epoch", got=number, want="an epoch that has begun"
                )
            return _describe_epoch(session, shard, found)

    @app.get("/log/{broadcaster}/{path:path}", response_class=Response)
    def log(broadcaster: str, path: str) -> Response:
        """A file of the public log: `checkpoint`, `log.vkey`, `tile/…`."""
        return read_log_file(parts.log_dir, broadcaster, path)


def _add_health(app: FastAPI, parts: ApiParts) -> None:
    @app.get("/healthz")
    def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        """Whether a bundle would be taken: the database answers, and ledger time is known."""
        with parts.sessions.begin() as session:
            list_shards(session)
        if parts.ledger_time.read() is None:
            raise RefusedError(503, "clock_stale")
        return {"status": "ready"}


def _describe_bundle(stored: StoredBundle) -> dict[str, Any]:
    state = "refused" if stored.code else stored.state
    return {
        "digest": stored.digest.hex(),
        "state": state,
        "sealing_epoch": stored.sealing_epoch,
        "code": stored.code,
        "code_name": None if stored.code is None else BundleCode(stored.code).name.lower(),
        "codes": list(stored.receipt_codes),
        "code_names": [ReceiptCode(code).name.lower() for code in stored.receipt_codes],
    }


def _describe_refusal(row: Refusal) -> dict[str, Any]:
    names = BundleCode if row.place is None else ReceiptCode
    return {
        "id": row.id,
        "bundle_digest": row.bundle_digest.hex(),
        "epoch": row.epoch,
        "sealing_epoch": row.sealing_epoch,
        "place": row.place,
        "code": row.code,
        "code_name": names(row.code).name.lower(),
        "lane_digest": None if row.lane_digest is None else row.lane_digest.hex(),
        "sequence": row.sequence,
        "bytes_total": row.bytes_total,
    }


def _describe_epoch(session: Session, shard: Shard, epoch: Epoch) -> dict[str, Any]:
    checkpoint = find_checkpoint(session, shard, epoch.number)
    result = find_result(session, shard, epoch.number)
    anchor = load_anchor(session, shard.account, epoch.number)
    return {
        "epoch": epoch.number,
        "state": epoch.state,
        "opening_size": epoch.opening_size,
        "sealed_size": epoch.sealed_size,
        "result_size": epoch.result_size,
        "last_ledger_sequence": epoch.last_ledger_sequence,
        "last_ledger_close_s": epoch.last_ledger_close_s,
        "checkpoint": _describe_checkpoint(checkpoint),
        "anchor_tx": None if anchor is None or anchor.tx_hash is None else anchor.tx_hash.hex(),
        "sum_tree": None
        if result is None
        else {
            "hash": result.sum_tree_hash.hex(),
            "bytes": result.sum_tree_bytes,
            "stroops": result.sum_tree_stroops,
        },
        "is_published": epoch.is_published,
        "audit_digest": None if epoch.audit_digest is None else epoch.audit_digest.hex(),
    }


def _describe_checkpoint(checkpoint: StoredCheckpoint | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return None
    return {
        "tree_size": checkpoint.tree_size,
        "root": checkpoint.root.hex(),
        "anchor_memo_hash": checkpoint.body_hash.hex(),
    }
