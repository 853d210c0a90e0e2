"""Back-pressure: refused before anything is taken, told when to come again, fair to everybody."""

import logging
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import key, make_entitlement, make_payee_bundle, make_receipt
from sqlalchemy import func, select, table, text

from ledger.api.answers import RefusedError
from ledger.api.app import ApiParts, make_app
from ledger.api.ledger_time import LedgerTimeSource
from ledger.api.limits import IntakeLimits
from ledger.api.pacing import Buckets
from ledger.api.pressure import Pressure
from ledger.api.watch import Watch
from ledger.logs import configure_logs
from ledger.store.engine import open_sessions

pytestmark = pytest.mark.postgres


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(1)
        made.log_dir.mkdir()
        yield made


@contextmanager
def served(scene: ShardScene, parts: ApiParts | None = None, **limits) -> Iterator[httpx.Client]:
    parts = replace(parts or scene.api_parts(), limits=IntakeLimits(**limits))
    with serve_app(make_app(parts)) as client:
        yield client


def bundle(scene: ShardScene, number: int = 0, payee: str = "seeder", epoch: int = 1) -> bytes:
    ann = make_entitlement(scene.operator, "ann")
    receipts = [make_receipt(ann, "ann", payee, epoch, 999_983, nonce=number)]
    return make_payee_bundle(payee, epoch, [ann], receipts, number)


def refusal_of(answer: httpx.Response) -> tuple[int, str]:
    if answer.status_code in {429, 503}:
        assert int(answer.headers["retry-after"]) >= 1
    return answer.status_code, "" if answer.is_success else answer.json()["code"]


def test_backlog_at_its_limit_takes_nothing_more_and_forgets_no_promise(scene):
    with served(scene, backlog_bundles=3, broadcaster_percent=100) as client:
        taken = [client.post("/v1/bundles", content=bundle(scene, n)) for n in range(3)]
        assert [answer.status_code for answer in taken] == [200] * 3
        refused = client.post("/v1/bundles", content=bundle(scene, 3))
        assert refusal_of(refused) == (503, "backlog_full")
        # What was promised is promised again, and readiness says what is the matter.
        again = client.post("/v1/bundles", content=bundle(scene, 0))
        assert again.content == taken[0].content
        assert refusal_of(client.get("/readyz")) == (503, "backlog_full")
        scene.judge_all()
        wait_until(lambda: client.post("/v1/bundles", content=bundle(scene, 3)).is_success)


def test_backlog_counts_what_another_process_took(scene):
    with served(scene, backlog_bundles=2, broadcaster_percent=100) as first:
        for n in range(2):
            assert first.post("/v1/bundles", content=bundle(scene, n)).is_success
        clock = LedgerTimeSource(scene.clock, interval_s=0.05, stale_s=60)
        parts = replace(scene.api_parts(), ledger_time=clock)
        with served(scene, parts, backlog_bundles=2, broadcaster_percent=100) as other:
            wait_until(lambda: not other.get("/readyz").is_success)
            answer = other.post("/v1/bundles", content=bundle(scene, 2))
            assert refusal_of(answer) == (503, "backlog_full")


def test_requests_at_hand_cannot_pass_the_limit_together(scene):
    pressure = Pressure(
        scene.sessions, IntakeLimits(backlog_bundles=2, broadcaster_percent=100), scene.log_dir
    )
    account = key("broadcaster")
    with pressure.place(account, 1) as first, pressure.place(account, 1):
        with pytest.raises(RefusedError, match="backlog_full"), pressure.place(account, 1):
            pass
        first.is_used = True
    # One was stored, the other was not: one place is free again.
    with (
        pressure.place(account, 1),
        pytest.raises(RefusedError, match="backlog_full"),
        pressure.place(account, 1),
    ):
        pass


