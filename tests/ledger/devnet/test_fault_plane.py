"""The fault plane as clients meet it: what strikes, where, how often, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from devnet_process import Net, start_net
from stellar_sdk import Asset, BumpSequence, ChangeTrust, Keypair, Payment, TransactionBuilder

from ledger.devnet.control import ControlError, DevnetControl

pytestmark = pytest.mark.process

XLM = Asset.native()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    options = ("--close-seconds", "0", "--max-tx-set-size", "200")
    yield from start_net(tmp_path_factory.mktemp("devnet"), *options)


@pytest.fixture
def control(net: Net) -> Iterator[DevnetControl]:
    with DevnetControl(net.url) as made:
        yield made
        made.clear()


def charge(net: Net, tx_hash: str) -> int:
    return int(net.horizon.transactions().transaction(tx_hash).call()["fee_charged"])


def is_applied(net: Net, tx_hash: str) -> bool:
    return net.http.get(f"/transactions/{tx_hash}").status_code == 200


# Surge


def test_surge_leaves_a_low_bid_waiting_and_takes_a_high_one(
    net: Net, control: DevnetControl
) -> None:
    low, high = net.fund(2)
    control.arm("surge", count=0, fee=5_000)
    waiting = net.build(low, BumpSequence(0), fee=100)
    bidding = net.build(high, BumpSequence(0), fee=20_000)
    assert [net.send(waiting), net.send(bidding)] == ["PENDING", "PENDING"]
    net.close()
    assert (is_applied(net, waiting.hash_hex()), is_applied(net, bidding.hash_hex())) == (
        False,
        True,
    )
    # Everybody pays the lowest bid that was taken.
    assert charge(net, bidding.hash_hex()) == 5_000
    assert net.rpc.get_fee_stats().inclusion_fee.max == 5_000
    net.close(3)
    assert not is_applied(net, waiting.hash_hex())
    assert net.send(waiting) == "TRY_AGAIN_LATER"  # four ledgers without room: banned


def test_surge_ends_after_as_many_ledgers_as_asked(net: Net, control: DevnetControl) -> None:
    (payer,) = net.fund(1)
    control.arm("surge", count=2)
    waiting = net.build(payer, BumpSequence(0), fee=100)
    assert net.send(waiting) == "PENDING"
    net.close(2)
    assert not is_applied(net, waiting.hash_hex())
    assert control.armed() == []
    net.close(2)
    assert is_applied(net, waiting.hash_hex())


def test_surge_can_be_bid_through_with_a_fee_bump(net: Net, control: DevnetControl) -> None:
    payer, sponsor = net.fund(2)
    control.arm("surge", count=0, fee=1_000)
    inner = net.build(payer, BumpSequence(0), fee=100)
    assert net.send(inner) == "PENDING"
    net.close()
    bump = TransactionBuilder.build_fee_bump_transaction(
        sponsor, 2_000, inner, net.rpc.get_network().passphrase
    )
    bump.sign(sponsor)
    answer = net.http.post("/transactions_async", data={"tx": bump.to_xdr()})
    assert answer.json()["tx_status"] == "PENDING"
    net.close()
    assert is_applied(net, inner.hash_hex())
    # Two operations count, at the lowest bid that was taken.
    assert 2_000 <= charge(net, bump.hash_hex()) <= 2_020


# Where and how often


def test_fault_kept_to_a_path_leaves_others_alone(net: Net, control: DevnetControl) -> None:
    control.arm("http_500", count=0, path="/rpc/getHealth")
    assert net.http.get("/ledgers").status_code == 200
    call = {"jsonrpc": "2.0", "id": 1, "method": "getNetwork"}
    assert net.http.post("/rpc", json=call).status_code == 200
    assert net.http.post("/rpc", json=call | {"method": "getHealth"}).status_code == 500
    assert control.armed()[0]["struck"] == 1


def test_fault_strikes_as_often_as_asked_and_controls_never(
    net: Net, control: DevnetControl
) -> None:
    control.arm("garble_answer", count=2)
    assert control.status()["sequence"] > 0
    answers = [net.http.get("/fee_stats").headers["content-type"] for _ in range(3)]
    assert [kind.partition(";")[0] for kind in answers] == [
        "text/html",
        "text/html",
        "application/json",
    ]


def test_one_api_may_lag_while_the_other_does_not(net: Net, control: DevnetControl) -> None:
    (payer,) = net.fund(1)
    net.close()
    before = net.horizon.load_account(payer.public_key).sequence
    net.apply(net.build(payer, BumpSequence(0)))
    control.arm("stale_replica", count=0, ledgers=1, path="/rpc/")
    assert net.rpc.load_account(payer.public_key).sequence == before
    assert net.horizon.load_account(payer.public_key).sequence == before + 1


def test_stale_replica_has_what_was_there_and_lacks_what_came(
    net: Net, control: DevnetControl
) -> None:
    issuer, holder = net.fund(2)
    usd = Asset("USD", issuer.public_key)
    net.apply(net.build(holder, ChangeTrust(usd)))
    net.apply(net.build(issuer, Payment(holder.public_key, usd, "4")))
    net.apply(net.build(holder, Payment(issuer.public_key, usd, "4")))
    net.apply(net.build(holder, ChangeTrust(usd, "0")))

    def usd_balances() -> list[str]:
        found = net.horizon.accounts().account_id(holder.public_key).call()["balances"]
        return [item["balance"] for item in found if item["asset_type"] != "native"]

    told = []
    for ledgers in (4, 3, 2, 1):
        control.arm("stale_replica", ledgers=ledgers)
        told.append(usd_balances())
    assert told == [[], ["0.0000000"], ["4.0000000"], ["0.0000000"]]
    assert usd_balances() == []


def test_repeated_answer_is_the_last_one_of_the_same_question(
    net: Net, control: DevnetControl
) -> None:
    first = net.http.get("/ledgers?order=desc&limit=1").json()
    net.close()
    control.arm("repeat_answer", count=2)
    assert net.http.get("/ledgers?order=desc&limit=1").json() == first
    other = net.http.get("/ledgers?order=desc&limit=2").json()["_embedded"]["records"]
    assert other[0]["sequence"] == net.sequence()


# Incidents


def test_lost_queue_is_lost_at_once(net: Net, control: DevnetControl) -> None:
    (payer,) = net.fund(1)
    assert net.send(net.build(payer, BumpSequence(0))) == "PENDING"
    assert control.status()["queued_transactions"] == 1
    control.lose_queue()
    assert control.status()["queued_transactions"] == 0


def test_closing_takes_a_time(net: Net, control: DevnetControl) -> None:
    at = control.status()["close_time"] + 77
    sequence = control.close_ledgers(close_time_s=at)
    assert (control.status()["sequence"], control.status()["close_time"]) == (sequence, at)


STRANGER = Keypair.random()
REFUSED = [
    ({"kind": "earthquake"}, "earthquake"),
    ({"kind": "freeze"}, "account"),
    ({"kind": "freeze", "account": "nobody"}, "nobody"),
    ({"kind": "revoke", "issuer_seed": STRANGER.secret, "account": "x", "asset": "USD"}, "asset"),
    (
        {
            "kind": "clawback",
            "issuer_seed": STRANGER.secret,
            "account": STRANGER.public_key,
            "asset": f"USD:{STRANGER.public_key}",
            "stroops": 0,
        },
        "stroops",
    ),
    (
        {
            "kind": "clawback",
            "issuer_seed": STRANGER.secret,
            "account": STRANGER.public_key,
            "asset": f"USD:{STRANGER.public_key}",
            "stroops": 1,
        },
        "want an account of the network",
    ),
]


@pytest.mark.parametrize(("asked", "named"), REFUSED)
def test_incident_that_cannot_be_is_refused_with_its_reason(
    net: Net, asked: dict[str, object], named: str
) -> None:
    answer = net.http.post("/devnet/incidents", json=asked)
    assert answer.status_code == 400
    assert named in answer.json()["extras"]["reason"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "earthquake"},
        {"kind": "delay", "seconds": -1},
        {"kind": "delay", "count": -1},
        {"kind": "stale_replica", "ledgers": 65},
        {"kind": "surge", "fee": 1},
        {"kind": "delay", "path": 7},
    ],
)
def test_fault_that_cannot_be_is_refused_with_its_reason(
    control: DevnetControl, fault: dict[str, object]
) -> None:
    parameters = {name: value for name, value in fault.items() if name != "kind"}
    with pytest.raises(ControlError, match="400"):
        control.arm(str(fault["kind"]), **parameters)
    assert control.armed() == []


def test_client_of_a_devnet_that_is_gone_says_so() -> None:
    with DevnetControl("http://127.0.0.1:1") as control, pytest.raises(ControlError):
        control.status()
