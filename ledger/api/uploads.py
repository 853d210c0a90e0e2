"""Bundles in chunks that survive a cut: resumable uploads.

Follows draft-ietf-httpbis-resumable-upload (Resumable Uploads for HTTP), with these choices: an
upload is created without content, states size (`Upload-Length`) and digest (`Repr-Digest`, RFC
9530, SHA-256), and gets its limits in the answer; a chunk is taken whole or not at all; no 104
responses. The last chunk (`Upload-Complete: ?1`) is answered as `POST /v1/bundles` would: with the
promise, once the bundle is durable.

    POST   /v1/uploads        create; the same bytes of the same sender are the same upload
    HEAD   /v1/uploads/{id}   the offset
    PATCH  /v1/uploads/{id}   a chunk, `application/partial-upload`
    GET    /v1/uploads/{id}   the final answer again, for whom a cut kept from it
    DELETE /v1/uploads/{id}   give it up

Chunks are rows, so any API process goes on with any upload, and none is lost with a process. Not
here: what makes a bundle good (`collector`), the sweep of idle uploads (`watch`).
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi.responses import JSONResponse, Response

from ledger.api.answers import RefusedError, describe_refusal, format_refusal
from ledger.api.documents import OCTETS
from ledger.api.limits import CHUNK_BYTES_MIN, IntakeLimits
from ledger.api.metrics import ApiMetrics
from ledger.api.pressure import Pressure
from ledger.evidence.bundle import BUNDLE_SIZE_MAX
from ledger.store.engine import SessionFactory
from ledger.store.upload_store import (
    NotAppended,
    Upload,
    UploadsFull,
    append_chunk,
    begin_upload,
    drop_upload,
    find_upload,
    read_chunks,
    store_answer,
)

PARTIAL: Final = "application/partial-upload"
UPLOADS_RETRY_S: Final = 10
_PROBLEMS: Final = "https://iana.org/assignments/http-problem-types#"
_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_NUMBER: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """Takes bundles in chunks and hands them over whole."""

    sessions: SessionFactory
    limits: IntakeLimits
    pressure: Pressure
    metrics: ApiMetrics
    collect: Callable[[bytes], bytes]
    """Takes a whole bundle and returns its promise; raises `RefusedError`."""

    def create(self, *, sender: bytes, length: str, digest: str) -> Response:
        """Begin an upload, or find the one under way.

        Args:
            sender: Keyed hash of the sender's address, 16 bytes.
            length: `Upload-Length` as it came.
            digest: `Repr-Digest` as it came.

        Raises:
            RefusedError: A field is missing or wrong, the bundle would be too large, or too much
                is under way.
        """
        size_bytes = parse_number("Upload-Length", length)
        if size_bytes > BUNDLE_SIZE_MAX:
            raise _refuse_size(size_bytes)
        if size_bytes == 0:
            raise RefusedError(
                400, "bad_parameter", field="Upload-Length", got=0, want="at least 1"
            )
        self.pressure.require_disk()
        with self.sessions.begin() as session:
            upload = begin_upload(
                session,
                sender=sender,
                digest=parse_digest(digest),
                size_bytes=size_bytes,
                bounds=self.limits.uploads,
            )
        if upload is UploadsFull.SENDER:
            raise RefusedError(429, upload.value, retry_after_s=UPLOADS_RETRY_S)
        if upload is UploadsFull.ALL:
            raise RefusedError(503, upload.value, retry_after_s=UPLOADS_RETRY_S)
        headers = self._headers(upload) | {"Location": f"/v1/uploads/{upload.id.hex()}"}
        return Response(status_code=201, headers=headers)

    def describe(self, upload_id: bytes) -> Response:
        """Tell the offset of an upload.

        Raises:
            RefusedError: 404, there is none, or no more.
        """
        return Response(status_code=204, headers=self._headers(self._find(upload_id)))

    def append(self, upload_id: bytes, *, offset: str, is_last: bool, raw: bytes) -> Response:
        """Take a chunk; with the last one, the bundle.

        Args:
            upload_id: Which.
            offset: `Upload-Offset` as it came.
            is_last: What `Upload-Complete` said.
            raw: The chunk, bounded by the reader.

        Raises:
            RefusedError: The chunk was not taken; or it was, and the bundle will be later (503).
        """
        offset_bytes = parse_number("Upload-Offset", offset)
        if not is_last and len(raw) < CHUNK_BYTES_MIN:
            raise RefusedError(
                400, "chunk_too_small", field="body", got=f"{len(raw)} bytes",
                want=f"at least {CHUNK_BYTES_MIN}",
            )  # fmt: skip
        self.pressure.require_disk()
        with self.sessions.begin() as session:
            upload = append_chunk(session, upload_id, offset_bytes=offset_bytes, raw=raw)
        # The chunk is durable from here on.
        if isinstance(upload, NotAppended):
            return self._refuse_chunk(upload_id, upload, offset_bytes)
        if raw:
            self.metrics.chunks.inc()
        if not is_last:
            return Response(status_code=204, headers=self._headers(upload))
        if upload.received_bytes != upload.size_bytes:
            raise RefusedError(
                400, "inconsistent_upload_length", field="Upload-Complete",
                got=f"the end after {upload.received_bytes} bytes", want=f"{upload.size_bytes}",
            )  # fmt: skip
        return self._finish(upload)

    def read_answer(self, upload_id: bytes) -> Response:
        """Return the final answer of an upload again.

        Raises:
            RefusedError: 404, there is no such upload; 409, it has no answer yet.
        """
        upload = self._find(upload_id)
        if upload.answer_status is None or upload.answer is None:
            raise RefusedError(
                409, "upload_incomplete", field="upload", got=f"{upload.received_bytes} bytes",
                want=f"{upload.size_bytes}, and the last chunk's answer",
            )  # fmt: skip
        return _final(upload.answer_status, upload.answer)

    def give_up(self, upload_id: bytes) -> Response:
        """Forget an upload.

        Raises:
            RefusedError: 404, there is none.
        """
        with self.sessions.begin() as session:
            if not drop_upload(session, upload_id):
                raise _refuse_unknown(upload_id)
        return Response(status_code=204)

    def _finish(self, upload: Upload) -> Response:
        """Hand the bundle over; its answer is kept, but for one that time mends."""
        with self.sessions.begin() as session:
            raw = read_chunks(session, upload.id)
            got = hashlib.sha256(raw).digest()
            if got != upload.digest:
                drop_upload(session, upload.id)
        if got != upload.digest:
            # Nothing of it can be used: it begins anew.
            raise RefusedError(
                400, "digest_mismatch", field="Repr-Digest", got=got, want=upload.digest.hex()
            )
        try:
            status, answer = 200, self.collect(raw)
        except RefusedError as error:
            if error.status in {429, 503} or error.code == "epoch_not_begun":
                raise
            status, answer = error.status, json.dumps(describe_refusal(error)).encode()
        with self.sessions.begin() as session:
            store_answer(session, upload.id, status=status, answer=answer)
        self.metrics.uploads_done.labels(str(status)).inc()
        return _final(status, answer)

    def _refuse_chunk(self, upload_id: bytes, reason: NotAppended, offset_bytes: int) -> Response:
        if reason is NotAppended.UNKNOWN:
            raise _refuse_unknown(upload_id)
        upload = self._find(upload_id)
        if reason is NotAppended.TOO_LONG:
            raise RefusedError(
                413,
                reason.value,
                field="body",
                got="more",
                want=f"{upload.size_bytes} bytes in all",
            )
        error = RefusedError(
            409, reason.value, field="Upload-Offset", got=offset_bytes,
            want=str(upload.received_bytes),
        )  # fmt: skip
        answer = format_refusal(error, self._headers(upload))
        problem = describe_refusal(error) | {
            "type": _PROBLEMS + reason.value.replace("_", "-"),
            "title": reason.value.replace("_", " "),
            "expected-offset": upload.received_bytes,
            "provided-offset": offset_bytes,
        }
        headers = dict(answer.headers)
        del headers["content-length"], headers["content-type"]
        return JSONResponse(
            problem, status_code=409, headers=headers, media_type="application/problem+json"
        )

    def _find(self, upload_id: bytes) -> Upload:
        with self.sessions.begin() as session:
            upload = find_upload(session, upload_id)
        if upload is None:
            raise _refuse_unknown(upload_id)
        return upload

    def _headers(self, upload: Upload) -> dict[str, str]:
        limits = self.limits
        bounds = {
            "max-size": BUNDLE_SIZE_MAX,
            "max-append-size": limits.uploads.chunk_bytes,
            "min-append-size": CHUNK_BYTES_MIN,
            "max-age": limits.upload_keep_s,
        }
        return {
            "Upload-Offset": str(upload.received_bytes),
            "Upload-Length": str(upload.size_bytes),
            "Upload-Complete": "?0" if upload.answer_status is None else "?1",
            "Upload-Limit": ", ".join(f"{name}={value}" for name, value in bounds.items()),
            "Cache-Control": "no-store",
        }


def parse_number(field: str, text: str) -> int:
    """Return the integer of a structured field.

    Raises:
        RefusedError: 400, it is missing or none.
    """
    if _NUMBER.fullmatch(text) is None:
        raise RefusedError(400, "bad_parameter", field=field, got=text, want="an integer")
    return int(text)


def parse_digest(text: str) -> bytes:
    """Return the SHA-256 of a `Repr-Digest`.

    Raises:
        RefusedError: 400, it is missing, of another algorithm, or no digest.
    """
    found = _DIGEST.fullmatch(text)
    try:
        if found is not None:
            return base64.b64decode(found[1], validate=True)
    except binascii.Error:
        pass
    raise RefusedError(
        400, "bad_parameter", field="Repr-Digest", got=text,
        want="sha-256=:base64 of 32 bytes:",
    )  # fmt: skip


def _final(status: int, answer: bytes) -> Response:
    headers = {"Upload-Complete": "?1", "Cache-Control": "no-store"}
    media_type = OCTETS if status == 200 else "application/json"
    return Response(answer, status_code=status, headers=headers, media_type=media_type)


def _refuse_size(size_bytes: int) -> RefusedError:
    return RefusedError(
        413, "too_large", field="Upload-Length", got=size_bytes, want=f"at most {BUNDLE_SIZE_MAX}"
    )


def _refuse_unknown(upload_id: bytes) -> RefusedError:
    return RefusedError(
        404, "unknown_upload", field="upload", got=upload_id, want="one that was begun lately"
    )
