"""Folding: network facts into balances, deposits, decided batches and the XLM book.

Every transaction on an account of the settlement domain passes here in the order of the chain. One
that moved our money and belongs to no deposit or planned batch stops the books: nobody may guess
what it was. Reference: Stellar's rule that a slot (channel account, sequence) applies at most once.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import TypeAlias

from ledger.books.deciding import apply_batch, isolate, void_batch
from ledger.books.deposits import fold_movement
from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.ruling import book_as_ruled
from ledger.books.slots import source_of_batch
from ledger.books.state import OpenBatch
from ledger.books.transactions import AppliedTransaction
from ledger.evidence.instruction import Booking
from ledger.evidence.leaf import burn_hash, opening_hash
from ledger.evidence.terms import Terms

Slots: TypeAlias = dict[tuple[bytes, int], int]
"""(channel account, sequence) → number of the undecided batch."""


def domain_accounts(terms: Terms) -> frozenset[bytes]:
    """Return the accounts of the settlement domain: escrow, payout, anchor, channels, fees."""
    single = (terms.escrow_account, terms.payout_account, terms.anchor_account)
    payers = () if terms.fee_account == bytes(32) else (terms.fee_account,)
    return frozenset((*single, *terms.channel_accounts, *payers))


NO_RULINGS: Mapping[bytes, Booking] = MappingProxyType({})
"""Nothing is ruled."""


def fold_transactions(
    draft: Draft,
    terms: Terms,
    transactions: Iterable[AppliedTransaction],
    rulings: Mapping[bytes, Booking] = NO_RULINGS,
) -> None:
    """Fold transactions, given in chain order, into a draft.

    Args:
        draft: Changed.
        terms: In force.
        transactions: Of the domain's accounts.
        rulings: By the hash of a transaction that nobody planned: how it is booked. A ruling on
            a transaction that the books explain by themselves changes nothing.

    Raises:
        UnknownTransactionError: Money of ours moved by a transaction that no plan explains and
            nobody has ruled on.
    """
    # Channels that newer terms no longer name still hold XLM of ours.
    ours = domain_accounts(terms) | draft.channels.keys()
    slots = {
        (batch.channel_account, batch.channel_sequence): number
        for number, batch in draft.batches.items()
    }
    for transaction in transactions:
        ruling = rulings.get(transaction.tx_hash)
        is_ruled = ruling is not None and not _explains(draft, terms, transaction, slots, ours)
        if ruling is not None and is_ruled:
            slot = (transaction.source_account, transaction.sequence)
            if transaction.is_sequence_consumed and slot in slots:
                # What it was to pay is owed again.
                batch = draft.batches.pop(slots.pop(slot))
                time_s, reference = transaction.close_time_s, transaction.tx_hash
                void_batch(draft, terms, batch, time_s=time_s, reference=reference)
            book_as_ruled(draft, terms, transaction, ruling)
        _fold_network_fee(draft, terms, transaction, ours, is_ruled=is_ruled)
        if not transaction.is_sequence_consumed:
            continue  # it cost a fee and did nothing; a batch of its slot is still undecided
        if not is_ruled:
            _fold_planned(draft, terms, transaction, slots, ours)
        _fold_native_movements(draft, transaction, ours)
        _open_channels(draft, terms, transaction)


def _explains(
    draft: Draft,
    terms: Terms,
    transaction: AppliedTransaction,
    slots: Slots,
    ours: AbstractSet[bytes],
) -> bool:
    """Tell whether the books can book a transaction without a ruling; changes nothing."""
    trial = draft.copy()
    try:
        _fold_network_fee(trial, terms, transaction, ours)
        if transaction.is_sequence_consumed:
            _fold_planned(trial, terms, transaction, dict(slots), ours)
    except UnknownTransactionError:
        return False
    return True


def _fold_planned(
    draft: Draft,
    terms: Terms,
    transaction: AppliedTransaction,
    slots: Slots,
    ours: AbstractSet[bytes],
) -> None:
    batch_number = _batch_of_slot(slots, transaction, terms)
    if batch_number is not None:
        _decide_batch(draft, terms, transaction, batch_number)
    elif transaction.succeeded:
        for movement in transaction.movements:
            fold_movement(draft, terms, transaction, movement, ours)


def _fold_network_fee(
    draft: Draft,
    terms: Terms,
    transaction: AppliedTransaction,
    ours: AbstractSet[bytes],
    *,
    is_ruled: bool = False,
) -> None:
    holders = {terms.escrow_account, terms.payout_account}
    is_priced = terms.asset_issuer == bytes(32) and transaction.fee_account in holders
    if is_priced and not is_ruled:
        raise UnknownTransactionError(
            f"transaction {transaction.tx_hash.hex()}: took its network fee of "
            f"{transaction.fee_charged_stroops} stroops out of deposits, "
            "want another account to pay it"
        )
    if transaction.fee_account in ours and transaction.fee_charged_stroops:
        draft.spend_xlm(
            transaction.fee_account,
            transaction.fee_charged_stroops,
            transaction.close_time_s,
            transaction.tx_hash,
            is_fee=True,
        )


def _batch_of_slot(slots: Slots, transaction: AppliedTransaction, terms: Terms) -> int | None:
    """Take the slot's batch: a slot decides one, and is gone.

    Slots of channels that newer terms no longer name are still decided; with none left, such a
    channel is nobody's.
    """
    number = slots.pop((transaction.source_account, transaction.sequence), None)
    if number is not None or transaction.source_account not in terms.channel_accounts:
        return number
    if _is_opening(terms, transaction):
        return None
    raise UnknownTransactionError(
        f"transaction {transaction.tx_hash.hex()}: got sequence {transaction.sequence} of channel "
        f"{transaction.source_account.hex()}, want the slot of an undecided batch"
    )


def _decide_batch(
    draft: Draft, terms: Terms, transaction: AppliedTransaction, batch_number: int
) -> None:
    batch = draft.batches.pop(batch_number)
    time_s, reference = transaction.close_time_s, transaction.tx_hash
    if not transaction.succeeded:
        isolate(draft, batch, transaction.failed_destinations)
    if not transaction.succeeded or _is_burned(draft, batch, transaction):
        # Its payments are owed again, and get a new slot.
        void_batch(draft, terms, batch, time_s=time_s, reference=reference)
        return
    _require_planned(batch, transaction, terms)
    apply_batch(draft, batch, time_s=time_s, reference=reference)


def _is_burned(draft: Draft, batch: OpenBatch, transaction: AppliedTransaction) -> bool:
    """Tell whether a no-op of ours used the batch's slot up; its payees may have to pay alone."""
    isolates = transaction.memo_hash == burn_hash(batch.leaf_hash, isolates=True)
    if transaction.movements or not (
        isolates or transaction.memo_hash == burn_hash(batch.leaf_hash)
    ):
        return False
    if isolates:
        isolate(draft, batch, {payment.account for payment in batch.payments})
    return True


