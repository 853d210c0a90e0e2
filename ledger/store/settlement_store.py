"""Network facts, payout batches, anchors and their attempts: queries.

Functions take a session and neither begin nor commit. What a state means and which moves exist
stands in `ledger.store.settlement_states`; what to do next in `ledger.stellar`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import and_, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.books.transactions import NetworkFact
from ledger.evidence.leaf import PayoutLeaf, format_payout_leaf, parse_payout_leaf
from ledger.store.halt_tables import HaltRow
from ledger.store.settlement_states import UNDECIDED, SettlementState, require_transition
from ledger.store.settlement_tables import (
    AnchorRow,
    AttemptRow,
    BatchRow,
    EpochLedgerRow,
    FactCursorRow,
    FactProgressRow,
    NetworkFactRow,
    StopRow,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFact:
    """A fact with what its slot and purpose are looked up by."""

    fact: NetworkFact
    tx_hash: bytes
    source_account: bytes
    sequence: int
    memo_hash: bytes
    succeeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPoint:
    """A closed network ledger as it is stored: number and close time."""

    sequence: int
    close_time_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A payout batch and where it stands."""

    leaf: PayoutLeaf
    state: SettlementState
    attempt: int
    """Newest attempt; -1 before the first."""

    tx_hash: bytes | None
    reason: str
    isolates: bool = False
    """Whether its no-op, if it burns, lets each payee be paid alone from then on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """An anchor and where it stands."""

    epoch: int
    body_hash: bytes
    state: SettlementState
    attempt: int
    tx_hash: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A stored envelope."""

    attempt: int
    source_account: bytes
    sequence: int
    envelope: bytes
    tx_hash: bytes
    max_ledger_sequence: int
    max_time_s: int


# Facts


def insert_facts(session: Session, broadcaster: bytes, facts: Iterable[StoredFact]) -> int:
    """Store facts; those that are known already, byte for byte, are left alone.

    Returns:
        How many were new.

    Raises:
        ValueError: The network told something else at the same place before.
    """
    by_place = {stored.fact.order: stored for stored in facts}
    if not by_place:
        return 0
    place = tuple_(NetworkFactRow.ledger_sequence, NetworkFactRow.apply_order)
    query = select(NetworkFactRow).where(
        NetworkFactRow.broadcaster == broadcaster, place.in_(list(by_place))
    )
    for row in session.scalars(query):
        known, told = _fact_of(row), by_place.pop((row.ledger_sequence, row.apply_order)).fact
        if known != told:
            raise ValueError(
                f"fact {known.order}: got transaction {row.tx_hash.hex()} before, another now"
            )
    if not by_place:
        return 0
    rows = [_fact_values(broadcaster, stored) for _, stored in sorted(by_place.items())]
    # A second worker may have stored the same ones since.
    statement = insert(NetworkFactRow).values(rows)
    statement = statement.on_conflict_do_nothing(
        index_elements=["broadcaster", "ledger_sequence", "apply_order"]
    )
    session.execute(statement)
    return len(rows)


def _fact_values(broadcaster: bytes, stored: StoredFact) -> dict[str, object]:
    fact = stored.fact
    return {
        "broadcaster": broadcaster,
        "ledger_sequence": fact.ledger_sequence,
        "apply_order": fact.apply_order,
        "network_id": fact.network_id,
        "close_time_s": fact.close_time_s,
        "tx_hash": stored.tx_hash,
        "source_account": stored.source_account,
        "sequence": stored.sequence,
        "memo_hash": stored.memo_hash,
        "succeeded": stored.succeeded,
        "envelope": fact.envelope,
        "result": fact.result,
    }


def _fact_of(row: NetworkFactRow) -> NetworkFact:
    return NetworkFact(
        network_id=row.network_id,
        ledger_sequence=row.ledger_sequence,
        close_time_s=row.close_time_s,
        apply_order=row.apply_order,
        envelope=row.envelope,
        result=row.result,
    )


def load_facts(
    session: Session, broadcaster: bytes, *, after_sequence: int, through_sequence: int
) -> tuple[NetworkFact, ...]:
    """Return the facts of ledgers in (after, through], in chain order."""
    query = (
        select(NetworkFactRow)
        .where(
            NetworkFactRow.broadcaster == broadcaster,
            NetworkFactRow.ledger_sequence > after_sequence,
            NetworkFactRow.ledger_sequence <= through_sequence,
        )
        .order_by(NetworkFactRow.ledger_sequence, NetworkFactRow.apply_order)
    )
    return tuple(_fact_of(row) for row in session.scalars(query))


def newest_fact_sequence(session: Session, broadcaster: bytes) -> int:
    """Return the network ledger of the newest stored transaction; 0 before the first."""
    newest = select(func.max(NetworkFactRow.ledger_sequence))
    return session.scalar(newest.where(NetworkFactRow.broadcaster == broadcaster)) or 0


