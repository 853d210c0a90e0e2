"""Payees sign in by SEP-10 with a real network's signers, and see their own account only."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import book_builders as books
import httpx
import jwt
import pytest
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    PASSPHRASE,
    address,
    key,
    keypair,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)
from stellar_sdk import Account as SdkAccount
from stellar_sdk import Asset, Keypair, TransactionBuilder, TransactionEnvelope
from stellar_sdk.sep.stellar_web_authentication import build_challenge_transaction

from ledger.api.app import make_app
from ledger.api.payee_accounts import PayeeIndex, _amounts
from ledger.api.payee_session import PayeeSessions
from ledger.books.state import PayeeBalance
from ledger.simulation.faults import Weather
from ledger.simulation.network import SimulatedNetwork
from ledger.simulation.source import SimulatedSource
from ledger.stellar.web_auth import (
    ChallengeError,
    ServerIdentity,
    WebAuth,
    sign_challenge,
    web_auth_seed,
)

pytestmark = pytest.mark.postgres

PAYEE = "seeder account"
DOMAIN = "video.example"


class Calm(Weather):
    def __init__(self) -> None:
        super().__init__(SimpleNamespace(random=lambda: 1.0), None, calm=True)


@pytest.fixture
def network() -> SimulatedNetwork:
    return SimulatedNetwork(PASSPHRASE, 1_000_000_000, ("USD", key("issuer")))


@pytest.fixture
def web_auth(network: SimulatedNetwork) -> WebAuth:
    source = SimulatedSource("devnet", network, Calm(), None)
    return WebAuth(web_auth_seed(seed("log")), DOMAIN, DOMAIN, PASSPHRASE, source)


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    """An epoch in which the seeder earned, computed and not paid."""
    with make_shard_scene(database_url, tmp_path, payout_threshold_stroops=10**12) as made:
        made.deposit(50_000_000_000, made.terms.epoch_start_s(0) + 2)
        made.reach_epoch(0)
        film = make_entitlement(made.operator, "ann")
        receipt = make_receipt(film, "ann", "seeder", 0, 5_000_000_000)
        made.upload(make_payee_bundle("seeder", 0, [film], [receipt]))
        made.judge_all()
        made.end_epoch(0)
        made.advance()
        yield made


@pytest.fixture
def client(scene: ShardScene, web_auth: WebAuth) -> Iterator[httpx.Client]:
    with serve_app(make_app(replace(scene.api_parts(), web_auth=web_auth))) as made:
        yield made


def identity(web_auth: WebAuth) -> ServerIdentity:
    return ServerIdentity(
        signing_key=web_auth.signing_key,
        home_domain=DOMAIN,
        web_auth_domain=DOMAIN,
        passphrase=PASSPHRASE,
    )


def sign_in(client: httpx.Client, web_auth: WebAuth, who: str = PAYEE) -> dict[str, str]:
    challenge = client.get("/auth", params={"account": address(who)}).json()["transaction"]
    signed = sign_challenge(challenge, identity(web_auth), seed(who))
    answer = client.post("/auth", json={"transaction": signed})
    assert answer.status_code == 200
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def apply(network: SimulatedNetwork, who: Keypair, add: Any) -> None:
    state = network.network.account(who.raw_public_key())
    builder = TransactionBuilder(
        SdkAccount(who.public_key, state.sequence), PASSPHRASE, base_fee=100
    ).add_time_bounds(0, 0)
    add(builder)
    envelope = builder.build()
    envelope.sign(who)
    network.submit(envelope.to_xdr_object().to_xdr_bytes())
    network.close()
    record = network.network.record(envelope.hash())
    assert record is not None
    assert record.result.ok


def shared_account(network: SimulatedNetwork, name: str, signers: list[str]) -> None:
    """An account whose own key has no weight, and of whose signers two must agree."""
    root, own = network.network.root, keypair(name)
    apply(network, root, lambda b: b.append_create_account_op(own.public_key, "100"))

    def set_signers(builder: TransactionBuilder) -> None:
        for signer in signers:
            builder.append_ed25519_public_key_signer(address(signer), 1)
        builder.append_set_options_op(
            master_weight=0, low_threshold=2, med_threshold=2, high_threshold=2
        )

    apply(network, own, set_signers)


def test_a_payee_signs_in_and_sees_what_is_owed_and_why_it_waits(client, web_auth) -> None:
    headers = sign_in(client, web_auth)
    found = client.get("/v1/payees/me", headers=headers).json()
    assert found["account"] == address(PAYEE)
    assert found["owed_stroops"] == found["accrued_stroops"] > 0
    assert found["payable_stroops"] == found["owed_stroops"]
    assert (found["reason"], found["pay_to"]) == ("below_threshold", address(PAYEE))
    lines = client.get(
        "/v1/payees/me/statement", params={"first": 0, "last": 5}, headers=headers
    ).json()["lines"]
    assert [line["epoch"] for line in lines] == [0]
    assert lines[0]["closing_stroops"] == found["owed_stroops"]
    assert lines[0]["bytes_p2p"] == 5_000_000_000


def test_a_form_is_taken_as_sep_10_has_it(client, web_auth) -> None:
    challenge = client.get("/auth", params={"account": address(PAYEE)}).json()["transaction"]
    signed = sign_challenge(challenge, identity(web_auth), seed(PAYEE))
    assert client.post("/auth", data={"transaction": signed}).status_code == 200


def test_who_is_owed_nothing_is_told_so(client, web_auth) -> None:
    answer = client.get("/v1/payees/me", headers=sign_in(client, web_auth, "stranger"))
    assert (answer.status_code, answer.json()["code"]) == (404, "no_payee")


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer x", "Basic YTpi", "Bearer a.b.c"]
)
def test_nobody_reads_an_account_without_a_token(client, authorization) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/v1/payees/me", "/v1/payees/me/statement?first=0&last=0"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


def test_a_token_that_is_over_foreign_or_unsigned_is_refused(client, web_auth) -> None:
    tokens = PayeeSessions.of(f"https://{DOMAIN}/auth", seed("log"))
    good = tokens.make(key(PAYEE), challenge_hash=bytes(32), now_s=4_000_000_000)
    claims = jwt.decode(good, options={"verify_signature": False})
    others = PayeeSessions.of(f"https://{DOMAIN}/auth", seed("another log"))
    elsewhere = PayeeSessions.of("https://other.example/auth", seed("log"))
    for token in (
        tokens.make(key(PAYEE), challenge_hash=bytes(32), now_s=1_000_000_000),
        others.make(key(PAYEE), challenge_hash=bytes(32), now_s=4_000_000_000),
        elsewhere.make(key(PAYEE), challenge_hash=bytes(32), now_s=4_000_000_000),
        jwt.encode(claims, "", algorithm="none"),
    ):
        answer = client.get("/v1/payees/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401


def test_a_challenge_signed_by_another_key_gives_no_token(client, web_auth) -> None:
    challenge = client.get("/auth", params={"account": address(PAYEE)}).json()["transaction"]
    envelope = TransactionEnvelope.from_xdr(challenge, PASSPHRASE)
    envelope.sign(keypair("thief"))
    answer = client.post("/auth", json={"transaction": envelope.to_xdr()})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_challenge")
    unsigned = client.post("/auth", json={"transaction": challenge})
    assert (unsigned.status_code, unsigned.json()["code"]) == (400, "bad_challenge")


@pytest.mark.parametrize(
    ("account", "status"), [("", 400), ("G123", 400), ("S" * 56, 400), ("M" * 69, 400)]
)
def test_a_challenge_is_made_for_accounts_only(client, account, status) -> None:
    assert client.get("/auth", params={"account": account}).status_code == status


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b'{"transaction": 1}', "application/json"),
        (b"[" * 5_000, "application/json"),
        (b"transaction=", "application/x-www-form-urlencoded"),
        (b"\xff", "application/x-www-form-urlencoded"),
        (json.dumps({"transaction": "AAAA"}).encode(), "application/json"),
    ],
)
def test_a_body_that_is_no_challenge_is_refused(client, body, kind) -> None:
    answer = client.post("/auth", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json()["field"] == "transaction"


def test_a_long_body_is_refused_before_it_is_read(client) -> None:
    assert client.post("/auth", content=b"x" * 20_000).status_code == 413


def test_signers_and_threshold_are_those_of_the_chain(network, web_auth) -> None:
    shared_account(network, "shared", ["first", "second", "third"])

    def proves(*signers: str) -> bool:
        envelope = TransactionEnvelope.from_xdr(web_auth.challenge(address("shared")), PASSPHRASE)
        for signer in signers:
            envelope.sign(keypair(signer))
        try:
            return web_auth.verify(envelope.to_xdr()) == key("shared")
        except ChallengeError:
            return False

    assert proves("first", "third")
    assert not proves("first")
    assert not proves("shared")
    assert not proves("shared", "first")
    assert not proves("first", "second", "stranger")


def test_a_challenge_of_another_server_domain_or_network_proves_nothing(web_auth) -> None:
    def proves(**changes: Any) -> bool:
        values = {
            "server_secret": Keypair.from_raw_ed25519_seed(web_auth.seed).secret,
            "client_account_id": address(PAYEE),
            "home_domain": DOMAIN,
            "web_auth_domain": DOMAIN,
            "network_passphrase": PASSPHRASE,
            **changes,
        }
        envelope = TransactionEnvelope.from_xdr(
            build_challenge_transaction(**values), values["network_passphrase"]
        )
        envelope.sign(keypair(PAYEE))
        try:
            return web_auth.verify(envelope.to_xdr()) == key(PAYEE)
        except ChallengeError:
            return False

    assert proves()
    assert not proves(server_secret=keypair("another server").secret)
    assert not proves(home_domain="other.example")
    assert not proves(web_auth_domain="other.example")
    assert not proves(network_passphrase="another network")


def test_a_client_signs_challenges_of_its_server_for_its_account_only(web_auth) -> None:
    server = identity(web_auth)
    challenge = web_auth.challenge(address(PAYEE))
    assert web_auth.verify(sign_challenge(challenge, server, seed(PAYEE))) == key(PAYEE)
    with pytest.raises(ChallengeError):
        sign_challenge(challenge, server, seed("another account"))
    for other in (
        replace(server, signing_key=key("another server")),
        replace(server, home_domain="other.example"),
        replace(server, web_auth_domain="other.example"),
        replace(server, passphrase="another network"),
    ):
        with pytest.raises(ChallengeError):
            sign_challenge(challenge, other, seed(PAYEE))


def test_a_client_signs_no_payment_that_is_given_for_a_challenge(web_auth) -> None:
    builder = TransactionBuilder(SdkAccount(address(PAYEE), 4), PASSPHRASE, base_fee=100)
    builder.append_payment_op(address("thief"), Asset.native(), "1").add_time_bounds(0, 0)
    envelope = builder.build()
    envelope.sign(Keypair.from_raw_ed25519_seed(web_auth.seed))
    with pytest.raises(ChallengeError):
        sign_challenge(envelope.to_xdr(), identity(web_auth), seed(PAYEE))


def test_damaged_challenges_are_refused_and_never_more(web_auth) -> None:
    raw = base64.b64decode(web_auth.challenge(address(PAYEE)))
    for place in range(0, len(raw), 3):
        changed = bytes(byte ^ (at == place) for at, byte in enumerate(raw))
        for damaged in (raw[:place], changed, raw + bytes(4)):
            with pytest.raises(ChallengeError):
                web_auth.verify(base64.b64encode(damaged).decode())


def test_secrets_stand_in_no_representation(web_auth) -> None:
    tokens = PayeeSessions.of(f"https://{DOMAIN}/auth", seed("log"))
    for secret, shown in ((web_auth.seed, repr(web_auth)), (tokens.secret, repr(tokens))):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    assert web_auth.seed != seed("log")
    assert sha256(seed("log")).digest() != web_auth.seed


class ReadOnce(dict[Any, Any]):
    """Rows of a state that whoever asks for one payee may not go through again."""

    is_read = False

    def items(self) -> Any:
        assert not self.is_read, "rows of everybody are read for one payee"
        self.is_read = True
        return super().items()


def test_rows_of_a_large_state_are_read_once_and_not_for_every_payee_that_asks() -> None:
    state, terms = books.full_state(), books.signed_terms().value
    rows = ReadOnce(state.maturing)
    (payee, from_s), stroops = next(iter(state.maturing.items()))
    rows[payee, from_s - 1] = 7
    index = PayeeIndex.of(replace(state, maturing=rows))
    elsewhere = books.key_of("payee paid elsewhere")
    (paid,) = _amounts(index, PayeeBalance(accrued_stroops=9), elsewhere, terms)["under_way"]
    assert paid["batch"] == 3
    assert paid["stroops"] in {payment.amount_stroops for payment in state.batches[3].payments}
    told = _amounts(index, PayeeBalance(), payee, terms)
    assert told["in_challenge"] == [
        {"stroops": 7, "payable_from_s": from_s - 1},
        {"stroops": stroops, "payable_from_s": from_s},
    ]
