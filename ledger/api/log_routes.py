"""The public log over HTTP: files, proofs, epoch documents, and a party's own lines."""

from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, Query
from fastapi import Path as PathParameter
from fastapi.responses import Response

from ledger.api.answers import RefusedError
from ledger.api.documents import (
    OCTETS,
    UNAVAILABLE,
    Document,
    Hex32,
    Natural,
    document_bytes,
    document_refusals,
)
from ledger.api.line_answers import LineAsker, answer_line
from ledger.api.log_files import (
    CHECKPOINT,
    IMMUTABLE,
    TEXT,
    answer_bytes,
    prove_growth,
    prove_leaf,
    read_log_file,
)
from ledger.api.shards import Broadcaster, shard_of
from ledger.audit.address import format_account
from ledger.evidence.tlog_proof import format_tlog_proof
from ledger.publiclog.epoch_document import EpochLeaves, format_epoch_document
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import find_checkpoint, find_epoch, load_leaves
from ledger.store.shard_store import Shard

NUMBER_MAX: Final = (1 << 32) - 1
INDEX_MAX: Final = (1 << 63) - 1
AccountPath = Annotated[str, PathParameter(pattern="^G[A-Z2-7]{55}$")]
Number = Annotated[int, PathParameter(ge=0, le=NUMBER_MAX)]
Tags = Annotated[str | None, Header(alias="If-None-Match", include_in_schema=False)]

_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file, as c2sp.org/tlog-tiles defines it.",
        "content": {
            OCTETS: {"schema": {"type": "string", "format": "binary"}},
            "text/plain": {"schema": {"type": "string"}},
        },
    },
    304: {"description": "What the asker has is still right."},
}


class ConsistencyDocument(Document):
    """That a smaller log is a larger one's beginning (RFC 6962 §2.1.2)."""

    old_size: Natural
    new_size: Natural
    hashes: list[Hex32]


def add_log(app: FastAPI, sessions: SessionFactory, log_dir: Path) -> None:
    """Add the routes of the public log to an application."""
    _add_files(app, sessions, log_dir)
    _add_proofs(app, sessions, log_dir)
    _add_documents(app, sessions)
    _add_lines(app, sessions, log_dir)


def _account(sessions: SessionFactory, broadcaster: str | None) -> str:
    with sessions.begin() as session:
        return format_account(shard_of(session, broadcaster).account)


def _add_files(app: FastAPI, sessions: SessionFactory, log_dir: Path) -> None:
    @app.get(
        "/log/{broadcaster}/{path:path}",
        response_class=Response,
        responses={**_FILE, **document_refusals(400, 404), **UNAVAILABLE},
    )
    @app.head(
        "/log/{broadcaster}/{path:path}",
        response_class=Response,
        responses={**_FILE, **document_refusals(400, 404), **UNAVAILABLE},
    )
    def log(broadcaster: AccountPath, path: str, if_none_match: Tags = None) -> Response:
        """A file of the public log: `checkpoint`, `log.vkey`, `tile/…`."""
        return read_log_file(log_dir, broadcaster, path, if_none_match)

    @app.get(
        "/checkpoint",
        response_class=Response,
        responses={**_FILE, **document_refusals(400, 404), **UNAVAILABLE},
    )
    @app.head(
        "/checkpoint",
        response_class=Response,
        responses={**_FILE, **document_refusals(400, 404), **UNAVAILABLE},
    )
    def checkpoint(broadcaster: Broadcaster = None, if_none_match: Tags = None) -> Response:
        """The newest signed checkpoint of a broadcaster's log."""
        account = _account(sessions, broadcaster)
        return read_log_file(log_dir, account, "checkpoint", if_none_match)


