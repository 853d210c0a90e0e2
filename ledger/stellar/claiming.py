"""Claiming: escrow takes the claimable balances that the books know of.

The anchor account is the transaction's source and pays its fee, so nothing goes out of deposits and
no slot is used; escrow is the source of the claims. Only balances that stand in the newest closing
state are claimed: the books know their amounts, and would stop at any other. Deposits are booked
when the claim is in a ledger (`ledger.books.deposits`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stellar_sdk.operation import ClaimClaimableBalance, Operation

from ledger.audit.address import format_account
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import Terms
from ledger.stellar.errors import SeedFileError
from ledger.stellar.gateway import Gateway
from ledger.stellar.rotation import Cosigned, propose
from ledger.stellar.seed_files import read_seed
from ledger.stellar.transacting import OPERATIONS_MAX, Transacting, asset_payment

CLAIMS_MAX: Final = OPERATIONS_MAX
"""Most balances that are claimed at once."""

_TYPE: Final = "00000000"
"""Type of a claimable balance's id, in front of its 32 bytes."""


def claim_operations(terms: Terms, balance_ids: Sequence[bytes]) -> list[Operation]:
    """Return a claim by escrow for each balance, at most a transaction's.

    Raises:
        ValueError: None, or too many.
    """
    if not 1 <= len(balance_ids) <= CLAIMS_MAX:
        raise ValueError(f"balances: got {len(balance_ids)}, want 1 to {CLAIMS_MAX}")
    escrow = format_account(terms.escrow_account)
    return [
        ClaimClaimableBalance(balance_id=_TYPE + balance_id.hex(), source=escrow)
        for balance_id in balance_ids
    ]


def propose_claims(
    gateway: Gateway, terms: Terms, passphrase: str, balance_ids: Sequence[bytes], *, valid_s: int
) -> Cosigned:
    """Return the claims as a transaction that escrow's and the anchor account's signers sign.

    Raises:
        GatewayError: No usable answer.
        TreasuryError: The anchor account does not exist.
    """
    operations = claim_operations(terms, balance_ids)
    return propose(gateway, terms.anchor_account, operations, passphrase, valid_s=valid_s)


def propose_return(
    gateway: Gateway,
    terms: Terms,
    passphrase: str,
    destination: bytes,
    amount_stroops: int,
    *,
    valid_s: int,
) -> Cosigned:
    """Return a payment out of escrow that gives back what the books never saw arrive.

    For a deposit that every source hid until its epoch was sealed: no later epoch can book it,
    since sealed facts are those of the epoch's ledgers, and a rebuild from the chain must find the
    same. Escrow's and the anchor account's signers sign; the DAO then rules `ignore` on it, and
    books and chain tell one balance again.

    Raises:
        GatewayError: No usable answer.
        TreasuryError: The anchor account does not exist.
    """
    asset = (terms.asset_code, terms.asset_issuer)
    payment = asset_payment(terms.escrow_account, destination, asset, amount_stroops)
    return propose(gateway, terms.anchor_account, [payment], passphrase, valid_s=valid_s)


def seeds_of(folder: Path, accounts: Sequence[bytes]) -> list[bytes]:
    """Return the seeds of accounts from the `*.seed` files of a folder, in order.

    Raises:
        SeedFileError: A file cannot be used, or an account has none.
    """
    found = {public_key_of(seed): seed for seed in map(read_seed, sorted(folder.glob("*.seed")))}
    for account in accounts:
        if account not in found:
            raise SeedFileError(f"{folder}: got no seed of {format_account(account)}, want one")
    return [found[account] for account in accounts]


def claim(
    gateway: Gateway,
    terms: Terms,
    passphrase: str,
    balance_ids: Sequence[bytes],
    seeds: Sequence[bytes],
) -> bytes:
    """Claim at once with the anchor account's and escrow's own seeds; returns the hash.

    Raises:
        GatewayError: No usable answer.
        NotSubmittedError: The transaction had no effect.
    """
    work = (claim_operations(terms, balance_ids), seeds)
    return Transacting(gateway, passphrase).apply_all([work])[0]
