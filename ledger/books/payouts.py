"""Payouts: what to pay next, as a pure function of the state.

Payable = accrued - paid - what is in its challenge window - what undecided batches would pay.
Payees at or over the threshold, and those that asked to be paid now, are paid where they want it,
by account, in batches of at most the terms' size; a payee whose last payment failed in a ledger
stands alone, so that it cannot take others down. Whoever cannot be paid is carried, with a reason.
The first batch of an epoch moves the sum from escrow to the payout account. Every batch gets its
slot here, for life.

Where escrow does not cover everybody, the smallest amounts are paid first: whoever claims more than
was ever deposited waits alone, instead of keeping everybody else waiting. Not here: refunds
(`refunding`), what a decided batch changes (`deciding`), envelopes and sending (`ledger.stellar`).
"""

from dataclasses import dataclass, replace

from ledger.books.draft import Draft
from ledger.books.refunding import plan_refunds
from ledger.books.slots import (
    forbidden_addresses,
    free_escrow,
    funding_lacking,
    funding_needed,
    open_channels,
    plan_batch,
)
from ledger.books.standing import NOT_READY_BASE, CarryReason, Standing, accepts
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.instruction import Readiness
from ledger.evidence.leaf import PAYOUT_FUNDING, PAYOUT_PAYMENTS, Payment, PayoutLeaf
from ledger.evidence.terms import Terms


def plan_payouts(draft: Draft, terms: Terms) -> list[PayoutLeaf]:
    """Plan this epoch's batches, bind each to a slot, and note them in the draft as undecided.

    Nothing is planned while no channel account exists, and nobody whom the escrow does not cover:
    what is owed stays owed. `draft.reasons` says of everybody who is owed something why.

    Returns:
        Payout leaves in batch order: a funding batch if money must move, payments, refunds.
    """
    _pass_time(draft, terms)
    due = _due(draft, terms)
    has_channel = bool(open_channels(draft, terms))
    covered = _covered(draft, terms, due) if has_channel else {}
    for payee in due:
        carried = CarryReason.NOT_COVERED if has_channel else CarryReason.NO_CHANNEL
        draft.reasons[payee] = CarryReason.PLANNED if payee in covered else carried
    leaves = _plan_payments(draft, terms, covered) if has_channel else []
    if has_channel:
        leaves.extend(plan_refunds(draft, terms))
    _close_cash_outs(draft)
    return leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """What a payee may be paid now, and where."""

    destination: bytes
    amount_stroops: int


def _pass_time(draft: Draft, terms: Terms) -> None:
    """Let challenge windows end, and new addresses come into force, by the epoch's end."""
    now_s = terms.epoch_end_s(draft.epoch)
    draft.maturing = {key: amount for key, amount in draft.maturing.items() if key[1] > now_s}
    for account, standing in draft.standing.items():
        if standing.next_pay_to != ZERO_KEY and standing.next_from_s <= now_s:
            is_own = standing.next_pay_to == account
            draft.standing[account] = replace(
                standing,
                pay_to=ZERO_KEY if is_own else standing.next_pay_to,
                next_pay_to=ZERO_KEY,
                next_from_s=0,
            )


def _due(draft: Draft, terms: Terms) -> dict[bytes, _Due]:
    """Return who may be paid now, by ascending account; notes why of everybody else."""
    pending = _pending(draft)
    waiting: dict[bytes, int] = {}
    for (account, _), amount_stroops in draft.maturing.items():
        waiting[account] = waiting.get(account, 0) + amount_stroops
    forbidden = forbidden_addresses(terms)
    due: dict[bytes, _Due] = {}
    for account in sorted(draft.payees):
        open_stroops = draft.payees[account].owed_stroops - pending.get(account, 0)
        payable_stroops = open_stroops - waiting.get(account, 0)
        standing = draft.standing.get(account, Standing())
        least_stroops = terms.payout_threshold_stroops
        if standing.cash_out_open:
            least_stroops = terms.cash_out_least_stroops
        if payable_stroops < least_stroops:
            is_pending = account in pending
            draft.reasons[account] = _why_small(open_stroops, least_stroops, is_pending=is_pending)
            continue
        destination = account if standing.pay_to == ZERO_KEY else standing.pay_to
        readiness = accepts(draft.seen_accounts.get(destination), payable_stroops)
        if destination in forbidden:
            draft.reasons[account] = CarryReason.FORBIDDEN_ADDRESS
        elif readiness != Readiness.READY:
            draft.reasons[account] = CarryReason(NOT_READY_BASE + readiness)
        else:
            due[account] = _Due(destination=destination, amount_stroops=payable_stroops)
    return due


