"""Deposits: whose money is it that reached our accounts, by which note, and what is kept apart.

Money arrives by payment, path payment, account creation, account merge (the last two bring XLM), or
as a claimable balance that escrow claims; what counts is what the result says arrived. It is the
broadcaster's when the muxed address it was sent to has the broadcaster's deposit id, when the memo
names the broadcaster (that id as a number or as text, or the account's key as a hash), or when the
broadcaster's own account sent it. Everything else is kept in suspense, by its sender, until it is
claimed or goes back. Not here: batches and the fold itself (`folding`), refunds (`payouts`).
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from hashlib import sha256
from typing import Final

from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.state import ClaimableDeposit, State, SuspenseDeposit
from ledger.books.transactions import AppliedTransaction, Movement
from ledger.evidence.leaf import PAYOUT_REFUND
from ledger.evidence.terms import Terms

CLAIMABLE_MAX: Final = 10_000
"""Most claimable balances the books keep an eye on between epochs; the others cannot be claimed.

Those that the broadcaster's own account made go first, which nobody can forge, then the largest: to
hide one, a stranger has to lock up as many that are as large, and the books do not grow.
"""

_DOMAIN: Final = b"swarmledger deposit id v1\0"


def deposit_id(broadcaster_account: bytes) -> int:
    """Return the number by which a deposit names its broadcaster, 0 to 2**63 - 1.

    It stands in the muxed address of escrow, or as number or text memo.
    """
    digest = sha256(_DOMAIN + broadcaster_account).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def is_broadcasters(terms: Terms, transaction: AppliedTransaction, movement: Movement) -> bool:
    """Tell whether what moved is known to be the broadcaster's: muxed id, memo, sender."""
    account = terms.broadcaster_account
    number = deposit_id(account)
    return (
        number in {movement.destination_id, transaction.memo_id}
        or transaction.memo_text == str(number).encode()
        or account in {transaction.memo_hash, movement.source}
    )


def cover_of(opening: State, terms: Terms, transactions: Iterable[AppliedTransaction]) -> int:
    """Return what the deposits cover at a seal, below 0 if more was charged than deposited.

    That is what is unspent in the opening state, less refunds under way, with the deposits that the
    epoch's transactions bring.
    """
    cover_stroops = opening.unspent_stroops - sum(
        batch.total_stroops for batch in opening.batches.values() if batch.kind == PAYOUT_REFUND
    )
    offered = dict(opening.claimable)
    holders = {terms.escrow_account, terms.payout_account}
    for transaction in transactions:
        for movement in transaction.movements:
            is_known = is_broadcasters(terms, transaction, movement)
            is_priced_one = movement.is_exact and is_priced(terms, movement)
            if movement.balance_id and not movement.claimants:
                is_ours = movement.source == terms.escrow_account
                claimed = offered.pop(movement.balance_id, None) if is_ours else None
                if claimed is not None and claimed.is_known:
                    cover_stroops += claimed.amount_stroops
            elif is_priced_one and terms.escrow_account in movement.claimants:
                offered[movement.balance_id] = ClaimableDeposit(
                    sender=movement.source,
                    amount_stroops=movement.amount_stroops,
                    is_known=is_known,
                )
            elif (
                is_priced_one
                and is_known
                and movement.destination == terms.escrow_account
                and movement.source not in holders
            ):
                cover_stroops += movement.amount_stroops
    return cover_stroops


