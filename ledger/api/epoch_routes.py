"""Epochs over HTTP: states, roots, sizes, anchors; their documents are `log_routes`'."""

from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from fastapi import Path as PathParameter

from ledger.api.answers import RefusedError
from ledger.api.documents import (
    UNAVAILABLE,
    EpochDocument,
    EpochsDocument,
    document_refusals,
)
from ledger.api.shards import Broadcaster, shard_of
from ledger.audit.address import format_account
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import (
    Epoch,
    StoredCheckpoint,
    find_checkpoint,
    find_epoch,
    find_result,
    list_epochs,
)
from ledger.store.settlement_store import load_anchor
from ledger.store.shard_store import Shard

EPOCHS_MAX: Final = 1_000
NUMBER_MAX: Final = (1 << 32) - 1
Number = Annotated[int, PathParameter(ge=0, le=NUMBER_MAX)]


def add_epochs(app: FastAPI, sessions: SessionFactory) -> None:
    """Add the routes of epochs to an application."""

    @app.get(
        "/v1/epochs",
        response_model=EpochsDocument,
        responses={**document_refusals(400, 404), **UNAVAILABLE},
    )
    def epochs(
        broadcaster: Broadcaster = None,
        after: Annotated[int, Query(ge=-1, le=NUMBER_MAX)] = -1,
        limit: Annotated[int, Query(ge=1, le=EPOCHS_MAX)] = 100,
    ) -> dict[str, Any]:
        """Epochs, ascending; `after` pages by number."""
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            found = list_epochs(session, shard, after=after, limit=limit)
        return {
            "broadcaster": format_account(shard.account),
            "epochs": [{"epoch": epoch.number, "state": epoch.state} for epoch in found],
        }

    @app.get(
        "/v1/epochs/{number}",
        response_model=EpochDocument,
        responses={**document_refusals(400, 404), **UNAVAILABLE},
    )
    def epoch(number: Number, broadcaster: Broadcaster = None) -> dict[str, Any]:
        """One epoch: state, roots, sizes, and what anchors it."""
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            found = find_epoch(session, shard, number)
            if found is None:
                raise RefusedError(
                    404, "unknown_epoch", field="epoch", got=number, want="an epoch that has begun"
                )
            return _describe_epoch(session, shard, found)


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
