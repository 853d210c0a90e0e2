"""One network without HTTP: history, queue and closing, at today's protocol."""

from __future__ import annotations

import asyncio
import hashlib
from itertools import pairwise

import pytest
from devnet_bench import PASSPHRASE, Bench
from stellar_sdk import (
    Asset,
    BumpSequence,
    ChangeTrust,
    Keypair,
    ManageData,
    Payment,
    StrKey,
)

from ledger.devnet.envelope import EnvelopeError
from ledger.devnet.network import Settings, root_keypair
from ledger.devnet.queue import Status
from ledger.devnet.results import TxCode
from ledger.devnet.service import Devnet, Options, ServiceError


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_root_account_is_the_one_of_stellar_core() -> None:
    # The root account of a private network with the customary passphrase, known from its docs.
    found = root_keypair("Standalone Network ; February 2017").public_key
    assert found == "GBZXN7PIRZGNMHGA7MUUUF4GWPY5AYPV6LY4UV2GL6VJGIQRXFDNMADI"


def test_headers_form_a_chain_and_keep_coins(bench: Bench) -> None:
    for _ in range(3):
        bench.submit(bench.tx(bench.keys[0], sequence=bench.first))
        bench.close()
        bench.first += 1
    ledgers = bench.network.ledgers
    for older, newer in pairwise(ledgers):
        assert newer.header.previous_hash == older.hash
        assert newer.hash == hashlib.sha256(newer.header.encode()).digest()
        assert newer.header.close_time > older.header.close_time
    balances = [bench.balance(key) for key in (*bench.keys, bench.network.root)]
    assert sum(balances) + bench.network.header.fee_pool == 10**18


def test_total_order_ids_rise_and_records_are_found_by_hash_and_account(bench: Bench) -> None:
    sent = [
        bench.tx(key, Payment(bench.keys[0].public_key, Asset.native(), "1")) for key in bench.keys
    ]
    for tx in sent:
        assert bench.submit(tx) == (Status.PENDING, None)
    closed = bench.close()
    records = [bench.network.record(item.tx.hash) for item in closed.applied]
    tokens = [record.token for record in records if record]
    assert tokens == [(3 << 32) + (index << 12) for index in (1, 2, 3)]
    of_first = bench.network.records_of(bench.keys[0].raw_public_key())
    assert [record.token for record in of_first[1:]] == tokens


def test_same_source_waits_and_old_sequence_is_refused(bench: Bench) -> None:
    payer = bench.keys[0]
    bench.network.header.protocol = 23
    first, same, older, next_one = (
        bench.tx(payer, BumpSequence(n), sequence=bench.first + n) for n in (0, 0, -1, 1)
    )
    other = bench.tx(payer, Payment(payer.public_key, Asset.native(), "1"))
    assert bench.submit(first) == (Status.PENDING, None)
    assert bench.submit(same) == (Status.DUPLICATE, None)
    assert bench.submit(other) == (Status.TRY_AGAIN_LATER, None)
    assert bench.submit(next_one) == (Status.TRY_AGAIN_LATER, None)
    assert bench.submit(older) == (Status.ERROR, TxCode.BAD_SEQ)


@pytest.mark.parametrize(
    ("base_fee", "answer"),
    [(999, (Status.ERROR, TxCode.INSUFFICIENT_FEE)), (1_000, (Status.PENDING, None))],
)
def test_queued_transaction_is_replaced_only_for_ten_times_its_fee(
    bench: Bench, base_fee: int, answer: tuple[Status, TxCode | None]
) -> None:
    payer, sponsor, _ = bench.keys
    queued = bench.tx(payer, Payment(sponsor.public_key, Asset.native(), "1"))
    assert bench.submit(queued) == (Status.PENDING, None)
    assert bench.submit(bench.bump(sponsor, queued, base_fee)) == answer


def test_refused_high_bid_evicts_nobody() -> None:
    bench = Bench(accounts=3, max_tx_set_size=1)
    cheap, other, rich = bench.keys
    assert bench.submit(bench.tx(cheap, fee=100)) == (Status.PENDING, None)
    assert bench.submit(bench.tx(other, fee=200)) == (Status.PENDING, None)
    unsigned = bench.tx(rich, fee=10_000, signers=())
    assert bench.submit(unsigned) == (Status.ERROR, TxCode.BAD_AUTH)
    assert len(bench.network.queue) == 2
    assert bench.submit(bench.tx(rich, fee=150)) == (Status.PENDING, None)
    sources = {tx.source for tx in bench.network.queue.transactions()}
    assert sources == {other.raw_public_key(), rich.raw_public_key()}


def test_transaction_larger_than_the_queue_is_never_taken() -> None:
    bench = Bench(max_tx_set_size=1)
    bumps = [BumpSequence(0)] * 3
    assert bench.submit(bench.tx(bench.keys[0], *bumps)) == (Status.TRY_AGAIN_LATER, None)


