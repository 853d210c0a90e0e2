"""Book watch: is everything on our accounts explained, and do books and chain tell one balance?

Between two computed epochs the facts go on. `watch_books` folds those of the epoch in the making
into the newest closing state, as computing that epoch will, so a transaction nobody planned is
found within ledgers instead of at the epoch's end; and what left escrow or payout account without
a slot is found however far the epochs are behind. Once an epoch, or while they differ, it asks the
source what escrow and payout account hold: another one than tells the facts, if there is another,
since invented facts have invented balances. A source says only about when that was true, so
the answer is kept until the facts are complete beyond it, and compared with the books' balance
after every ledger it can be of. Agreement is a stored proof; everything else opens a named halt,
while which nothing is signed or sent. A halt is closed when its cause is found gone.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias
from weakref import WeakKeyDictionary

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.folding import fold_transactions
from ledger.books.state import State
from ledger.books.transactions import AppliedTransaction
from ledger.evidence.terms import Terms
from ledger.stellar.gateway import Gateway
from ledger.store import halt_store as halts
from ledger.store import settlement_store as store
from ledger.store.coverage_store import newest_computed_epoch
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import load_closing_state
from ledger.store.halt_store import BalanceProof, BalanceSample, Halt, HaltName
from ledger.store.shard_store import find_shard

_log = logging.getLogger(__name__)

_Balances: TypeAlias = dict[int, tuple[int, int]]
"""Network ledger → what escrow and payout account hold after it by the books."""

_STATES: WeakKeyDictionary[SessionFactory, dict[bytes, tuple[int, State]]] = WeakKeyDictionary()
"""Newest closing state by broadcaster: a state may have millions of rows, and holds an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the database had when the watch began."""

    epoch: int
    state: State
    complete_sequence: int
    """Facts are complete through this network ledger."""

    transactions: tuple[AppliedTransaction, ...]
    """After the state's last ledger, up to that one."""


def watch_books(
    sessions: SessionFactory, gateway: Gateway, terms: Terms, *, surplus_max_stroops: int = 0
) -> tuple[Halt, ...]:
    """Look whether facts, books and chain agree; returns the halts that hold.

    Nothing is looked at before the first epoch is computed: nothing can be paid before.

    Args:
        sessions: One commit is made, and one more for a new balance.
        gateway: Where balances are read.
        terms: In force.
        surplus_max_stroops: How much more than the books say an account may hold. A contract can
            bring money without a payment, so strangers can make a surplus; nobody can a deficit.

    Raises:
        GatewayError: The source gave no usable answer; what was found before is stored.
    """
    found = _load(sessions, terms)
    if found is None:
        return ()
    balances, unknown = _fold(found, terms)
    broadcaster = terms.broadcaster_account
    with sessions.begin() as session:
        if newest_computed_epoch(session, find_shard(session, broadcaster)) != found.epoch:
            return halts.load_halts(session, broadcaster)  # what explains them may have come since
        _note(session, terms, HaltName.UNKNOWN_TRANSACTION, unknown, found.complete_sequence)
        if not unknown:
            _compare(session, terms, found, balances, surplus_max_stroops)
    _sample(sessions, gateway, terms, found.epoch)
    with sessions() as session:
        return halts.load_halts(session, broadcaster)


def _load(sessions: SessionFactory, terms: Terms) -> _Found | None:
    broadcaster = terms.broadcaster_account
    with sessions() as session:
        shard = find_shard(session, broadcaster)
        epoch = newest_computed_epoch(session, shard)
        complete = store.fact_progress(session, broadcaster)
        if epoch is None or complete is None:
            return None
        known = _STATES.setdefault(sessions, {}).get(broadcaster)
        state = known[1] if known is not None and known[0] == epoch else None
        if state is None:
            state = load_closing_state(session, shard, epoch)
        if state is None:
            return None
        _STATES[sessions][broadcaster] = (epoch, state)
        facts = store.load_facts(
            session,
            broadcaster,
            after_sequence=state.head.last_ledger_sequence,
            through_sequence=complete.sequence,
        )
    return _Found(
        epoch=epoch,
        state=state,
        complete_sequence=complete.sequence,
        transactions=tuple(read_transaction(fact) for fact in facts),
    )


def _fold(found: _Found, terms: Terms) -> tuple[_Balances, str]:
    """Return the books' balances by ledger, and what about a transaction is not explained."""
    head = found.state.head
    balances = {head.last_ledger_sequence: (head.escrow_stroops, head.payout_stroops)}
    if not found.transactions:
        return balances, ""
    draft = Draft.of(found.state)
    # Later ones may be of batches that the next epoch plans.
    end_s = terms.epoch_end_s(found.state.head.next_epoch)
    now = [each for each in found.transactions if each.close_time_s < end_s]
    try:
        for sequence, of_ledger in groupby(now, key=lambda each: each.ledger_sequence):
            fold_transactions(draft, terms, of_ledger)
            balances[sequence] = (draft.head.escrow_stroops, draft.head.payout_stroops)
    except UnknownTransactionError as error:
        return balances, str(error)
    later = found.transactions[len(now) :]
    return balances, _unplannable(later, terms, frozenset(draft.channels))


def booked_escrow(session: Session, terms: Terms, state: State, through_sequence: int) -> int:
    """Return what escrow holds by the books after a network ledger.

    Raises:
        UnknownTransactionError: Something moved money that no plan explains.
    """
    facts = store.load_facts(
        session,
        terms.broadcaster_account,
        after_sequence=state.head.last_ledger_sequence,
        through_sequence=through_sequence,
    )
    draft = Draft.of(state)
    fold_transactions(draft, terms, [read_transaction(fact) for fact in facts])
    return draft.head.escrow_stroops


