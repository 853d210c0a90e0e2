"""Stopping: what stands still when something is wrong, and how it goes on.

A halt waits for a person: of the whole domain, or of one account's lane. A pause of a lane is for
want of XLM: it ends by itself after some ledgers, and begins anew if the account is still short.
All of them are rows, so a second worker and the next process stand still too. Where the facts
themselves cannot be read or believed, everything stands still under a name, until they can.
"""

import logging
from typing import Final

from ledger.stellar.domain import SettlementDomain
from ledger.stellar.errors import GatewayError
from ledger.stellar.failures import Reaction
from ledger.stellar.gateway import NATIVE, Gateway, NetworkLedger
from ledger.store import halt_store, stop_store
from ledger.store.engine import Session, SessionFactory
from ledger.store.halt_store import HaltName
from ledger.store.settlement_store import count_halted
from ledger.store.stop_store import DOMAIN, Stop

_log = logging.getLogger(__name__)

UNPLANNED = "unplanned"
"""Cause: a transaction that nobody planned."""

UNPROVEN = "unproven"
"""Cause: a batch that does not stand in the anchored log."""

FACT_HALTS: Final = (HaltName.UNREADABLE_TRANSACTION, HaltName.CONFLICTING_FACTS)
"""Named halts that end with the first tick that reads all facts."""

OTHER_HISTORY = "other_history"
"""Cause: the network contradicts what it said before."""


def halt(
    session: Session,
    domain: SettlementDomain,
    *,
    cause: str,
    reason: str,
    now: NetworkLedger,
    account: bytes = DOMAIN,
) -> None:
    """Stop everything, or an account's lane, until a person has looked; in the caller's commit."""
    if stop_store.open_stop(
        session,
        domain.broadcaster,
        account=account,
        is_halt=True,
        cause=cause,
        reason=reason,
        ledger_sequence=now.sequence,
    ):
        where = "everything" if account == DOMAIN else f"the lane of {account.hex()}"
        _log.error("halted %s: %s: %s", where, cause, reason)


def stop_for(
    session: Session,
    domain: SettlementDomain,
    reaction: Reaction,
    *,
    cause: str,
    reason: str,
    now: NetworkLedger,
    account: bytes,
) -> None:
    """Stop what a reaction says, if it says so; in the caller's commit."""
    if reaction == Reaction.HALT:
        halt(session, domain, cause=cause, reason=reason, now=now)
    elif reaction == Reaction.HALT_LANE:
        halt(session, domain, cause=cause, reason=reason, now=now, account=account)
    elif reaction == Reaction.PAUSE_LANE and stop_store.open_stop(
        session,
        domain.broadcaster,
        account=account,
        is_halt=False,
        cause=cause,
        reason=reason,
        ledger_sequence=now.sequence,
    ):
        _log.error("account %s: top it up with XLM: %s: %s", account.hex(), cause, reason)


def note_facts(
    sessions: SessionFactory,
    domain: SettlementDomain,
    name: HaltName | None,
    detail: str,
    now: NetworkLedger | None,
) -> None:
    """Open the halt that says what is wrong with the facts, or close those that are over.

    Args:
        sessions: One commit is made, if anything changes.
        domain: Whose facts.
        name: One of `FACT_HALTS`; None: all facts were read.
        detail: What people read.
        now: Newest closed ledger, if one was told.
    """
    sequence = 0 if now is None else now.sequence
    with sessions() as session:
        known = {halt.name for halt in halt_store.load_halts(session, domain.broadcaster)}
    if name is not None:
        if name not in known:
            with sessions.begin() as session:
                halt_store.open_halt(
                    session, domain.broadcaster, name, detail, ledger_sequence=sequence
                )
            _log.error("payouts stop: %s: %s", name, detail)
        return
    for over in known & set(FACT_HALTS):
        with sessions.begin() as session:
            halt_store.clear_halt(session, domain.broadcaster, over, ledger_sequence=sequence)
        _log.warning("payouts go on: %s is over", over)


def load_stops(sessions: SessionFactory, domain: SettlementDomain) -> tuple[Stop, ...]:
    """Return what stands still now."""
    with sessions() as session:
        return stop_store.load_stops(session, domain.broadcaster)


def is_halted(sessions: SessionFactory, domain: SettlementDomain) -> bool:
    """Tell whether everything stands still: by a halt here, or a named one of `book_watch`."""
    with sessions() as session:
        return count_halted(session, domain.broadcaster) > 0


def lift_pauses(sessions: SessionFactory, domain: SettlementDomain, now: NetworkLedger) -> None:
    """Try the lanes again that were paused long enough."""
    due = [
        stop
        for stop in load_stops(sessions, domain)
        if not stop.is_halt and now.sequence - stop.since_ledger >= domain.policy.pause_ledgers
    ]
    for stop in due:
        with sessions.begin() as session:
            stop_store.lift_stop(
                session,
                domain.broadcaster,
                stop.id,
                ledger_sequence=now.sequence,
                why="tried again",
            )


def holdings_text(gateway: Gateway, account: bytes) -> str:
    """Return what an account holds of XLM, for people."""
    try:
        view = gateway.account(account)
    except GatewayError:
        return "an unknown amount of XLM"
    return f"{0 if view is None else view.balances.get(NATIVE, 0)} stroops of XLM"
