"""Settlers over HTTP: what is wanted signed, audit files, signatures and refusals.

    GET  /v1/settlement/wanted       what is wanted signed, and who has answered what
    POST /v1/settlement/signatures   a settler's signature: 128 bytes, proves itself
    POST /v1/settlement/refusals     a settler's signed word that it does not sign
    GET  /v1/audit/{epoch}           an epoch's audit file, for settlers only

A settler is a key that signs for escrow and payout accounts on the chain, as a worker last read it.
Whatever a stranger sends is refused before it costs a row; what a settler sends twice changes
nothing. Workers check every signature again before they use it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Request
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response

from ledger.api.answers import RefusedError, refuse_malformed
from ledger.api.documents import (
    RETRIES,
    UNAVAILABLE,
    Account,
    Document,
    Hex32,
    Natural,
    body_of,
    document_bytes,
    document_refusals,
)
from ledger.api.requests import parse_hex, read_bounded
from ledger.api.shards import Broadcaster, shard_of
from ledger.audit.address import format_account
from ledger.evidence.errors import MalformedError
from ledger.evidence.keys import KEY_SIZE, SIGNATURE_SIZE, verify
from ledger.stellar.cosigning import (
    COSIGNATURE_SIZE,
    KEY_HEADER,
    REFUSAL_SIZE_MAX,
    SIGNATURE_HEADER,
    Purpose,
    Wanted,
    audit_request_message,
    parse_cosignature,
    parse_refusal,
    wanted_document,
)
from ledger.store import settler_store as store
from ledger.store.engine import Session, SessionFactory
from ledger.store.shard_store import Shard

NUMBER_MAX = (1 << 32) - 1
Number = Annotated[int, PathParameter(ge=0, le=NUMBER_MAX)]
Digits = Annotated[str, Header(pattern="^[0-9a-fA-F]+$", max_length=2 * SIGNATURE_SIZE)]


class RefusedSignatureDocument(Document):
    """A settler's word that it does not sign."""

    settler: Account
    reason: str
    detail: str


class WantedDocument(Document):
    """A transaction that waits for settlers."""

    purpose: Literal["batch", "burn"]
    epoch: Natural
    batch_number: Natural
    attempt: Natural
    tx_hash: Hex32
    max_ledger_sequence: Natural
    max_time_s: Natural
    signed_by: list[Account]
    refused: list[RefusedSignatureDocument]


class WantedListDocument(Document):
    """All transactions that wait for settlers, and who these are."""

    broadcaster: Account
    settlers: list[Account]
    threshold: Natural
    wanted: list[WantedDocument]


def add_settlers(app: FastAPI, sessions: SessionFactory, audit_dir: Path | None) -> None:
    """Add the routes of co-signing to an application.

    Args:
        app: The API.
        sessions: One transaction a request.
        audit_dir: Folder of the files `epoch-N.audit`; None: none are handed out.
    """
    _add_wanted(app, sessions)
    _add_signatures(app, sessions)
    _add_refusals(app, sessions)
    _add_audit_files(app, sessions, audit_dir)


def _add_wanted(app: FastAPI, sessions: SessionFactory) -> None:
    @app.get(
        "/v1/settlement/wanted",
        response_model=WantedListDocument,
        responses={**document_refusals(400, 404), **UNAVAILABLE},
    )
    def wanted(broadcaster: Broadcaster = None) -> dict[str, Any]:
        """What is wanted signed now, oldest first; nothing, if no settlers sign."""
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            settlers = store.load_settlers(session, shard.account)
            return {
                "broadcaster": format_account(shard.account),
                "settlers": [format_account(key) for key in settlers.keys] if settlers else [],
                "threshold": settlers.threshold if settlers else 0,
                "wanted": [
                    _describe(session, request)
                    for request in store.list_requests(session, shard.account)
                ],
            }


def _describe(session: Session, request: store.SignatureRequest) -> dict[str, Any]:
    wanted = Wanted(
        epoch=request.epoch,
        batch_number=request.number,
        attempt=request.attempt,
        tx_hash=request.tx_hash,
        purpose=Purpose(request.purpose),
    )
    signed = store.load_signatures(session, request.tx_hash)
    return wanted_document(wanted) | {
        "max_ledger_sequence": request.max_ledger_sequence,
        "max_time_s": request.max_time_s,
        "signed_by": [format_account(key) for key in sorted(signed)],
        "refused": [
            {
                "settler": format_account(refusal.key),
                "reason": refusal.reason,
                "detail": refusal.detail,
            }
            for refusal in store.load_refusals(session, request.tx_hash)
        ],
    }


def _answers(taken: str) -> dict[int | str, dict[str, Any]]:
    """Return what a settler who posts an answer can be told."""
    refusals = document_refusals(400, 403, 404, 408, 413)
    return {204: {"description": taken}, **refusals, **RETRIES}