def test_backlog_is_bounded_in_bytes_too(scene):
    with served(scene, backlog_bytes=1_000) as client:
        assert client.post("/v1/bundles", content=bundle(scene, 0)).is_success
        answer = client.post("/v1/bundles", content=bundle(scene, 1))
        assert refusal_of(answer) == (503, "backlog_full")


def test_one_broadcaster_cannot_take_the_whole_backlog(scene):
    with served(scene, backlog_bundles=10, broadcaster_percent=20) as client:
        for n in range(2):
            assert client.post("/v1/bundles", content=bundle(scene, n)).is_success
        answer = client.post("/v1/bundles", content=bundle(scene, 2))
        assert refusal_of(answer) == (503, "broadcaster_backlog_full")


def test_full_half_of_the_backlog_leaves_each_submitter_its_share(scene):
    with served(scene, backlog_bundles=6, broadcaster_percent=100, fair_bundles=2) as client:
        greedy = [client.post("/v1/bundles", content=bundle(scene, n)) for n in range(4)]
        assert [refusal_of(answer) for answer in greedy] == [(200, "")] * 2 + [
            (429, "sender_backlog_full")
        ] * 2
        modest = client.post("/v1/bundles", content=bundle(scene, 0, payee="bob"))
        assert modest.status_code == 200


def test_submitter_that_is_too_fast_waits_and_nobody_else_does(scene):
    with served(scene, sender_burst=2, sender_per_s=0.01) as client:
        answers = [client.post("/v1/bundles", content=bundle(scene, n)) for n in range(3)]
        assert [refusal_of(answer) for answer in answers] == [(200, "")] * 2 + [
            (429, "sender_too_fast")
        ]
        assert int(answers[2].headers["retry-after"]) > 10
        # Somebody else's signature does not spend its tokens: it is verified first.
        forged = bytes(64) + bundle(scene, 0, payee="bob")[64:]
        for _ in range(3):
            assert refusal_of(client.post("/v1/bundles", content=forged)) == (400, "bad_signature")
        assert client.post("/v1/bundles", content=bundle(scene, 0, payee="bob")).is_success


def test_address_that_is_too_fast_waits_and_may_still_ask(scene):
    with served(scene, address_burst=2, address_per_s=0.01) as client:
        answers = [client.post("/v1/bundles", content=b"?") for _ in range(3)]
        assert [refusal_of(answer) for answer in answers] == [(400, "malformed")] * 2 + [
            (429, "too_many_requests")
        ]
        assert client.get("/v1/terms").is_success


def test_full_disk_takes_nothing_in(scene, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 99, 1))
    with served(scene) as client:
        wait_until(lambda: not client.get("/readyz").is_success)
        answers = [
            client.post("/v1/bundles", content=bundle(scene)),
            client.post(
                "/v1/uploads",
                headers={
                    "Upload-Complete": "?0",
                    "Upload-Length": "9",
                    "Repr-Digest": f"sha-256=:{'A' * 43}=:",
                },
            ),
        ]
        assert [refusal_of(answer) for answer in answers] == [(503, "disk_low")] * 2
        # What lies there already can be read.
        assert client.get("/v1/terms").is_success


def test_no_connection_left_is_told_and_not_waited_for(scene, database_url):
    sessions = open_sessions(database_url, pool_size=1, pool_timeout_s=0.2)
    with served(scene, replace(scene.api_parts(), sessions=sessions)) as client:
        held = [sessions(), sessions()]
        for session in held:
            session.connection()
        assert refusal_of(client.get("/v1/terms")) == (503, "connections_exhausted")
        assert refusal_of(client.get("/readyz")) == (503, "connections_exhausted")
        assert client.get("/healthz").is_success
        for session in held:
            session.close()
        assert client.get("/v1/terms").is_success
    sessions.engine.dispose()


@contextmanager
def slow_bodies(client: httpx.Client, count: int) -> Iterator[list[socket.socket]]:
    """Requests that have begun to send a body and do not go on."""
    address = (client.base_url.host, client.base_url.port)
    open_ = [socket.create_connection(address) for _ in range(count)]
    for each in open_:
        each.sendall(b"POST /v1/bundles HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nx")
    try:
        yield open_
    finally:
        for each in open_:
            each.close()