def fold_movement(
    draft: Draft,
    terms: Terms,
    transaction: AppliedTransaction,
    movement: Movement,
    ours: AbstractSet[bytes],
) -> None:
    """Book one movement of a successful transaction that is no planned batch.

    Args:
        draft: Changed.
        terms: In force.
        transaction: The movement's.
        movement: To or from anybody.
        ours: Accounts of the settlement domain.

    Raises:
        UnknownTransactionError: Money of ours moved, and no plan explains it.
    """
    if _claim(draft, terms, transaction, movement):
        return
    if not movement.is_exact and movement.source in ours:
        raise UnknownTransactionError(
            f"transaction {transaction.tx_hash.hex()}: a conversion or claim by "
            f"{movement.source.hex()} whose amounts the result does not tell, "
            "want planned payments only"
        )
    if not movement.is_exact or not is_priced(terms, movement):
        return  # somebody else traded, or it is no money that the books owe
    if movement.source in {terms.escrow_account, terms.payout_account}:
        raise UnknownTransactionError(
            f"transaction {transaction.tx_hash.hex()}: moved {movement.amount_stroops} stroops out "
            f"of {movement.source.hex()}, want a planned batch"
        )
    is_known = is_broadcasters(terms, transaction, movement)
    if movement.destination in {terms.escrow_account, terms.payout_account}:
        deposit = ClaimableDeposit(
            sender=movement.source, amount_stroops=movement.amount_stroops, is_known=is_known
        )
        take_in(draft, terms, transaction, movement, deposit)
    elif terms.escrow_account in movement.claimants:
        draft.claimable[movement.balance_id] = ClaimableDeposit(
            sender=movement.source, amount_stroops=movement.amount_stroops, is_known=is_known
        )


def forget_small_offers(draft: Draft, rows_max: int | None = None) -> None:
    """Keep the claimable balances that matter most, so that dust neither hides them nor piles up.

    Args:
        draft: Changed.
        rows_max: How many stay; None: `CLAIMABLE_MAX`.
    """
    most = CLAIMABLE_MAX if rows_max is None else rows_max
    if len(draft.claimable) > most:
        broadcaster = draft.opening.broadcaster_account
        draft.claimable = dict(rank_offers(draft.claimable, broadcaster)[:most])


def rank_offers(
    offers: Mapping[bytes, ClaimableDeposit], broadcaster_account: bytes
) -> list[tuple[bytes, ClaimableDeposit]]:
    """Return claimable balances by what they matter: the broadcaster's own, then the largest."""
    return sorted(
        offers.items(),
        key=lambda item: (item[1].sender != broadcaster_account, -item[1].amount_stroops, item[0]),
    )


def is_priced(terms: Terms, movement: Movement) -> bool:
    """Tell whether it moved the asset that the terms price."""
    asset = (movement.asset_code, movement.asset_issuer)
    return asset == (terms.asset_code, terms.asset_issuer)


def _claim(draft: Draft, terms: Terms, transaction: AppliedTransaction, movement: Movement) -> bool:
    """Book a claimable balance that escrow took; tells whether it was a known one."""
    is_claim = bool(movement.balance_id) and not movement.claimants
    if not is_claim or movement.source != terms.escrow_account:
        return False
    deposit = draft.claimable.pop(movement.balance_id, None)
    if deposit is None:
        return False
    take_in(draft, terms, transaction, movement, deposit)
    return True


def take_in(
    draft: Draft,
    terms: Terms,
    transaction: AppliedTransaction,
    movement: Movement,
    deposit: ClaimableDeposit,
) -> None:
    """Book what arrived: the broadcaster's, or in suspense by its sender."""
    time_s, reference = transaction.close_time_s, transaction.tx_hash
    is_stray = movement.destination == terms.payout_account
    if not deposit.amount_stroops:
        return
    if is_stray:
        draft.stray_payout_deposit(deposit.amount_stroops, time_s, reference)
    else:
        draft.deposit(
            deposit.amount_stroops, known=deposit.is_known, time_s=time_s, reference=reference
        )
        if deposit.is_known:
            return
    # What creates an account is its reserve: it cannot go back while the account lives.
    if deposit.sender != bytes(32) and not movement.creates_account:
        draft.suspense[reference, movement.operation_index] = SuspenseDeposit(
            sender=deposit.sender,
            amount_stroops=deposit.amount_stroops,
            close_s=time_s,
            in_payout=is_stray,
        )