def _require_planned(batch: OpenBatch, transaction: AppliedTransaction, terms: Terms) -> None:
    source = source_of_batch(batch.kind, terms)
    planned = [
        (terms.asset_code, terms.asset_issuer, source, payment.account, payment.amount_stroops)
        for payment in batch.payments
    ]
    moved = [
        (
            movement.asset_code,
            movement.asset_issuer,
            movement.source,
            movement.destination,
            movement.amount_stroops,
        )
        for movement in transaction.movements
    ]
    if planned != moved:
        raise UnknownTransactionError(
            f"transaction {transaction.tx_hash.hex()}: moved {len(moved)} amounts, "
            f"want the {len(planned)} planned payments of its slot"
        )


def _fold_native_movements(
    draft: Draft, transaction: AppliedTransaction, ours: AbstractSet[bytes]
) -> None:
    time_s, reference = transaction.close_time_s, transaction.tx_hash
    for movement in transaction.movements:
        if not movement.is_native or not movement.amount_stroops:
            continue
        if movement.source in ours:
            draft.spend_xlm(
                movement.source, movement.amount_stroops, time_s, reference, is_fee=False
            )
        if movement.is_exact and movement.destination in ours:
            draft.receive_xlm(movement.destination, movement.amount_stroops, time_s, reference)


def _is_opening(terms: Terms, transaction: AppliedTransaction) -> bool:
    """Tell whether a channel account's own no-op says that its slots begin after it."""
    account = transaction.source_account
    is_named = transaction.memo_hash == opening_hash(terms.network_id, account)
    return is_named and not transaction.movements and account in terms.channel_accounts


def _open_channels(draft: Draft, terms: Terms, transaction: AppliedTransaction) -> None:
    """A new account starts at sequence ledger << 32; its first slot is the number after.

    One that was there before its terms were in force, whoever created it, begins after its own
    opening transaction: the numbers before that are nobody's slots.
    """
    if _is_opening(terms, transaction):
        draft.channels[transaction.source_account] = transaction.sequence + 1
    for movement in transaction.movements:
        if movement.creates_account and movement.destination in terms.channel_accounts:
            first_sequence = (transaction.ledger_sequence << 32) + 1
            draft.channels[movement.destination] = first_sequence
