"""Which accounts take part in a transaction, for sources without a history by account.

Horizon's rule, as far as an envelope shows it: the sources, who pays the fee, and whom an operation
names; an asset's issuer does not take part in a payment of it. Accounts that a transaction changes
without being named, as owners of offers on a path, are not found: ours have no offers. What
cannot be read, and contract calls, count for every account whose key stands in them: a fact too
many is looked at by a person, one too few is lost.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final

from stellar_sdk import xdr
from xdrlib3 import Error as UnpackError

_ASSETS: Final = (xdr.Asset, xdr.AssetCode, xdr.ChangeTrustAsset, xdr.TrustLineAsset)
_CONTRACT: Final = frozenset(
    {
        xdr.OperationType.INVOKE_HOST_FUNCTION,
        xdr.OperationType.EXTEND_FOOTPRINT_TTL,
        xdr.OperationType.RESTORE_FOOTPRINT,
    }
)


def takes_part(account: bytes, envelope: bytes, meta: bytes) -> bool:
    """Return whether an account takes part in a transaction.

    Args:
        account: 32 bytes.
        envelope: TransactionEnvelope XDR.
        meta: TransactionMeta XDR of a transaction that was applied.
    """
    if account not in envelope:
        # Only a contract moves an account's balance without naming it in the envelope.
        return account in meta and _is_contract_call(envelope)
    try:
        decoded = xdr.TransactionEnvelope.from_xdr_bytes(envelope)
    except (UnpackError, ValueError, EOFError, TypeError):
        return True
    return account in set(_accounts_of(decoded))


def _is_contract_call(envelope: bytes) -> bool:
    try:
        decoded = xdr.TransactionEnvelope.from_xdr_bytes(envelope)
    except (UnpackError, ValueError, EOFError, TypeError):
        return True
    transaction = _inner_of(decoded)
    return any(operation.body.type in _CONTRACT for operation in transaction.operations)


def _inner_of(envelope: xdr.TransactionEnvelope) -> xdr.Transaction | xdr.TransactionV0:
    bump, plain = envelope.fee_bump, envelope.v1
    if bump is not None:
        plain = bump.tx.inner_tx.v1
    if plain is not None:
        return plain.tx
    if envelope.v0 is None:
        raise ValueError("envelope: got no transaction, want one")
    return envelope.v0.tx


def _accounts_of(envelope: xdr.TransactionEnvelope) -> Iterator[bytes]:
    if envelope.fee_bump is not None:
        yield from _named(envelope.fee_bump.tx.fee_source)
    transaction = _inner_of(envelope)
    if isinstance(transaction, xdr.TransactionV0):
        yield transaction.source_account_ed25519.uint256
    else:
        yield from _named(transaction.source_account)
    for operation in transaction.operations:
        if operation.source_account is not None:
            yield from _named(operation.source_account)
        # What an account's options say of others makes nobody take part.
        if operation.body.set_options_op is None:
            yield from _named(operation.body)


def _named(value: object) -> Iterator[bytes]:
    """Yield all accounts in a decoded value, but no issuers of assets."""
    if isinstance(value, xdr.MuxedAccount):
        key = value.ed25519 or (value.med25519.ed25519 if value.med25519 else None)
        if key is not None:
            yield key.uint256
    elif isinstance(value, xdr.AccountID):
        if value.account_id.ed25519 is not None:
            yield value.account_id.ed25519.uint256
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)
    elif hasattr(value, "__dict__") and not isinstance(value, (*_ASSETS, Enum)):
        for item in vars(value).values():
            yield from _named(item)
