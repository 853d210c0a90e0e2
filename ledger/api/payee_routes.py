"""Payees over HTTP: SEP-10 authentication, the account, the statement.

What moves money (another address, a cash-out) is an instruction that the account signs:
`POST /v1/instructions`. Rules: `ledger.stellar.web_auth`, `payee_session`, `payee_accounts`.
"""

import hashlib
import json
import time
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

from fastapi import FastAPI, Header, Query, Request
from fastapi.concurrency import run_in_threadpool

from ledger.api.answers import RefusedError
from ledger.api.documents import UNAVAILABLE, document_refusals
from ledger.api.payee_accounts import PayeeAccounts
from ledger.api.payee_documents import (
    ChallengeDocument,
    PayeeDocument,
    StatementDocument,
    TokenDocument,
)
from ledger.api.payee_session import PayeeSessions
from ledger.api.requests import read_bounded
from ledger.api.shards import Broadcaster, shard_of
from ledger.stellar.errors import GatewayError
from ledger.stellar.web_auth import ChallengeError, WebAuth
from ledger.store.engine import SessionFactory

BODY_SIZE_MAX: Final = 16_384
EPOCH_MAX: Final = (1 << 31) - 1
Authorization = Annotated[str | None, Header(description="`Bearer` and a token of /auth.")]
Epoch = Annotated[int, Query(ge=0, le=EPOCH_MAX)]


def add_payees(
    app: FastAPI, sessions: SessionFactory, web_auth: WebAuth, tokens: PayeeSessions
) -> None:
    """Add the routes of payees to an application."""
    accounts = PayeeAccounts()
    _add_authentication(app, web_auth, tokens)

    @app.get(
        "/v1/payees/me",
        response_model=PayeeDocument,
        responses={**document_refusals(400, 401, 404), **UNAVAILABLE},
    )
    def read_account(
        broadcaster: Broadcaster = None, authorization: Authorization = None
    ) -> dict[str, Any]:
        """What is owed to the authenticated account, what waits and why, where it is paid."""
        account = tokens.account_of(authorization)
        with sessions() as session:
            return accounts.describe(session, shard_of(session, broadcaster), account)

    @app.get(
        "/v1/payees/me/statement",
        response_model=StatementDocument,
        responses={**document_refusals(400, 401, 404, 422), **UNAVAILABLE},
    )
    def read_statement(
        first: Epoch,
        last: Epoch,
        broadcaster: Broadcaster = None,
        authorization: Authorization = None,
    ) -> dict[str, Any]:
        """The account's lines of the computed epochs from first to last, at most 96."""
        account = tokens.account_of(authorization)
        with sessions() as session:
            shard = shard_of(session, broadcaster)
            lines = accounts.statement(session, shard, account, first=first, last=last)
        return {"lines": lines}


def _add_authentication(app: FastAPI, web_auth: WebAuth, tokens: PayeeSessions) -> None:
    @app.get(
        "/auth",
        response_model=ChallengeDocument,
        responses={**document_refusals(400), **UNAVAILABLE},
    )
    def challenge(
        account: Annotated[str, Query(max_length=128, description="G… account")],
    ) -> dict[str, Any]:
        """A challenge to sign with the account's keys (SEP-10)."""
        try:
            made = web_auth.challenge(account)
        except ChallengeError as error:
            raise RefusedError(
                400, "bad_account", field="account", got=account, want="a G… account"
            ) from error
        return {"transaction": made, "network_passphrase": web_auth.passphrase}

    @app.post(
        "/auth",
        response_model=TokenDocument,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    kind: {
                        "schema": {
                            "type": "object",
                            "required": ["transaction"],
                            "properties": {"transaction": {"type": "string"}},
                        }
                    }
                    for kind in ("application/json", "application/x-www-form-urlencoded")
                },
            }
        },
        responses={**document_refusals(400, 408, 413), **UNAVAILABLE},
    )
    async def token(request: Request) -> dict[str, Any]:
        """A token for the account whose keys signed the challenge (SEP-10)."""
        body = await read_bounded(request, BODY_SIZE_MAX)
        signed = _transaction_of(body, request.headers.get("content-type", ""))
        account = await run_in_threadpool(_verify, web_auth, signed)
        made = tokens.make(
            account,
            challenge_hash=hashlib.sha256(signed.encode()).digest(),
            now_s=int(time.time()),
        )
        return {"token": made}


def _verify(web_auth: WebAuth, signed: str) -> bytes:
    try:
        return web_auth.verify(signed)
    except ChallengeError as error:
        raise RefusedError(
            400, "bad_challenge", field="transaction", got=str(error), want="ours, signed by you"
        ) from None
    except GatewayError:
        raise RefusedError(503, "network_unavailable") from None


def _transaction_of(body: bytes, content_type: str) -> str:
    """Return the field `transaction` of a form or a JSON object, as SEP-10 has both."""
    found: object = None
    try:
        if content_type.partition(";")[0].strip().lower() == "application/json":
            answer = json.loads(body)
            found = answer.get("transaction") if isinstance(answer, dict) else None
        else:
            found = parse_qs(body.decode("ascii"), strict_parsing=True).get("transaction", [None])[
                0
            ]
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, str) or not found.isascii() or not found:
        raise RefusedError(
            400, "malformed", field="transaction", got="none", want="a form or JSON with XDR"
        )
    return found
