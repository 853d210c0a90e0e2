"""Every classic operation, made by the SDK: what the reader says it moved, and what it refuses."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import book_builders
import builders
import pytest
from network_transactions import (
    ALICE,
    BOB,
    ISSUER,
    LONG,
    PASSPHRASE,
    XAB,
    XLM,
    ZEROS,
    builder,
    done,
    envelope_of,
    fact_of,
    key,
    moved,
    read,
    success,
)
from stellar_sdk import (
    Account,
    Asset,
    Claimant,
    ClaimPredicate,
    Keypair,
    LiquidityPoolAsset,
    LiquidityPoolId,
    MuxedAccount,
    Price,
    SignedPayloadSigner,
    SignerKey,
    TransactionBuilder,
    TrustLineFlags,
)
from stellar_sdk import xdr as stellar_xdr
from stellar_sdk.operation import AllowTrust, Inflation, RevokeSponsorship
from stellar_sdk.operation.set_options import AuthorizationFlag

from ledger.audit.stellar_operations import CONTRACT_OPERATIONS, OperationType
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.xdr import MalformedXdrError
from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.folding import fold_transactions
from ledger.books.transactions import AppliedTransaction

ESCROW, PAYOUT, CHANNEL = (
    Keypair.from_raw_ed25519_seed(builders.seed_of(name))
    for name in ("escrow", "payout", "channel 0")
)
ID = "ab" * 32
BALANCE = "00000000" + ID
BALANCE_XDR = bytes.fromhex(BALANCE)
POOL = LiquidityPoolAsset(*sorted((XAB, LONG), key=lambda asset: len(asset.code)))
SIGNED_PAYLOAD = SignerKey.ed25519_signed_payload(SignedPayloadSigner(BOB.public_key, b"payload"))
HALF = Price(1, 2)

Make = Callable[[TransactionBuilder], Any]


def allow_trust(code: str) -> AllowTrust:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK would rather have trust line flags set
        return AllowTrust(BOB.public_key, code, authorize=True)


# --- that move nothing ----------------------------------------------------------------------------

QUIET: dict[str, tuple[Make, int]] = {
    "set_options": (
        lambda b: b.append_set_options_op(
            inflation_dest=BOB.public_key,
            clear_flags=AuthorizationFlag.AUTHORIZATION_REQUIRED,
            set_flags=AuthorizationFlag.AUTHORIZATION_REVOCABLE,
            master_weight=3,
            low_threshold=4,
            med_threshold=5,
            high_threshold=6,
            home_domain="example.net",
            signer=None,
        ),
        5,
    ),
    "set_options_signer": (lambda b: b.append_ed25519_public_key_signer(BOB.public_key, 1), 5),
    "set_options_hash_signer": (lambda b: b.append_hashx_signer(bytes(32), 1), 5),
    "set_options_pre_auth_signer": (lambda b: b.append_pre_auth_tx_signer(bytes(32), 1), 5),
    "set_options_nothing": (lambda b: b.append_set_options_op(), 5),
    "change_trust": (lambda b: b.append_change_trust_op(XAB, "100"), 6),
    "change_trust_of_a_pool": (lambda b: b.append_change_trust_op(POOL, "100"), 6),
    "allow_trust": (lambda b: b.append_operation(allow_trust("XAB")), 7),
    "allow_trust_long": (lambda b: b.append_operation(allow_trust(LONG.code)), 7),
    "inflation": (lambda b: b.append_operation(Inflation()), 9),
    "manage_data": (lambda b: b.append_manage_data_op("name", "value"), 10),
    "manage_data_long": (lambda b: b.append_manage_data_op("n" * 64, b"v" * 63), 10),
    "manage_data_delete": (lambda b: b.append_manage_data_op("name", None), 10),
    "bump_sequence": (lambda b: b.append_bump_sequence_op(99), 11),
    "begin_sponsoring": (
        lambda b: b.append_begin_sponsoring_future_reserves_op(BOB.public_key),
        16,
    ),
    "end_sponsoring": (lambda b: b.append_end_sponsoring_future_reserves_op(), 17),
    "set_trust_line_flags": (
        lambda b: b.append_set_trust_line_flags_op(
            BOB.public_key, XAB, set_flags=TrustLineFlags.AUTHORIZED_FLAG
        ),
        21,
    ),
    "clawback_claimable": (lambda b: b.append_clawback_claimable_balance_op(BALANCE), 20),
    "revoke_account": (lambda b: b.append_revoke_account_sponsorship_op(BOB.public_key), 18),
    "revoke_trust_line": (
        lambda b: b.append_revoke_trustline_sponsorship_op(BOB.public_key, LONG),
        18,
    ),
    "revoke_trust_line_of_a_pool": (
        lambda b: b.append_revoke_trustline_sponsorship_op(BOB.public_key, LiquidityPoolId(ID)),
        18,
    ),
    "revoke_offer": (lambda b: b.append_revoke_offer_sponsorship_op(BOB.public_key, 7), 18),
    "revoke_data": (lambda b: b.append_revoke_data_sponsorship_op(BOB.public_key, "n" * 63), 18),
    "revoke_balance": (lambda b: b.append_revoke_claimable_balance_sponsorship_op(BALANCE), 18),
    "revoke_pool": (lambda b: b.append_revoke_liquidity_pool_sponsorship_op(ID), 18),
    "revoke_signer": (
        lambda b: b.append_revoke_ed25519_public_key_signer_sponsorship_op(
            BOB.public_key, ALICE.public_key
        ),
        18,
    ),
    "revoke_hash_signer": (
        lambda b: b.append_revoke_hashx_signer_sponsorship_op(BOB.public_key, bytes(32)),
        18,
    ),
    "revoke_pre_auth_signer": (
        lambda b: b.append_revoke_pre_auth_tx_signer_sponsorship_op(BOB.public_key, bytes(32)),
        18,
    ),
    "revoke_payload_signer": (
        lambda b: b.append_operation(
            RevokeSponsorship.revoke_signer_sponsorship(BOB.public_key, SIGNED_PAYLOAD)
        ),
        18,
    ),
}


@pytest.mark.parametrize("name", QUIET)
def test_operation_that_moves_nothing(name: str) -> None:
    make, kind = QUIET[name]
    made = builder()
    make(made)
    body = bytes(4) if name == "inflation" else b""  # nobody won
    transaction = read(made, done(kind, body))
    assert transaction.movements == ()
    assert transaction.does_nothing == (name == "set_options_nothing")


def test_two_operations_that_set_nothing_are_not_the_one_that_anchors_and_burns() -> None:
    made = builder().append_set_options_op().append_set_options_op()
    assert not read(made, done(5), done(5)).does_nothing
    made = builder().append_set_options_op().append_payment_op(BOB.public_key, XAB, "1")
    assert not read(made, done(5), done(1)).does_nothing


# --- that move what the envelope or the result tells ---------------------------------------------


@pytest.mark.parametrize("asset", [XLM, XAB, LONG], ids=["native", "4", "12"])
def test_payment(asset: Asset) -> None:
    transaction = read(builder().append_payment_op(BOB.public_key, asset, "1.2345678"), done(1))
    issuer = ZEROS if asset.is_native() else key(ISSUER)
    assert moved(transaction) == [(asset.code, issuer, key(ALICE), key(BOB), 12_345_678, True)]


def test_create_account_opens_its_destination() -> None:
    transaction = read(builder().append_create_account_op(BOB.public_key, "5"), done(0))
    (created,) = transaction.movements
    assert (created.creates_account, created.is_native) == (True, True)
    assert (created.destination, created.amount_stroops) == (key(BOB), 50_000_000)


def test_account_merge_moves_what_the_result_tells() -> None:
    made = builder().append_bump_sequence_op(1).append_account_merge_op(BOB.public_key)
    transaction = read(made, done(11), done(8, (777).to_bytes(8, "big")))
    assert moved(transaction) == [("XLM", ZEROS, key(ALICE), key(BOB), 777, True)]
    assert transaction.movements[0].operation_index == 1


def test_clawback_moves_from_the_holder_to_the_issuer() -> None:
    transaction = read(builder().append_clawback_op(XAB, BOB.public_key, "3"), done(19))
    assert moved(transaction) == [("XAB", key(ISSUER), key(BOB), key(ALICE), 30_000_000, True)]


def path_result(asset: Asset, amount: int) -> bytes:
    """PathPaymentResult success: no offers, then the last simple payment."""
    offers = bytes(4)
    return (
        offers
        + bytes(4)
        + key(BOB)
        + asset.to_xdr_object().to_xdr_bytes()
        + amount.to_bytes(8, "big")
    )


def test_path_payments_know_exactly_only_what_arrived() -> None:
    made = builder().append_path_payment_strict_receive_op(
        BOB.public_key, XLM, "9", XAB, "2", [LONG]
    )
    transaction = read(made, done(2, path_result(XAB, 20_000_000)))
    assert moved(transaction) == [
        ("XLM", ZEROS, key(ALICE), ZEROS, 90_000_000, False),
        ("XAB", key(ISSUER), key(ALICE), key(BOB), 20_000_000, True),
    ]
    made = builder().append_path_payment_strict_send_op(BOB.public_key, LONG, "9", XAB, "2", [])
    transaction = read(made, done(13, path_result(XAB, 21_000_000)))
    assert moved(transaction) == [
        ("LONGASSET", key(ISSUER), key(ALICE), ZEROS, 90_000_000, False),
        ("XAB", key(ISSUER), key(ALICE), key(BOB), 21_000_000, True),
    ]


def test_path_payment_within_one_asset_is_one_exact_movement() -> None:
    made = builder().append_path_payment_strict_send_op(BOB.public_key, XAB, "2", XAB, "1", [])
    transaction = read(made, done(13, path_result(XAB, 20_000_000)))
    assert moved(transaction) == [("XAB", key(ISSUER), key(ALICE), key(BOB), 20_000_000, True)]


def test_path_payment_that_leaves_its_asset_and_returns_is_a_conversion() -> None:
    made = builder().append_path_payment_strict_send_op(BOB.public_key, XAB, "9", XAB, "1", [XLM])
    transaction = read(made, done(13, path_result(XAB, 20_000_000)))
    assert moved(transaction) == [
        ("XAB", key(ISSUER), key(ALICE), ZEROS, 90_000_000, False),
        ("XAB", key(ISSUER), key(ALICE), key(BOB), 20_000_000, True),
    ]


def test_operation_source_overrides_the_transactions() -> None:
    made = builder().append_payment_op(ISSUER.public_key, XAB, "1", source=BOB.public_key)
    made.append_payment_op(ISSUER.public_key, XAB, "2")
    transaction = read(made, done(1), done(1))
    assert [m.source for m in transaction.movements] == [key(BOB), key(ALICE)]
    assert [m.operation_index for m in transaction.movements] == [0, 1]


def test_muxed_accounts_are_their_account() -> None:
    muxed = MuxedAccount(BOB.public_key, 7)
    source = Account(MuxedAccount(ALICE.public_key, 9), 41)
    made = TransactionBuilder(source, PASSPHRASE, base_fee=100).append_payment_op(
        muxed, XAB, "1", source=MuxedAccount(ALICE.public_key, 5)
    )
    assert moved(read(made, done(1)))[0][2:4] == (key(ALICE), key(BOB))


def test_inflation_pays_out_of_nowhere() -> None:
    payouts = b"".join(bytes(4) + key(pair) + bytes(7) + bytes([n]) for n, pair in WINNERS)
    made = builder().append_operation(Inflation())
    transaction = read(made, done(9, (2).to_bytes(4, "big") + payouts))
    assert moved(transaction) == [("XLM", ZEROS, ZEROS, key(pair), n, True) for n, pair in WINNERS]


WINNERS = ((7, BOB), (9, ISSUER))


def nested(depth: int) -> ClaimPredicate:
    """A predicate whose deepest branch has `depth` levels."""
    leaf = ClaimPredicate.predicate_before_absolute_time(9)
    if depth == 1:
        return leaf
    inner = nested(depth - 1)
    if depth % 3 == 0:
        return ClaimPredicate.predicate_not(inner)
    other = ClaimPredicate.predicate_before_relative_time(5)
    if depth % 2:
        return ClaimPredicate.predicate_or(inner, ClaimPredicate.predicate_unconditional())
    return ClaimPredicate.predicate_and(other, inner)


def with_claimants(*claimants: Claimant) -> Make:
    return lambda b: b.append_create_claimable_balance_op(XAB, "3", claimants)


def many_claimants(count: int) -> list[Claimant]:
    pairs = (Keypair.from_raw_ed25519_seed(bytes([n]) * 32) for n in range(count))
    return [Claimant(pair.public_key) for pair in pairs]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_claimable_balance_takes_its_amount_from_its_creator(depth: int) -> None:
    made = builder()
    with_claimants(Claimant(BOB.public_key, nested(depth)), *many_claimants(9))(made)
    transaction = read(made, done(14, BALANCE_XDR))
    assert moved(transaction) == [("XAB", key(ISSUER), key(ALICE), ZEROS, 30_000_000, True)]


def test_predicate_deeper_than_stellar_core_takes_is_refused() -> None:
    made = builder()
    with_claimants(Claimant(BOB.public_key, nested(5)))(made)
    with pytest.raises(MalformedXdrError, match="depth 5"):
        read_transaction(fact_of(envelope_of(made).to_xdr(), success(done(14, BALANCE_XDR))))


@pytest.mark.parametrize(("payee", "asset"), [(ISSUER, XAB), (BOB, XLM)], ids=["payee", "asset"])
def test_path_result_of_another_payee_or_asset_is_refused(payee: Keypair, asset: Asset) -> None:
    made = builder().append_path_payment_strict_send_op(payee.public_key, XAB, "2", XAB, "1", [])
    result = success(done(13, path_result(asset, 1)))
    with pytest.raises(MalformedXdrError, match=r"result\.last"):
        read_transaction(fact_of(envelope_of(made).to_xdr(), result))


def test_negative_amount_in_a_result_is_refused() -> None:
    made = builder().append_account_merge_op(BOB.public_key)
    with pytest.raises(MalformedXdrError, match="amount"):
        read_transaction(fact_of(envelope_of(made).to_xdr(), success(done(8, b"\xff" * 8))))


def test_long_code_of_few_characters_is_refused() -> None:
    """Else it would be taken for the asset whose code is as short by nature."""
    envelope = envelope_of(builder().append_payment_op(BOB.public_key, LONG, "1"))
    asset = envelope.transaction.operations[0].to_xdr_object().body.payment_op.asset
    whole = asset.to_xdr_bytes()
    data = envelope.to_xdr_object().to_xdr_bytes()
    short = whole.replace(b"LONGASSET\0\0\0", b"LONG" + bytes(8))
    fact = book_builders.fact(envelope=data.replace(whole, short), result=success(done(1)))
    with pytest.raises(MalformedXdrError, match="5 to 12"):
        read_transaction(fact)


def test_authorization_to_hold_the_native_asset_is_refused() -> None:
    envelope = envelope_of(builder().append_operation(allow_trust("XAB"))).to_xdr_object()
    data = envelope.to_xdr_bytes().replace(b"\0\0\0\1XAB\0", bytes(8))
    fact = book_builders.fact(envelope=data, result=success(done(7)))
    with pytest.raises(MalformedXdrError, match="asset_code"):
        read_transaction(fact)


# --- whose amounts the result does not tell -------------------------------------------------------


def atom(seller: Keypair | None, sold: Asset, bought: Asset, *, version_0: bool = False) -> bytes:
    """ClaimAtom XDR: 5 stroops sold for 8; of a pool if there is no seller."""
    amounts = {
        "asset_sold": sold.to_xdr_object(),
        "amount_sold": stellar_xdr.Int64(5),
        "asset_bought": bought.to_xdr_object(),
        "amount_bought": stellar_xdr.Int64(8),
    }
    kind = stellar_xdr.ClaimAtomType
    if seller is None:
        pool = stellar_xdr.PoolID(stellar_xdr.Hash(bytes(32)))
        pooled = stellar_xdr.ClaimLiquidityAtom(liquidity_pool_id=pool, **amounts)
        made = stellar_xdr.ClaimAtom(kind.CLAIM_ATOM_TYPE_LIQUIDITY_POOL, liquidity_pool=pooled)
        return made.to_xdr_bytes()
    amounts["offer_id"] = stellar_xdr.Int64(7)
    if version_0:
        old = stellar_xdr.ClaimOfferAtomV0(
            seller_ed25519=stellar_xdr.Uint256(key(seller)), **amounts
        )
        return stellar_xdr.ClaimAtom(kind.CLAIM_ATOM_TYPE_V0, v0=old).to_xdr_bytes()
    new = stellar_xdr.ClaimOfferAtom(seller_id=seller.xdr_account_id(), **amounts)
    return stellar_xdr.ClaimAtom(kind.CLAIM_ATOM_TYPE_ORDER_BOOK, order_book=new).to_xdr_bytes()


def offer_result(effect: int, *atoms: bytes, seller: Keypair = ALICE) -> bytes:
    """ManageOfferSuccessResult XDR: offers taken, then what is left of the offer."""
    offer = stellar_xdr.OfferEntry(
        seller.xdr_account_id(),
        stellar_xdr.Int64(9),
        XAB.to_xdr_object(),
        XLM.to_xdr_object(),
        stellar_xdr.Int64(1),
        stellar_xdr.Price(stellar_xdr.Int32(1), stellar_xdr.Int32(2)),
        stellar_xdr.Uint32(1),
        stellar_xdr.OfferEntryExt(0),
    )
    rest = effect.to_bytes(4, "big") + (b"" if effect == 2 else offer.to_xdr_bytes())
    return len(atoms).to_bytes(4, "big") + b"".join(atoms) + rest


UNTOLD: dict[str, tuple[Make, int, bytes]] = {
    "manage_sell_offer": (
        lambda b: b.append_manage_sell_offer_op(XAB, XLM, "1", HALF),
        3,
        offer_result(0),
    ),
    "manage_sell_offer_updated": (
        lambda b: b.append_manage_sell_offer_op(XAB, XLM, "1", HALF, offer_id=9),
        3,
        offer_result(1),
    ),
    "manage_sell_offer_deleted": (
        lambda b: b.append_manage_sell_offer_op(XAB, XLM, "0", HALF, offer_id=9),
        3,
        offer_result(2),
    ),
    "passive_offer": (
        lambda b: b.append_create_passive_sell_offer_op(XAB, LONG, "1", HALF),
        4,
        offer_result(0),
    ),
    "manage_buy_offer": (
        lambda b: b.append_manage_buy_offer_op(XAB, XLM, "1", HALF),
        12,
        offer_result(0),
    ),
    "claim_claimable_balance": (lambda b: b.append_claim_claimable_balance_op(BALANCE), 15, b""),
    "pool_deposit": (
        lambda b: b.append_liquidity_pool_deposit_op(ID, "1", "1", HALF, Price(2, 1)),
        22,
        b"",
    ),
    "pool_withdraw": (lambda b: b.append_liquidity_pool_withdraw_op(ID, "1", "1", "1"), 23, b""),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_untold_amounts_are_an_inexact_movement_of_the_source(name: str) -> None:
    make, kind, body = UNTOLD[name]
    made = builder()
    make(made)
    (movement,) = read(made, done(kind, body)).movements
    assert (movement.source, movement.destination) == (key(ALICE), ZEROS)
    assert not movement.is_exact


def test_sellers_of_crossed_offers_are_told_and_pools_are_nobody() -> None:
    atoms = (atom(BOB, XLM, XAB), atom(None, XLM, XAB), atom(ISSUER, XLM, XAB, version_0=True))
    made = builder().append_manage_sell_offer_op(XAB, XLM, "1", HALF)
    transaction = read(made, done(3, offer_result(2, *atoms)))
    assert [m.source for m in transaction.movements] == [key(ALICE), key(BOB), key(ISSUER)]
    made = builder().append_path_payment_strict_send_op(BOB.public_key, LONG, "9", XAB, "2", [])
    body = (2).to_bytes(4, "big") + atom(ISSUER, XAB, LONG) + atom(None, XAB, LONG)
    transaction = read(made, done(13, body + path_result(XAB, 21_000_000)[4:]))
    assert [m.source for m in transaction.movements] == [key(ALICE), key(ALICE), key(ISSUER)]
    assert [m.is_exact for m in transaction.movements] == [False, True, False]


def test_result_bodies_are_what_the_sdk_reads() -> None:
    body = offer_result(1, atom(BOB, XLM, XAB), atom(None, XLM, XAB))
    result = stellar_xdr.TransactionResult.from_xdr_bytes(success(done(3, body)))
    assert len(result.result.results[0].tr.manage_sell_offer_result.success.offers_claimed) == 2


# --- what is cut off ------------------------------------------------------------------------------

MOVING: dict[str, tuple[Make, int, bytes]] = {
    "create_account": (lambda b: b.append_create_account_op(BOB.public_key, "5"), 0, b""),
    "payment": (lambda b: b.append_payment_op(BOB.public_key, LONG, "5"), 1, b""),
    "path_payment_strict_receive": (
        lambda b: b.append_path_payment_strict_receive_op(
            BOB.public_key, XLM, "9", XAB, "2", [LONG]
        ),
        2,
        (1).to_bytes(4, "big") + atom(ISSUER, XAB, XLM) + path_result(XAB, 20_000_000)[4:],
    ),
    "path_payment_strict_send": (
        lambda b: b.append_path_payment_strict_send_op(BOB.public_key, XLM, "9", XAB, "2", [LONG]),
        13,
        (1).to_bytes(4, "big") + atom(None, XAB, XLM) + path_result(XAB, 20_000_000)[4:],
    ),
    "account_merge": (lambda b: b.append_account_merge_op(BOB.public_key), 8, bytes(8)),
    "create_claimable_balance": (
        with_claimants(Claimant(BOB.public_key, nested(4))),
        14,
        BALANCE_XDR,
    ),
    "clawback": (lambda b: b.append_clawback_op(XAB, BOB.public_key, "3"), 19, b""),
    "inflation_paid": (
        lambda b: b.append_operation(Inflation()),
        9,
        (1).to_bytes(4, "big") + bytes(4) + key(BOB) + bytes(8),
    ),
    "sell_offer_crossing": (
        lambda b: b.append_manage_sell_offer_op(XAB, XLM, "1", HALF),
        3,
        offer_result(1, atom(BOB, XLM, XAB), atom(None, XLM, XAB)),
    ),
}
EVERY = (
    MOVING
    | UNTOLD
    | {name: (make, kind, b"") for name, (make, kind) in QUIET.items() if name != "inflation"}
)


def test_every_classic_operation_has_an_example() -> None:
    classic = {int(kind) for kind in OperationType} - {int(kind) for kind in CONTRACT_OPERATIONS}
    assert {kind for _, kind, _ in EVERY.values()} == classic == set(range(24))


@pytest.mark.parametrize("name", EVERY)
def test_operation_or_result_cut_anywhere_is_malformed(name: str) -> None:
    make, kind, body = EVERY[name]
    made = builder()
    make(made)
    envelope = envelope_of(made).to_xdr_object().to_xdr_bytes()
    result = success(done(kind, body))
    read_transaction(book_builders.fact(envelope=envelope, result=result))
    for cut in range(len(envelope)):
        with pytest.raises(MalformedXdrError):
            read_transaction(book_builders.fact(envelope=envelope[:cut], result=result))
    for cut in range(len(result)):
        with pytest.raises(MalformedXdrError):
            read_transaction(book_builders.fact(envelope=envelope, result=result[:cut]))


# --- in the books ---------------------------------------------------------------------------------


def fold(transactions: Sequence[AppliedTransaction]) -> Draft:
    draft = Draft.of(book_builders.genesis())
    fold_transactions(draft, builders.terms(), transactions)
    return draft


def read_by(source: Keypair, made: TransactionBuilder, *results: bytes) -> AppliedTransaction:
    transaction = read(made, *results)
    assert transaction.source_account == key(source)
    return transaction


@pytest.mark.parametrize("name", [*UNTOLD, "create_claimable_balance", "sell_offer_crossing"])
def test_payment_to_escrow_beside_a_strangers_business_is_a_deposit(name: str) -> None:
    make, kind, body = EVERY[name]
    made = builder()
    make(made)
    made.append_payment_op(ESCROW.public_key, XAB, "0.0000001")
    draft = fold([read_by(ALICE, made, done(kind, body), done(1))])
    assert (draft.head.escrow_stroops, draft.head.suspense_stroops) == (1, 1)


@pytest.mark.parametrize("pair", [ESCROW, PAYOUT, CHANNEL], ids=["escrow", "payout", "channel"])
@pytest.mark.parametrize("name", UNTOLD)
def test_untold_amounts_of_our_own_account_stop_the_books(name: str, pair: Keypair) -> None:
    make, kind, body = UNTOLD[name]
    made = builder(source=ALICE)
    make(made)
    made.operations[0].source = MuxedAccount(pair.public_key)
    with pytest.raises(UnknownTransactionError, match="does not tell"):
        fold([read_by(ALICE, made, done(kind, body))])


def test_claimable_balance_out_of_escrow_stops_the_books() -> None:
    made = builder()
    with_claimants(Claimant(BOB.public_key))(made)
    made.operations[0].source = MuxedAccount(ESCROW.public_key)
    with pytest.raises(UnknownTransactionError, match="out of"):
        fold([read_by(ALICE, made, done(14, BALANCE_XDR))])


@pytest.mark.parametrize("version_0", [False, True])
def test_stranger_who_takes_an_offer_of_escrow_stops_the_books(version_0: bool) -> None:
    crossed = atom(ESCROW, XAB, XLM, version_0=version_0)
    made = builder().append_manage_sell_offer_op(XLM, XAB, "1", HALF)
    with pytest.raises(UnknownTransactionError, match="does not tell"):
        fold([read_by(ALICE, made, done(3, offer_result(2, crossed)))])


@pytest.mark.parametrize("name", QUIET)
def test_operation_that_moves_nothing_stops_no_books_whosever_it_is(name: str) -> None:
    make, kind = QUIET[name]
    made = builder()
    make(made)
    made.operations[0].source = MuxedAccount(ESCROW.public_key)
    body = bytes(4) if name == "inflation" else b""
    assert fold([read_by(ALICE, made, done(kind, body))]).head == fold([]).head