def facts_of_slot(
    session: Session, broadcaster: bytes, account: bytes, sequence: int
) -> tuple[NetworkFact, ...]:
    """Return the facts whose transaction has this source and sequence number, in chain order."""
    query = (
        select(NetworkFactRow)
        .where(
            NetworkFactRow.broadcaster == broadcaster,
            NetworkFactRow.source_account == account,
            NetworkFactRow.sequence == sequence,
        )
        .order_by(NetworkFactRow.ledger_sequence, NetworkFactRow.apply_order)
    )
    return tuple(_fact_of(row) for row in session.scalars(query))


def batches_with_facts(session: Session, broadcaster: bytes) -> set[int]:
    """Return the numbers of undecided batches whose slot a stored transaction is of."""
    query = (
        select(BatchRow.number)
        .join(
            NetworkFactRow,
            and_(
                NetworkFactRow.broadcaster == BatchRow.broadcaster,
                NetworkFactRow.source_account == BatchRow.channel_account,
                NetworkFactRow.sequence == BatchRow.channel_sequence,
            ),
        )
        .where(BatchRow.broadcaster == broadcaster, BatchRow.state.in_(UNDECIDED))
    )
    return set(session.scalars(query))


def facts_with_memo(
    session: Session, broadcaster: bytes, accounts: Collection[bytes], memo_hash: bytes
) -> list[tuple[bytes, NetworkFact]]:
    """Return hashes and facts of accounts' successful transactions with a memo, in chain order."""
    query = (
        select(NetworkFactRow)
        .where(
            NetworkFactRow.broadcaster == broadcaster,
            NetworkFactRow.source_account.in_(accounts),
            NetworkFactRow.memo_hash == memo_hash,
            NetworkFactRow.succeeded,
        )
        .order_by(NetworkFactRow.ledger_sequence, NetworkFactRow.apply_order)
    )
    return [(row.tx_hash, _fact_of(row)) for row in session.scalars(query)]


def load_cursors(session: Session, broadcaster: bytes) -> dict[bytes, tuple[int, int]]:
    """Return account → place up to which its transactions were read."""
    query = select(FactCursorRow).where(FactCursorRow.broadcaster == broadcaster)
    return {row.account: (row.ledger_sequence, row.apply_order) for row in session.scalars(query)}


def save_cursors(
    session: Session, broadcaster: bytes, places: Mapping[bytes, tuple[int, int]]
) -> None:
    """Note how far accounts were read; none moves back."""
    if not places:
        return
    # By account: two workers lock the rows in the same order.
    rows = [
        {
            "broadcaster": broadcaster,
            "account": account,
            "ledger_sequence": ledger_sequence,
            "apply_order": apply_order,
        }
        for account, (ledger_sequence, apply_order) in sorted(places.items())
    ]
    statement = insert(FactCursorRow).values(rows)
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["broadcaster", "account"],
        set_={"ledger_sequence": new.ledger_sequence, "apply_order": new.apply_order},
        where=tuple_(FactCursorRow.ledger_sequence, FactCursorRow.apply_order)
        < tuple_(new.ledger_sequence, new.apply_order),
    )
    session.execute(statement)


def fact_progress(session: Session, broadcaster: bytes) -> LedgerPoint | None:
    """Return the closed ledger through which the facts are complete; None before the first."""
    row = session.get(FactProgressRow, broadcaster, populate_existing=True)
    if row is None:
        return None
    return LedgerPoint(sequence=row.ledger_sequence, close_time_s=row.close_time_s)


def save_progress(session: Session, broadcaster: bytes, point: LedgerPoint) -> None:
    """Note that facts are complete through a ledger; never moves back."""
    statement = insert(FactProgressRow).values(
        broadcaster=broadcaster, ledger_sequence=point.sequence, close_time_s=point.close_time_s
    )
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["broadcaster"],
        set_={"ledger_sequence": new.ledger_sequence, "close_time_s": new.close_time_s},
        where=FactProgressRow.ledger_sequence < new.ledger_sequence,
    )
    session.execute(statement)


def epoch_ledger(session: Session, broadcaster: bytes, epoch: int) -> LedgerPoint | None:
    """Return the last ledger that closed before an epoch's end.

    None until a later ledger has closed and the facts are complete through this one, so an epoch
    may be sealed as soon as there is an answer. Sequence 0: no ledger closed before that time.
    """
    row = session.get(EpochLedgerRow, (broadcaster, epoch))
    if row is None:
        return None
    return LedgerPoint(sequence=row.ledger_sequence, close_time_s=row.close_time_s)


