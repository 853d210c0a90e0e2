"""Both adapters meet sources that are broken, slow, hostile, or of another network."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from answering_server import Reply, answering_server
from network_parties import Parties
from settlement_scene import PASSPHRASE, DevnetProcess
from stellar_sdk import BumpSequence, Keypair

from ledger.devnet.control import DevnetControl
from ledger.stellar import bounded_http
from ledger.stellar.errors import GatewayError, SourceError
from ledger.stellar.gateway import (
    START,
    EntryKey,
    Gateway,
    SubmitStatus,
)
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.rpc import RpcGateway
from ledger.stellar.sources import Source, open_source

pytestmark = pytest.mark.process

KINDS = ("horizon", "rpc")
NOBODY = b"\x7e" * 32


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def parties(devnet: DevnetProcess) -> Parties:
    return Parties(devnet)


@pytest.fixture
def control(devnet: DevnetProcess) -> Iterator[DevnetControl]:
    with DevnetControl(devnet.url) as made:
        yield made


def key_of(pair: Keypair) -> bytes:
    return pair.raw_public_key()


READS: dict[str, Callable[[Gateway], object]] = {
    "latest_ledger": lambda gateway: gateway.latest_ledger(),
    "ledger": lambda gateway: gateway.ledger(2),
    "transactions_of": lambda gateway: gateway.transactions_of(NOBODY, after=(1, 1)),
    "transaction": lambda gateway: gateway.transaction(NOBODY),
    "transaction_of_slot": lambda gateway: gateway.transaction_of_slot(NOBODY, 5, since=2),
    "account": lambda gateway: gateway.account(NOBODY),
    "entries": lambda gateway: gateway.entries([EntryKey(account=NOBODY)]),
    "fee_statistics": lambda gateway: gateway.fee_statistics(),
}


# Hostile and broken sources


def json_rpc(result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": "x", "result": result}).encode()


ROOT = {
    "horizon": json.dumps({"network_passphrase": PASSPHRASE}).encode(),
    "rpc": json_rpc({"passphrase": PASSPHRASE, "protocolVersion": 27}),
}


def is_about_network(kind: str, path: str, body: bytes) -> bool:
    return path == "/" if kind == "horizon" else b'"getNetwork"' in body


def source_at(url: str, kind: str, **parameters: Any) -> Source:
    made = HorizonGateway if kind == "horizon" else RpcGateway
    return made(url, PASSPHRASE, **parameters)


GARBAGE: dict[str, Reply] = {
    "no JSON": Reply(b"<html>busy</html>"),
    "empty": Reply(b""),
    "a list": Reply(b"[1, 2]"),
    "null": Reply(b"null"),
    "a number": Reply(b"7"),
    "deep nesting": Reply(b"[" * 100_000),
    "no UTF-8": Reply(b'{"\xff\xfe": 1}'),
    "empty object": Reply(b"{}"),
    "500": Reply(b"{}", status=500),
    "502 page": Reply(b"<html>", status=502),
    "429": Reply(b"{}", status=429),
    "301": Reply(b"", status=301, headers={"Location": "http://127.0.0.1:1/"}),
    "cut off": Reply(b'{"a": "' + b"x" * 1_000 + b'"}', is_cut=True),
    "rpc without result": Reply(json.dumps({"jsonrpc": "2.0", "id": 1}).encode()),
    "rpc of another form": Reply(json_rpc({"latestLedger": "many"})),
    "rpc error": Reply(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}'),
    "horizon of another form": Reply(b'{"_embedded": {"records": [{"sequence": "-1"}]}}'),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_an_error_for_every_read_and_unknown_for_submissions(
    kind: str, garbage: str
) -> None:
    def answer(path: str, body: bytes) -> Reply:
        return Reply(ROOT[kind]) if is_about_network(kind, path, body) else GARBAGE[garbage]

    with answering_server(answer) as url:
        gateway = source_at(url, kind)
        for read in READS.values():
            with pytest.raises(GatewayError):
                read(gateway)
        assert gateway.submit(b"envelope").status == SubmitStatus.UNKNOWN
        gateway.close()


def test_slow_drip_ends_when_the_time_is_up_in_head_or_body(kind: str) -> None:
    slow = Reply(b"x" * 1_000, drip_s=0.05)

    def answer(path: str, body: bytes) -> Reply:
        return Reply(ROOT[kind]) if is_about_network(kind, path, body) else slow

    with answering_server(answer) as url:
        gateway = source_at(url, kind, timeout_s=0.4)
        began = time.monotonic()
        with pytest.raises(GatewayError, match="TimeoutError"):
            gateway.latest_ledger()
        assert gateway.submit(b"envelope").status == SubmitStatus.UNKNOWN
        # Whole, the answers would take two minutes.
        assert time.monotonic() - began < 30
        gateway.close()


def test_answer_over_the_limit_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "ANSWER_BYTES_MAX", 1_000)

    def answer(path: str, body: bytes) -> Reply:
        root = is_about_network(kind, path, body)
        return Reply(ROOT[kind]) if root else Reply(b" " * 1_001)

    with answering_server(answer) as url:
        gateway = source_at(url, kind)
        with pytest.raises(GatewayError, match="over 1000 bytes"):
            gateway.latest_ledger()
        gateway.close()


def test_source_of_another_network_gives_no_answer_and_gets_nothing(kind: str) -> None:
    other = ROOT[kind].replace(PASSPHRASE.encode(), b"some other network")
    asked: list[bytes] = []

    def answer(path: str, body: bytes) -> Reply:
        if is_about_network(kind, path, body):
            return Reply(other)
        asked.append(body)
        return Reply(b"{}")

    with answering_server(answer) as url:
        gateway = source_at(url, kind)
        for read in READS.values():
            with pytest.raises(GatewayError, match="network"):
                read(gateway)
        assert gateway.submit(b"envelope").status == SubmitStatus.UNKNOWN
        assert asked == []
        gateway.close()


def test_network_is_asked_for_once_a_source_was_found_right(kind: str) -> None:
    count = 0

    def answer(path: str, body: bytes) -> Reply:
        nonlocal count
        count += is_about_network(kind, path, body)
        return Reply(ROOT[kind])

    with answering_server(answer) as url:
        gateway = source_at(url, kind)
        for _ in range(3):
            gateway.submit(b"envelope")
        assert count == 1
        gateway.close()


def test_connection_the_source_closed_meanwhile_is_made_anew(kind: str) -> None:
    replies = [Reply(ROOT[kind]), Reply(ROOT[kind])]

    def answer(_path: str, _body: bytes) -> Reply:
        return replies[0]

    with answering_server(answer) as url:
        gateway = source_at(url, kind)
        gateway.require_network()
        replies[0] = Reply(ROOT[kind], headers={"Connection": "close"})
        gateway.require_network()
        gateway.require_network()
        gateway.close()


def test_text_names_the_kind_of_source() -> None:
    texts = ("http://h.example", "horizon:https://h.example/", "rpc:https://r.example/rpc")
    made = [open_source(text, PASSPHRASE) for text in texts]
    assert [type(source) for source in made] == [HorizonGateway, HorizonGateway, RpcGateway]
    names = [source.name for source in made]
    assert names == ["http://h.example", "https://h.example", "https://r.example/rpc"]
    for source in made:
        source.close()


@pytest.mark.parametrize("text", ["ftp://x", "rpc:ftp://x", "core:http://x", "http://", "", "x"])
def test_text_that_names_no_source_is_refused(text: str) -> None:
    with pytest.raises(SourceError):
        open_source(text, PASSPHRASE)


# Sources that answer something else than was asked

Change = Callable[[dict[str, Any]], None]


def changing(devnet: DevnetProcess, change: Change) -> Callable[[str, bytes], Reply]:
    """A source that passes the devnet's answers on, changed."""

    def answer(path: str, body: bytes) -> Reply:
        if body:
            got = devnet.client.post("/rpc", content=body)
            found = got.json()
            if not is_about_network("rpc", path, body):
                change(found["result"])
        else:
            got = devnet.client.get(path)
            found = got.json()
            if path != "/":
                change(found)
        headers = {"Latest-Ledger": got.headers.get("Latest-Ledger", "")}
        return Reply(json.dumps(found).encode(), status=got.status_code, headers=headers)

    return answer