def _add_signatures(app: FastAPI, sessions: SessionFactory) -> None:
    @app.post(
        "/v1/settlement/signatures",
        status_code=204,
        response_class=Response,
        openapi_extra=body_of("Transaction hash, key, signature", COSIGNATURE_SIZE),
        responses=_answers("Taken, or known already."),
    )
    async def post_signature(request: Request, broadcaster: Broadcaster = None) -> Response:
        """Take a settler's signature of a transaction that is wanted."""
        raw = await read_bounded(request, COSIGNATURE_SIZE)
        await run_in_threadpool(_take_signature, sessions, broadcaster, raw)
        return Response(status_code=204)


def _take_signature(sessions: SessionFactory, broadcaster: str | None, raw: bytes) -> None:
    try:
        tx_hash, signed = parse_cosignature(raw)
    except MalformedError as error:
        raise refuse_malformed(error) from error
    with sessions.begin() as session:
        _require_asked(session, shard_of(session, broadcaster), signed.key, tx_hash)
        if not verify(signed.key, tx_hash, signed.signature):
            raise _forged(signed.key)
        store.insert_signature(session, tx_hash, signed.key, signed.signature)


def _add_refusals(app: FastAPI, sessions: SessionFactory) -> None:
    @app.post(
        "/v1/settlement/refusals",
        status_code=204,
        response_class=Response,
        openapi_extra=body_of("A settler's signed refusal", REFUSAL_SIZE_MAX),
        responses=_answers("Taken; the newest one of a settler is shown."),
    )
    async def post_refusal(request: Request, broadcaster: Broadcaster = None) -> Response:
        """Take a settler's word that it does not sign a transaction, and why."""
        raw = await read_bounded(request, REFUSAL_SIZE_MAX)
        await run_in_threadpool(_take_refusal, sessions, broadcaster, raw)
        return Response(status_code=204)


def _take_refusal(sessions: SessionFactory, broadcaster: str | None, raw: bytes) -> None:
    try:
        refusal = parse_refusal(raw)
    except MalformedError as error:
        raise refuse_malformed(error) from error
    with sessions.begin() as session:
        shard = shard_of(session, broadcaster)
        _require_asked(session, shard, refusal.key, refusal.tx_hash)
        if not refusal.is_valid(shard.network_id):
            raise _forged(refusal.key)
        stored = store.Refusal(
            key=refusal.key,
            reason=refusal.reason,
            detail=refusal.detail,
            signature=refusal.signature,
        )
        store.save_refusal(session, refusal.tx_hash, stored)


def _require_settler(session: Session, shard: Shard, key: bytes) -> None:
    settlers = store.load_settlers(session, shard.account)
    if settlers is None or key not in settlers.keys:
        raise RefusedError(403, "not_a_settler", field="key", got=key, want="a settler's")


def _require_asked(session: Session, shard: Shard, key: bytes, tx_hash: bytes) -> None:
    """Raise unless the key is a settler's and the transaction is wanted signed."""
    _require_settler(session, shard, key)
    if store.find_request(session, shard.account, tx_hash) is None:
        raise RefusedError(
            404, "not_wanted", field="tx_hash", got=tx_hash, want="one that is wanted signed"
        )


def _forged(key: bytes) -> RefusedError:
    return RefusedError(
        403, "bad_signature", field="signature", got=key, want="a signature by that key"
    )


def _add_audit_files(app: FastAPI, sessions: SessionFactory, audit_dir: Path | None) -> None:
    @app.get(
        "/v1/audit/{epoch}",
        response_class=Response,
        responses={
            **document_bytes("The audit file."),
            **document_refusals(400, 403, 404),
            **UNAVAILABLE,
        },
    )
    def audit_file(
        epoch: Number,
        key: Annotated[Digits, Header(alias=KEY_HEADER)],
        signature: Annotated[Digits, Header(alias=SIGNATURE_HEADER)],
        broadcaster: Broadcaster = None,
    ) -> Response:
        """A settled epoch's audit file, for a settler who signs for it."""
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            asker = parse_hex(KEY_HEADER, key, KEY_SIZE)
            proof = parse_hex(SIGNATURE_HEADER, signature, SIGNATURE_SIZE)
            message = audit_request_message(shard.network_id, shard.account, epoch)
            if not verify(asker, message, proof):
                raise _forged(asker)
            _require_settler(session, shard, asker)
        path = None if audit_dir is None else audit_dir / f"epoch-{epoch}.audit"
        if path is None or not path.is_file():
            raise RefusedError(
                404, "unknown_epoch", field="epoch", got=epoch, want="one with an audit file"
            )
        return FileResponse(path, media_type="application/octet-stream")
