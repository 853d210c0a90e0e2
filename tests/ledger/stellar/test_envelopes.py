"""Envelopes: the same bytes everywhere, bounds from ledger data, exactly the needed signatures."""

from base64 import b64encode
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stellar_sdk import TransactionEnvelope

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import AppliedTransaction, NetworkFact
from ledger.evidence.keys import network_id_of, public_key_of, verify
from ledger.evidence.leaf import PAYOUT_FUNDING, PAYOUT_PAYMENTS, Payment, PayoutLeaf
from ledger.stellar.domain import DomainKeys, SetUp
from ledger.stellar.envelopes import (
    Bounds,
    build_anchor,
    next_attempt,
    own_demands,
    payout_bounds,
    payout_memo,
    sign_envelope,
    sign_payout,
)
from ledger.stellar.errors import SeedFileError
from ledger.stellar.gateway import NetworkLedger
from ledger.stellar.signing import SeedSigner

from settlement_scene import PASSPHRASE, make_terms  # isort: skip


def seed(name: str) -> bytes:
    return sha256(name.encode()).digest()


KEYS = DomainKeys(
    issuer=seed("issuer"),
    broadcaster=seed("broadcaster"),
    escrow=seed("escrow"),
    payout=seed("payout"),
    anchor=seed("anchor"),
    channels=(seed("channel"),),
    payees={name: seed(name) for name in ("ann", "ben")},
)
CHANNEL = public_key_of(KEYS.channels[0])
MADE = SetUp(
    asset_code="USD",
    issuer=public_key_of(KEYS.issuer),
    broadcaster=public_key_of(KEYS.broadcaster),
    escrow=public_key_of(KEYS.escrow),
    payout=public_key_of(KEYS.payout),
    anchor=public_key_of(KEYS.anchor),
    channels=(CHANNEL,),
    payees={name: public_key_of(value) for name, value in KEYS.payees.items()},
    deposit_tx=None,
)
TERMS = make_terms(MADE, genesis_s=1_800_000_000, window=20)
SIGNER = SeedSigner(
    {public_key_of(s): s for s in (KEYS.escrow, KEYS.payout, KEYS.anchor, *KEYS.channels)}
)
LEAF = PayoutLeaf(
    network_id=TERMS.network_id,
    epoch=3,
    batch_number=4,
    kind=PAYOUT_PAYMENTS,
    channel_account=CHANNEL,
    channel_sequence=(7 << 32) + 5,
    reference_ledger_sequence=1_000,
    reference_close_s=1_800_000_900,
    fee_bid_stroops=150,
    asset_code="USD",
    asset_issuer=MADE.issuer,
    source_account=MADE.payout,
    payments=(
        Payment(account=MADE.payees["ann"], amount_stroops=1),
        Payment(account=MADE.payees["ben"], amount_stroops=9_223_372_036_854_775_807),
    ),
)
GOLDEN_TX_HASH = "98675367658b90b0f2d5174cbf08832ddca712b92cf4ed7a23e074de6a54285c"
SUCCESS_OF_TWO = bytes.fromhex(
    "000000000000012c0000000000000002" + 2 * ("00" * 7 + "01" + "00" * 4)
)


def applied(envelope: bytes, result: bytes) -> AppliedTransaction:
    return read_transaction(
        NetworkFact(
            network_id=TERMS.network_id,
            ledger_sequence=1_001,
            close_time_s=1_800_000_905,
            apply_order=1,
            envelope=envelope,
            result=result + bytes(4),
        )
    )


def test_payout_says_what_its_leaf_says() -> None:
    signed = sign_payout(LEAF, 0, TERMS, PASSPHRASE, SIGNER)
    read = applied(signed.envelope, SUCCESS_OF_TWO)
    assert read.tx_hash == signed.tx_hash
    assert (read.source_account, read.sequence) == (CHANNEL, LEAF.channel_sequence)
    assert read.memo_hash == payout_memo(LEAF)
    got = [(m.source, m.destination, m.asset_code, m.amount_stroops) for m in read.movements]
    assert got == [(MADE.payout, p.account, "USD", p.amount_stroops) for p in LEAF.payments]


