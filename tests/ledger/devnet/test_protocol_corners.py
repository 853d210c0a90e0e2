"""Corners of the protocol that the recordings do not reach."""

from __future__ import annotations

import pytest
from devnet_bench import Bench
from stellar_sdk import (
    AccountMerge,
    Asset,
    BeginSponsoringFutureReserves,
    BumpSequence,
    ChangeTrust,
    EndSponsoringFutureReserves,
    Keypair,
    ManageSellOffer,
    Payment,
    SetOptions,
    SignedPayloadSigner,
    Signer,
    SignerKey,
)

from ledger.devnet.entries import account_key
from ledger.devnet.faults import FaultError
from ledger.devnet.incidents import happen
from ledger.devnet.queue import Status
from ledger.devnet.results import Kind, TxCode, TxResult


@pytest.fixture
def bench() -> Bench:
    return Bench()


def only(bench: Bench) -> TxResult:
    return bench.close().applied[0].result


def test_merged_account_gives_its_signers_sponsors_back_their_reserve(bench: Bench) -> None:
    sponsor, merged, heir = bench.keys
    signer = Signer.ed25519_public_key(heir.public_key, 1)
    bench.submit(
        bench.tx(
            sponsor,
            BeginSponsoringFutureReserves(merged.public_key),
            SetOptions(signer=signer, source=merged.public_key),
            EndSponsoringFutureReserves(source=merged.public_key),
            signers=(sponsor, merged),
        )
    )
    assert only(bench).ok
    account = bench.network.account(sponsor.raw_public_key())
    assert account is not None
    assert account.sponsoring == 1
    bench.submit(bench.tx(merged, AccountMerge(heir.public_key)))
    assert only(bench).ok
    account = bench.network.account(sponsor.raw_public_key())
    assert account is not None
    assert account.sponsoring == 0


def test_sponsored_account_may_merge_inside_the_sandwich_but_not_end_it(bench: Bench) -> None:
    sponsor, merged, heir = bench.keys
    bench.submit(
        bench.tx(
            sponsor,
            BeginSponsoringFutureReserves(merged.public_key),
            AccountMerge(heir.public_key, source=merged.public_key),
            EndSponsoringFutureReserves(source=merged.public_key),
            signers=(sponsor, merged),
        )
    )
    result = only(bench)
    assert result.code is TxCode.FAILED
    assert [operation.ok for operation in result.operations] == [True, True, False]
    assert result.operations[2].xdr == (-2).to_bytes(4, signed=True)


def test_bump_below_the_present_number_still_dates_the_sequence(bench: Bench) -> None:
    source, other = bench.keys[:2]
    bench.submit(
        bench.tx(source, BumpSequence(1, source=other.public_key), signers=(source, other))
    )
    assert only(bench).ok
    account = bench.network.account(other.raw_public_key())
    assert account is not None
    assert (account.sequence, account.sequence_ledger) == (2 << 32, 3)
    assert account.sequence_time == bench.now


def test_partly_taken_offer_leaves_its_sellers_account_unmodified(bench: Bench) -> None:
    issuer, seller, taker = bench.keys
    usd, eur = (Asset(code, issuer.public_key) for code in ("USD", "EUR"))
    for key in (seller, taker):
        bench.submit(bench.tx(key, ChangeTrust(usd), ChangeTrust(eur)))
    bench.close()
    bench.submit(
        bench.tx(
            issuer,
            Payment(seller.public_key, usd, "100"),
            Payment(taker.public_key, eur, "100"),
        )
    )
    bench.close()
    bench.first += 1
    bench.submit(bench.tx(seller, ManageSellOffer(usd, eur, "50", "1")))
    bench.close()
    bench.submit(bench.tx(taker, ManageSellOffer(eur, usd, "10", "1")))
    closed = bench.close()
    assert closed.applied[0].result.ok
    assert account_key(taker.raw_public_key()) in closed.changed
    assert account_key(seller.raw_public_key()) not in closed.changed


@pytest.mark.parametrize(("protocol", "inner_fee"), [(24, 100), (25, 0)])
def test_inner_result_under_a_fee_bump_names_a_fee_before_protocol_25_only(
    bench: Bench, protocol: int, inner_fee: int
) -> None:
    bench.network.header.protocol = protocol
    payer, source = bench.keys[:2]
    bench.submit(bench.bump(payer, bench.tx(source), 300))
    result = only(bench)
    assert result.inner is not None
    assert (result.fee_charged, result.inner.fee_charged) == (200, inner_fee)


def test_filtered_operation_is_refused_by_policy_and_not_banned(bench: Bench) -> None:
    source = bench.keys[0]
    bench.network.queue.filtered_kinds = frozenset({Kind.BUMP_SEQUENCE})
    tx = bench.tx(source, BumpSequence(0))
    assert bench.submit(tx) == (Status.FILTERED, None)
    bench.network.queue.filtered_kinds = frozenset()
    assert bench.submit(tx) == (Status.PENDING, None)


def test_payload_signers_are_kept_by_payload_not_by_its_length(bench: Bench) -> None:
    source, other = bench.keys[:2]
    payloads = (b"\2", b"\1\1\1\1\1", b"\1")
    bench.submit(
        bench.tx(
            source,
            *(
                SetOptions(
                    signer=Signer(SignerKey.ed25519_signed_payload(signed_by(other, payload)), 1)
                )
                for payload in payloads
            ),
        )
    )
    assert only(bench).ok
    account = bench.network.account(source.raw_public_key())
    assert account is not None
    kept = [signer.key[40 : 40 + signer.key[39]] for signer in account.signers]
    assert kept == [b"\1", b"\1\1\1\1\1", b"\2"]


def signed_by(key: Keypair, payload: bytes) -> SignedPayloadSigner:
    return SignedPayloadSigner(key.public_key, payload)


def test_dropped_transaction_set_slips_what_waits_by_a_ledger_and_no_more(bench: Bench) -> None:
    source = bench.keys[0]
    tx = bench.tx(source)
    assert bench.submit(tx) == (Status.PENDING, None)
    for _ in range(3):
        assert bench.network.close_ledger(bench.now + 5, drop_set=True).applied == ()
        bench.now += 5
        assert len(bench.network.queue) == 1
    assert only(bench).ok
    assert bench.network.record(tx.hash) is not None


@pytest.mark.parametrize("operations", [None, 1, ["payment"], [-1], [True]])
def test_filter_is_armed_with_operation_types_only(bench: Bench, operations: object) -> None:
    with pytest.raises(FaultError, match="operations"):
        happen(bench.network, {"kind": "filter", "operations": operations})
    happen(bench.network, {"kind": "filter", "operations": [1]})
    payer = bench.keys[0]
    tx = bench.tx(payer, Payment(payer.public_key, Asset.native(), "1"))
    assert bench.submit(tx) == (Status.FILTERED, None)
    happen(bench.network, {"kind": "filter", "operations": []})
    assert bench.submit(tx) == (Status.PENDING, None)