def test_requests_at_hand_are_bounded_and_health_still_answers(scene):
    with served(scene, bodies=2) as client, slow_bodies(client, 2):
        wait_until(lambda: refusal_of(client.post("/v1/bundles", content=b"?")) == (503, "busy"))
        assert client.get("/healthz").is_success
        assert client.get("/metrics").is_success
        assert client.get("/v1/terms").is_success


def test_a_body_that_never_ends_gives_its_place_back(scene):
    with served(scene, bodies=1, body_timeout_s=0.3) as client, slow_bodies(client, 1) as slow:
        assert b" 408 " in slow[0].recv(4_096)
        assert refusal_of(client.post("/v1/bundles", content=b"?")) == (400, "malformed")


def test_all_requests_together_are_bounded(scene):
    with served(scene, requests=1) as client, slow_bodies(client, 1):
        wait_until(lambda: refusal_of(client.get("/v1/terms")) == (503, "busy"))
        assert client.get("/readyz").is_success


def test_buckets_give_back_tokens_and_stay_bounded():
    now = [0.0]
    buckets = Buckets(per_s=2, burst=3, names_max=10, monotonic=lambda: now[0])
    assert [buckets.take(b"a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] += 0.5
    assert [buckets.take(b"a"), buckets.take(b"a")] == [0, 0.5]
    assert buckets.take(b"b") == 0
    for n in range(1_000):
        buckets.take(bytes([n & 255, n >> 8]))
    assert len(buckets) == 10


def test_buckets_allow_the_rate_and_no_more():
    now, taken = [0.0], 0
    buckets = Buckets(per_s=7, burst=5, monotonic=lambda: now[0])
    for step in range(1_000):
        now[0] = step * 0.01
        taken += buckets.take(b"a") == 0
    assert taken == 5 + int(7 * 9.99)


def test_watch_drops_idle_uploads_and_their_chunks(scene):
    parts = replace(scene.api_parts(), limits=IntakeLimits(upload_keep_s=0))
    app = make_app(parts)
    watch: Watch = app.state.watch
    with scene.sessions.begin() as session:
        session.execute(
            text(
                "INSERT INTO uploads (id, sender, digest, size_bytes, touched_at)"
                " VALUES (:id, :id, :digest, 9, now() - interval '1 minute')"
            ),
            {"id": bytes(16), "digest": bytes(32)},
        )
        session.execute(text("INSERT INTO upload_chunks SELECT id, 0, 'x' FROM uploads"))
    watch.sweep()
    with scene.sessions.begin() as session:
        for name in ("uploads", "upload_chunks"):
            assert session.scalar(select(func.count()).select_from(table(name))) == 0


def wait_until(is_so) -> None:
    """For what a thread of the server sees within a second or two."""
    give_up_at_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < give_up_at_s
        threading.Event().wait(0.05)


def test_log_says_nobodys_key_or_address(scene, capfd):
    handlers, level = logging.root.handlers[:], logging.root.level
    configure_logs(process="api-serve")
    try:
        with served(scene) as client:
            client.post("/v1/bundles", content=bundle(scene))
            client.get(f"/v1/submitters/{key('seeder').hex()}/refusals")
            named = client.get("/v1/terms", headers={"X-Request-ID": "proxy-7"})
        assert named.headers["x-request-id"] == "proxy-7"
    finally:
        logging.root.handlers, logging.root.level = handlers, level
    lines = capfd.readouterr().err
    assert '"request": "proxy-7"' in lines
    assert '"route": "/v1/submitters/{key}/refusals"' in lines
    assert key("seeder").hex()[:16] not in lines
    assert not re.search(r"127\.0\.0\.1", "".join(x for x in lines.splitlines() if "route" in x))
