"""Fee bumps: a higher bid around an envelope that stays as it is, byte for byte.

The bytes are put together here, not by the SDK: decoding and encoding an envelope again may change
it, and the inner one must keep its hash. Reference: CAP-15 and FeeBumpTransaction of
Stellar-transaction.x. Not here: when to raise a bid (`ledger.stellar.fees`).
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from ledger.evidence.keys import network_id_of
from ledger.stellar.signing import Demand, KeySignature, Signer, Threshold, UnsignedTransaction

_FEE_BUMP: Final = (5).to_bytes(4, "big")
_ED25519: Final = bytes(4)
_NO_EXTENSION: Final = bytes(4)
_NO_SIGNATURES: Final = bytes(4)
_TRANSACTION: Final = (2).to_bytes(4, "big")


def bump_fee(bid_stroops: int, operations: int) -> int:
    """Return what a fee bump offers in all: the bid for each operation, and once for itself."""
    return bid_stroops * (operations + 1)


def build_bump(
    envelope: bytes, fee_account: bytes, fee_stroops: int, passphrase: str
) -> UnsignedTransaction:
    """Return an unsigned fee bump around a signed envelope.

    Args:
        envelope: TransactionEnvelope XDR of version 1; it is not changed.
        fee_account: Who pays; 32 bytes.
        fee_stroops: Offered in all.
        passphrase: Of the network.

    Raises:
        ValueError: The envelope is none of version 1.
    """
    if envelope[:4] != _TRANSACTION:
        raise ValueError(f"envelope: got type {envelope[:4].hex()}, want {_TRANSACTION.hex()}")
    body = b"".join(
        (
            _FEE_BUMP,
            _ED25519 + fee_account,
            fee_stroops.to_bytes(8, "big"),
            envelope,
            _NO_EXTENSION,
        )
    )
    return UnsignedTransaction(
        envelope=body + _NO_SIGNATURES,
        tx_hash=sha256(network_id_of(passphrase) + body).digest(),
        passphrase=passphrase,
    )


def sign_bump(unsigned: UnsignedTransaction, fee_account: bytes, signer: Signer) -> bytes:
    """Return the fee bump's envelope with exactly the signatures its payer needs.

    Raises:
        SignaturesMissingError: Others have not signed yet.
        StellarError: A key or its holder gave no usable answer.
    """
    demand = Demand(account=fee_account, threshold=Threshold.LOW)
    return attach_bump_signatures(unsigned, signer.sign(unsigned, (demand,)))


def attach_bump_signatures(
    unsigned: UnsignedTransaction, signatures: Sequence[KeySignature]
) -> bytes:
    """Return the fee bump's envelope with its payer's signatures in the given order."""
    parts = [unsigned.envelope[:-4], len(signatures).to_bytes(4, "big")]
    for signature in signatures:
        size = len(signature.signature).to_bytes(4, "big")
        parts.append(signature.hint + size + signature.signature)
    return b"".join(parts)
