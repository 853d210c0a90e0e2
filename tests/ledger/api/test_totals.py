"""Live totals: marked provisional, close to the truth, and replaced by what the seal counts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    NETWORK,
    address,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    make_viewer_bundle,
    seed,
)
from sqlalchemy import text

from ledger.api.app import make_app
from ledger.api.limits import IntakeLimits
from ledger.api.pacing import Buckets
from ledger.api.provisional import REPORTS_BURST, SAMPLE_SIZE, SKEW_MS
from ledger.books.judgement import ENTITLEMENT_BYTES_MAX
from ledger.evidence.bundle import BundleKind, make_bundle
from ledger.evidence.provisional import sign_report

pytestmark = pytest.mark.postgres

TOKEN = "the operator's token"
FILM, NEWS = sha256(b"content").digest(), sha256(b"news").digest()


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.deposit(10**9, made.terms.genesis_s + 1)
        made.reach_epoch(1)
        made.advance()
        yield made


@pytest.fixture
def client(scene: ShardScene) -> Iterator[httpx.Client]:
    app = make_app(replace(scene.api_parts(), limits=IntakeLimits(totals_token=TOKEN)))
    with serve_app(app) as made:
        scene.watch = app.state.watch
        yield made


def now_ms(scene: ShardScene) -> int:
    return scene.clock.ledger.close_time_s * 1_000


def report(
    scene: ShardScene,
    entitlements,
    receipts,
    *,
    who: str = "seeder",
    signer: str | None = None,
    kind: BundleKind = BundleKind.PAYEE,
    after_ms: int = 0,
    epoch: int = 1,
) -> bytes:
    bundle = make_bundle(
        network_id=NETWORK,
        submitter_key=key(who),
        broadcaster_account=key("broadcaster"),
        epoch=epoch,
        kind=kind,
        number=0,
        bindings=[],
        entitlements=entitlements,
        receipts=receipts,
        heartbeats=[],
    )
    return sign_report(bundle, now_ms(scene) + after_ms, seed(signer or who))


def totals(client: httpx.Client, epoch: int = 1, token: str | None = TOKEN) -> dict:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answer = client.get("/v1/totals", headers=headers)
    assert answer.status_code == 200
    return {each["epoch"]: each for each in answer.json()["epochs"]}[epoch]


def test_totals_are_provisional_and_become_the_sealed_ones(scene, client):
    film = make_entitlement(scene.operator, "ann")
    news = make_entitlement(scene.operator, "ann", content_id=NEWS, serial=bytes(16))
    early = [make_receipt(film, "ann", "seeder", 1, 1_000)]
    late = [
        make_receipt(film, "ann", "seeder", 1, 5_000, sequence=2),
        make_receipt(news, "ann", "seeder", 1, 300),
    ]
    cdn = [make_receipt(film, "ann", "cdn", 1, 70)]
    for raw in (
        report(scene, [film], early),
        report(scene, [film, news], late, after_ms=1),
        report(scene, [film], cdn, who="ann", kind=BundleKind.VIEWER),
    ):
        assert client.post("/v1/provisional", content=raw).status_code == 204
    seen = totals(client)
    assert (seen["provisional"], seen["state"], seen["reporters"]) == (True, "open", 2)
    assert (seen["p2p_bytes"], seen["cdn_bytes"], seen["lanes"]) == (5_300, 70, 3)
    by_content = {each["content_id"]: each for each in seen["contents"]}
    assert by_content[FILM.hex()]["p2p_bytes"] == 5_000
    assert by_content[NEWS.hex()] == {"content_id": NEWS.hex(), "p2p_bytes": 300, "cdn_bytes": 0}

    # The swarm moves on after the last report; the bundles have the final word.
    final = [
        make_receipt(film, "ann", "seeder", 1, 6_000, sequence=3),
        make_receipt(news, "ann", "seeder", 1, 300),
    ]
    scene.upload(make_payee_bundle("seeder", 1, [film, news], final))
    scene.upload(make_viewer_bundle("ann", 1, [film], cdn))
    scene.judge_all()
    scene.end_epoch(1)
    scene.advance()
    sealed = totals(client)
    assert (sealed["provisional"], sealed["reporters"]) == (False, None)
    assert (sealed["p2p_bytes"], sealed["cdn_bytes"], sealed["lanes"]) == (6_300, 70, 3)
    with scene.sessions.begin() as session:
        statement = "SELECT sum(sum_tree_bytes) FROM results WHERE epoch = 1"
        assert session.scalar(text(statement)) is not None
        assert session.scalar(text("SELECT count(*) FROM provisional_totals")) == 3
    scene.watch.sweep()
    with scene.sessions.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM provisional_totals")) == 0
    assert totals(client) == sealed


def test_reports_change_nothing_that_is_sealed(scene, client):
    film = make_entitlement(scene.operator, "ann")
    client.post(
        "/v1/provisional",
        content=report(scene, [film], [make_receipt(film, "ann", "seeder", 1, 9_999)]),
    )
    scene.end_epoch(1)
    scene.advance()
    assert totals(client)["p2p_bytes"] == 0
    with scene.sessions.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM bundles")) == 0
        assert session.scalar(text("SELECT count(*) FROM receipts")) == 0


def test_older_report_changes_nothing(scene, client):
    film = make_entitlement(scene.operator, "ann")
    new = report(scene, [film], [make_receipt(film, "ann", "seeder", 1, 500)], after_ms=5)
    old = report(scene, [film], [make_receipt(film, "ann", "seeder", 1, 400)])
    for raw in (new, old, new):
        assert client.post("/v1/provisional", content=raw).status_code == 204
    assert totals(client)["p2p_bytes"] == 500


def test_contents_are_for_the_token_only(scene, client):
    film = make_entitlement(scene.operator, "ann")
    raw = report(scene, [film], [make_receipt(film, "ann", "seeder", 1, 500)])
    client.post("/v1/provisional", content=raw)
    assert totals(client, token=None)["contents"] is None
    assert totals(client, token=None)["p2p_bytes"] == 500
    refused = client.get("/v1/totals", headers={"Authorization": "Bearer guessed"})
    assert (refused.status_code, refused.json()["code"]) == (401, "bad_token")
    assert FILM.hex() not in client.get("/v1/totals").text


def test_report_that_is_not_this_partys_to_make_is_refused(scene, client, monkeypatch):
    monkeypatch.setattr(Buckets, "take", lambda *_: 0.0)
    film = make_entitlement(scene.operator, "ann")
    capped = make_entitlement(scene.operator, "ann", max_bytes=100, serial=bytes(16))
    mine = make_receipt(film, "ann", "seeder", 1, 500)
    foreign = make_receipt(film, "ann", "bob", 1, 500)
    cdn = make_receipt(film, "ann", "cdn", 1, 500)
    forged = make_receipt(film, "mallory", "seeder", 1, 500)
    cases = {
        "another's lane": (report(scene, [film], [foreign]), 400, "bad_receipt"),
        "a peer's bytes from a viewer": (
            report(scene, [film], [mine], who="ann", kind=BundleKind.VIEWER), 400, "bad_receipt",
        ),
        "a CDN's bytes from a payee": (report(scene, [film], [cdn]), 400, "bad_receipt"),
        "another viewer's CDN bytes": (
            report(scene, [film], [cdn], who="bob", kind=BundleKind.VIEWER), 400, "bad_receipt",
        ),
        "no entitlement": (report(scene, [], [mine]), 400, "bad_receipt"),
        "over its cap": (
            report(scene, [capped], [make_receipt(capped, "ann", "seeder", 1, 101)]),
            400, "bad_receipt",
        ),
        "two of one lane": (
            report(scene, [film], [mine, make_receipt(film, "ann", "seeder", 1, 9, sequence=2)]),
            400, "bad_receipt",
        ),
        "a forged receipt": (report(scene, [film], [forged]), 400, "bad_receipt"),
        "another's signature": (
            report(scene, [film], [mine], signer="bob"), 400, "bad_signature",
        ),
        "too old": (
            report(scene, [film], [mine], after_ms=-SKEW_MS - 30_000), 403, "stale_report",
        ),
        "a time to come": (
            report(scene, [film], [mine], after_ms=SKEW_MS + 30_000), 403, "stale_report",
        ),
        "an epoch to come": (
            report(scene, [film], [make_receipt(film, "ann", "seeder", 2, 5)], epoch=2),
            422, "epoch_not_open",
        ),
        "a bundle": (
            make_payee_bundle("seeder", 1, [film], [mine]), 400, "malformed",
        ),
    }  # fmt: skip
    for name, (raw, status, code) in cases.items():
        answer = client.post("/v1/provisional", content=raw)
        assert (name, answer.status_code, answer.json()["code"]) == (name, status, code)
    assert totals(client)["p2p_bytes"] == 0


def test_report_is_no_bundle(scene, client):
    """Its body is never signed as a bundle, so nobody can hand it in as one."""
    film = make_entitlement(scene.operator, "ann")
    raw = report(scene, [film], [make_receipt(film, "ann", "seeder", 1, 500)])
    for bundle in (raw, raw[144:], raw[:64] + raw[144:], bytes(64) + raw[144:]):
        answer = client.post("/v1/bundles", content=bundle)
        assert answer.json()["code"] in {"malformed", "bad_signature"}


def test_few_forged_receipts_among_many_are_found_by_chance(scene, client):
    film = make_entitlement(scene.operator, "ann")
    large = [make_receipt(film, "ann", "seeder", 1, 9, nonce=n) for n in range(SAMPLE_SIZE)]
    small = [
        make_receipt(film, who, "seeder", 1, 5, nonce=first + n)
        for who, first in (("ann", 100), ("mallory", 200))
        for n in range(SAMPLE_SIZE)
    ]
    raw = report(scene, [film], large + small)
    answer = client.post("/v1/provisional", content=raw)
    # All eight of the sample would have to be honest: one in 12,870.
    assert answer.json()["code"] == "bad_receipt"


def test_a_forged_receipt_with_the_most_bytes_is_always_found(scene, client):
    film = make_entitlement(scene.operator, "ann")
    receipts = [make_receipt(film, "ann", "seeder", 1, 5, nonce=n) for n in range(400)]
    receipts.append(make_receipt(film, "mallory", "seeder", 1, 10**12, nonce=400))
    answer = client.post("/v1/provisional", content=report(scene, [film], receipts))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_receipt")


@pytest.mark.parametrize("max_bytes", [0, 2**63 - 1])
def test_more_bytes_than_a_seal_counts_are_refused(scene, client, max_bytes):
    film = make_entitlement(scene.operator, "ann", max_bytes=max_bytes)
    for each, answered in ((ENTITLEMENT_BYTES_MAX, 204), (2**63 - 1, 400)):
        receipts = [make_receipt(film, "ann", "seeder", 1, each, nonce=n) for n in range(2)]
        answer = client.post("/v1/provisional", content=report(scene, [film], receipts))
        assert answer.status_code == answered
    assert answer.json()["code"] == "bad_receipt"
    assert totals(client)["p2p_bytes"] == 2 * ENTITLEMENT_BYTES_MAX


def test_reports_are_the_first_to_wait(scene, client):
    film = make_entitlement(scene.operator, "ann")
    raw = report(scene, [film], [make_receipt(film, "ann", "seeder", 1, 500)])
    codes = {client.post("/v1/provisional", content=raw).status_code for _ in range(REPORTS_BURST)}
    assert codes == {204}
    fast = client.post("/v1/provisional", content=raw)
    assert (fast.status_code, fast.json()["code"]) == (429, "reports_too_fast")
    limits = IntakeLimits(backlog_bundles=2, broadcaster_percent=100)
    scene.ledger_time = type(scene.ledger_time)(scene.clock, interval_s=0.05, stale_s=60)
    with serve_app(make_app(replace(scene.api_parts(), limits=limits))) as tight:
        posted = tight.post(
            "/v1/bundles",
            content=make_payee_bundle(
                "seeder", 1, [film], [make_receipt(film, "ann", "seeder", 1, 500)]
            ),
        )
        assert posted.is_success
        refused = tight.post("/v1/provisional", content=raw)
        assert (refused.status_code, refused.json()["code"]) == (503, "reports_wait")


def test_rows_of_reports_are_bounded(scene):
    film = make_entitlement(scene.operator, "ann")
    limits = IntakeLimits(report_rows=0)
    with serve_app(make_app(replace(scene.api_parts(), limits=limits))) as client:
        raw = report(scene, [film], [make_receipt(film, "ann", "seeder", 1, 500)])
        refused = client.post("/v1/provisional", content=raw)
        assert (refused.status_code, refused.json()["code"]) == (503, "reports_full")


def top(*words: str) -> "subprocess.CompletedProcess[str]":
    code = "from ledger.api.top_command import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )


@pytest.mark.process
def test_top_prints_what_the_api_says(scene, client, tmp_path):
    film = make_entitlement(scene.operator, "ann")
    raw = report(scene, [film], [make_receipt(film, "ann", "seeder", 1, 123_456)])
    client.post("/v1/provisional", content=raw)
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    words = ["--url", str(client.base_url), "--token-file", str(token)]
    told = json.loads(top(*words, "--json", "--once").stdout)
    assert told["broadcaster"] == address("broadcaster")
    assert {each["epoch"]: each["p2p_bytes"] for each in told["epochs"]}[1] == 123_456
    screen = top(*words, "--once").stdout
    assert "provisional" in screen
    assert "123,456" in screen
    assert FILM.hex()[:16] in screen
    assert top("--url", "http://127.0.0.1:9", "--once").returncode == 1
