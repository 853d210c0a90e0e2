"""Resumable uploads: offsets that were told hold, bounds hold, and the promise is that of POST."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import make_entitlement, make_payee_bundle, make_receipt
from sqlalchemy import column, func, select, table, update

from ledger.api.app import make_app
from ledger.api.ledger_time import LedgerTimeSource
from ledger.api.limits import CHUNK_BYTES_MIN, IntakeLimits
from ledger.evidence.bundle import BUNDLE_SIZE_MAX
from ledger.store.upload_store import UploadBounds

pytestmark = pytest.mark.postgres

STEP = CHUNK_BYTES_MIN
LIMITS = IntakeLimits(
    uploads=UploadBounds(sender_uploads=3, uploads=8, total_bytes=100_000, chunk_bytes=2 * STEP)
)


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(1)
        yield made


@pytest.fixture
def client(scene: ShardScene) -> Iterator[httpx.Client]:
    with serve_app(make_app(replace(scene.api_parts(), limits=LIMITS))) as made:
        yield made


def bundle(scene: ShardScene, lanes: int = 50, payee: str = "seeder") -> bytes:
    ann = make_entitlement(scene.operator, "ann")
    receipts = [make_receipt(ann, "ann", payee, 1, 999_983, nonce=n) for n in range(lanes)]
    return make_payee_bundle(payee, 1, [ann], receipts)


def create(client: httpx.Client, raw: bytes, **headers: str) -> httpx.Response:
    digest = base64.b64encode(hashlib.sha256(raw).digest()).decode()
    return client.post(
        "/v1/uploads",
        headers={
            "Upload-Complete": "?0",
            "Upload-Length": str(len(raw)),
            "Repr-Digest": f"sha-256=:{digest}:",
            **headers,
        },
    )


def patch(
    client: httpx.Client, url: str, raw: bytes, offset: int, end: int, **headers: str
) -> httpx.Response:
    is_last = end >= len(raw)
    return client.patch(
        url,
        content=raw[offset:end],
        headers={
            "Content-Type": "application/partial-upload",
            "Upload-Offset": str(offset),
            "Upload-Complete": "?1" if is_last else "?0",
            **headers,
        },
    )


def send_rest(client: httpx.Client, url: str, raw: bytes, offset: int = 0) -> httpx.Response:
    while True:
        answer = patch(client, url, raw, offset, offset + STEP)
        offset += STEP
        if offset >= len(raw) or not answer.is_success:
            return answer


def rows(scene: ShardScene, name: str) -> int:
    with scene.sessions.begin() as session:
        return session.scalar(select(func.count()).select_from(table(name)))


def test_trap_10_a_bundle_in_chunks_gets_the_promise_of_the_whole(scene, client):
    raw = bundle(scene)
    created = create(client, raw)
    assert (created.status_code, created.headers["upload-offset"]) == (201, "0")
    assert f"max-append-size={2 * STEP}" in created.headers["upload-limit"]
    url = created.headers["location"]
    first = patch(client, url, raw, 0, STEP)
    assert (first.status_code, first.headers["upload-offset"]) == (204, str(STEP))
    assert client.head(url).headers["upload-offset"] == str(STEP)
    assert rows(scene, "bundles") == 0
    promise = send_rest(client, url, raw, STEP)
    assert promise.status_code == 200
    assert rows(scene, "upload_chunks") == 0
    assert client.post("/v1/bundles", content=raw).content == promise.content
    assert client.get(url).content == promise.content
    again = create(client, raw)
    assert (again.headers["location"], again.headers["upload-complete"]) == (url, "?1")


def test_another_process_goes_on_at_the_offset_that_was_told(scene, client):
    raw = bundle(scene)
    url = create(client, raw).headers["location"]
    patch(client, url, raw, 0, STEP)
    clock = LedgerTimeSource(scene.clock, interval_s=0.05, stale_s=60)
    with serve_app(make_app(replace(scene.api_parts(), ledger_time=clock))) as other:
        resumed = create(other, raw)
        assert (resumed.headers["location"], resumed.headers["upload-offset"]) == (url, str(STEP))
        assert send_rest(other, url, raw, STEP).status_code == 200
    assert rows(scene, "bundles") == 1


@pytest.mark.parametrize("offset", [0, STEP - 1, 2 * STEP])
def test_chunk_at_another_offset_is_refused_with_the_right_one(scene, client, offset):
    raw = bundle(scene)
    url = create(client, raw).headers["location"]
    patch(client, url, raw, 0, STEP)
    answer = patch(client, url, raw, offset, offset + STEP)
    assert (answer.status_code, answer.headers["upload-offset"]) == (409, str(STEP))
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("#mismatching-upload-offset")
    assert answer.json()["expected-offset"] == STEP
    assert send_rest(client, url, raw, STEP).status_code == 200


def test_bytes_that_are_not_those_stated_make_no_bundle_and_begin_anew(scene, client):
    raw = bundle(scene)
    url = create(client, raw).headers["location"]
    damaged = raw[:-1] + bytes([raw[-1] ^ 1])
    answer = send_rest(client, url, damaged)
    assert (answer.status_code, answer.json()["code"]) == (400, "digest_mismatch")
    assert rows(scene, "bundles") == rows(scene, "upload_chunks") == 0
    assert client.head(url).status_code == 404
    url = create(client, raw).headers["location"]
    assert send_rest(client, url, raw).status_code == 200


def test_bad_bundle_is_refused_as_post_refuses_it_and_the_answer_stays(scene, client):
    raw = bytes(64) + bundle(scene)[64:]
    url = create(client, raw).headers["location"]
    answer = send_rest(client, url, raw)
    posted = client.post("/v1/bundles", content=raw)
    assert answer.json() == posted.json()
    assert answer.status_code == posted.status_code == 400
    assert client.get(url).json() == posted.json()


def test_last_chunk_under_pressure_waits_and_loses_nothing(scene, client):
    raw = bundle(scene)
    url = create(client, raw).headers["location"]
    scene.ledger_time._stale_s = -1
    refused = send_rest(client, url, raw)
    assert (refused.status_code, refused.json()["code"]) == (503, "clock_stale")
    assert client.head(url).headers["upload-offset"] == str(len(raw))
    scene.ledger_time._stale_s = 60
    assert patch(client, url, raw, len(raw), len(raw)).status_code == 200


def test_end_before_the_end_is_refused(scene, client):
    raw = bundle(scene)
    url = create(client, raw).headers["location"]
    answer = patch(client, url, raw, 0, STEP, **{"Upload-Complete": "?1"})
    assert (answer.status_code, answer.json()["code"]) == (400, "inconsistent_upload_length")
    assert send_rest(client, url, raw, STEP).status_code == 200


@pytest.mark.parametrize(
    ("size", "code", "status"),
    [(2 * STEP + 1, "too_large", 413), (STEP - 1, "chunk_too_small", 400)],
)
def test_sizes_of_chunks_are_bounded(scene, client, size, code, status):
    raw = bundle(scene, lanes=60)
    url = create(client, raw).headers["location"]
    answer = patch(client, url, raw, 0, size)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert client.head(url).headers["upload-offset"] == "0"


def test_more_than_was_stated_is_refused(scene, client):
    raw = bundle(scene, lanes=20)
    stated = raw[: STEP + 10]
    url = create(client, stated).headers["location"]
    answer = patch(client, url, raw, 0, 2 * STEP, **{"Upload-Complete": "?1"})
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_long")
    assert rows(scene, "upload_chunks") == 0


def test_uploads_of_one_sender_are_bounded_and_giving_up_makes_room(scene, client):
    urls = [create(client, bytes([n]) * 9_000).headers["location"] for n in range(3)]
    full = create(client, b"3" * 9_000)
    assert (full.status_code, full.json()["code"]) == (429, "sender_uploads_full")
    assert int(full.headers["retry-after"]) >= 1
    # The same bytes are no other upload.
    assert create(client, bytes([0]) * 9_000).headers["location"] == urls[0]
    assert client.delete(urls[0]).status_code == 204
    assert client.delete(urls[0]).status_code == 404
    assert create(client, b"3" * 9_000).status_code == 201


def test_all_uploads_together_are_bounded_in_bytes_that_came(scene, client):
    first = bytes(96_000)
    url = create(client, first).headers["location"]
    assert send_rest(client, url, first[: 90_000 // STEP * STEP + 1]).status_code == 400
    full = create(client, b"b" * 10_001)
    assert (full.status_code, full.json()["code"]) == (503, "uploads_full")


def test_uploads_that_bring_no_byte_hold_no_more_than_a_chunk(client):
    for n in range(2):
        assert create(client, bytes([n]) * BUNDLE_SIZE_MAX).status_code == 201
    assert create(client, b"honest" * 10_000).status_code == 201


def test_only_bytes_keep_an_upload(scene, client):
    raw = bundle(scene)
    url = create(client, raw).headers["location"]
    patch(client, url, raw, 0, STEP)
    touched = table("uploads", column("touched_at"))
    past = datetime(2026, 1, 1, tzinfo=UTC)
    with scene.sessions.begin() as session:
        session.execute(update(touched).values(touched_at=past))
    assert create(client, raw).headers["location"] == url
    empty = patch(client, url, raw, STEP, STEP, **{"Upload-Complete": "?1"})
    assert empty.json()["code"] == "inconsistent_upload_length"
    with scene.sessions.begin() as session:
        assert session.scalar(select(touched.c.touched_at)) == past
    patch(client, url, raw, STEP, 2 * STEP)
    with scene.sessions.begin() as session:
        assert session.scalar(select(touched.c.touched_at)) > past


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": str(BUNDLE_SIZE_MAX + 1)}, 413),
        ({"Upload-Length": "0"}, 400),
        ({"Upload-Length": "-1"}, 400),
        ({"Upload-Complete": "?1"}, 400),
        ({"Repr-Digest": "sha-512=:AAAA:"}, 400),
        ({"Repr-Digest": f"sha-256=:{'A' * 42}!=:"}, 400),
    ],
)
def test_creation_that_is_none_is_refused(client, headers, status):
    answer = create(client, b"x" * 9_000, **headers)
    assert answer.status_code == status
    assert set(answer.json()) == {"code", "detail", "field", "got", "want"}


def test_unknown_uploads_are_unknown_to_every_method(client):
    url = f"/v1/uploads/{'0' * 32}"
    assert client.head(url).status_code == 404
    for answer in (client.get(url), client.delete(url), patch(client, url, b"x" * STEP, 0, STEP)):
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_upload")
    wrong = client.patch(url, content=b"x", headers={"Upload-Offset": "0", "Upload-Complete": "?1"})
    assert (wrong.status_code, wrong.json()["code"]) == (415, "wrong_media_type")