def test_payout_is_the_same_bytes_for_the_same_leaf_and_attempt() -> None:
    first = sign_payout(LEAF, 2, TERMS, PASSPHRASE, SIGNER)
    assert sign_payout(LEAF, 2, TERMS, PASSPHRASE, SIGNER) == first
    # Another machine, another day: this hash may never change for this leaf.
    assert first.tx_hash.hex() == GOLDEN_TX_HASH
    assert sign_payout(LEAF, 3, TERMS, PASSPHRASE, SIGNER).tx_hash != first.tx_hash


def test_stellar_sdk_reads_hash_fee_bounds_and_signatures() -> None:
    signed = sign_payout(LEAF, 1, TERMS, PASSPHRASE, SIGNER)
    sdk = TransactionEnvelope.from_xdr(b64encode(signed.envelope).decode(), PASSPHRASE)
    assert sdk.hash() == signed.tx_hash
    assert sdk.transaction.fee == 300
    conditions = sdk.transaction.preconditions
    assert conditions is not None
    assert conditions.ledger_bounds is not None
    assert conditions.time_bounds is not None
    assert conditions.ledger_bounds.max_ledger == signed.bounds.max_ledger_sequence == 1_040
    assert conditions.time_bounds.max_time == signed.bounds.max_time_s == 1_800_000_940
    keys = sorted([CHANNEL, MADE.payout])
    assert len(sdk.signatures) == len(keys)
    for key, signature in zip(keys, sdk.signatures, strict=True):
        assert verify(key, signed.tx_hash, signature.signature)


def test_funding_batch_is_signed_by_the_escrow_account() -> None:
    funding = replace(LEAF, kind=PAYOUT_FUNDING, source_account=MADE.escrow)
    signed = sign_payout(funding, 0, TERMS, PASSPHRASE, SIGNER)
    assert signed.envelope.count(MADE.escrow[-4:] + b"\0\0\0\x40") == 1
    assert MADE.payout[-4:] + b"\0\0\0\x40" not in signed.envelope


def test_payout_without_the_sources_seed_is_refused() -> None:
    with pytest.raises(SeedFileError, match="got no seed"):
        sign_payout(LEAF, 0, TERMS, PASSPHRASE, SeedSigner({CHANNEL: KEYS.channels[0]}))


def test_anchor_writes_the_hash_and_moves_nothing() -> None:
    unsigned = build_anchor(
        b"\x05" * 32,
        MADE.anchor,
        sequence=77,
        bounds=Bounds(max_ledger_sequence=50, max_time_s=60),
        fee_bid_stroops=100,
        passphrase=PASSPHRASE,
    )
    signed = sign_envelope(unsigned, own_demands(MADE.anchor), SIGNER)
    one_option = bytes.fromhex("0000000000000064" + "00000000" + "00000001" + "00" * 4 + "00000005")
    read = applied(signed.envelope, one_option + bytes(4))
    assert (read.memo_hash, read.sequence, read.movements) == (b"\x05" * 32, 77, ())
    assert read.source_account == MADE.anchor
    assert signed.bounds == Bounds(max_ledger_sequence=50, max_time_s=60)


@given(
    ahead=st.integers(0, 10_000),
    slow=st.integers(1, 9),
    least=st.integers(0, 50),
    ledgers=st.integers(0, 40),
    seconds=st.integers(0, 200),
)
def test_next_attempt_is_the_first_whose_bounds_leave_room(
    ahead: int, slow: int, least: int, ledgers: int, seconds: int
) -> None:
    now = NetworkLedger(
        sequence=LEAF.reference_ledger_sequence + ahead,
        close_time_s=LEAF.reference_close_s + slow * ahead,
    )
    attempt = next_attempt(LEAF, TERMS, now, least=least, margin_ledgers=ledgers, margin_s=seconds)
    assert attempt >= least
    assert payout_bounds(LEAF, TERMS, attempt).leaves_room(now, ledgers=ledgers, seconds=seconds)
    if attempt > least:
        earlier = payout_bounds(LEAF, TERMS, attempt - 1)
        assert not earlier.leaves_room(now, ledgers=ledgers, seconds=seconds)


def test_addresses_and_network_are_those_of_the_terms() -> None:
    assert network_id_of(PASSPHRASE) == LEAF.network_id
    assert format_account(CHANNEL).startswith("G")
