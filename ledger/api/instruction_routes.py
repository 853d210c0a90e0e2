"""Instructions over HTTP: one in, what became of one, what was said about an account."""

from typing import Annotated, Any, Final

from fastapi import FastAPI, Path, Query, Request
from fastapi.concurrency import run_in_threadpool

from ledger.api.documents import (
    RETRIES,
    UNAVAILABLE,
    InstructionDocument,
    InstructionsDocument,
    body_of,
    document_refusals,
)
from ledger.api.instructions import Instructions
from ledger.api.requests import read_bounded
from ledger.api.shards import Broadcaster, shard_of
from ledger.evidence.instruction import INSTRUCTION_SIZE_MAX

ID_MAX: Final = (1 << 63) - 1
Digest = Annotated[str, Path(pattern="^[0-9a-fA-F]{64}$", description="SHA-256 of what it says.")]
Subject = Annotated[
    str, Query(pattern="^[0-9a-fA-F]{64}$", description="Key of an account, or a transaction hash.")
]


def add_instructions(app: FastAPI, instructions: Instructions, body_timeout_s: float) -> None:
    """Add the routes of instructions to an application."""
    sessions = instructions.collector.sessions

    @app.post(
        "/v1/instructions",
        response_model=InstructionDocument,
        openapi_extra=body_of("A signed instruction", INSTRUCTION_SIZE_MAX),
        responses={**document_refusals(400, 403, 404, 408, 413, 422), **RETRIES},
    )
    async def post_instruction(request: Request) -> dict[str, Any]:
        """Take an instruction for the next seal; the same bytes get the same answer."""
        raw = await read_bounded(request, INSTRUCTION_SIZE_MAX, body_timeout_s)
        return await run_in_threadpool(instructions.take, raw)

    @app.get(
        "/v1/instructions/{digest}",
        response_model=InstructionDocument,
        responses={**document_refusals(400, 404), **UNAVAILABLE},
    )
    def instruction(digest: Digest, broadcaster: Broadcaster = None) -> dict[str, Any]:
        """What became of an instruction: the epoch that sealed it, and its code."""
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            return instructions.read(session, shard, bytes.fromhex(digest))

    @app.get(
        "/v1/instructions",
        response_model=InstructionsDocument,
        responses={**document_refusals(400, 404), **UNAVAILABLE},
    )
    def instructions_about(
        subject: Subject,
        after: Annotated[int, Query(ge=0, le=ID_MAX)] = 0,
        broadcaster: Broadcaster = None,
    ) -> dict[str, Any]:
        """What was said about an account or transaction, oldest first; `after` pages by `id`."""
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            return instructions.list_of(session, shard, bytes.fromhex(subject), after)
