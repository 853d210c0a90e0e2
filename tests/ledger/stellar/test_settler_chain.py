"""What explains a transaction of our accounts, and what does not, whatever its memo says."""

from collections.abc import Callable
from hashlib import sha256

import pytest
from simulated_operator import ASSET, Operator, address, key
from stellar_sdk import Asset, Signer, TransactionBuilder

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.folding import domain_accounts
from ledger.books.transactions import NetworkFact
from ledger.evidence.leaf import PAYOUT_PAYMENTS, Payment, PayoutLeaf, burn_hash
from ledger.stellar.envelopes import payout_memo
from ledger.stellar.settler_chain import Plans, acting_accounts

CHANNEL = "channel 0"
LEAF = PayoutLeaf(
    network_id=Operator().trust.network_id,
    epoch=0,
    batch_number=1,
    kind=PAYOUT_PAYMENTS,
    channel_account=key(CHANNEL),
    channel_sequence=77,
    reference_ledger_sequence=1,
    reference_close_s=1,
    fee_bid_stroops=100,
    asset_code="EURT",
    asset_issuer=key("issuer"),
    source_account=key("payout"),
    payments=(Payment(account=key("seeder"), amount_stroops=12_345),),
)
MEMO = payout_memo(LEAF)
KNOWN_ANCHOR = sha256(b"a proven checkpoint").digest()
Build = Callable[[TransactionBuilder], TransactionBuilder]


@pytest.fixture
def operator() -> Operator:
    return Operator()


def plans(operator: Operator, *accepted: bytes) -> Plans:
    return Plans(
        accounts=domain_accounts(operator.terms),
        batches={(LEAF.channel_account, LEAF.channel_sequence): LEAF},
        anchors=frozenset({KNOWN_ANCHOR}),
        anchor_accounts=frozenset({key("anchor")}),
        accepted=frozenset(accepted),
    )


def planned(builder: TransactionBuilder) -> TransactionBuilder:
    return builder.append_payment_op(
        address("seeder"), ASSET, "0.0012345", source=address("payout")
    )


def nothing(builder: TransactionBuilder) -> TransactionBuilder:
    return builder.append_set_options_op()


def new_signer(builder: TransactionBuilder) -> TransactionBuilder:
    return builder.append_set_options_op(signer=Signer.ed25519_public_key(address("thief"), 2))


def more(builder: TransactionBuilder) -> TransactionBuilder:
    return planned(planned(builder))


def with_signer(builder: TransactionBuilder) -> TransactionBuilder:
    return new_signer(planned(builder))


def in_slot(operator: Operator, memo: bytes, build: Build, sequence: int = 77) -> NetworkFact:
    builder = build(operator.builder(CHANNEL, sequence).add_hash_memo(memo))
    return operator.fact(builder, CHANNEL, "payout")


@pytest.mark.parametrize(
    ("memo", "build", "is_explained"),
    [
        (MEMO, planned, True),
        (MEMO, more, False),
        (MEMO, with_signer, False),
        (MEMO, nothing, False),
        (burn_hash(MEMO), nothing, True),
        (burn_hash(MEMO, isolates=True), nothing, True),
        (burn_hash(MEMO), new_signer, False),
        (burn_hash(MEMO), planned, False),
        (bytes(31) + b"\1", planned, False),
        (bytes(31) + b"\1", nothing, False),
    ],
)
def test_slot_takes_what_is_planned_for_it_or_its_burning(
    operator: Operator, memo: bytes, build: Build, is_explained: bool
) -> None:
    assert plans(operator).explains(in_slot(operator, memo, build)) is is_explained
    # In a slot that nothing is planned for, nothing is explained.
    assert not plans(operator).explains(in_slot(operator, memo, build, sequence=78))


@pytest.mark.parametrize(
    ("memo", "build", "is_explained", "may_be"),
    [
        (KNOWN_ANCHOR, nothing, True, True),
        (KNOWN_ANCHOR, new_signer, False, False),
        (bytes(31) + b"\1", nothing, False, True),
        (bytes(31) + b"\1", new_signer, False, False),
    ],
)
def test_anchor_account_anchors_proven_heads_and_does_nothing_else(
    operator: Operator, memo: bytes, build: Build, is_explained: bool, may_be: bool
) -> None:
    fact = operator.fact(build(operator.builder("anchor", 5).add_hash_memo(memo)), "anchor")
    assert plans(operator).explains(fact) is is_explained
    assert plans(operator).may_be_an_anchor(fact) is may_be
    other = operator.fact(build(operator.builder(CHANNEL, 5).add_hash_memo(memo)), CHANNEL)
    assert not plans(operator).explains(other)
    assert not plans(operator).may_be_an_anchor(other)


def test_what_strangers_send_is_not_ours_and_what_we_send_is(operator: Operator) -> None:
    gift = operator.fact(
        operator.builder("funder", 5).append_payment_op(address("escrow"), Asset.native(), "1"),
        "funder",
    )
    assert plans(operator).explains(gift)
    assert acting_accounts(gift.envelope) == {key("funder")}
    loot = operator.fact(
        operator.builder("funder", 6).append_payment_op(
            address("thief"), ASSET, "1", source=address("escrow")
        ),
        "funder",
        "escrow",
    )
    assert acting_accounts(loot.envelope) == {key("funder"), key("escrow")}
    assert not plans(operator).explains(loot)
    assert plans(operator, read_transaction(loot).tx_hash).explains(loot)


def test_what_cannot_be_read_is_not_explained(operator: Operator) -> None:
    gift = operator.fact(operator.builder("funder", 5).append_set_options_op(), "funder")
    broken = NetworkFact(
        network_id=gift.network_id,
        ledger_sequence=1,
        close_time_s=1,
        apply_order=1,
        envelope=gift.envelope[:-3],
        result=gift.result,
    )
    assert plans(operator).explains(gift)
    assert not plans(operator).explains(broken)
    assert not plans(operator).may_be_an_anchor(broken)
