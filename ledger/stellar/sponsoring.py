"""Sponsoring: accounts and trustlines for payees who have none, within a budget.

Creating an account needs no signature of its owner, and doing it twice changes nothing. A trustline
does need its owner's: for it a transaction is prepared in which the sponsor takes on the reserve;
it has the sponsor's signature, and is good for nothing until the owner has signed and sent it.
Reference: CAP-33. Budgets are XLM stroops that leave the sponsor for good or are locked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stellar_sdk import (
    Asset,
    LedgerBounds,
    MuxedAccount,
    Preconditions,
    TimeBounds,
    Transaction,
    TransactionEnvelope,
)
from stellar_sdk.operation import (
    BeginSponsoringFutureReserves,
    ChangeTrust,
    EndSponsoringFutureReserves,
)

from ledger.audit.address import format_account
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import Terms
from ledger.stellar.envelopes import sign_envelope
from ledger.stellar.errors import NotSubmittedError
from ledger.stellar.gateway import Gateway
from ledger.stellar.signing import Demand, SeedSigner, Threshold
from ledger.stellar.transacting import OPERATIONS_MAX, Transacting, account_creation

ACCOUNT_UNITS: Final = 2
"""Reserve units of an account without entries."""

START_STROOPS: Final = 100_000
"""XLM above the reserve that a new account starts with: the fees of its first transactions."""

OFFER_LEDGERS: Final = 17_280
"""Ledgers that a prepared transaction waits for its owner: about a day."""

OFFER_S: Final = 86_400
FEE_STROOPS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sponsored:
    """What was done within the budget."""

    created: tuple[bytes, ...]
    left_out: tuple[bytes, ...]
    """Accounts for which the budget had nothing left."""

    spent_stroops: int


def create_accounts(
    gateway: Gateway,
    passphrase: str,
    accounts: Sequence[bytes],
    sponsor_seed: bytes,
    *,
    budget_stroops: int,
) -> Sponsored:
    """Create accounts with little more than the XLM that they need, as far as the budget goes.

    Raises:
        GatewayError: The network gave no usable answer; what was created stays.
        NotSubmittedError: A transaction had no effect.
    """
    sponsor = public_key_of(sponsor_seed)
    reserve_stroops = gateway.fee_statistics().base_reserve_stroops
    each_stroops = ACCOUNT_UNITS * reserve_stroops + START_STROOPS
    missing = [account for account in accounts if gateway.account(account) is None]
    chosen = missing[: budget_stroops // each_stroops]
    transacting = Transacting(gateway, passphrase)
    for at in range(0, len(chosen), OPERATIONS_MAX):
        creations = [
            account_creation(sponsor, account, each_stroops)
            for account in chosen[at : at + OPERATIONS_MAX]
        ]
        transacting.apply_all([(creations, [sponsor_seed])])
    return Sponsored(
        created=tuple(chosen),
        left_out=tuple(missing[len(chosen) :]),
        spent_stroops=len(chosen) * each_stroops,
    )


def offer_trustline(
    gateway: Gateway, passphrase: str, terms: Terms, payee: bytes, sponsor_seed: bytes
) -> bytes:
    """Return a transaction that gives a payee its trustline at the sponsor's cost.

    The payee's account is its source, so nothing of the sponsor's is held up by it; the payee signs
    and sends it with any wallet. It is valid for about a day.

    Returns:
        TransactionEnvelope XDR with the sponsor's signature.

    Raises:
        GatewayError: The network gave no usable answer.
        NotSubmittedError: The payee has no account yet.
    """
    view = gateway.account(payee)
    if view is None:
        raise NotSubmittedError(f"account {format_account(payee)}: not on the network")
    latest, sponsor = gateway.latest_ledger(), public_key_of(sponsor_seed)
    owner, paying = format_account(payee), format_account(sponsor)
    operations = [
        BeginSponsoringFutureReserves(sponsored_id=owner, source=paying),
        ChangeTrust(asset=Asset(terms.asset_code, format_account(terms.asset_issuer))),
        EndSponsoringFutureReserves(),
    ]
    transaction = Transaction(
        source=MuxedAccount(owner),
        sequence=view.sequence + 1,
        fee=FEE_STROOPS,
        operations=list(operations),
        preconditions=Preconditions(
            time_bounds=TimeBounds(0, latest.close_time_s + OFFER_S),
            ledger_bounds=LedgerBounds(0, latest.sequence + OFFER_LEDGERS),
        ),
        v1=True,
    )
    unsigned = TransactionEnvelope(transaction, passphrase)
    demand = Demand(account=sponsor, threshold=Threshold.MEDIUM)
    return sign_envelope(unsigned, (demand,), SeedSigner({sponsor: sponsor_seed})).envelope
