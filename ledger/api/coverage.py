"""Coverage: what a broadcaster's escrow holds against what it owes, for anybody to see.

    GET /v1/coverage         figures of the newest computed epoch, and what has come since
    GET /v1/issuing-binding  the newest binding of an issuing key: 252 bytes, signed by both

A seeder decides from the first whether to serve at all, and learns from the second when a key was
revoked. The figures are the operator's; what they rest on is sealed, anchored and audited.
`level` is `covered`, `low` at or below the operator's alarm, and `out` when nothing is left: new
receipts are refused then, and an issuer issues nothing more. Not here: refusing to issue
(`issuer`).
"""

import threading
import time
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from fastapi.responses import Response

from ledger.api.answers import RefusedError
from ledger.api.documents import (
    UNAVAILABLE,
    CoverageDocument,
    document_bytes,
    document_refusals,
)
from ledger.api.shards import Broadcaster, shard_of
from ledger.audit.address import format_account
from ledger.books.slots import reserve_stroops
from ledger.evidence.binding import BINDING
from ledger.evidence.terms import Terms
from ledger.store.coverage_store import (
    BookedFunds,
    level_of,
    load_booked_funds,
    newest_computed_epoch,
    newest_fact,
    sum_deposits_after,
    sum_pending_bytes,
)
from ledger.store.engine import Session, SessionFactory
from ledger.store.errors import UnprovenError
from ledger.store.shard_store import Shard, issuing_binding, terms_in_force

PPM = 1_000_000
SLOW_SUM_S: Final = 0.5
KEPT_TIMES: Final = 100
"""How many times as long as a slow sum took it is kept: it takes a hundredth of a core."""

IssuingKey = Annotated[str | None, Query(pattern="^[0-9a-fA-F]{64}$", description="32 bytes.")]


class CoverageReader:
    """Reads what stands behind broadcasters' words; for any thread."""

    def __init__(self, low_balance_stroops: int = 0) -> None:
        """Begin to read.

        Args:
            low_balance_stroops: What is left at or below which the level is low.
        """
        self._low_balance_stroops = low_balance_stroops
        self._books = _Books()
        self._lock = threading.Lock()
        self._sums: dict[int, tuple[int, float, int]] = {}
        """By broadcaster: the epoch after which, until when it is kept, and the sum."""
        self._deposits: dict[int, tuple[tuple[int, tuple[int, int]], int]] = {}

    def read(self, session: Session, shard: Shard) -> dict[str, Any]:
        """Return the answer about a broadcaster."""
        terms = terms_in_force(session, shard).value
        funds = self._books.newest(session, shard, terms)
        after = -1 if funds is None else funds.epoch
        pending_bytes = self._pending(session, shard, after)
        return describe_coverage(
            shard,
            terms,
            funds,
            pending_bytes,
            fresh_stroops=self._fresh(session, shard, terms, funds),
            low_balance_stroops=self._low_balance_stroops,
        )

    def _pending(self, session: Session, shard: Shard, after: int) -> int:
        """Return the bytes not computed yet; of a large epoch, as they were a moment ago.

        Adding a million lanes up takes most of a second, so the sum is kept for a hundred times
        what it took.
        """
        began_s = time.monotonic()
        with self._lock:
            known = self._sums.get(shard.id)
        if known is not None and known[0] == after and began_s < known[1]:
            return known[2]
        pending_bytes = sum_pending_bytes(session, shard, after)
        took_s = time.monotonic() - began_s
        if took_s >= SLOW_SUM_S:
            with self._lock:
                self._sums[shard.id] = after, began_s + KEPT_TIMES * took_s, pending_bytes
        return pending_bytes

    def _fresh(
        self, session: Session, shard: Shard, terms: Terms, funds: BookedFunds | None
    ) -> int:
        """Return the deposits since the computed epoch; facts are read when there are new ones."""
        after = 0 if funds is None else funds.last_ledger_sequence
        name = (after, newest_fact(session, shard))
        with self._lock:
            known = self._deposits.get(shard.id)
        if known is None or known[0] != name:
            known = name, sum_deposits_after(session, shard, terms, after)
            with self._lock:
                self._deposits[shard.id] = known
        return known[1]