def test_surge_price_is_the_lowest_bid_taken_and_the_rest_waits() -> None:
    bench = Bench(accounts=3, max_tx_set_size=2)
    for key, fee in zip(bench.keys, (300, 100, 200), strict=True):
        assert bench.submit(bench.tx(key, fee=fee)) == (Status.PENDING, None)
    assert sorted(item.result.fee_charged for item in bench.close().applied) == [200, 200]
    assert [item.result.fee_charged for item in bench.close().applied] == [100]


def test_expired_transaction_is_dropped_and_banned_without_a_fee(bench: Bench) -> None:
    tx = bench.tx(bench.keys[0], max_time=bench.now + 10)
    before = bench.balance(bench.keys[0])
    assert bench.submit(tx) == (Status.PENDING, None)
    assert bench.close(11).applied == ()
    assert bench.balance(bench.keys[0]) == before
    assert bench.submit(tx) == (Status.TRY_AGAIN_LATER, None)
    for _ in range(10):
        bench.close()
    assert bench.submit(tx) == (Status.ERROR, TxCode.TOO_LATE)


def test_failed_operation_undoes_all_but_fee_and_sequence(bench: Bench) -> None:
    payer, payee, issuer = bench.keys
    asset = Asset("ABCDE", issuer.public_key)
    tx = bench.tx(
        payer,
        Payment(payee.public_key, Asset.native(), "5"),
        ChangeTrust(asset),
        Payment(payee.public_key, asset, "1"),
    )
    payer_before, payee_before = bench.balance(payer), bench.balance(payee)
    bench.submit(tx)
    (applied,) = bench.close().applied
    assert [operation.ok for operation in applied.result.operations] == [True, True, False]
    assert bench.balance(payer) == payer_before - 300
    assert bench.balance(payee) == payee_before
    account = bench.network.account(payer.raw_public_key())
    assert account is not None
    assert (account.sequence, account.sub_entries) == (bench.first, 0)


@pytest.mark.parametrize("cut", [1, 4, 100])
def test_truncated_envelope_is_no_envelope(bench: Bench, cut: int) -> None:
    raw = bench.tx(bench.keys[0]).raw
    with pytest.raises(EnvelopeError):
        bench.network.parse(raw[:-cut])
    with pytest.raises(EnvelopeError):
        bench.network.parse(raw + bytes(cut))


def test_friendbot_funds_many_in_one_ledger_and_tells_who_asked_too_little() -> None:
    async def ask() -> tuple[list[int], list[object]]:
        devnet = Devnet(Settings(passphrase=PASSPHRASE), Options(close_seconds=0))
        keys = [
            StrKey.encode_ed25519_public_key(Keypair.random().raw_public_key()) for _ in range(5)
        ]
        records = await asyncio.gather(*(devnet.fund(key, 10**9) for key in keys))
        late = await asyncio.gather(
            devnet.fund(Keypair.random().public_key, 10**9),
            devnet.fund(Keypair.random().public_key, 1),
            devnet.fund(keys[0], 7),
            return_exceptions=True,
        )
        return [record.ledger for record in records], list(late)

    ledgers, late = asyncio.run(ask())
    assert max(ledgers) - min(ledgers) <= 1
    assert isinstance(late[1], ServiceError)
    assert "op_low_reserve" in str(late[1])
    assert not isinstance(late[0], Exception)
    assert not isinstance(late[2], Exception)


def test_bid_below_what_was_outbid_is_refused_until_the_next_close() -> None:
    bench = Bench(accounts=7, max_tx_set_size=2)
    fees = (100, 200, 300, 400, 500)
    for key, fee in zip(bench.keys, fees, strict=False):
        assert bench.submit(bench.tx(key, fee=fee)) == (Status.PENDING, None)
    low, high = bench.tx(bench.keys[5], fee=100), bench.tx(bench.keys[6], fee=101)
    bench.network.queue.drop([bench.network.queue.transactions()[-1]])
    assert len(bench.network.queue) == 3
    assert bench.submit(low) == (Status.ERROR, TxCode.INSUFFICIENT_FEE)
    assert bench.submit(high) == (Status.PENDING, None)
    bench.close()
    again = bench.tx(bench.keys[5], fee=101)
    assert bench.submit(again) == (Status.PENDING, None)


@pytest.mark.parametrize("change", ["padding", "flag"])
def test_envelope_with_another_encoding_is_no_envelope(bench: Bench, change: str) -> None:
    payer = bench.keys[0]
    tx = bench.tx(payer, ManageData("a", b"1", source=payer.public_key))
    assert bench.network.parse(tx.raw).hash == tx.hash
    if change == "padding":
        wrong = tx.raw.replace(b"\0\0\0\1a\0\0\0", b"\0\0\0\1a\0\0\1")
    else:
        wrong = tx.raw.replace(b"\0\0\0\1\0\0\0\1\0\0\0\0", b"\0\0\0\1\0\0\0\2\0\0\0\0")
    assert wrong != tx.raw
    with pytest.raises(EnvelopeError):
        bench.network.parse(wrong)