def swap(field: str, value: object) -> Change:
    """Set a field wherever an answer has it."""

    def change(found: dict[str, Any]) -> None:
        records = found.get("_embedded", {}).get("records", [])
        records += found.get("transactions", []) + (found.get("entries") or [])
        for record in [found, *records]:
            if field in record:
                record[field] = value

    return change


def test_other_transaction_than_the_one_asked_for_is_an_error(
    devnet: DevnetProcess, parties: Parties, kind: str
) -> None:
    payer, other = parties.fund(2)
    asked, another = (parties.build(pair, BumpSequence(0)) for pair in (payer, other))
    bump = parties.bump(other, asked, 400)
    parties.apply(bump)
    field = "envelope_xdr" if kind == "horizon" else "envelopeXdr"
    for given, is_right in ((another, False), (asked, True), (bump, True)):
        with answering_server(changing(devnet, swap(field, given.to_xdr()))) as url:
            gateway = source_at(url, kind)
            if is_right:
                assert gateway.transaction(asked.hash()) is not None
            else:
                with pytest.raises(GatewayError, match="another"):
                    gateway.transaction(asked.hash())
            gateway.close()
    gateway = source_at(devnet.url if kind == "horizon" else f"{devnet.url}/rpc", kind)
    assert gateway.transaction(bump.hash()) is not None
    gateway.close()