def _add_proofs(app: FastAPI, sessions: SessionFactory, log_dir: Path) -> None:
    @app.get(
        "/v1/proofs/consistency",
        response_model=ConsistencyDocument,
        responses={**document_refusals(400, 404), **UNAVAILABLE},
    )
    def consistency(
        old_size: Annotated[int, Query(ge=0, le=INDEX_MAX)],
        new_size: Annotated[int, Query(ge=0, le=INDEX_MAX)],
        broadcaster: Broadcaster = None,
    ) -> dict[str, Any]:
        """Proof that the log of `old_size` leaves is the beginning of that of `new_size`."""
        account = _account(sessions, broadcaster)
        hashes = prove_growth(log_dir, account, old_size, new_size)
        return {
            "old_size": old_size,
            "new_size": new_size,
            "hashes": [value.hex() for value in hashes],
        }

    @app.get(
        "/v1/proofs/{index}.tlog-proof",
        response_class=Response,
        responses={
            **document_bytes("A proof, as c2sp.org/tlog-proof defines it.", "text/plain"),
            **document_refusals(400, 404),
            **UNAVAILABLE,
        },
    )
    def proof(
        index: Annotated[int, PathParameter(ge=0, le=INDEX_MAX)],
        broadcaster: Broadcaster = None,
        if_none_match: Tags = None,
    ) -> Response:
        """Proof that a leaf is in the log, under the newest checkpoint."""
        content = format_tlog_proof(prove_leaf(log_dir, _account(sessions, broadcaster), index))
        return answer_bytes(content, TEXT, cache=CHECKPOINT, if_none_match=if_none_match)


def _add_documents(app: FastAPI, sessions: SessionFactory) -> None:
    @app.get(
        "/v1/epochs/{number}/document",
        response_class=Response,
        responses={
            **document_bytes("The epoch's public facts as canonical JSON.", "application/json"),
            **document_refusals(400, 404),
            **UNAVAILABLE,
        },
    )
    def document(
        number: Number, broadcaster: Broadcaster = None, if_none_match: Tags = None
    ) -> Response:
        """An epoch's public facts, made of the log alone: the same bytes from everybody."""
        with sessions.begin() as session:
            content = make_epoch_document(session, shard_of(session, broadcaster), number)
        return answer_bytes(
            content, "application/json", cache=IMMUTABLE, if_none_match=if_none_match
        )


def _add_lines(app: FastAPI, sessions: SessionFactory, log_dir: Path) -> None:
    @app.get(
        "/v1/lines/{account}/{number}.tlog-proof",
        response_class=Response,
        responses={
            **document_bytes("The line's proof, as c2sp.org/tlog-proof defines it.", "text/plain"),
            **document_refusals(400, 403, 404),
            **UNAVAILABLE,
        },
    )
    def line(
        account: AccountPath,
        number: Number,
        key: Annotated[str, Header(alias="Swarmledger-Key")] = "",
        signature: Annotated[str, Header(alias="Swarmledger-Signature")] = "",
        broadcaster: Broadcaster = None,
    ) -> Response:
        """A party's line of an epoch with its proof, for the party alone."""
        asker = LineAsker(account=account, epoch=number, key=key, signature=signature)
        with sessions.begin() as session:
            content = answer_line(session, shard_of(session, broadcaster), asker, log_dir)
        return answer_bytes(content, TEXT, cache="private, no-cache")


def make_epoch_document(session: Session, shard: Shard, number: int) -> bytes:
    """Return an epoch's document out of the database.

    Raises:
        RefusedError: 404, the epoch is not computed.
    """
    epoch = find_epoch(session, shard, number)
    checkpoint = find_checkpoint(session, shard, number)
    if epoch is None or checkpoint is None or epoch.opening_size is None:
        raise RefusedError(404, "unknown_epoch", field="epoch", got=number, want="a computed epoch")
    first = epoch.opening_size
    leaves = tuple(load_leaves(session, shard, first=first, end=checkpoint.tree_size))
    return format_epoch_document(
        EpochLeaves(first_index=first, leaves=leaves),
        broadcaster=shard.account,
        note=checkpoint.note,
    )
