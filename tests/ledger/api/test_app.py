"""The operator's API over HTTP: promises, conflicts, refusals, clock, log files."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served_app import serve_app
from shard_scene import ShardScene, digest, make_shard_scene
from simulated_operator import (
    NETWORK,
    address,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)

from ledger.api.app import make_app
from ledger.evidence.bundle import (
    BUNDLE_SIZE_MAX,
    BundleKind,
    make_bundle,
    parse_bundle,
    sign_bundle,
)
from ledger.evidence.clock import CLOCK
from ledger.evidence.promise import PROMISE
from ledger.evidence.terms import parse_terms

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.deposit(10_000_000_000, made.terms.epoch_start_s(0) + 2)
        made.reach_epoch(1)
        yield made


@pytest.fixture
def client(scene: ShardScene) -> Iterator[httpx.Client]:
    with serve_app(make_app(scene.api_parts())) as made:
        yield made


def bundle(scene: ShardScene, epoch: int = 1, total: int = 999_983) -> bytes:
    ann = make_entitlement(scene.operator, "ann")
    return make_payee_bundle(
        "seeder", epoch, [ann], [make_receipt(ann, "ann", "seeder", epoch, total)]
    )


def test_a_bundle_gets_a_promise_and_the_same_one_again(scene, client):
    raw = bundle(scene)
    first = client.post("/v1/bundles", content=raw)
    scene.reach_epoch(2)
    again = client.post("/v1/bundles", content=raw)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.headers["content-type"] == "application/octet-stream"
    assert first.content == again.content
    promise = PROMISE.parse(first.content)
    assert PROMISE.is_signed_by(promise, key("log"))
    assert promise.value.bundle_digest == digest(raw)
    assert promise.value.sealing_epoch == 1


def test_other_bytes_under_the_same_key_conflict_and_are_kept(scene, client):
    from sqlalchemy import text

    client.post("/v1/bundles", content=bundle(scene))
    answers = [
        client.post("/v1/bundles", content=bundle(scene, total=1_000_003 + n)) for n in range(6)
    ]
    assert {answer.status_code for answer in answers} == {409}
    assert answers[0].json()["code"] == "bundle_conflict"
    with scene.sessions.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM conflicts")) == 4
        assert session.scalar(text("SELECT count(*) FROM bundles")) == 1


def test_nobody_takes_another_ones_key_with_an_unsigned_bundle(scene, client):
    raw = bundle(scene)
    forged = bytes(64) + raw[64:]
    answer = client.post("/v1/bundles", content=forged)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_signature")
    assert client.post("/v1/bundles", content=raw).status_code == 200


def with_network(scene: ShardScene, **changes: object) -> bytes:
    values = {
        "network_id": NETWORK,
        "submitter_key": key("seeder"),
        "broadcaster_account": key("broadcaster"),
        "epoch": 1,
        "kind": BundleKind.PAYEE,
        "number": 0,
        "bindings": [],
        "entitlements": [],
        "receipts": [],
        "heartbeats": [],
    }
    return sign_bundle(make_bundle(**values | changes), seed("seeder")).raw


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"network_id": bytes(32)}, 400, "wrong_network"),
        ({"broadcaster_account": key("nobody")}, 404, "unknown_broadcaster"),
        ({"epoch": 2}, 422, "epoch_not_begun"),
        ({"epoch": 1_000_000}, 422, "epoch_not_begun"),
    ],
)
def test_a_bundle_with_a_bad_frame_is_refused_with_its_code(scene, client, changes, status, code):
    answer = client.post("/v1/bundles", content=with_network(scene, **changes))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "detail", "field", "got", "want"}


def test_a_bundle_older_than_the_correction_window_is_refused(scene, client):
    for epoch in range(7):
        scene.end_epoch(epoch)
        scene.advance()
    answer = client.post("/v1/bundles", content=bundle(scene, epoch=1))
    assert (answer.status_code, answer.json()["code"]) == (422, "too_late")


@pytest.mark.parametrize("cut", [0, 1, 63, 100, -1])
def test_malformed_bytes_are_refused_with_field_got_and_want(scene, client, cut):
    answer = client.post("/v1/bundles", content=bundle(scene)[:cut])
    assert answer.status_code == 400
    body = answer.json()
    assert body["code"] == "malformed"
    assert body["field"]
    assert body["want"]


def test_a_body_over_the_bound_is_refused(client):
    answer = client.post("/v1/bundles", content=bytes(BUNDLE_SIZE_MAX + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_stale_clock_is_answered_with_retry_after_and_old_promises_still_are(scene, client):
    raw = bundle(scene)
    promise = client.post("/v1/bundles", content=raw).content
    scene.ledger_time._stale_s = -1
    stale = client.post("/v1/bundles", content=bundle(scene, epoch=0))
    assert (stale.status_code, stale.json()["code"]) == (503, "clock_stale")
    assert int(stale.headers["retry-after"]) > 0
    assert client.get("/v1/clock", params={"nonce": "0" * 32}).status_code == 503
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    assert client.post("/v1/bundles", content=raw).content == promise


def test_the_clock_is_signed_over_the_nonce(scene, client):
    nonce = uuid.uuid4()
    answer = client.get("/v1/clock", params={"nonce": nonce.hex})
    assert len(answer.content) == 152
    signed = CLOCK.parse(answer.content)
    assert CLOCK.is_signed_by(signed, key("log"))
    assert signed.value.nonce == nonce.bytes
    assert scene.terms.epoch_at(signed.value.close_time_s) == 1
    assert signed.value.epoch_length_s == scene.terms.epoch_length_s


@pytest.mark.parametrize("nonce", ["", "00", "zz" * 16, "0" * 31, "0" * 34])
def test_a_nonce_that_is_none_is_refused(client, nonce):
    answer = client.get("/v1/clock", params={"nonce": nonce})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")


def test_the_terms_are_served_as_signed(scene, client):
    for parameters in ({}, {"broadcaster": address("broadcaster")}):
        answer = client.get("/v1/terms", params=parameters)
        assert parse_terms(answer.content).value == scene.terms
    unknown = client.get("/v1/terms", params={"broadcaster": address("nobody")})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_broadcaster")


def test_a_bundles_fate_is_readable_from_upload_to_seal(scene, client):
    ann = make_entitlement(scene.operator, "ann")
    stranger = make_entitlement(scene.operator, "bob", terms_digest=bytes(32))
    raw = make_payee_bundle(
        "seeder",
        1,
        [ann, stranger],
        [
            make_receipt(ann, "ann", "seeder", 1, 999_983),
            make_receipt(stranger, "bob", "seeder", 1, 999_979),
        ],
    )
    url = f"/v1/bundles/{digest(raw).hex()}"
    assert client.get(url).json()["code"] == "unknown_bundle"
    client.post("/v1/bundles", content=raw)
    waiting = client.get(url).json()
    assert (waiting["state"], waiting["code"], waiting["codes"]) == ("received", None, [])
    scene.judge_all()
    judged = client.get(url).json()
    assert judged["state"] == "judged"
    assert sorted(judged["code_names"]) == ["bad_entitlement", "counted"]
    scene.end_epoch(1)
    scene.advance()
    assert client.get(url).json() == judged | {"state": "computed"}
    refusals = client.get(f"/v1/submitters/{key('seeder').hex()}/refusals").json()["refusals"]
    assert [row["code_name"] for row in refusals] == ["bad_entitlement"]
    order = [receipt.value.bytes_total for receipt in parse_bundle(raw).value.receipts]
    assert order[refusals[0]["place"]] == refusals[0]["bytes_total"] == 999_979
    for part in ("field", "got", "want"):
        assert isinstance(refusals[0][part], str)
    assert refusals[0]["field"].startswith("entitlement")


def test_epochs_and_log_files_are_served(scene, client):
    client.post("/v1/bundles", content=bundle(scene))
    scene.judge_all()
    scene.end_epoch(1)
    scene.advance()
    epochs = client.get("/v1/epochs").json()["epochs"]
    assert epochs[0] == {"epoch": 0, "state": "computed"}
    epoch = client.get("/v1/epochs/1").json()
    assert epoch["checkpoint"]["tree_size"] == epoch["result_size"]
    assert epoch["anchor_tx"] is None
    scene.anchor(1, scene.terms.epoch_end_s(1) + 7)
    assert len(client.get("/v1/epochs/1").json()["anchor_tx"]) == 64
    assert client.get("/v1/epochs/99").json()["code"] == "unknown_epoch"
    base = f"/log/{address('broadcaster')}"
    checkpoint = client.get(f"{base}/checkpoint")
    assert checkpoint.headers["cache-control"] == "no-cache"
    assert checkpoint.text.startswith(f"{scene.terms.log_origin}\n{epoch['result_size']}\n")
    tile = client.get(f"{base}/tile/0/000.p/{epoch['result_size']}")
    assert tile.headers["cache-control"] == "public, max-age=300"
    assert len(tile.content) == 32 * epoch["result_size"]


@pytest.mark.parametrize(
    "path", ["../audit/epoch-0.audit", "tile/0/000", "tile/0/0", ".checkpoint.1", "%2e%2e/x", ""]
)
def test_no_other_file_is_served(scene, client, path):
    scene.end_epoch(0)
    scene.advance()
    answer = client.get(f"/log/{address('broadcaster')}/{path}")
    # The client itself takes `..` out of the first one: then `audit` is no broadcaster's address.
    wanted = (400, "bad_parameter") if path.startswith("..") else (404, "unknown_file")
    assert (answer.status_code, answer.json()["code"]) == wanted


def test_the_openapi_document_is_served(client):
    answer = client.get("/openapi.json")
    assert "/v1/bundles" in answer.json()["paths"]