def test_other_account_or_entry_than_the_one_asked_for_is_an_error(
    devnet: DevnetProcess, parties: Parties, kind: str
) -> None:
    payer, other = parties.fund(2)
    key = base64.b64encode(bytes(8) + key_of(other)).decode()
    change = swap("account_id", other.public_key) if kind == "horizon" else swap("key", key)
    with answering_server(changing(devnet, change)) as url:
        gateway = source_at(url, kind)
        with pytest.raises(GatewayError):
            gateway.account(key_of(payer))
        with pytest.raises(GatewayError):
            gateway.entries([EntryKey(account=key_of(payer))])
        gateway.close()


def test_other_ledger_than_the_one_asked_for_is_an_error(
    devnet: DevnetProcess, parties: Parties, control: DevnetControl, kind: str
) -> None:
    control.close_ledgers(3)

    def change(found: dict[str, Any]) -> None:
        for record in [found, *found.get("ledgers", [])]:
            if "sequence" in record:
                record["sequence"] += 1

    with answering_server(changing(devnet, change)) as url:
        gateway = source_at(url, kind)
        with pytest.raises(GatewayError, match="ledger"):
            gateway.ledger(parties.latest() - 1)
        gateway.close()


def test_transaction_out_of_its_place_is_an_error(
    devnet: DevnetProcess, parties: Parties, kind: str
) -> None:
    (payer,) = parties.fund(1)
    change = swap("ledger", 1) if kind == "horizon" else swap("ledger", 10**6)
    with answering_server(changing(devnet, change)) as url:
        gateway = source_at(url, kind)
        with pytest.raises(GatewayError):
            gateway.transactions_of(key_of(payer), after=START)
        gateway.close()


def test_rpc_that_turns_its_transactions_round_is_an_error(
    devnet: DevnetProcess, parties: Parties
) -> None:
    (payer,) = parties.fund(1)
    parties.apply(parties.build(payer, BumpSequence(0)))

    def change(found: dict[str, Any]) -> None:
        found.get("transactions", []).reverse()

    with answering_server(changing(devnet, change)) as url:
        gateway = source_at(url, "rpc")
        with pytest.raises(GatewayError, match="want after"):
            gateway.transactions_of(key_of(payer), after=START)
        gateway.close()


# RPC keeps some days only


def rpc_history(oldest: int, latest: int, account: dict[str, Any] | None) -> Callable[..., Reply]:
    """An RPC instance with an empty history that begins late."""

    def answer(_path: str, body: bytes) -> Reply:
        method = json.loads(body)["method"]
        span = {"latestLedger": latest, "oldestLedger": oldest}
        entries = [] if account is None else [account]
        results: dict[str, object] = {
            "getNetwork": {"passphrase": PASSPHRASE, "protocolVersion": 27},
            "getHealth": {"status": "healthy", "ledgerRetentionWindow": 9, **span},
            "getLedgerEntries": {"entries": entries, "latestLedger": latest},
            "getTransactions": {
                "transactions": [],
                "cursor": "0",
                "latestLedgerCloseTimestamp": 5,
                "oldestLedgerCloseTimestamp": 1,
                **span,
            },
        }
        return Reply(json_rpc(results[method]))

    return answer


def test_rpc_refuses_a_place_before_its_history() -> None:
    with answering_server(rpc_history(1_000, 2_000, None)) as url:
        gateway = RpcGateway(url, PASSPHRASE)
        for place in (START, (5, 1), (998, 1)):
            with pytest.raises(GatewayError, match="history"):
                gateway.transactions_of(NOBODY, after=place)
        with pytest.raises(GatewayError, match="history"):
            gateway.transaction_of_slot(NOBODY, 5, since=999)
        page = gateway.transactions_of(NOBODY, after=(1_000, 1))
        assert (page.facts, page.is_last, page.as_of_sequence) == ((), True, 2_000)
        gateway.close()


def test_rpc_reads_a_young_account_from_its_creation_and_wants_to_see_it(
    devnet: DevnetProcess, parties: Parties
) -> None:
    (payer,) = parties.fund(1)
    key = base64.b64encode(bytes(8) + key_of(payer)).decode()
    asked = {"jsonrpc": "2.0", "id": 1, "method": "getLedgerEntries", "params": {"keys": [key]}}
    entry = devnet.client.post("/rpc", json=asked).json()["result"]["entries"][0]
    created = parties.sequence(payer) >> 32
    history = rpc_history(created - 1, created + 9, entry)
    with answering_server(history) as url:
        gateway = RpcGateway(url, PASSPHRASE)
        with pytest.raises(GatewayError, match="creation"):
            gateway.transactions_of(key_of(payer), after=START)
        gateway.close()

    def from_the_devnet(_path: str, body: bytes) -> Reply:
        if b'"getHealth"' in body:
            return history(_path, body)
        answer = devnet.client.post("/rpc", content=body).content
        return Reply(answer.replace(b'"oldestLedger":1,', b'"oldestLedger":%d,' % (created - 1)))

    with answering_server(from_the_devnet) as url:
        gateway = RpcGateway(url, PASSPHRASE)
        assert len(gateway.transactions_of(key_of(payer), after=START).facts) == 1
        gateway.close()