def _pending(draft: Draft) -> dict[bytes, int]:
    pending: dict[bytes, int] = {}
    for batch in draft.batches.values():
        if batch.kind == PAYOUT_PAYMENTS:
            for place, payment in enumerate(batch.payments):
                payee = batch.payee_at(place)
                pending[payee] = pending.get(payee, 0) + payment.amount_stroops
    return pending


def _why_small(open_stroops: int, least_stroops: int, *, is_pending: bool) -> CarryReason:
    """Say why nothing is paid of an amount that may not be paid, or is too small."""
    if open_stroops >= least_stroops:
        return CarryReason.IN_CHALLENGE
    if is_pending:
        return CarryReason.UNDECIDED
    return CarryReason.BELOW_THRESHOLD if open_stroops else CarryReason.NOTHING_OWED


def _covered(draft: Draft, terms: Terms, due: dict[bytes, _Due]) -> dict[bytes, _Due]:
    """Return the payees that escrow can pay beside all undecided payments, small amounts first.

    Nobody, where not even the undecided payments are covered.
    """
    # Both are sums over all undecided payments: taken once, not for each payee.
    free_stroops, lacking_stroops = free_escrow(draft, terms), funding_lacking(draft, terms)
    new_stroops = 0
    covered: set[bytes] = set()
    for account, one in sorted(due.items(), key=lambda item: (item[1].amount_stroops, item[0])):
        new_stroops += one.amount_stroops
        if max(0, new_stroops + lacking_stroops) > free_stroops:
            break
        covered.add(account)
    return {account: one for account, one in due.items() if account in covered}


def _plan_payments(draft: Draft, terms: Terms, covered: dict[bytes, _Due]) -> list[PayoutLeaf]:
    # Undecided payments whose funding failed need money even when nobody new is payable.
    new_stroops = sum(one.amount_stroops for one in covered.values())
    needed_stroops = funding_needed(draft, terms, new_stroops)
    if needed_stroops > free_escrow(draft, terms):
        return []
    leaves: list[PayoutLeaf] = []
    if needed_stroops:
        funding = Payment(account=terms.payout_account, amount_stroops=needed_stroops)
        leaves.append(plan_batch(draft, terms, PAYOUT_FUNDING, (funding,)))
    for payees in _grouped(draft, terms, covered):
        payments = tuple(
            Payment(
                account=covered[payee].destination, amount_stroops=covered[payee].amount_stroops
            )
            for payee in payees
        )
        leaves.append(plan_batch(draft, terms, PAYOUT_PAYMENTS, payments, payees))
    return leaves


def _grouped(draft: Draft, terms: Terms, covered: dict[bytes, _Due]) -> list[tuple[bytes, ...]]:
    together = [account for account in covered if not draft.payees[account].pays_alone]
    alone = [(account,) for account in covered if draft.payees[account].pays_alone]
    size = terms.batch_payments
    groups = [tuple(together[at : at + size]) for at in range(0, len(together), size)]
    return groups + alone


def _close_cash_outs(draft: Draft) -> None:
    """A cash-out is done once a batch pays, or nothing is owed that could be."""
    done = {CarryReason.PLANNED, CarryReason.NOTHING_OWED}
    for account, standing in draft.standing.items():
        reason = draft.reasons.get(account, CarryReason.NOTHING_OWED)
        if standing.cash_out_open and reason in done:
            draft.standing[account] = replace(standing, cash_out_open=False)
