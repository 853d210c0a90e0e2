"""The devnet's whole surface, read by stellar_sdk: RPC's methods, streams, balances, limits."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from devnet_process import PASSPHRASE, Net, start_net
from stellar_sdk import (
    AccountMerge,
    Asset,
    BumpSequence,
    ChangeTrust,
    Claimant,
    ClaimClaimableBalance,
    CreateClaimableBalance,
    Keypair,
    MuxedAccount,
    Payment,
    Server,
    StrKey,
    scval,
    xdr,
)
from stellar_sdk.client.requests_client import RequestsClient
from stellar_sdk.exceptions import BadRequestError, NotFoundError, SorobanRpcErrorResponse
from stellar_sdk.soroban_rpc import EventFilter, EventFilterType, GetTransactionStatus

pytestmark = pytest.mark.process

XLM = Asset.native()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    yield from start_net(tmp_path_factory.mktemp("devnet"), "--close-seconds", "0")


@pytest.fixture(autouse=True)
def no_faults(net: Net) -> Iterator[None]:
    yield
    net.http.delete("/devnet/faults")


# RPC


def test_ledgers_are_listed_with_headers_and_meta_that_decode(net: Net) -> None:
    (payer,) = net.fund(1)
    sent = net.apply(net.build(payer, BumpSequence(0)))
    answer = net.rpc.get_ledgers(start_ledger=sent["ledger"] - 1, limit=2)
    assert [ledger.sequence for ledger in answer.ledgers] == [sent["ledger"] - 1, sent["ledger"]]
    newest = answer.ledgers[1]
    entry = xdr.LedgerHeaderHistoryEntry.from_xdr(newest.header_xdr)
    assert entry.hash.hash.hex() == newest.hash
    assert entry.header.ledger_seq.uint32 == newest.sequence
    meta = xdr.LedgerCloseMeta.from_xdr(newest.metadata_xdr)
    assert meta.v0 is not None
    assert meta.v0.ledger_header == entry
    processed = [item.result.transaction_hash.hash.hex() for item in meta.v0.tx_processing]
    assert processed == [sent["hash"]]
    rest = net.rpc.get_ledgers(cursor=str(int(answer.cursor) - 1), limit=5)
    assert [ledger.sequence for ledger in rest.ledgers] == [sent["ledger"]]
    latest = net.rpc.get_latest_ledger()
    assert xdr.LedgerHeader.from_xdr(latest.header_xdr) == entry.header
    assert latest.close_time == newest.ledger_close_time


def test_entries_are_listed_in_the_order_asked_and_at_most_200(net: Net) -> None:
    pairs = net.fund(2)
    keys = [
        xdr.LedgerKey(
            xdr.LedgerEntryType.ACCOUNT,
            account=xdr.LedgerKeyAccount(pair.xdr_account_id()),
        )
        for pair in (*pairs, Keypair.random())
    ]
    found = net.rpc.get_ledger_entries(keys)
    assert found.entries is not None
    assert [item.key for item in found.entries] == [key.to_xdr() for key in keys[:2]]
    entry = xdr.LedgerEntryData.from_xdr(found.entries[0].xdr)
    assert entry.account is not None
    assert entry.account.balance.int64 == 10_000 * 10_000_000
    with pytest.raises(SorobanRpcErrorResponse):
        net.rpc.get_ledger_entries([keys[0]] * 201)


def test_transactions_are_paged_by_cursor(net: Net) -> None:
    payers = net.fund(3)
    first = net.close()["sequence"] + 1
    hashes = [net.apply(net.build(payer, BumpSequence(0)))["hash"] for payer in payers]
    page = net.rpc.get_transactions(start_ledger=first, limit=2)
    rest = net.rpc.get_transactions(cursor=page.cursor, limit=2)
    assert [t.transaction_hash for t in page.transactions + rest.transactions] == hashes
    done = net.rpc.get_transactions(cursor=rest.cursor)
    assert done.transactions == []
    for bad in ({"start_ledger": 10**6}, {"start_ledger": first, "limit": 201}):
        with pytest.raises(SorobanRpcErrorResponse):
            net.rpc.get_transactions(**bad)


def test_failed_and_unknown_transactions_are_told_apart(net: Net) -> None:
    payer, payee = net.fund(2)
    failed = net.apply(net.build(payer, Payment(payee.public_key, XLM, "99999999")))
    assert net.rpc.get_transaction(failed["hash"]).status is GetTransactionStatus.FAILED
    assert net.rpc.get_transaction("7e" * 32).status is GetTransactionStatus.NOT_FOUND
    with pytest.raises(SorobanRpcErrorResponse):
        net.rpc.get_transaction("7e")


def test_statistics_network_and_version_are_told(net: Net) -> None:
    (payer,) = net.fund(1)
    net.apply(net.build(payer, BumpSequence(0), fee=500))
    fees = net.rpc.get_fee_stats()
    assert (fees.inclusion_fee.max, fees.latest_ledger) == (100, net.sequence())
    assert fees.inclusion_fee.transaction_count > 0
    assert fees.soroban_inclusion_fee.transaction_count == 0
    network = net.rpc.get_network()
    assert (network.passphrase, network.friendbot_url) == (PASSPHRASE, f"{net.url}/friendbot")
    assert net.rpc.get_version_info().protocol_version == network.protocol_version
    assert net.rpc.get_health().latest_ledger == net.sequence()


def transfers(net: Net, start: int, **parameters: Any) -> list[list[Any]]:
    answer = net.rpc.get_events(start_ledger=start, **parameters)
    told = []
    for event in answer.events:
        topics = [scval.to_native(topic) for topic in event.topic]
        names = [getattr(topic, "address", topic) for topic in topics]
        told.append([*names, scval.to_native(event.value)])
    return told


def test_money_of_classic_assets_gives_events(net: Net) -> None:
    issuer, holder, gone = net.fund(3)
    usd = Asset("USD", issuer.public_key)
    text = f"USD:{issuer.public_key}"
    net.apply(net.build(holder, ChangeTrust(usd)))
    start = net.sequence() + 1
    net.apply(net.build(issuer, Payment(holder.public_key, usd, "5"), memo=None))
    net.apply(net.build(holder, Payment(issuer.public_key, usd, "1"), memo=None))
    muxed = MuxedAccount(holder.public_key, 7)
    net.apply(net.build(gone, Payment(muxed, XLM, "3"), memo=None))
    net.apply(net.build(gone, AccountMerge(holder.public_key)))
    refused = net.apply(net.build(holder, Payment(issuer.public_key, usd, "999")))
    assert not refused["successful"]
    merged = 9_997 * 10_000_000 - 200
    assert transfers(net, start) == [
        ["mint", holder.public_key, text, 50_000_000],
        ["burn", holder.public_key, text, 10_000_000],
        [
            "transfer",
            gone.public_key,
            holder.public_key,
            "native",
            {"amount": 30_000_000, "to_muxed_id": 7},
        ],
        ["transfer", gone.public_key, holder.public_key, "native", merged],
    ]
    only = EventFilter(
        event_type=EventFilterType.CONTRACT, contract_ids=[usd.contract_id(PASSPHRASE)]
    )
    assert [event[0] for event in transfers(net, start, filters=[only])] == ["mint", "burn"]
    topics = [[scval.to_symbol("burn").to_xdr(), "*", "*"]]
    burns = EventFilter(event_type=EventFilterType.CONTRACT, topics=topics)
    assert [event[0] for event in transfers(net, start, filters=[burns])] == ["burn"]
    anything = EventFilter(topics=[["**"]])
    assert len(transfers(net, start, filters=[anything])) == 4


def test_events_are_paged_by_cursor(net: Net) -> None:
    payer, payee = net.fund(2)
    start = net.sequence() + 1
    payments = [Payment(payee.public_key, XLM, f"{n}") for n in (1, 2, 3)]
    net.apply(net.build(payer, *payments))
    page = net.rpc.get_events(start_ledger=start, limit=2)
    rest = net.rpc.get_events(cursor=page.cursor)
    assert [event.operation_index for event in page.events + rest.events] == [0, 1, 2]
    assert net.rpc.get_events(cursor=rest.cursor).events == []


def test_transactions_carry_their_events(net: Net) -> None:
    payer, payee = net.fund(2)
    sent = net.apply(net.build(payer, Payment(payee.public_key, XLM, "1"), BumpSequence(0)))
    found = net.rpc.get_transaction(sent["hash"]).events
    assert found is not None
    assert found.contract_events_xdr is not None
    first, second = found.contract_events_xdr
    assert (len(first), second) == (1, [])
    event = xdr.ContractEvent.from_xdr(first[0])
    assert event.contract_id is not None
    name = StrKey.encode_contract(event.contract_id.contract_id.hash)
    assert name == XLM.contract_id(PASSPHRASE)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "simulateTransaction"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "getHealth", "params": [1]}', -32602),
        (b'{"id": 1, "method": "sendTransaction", "params": {"transaction": "AAAA"}}', -32602),
        (b'{"id": 1, "method": "getLedgerEntries", "params": {"keys": 7}}', -32602),
        (b'{"id": 1, "method": "getEvents", "params": {}}', -32602),
        (b"[" * 50_000, -32700),
    ],
)
def test_calls_that_cannot_be_are_answered_with_errors(net: Net, body: bytes, code: int) -> None:
    answer = net.http.post("/rpc", content=body).json()
    assert answer["error"]["code"] == code


# Horizon


def test_claimable_balances_are_listed_and_filtered(net: Net) -> None:
    issuer, holder, claimant = net.fund(3)
    usd = Asset("USD", issuer.public_key)
    for pair in (holder, claimant):
        net.apply(net.build(pair, ChangeTrust(usd)))
    net.apply(net.build(issuer, Payment(holder.public_key, usd, "6")))
    claimants = [Claimant(claimant.public_key), Claimant(holder.public_key)]
    create = [CreateClaimableBalance(usd, f"{n}", claimants) for n in (1, 2, 3)]
    made = net.build(holder, *create)
    net.apply(made)
    ids = [made.transaction.get_claimable_balance_id(n) for n in range(3)]
    listing = net.horizon.claimable_balances().for_claimant(claimant.public_key).limit(2)
    records = listing.call()["_embedded"]["records"] + listing.next()["_embedded"]["records"]
    assert sorted(record["id"] for record in records) == sorted(ids)
    assert listing.next()["_embedded"]["records"] == []
    one = net.horizon.claimable_balances().claimable_balance(ids[1]).call()
    assert (one["amount"], one["asset"]) == ("2.0000000", f"USD:{issuer.public_key}")
    assert one["claimants"][0]["predicate"] == {"unconditional": True}
    assert one["sponsor"] == holder.public_key
    by_asset = net.horizon.claimable_balances().for_asset(usd).call()["_embedded"]["records"]
    assert len(by_asset) == 3
    start = net.sequence() + 1
    net.apply(net.build(claimant, ClaimClaimableBalance(ids[1])))
    with pytest.raises(NotFoundError):
        net.horizon.claimable_balances().claimable_balance(ids[1]).call()
    (claim,) = transfers(net, start)
    assert (claim[0], claim[2], claim[-1]) == ("transfer", claimant.public_key, 20_000_000)


def test_effects_tell_who_got_and_who_gave(net: Net) -> None:
    payer, payee = net.fund(2)
    sent = net.apply(net.build(payer, Payment(payee.public_key, XLM, "2")))
    effects = net.horizon.effects().for_transaction(sent["hash"]).call()["_embedded"]["records"]
    told = [(item["type"], item["account"], item["amount"]) for item in effects]
    assert told == [
        ("account_credited", payee.public_key, "2.0000000"),
        ("account_debited", payer.public_key, "2.0000000"),
    ]
    mine = net.horizon.effects().for_account(payee.public_key).call()["_embedded"]["records"]
    assert [item["type"] for item in mine] == ["account_created", "account_credited"]


def test_operations_are_found_one_by_one_and_by_ledger(net: Net) -> None:
    payer, payee = net.fund(2)
    sent = net.apply(net.build(payer, Payment(payee.public_key, XLM, "2"), BumpSequence(0)))
    listed = net.horizon.operations().for_ledger(sent["ledger"]).call()["_embedded"]["records"]
    assert [item["type"] for item in listed] == ["payment", "bump_sequence"]
    one = net.horizon.operations().operation(listed[0]["id"]).call()
    assert one == listed[0]
    paid = net.horizon.payments().for_ledger(sent["ledger"]).call()["_embedded"]["records"]
    assert paid == listed[:1]


def test_every_answer_names_the_ledger_it_is_as_of(net: Net) -> None:
    for path in ("/", "/ledgers", f"/accounts/{net.root}", "/fee_stats", "/transactions"):
        assert net.http.get(path).headers["Latest-Ledger"] == str(net.sequence())


def test_paging_goes_back_and_forth(net: Net) -> None:
    (payer,) = net.fund(1)
    hashes = [net.apply(net.build(payer, BumpSequence(0)))["hash"] for _ in range(4)]
    listing = net.horizon.transactions().for_account(payer.public_key).limit(2).order()
    newest = listing.call()["_embedded"]["records"]
    older = listing.next()["_embedded"]["records"]
    again = listing.prev()["_embedded"]["records"]
    assert [r["hash"] for r in newest + older] == hashes[::-1]
    assert sorted(r["hash"] for r in again) == sorted(r["hash"] for r in newest)


def test_refusal_carries_codes_envelope_and_result(net: Net) -> None:
    payer, payee = net.fund(2)
    envelope = net.build(payer, Payment(payee.public_key, XLM, "0"))
    with pytest.raises(BadRequestError) as refused:
        net.horizon.submit_transaction(envelope)
    extras = refused.value.extras
    assert extras is not None
    assert extras["result_codes"] == {"transaction": "tx_failed", "operations": ["op_malformed"]}
    assert extras["envelope_xdr"] == envelope.to_xdr()
    assert len(base64.b64decode(extras["result_xdr"])) > 12


def test_bodies_and_parameters_have_limits(net: Net) -> None:
    answer = net.http.post("/transactions_async", data={"tx": "A" * 600_000})
    assert (answer.status_code, answer.json()["status"]) == (413, 413)
    assert net.http.post("/rpc", content=b" " * 600_000).status_code == 413
    chunks = (b"x" * 100_000 for _ in range(10))
    assert net.http.post("/rpc", content=chunks).status_code == 413
    digits = "9" * 30
    for path in (
        f"/transactions?cursor={digits}",
        f"/transactions?limit={digits}",
        "/transactions?order=sideways",
        "/transactions/zz",
        "/claimable_balances/zz",
        "/claimable_balances?claimant=zz",
    ):
        answer = net.http.get(path)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
    for path in (f"/ledgers/{10**9}", f"/ledgers/{10**9}/transactions", "/operations/5"):
        assert net.http.get(path).status_code == 404


# Streams


class Listener:
    """Reads a stream of the SDK in a thread until it has enough."""

    def __init__(self, stream: Iterator[dict[str, Any]], count: int) -> None:
        self.got: list[dict[str, Any]] = []
        self._stream, self._count = stream, count
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for item in self._stream:
            self.got.append(item)
            if len(self.got) == self._count:
                return

    def wait(self, net: Net, *, closing: bool) -> list[dict[str, Any]]:
        """Wait for all, closing ledgers meanwhile if what comes has to close."""
        for _ in range(400):
            self.thread.join(0.05)
            if not self.thread.is_alive():
                return self.got
            if closing:
                net.close()
        raise AssertionError(f"stream: got {len(self.got)} in time, want {self._count}")


@pytest.fixture
def streaming(net: Net) -> Iterator[Server]:
    client = RequestsClient(num_retries=0)
    yield Server(net.url, client)
    client.close()


def test_stream_from_now_gives_ledgers_as_they_close(net: Net, streaming: Server) -> None:
    listener = Listener(streaming.ledgers().cursor("now").stream(), 3)
    before = net.sequence()
    got = [ledger["sequence"] for ledger in listener.wait(net, closing=True)]
    assert got == list(range(got[0], got[0] + 3))
    assert got[0] > before


def test_stream_goes_on_over_the_limit_of_one_connection(net: Net, streaming: Server) -> None:
    payer, payee = net.fund(2)
    for stroops in range(1, 6):
        net.apply(net.build(payer, Payment(payee.public_key, XLM, f"{stroops}")))
    payments = streaming.payments().for_account(payee.public_key).cursor("0").limit(2)
    got = Listener(payments.stream(), 6).wait(net, closing=False)
    amounts = [item.get("amount", item.get("starting_balance")) for item in got]
    assert amounts == ["10000.0000000", *(f"{n}.0000000" for n in range(1, 6))]


def test_stream_of_transactions_waits_for_the_next_ledger(net: Net, streaming: Server) -> None:
    (payer,) = net.fund(1)
    calls = streaming.transactions().for_account(payer.public_key).include_failed(True)
    listener = Listener(calls.cursor("now").stream(), 1)
    with net.http.stream("GET", "/ledgers", headers={"Accept": "text/event-stream"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == ["retry: 1000", "event: open", 'data: "hello"']
    envelope = net.build(payer, BumpSequence(0))
    sent = net.horizon.submit_transaction_async(envelope)
    (got,) = listener.wait(net, closing=True)
    assert got["hash"] == sent["hash"]


def test_stream_of_an_account_tells_it_again_when_it_changes(net: Net, streaming: Server) -> None:
    (payer,) = net.fund(1)
    listener = Listener(streaming.accounts().account_id(payer.public_key).stream(), 2)
    while not listener.got:
        listener.thread.join(0.02)
    net.close(2)
    net.apply(net.build(payer, BumpSequence(0)))
    first, second = listener.wait(net, closing=False)
    assert int(second["sequence"]) == int(first["sequence"]) + 1


def test_stream_backwards_is_refused(net: Net) -> None:
    answer = net.http.get(
        "/ledgers", params={"order": "desc"}, headers={"Accept": "text/event-stream"}
    )
    assert answer.status_code == 400
