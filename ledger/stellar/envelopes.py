"""Envelopes: the bytes that go to the network, as pure functions of a payout leaf or an anchor.

The same leaf and attempt give the same bytes on every machine, so a second
worker does no harm and settlers co-sign by recomputing. Every envelope has a last ledger and a last
time, both counted from ledger data. Exactly the needed signatures are attached, because one
too many makes a transaction fail; who makes them is `ledger.stellar.signing`'s. Not here: when to
send, and what became of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from stellar_sdk import (
    Asset,
    HashMemo,
    LedgerBounds,
    MuxedAccount,
    Preconditions,
    TimeBounds,
    Transaction,
    TransactionEnvelope,
)
from stellar_sdk.operation import Operation, Payment, SetOptions

from ledger.audit.address import format_account
from ledger.evidence.keys import network_id_of
from ledger.evidence.leaf import PayoutLeaf, format_payout_leaf
from ledger.evidence.merkle import leaf_hash
from ledger.evidence.terms import Terms
from ledger.evidence.units import format_stroops
from ledger.stellar.gateway import NetworkLedger
from ledger.stellar.signing import Demand, KeySignature, Signer, Threshold, UnsignedTransaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Until when an envelope can be applied."""

    max_ledger_sequence: int
    """Exclusive: the last ledger that can take it is the one before (CAP-21)."""

    max_time_s: int
    """Inclusive: close time of the last ledger that can take it."""

    def leaves_room(self, now: NetworkLedger, *, ledgers: int, seconds: int) -> bool:
        """Tell whether both bounds lie at least this far behind the newest closed ledger."""
        return (
            self.max_ledger_sequence > now.sequence + ledgers
            and self.max_time_s >= now.close_time_s + seconds
        )

    def passed_by(self, ledger: NetworkLedger) -> bool:
        """Tell whether a closed ledger lies behind both bounds."""
        return ledger.sequence > self.max_ledger_sequence and ledger.close_time_s > self.max_time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEnvelope:
    """A signed transaction, ready to be stored and then sent."""

    envelope: bytes
    """TransactionEnvelope XDR."""

    tx_hash: bytes
    """Hash of the transaction; 32 bytes."""

    bounds: Bounds
    """Until when it can be applied."""


def asset_of(code: str, issuer: bytes) -> Asset:
    """Return an asset by code and issuer; zeros as issuer: XLM."""
    return Asset.native() if issuer == bytes(32) else Asset(code, format_account(issuer))


def payout_memo(leaf: PayoutLeaf) -> bytes:
    """Return the memo of a batch's transactions: the RFC 6962 hash of its payout leaf."""
    return leaf_hash(format_payout_leaf(leaf))


def payout_bounds(leaf: PayoutLeaf, terms: Terms, attempt: int) -> Bounds:
    """Return the bounds of an attempt: reference + (attempt + 1) windows."""
    windows = attempt + 1
    return Bounds(
        max_ledger_sequence=leaf.reference_ledger_sequence + windows * terms.attempt_window_ledgers,
        max_time_s=leaf.reference_close_s + windows * terms.attempt_window_s,
    )


