"""The devnet as its users meet it: the real process, read by stellar_sdk."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from devnet_process import PASSPHRASE, Net, start, start_net
from stellar_sdk import (
    Asset,
    ChangeTrust,
    Keypair,
    Payment,
    TransactionBuilder,
    TransactionEnvelope,
)
from stellar_sdk.exceptions import BadRequestError, BadResponseError, NotFoundError
from stellar_sdk.soroban_rpc import GetTransactionStatus, SendTransactionStatus

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    options = ("--close-seconds", "0", "--submit-timeout-seconds", "0.5")
    yield from start_net(tmp_path_factory.mktemp("devnet"), *options)


@pytest.fixture(autouse=True)
def no_faults(net: Net) -> Iterator[None]:
    yield
    net.http.delete("/devnet/faults")


def balance(net: Net, account: Keypair, code: str) -> str:
    balances = net.horizon.accounts().account_id(account.public_key).call()["balances"]
    return next(b["balance"] for b in balances if b.get("asset_code") == code)


def test_issued_asset_is_trusted_paid_and_paged(net: Net) -> None:
    issuer, payee = net.fund(2)
    asset = Asset("USDT", issuer.public_key)
    net.apply(net.build(payee, ChangeTrust(asset)))
    paid = [net.apply(net.build(issuer, Payment(payee.public_key, asset, f"{n}"))) for n in (1, 2)]
    assert balance(net, payee, "USDT") == "3.0000000"

    page = net.horizon.transactions().for_account(payee.public_key).limit(2).order(desc=False)
    first = page.call()["_embedded"]["records"]
    second = page.next()["_embedded"]["records"]
    hashes = [record["hash"] for record in first + second]
    assert hashes[2:] == [record["hash"] for record in paid]
    assert page.next()["_embedded"]["records"] == []
    assert second[0]["memo"] == "test"

    newest = net.horizon.payments().for_account(payee.public_key).order().limit(1).call()
    record = newest["_embedded"]["records"][0]
    assert (record["type"], record["amount"], record["asset_code"]) == (
        "payment",
        "2.0000000",
        "USDT",
    )
    ledger = net.horizon.ledgers().ledger(paid[1]["ledger"]).call()
    assert ledger["closed_at"] == paid[1]["created_at"]
    assert ledger["successful_transaction_count"] == 1


def test_failed_payment_is_listed_only_on_request_and_consumes_the_sequence(net: Net) -> None:
    issuer, payer = net.fund(2)
    before = net.horizon.load_account(payer.public_key).sequence
    asset = Asset("EUR", issuer.public_key)
    failed = net.apply(net.build(payer, Payment(issuer.public_key, asset, "1")))
    assert failed["successful"] is False
    assert failed["fee_charged"] == "100"
    assert net.horizon.load_account(payer.public_key).sequence == before + 1

    listing = net.horizon.transactions().for_account(payer.public_key)
    shown = [r["hash"] for r in listing.call()["_embedded"]["records"]]
    assert failed["hash"] not in shown
    listing = net.horizon.transactions().for_account(payer.public_key).include_failed(True)
    shown = [r["hash"] for r in listing.call()["_embedded"]["records"]]
    assert shown[-1] == failed["hash"]


def test_refused_submission_tells_codes_and_result(net: Net) -> None:
    (payer,) = net.fund(1)
    envelope = net.build(payer, Payment(payer.public_key, Asset.native(), "1"), fee=99)
    with pytest.raises(BadRequestError) as refused:
        net.horizon.submit_transaction(envelope)
    extras = refused.value.extras
    assert extras is not None
    assert extras["result_codes"] == {"transaction": "tx_insufficient_fee"}
    assert extras["result_xdr"] == "AAAAAAAAAGT////3AAAAAA=="


def test_queue_answers_duplicate_and_try_again_later(net: Net) -> None:
    payer, payee = net.fund(2)
    first = net.build(payer, Payment(payee.public_key, Asset.native(), "1"))
    second = net.build(payer, Payment(payee.public_key, Asset.native(), "2"))

    def send(envelope: TransactionEnvelope) -> tuple[int, str]:
        answer = net.http.post("/transactions_async", data={"tx": envelope.to_xdr()})
        return answer.status_code, answer.json()["tx_status"]

    assert send(first) == (201, "PENDING")
    assert send(first) == (409, "DUPLICATE")
    assert send(second) == (503, "TRY_AGAIN_LATER")
    net.close()
    assert send(first) == (503, "TRY_AGAIN_LATER")
    net.close(10)
    assert send(first) == (400, "ERROR")


def test_synchronous_submission_times_out_when_no_ledger_closes(net: Net) -> None:
    (payer,) = net.fund(1)
    envelope = net.build(payer, Payment(payer.public_key, Asset.native(), "1"))
    with pytest.raises(BadResponseError) as late:
        net.horizon.submit_transaction(envelope)
    assert late.value.status == 504
    net.close()
    assert net.horizon.submit_transaction(envelope)["successful"] is True


def test_fee_bump_is_found_by_both_hashes(net: Net) -> None:
    payer, sponsor = net.fund(2)
    inner = net.build(payer, Payment(sponsor.public_key, Asset.native(), "1"))
    bump = TransactionBuilder.build_fee_bump_transaction(sponsor, 200, inner, PASSPHRASE)
    bump.sign(sponsor)
    assert net.horizon.submit_transaction_async(bump)["tx_status"] == "PENDING"
    net.close()
    for wanted in (bump.hash_hex(), inner.hash_hex()):
        found = net.horizon.transactions().transaction(wanted).call()
        assert found["hash"] == wanted
        assert found["fee_account"] == sponsor.public_key
        assert found["inner_transaction"]["hash"] == inner.hash_hex()
        assert net.rpc.get_transaction(wanted).status is GetTransactionStatus.SUCCESS


def test_rpc_sends_and_finds(net: Net) -> None:
    payer, payee = net.fund(2)
    account = net.rpc.load_account(payer.public_key)
    assert account.sequence == net.horizon.load_account(payer.public_key).sequence
    assert net.rpc.get_network().passphrase == PASSPHRASE
    envelope = net.build(payer, Payment(payee.public_key, Asset.native(), "1"))
    assert net.rpc.get_transaction(envelope.hash_hex()).status is GetTransactionStatus.NOT_FOUND
    assert net.rpc.send_transaction(envelope).status is SendTransactionStatus.PENDING
    closed = net.close()
    found = net.rpc.get_transaction(envelope.hash_hex())
    assert found.status is GetTransactionStatus.SUCCESS
    assert found.ledger == closed["sequence"] == net.rpc.get_latest_ledger().sequence
    assert found.envelope_xdr == envelope.to_xdr()
    listed = net.rpc.get_transactions(start_ledger=closed["sequence"]).transactions
    assert [t.transaction_hash for t in listed] == [envelope.hash_hex()]
    assert net.rpc.get_health().status == "healthy"
    assert net.rpc.get_fee_stats().inclusion_fee.max >= 100


@pytest.mark.parametrize("kind", ["reset_after_accept", "http_504"])
def test_lost_answer_hides_a_submission_that_was_taken(net: Net, kind: str) -> None:
    (payer,) = net.fund(1)
    envelope = net.build(payer, Payment(payer.public_key, Asset.native(), "1"))
    net.arm(kind)
    if kind == "http_504":
        answer = net.http.post("/transactions_async", data={"tx": envelope.to_xdr()})
        assert answer.status_code == 504
    else:
        with pytest.raises(httpx.TransportError):
            net.http.post("/transactions_async", data={"tx": envelope.to_xdr()})
    net.close()
    assert net.horizon.transactions().transaction(envelope.hash_hex()).call()["successful"]


def test_dropped_answer_takes_nothing(net: Net) -> None:
    (payer,) = net.fund(1)
    envelope = net.build(payer, Payment(payer.public_key, Asset.native(), "1"))
    net.arm("drop_answer", path="/transactions_async")
    with pytest.raises(httpx.TransportError):
        net.http.post("/transactions_async", data={"tx": envelope.to_xdr()})
    net.close()
    with pytest.raises(NotFoundError):
        net.horizon.transactions().transaction(envelope.hash_hex()).call()


def test_hidden_transaction_comes_back_when_the_fault_is_used_up(net: Net) -> None:
    (payer,) = net.fund(1)
    sent = net.apply(net.build(payer, Payment(payer.public_key, Asset.native(), "1")))
    net.arm("hide_transactions", count=2)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            net.horizon.transactions().transaction(sent["hash"]).call()
    assert net.horizon.transactions().transaction(sent["hash"]).call()["successful"]


def test_lost_queue_forgets_a_pending_transaction(net: Net) -> None:
    (payer,) = net.fund(1)
    envelope = net.build(payer, Payment(payer.public_key, Asset.native(), "1"))
    net.horizon.submit_transaction_async(envelope)
    net.arm("lose_queue")
    net.close()
    assert net.http.get(f"/transactions/{envelope.hash_hex()}").status_code == 404
    assert net.apply(envelope)["successful"]


def test_time_jump_moves_the_close_time(net: Net) -> None:
    before = net.http.get("/devnet/status").json()["close_time"]
    net.arm("time_jump", seconds=3600)
    net.close()
    assert net.http.get("/devnet/status").json()["close_time"] >= before + 3600


def test_unknown_fault_and_bad_requests_are_refused_as_problems(net: Net) -> None:
    answer = net.http.post("/devnet/faults", json={"kind": "earthquake"})
    assert answer.status_code == 400
    assert answer.json()["extras"]["invalid_field"] == "fault"
    for path in ("/accounts/nobody", "/transactions?limit=0", "/ledgers?cursor=x"):
        answer = net.http.get(path)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
    answer = net.http.post("/transactions", data={"tx": "AAAA"})
    assert answer.json()["type"].endswith("transaction_malformed")
    assert net.http.get(f"/accounts/{Keypair.random().public_key}").status_code == 404


def test_timer_closes_stalls_and_goes_on(tmp_path: Path) -> None:
    process, ready = start(tmp_path, "--close-seconds", "0.05", "--listen", "127.0.0.1:0")
    try:
        with httpx.Client(base_url=ready["url"]) as http:

            def sequence() -> int:
                return int(http.get("/devnet/status").json()["sequence"])

            while sequence() < 4:
                time.sleep(0.02)
            http.post("/devnet/faults", json={"kind": "stall", "count": 0})
            stalled = sequence()
            while http.get("/devnet/faults").json()["faults"][0]["struck"] < 5:
                time.sleep(0.02)
            assert sequence() == stalled
            http.delete("/devnet/faults")
            while sequence() == stalled:
                time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(10)
    assert code == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(ready["url"])
