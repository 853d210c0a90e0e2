"""Fee bumps: the network's bytes and hash, around an envelope that keeps every byte."""

import base64
from hashlib import sha256

import pytest
from stellar_sdk import FeeBumpTransactionEnvelope, Keypair

from ledger.evidence.keys import public_key_of
from ledger.stellar.envelopes import Bounds, build_anchor, own_demands, sign_envelope
from ledger.stellar.fee_bumps import build_bump, bump_fee, sign_bump
from ledger.stellar.signing import SeedSigner

PASSPHRASE = "fee bump tests"
SEEDS = {public_key_of(seed): seed for seed in (sha256(name).digest() for name in (b"a", b"b"))}
CHANNEL, PAYER = SEEDS


def inner() -> bytes:
    unsigned = build_anchor(
        b"\x05" * 32,
        CHANNEL,
        sequence=7,
        bounds=Bounds(max_ledger_sequence=99, max_time_s=999),
        fee_bid_stroops=100,
        passphrase=PASSPHRASE,
    )
    return sign_envelope(unsigned, own_demands(CHANNEL), SeedSigner(SEEDS)).envelope


def test_bump_is_what_the_sdk_reads_and_its_hash_is_the_networks() -> None:
    raw = inner()
    unsigned = build_bump(raw, PAYER, bump_fee(1_000, 1), PASSPHRASE)
    envelope = sign_bump(unsigned, PAYER, SeedSigner(SEEDS))
    assert raw in envelope
    read = FeeBumpTransactionEnvelope.from_xdr(base64.b64encode(envelope).decode(), PASSPHRASE)
    assert read.hash() == unsigned.tx_hash
    assert read.to_xdr_object().to_xdr_bytes() == envelope
    assert read.transaction.fee == 2_000
    assert (
        read.transaction.fee_source.account_id
        == Keypair.from_raw_ed25519_public_key(PAYER).public_key
    )
    (signature,) = read.signatures
    Keypair.from_raw_ed25519_public_key(PAYER).verify(unsigned.tx_hash, signature.signature)


def test_another_step_has_another_hash_and_the_same_inner_bytes() -> None:
    raw = inner()
    low, high = (build_bump(raw, PAYER, fee, PASSPHRASE) for fee in (2_000, 20_000))
    assert low.tx_hash != high.tx_hash
    assert raw in low.envelope
    assert raw in high.envelope


def test_only_a_transaction_of_version_1_is_wrapped() -> None:
    unsigned = build_bump(inner(), PAYER, 2_000, PASSPHRASE)
    with pytest.raises(ValueError, match="envelope: got type 00000005"):
        build_bump(unsigned.envelope, PAYER, 2_000, PASSPHRASE)