def add_coverage(app: FastAPI, sessions: SessionFactory, reader: CoverageReader) -> None:
    """Add the two public questions about a broadcaster's word to an application."""

    @app.get(
        "/v1/coverage",
        response_model=CoverageDocument,
        responses={**document_refusals(400, 404), **UNAVAILABLE},
    )
    def coverage(broadcaster: Broadcaster = None) -> dict[str, Any]:
        """What the escrow holds and owes; `ratio_ppm` is null while nothing is owed."""
        with sessions.begin() as session:
            return reader.read(session, shard_of(session, broadcaster))

    @app.get(
        "/v1/issuing-binding",
        response_class=Response,
        responses={
            **document_bytes("The binding record.", size=BINDING.size),
            **document_refusals(400, 404),
            **UNAVAILABLE,
        },
    )
    def binding(broadcaster: Broadcaster = None, key: IssuingKey = None) -> Response:
        """The newest binding of the issuing key of the terms in force, or of `key`."""
        with sessions.begin() as session:
            shard = shard_of(session, broadcaster)
            wanted = terms_in_force(session, shard).value.issuing_key
            if key is not None:
                wanted = bytes.fromhex(key)
            try:
                raw = issuing_binding(session, shard, wanted).raw
            except UnprovenError:
                raise RefusedError(
                    404, "unknown_key", field="key", got=wanted, want="an issuing key"
                ) from None
        return Response(
            raw, media_type="application/octet-stream", headers={"Cache-Control": "max-age=10"}
        )


def describe_coverage(
    shard: Shard,
    terms: Terms,
    funds: BookedFunds | None,
    pending_bytes: int,
    *,
    fresh_stroops: int = 0,
    low_balance_stroops: int = 0,
) -> dict[str, Any]:
    """Return the answer: stroops, bytes, and the ratio in parts per million, rounded down.

    What is pending is charged by the terms' price, rounded up, fee included: no contract credits
    more.
    """
    pending = -(-pending_bytes * terms.price_stroops // terms.price_quantity_bytes)
    held = owed = fees = 0
    if funds is not None:
        held = funds.escrow_stroops + funds.payout_stroops
        owed, fees = funds.owed_stroops, funds.fees_stroops
    liable = owed + fees + pending
    unspent = 0 if funds is None else funds.unspent_stroops
    refund = 0 if funds is None else funds.refund_stroops
    free = unspent - refund + fresh_stroops - pending - 2 * reserve_stroops(terms)
    return {
        "broadcaster": format_account(shard.account),
        "escrow_account": format_account(terms.escrow_account),
        "asset_code": terms.asset_code,
        "epoch": None if funds is None else funds.epoch,
        "held_stroops": held,
        "owed_stroops": owed,
        "fees_stroops": fees,
        "pending_bytes": pending_bytes,
        "pending_stroops": pending,
        "liable_stroops": liable,
        "unspent_stroops": unspent,
        "refund_stroops": refund,
        "free_stroops": free,
        "level": level_of(free, low_balance_stroops),
        "ratio_ppm": held * PPM // liable if liable else None,
    }


class _Books:
    """Closing figures by broadcaster, read once an epoch: a state may have millions of rows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, BookedFunds] = {}

    def newest(self, session: Session, shard: Shard, terms: Terms) -> BookedFunds | None:
        epoch = newest_computed_epoch(session, shard)
        if epoch is None:
            return None
        with self._lock:
            known = self._known.get(shard.id)
        if known is None or known.epoch != epoch:
            known = load_booked_funds(session, shard, terms, epoch)
            if known is not None:
                with self._lock:
                    self._known[shard.id] = known
        return known
