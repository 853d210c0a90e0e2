"""The hashes of any envelope, taken over slices of its raw bytes.

The SDK only tells where the signed part ends: decoding and encoding again may change the bytes.
Follows Stellar-transaction.x (TransactionSignaturePayload).
"""

from hashlib import sha256

from stellar_sdk import xdr
from xdrlib3 import Error as UnpackError
from xdrlib3 import Unpacker

_TX = xdr.EnvelopeType.ENVELOPE_TYPE_TX
_TX_V0 = xdr.EnvelopeType.ENVELOPE_TYPE_TX_V0
_FEE_BUMP = xdr.EnvelopeType.ENVELOPE_TYPE_TX_FEE_BUMP


def hashes_of(envelope: bytes, network_id: bytes) -> frozenset[bytes]:
    """Return the hash of an envelope's transaction, of a fee bump both; none of other bytes."""
    try:
        return frozenset(_hashes(envelope, network_id))
    except (UnpackError, ValueError, EOFError, TypeError):
        return frozenset()


def _hashes(envelope: bytes, network_id: bytes) -> list[bytes]:
    unpacker = Unpacker(envelope)
    kind = xdr.EnvelopeType.unpack(unpacker)
    start = unpacker.get_position()
    if kind is _TX:
        xdr.Transaction.unpack(unpacker)
        return [_hash(network_id, _TX, envelope[start : unpacker.get_position()])]
    if kind is _TX_V0:
        xdr.TransactionV0.unpack(unpacker)
        # Version 0 is version 1 without the source's key type.
        return [_hash(network_id, _TX, bytes(4) + envelope[start : unpacker.get_position()])]
    if kind is not _FEE_BUMP:
        return []
    xdr.MuxedAccount.unpack(unpacker)
    unpacker.unpack_hyper()
    inner_start = unpacker.get_position()
    inner = xdr.FeeBumpTransactionInnerTx.unpack(unpacker)
    inner_end = unpacker.get_position()
    if inner.v1 is None or unpacker.unpack_int() != 0:
        return []
    outer = _hash(network_id, _FEE_BUMP, envelope[start : unpacker.get_position()])
    return [outer, *_hashes(envelope[inner_start:inner_end], network_id)]


def _hash(network_id: bytes, kind: xdr.EnvelopeType, signed: bytes) -> bytes:
    return sha256(network_id + kind.value.to_bytes(4, "big") + signed).digest()
