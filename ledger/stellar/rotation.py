"""Rotating signers: one transaction that people sign one after the other, carried in a file.

The file is JSON: network passphrase, envelope without signatures, signatures. Whoever signs sees
what the envelope does as it is decoded here, not as the file says; only operations that set signers
and thresholds, or that claim a balance for the account itself, are signed, never one that moves
anything away. Exactly the signatures that the chain needs are attached at the end. Changing
settlers is signed by settlers; the operator's own keys can change themselves, and M settlers can
replace them when they are lost.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Final

from stellar_sdk import (
    LedgerBounds,
    MuxedAccount,
    Preconditions,
    StrKey,
    TimeBounds,
    Transaction,
    TransactionEnvelope,
)
from stellar_sdk.exceptions import SdkError
from stellar_sdk.operation import ClaimClaimableBalance, Operation, Payment, SetOptions

from ledger.audit.address import format_account, parse_account
from ledger.evidence.keys import verify
from ledger.stellar.envelopes import (
    SignedEnvelope,
    attach_signatures,
    unsigned_transaction,
)
from ledger.stellar.errors import NotSubmittedError, TreasuryError
from ledger.stellar.gateway import Gateway
from ledger.stellar.seed_files import write_secret
from ledger.stellar.signing import Demand, KeyHolder, KeySignature, Threshold
from ledger.stellar.transacting import FEE_BID_STROOPS
from ledger.stellar.treasury import SignerSet, Treasury, choose_keys, read_signers
from ledger.stellar.treasury_setup import rotation_operations

FORMAT: Final = "swarmledger-cosign/1"
FILE_SIZE_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """A transaction and the signatures it has so far."""

    passphrase: str
    envelope: bytes
    """Without signatures."""

    signatures: tuple[KeySignature, ...] = ()

    def transaction(self) -> TransactionEnvelope:
        """Return the envelope, decoded and the same when encoded again.

        Raises:
            TreasuryError: It is none of ours: it does more than set signers and thresholds, claim
                balances, or give one amount back.
        """
        try:
            text = base64.b64encode(self.envelope).decode()
            found = TransactionEnvelope.from_xdr(text, self.passphrase)
        except (SdkError, ValueError, EOFError) as error:
            raise TreasuryError(f"envelope: {error}") from error
        operations = found.transaction.operations
        if unsigned_transaction(found).envelope != self.envelope or found.signatures:
            raise TreasuryError("envelope: got another one when encoded again, want the same")
        is_return = len(operations) == 1 and _is_return(operations[0])
        if not operations or not all(
            is_return or _is_about_signers(one) or _is_claim(one) for one in operations
        ):
            raise TreasuryError("envelope: got other operations, want signers and thresholds only")
        return found


def _is_about_signers(operation: object) -> bool:
    return (
        isinstance(operation, SetOptions)
        and operation.source is not None
        and operation.inflation_dest is None
        and operation.clear_flags is None
        and operation.set_flags is None
        and operation.home_domain is None
    )


def _is_claim(operation: object) -> bool:
    return isinstance(operation, ClaimClaimableBalance) and operation.source is not None


def _is_return(operation: object) -> bool:
    return isinstance(operation, Payment) and operation.source is not None


def propose_rotation(
    gateway: Gateway,
    treasury: Treasury,
    passphrase: str,
    *,
    fee_account: bytes | None,
    valid_s: int,
) -> Cosigned | None:
    """Return the transaction that makes every account as wanted; None if all are.

    Its source is an account whose sequence numbers nothing else takes, so that nothing makes the
    proposal void while it is signed: the fee account, which the operator signs for as well, if only
    the operator's accounts change, else the escrow account. Never a channel, whose numbers are
    slots, nor the anchor account, which each epoch takes one of.

    Args:
        gateway: Says what is.
        treasury: What is wanted.
        passphrase: Of the network.
        fee_account: One of the treasury's; None: there is none.
        valid_s: Seconds of ledger time in which it has to be signed and sent.

    Raises:
        GatewayError: No usable answer.
        TreasuryError: An account does not exist, or one transaction is not enough.
    """
    found = read_signers(gateway, treasury.accounts)
    operations, changed = rotation_operations(treasury, found)
    if not changed:
        return None
    is_cold = bool(set(changed) & set(treasury.cold))
    source = treasury.cold[0] if is_cold or fee_account is None else fee_account
    return propose(gateway, source, operations, passphrase, valid_s=valid_s)


def propose(
    gateway: Gateway,
    source: bytes,
    operations: Sequence[Operation],
    passphrase: str,
    *,
    valid_s: int,
) -> Cosigned:
    """Return a transaction of an account, to be signed.

    Raises:
        GatewayError: No usable answer.
        TreasuryError: The account does not exist.
    """
    view, latest = gateway.account(source), gateway.latest_ledger()
    if view is None:
        raise TreasuryError(f"{format_account(source)}: got no such account, want it created")
    transaction = Transaction(
        source=MuxedAccount(format_account(source)),
        sequence=view.sequence + 1,
        fee=FEE_BID_STROOPS * len(operations),
        operations=list(operations),
        preconditions=Preconditions(
            time_bounds=TimeBounds(0, latest.close_time_s + valid_s),
            # No network closes more than a ledger a second.
            ledger_bounds=LedgerBounds(0, latest.sequence + valid_s),
        ),
        v1=True,
    )
    unsigned = unsigned_transaction(TransactionEnvelope(transaction, passphrase))
    return Cosigned(passphrase=passphrase, envelope=unsigned.envelope)


def describe_rotation(cosigned: Cosigned) -> list[str]:
    """Return what a transaction does, a line for each operation.

    Raises:
        TreasuryError: It does more than set signers and thresholds.
    """
    lines = []
    for operation in cosigned.transaction().transaction.operations:
        if isinstance(operation, ClaimClaimableBalance) and operation.source is not None:
            lines.append(f"{operation.source.account_id}: claims {operation.balance_id}")
            continue
        if isinstance(operation, Payment) and operation.source is not None:
            asset = "XLM" if operation.asset.is_native() else operation.asset.code
            lines.append(
                f"{operation.source.account_id}: pays {Decimal(operation.amount):f} {asset} to "
                f"{operation.destination.account_id}"
            )
            continue
        if not isinstance(operation, SetOptions) or operation.source is None:
            raise AssertionError("a proven rotation sets options of named accounts")
        account = operation.source.account_id
        if operation.signer is not None:
            key = operation.signer.signer_key.encoded_signer_key
            lines.append(f"{account}: signer {key} gets weight {operation.signer.weight}")
        values = {
            "master weight": operation.master_weight,
            "low": operation.low_threshold,
            "medium": operation.med_threshold,
            "high": operation.high_threshold,
        }
        told = [f"{name} {value}" for name, value in values.items() if value is not None]
        if told:
            lines.append(f"{account}: {', '.join(told)}")
    return lines


def add_signature(cosigned: Cosigned, holder: KeyHolder, key: bytes) -> Cosigned:
    """Return the transaction with one more key's signature; signing twice changes nothing.

    Raises:
        TreasuryError: It does more than set signers and thresholds.
        StellarError: The key's holder gave no usable answer.
    """
    transaction = unsigned_transaction(cosigned.transaction())
    signed = KeySignature(key=key, signature=holder.sign(transaction, key))
    others = [one for one in cosigned.signatures if one.key != key]
    return replace(cosigned, signatures=tuple(sorted([*others, signed], key=lambda one: one.key)))


def assemble(gateway: Gateway, cosigned: Cosigned) -> SignedEnvelope:
    """Return the envelope with exactly the signatures that the chain needs.

    Raises:
        GatewayError: No usable answer.
        TreasuryError: Too few keys have signed.
    """
    unsigned = cosigned.transaction()
    source = parse_account(unsigned.transaction.source.account_id)
    demands = [Demand(account=source, threshold=Threshold.LOW)]
    for operation in unsigned.transaction.operations:
        if operation.source is not None:
            account = parse_account(operation.source.account_id)
            threshold = Threshold.LOW if _is_claim(operation) else Threshold.HIGH
            demands.append(Demand(account=account, threshold=threshold))
    tx_hash = unsigned_transaction(unsigned).tx_hash
    signers: Mapping[bytes, SignerSet] = read_signers(gateway, {one.account for one in demands})
    valid = {one.key: one for one in cosigned.signatures if verify(one.key, tx_hash, one.signature)}
    chosen = choose_keys(signers, demands, valid)
    if chosen is None:
        raise TreasuryError(f"signatures: got {len(valid)} that count, want more")
    return attach_signatures(unsigned, [valid[key] for key in chosen])


def require_unused(gateway: Gateway, cosigned: Cosigned) -> None:
    """Raise if another transaction took the sequence number.

    Raises:
        GatewayError: No usable answer.
        NotSubmittedError: The sequence number is used up: propose it again.
    """
    transaction = cosigned.transaction().transaction
    view = gateway.account(parse_account(transaction.source.account_id))
    if view is None or view.sequence >= transaction.sequence:
        raise NotSubmittedError("rotation: its sequence number is used up, propose it again")


def read_cosigned(path: Path) -> Cosigned:
    """Read a file; what stands in it is judged when it is used.

    Raises:
        TreasuryError: It is none.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(FILE_SIZE_MAX))
        found = document["format"]
        cosigned = Cosigned(
            passphrase=str(document["passphrase"]),
            envelope=base64.b64decode(document["envelope"], validate=True),
            signatures=tuple(
                KeySignature(
                    key=StrKey.decode_ed25519_public_key(one["key"]),
                    signature=bytes.fromhex(one["signature"]),
                )
                for one in document["signatures"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, SdkError, binascii.Error) as error:
        raise TreasuryError(f"{path}: {type(error).__name__}: {error}") from error
    if found != FORMAT:
        raise TreasuryError(f"{path}: format: got {found!r}, want {FORMAT}")
    return cosigned


def write_cosigned(path: Path, cosigned: Cosigned) -> None:
    """Write a file.

    Raises:
        SeedFileError: It cannot be written.
    """
    write_secret(path, format_cosigned(cosigned), replaces=True)


def format_cosigned(cosigned: Cosigned) -> str:
    """Return a file's JSON."""
    signatures: Sequence[Mapping[str, str]] = [
        {"key": format_account(one.key), "signature": one.signature.hex()}
        for one in cosigned.signatures
    ]
    document = {
        "format": FORMAT,
        "passphrase": cosigned.passphrase,
        "envelope": base64.b64encode(cosigned.envelope).decode(),
        "signatures": signatures,
    }
    return json.dumps(document, indent=1)
