"""Facts: every transaction on the domain's accounts, read from the network into the database.

One call reads all accounts (escrow, payout, anchor, channels) up to the newest closed ledger and
stores facts, cursors and how far they are complete in one commit, so a crash loses nothing and
repeats nothing. A fact is stored as soon as it is seen; "complete" stays a few ledgers behind,
because a source's history may lag behind its newest header. For each epoch that has ended, the
last ledger before its end is stored with it: that is what sealing waits for.

A source can leave a transaction out and tell later ones, or invent one. Where there are witnesses,
each of them is asked for the same accounts from the same places: what any of them tells is stored
if each other one has it too, by its hash at least, or has the sequence number of our account used
that it spends. What a witness excludes is not stored, and nothing is complete beyond it, or beyond
what all of them had read.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.folding import domain_accounts
from ledger.books.transactions import NetworkFact
from ledger.evidence.terms import Terms
from ledger.stellar.errors import ConflictingFactError, GatewayError
from ledger.stellar.gateway import START, Gateway, NetworkLedger, Place
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_store import LedgerPoint, StoredFact

EPOCHS_PER_CALL_MAX: Final = 256
"""Most ended epochs whose last ledger is looked up in one call."""

_log = logging.getLogger(__name__)


def ingest_facts(
    sessions: SessionFactory,
    gateway: Gateway,
    terms: Terms,
    *,
    margin_ledgers: int,
    witnesses: Sequence[Gateway] = (),
) -> NetworkLedger:
    """Read the domain's transactions up to now; running it twice changes nothing.

    Args:
        sessions: One commit is made.
        gateway: The source.
        terms: Whose accounts, and when epochs end.
        margin_ledgers: How far "complete" stays behind the source's newest ledger, ≥ 0.
        witnesses: More sources that must tell the same.

    Returns:
        The newest closed ledger of the source, from before anything was read.

    Raises:
        GatewayError: No usable answer; nothing was stored.
        ConflictingFactError: The network tells another history than before.
    """
    for source in (gateway, *witnesses):
        if source.network_id != terms.network_id:
            raise ValueError(f"gateway {source.name}: got another network than the terms'")
    broadcaster = terms.broadcaster_account
    latest = gateway.latest_ledger()
    with sessions() as session:
        cursors = store.load_cursors(session, broadcaster)
        before = store.fact_progress(session, broadcaster)
        known_epoch = store.last_epoch_ledger(session, broadcaster)
    facts, places, as_of_sequence = _read_sources((gateway, *witnesses), terms, cursors)
    complete = _complete_through(gateway, min(latest.sequence, as_of_sequence) - margin_ledgers)
    ends = _epoch_ledgers(gateway, terms, complete, known_epoch) if complete else []
    if before is not None:
        _report_late(facts, before)
    with sessions.begin() as session:
        try:
            store.insert_facts(session, broadcaster, facts)
        except ValueError as error:
            raise ConflictingFactError(f"{gateway.name}: {error}") from error
        moved = {account: at for account, at in places.items() if cursors.get(account) != at}
        store.save_cursors(session, broadcaster, moved)
        if complete is not None:
            store.save_progress(session, broadcaster, complete)
        for epoch, point in ends:
            store.save_epoch_ledger(session, broadcaster, epoch, point)
    return latest


def _read_sources(
    sources: Sequence[Gateway], terms: Terms, cursors: dict[bytes, Place]
) -> tuple[list[StoredFact], dict[bytes, Place], int]:
    """Return new facts, the places read up to, and the ledger all answers were at least as of.

    With several sources, what only some have read yet is read again the next time.
    """
    facts: dict[Place, NetworkFact] = {}
    places: dict[bytes, Place] = {}
    as_of_sequences: list[int] = []
    told_by: list[tuple[Gateway, dict[Place, NetworkFact]]] = []
    for source in sources:
        told, reached, as_of_sequence = _read_accounts(source, terms, cursors)
        told_by.append((source, told))
        for place, fact in told.items():
            if facts.setdefault(place, fact) != fact:
                raise ConflictingFactError(f"{source.name}: fact {place}: got another, want one")
        for account, place in reached.items():
            places[account] = max(place, places.get(account, START))
        as_of_sequences.append(as_of_sequence)
    held = _uncorroborated(facts, told_by, domain_accounts(terms) | cursors.keys())
    facts = {place: fact for place, fact in facts.items() if place not in held}
    as_of_sequence = min([*as_of_sequences, *(place[0] - 1 for place in held)])
    if len(sources) > 1:
        end: Place = (as_of_sequence + 1, 0)
        read = {account: min(place, end) for account, place in places.items()}
        places = {account: max(read[account], cursors.get(account, START)) for account in read}
    return [stored_fact(facts[place]) for place in sorted(facts)], places, as_of_sequence


def _uncorroborated(
    facts: Mapping[Place, NetworkFact],
    told_by: Sequence[tuple[Gateway, Mapping[Place, NetworkFact]]],
    ours: AbstractSet[bytes],
) -> set[Place]:
    """Return the places of facts that a source did not tell and does not bear out."""
    held: set[Place] = set()
    for place, fact in facts.items():
        for source, told in told_by:
            if place not in told and not bears_out(source, fact, ours):
                transaction = read_transaction(fact)
                _log.warning(
                    "source %s has no transaction %s of ledger %d that another tells: it waits",
                    source.name,
                    transaction.tx_hash.hex(),
                    fact.ledger_sequence,
                )
                held.add(place)
                break
    return held


def bears_out(source: Gateway, fact: NetworkFact, ours: AbstractSet[bytes]) -> bool:
    """Tell whether a source has a transaction that another tells, or cannot exclude it.

    By its hash it has it. One that spends a sequence number of ours, such as a payout, it cannot
    exclude where the account has that number used: nothing else has it then, or it would be told.

    Raises:
        GatewayError: No usable answer.
        ConflictingFactError: It has it in another place, or with another result.
    """
    transaction = read_transaction(fact)
    own = source.transaction(transaction.tx_hash)
    if own is not None:
        if own != fact:
            raise ConflictingFactError(
                f"{source.name}: transaction {transaction.tx_hash.hex()}: got it at {own.order}, "
                f"want it at {fact.order} and with one result"
            )
        return True
    if transaction.source_account not in ours:
        return False
    view = source.account(transaction.source_account)
    return view is not None and view.sequence >= transaction.sequence


def _read_accounts(
    gateway: Gateway, terms: Terms, cursors: dict[bytes, Place]
) -> tuple[dict[Place, NetworkFact], dict[bytes, Place], int]:
    """Return what one source tells: new facts, the places read up to, and as of which ledger."""
    facts: dict[Place, NetworkFact] = {}
    places: dict[bytes, Place] = {}
    as_of_sequences: list[int] = []
    # Accounts that newer terms no longer name may still have open slots.
    for account in sorted(domain_accounts(terms) | cursors.keys()):
        place = cursors.get(account, START)
        is_last = False
        while not is_last:
            page = gateway.transactions_of(account, after=place)
            is_last = page.is_last
            for fact in page.facts:
                if fact.order <= place:
                    raise GatewayError(f"{gateway.name}: fact {fact.order}: want after {place}")
                if facts.setdefault(fact.order, fact) != fact:
                    raise ConflictingFactError(f"{gateway.name}: two facts at {fact.order}")
                place = fact.order
            place = max(place, page.through)
        as_of_sequences.append(page.as_of_sequence)
        if place != START:
            places[account] = place
    return facts, places, min(as_of_sequences)


def stored_fact(fact: NetworkFact) -> StoredFact:
    """Return a fact with what its slot and purpose are looked up by.

    Raises:
        MalformedXdrError: It cannot be read.
    """
    transaction = read_transaction(fact)
    return StoredFact(
        fact=fact,
        tx_hash=transaction.tx_hash,
        source_account=transaction.source_account,
        sequence=transaction.sequence,
        memo_hash=transaction.memo_hash,
        succeeded=transaction.succeeded,
    )


def _complete_through(gateway: Gateway, sequence: int) -> LedgerPoint | None:
    if sequence < 1:
        return None
    ledger = gateway.ledger(sequence)
    return None if ledger is None else _point(ledger)


def _point(ledger: NetworkLedger) -> LedgerPoint:
    return LedgerPoint(sequence=ledger.sequence, close_time_s=ledger.close_time_s)


def _report_late(facts: list[StoredFact], before: LedgerPoint) -> None:
    for stored in facts:
        if stored.fact.ledger_sequence <= before.sequence:
            _log.error(
                "transaction %s of ledger %d was told only after the facts were complete "
                "through ledger %d",
                stored.tx_hash.hex(),
                stored.fact.ledger_sequence,
                before.sequence,
            )


def _epoch_ledgers(
    gateway: Gateway,
    terms: Terms,
    complete: LedgerPoint,
    known: tuple[int, LedgerPoint] | None,
) -> list[tuple[int, LedgerPoint]]:
    """Find, for each epoch that ended since, the last ledger that closed before its end."""
    epoch, low = (terms.first_epoch, None) if known is None else (known[0] + 1, known[1])
    found: list[tuple[int, LedgerPoint]] = []
    while complete.close_time_s >= terms.epoch_end_s(epoch) and len(found) < EPOCHS_PER_CALL_MAX:
        low = last_ledger_before(gateway.ledger, terms.epoch_end_s(epoch), high=complete, low=low)
        found.append((epoch, low))
        epoch += 1
    return found


def last_ledger_before(
    ledger_of: Callable[[int], NetworkLedger | None],
    time_s: int,
    *,
    high: LedgerPoint,
    low: LedgerPoint | None = None,
) -> LedgerPoint:
    """Return the last ledger whose close time lies before a time.

    Args:
        ledger_of: Looks a ledger up.
        time_s: Unix seconds.
        high: A ledger that closed at or after that time.
        low: A ledger that closed before it, if one is known; else it is searched backwards.

    Returns:
        Sequence and close time; zeros if even the first ledger closed at or after that time.

    Raises:
        GatewayError: The source lacks a ledger on the way, or close times run backwards.
    """
    high_sequence = high.sequence
    step = 1
    while low is None:
        sequence = high_sequence - step
        if sequence < 1:
            low = LedgerPoint(sequence=0, close_time_s=0)
            break
        ledger = _require_ledger(ledger_of, sequence)
        if ledger.close_time_s < time_s:
            low = _point(ledger)
        else:
            high_sequence, step = sequence, 2 * step
    while high_sequence - low.sequence > 1:
        ledger = _require_ledger(ledger_of, (low.sequence + high_sequence) // 2)
        if ledger.close_time_s < time_s:
            low = _point(ledger)
        else:
            high_sequence = ledger.sequence
    return low


def _require_ledger(
    ledger_of: Callable[[int], NetworkLedger | None], sequence: int
) -> NetworkLedger:
    ledger = ledger_of(sequence)
    if ledger is None:
        raise GatewayError(f"ledger {sequence}: got none, want it in the source's history")
    return ledger
