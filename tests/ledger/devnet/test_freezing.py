"""Frozen ledger keys (CAP-77): refused at validity, nothing consumed; offers leave the book."""

from __future__ import annotations

import pytest
from devnet_bench import Bench
from stellar_sdk import (
    AccountMerge,
    Asset,
    ChangeTrust,
    Claimant,
    ClaimClaimableBalance,
    CreateClaimableBalance,
    ManageSellOffer,
    Operation,
    Payment,
)

from ledger.devnet.entries import account_key, data_key, trustline_key
from ledger.devnet.freezing import FreezeError
from ledger.devnet.queue import Status
from ledger.devnet.results import TxCode
from ledger.devnet.wire import NATIVE_ASSET

REFUSED = (Status.ERROR, TxCode.FROZEN_KEY_ACCESSED)
TAKEN = (Status.PENDING, None)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_frozen_payee_voids_a_queued_batch_without_fee_or_sequence(bench: Bench) -> None:
    payer, payee, other = bench.keys
    batch = bench.tx(
        payer,
        Payment(other.public_key, Asset.native(), "1"),
        Payment(payee.public_key, Asset.native(), "1"),
    )
    assert bench.submit(batch) == TAKEN
    before = bench.network.account(payer.raw_public_key())
    bench.network.freeze(account_key(payee.raw_public_key()))
    assert bench.close().applied == ()
    assert bench.network.account(payer.raw_public_key()) == before
    again = bench.tx(payer, Payment(other.public_key, Asset.native(), "1"))
    assert bench.submit(again) == TAKEN
    bench.network.unfreeze(account_key(payee.raw_public_key()))
    assert len(bench.close().applied) == 1


def test_every_mention_of_a_frozen_account_is_refused(bench: Bench) -> None:
    payer, frozen, other = bench.keys
    bench.network.freeze(account_key(frozen.raw_public_key()))
    mentions: list[Operation] = [
        Payment(frozen.public_key, Asset.native(), "1"),
        AccountMerge(frozen.public_key),
        Payment(other.public_key, Asset.native(), "1", source=frozen.public_key),
    ]
    for operation in mentions:
        assert bench.submit(bench.tx(payer, operation)) == REFUSED
    assert bench.submit(bench.tx(frozen)) == REFUSED
    assert bench.submit(bench.bump(frozen, bench.tx(payer), 100)) == REFUSED
    assert bench.submit(bench.tx(payer, ChangeTrust(Asset("USD", frozen.public_key)))) == TAKEN


def test_bypassed_transaction_may_pay_a_frozen_account(bench: Bench) -> None:
    payer, frozen = bench.keys[:2]
    bench.network.freeze(account_key(frozen.raw_public_key()))
    tx = bench.tx(payer, Payment(frozen.public_key, Asset.native(), "1"))
    assert bench.submit(tx) == REFUSED
    bench.network.bypass_freeze(tx.hash)
    assert bench.submit(tx) == TAKEN
    assert bench.close().applied[0].result.ok


def test_frozen_account_cannot_claim_and_its_claim_fails_in_the_ledger(bench: Bench) -> None:
    payer, holder, issuer = bench.keys
    usd = Asset("USD", issuer.public_key)
    create = CreateClaimableBalance(usd, "5", [Claimant(holder.public_key)])
    bench.submit(bench.tx(holder, ChangeTrust(usd)))
    made = bench.tx(issuer, create)
    bench.submit(made)
    closed = bench.close()
    result = next(item.result for item in closed.applied if item.tx.hash == made.hash)
    balance_id = result.operations[0].xdr[12:].hex()
    line = trustline_key(holder.raw_public_key(), usd.to_xdr_object().to_xdr_bytes())
    bench.network.freeze(line)
    claim = bench.tx(holder, ClaimClaimableBalance(balance_id), sequence=bench.first + 1)
    assert bench.submit(claim) == TAKEN
    applied = bench.close().applied[0].result
    assert applied.code is TxCode.FAILED
    assert applied.operations[0].xdr[-4:] == (-6).to_bytes(4, signed=True)
    assert bench.submit(bench.tx(payer, Payment(holder.public_key, usd, "1"))) == REFUSED


def test_frozen_offer_is_removed_and_the_next_one_taken(bench: Bench) -> None:
    issuer, frozen, other = bench.keys
    usd, xlm = Asset("USD", issuer.public_key), Asset.native()
    for key in (frozen, other):
        bench.submit(bench.tx(key, ChangeTrust(usd)))
    bench.close()
    for step, key in enumerate((frozen, other)):
        bench.submit(bench.tx(key, ManageSellOffer(xlm, usd, "10", "1"), sequence=bench.first + 1))
        bench.close(5 + step)
    bench.network.freeze(account_key(frozen.raw_public_key()))
    before = bench.network.account(frozen.raw_public_key())
    bench.submit(bench.tx(issuer, ManageSellOffer(usd, xlm, "10", "1")))
    assert bench.close().applied[0].result.ok
    after = bench.network.account(frozen.raw_public_key())
    assert before is not None
    assert after is not None
    assert (before.selling, before.sub_entries, before.balance) == (10**8, 2, after.balance)
    assert (after.selling, after.sub_entries) == (0, 1)
    taken = bench.network.account(other.raw_public_key())
    assert taken is not None
    assert taken.selling == 0
    assert bench.network.world.offers == set()


def test_only_accounts_and_holders_lines_can_be_frozen_from_protocol_26(bench: Bench) -> None:
    key, issuer = (k.raw_public_key() for k in bench.keys[:2])
    usd = Asset("USD", bench.keys[1].public_key).to_xdr_object().to_xdr_bytes()
    for wrong in (data_key(key, b"n"), trustline_key(issuer, usd), b"\0", account_key(key) + b"\0"):
        with pytest.raises(FreezeError):
            bench.network.freeze(wrong)
    with pytest.raises(FreezeError):
        bench.network.freeze(trustline_key(key, NATIVE_ASSET))
    bench.network.freeze(trustline_key(key, usd))
    bench.network.header.protocol = 25
    with pytest.raises(FreezeError, match="protocol: got 25"):
        bench.network.freeze(account_key(key))
