"""The collector over HTTP: clock, terms, bundles in, what became of them. Rules: `collector`."""

from typing import Annotated, Any, Final

from fastapi import FastAPI, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ledger.api.answers import RefusedError
from ledger.api.collector import Collector
from ledger.api.documents import (
    OCTETS,
    RETRIES,
    UNAVAILABLE,
    BundleDocument,
    RefusalsDocument,
    body_of,
    document_bytes,
    document_promise,
    document_refusals,
)
from ledger.api.requests import read_bounded
from ledger.api.shards import Broadcaster, shard_of
from ledger.books.judgement import BundleCode, ReceiptCode
from ledger.evidence.bundle import BUNDLE_SIZE_MAX
from ledger.evidence.clock import CLOCK, Clock
from ledger.store.bundle_store import Refusal, StoredBundle, find_by_digest, list_refusals
from ledger.store.shard_store import terms_in_force

ID_MAX: Final = (1 << 63) - 1
Nonce = Annotated[str, Query(pattern="^[0-9a-fA-F]{32}$", description="16 random bytes.")]
Key = Annotated[str, Path(pattern="^[0-9a-fA-F]{64}$", description="32 bytes.")]
LogKey = Annotated[
    str | None,
    Query(pattern="^[0-9a-fA-F]{64}$", description="The log key of the asker's terms."),
]


def add_collector(app: FastAPI, collector: Collector, body_timeout_s: float) -> None:
    """Add the collector's routes to an application."""
    _add_questions(app, collector)
    _add_bundles(app, collector, body_timeout_s)


def _add_questions(app: FastAPI, collector: Collector) -> None:
    sessions = collector.sessions

    @app.get(
        "/v1/clock",
        response_class=Response,
        responses={
            **document_bytes("The signed clock record.", size=CLOCK.size),
            **document_refusals(400, 404),
            **UNAVAILABLE,
        },
    )
    def clock(nonce: Nonce, broadcaster: Broadcaster = None, log_key: LogKey = None) -> Response:
        """Ledger time, signed over the asker's nonce, by the log key of now or the one it names."""
        now = collector.read_time()
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            newest = terms_in_force(session, shard).value
            terms = terms_in_force(session, shard, newest.epoch_at(now.now_s)).value
        wanted = terms.log_key if log_key is None else bytes.fromhex(log_key)
        record = Clock(
            network_id=terms.network_id,
            nonce=bytes.fromhex(nonce),
            ledger_sequence=now.ledger.sequence,
            close_time_s=now.ledger.close_time_s,
            age_ms=now.age_ms,
            genesis_s=terms.genesis_s,
            epoch_length_s=terms.epoch_length_s,
            grace_s=terms.grace_s,
        )
        return Response(
            CLOCK.sign(record, collector.seed_of(wanted)).raw,
            media_type=OCTETS,
            headers={"Cache-Control": "no-store"},
        )

    @app.get(
        "/v1/terms",
        response_class=Response,
        responses={
            **document_bytes("The terms record."),
            **document_refusals(400, 404),
            **UNAVAILABLE,
        },
    )
    def terms(broadcaster: Broadcaster = None) -> Response:
        """The signed terms in force."""
        now = collector.ledger_time.read()
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            signed = terms_in_force(session, shard)
            if now is not None:
                # The newest may be registered ahead of their first epoch.
                signed = terms_in_force(session, shard, signed.value.epoch_at(now.now_s))
            raw = signed.raw
        return Response(raw, media_type=OCTETS, headers={"Cache-Control": "max-age=10"})


def _add_bundles(app: FastAPI, collector: Collector, body_timeout_s: float) -> None:
    sessions = collector.sessions

    @app.post(
        "/v1/bundles",
        response_class=Response,
        openapi_extra=body_of("A signed bundle", BUNDLE_SIZE_MAX),
        responses={
            **document_promise("The signed promise; the bundle is durable."),
            **document_refusals(400, 404, 408, 409, 413, 422),
            **RETRIES,
        },
    )
    async def post_bundle(request: Request) -> Response:
        """Take a bundle; the answer is the signed promise. The same bytes get the same one."""
        raw = await read_bounded(request, BUNDLE_SIZE_MAX, body_timeout_s)
        promise = await run_in_threadpool(collector.collect, raw)
        return Response(promise, media_type=OCTETS)

    @app.get(
        "/v1/bundles/{digest}",
        response_model=BundleDocument,
        responses={**document_refusals(400, 404), **UNAVAILABLE},
    )
    def bundle(digest: Key) -> dict[str, Any]:
        """What became of a bundle: its code, and a code per receipt."""
        with sessions.begin() as session:
            stored = find_by_digest(session, bytes.fromhex(digest))
        if stored is None:
            raise RefusedError(
                404, "unknown_bundle", field="digest", got=digest, want="a promised bundle"
            )
        return _describe_bundle(stored)

    @app.get(
        "/v1/submitters/{key}/refusals",
        response_model=RefusalsDocument,
        responses={**document_refusals(400), **UNAVAILABLE},
    )
    def refusals(key: Key, after: Annotated[int, Query(ge=0, le=ID_MAX)] = 0) -> dict[str, Any]:
        """What was refused of a submitter, oldest first; `after` pages by `id`."""
        with sessions.begin() as session:
            rows = list_refusals(session, bytes.fromhex(key), after=after)
        return {"submitter_key": key, "refusals": [_describe_refusal(row) for row in rows]}


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
        "field": row.field,
        "got": row.got,
        "want": row.want,
    }