def next_attempt(
    leaf: PayoutLeaf,
    terms: Terms,
    now: NetworkLedger,
    *,
    least: int,
    margin_ledgers: int,
    margin_s: int,
) -> int:
    """Return the first attempt number ≥ `least` whose bounds lie a margin ahead of now."""
    ledgers = now.sequence + margin_ledgers + 1 - leaf.reference_ledger_sequence
    seconds = now.close_time_s + margin_s - leaf.reference_close_s
    windows = max(
        least + 1,
        -(-ledgers // terms.attempt_window_ledgers),
        -(-seconds // terms.attempt_window_s),
    )
    return windows - 1


def build_payout(
    leaf: PayoutLeaf, attempt: int, terms: Terms, passphrase: str
) -> TransactionEnvelope:
    """Return the unsigned envelope of one attempt at a batch."""
    asset = asset_of(leaf.asset_code, leaf.asset_issuer)
    source = MuxedAccount(format_account(leaf.source_account))
    operations: list[Operation] = [
        Payment(
            destination=format_account(payment.account),
            asset=asset,
            amount=format_stroops(payment.amount_stroops),
            source=source,
        )
        for payment in leaf.payments
    ]
    return _envelope(
        source=leaf.channel_account,
        sequence=leaf.channel_sequence,
        fee_stroops=leaf.fee_bid_stroops * len(operations),
        bounds=payout_bounds(leaf, terms, attempt),
        memo=payout_memo(leaf),
        operations=operations,
        passphrase=passphrase,
    )


def build_anchor(
    checkpoint_body_hash: bytes,
    anchor_account: bytes,
    *,
    sequence: int,
    bounds: Bounds,
    fee_bid_stroops: int,
    passphrase: str,
) -> TransactionEnvelope:
    """Return the unsigned envelope that writes a checkpoint's hash on the chain.

    Its one operation is a set_options that sets nothing.
    """
    return _envelope(
        source=anchor_account,
        sequence=sequence,
        fee_stroops=fee_bid_stroops,
        bounds=bounds,
        memo=checkpoint_body_hash,
        operations=[SetOptions()],
        passphrase=passphrase,
    )


def unsigned_transaction(unsigned: TransactionEnvelope) -> UnsignedTransaction:
    """Return what is signed of an envelope that this module made and nobody has signed."""
    envelope = _encode(unsigned)
    # An unsigned envelope is type, transaction, and an empty list: the hash covers the first two.
    tx_hash = sha256(network_id_of(unsigned.network_passphrase) + envelope[:-4]).digest()
    return UnsignedTransaction(
        envelope=envelope, tx_hash=tx_hash, passphrase=unsigned.network_passphrase
    )


def attach_signatures(
    unsigned: TransactionEnvelope, signatures: Sequence[KeySignature]
) -> SignedEnvelope:
    """Return the envelope with signatures in the given order.

    Args:
        unsigned: Made by this module and not signed.
        signatures: Of its hash.
    """
    return _attach(unsigned, unsigned_transaction(unsigned), signatures)


def sign_envelope(
    unsigned: TransactionEnvelope, demands: Sequence[Demand], signer: Signer
) -> SignedEnvelope:
    """Sign with exactly what the demands need, in ascending order of keys.

    Args:
        unsigned: Made by this module and not signed.
        demands: In the order in which the network checks them.
        signer: Who makes the signatures.

    Raises:
        SignaturesMissingError: Others have not signed yet.
        StellarError: A key or its holder gave no usable answer.
    """
    transaction = unsigned_transaction(unsigned)
    return _attach(unsigned, transaction, signer.sign(transaction, demands))


def payout_demands(leaf: PayoutLeaf) -> tuple[Demand, Demand]:
    """Return what a batch's transactions need: its channel as source, its account to pay."""
    return (
        Demand(account=leaf.channel_account, threshold=Threshold.LOW),
        Demand(account=leaf.source_account, threshold=Threshold.MEDIUM),
    )


def own_demands(account: bytes) -> tuple[Demand, Demand]:
    """Return what an account's transaction needs whose set_options sets nothing."""
    return (
        Demand(account=account, threshold=Threshold.LOW),
        Demand(account=account, threshold=Threshold.MEDIUM),
    )


def sign_payout(
    leaf: PayoutLeaf, attempt: int, terms: Terms, passphrase: str, signer: Signer
) -> SignedEnvelope:
    """Return the signed envelope of one attempt at a batch: by its channel and its source.

    Raises:
        SignaturesMissingError: Others have not signed yet.
        StellarError: A key or its holder gave no usable answer.
    """
    unsigned = build_payout(leaf, attempt, terms, passphrase)
    return sign_envelope(unsigned, payout_demands(leaf), signer)


def _attach(
    unsigned: TransactionEnvelope,
    transaction: UnsignedTransaction,
    signatures: Sequence[KeySignature],
) -> SignedEnvelope:
    """Put signatures in the place of the empty list that ends the envelope.

    The operations are not encoded again: that takes far longer than to sign them.
    """
    preconditions = unsigned.transaction.preconditions
    if preconditions is None or not (preconditions.ledger_bounds and preconditions.time_bounds):
        raise AssertionError("envelope: got no bounds, want a last ledger and a last time")
    bounds = Bounds(
        max_ledger_sequence=preconditions.ledger_bounds.max_ledger,
        max_time_s=preconditions.time_bounds.max_time,
    )
    attached = [len(signatures).to_bytes(4)]
    for each in signatures:
        # DecoratedSignature: hint, and a signature whose 64 bytes need no padding.
        attached += [each.hint, len(each.signature).to_bytes(4), each.signature]
    return SignedEnvelope(
        envelope=b"".join([transaction.envelope[:-4], *attached]),
        tx_hash=transaction.tx_hash,
        bounds=bounds,
    )


def _encode(envelope: TransactionEnvelope) -> bytes:
    return envelope.to_xdr_object().to_xdr_bytes()


def _envelope(
    *,
    source: bytes,
    sequence: int,
    fee_stroops: int,
    bounds: Bounds,
    memo: bytes,
    operations: list[Operation],
    passphrase: str,
) -> TransactionEnvelope:
    transaction = Transaction(
        source=MuxedAccount(format_account(source)),
        sequence=sequence,
        fee=fee_stroops,
        operations=operations,
        memo=HashMemo(memo),
        preconditions=Preconditions(
            time_bounds=TimeBounds(0, bounds.max_time_s),
            ledger_bounds=LedgerBounds(0, bounds.max_ledger_sequence),
        ),
        v1=True,
    )
    return TransactionEnvelope(transaction, passphrase)
