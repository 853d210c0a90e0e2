"""Making accounts' signers as wanted: operations, set-up with the accounts' own keys, and rotation.

Set-up hands accounts from their own keys over to settlers; it can be run again, and looks at the
chain afterwards. Rotation changes signers of accounts whose own keys sign no more: it builds one
transaction, to which those who sign for the accounts add signatures. Its source and the signatures
are `ledger.stellar.rotation`'s.
"""

from collections.abc import Mapping, Sequence

from stellar_sdk import Signer as AccountSigner
from stellar_sdk.operation import Operation, SetOptions

from ledger.audit.address import format_account
from ledger.evidence.keys import public_key_of
from ledger.stellar.errors import TreasuryError
from ledger.stellar.gateway import Gateway
from ledger.stellar.signing import Threshold
from ledger.stellar.transacting import OPERATIONS_MAX, SIGNATURES_MAX, Transacting
from ledger.stellar.treasury import SignerSet, Treasury, describe_differences, read_signers


def signer_operations(account: bytes, found: SignerSet, wanted: SignerSet) -> list[Operation]:
    """Return the operations that turn an account's signers into the wanted ones.

    New signers first, thresholds and the account's own key last: no operation in between locks
    anybody out. Signers of other kinds are not touched.
    """
    source = format_account(account)
    others = sorted((found.weights.keys() | wanted.weights.keys()) - {account})
    changes = [
        (key, wanted.weights.get(key, 0))
        for key in others
        if found.weights.get(key, 0) != wanted.weights.get(key, 0)
    ]
    operations: list[Operation] = [
        SetOptions(
            signer=AccountSigner.ed25519_public_key(format_account(key), weight), source=source
        )
        for key, weight in sorted(changes, key=lambda change: (change[1] == 0, change[0]))
    ]
    own = wanted.weights.get(account, 0)
    if found.thresholds != wanted.thresholds or found.weights.get(account, 0) != own:
        low, medium, high = wanted.thresholds
        operations.append(
            SetOptions(
                master_weight=own,
                low_threshold=low,
                med_threshold=medium,
                high_threshold=high,
                source=source,
            )
        )
    return operations


def set_up_signers(
    gateway: Gateway,
    passphrase: str,
    treasury: Treasury,
    *,
    payer_seed: bytes,
    account_seeds: Sequence[bytes],
) -> dict[bytes, SignerSet]:
    """Give the treasury's accounts their signers; running it again changes nothing.

    Args:
        gateway: Where it is sent and checked.
        passphrase: Of the network.
        treasury: What is wanted.
        payer_seed: Of the account whose sequence numbers and fees are used; none of the treasury's.
        account_seeds: Of the treasury's accounts that are still signed for by their own keys.

    Returns:
        Account → its signers, as the chain has them afterwards.

    Raises:
        GatewayError: The network gave no usable answer.
        NotSubmittedError: A transaction had no effect.
        TreasuryError: An account's own key cannot change it, or the chain has other signers after.
    """
    seeds = {public_key_of(seed): seed for seed in account_seeds}
    found = read_signers(gateway, treasury.accounts)
    work: list[tuple[list[Operation], list[bytes]]] = []
    for account in describe_differences(treasury, found):
        operations = _own_operations(account, found, treasury)
        if account not in seeds:
            raise TreasuryError(
                f"{format_account(account)}: got no seed, want it to change signers"
            )
        fits = work and (
            len(work[-1][0]) + len(operations) <= OPERATIONS_MAX
            and len(work[-1][1]) < SIGNATURES_MAX
        )
        if not fits:
            work.append(([], [payer_seed]))
        work[-1][0].extend(operations)
        work[-1][1].append(seeds[account])
    transacting = Transacting(gateway, passphrase)
    for one in work:
        # One after another: all of them take their sequence number from the payer.
        transacting.apply_all([one])
    return require_signers(gateway, treasury)


def _own_operations(
    account: bytes, found: Mapping[bytes, SignerSet], treasury: Treasury
) -> list[Operation]:
    """Return the changes of an account that its own key alone can sign for."""
    signers = found.get(account)
    if signers is None:
        raise TreasuryError(f"{format_account(account)}: got no such account, want it created")
    if signers.weights.get(account, 0) < signers.need(Threshold.HIGH):
        raise TreasuryError(
            f"{format_account(account)}: its own key signs for it no more, want a rotation"
        )
    if signers.foreign:
        raise TreasuryError(f"{format_account(account)}: got signers of other kinds, want none")
    return signer_operations(account, signers, treasury.wanted(account))


def require_signers(gateway: Gateway, treasury: Treasury) -> dict[bytes, SignerSet]:
    """Return the treasury's signers as the chain has them.

    Raises:
        GatewayError: No usable answer.
        TreasuryError: They differ from what is wanted.
    """
    found = read_signers(gateway, treasury.accounts)
    differences = describe_differences(treasury, found)
    if differences:
        account, lines = next(iter(differences.items()))
        raise TreasuryError(
            f"{len(differences)} accounts differ, first {format_account(account)}: {lines[0]}"
        )
    return found


def rotation_operations(
    treasury: Treasury, found: Mapping[bytes, SignerSet]
) -> tuple[list[Operation], tuple[bytes, ...]]:
    """Return the operations that make every account as wanted, and which accounts they change.

    Raises:
        TreasuryError: An account does not exist, or it takes more than one transaction.
    """
    operations: list[Operation] = []
    changed: list[bytes] = []
    for account in describe_differences(treasury, found):
        if account not in found:
            raise TreasuryError(f"{format_account(account)}: got no such account, want it created")
        operations += signer_operations(account, found[account], treasury.wanted(account))
        changed.append(account)
    if len(operations) > OPERATIONS_MAX:
        raise TreasuryError(
            f"rotation: got {len(operations)} operations, want at most {OPERATIONS_MAX}; "
            "change fewer signers at once"
        )
    return operations, tuple(changed)