def last_epoch_ledger(session: Session, broadcaster: bytes) -> tuple[int, LedgerPoint] | None:
    """Return the newest epoch whose last ledger is known, with that ledger."""
    query = (
        select(EpochLedgerRow)
        .where(EpochLedgerRow.broadcaster == broadcaster)
        .order_by(EpochLedgerRow.epoch.desc())
        .limit(1)
    )
    row = session.scalars(query).first()
    if row is None:
        return None
    return row.epoch, LedgerPoint(sequence=row.ledger_sequence, close_time_s=row.close_time_s)


def save_epoch_ledger(session: Session, broadcaster: bytes, epoch: int, point: LedgerPoint) -> None:
    """Note the last ledger of an epoch; a known one stays."""
    statement = insert(EpochLedgerRow).values(
        broadcaster=broadcaster,
        epoch=epoch,
        ledger_sequence=point.sequence,
        close_time_s=point.close_time_s,
    )
    session.execute(statement.on_conflict_do_nothing())


# Batches and anchors


def plan_batches(session: Session, broadcaster: bytes, leaves: Sequence[PayoutLeaf]) -> None:
    """Store an epoch's payout batches, in the commit that computes the epoch.

    Raises:
        sqlalchemy.exc.IntegrityError: A number or slot is taken: our own error.
    """
    for leaf in leaves:
        row = BatchRow(
            broadcaster=broadcaster,
            number=leaf.batch_number,
            epoch=leaf.epoch,
            kind=leaf.kind,
            leaf=format_payout_leaf(leaf),
            channel_account=leaf.channel_account,
            channel_sequence=leaf.channel_sequence,
            state=SettlementState.PLANNED,
            attempt=-1,
            tx_hash=None,
            reason="",
            isolates=False,
        )
        session.add(row)
    session.flush()


def plan_anchor(session: Session, broadcaster: bytes, epoch: int, body_hash: bytes) -> None:
    """Store that an epoch's checkpoint is to be anchored, in the commit that computes the epoch.

    Args:
        session: In a transaction.
        broadcaster: Account key, 32 bytes.
        epoch: The computed epoch.
        body_hash: SHA-256 of the checkpoint note's body; 32 bytes.

    Raises:
        sqlalchemy.exc.IntegrityError: The epoch has an anchor already: our own error.
    """
    row = AnchorRow(
        broadcaster=broadcaster,
        epoch=epoch,
        body_hash=body_hash,
        state=SettlementState.PLANNED,
        attempt=-1,
        tx_hash=None,
    )
    session.add(row)
    session.flush()


def load_batches(
    session: Session, broadcaster: bytes, *, epoch: int | None = None, undecided: bool = False
) -> tuple[Batch, ...]:
    """Return batches by number: all, of one epoch, or only those whose outcome is open."""
    query = select(BatchRow).where(BatchRow.broadcaster == broadcaster).order_by(BatchRow.number)
    if epoch is not None:
        query = query.where(BatchRow.epoch == epoch)
    if undecided:
        query = query.where(BatchRow.state.in_(UNDECIDED))
    return tuple(_batch_of(row) for row in session.scalars(query))


@lru_cache(maxsize=1_024)
def _leaf_of(raw: bytes) -> PayoutLeaf:
    """Parse a leaf: a tick reads the open ones many times, and they never change."""
    return parse_payout_leaf(raw)


def _batch_of(row: BatchRow) -> Batch:
    return Batch(
        leaf=_leaf_of(row.leaf),
        state=SettlementState(row.state),
        attempt=row.attempt,
        tx_hash=row.tx_hash,
        reason=row.reason,
        isolates=row.isolates,
    )


def load_batch(session: Session, broadcaster: bytes, number: int) -> Batch | None:
    """Return one batch, or None if there is none with the number."""
    row = session.get(BatchRow, (broadcaster, number), populate_existing=True)
    return None if row is None else _batch_of(row)


def count_halted(session: Session, broadcaster: bytes) -> int:
    """Return how many halts of the whole domain are open; with one, nothing is signed or sent."""
    stops = select(func.count()).where(
        StopRow.broadcaster == broadcaster,
        StopRow.account == bytes(32),
        StopRow.is_halt,
        StopRow.lifted_ledger.is_(None),
    )
    named = select(func.count()).where(
        HaltRow.broadcaster == broadcaster, HaltRow.cleared_ledger.is_(None)
    )
    both = select(stops.scalar_subquery() + named.scalar_subquery())
    return session.scalar(both) or 0


def load_anchor(session: Session, broadcaster: bytes, epoch: int) -> Anchor | None:
    """Return an epoch's anchor, or None if none is planned."""
    row = session.get(AnchorRow, (broadcaster, epoch), populate_existing=True)
    return None if row is None else _anchor_of(row)


