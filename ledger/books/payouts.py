"""Payouts: what to pay next, as a pure function of the state.

Payable = accrued - paid - what undecided batches would pay. Payees at or over the threshold are
paid, by account, in batches of at most the terms' size; a payee whose last payment failed in a
ledger stands alone, so that it cannot take others down. The first batch of an epoch moves the sum
from escrow to the payout account. Every batch gets its slot here, for life.

Where escrow does not cover everybody, the smallest amounts are paid first: whoever claims more than
was ever deposited waits alone, instead of keeping everybody else waiting. Not here: envelopes and
sending (`ledger.stellar`).
"""

from dataclasses import replace

from ledger.books.draft import Draft
from ledger.books.state import OpenBatch
from ledger.evidence.leaf import PAYOUT_FUNDING, PAYOUT_PAYMENTS, Payment, PayoutLeaf, payout_hash
from ledger.evidence.terms import Terms


def plan_payouts(draft: Draft, terms: Terms) -> list[PayoutLeaf]:
    """Plan this epoch's batches, bind each to a slot, and note them in the draft as undecided.

    Nothing is planned while no channel account exists, and nobody whom the escrow does not cover:
    what is owed stays owed.

    Returns:
        Payout leaves in batch order: a funding batch if money must move, then payments.
    """
    payable = _covered(draft, _payable(draft, terms))
    # Undecided payments whose funding failed need money even when nobody new is payable.
    needed_stroops = _funding_needed(draft, sum(payable.values()))
    if not _open_channels(draft, terms) or needed_stroops > _free_escrow(draft):
        return []
    leaves: list[PayoutLeaf] = []
    if needed_stroops:
        funding = Payment(account=terms.payout_account, amount_stroops=needed_stroops)
        leaves.append(_plan_batch(draft, terms, PAYOUT_FUNDING, (funding,)))
    leaves.extend(
        _plan_batch(draft, terms, PAYOUT_PAYMENTS, payments)
        for payments in _grouped(draft, terms, payable)
    )
    return leaves


def _payable(draft: Draft, terms: Terms) -> dict[bytes, int]:
    pending: dict[bytes, int] = {}
    for batch in draft.batches.values():
        if batch.kind == PAYOUT_PAYMENTS:
            for payment in batch.payments:
                pending[payment.account] = pending.get(payment.account, 0) + payment.amount_stroops
    payable: dict[bytes, int] = {}
    for account in sorted(draft.payees):
        amount_stroops = draft.payees[account].owed_stroops - pending.get(account, 0)
        if amount_stroops >= terms.payout_threshold_stroops:
            payable[account] = amount_stroops
    return payable


def _covered(draft: Draft, payable: dict[bytes, int]) -> dict[bytes, int]:
    """Return the payees that escrow can pay beside all undecided payments, small amounts first."""
    free_stroops = _free_escrow(draft)
    new_stroops = 0
    covered: set[bytes] = set()
    for account, amount_stroops in sorted(payable.items(), key=lambda item: (item[1], item[0])):
        new_stroops += amount_stroops
        if _funding_needed(draft, new_stroops) > free_stroops:
            break
        covered.add(account)
    return {account: amount for account, amount in payable.items() if account in covered}


def _undecided(draft: Draft, kind: int) -> int:
    return sum(batch.total_stroops for batch in draft.batches.values() if batch.kind == kind)


def _free_escrow(draft: Draft) -> int:
    """What escrow can give to payees: not fees, not suspense, not what is under way already."""
    head = draft.head
    kept_stroops = head.fees_stroops + head.suspense_stroops + _undecided(draft, PAYOUT_FUNDING)
    return head.escrow_stroops - kept_stroops


def _funding_needed(draft: Draft, new_payments_stroops: int) -> int:
    """What the payout account lacks for all undecided and new payments."""
    to_pay_stroops = new_payments_stroops + _undecided(draft, PAYOUT_PAYMENTS)
    has_stroops = draft.head.payout_stroops + _undecided(draft, PAYOUT_FUNDING)
    return max(0, to_pay_stroops - has_stroops)


def _grouped(draft: Draft, terms: Terms, payable: dict[bytes, int]) -> list[tuple[Payment, ...]]:
    together: list[Payment] = []
    alone: list[tuple[Payment, ...]] = []
    for account, amount_stroops in payable.items():
        payment = Payment(account=account, amount_stroops=amount_stroops)
        if draft.payees[account].pays_alone:
            alone.append((payment,))
        else:
            together.append(payment)
    size = terms.batch_payments
    groups = [tuple(together[at : at + size]) for at in range(0, len(together), size)]
    return groups + alone


def _open_channels(draft: Draft, terms: Terms) -> list[bytes]:
    """Return the terms' channels that are on the network; earlier terms' get no new slot."""
    return sorted(draft.channels.keys() & set(terms.channel_accounts))


def _plan_batch(draft: Draft, terms: Terms, kind: int, payments: tuple[Payment, ...]) -> PayoutLeaf:
    """Bind a batch to the next slot: channels take turns by batch number."""
    number = draft.head.next_batch_number
    channels = _open_channels(draft, terms)
    channel = channels[number % len(channels)]
    sequence = draft.channels[channel]
    draft.channels[channel] = sequence + 1
    draft.head = replace(draft.head, next_batch_number=number + 1)
    leaf = PayoutLeaf(
        network_id=terms.network_id,
        epoch=draft.epoch,
        batch_number=number,
        kind=kind,
        channel_account=channel,
        channel_sequence=sequence,
        reference_ledger_sequence=draft.head.last_ledger_sequence,
        reference_close_s=draft.head.last_ledger_close_s,
        fee_bid_stroops=terms.fee_bid_stroops,
        asset_code=terms.asset_code,
        asset_issuer=terms.asset_issuer,
        source_account=terms.escrow_account if kind == PAYOUT_FUNDING else terms.payout_account,
        payments=payments,
    )
    draft.batches[number] = OpenBatch(
        kind=kind,
        channel_account=channel,
        channel_sequence=sequence,
        leaf_hash=payout_hash(leaf),
        payments=payments,
    )
    return leaf
