"""Slots: the source account and sequence number that a transaction spends, off its raw bytes.

Reads the head of an envelope only, so that it also reads transactions whose operations nothing here
knows. Source: Stellar-transaction.x of stellar/stellar-xdr.
"""

from ledger.audit.stellar_xdr import (
    ENVELOPE_FEE_BUMP,
    ENVELOPE_TX,
    ENVELOPE_TX_V0,
    read_transaction,
)
from ledger.audit.xdr import MalformedXdrError, XdrReader
from ledger.books.transactions import NetworkFact

Slot = tuple[bytes, int]
"""(source account, sequence number): the network applies at most one transaction for it."""


def slot_of(envelope: bytes) -> Slot:
    """Return source account and sequence number of a transaction, the inner one of a fee bump.

    Raises:
        MalformedXdrError: The bytes do not begin as a transaction envelope does.
    """
    reader = XdrReader(envelope)
    kind = reader.uint()
    if kind == ENVELOPE_FEE_BUMP:
        reader.muxed_account()
        reader.int64()
        kind = reader.uint()
    if kind == ENVELOPE_TX_V0:
        source = reader.take(32)
    elif kind == ENVELOPE_TX:
        source = reader.muxed_account()
    else:
        raise MalformedXdrError("envelope.type", got=kind, want="a transaction's")
    reader.uint()
    return source, reader.int64()


def spends(fact: NetworkFact, slot: Slot) -> bool:
    """Return whether a transaction in a ledger consumed a slot, whether it succeeded or failed.

    Some failures take the fee and leave the sequence number. A transaction that cannot be read
    whole counts as spending it: a person has to look at it.

    Raises:
        MalformedXdrError: The envelope does not begin as a transaction's does.
    """
    if slot_of(fact.envelope) != slot:
        return False
    try:
        return read_transaction(fact).is_sequence_consumed
    except MalformedXdrError:
        return True


def is_known_by(fact: NetworkFact, tx_hash: bytes) -> bool:
    """Return whether a transaction has an inner or outer hash, by its own bytes.

    What a source calls it does not count.
    """
    try:
        if read_transaction(fact).tx_hash == tx_hash:
            return True
    except MalformedXdrError:
        pass  # an operation that the reader does not know; the hash may still be told
    # Loaded here: the SDK's XDR takes seconds of CPU, and what is asked for is nearly always ours.
    from ledger.stellar.envelope_hashes import hashes_of  # noqa: PLC0415

    return tx_hash in hashes_of(fact.envelope, fact.network_id)
