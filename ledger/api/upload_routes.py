"""The HTTP side of resumable uploads: headers in, one call, answer out. Rules: `uploads`."""

from typing import Annotated, Final

from fastapi import FastAPI, Header, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ledger.api.answers import RefusedError
from ledger.api.documents import (
    PROBLEM,
    RETRIES,
    UPLOAD_HEADERS,
    document_promise,
    document_refusals,
)
from ledger.api.request_note import network_of, sender_tag
from ledger.api.requests import parse_hex, read_bounded
from ledger.api.uploads import PARTIAL, Uploads

UploadId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="As `Location` says it.")]
Offset = Annotated[str, Header(alias="Upload-Offset", pattern="^[0-9]{1,10}$")]
Length = Annotated[str, Header(alias="Upload-Length", pattern="^[0-9]{1,10}$")]
Begun = Annotated[str, Header(alias="Upload-Complete", pattern=r"^\?0$")]
Complete = Annotated[str, Header(alias="Upload-Complete", pattern=r"^\?[01]$")]
Digest = Annotated[str, Header(alias="Repr-Digest", pattern="^sha-256=:[A-Za-z0-9+/]{43}=:$")]

_CHUNK: Final = {
    "requestBody": {
        "required": True,
        "content": {PARTIAL: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def add_uploads(app: FastAPI, uploads: Uploads, sender_secret: bytes) -> None:
    """Add the routes of resumable uploads to an application."""
    _add_creation(app, uploads, sender_secret)
    _add_chunks(app, uploads)
    _add_questions(app, uploads)


def _add_creation(app: FastAPI, uploads: Uploads, sender_secret: bytes) -> None:
    timeout_s = uploads.limits.body_timeout_s

    @app.post(
        "/v1/uploads",
        response_class=Response,
        status_code=201,
        responses={
            201: {"description": "Begun, or known already.", "headers": UPLOAD_HEADERS},
            **document_refusals(400, 413),
            **RETRIES,
        },
    )
    async def create_upload(
        request: Request,
        length: Length,
        digest: Digest,
        complete: Begun,  # noqa: ARG001 - says that this is the draft's creation
    ) -> Response:
        """Begin the upload of a bundle in chunks; it has no content yet."""
        await read_bounded(request, 0, timeout_s)
        host = None if request.client is None else request.client.host
        sender = sender_tag(sender_secret, network_of(host))
        return await run_in_threadpool(
            lambda: uploads.create(sender=sender, length=length, digest=digest)
        )


def _add_chunks(app: FastAPI, uploads: Uploads) -> None:
    timeout_s = uploads.limits.body_timeout_s

    @app.patch(
        "/v1/uploads/{upload_id}",
        response_class=Response,
        openapi_extra=_CHUNK,
        responses={
            **document_promise("The last chunk's answer: the signed promise."),
            204: {"description": "The chunk is durable.", "headers": UPLOAD_HEADERS},
            **document_refusals(400, 404, 408, 413, 415, 422),
            409: PROBLEM,
            **RETRIES,
        },
    )
    async def append_chunk(
        request: Request,
        upload_id: UploadId,
        offset: Offset,
        complete: Complete,
    ) -> Response:
        """Add a chunk; the last one is answered as `POST /v1/bundles` would."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != PARTIAL:
            raise RefusedError(
                415, "wrong_media_type", field="Content-Type", got=media_type, want=PARTIAL
            )
        is_last = complete == "?1"
        raw = await read_bounded(request, uploads.limits.uploads.chunk_bytes, timeout_s)
        upload = parse_hex("upload", upload_id, 16)
        return await run_in_threadpool(
            lambda: uploads.append(upload, offset=offset, is_last=is_last, raw=raw)
        )


def _add_questions(app: FastAPI, uploads: Uploads) -> None:
    @app.head(
        "/v1/uploads/{upload_id}",
        response_class=Response,
        status_code=204,
        responses={
            204: {"description": "How far it is.", "headers": UPLOAD_HEADERS},
            **document_refusals(400, 404),
            **RETRIES,
        },
    )
    def upload_offset(upload_id: UploadId) -> Response:
        """How many bytes of an upload are durable."""
        return uploads.describe(parse_hex("upload", upload_id, 16))

    @app.get(
        "/v1/uploads/{upload_id}",
        response_class=Response,
        responses={
            **document_promise("The promise, as the last chunk's answer said it."),
            **document_refusals(400, 404, 409, 422),
            **RETRIES,
        },
    )
    def upload_answer(upload_id: UploadId) -> Response:
        """The final answer of an upload, for some minutes."""
        return uploads.read_answer(parse_hex("upload", upload_id, 16))

    @app.delete(
        "/v1/uploads/{upload_id}",
        response_class=Response,
        status_code=204,
        responses={
            204: {"description": "It is forgotten."},
            **document_refusals(400, 404),
            **RETRIES,
        },
    )
    def delete_upload(upload_id: UploadId) -> Response:
        """Give an upload up."""
        return uploads.give_up(parse_hex("upload", upload_id, 16))
