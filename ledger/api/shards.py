"""Which broadcaster a request means: the one it names, or the only one there is."""

from typing import Annotated

from fastapi import Query

from ledger.api.answers import RefusedError
from ledger.audit.address import parse_account
from ledger.evidence.errors import MalformedError
from ledger.store.engine import Session
from ledger.store.errors import UnknownBroadcasterError
from ledger.store.shard_store import Shard, find_shard, list_shards

Broadcaster = Annotated[str | None, Query(description="G… account; default: the only one")]


def shard_of(session: Session, broadcaster: str | None) -> Shard:
    """Return the broadcaster with this address; the only one when None.

    Raises:
        RefusedError: 404, nobody here has it; 400, none is named and there is not exactly one.
    """
    if broadcaster is None:
        shards = list_shards(session)
        if len(shards) == 1:
            return shards[0]
        raise RefusedError(
            400, "which_broadcaster", field="broadcaster", got="none", want="a G… account"
        )
    try:
        return find_shard(session, parse_account(broadcaster))
    except (MalformedError, UnknownBroadcasterError):
        raise RefusedError(
            404, "unknown_broadcaster", field="broadcaster", got=broadcaster, want="a known account"
        ) from None
