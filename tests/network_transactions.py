"""Builders of network facts for tests: envelopes made by the SDK, results as XDR."""

import base64
import warnings

import book_builders
import builders
from stellar_sdk import Account, Asset, Keypair, TransactionBuilder, TransactionEnvelope

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import AppliedTransaction, NetworkFact

PASSPHRASE = "swarmledger tests"
ALICE, BOB, ISSUER = (
    Keypair.from_raw_ed25519_seed(builders.seed_of(n)) for n in ("alice", "bob", "issuer")
)
XAB = Asset("XAB", ISSUER.public_key)
LONG = Asset("LONGASSET", ISSUER.public_key)
XLM = Asset.native()
ZEROS = bytes(32)


def key(pair: Keypair) -> bytes:
    return pair.raw_public_key()


def builder(sequence: int = 41, source: Keypair = ALICE) -> TransactionBuilder:
    account = Account(source.public_key, sequence)
    return TransactionBuilder(account, PASSPHRASE, base_fee=100)


def envelope_of(made: TransactionBuilder) -> TransactionEnvelope:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK wants time bounds; the reader takes all kinds
        envelope = made.build()
    envelope.sign(ALICE)
    return envelope


def success(*results: bytes, fee: int = 100) -> bytes:
    """TransactionResult XDR: txSUCCESS with these operation results, no extension."""
    count = len(results).to_bytes(4, "big")
    return fee.to_bytes(8, "big") + bytes(4) + count + b"".join(results) + bytes(4)


def done(kind: int, body: bytes = b"") -> bytes:
    """OperationResult XDR: opINNER, its type, code 0."""
    return bytes(4) + kind.to_bytes(4, "big") + bytes(4) + body


def failed(*codes: tuple[int, int], code: int = -1) -> bytes:
    """Result of a failed transaction: (operation type, code) each."""
    operations = b"".join(
        bytes(4) + kind.to_bytes(4, "big") + number.to_bytes(4, "big", signed=True)
        for kind, number in codes
    )
    return (
        (100).to_bytes(8, "big")
        + code.to_bytes(4, "big", signed=True)
        + (len(codes).to_bytes(4, "big") + operations if code == -1 else b"")
        + bytes(4)
    )


def fact_of(envelope_xdr: str, result: bytes) -> NetworkFact:
    return book_builders.fact(envelope=base64.b64decode(envelope_xdr), result=result)


def read(made: TransactionBuilder, *results: bytes) -> AppliedTransaction:
    """Read a transaction that succeeded, built by `builder()`."""
    envelope = envelope_of(made)
    transaction = read_transaction(fact_of(envelope.to_xdr(), success(*results)))
    assert transaction.tx_hash == envelope.hash()
    assert transaction.sequence == 42
    assert transaction.succeeded
    return transaction


def moved(transaction: AppliedTransaction) -> list[tuple[str, bytes, bytes, bytes, int, bool]]:
    return [
        (m.asset_code, m.asset_issuer, m.source, m.destination, m.amount_stroops, m.is_exact)
        for m in transaction.movements
    ]