def _unplannable(
    transactions: Iterable[AppliedTransaction], terms: Terms, channels: frozenset[bytes]
) -> str:
    """Return what no plan of any epoch can explain: money that left us without a slot."""
    holders = {terms.escrow_account, terms.payout_account}
    slots = channels | set(terms.channel_accounts)
    for transaction in transactions:
        if transaction.source_account in slots:
            continue
        for movement in transaction.movements:
            is_claim = bool(movement.balance_id) and not movement.claimants
            if movement.source in holders and not is_claim:
                return (
                    f"transaction {transaction.tx_hash.hex()}: moved money out of "
                    f"{movement.source.hex()}, want a planned batch"
                )
    return ""


def _note(session: Session, terms: Terms, name: HaltName, detail: str, sequence: int) -> None:
    """Open a halt for a reason, or close it if there is none."""
    broadcaster = terms.broadcaster_account
    if detail:
        if halts.open_halt(session, broadcaster, name, detail, ledger_sequence=sequence):
            _log.error("payouts stop: %s: %s", name, detail)
    elif halts.clear_halt(session, broadcaster, name, ledger_sequence=sequence):
        _log.warning("payouts go on: %s is over", name)


def _compare(
    session: Session, terms: Terms, found: _Found, balances: _Balances, surplus_max_stroops: int
) -> None:
    """Compare what a source told with the books, as soon as the facts reach it."""
    broadcaster = terms.broadcaster_account
    samples = halts.load_samples(session, broadcaster)
    last = max((sample.last_ledger for sample in samples), default=found.complete_sequence + 1)
    end_s = terms.epoch_end_s(found.state.head.next_epoch)
    if last > found.complete_sequence or any(
        each.close_time_s >= end_s and each.ledger_sequence <= last for each in found.transactions
    ):
        return  # the facts, or the books, do not reach it yet
    for sample in samples:
        halts.drop_sample(session, broadcaster, sample.account)
    if any(sample.first_ledger < found.state.head.last_ledger_sequence for sample in samples):
        return  # an epoch was computed since: asked again
    differences: dict[HaltName, str] = {}
    for sample in samples:
        place = 0 if sample.account == terms.escrow_account else 1
        booked = _booked_in(balances, sample, place)
        name, detail = _differs(sample, booked, surplus_max_stroops)
        if name is not None:
            differences[name] = detail
            continue
        proof = BalanceProof(
            epoch=found.epoch,
            account=sample.account,
            ledger_sequence=sample.last_ledger,
            stroops=sample.stroops,
        )
        halts.save_proof(session, broadcaster, proof)
    for kind in (HaltName.BALANCE_DEFICIT, HaltName.BALANCE_SURPLUS):
        _note(session, terms, kind, differences.get(kind, ""), found.complete_sequence)


def _booked_in(balances: _Balances, sample: BalanceSample, place: int) -> list[int]:
    """Return the books' balances after every ledger that the sample may be of."""
    before = max(ledger for ledger in balances if ledger <= sample.first_ledger)
    ledgers = [before, *(x for x in balances if sample.first_ledger < x <= sample.last_ledger)]
    return [balances[ledger][place] for ledger in ledgers]


def _differs(
    sample: BalanceSample, booked: Sequence[int], surplus_max_stroops: int
) -> tuple[HaltName | None, str]:
    if sample.stroops in booked:
        return None, ""
    detail = (
        f"account {format_account(sample.account)}: got {sample.stroops} stroops on the network "
        f"in ledgers {sample.first_ledger} to {sample.last_ledger}, want the books' {booked[-1]}"
    )
    surplus_stroops = sample.stroops - max(booked)
    if surplus_stroops < 0:
        return HaltName.BALANCE_DEFICIT, detail
    if surplus_stroops <= surplus_max_stroops:
        _log.warning("tolerated surplus: %s", detail)
        return None, ""
    return HaltName.BALANCE_SURPLUS, detail


def _sample(sessions: SessionFactory, gateway: Gateway, terms: Terms, epoch: int) -> None:
    """Ask for the balances where this epoch has no proof yet, or where they differ."""
    broadcaster = terms.broadcaster_account
    accounts = (terms.escrow_account, terms.payout_account)
    with sessions() as session:
        proven = {proof.account for proof in halts.load_proofs(session, broadcaster, epoch)}
        waiting = {sample.account for sample in halts.load_samples(session, broadcaster)}
        open_names = {halt.name for halt in halts.load_halts(session, broadcaster)}
    differs = bool(open_names - {HaltName.UNKNOWN_TRANSACTION})
    if waiting or (proven >= set(accounts) and not differs):
        return
    samples = [_told(gateway, account, terms) for account in accounts]
    with sessions.begin() as session:
        for sample in samples:
            halts.save_sample(session, broadcaster, sample)


def _told(gateway: Gateway, account: bytes, terms: Terms) -> BalanceSample:
    asset = (terms.asset_code, terms.asset_issuer)
    view = gateway.account(account, assets=(asset,))
    # What was true while it answered: not before it says, not after what it knows now.
    latest = gateway.latest_ledger()
    first = latest.sequence if view is None else view.as_of_sequence
    return BalanceSample(
        account=account,
        first_ledger=min(first, latest.sequence),
        last_ledger=max(first, latest.sequence) + 1,
        stroops=0 if view is None else view.balances.get(asset, 0),
    )
