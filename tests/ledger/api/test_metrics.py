"""Metrics say what happened, name no viewer, and are of the form that Prometheus wants."""

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import address, key, make_entitlement, make_payee_bundle, make_receipt
from sqlalchemy import text
from structlog.testing import capture_logs

from ledger.api.app import make_app
from ledger.api.watch import Watch
from ledger.store.halt_store import HaltName, clear_halt, open_halt

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(1)
        yield made


@pytest.fixture
def client(scene: ShardScene) -> Iterator[httpx.Client]:
    app = make_app(scene.api_parts())
    with serve_app(app) as made:
        scene.watch = app.state.watch
        yield made


def bundle(scene: ShardScene, number: int = 0) -> bytes:
    ann = make_entitlement(scene.operator, "ann")
    stranger = make_entitlement(scene.operator, "bob", terms_digest=bytes(32))
    receipts = [
        make_receipt(ann, "ann", "seeder", 1, 999_983, nonce=number),
        make_receipt(stranger, "bob", "seeder", 1, 999_979, nonce=number),
    ]
    return make_payee_bundle("seeder", 1, [ann, stranger], receipts, number)


def figures(client: httpx.Client) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.values())] = sample.value
    return found


def test_trap_10_a_payer_whose_bundles_wait_raises_an_alarm_of_its_own(scene, client):
    """A payer's ingest once stopped in silence; here its oldest bundle's age is told, by payer."""
    client.post("/v1/bundles", content=bundle(scene, 0))
    with scene.sessions.begin() as session:
        session.execute(text("UPDATE bundles SET received_at = now() - interval '1 hour'"))
    scene.watch.look()
    waiting_s = figures(client)["swarmledger_unjudged_oldest_seconds", address("broadcaster")]
    assert waiting_s >= 3_600


def test_metrics_tell_requests_verdicts_queue_and_epochs(scene, client):
    watch: Watch = scene.watch
    watch.count()
    for n in (0, 1):
        client.post("/v1/bundles", content=bundle(scene, n))
    client.post("/v1/bundles", content=bundle(scene, 0))
    client.post("/v1/bundles", content=b"?")
    with scene.sessions.begin() as session:
        session.execute(text("UPDATE bundles SET received_at = now() - interval '5 minutes'"))
    watch.look()
    who = address("broadcaster")
    before = figures(client)
    assert before["swarmledger_unjudged_bundles", who] == 2
    assert before["swarmledger_unjudged_bytes", who] == 2 * len(bundle(scene))
    assert before["swarmledger_unjudged_oldest_seconds", who] >= 300
    assert before["swarmledger_promised_bundles_total", "false"] == 2
    assert before["swarmledger_promised_bundles_total", "true"] == 1
    assert before["swarmledger_refused_requests_total", "malformed"] == 1
    assert before["swarmledger_http_requests_total", "/v1/bundles", "200", "POST"] == 3
    assert before["swarmledger_judged_bundles_total", who, "accepted"] == 0
    scene.judge_all()
    scene.end_epoch(1)
    scene.advance()
    for _ in range(2):
        watch.look()
        watch.count()
    after = figures(client)
    assert after["swarmledger_unjudged_bundles", who] == 0
    assert after["swarmledger_unjudged_oldest_seconds", who] == 0
    # Counted once, however often the thread looks.
    assert after["swarmledger_judged_bundles_total", who, "accepted"] == 2
    assert after["swarmledger_judged_receipts_total", who, "counted"] == 2
    assert after["swarmledger_judged_receipts_total", who, "bad_entitlement"] == 2
    assert after["swarmledger_epochs", who, "computed"] == 2
    assert after["swarmledger_epoch_lag_seconds", who] > 0
    assert after["swarmledger_log_leaves", who] == len(scene.leaves())
    assert after["swarmledger_database_up",] == 1


def test_routes_of_strangers_make_no_new_series(client):
    for path in ("/a", "/b", "/wp-login.php", f"/v1/bundles/{key('ann').hex()}"):
        client.get(path)
    client.request("BREW", "/v1/terms")
    routes = {name[1:] for name in figures(client) if name[0] == "swarmledger_http_requests_total"}
    text_of_routes = str(routes)
    assert "wp-login" not in text_of_routes
    assert key("ann").hex() not in client.get("/metrics").text
    assert "BREW" not in text_of_routes


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) absent")
def test_promtool_finds_nothing_to_say(scene, client):
    client.post("/v1/bundles", content=bundle(scene))
    scene.watch.look()
    scene.watch.count()
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=client.get("/metrics").text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_watch_tells_that_the_database_is_away_and_goes_on(scene, client):
    scene.watch._guard(scene.watch.count)
    assert figures(client)["swarmledger_database_up",] == 1

    def fail() -> None:
        with scene.sessions.begin() as session:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    scene.watch._guard(fail)
    assert "swarmledger_database_up 0.0" in client.get("/metrics").text


def test_escrow_that_runs_out_is_told_before_and_when_it_happens(
    scene: ShardScene,
) -> None:
    app = make_app(replace(scene.api_parts(), low_balance_stroops=10**6))
    with capture_logs() as told, serve_app(app) as client:
        level, free = ("swarmledger_escrow_level",), ("swarmledger_escrow_free_stroops",)
        name = address("broadcaster")
        app.state.watch.count()
        assert figures(client)[*level, name] == 2
        scene.deposit(10**7 + 95, scene.terms.genesis_s + 1)
        app.state.watch.count()
        assert (figures(client)[*level, name], figures(client)[*free, name]) == (0, 10**7 + 95)
        client.post("/v1/bundles", content=bundle(scene, 0))
        scene.judge_all()
        app.state.watch.count()
        assert figures(client)[*level, name] == 1
        answer = client.get("/v1/coverage").json()
        assert (answer["level"], answer["free_stroops"]) == ("low", figures(client)[*free, name])
    events = [entry["event"] for entry in told]
    assert events.count("escrow_low") == 1
    assert events.count("escrow_covered") == 1


def test_reasons_why_nothing_is_paid_are_counted(scene: ShardScene, client: httpx.Client) -> None:
    account = scene.shard.account
    with scene.sessions.begin() as session:
        open_halt(session, account, HaltName.BALANCE_DEFICIT, "less", ledger_sequence=9)
    scene.watch.count()
    assert figures(client)["swarmledger_settlement_halts", address("broadcaster")] == 1
    with scene.sessions.begin() as session:
        clear_halt(session, account, HaltName.BALANCE_DEFICIT, ledger_sequence=10)
    scene.watch.count()
    assert figures(client)["swarmledger_settlement_halts", address("broadcaster")] == 0


def test_stellar_toml_is_served_to_wallets_of_any_origin(scene: ShardScene, tmp_path: Path) -> None:
    path = tmp_path / "stellar.toml"
    path.write_text('VERSION = "2.7.0"\n[[CURRENCIES]]\ncode = "XAB"\n')
    with serve_app(make_app(replace(scene.api_parts(), stellar_toml=path))) as client:
        answer = client.get("/.well-known/stellar.toml")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert tomllib.loads(answer.text)["CURRENCIES"] == [{"code": "XAB"}]
        path.write_text("broken")
        assert client.get("/.well-known/stellar.toml").status_code == 503


def test_without_anything_to_say_there_is_no_stellar_toml(client: httpx.Client) -> None:
    assert client.get("/.well-known/stellar.toml").status_code == 404