def load_undecided_anchors(session: Session, broadcaster: bytes) -> tuple[Anchor, ...]:
    """Return the anchors that are not on the chain yet, by epoch."""
    query = (
        select(AnchorRow)
        .where(AnchorRow.broadcaster == broadcaster, AnchorRow.state.in_(UNDECIDED))
        .order_by(AnchorRow.epoch)
    )
    return tuple(_anchor_of(row) for row in session.scalars(query))


def _anchor_of(row: AnchorRow) -> Anchor:
    return Anchor(
        epoch=row.epoch,
        body_hash=row.body_hash,
        state=SettlementState(row.state),
        attempt=row.attempt,
        tx_hash=row.tx_hash,
    )


def anchor_fact(session: Session, broadcaster: bytes, epoch: int) -> NetworkFact | None:
    """Return the network fact that anchored an epoch; None until its transaction is applied."""
    query = (
        select(NetworkFactRow)
        .join(
            AnchorRow,
            (AnchorRow.broadcaster == NetworkFactRow.broadcaster)
            & (AnchorRow.tx_hash == NetworkFactRow.tx_hash),
        )
        .where(
            AnchorRow.broadcaster == broadcaster,
            AnchorRow.epoch == epoch,
            AnchorRow.state == SettlementState.PAID,
        )
    )
    row = session.scalars(query).first()
    return None if row is None else _fact_of(row)


def move_batch(
    session: Session,
    broadcaster: bytes,
    batch: Batch,
    after: SettlementState,
    *,
    attempt: int | None = None,
    tx_hash: bytes | None = None,
    reason: str = "",
    isolates: bool = False,
) -> bool:
    """Move a batch if it still stands as it was read; tells whether it did.

    Args:
        session: In a transaction.
        broadcaster: Account key, 32 bytes.
        batch: As it was read; another state or attempt in the database means another worker moved.
        after: The new state.
        attempt: Number of the attempt from now on, if it changes.
        tx_hash: The transaction that decided it.
        reason: Why it failed, halted or is to burn.
        isolates: Whether its no-op lets each payee be paid alone from then on.
    """
    require_transition(batch.state, after)
    statement = (
        update(BatchRow)
        .where(
            BatchRow.broadcaster == broadcaster,
            BatchRow.number == batch.leaf.batch_number,
            BatchRow.state == batch.state,
            BatchRow.attempt == batch.attempt,
        )
        .values(
            state=after,
            attempt=batch.attempt if attempt is None else attempt,
            tx_hash=tx_hash,
            reason=reason,
            isolates=isolates,
        )
        .returning(BatchRow.number)
    )
    return session.scalar(statement) is not None


def move_anchor(
    session: Session,
    broadcaster: bytes,
    anchor: Anchor,
    after: SettlementState,
    *,
    attempt: int | None = None,
    tx_hash: bytes | None = None,
) -> bool:
    """Move an anchor if it still stands as it was read; tells whether it did."""
    require_transition(anchor.state, after)
    statement = (
        update(AnchorRow)
        .where(
            AnchorRow.broadcaster == broadcaster,
            AnchorRow.epoch == anchor.epoch,
            AnchorRow.state == anchor.state,
            AnchorRow.attempt == anchor.attempt,
        )
        .values(
            state=after,
            attempt=anchor.attempt if attempt is None else attempt,
            tx_hash=tx_hash,
        )
        .returning(AnchorRow.epoch)
    )
    return session.scalar(statement) is not None


def insert_attempt(
    session: Session, broadcaster: bytes, purpose: str, number: int, attempt: Attempt
) -> None:
    """Store a signed envelope; it must be committed before it is sent."""
    session.add(
        AttemptRow(
            broadcaster=broadcaster,
            purpose=purpose,
            number=number,
            attempt=attempt.attempt,
            source_account=attempt.source_account,
            sequence=attempt.sequence,
            envelope=attempt.envelope,
            tx_hash=attempt.tx_hash,
            max_ledger_sequence=attempt.max_ledger_sequence,
            max_time_s=attempt.max_time_s,
        )
    )
    session.flush()


def load_attempts(
    session: Session, broadcaster: bytes, purpose: str, number: int
) -> tuple[Attempt, ...]:
    """Return all attempts of a batch or an anchor, oldest first."""
    query = (
        select(AttemptRow)
        .where(
            AttemptRow.broadcaster == broadcaster,
            AttemptRow.purpose == purpose,
            AttemptRow.number == number,
        )
        .order_by(AttemptRow.attempt)
    )
    return tuple(
        Attempt(
            attempt=row.attempt,
            source_account=row.source_account,
            sequence=row.sequence,
            envelope=row.envelope,
            tx_hash=row.tx_hash,
            max_ledger_sequence=row.max_ledger_sequence,
            max_time_s=row.max_time_s,
        )
        for row in session.scalars(query)
    )
