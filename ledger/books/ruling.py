"""Ruling: how a transaction that nobody planned is booked, once the DAO has said so.

What it brought to escrow or payout account stands in suspense and goes back to its sender; what it
took is a loss of the broadcaster's deposits; what it moved between the two accounts only moves. A
ruling never touches a transaction that the books explain by themselves: `folding` asks here only
about one that stopped them. Not here: who may rule (`instructing`).
"""

from ledger.books.deposits import is_priced, take_in
from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.journal import Account
from ledger.books.state import ClaimableDeposit
from ledger.books.transactions import AppliedTransaction
from ledger.evidence.instruction import Booking
from ledger.evidence.terms import Terms


def book_as_ruled(
    draft: Draft, terms: Terms, transaction: AppliedTransaction, booking: Booking
) -> None:
    """Book what a transaction did to escrow and payout account, as the ruling says.

    What its result does not tell is taken from the bound that its envelope sets.

    Raises:
        UnknownTransactionError: It took money, and the ruling says that it only brought some.
    """
    if booking == Booking.IGNORE:
        return
    time_s, reference = transaction.close_time_s, transaction.tx_hash
    holders = {terms.escrow_account: Account.ESCROW, terms.payout_account: Account.PAYOUT}
    taken: list[tuple[Account, int]] = []
    if terms.asset_issuer == bytes(32) and transaction.fee_account in holders:
        taken.append((holders[transaction.fee_account], transaction.fee_charged_stroops))
    for movement in transaction.movements:
        if not is_priced(terms, movement):
            continue
        source = holders.get(movement.source)
        destination = holders.get(movement.destination)
        if source == destination:
            continue
        if destination is not None and source is None and movement.is_exact:
            brought = ClaimableDeposit(
                sender=movement.source, amount_stroops=movement.amount_stroops, is_known=False
            )
            take_in(draft, terms, transaction, movement, brought)
        elif destination is None and source is not None:
            taken.append((source, movement.amount_stroops))
        elif source is not None:
            is_funding = source == Account.ESCROW
            amount_stroops = movement.amount_stroops if is_funding else -movement.amount_stroops
            draft.fund(amount_stroops, time_s, reference)
    for account, amount_stroops in taken:
        if booking == Booking.SUSPENSE and amount_stroops:
            raise UnknownTransactionError(
                f"transaction {reference.hex()}: took {amount_stroops} stroops, "
                "want a ruling that books a loss"
            )
        if amount_stroops:
            draft.lose(account, amount_stroops, time_s, reference)
