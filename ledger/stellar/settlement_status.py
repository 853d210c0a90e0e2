"""Settlement status: escrow against books, what is covered, and what a person does next.

Read from the database alone, so it answers while every API is away. Not here: batches and stops
themselves (`settlement_command`); docs/settlement.md says more about each step.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ledger.audit.address import format_account
from ledger.books.deposits import rank_offers
from ledger.books.slots import reserve_stroops
from ledger.evidence.terms import Terms
from ledger.store import halt_store, stop_store
from ledger.store.coverage_store import (
    level_of,
    newest_computed_epoch,
    refund_of,
    sum_deposits_after,
    sum_pending_bytes,
)
from ledger.store.engine import Session
from ledger.store.epoch_store import load_closing_state
from ledger.store.halt_store import HaltName
from ledger.store.shard_store import Shard

SHOWN_MAX: Final = 20
"""Most open balances that are listed."""

NEXT_STEPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        HaltName.UNKNOWN_TRANSACTION: (
            "find out who signed the transaction; if a key is lost, rotate it first; then the DAO "
            "rules how it is booked (swarmledger instruct rule)"
        ),
        HaltName.BALANCE_DEFICIT: (
            "compare the account's history on the network with the facts; a clawback or theft is "
            "ruled on, a source that hides transactions is replaced"
        ),
        HaltName.BALANCE_SURPLUS: (
            "compare the account's history on the network with the facts; what a contract brought "
            "is tolerated with SURPLUS_MAX_STROOPS, a source that hides transactions is replaced; "
            "what it hid too long is returned (swarmledger settlement give-back)"
        ),
        HaltName.UNREADABLE_TRANSACTION: (
            "find out who signed the transaction; install a release that knows its operation: it "
            "goes on by itself then"
        ),
        HaltName.CONFLICTING_FACTS: (
            "compare the transaction on sources of other operators; replace the one that is wrong: "
            "it goes on by itself then"
        ),
        "out": (
            "deposit (the link of swarmledger broadcaster init); until then receipts are refused"
        ),
        "low": "deposit soon (the link of swarmledger broadcaster init)",
        "halt": "look at the reason; when it is settled: swarmledger settlement resume STOP",
        "pause": "wait, or give the account XLM; it ends by itself",
        "claimable": "claim the balances: swarmledger settlement claim",
    }
)
"""What an operator does about each halt, level and find."""


def describe_money(
    session: Session, shard: Shard, terms: Terms, *, low_balance_stroops: int = 0
) -> dict[str, Any]:
    """Return escrow against books as a JSON object: booked, proven on the network, still free."""
    epoch = newest_computed_epoch(session, shard)
    state = None if epoch is None else load_closing_state(session, shard, epoch)
    pending_bytes = sum_pending_bytes(session, shard, -1 if epoch is None else epoch)
    pending = -(-pending_bytes * terms.price_stroops // terms.price_quantity_bytes)
    if state is None or epoch is None:
        free = sum_deposits_after(session, shard, terms, 0) - pending
        free -= 2 * reserve_stroops(terms)
        level = level_of(free, low_balance_stroops)
        return {"epoch": None, "free_stroops": free, "level": str(level), "claimable": []}
    head = state.head
    fresh = sum_deposits_after(session, shard, terms, head.last_ledger_sequence)
    refund = refund_of(state, terms)
    reserve = 2 * reserve_stroops(terms)
    free = state.unspent_stroops - refund + fresh - pending - reserve
    proofs = halt_store.load_proofs(session, shard.account, epoch)
    proven = halt_store.last_proven_epoch(session, shard.account)
    return {
        "epoch": epoch,
        "as_of_ledger": head.last_ledger_sequence,
        "escrow_stroops": head.escrow_stroops,
        "payout_stroops": head.payout_stroops,
        "unspent_stroops": state.unspent_stroops,
        "refund_stroops": refund,
        "owed_stroops": state.carried_stroops,
        "fees_stroops": head.fees_stroops,
        "suspense_stroops": head.suspense_stroops,
        "lost_stroops": head.lost_stroops,
        "free_stroops": free,
        "level": str(level_of(free, low_balance_stroops)),
        "proven_epoch": proven,
        "network": {
            format_account(proof.account): {
                "stroops": proof.stroops,
                "ledger": proof.ledger_sequence,
            }
            for proof in proofs
        },
        "claimable": [
            {
                "balance_id": balance_id.hex(),
                "sender": format_account(offered.sender),
                "stroops": offered.amount_stroops,
                "is_broadcasters": offered.is_known,
            }
            for balance_id, offered in rank_offers(state.claimable, shard.account)[:SHOWN_MAX]
        ],
    }


def list_next_steps(session: Session, broadcaster: bytes, money: Mapping[str, Any]) -> list[str]:
    """Return what a person does now, most urgent first; empty when there is nothing."""
    steps = [NEXT_STEPS[halt.name] for halt in halt_store.load_halts(session, broadcaster)]
    stops = stop_store.load_stops(session, broadcaster)
    steps += [NEXT_STEPS["halt" if stop.is_halt else "pause"] for stop in stops]
    steps += [NEXT_STEPS[level] for level in (money["level"],) if level in NEXT_STEPS]
    if money["claimable"]:
        steps.append(NEXT_STEPS["claimable"])
    return list(dict.fromkeys(steps))
