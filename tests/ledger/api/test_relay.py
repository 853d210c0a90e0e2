"""The relay over HTTP: nothing that was taken is lost, and nobody fills another's box."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from builders import key_of, seed_of
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import NETWORK

from ledger.api.app import ApiParts, make_app
from ledger.api.ledger_time import LedgerTimeSource
from ledger.api.relay import FETCH_SKEW_MS, RelayLimits
from ledger.evidence.keys import SEAL_SIZE, open_seal, seal
from ledger.evidence.relay import (
    FRAME_SIZE_MAX,
    RELAY_FETCH,
    RelayedFrame,
    RelayFetch,
    RelayFrame,
    parse_answer,
    parse_relay,
    sign_relay,
)

pytestmark = pytest.mark.postgres

LIMITS = RelayLimits(
    recipient_frames=6,
    recipient_bytes=100_000,
    sender_frames=8,
    sender_bytes=100_000,
    total_bytes=300_000,
    answer_bytes=70_000,
    posts_per_s=0.001,
    posts_burst=60,
    waiting=2,
)


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(1)
        yield made


def parts_of(scene: ShardScene, limits: RelayLimits = LIMITS) -> ApiParts:
    ledger_time = LedgerTimeSource(scene.clock, interval_s=0.05, stale_s=60)
    ledger_time.look()
    return ApiParts(
        sessions=scene.sessions,
        ledger_time=ledger_time,
        log_seed=seed_of("log"),
        log_dir=scene.log_dir,
        relay_limits=limits,
    )


@pytest.fixture
def client(scene: ShardScene) -> Iterator[httpx.Client]:
    with serve_app(make_app(parts_of(scene))) as made:
        yield made


def frame(
    sender: str, recipient: str, sequence: int = 0, text: bytes = b"", channel: int = 1
) -> bytes:
    made = RelayFrame(
        network_id=NETWORK,
        from_key=key_of(sender),
        to_key=key_of(recipient),
        channel_id=channel.to_bytes(16, "big"),
        sequence=sequence,
        payload=seal(seed_of(sender), key_of(recipient), text),
    )
    return sign_relay(made, seed_of(sender)).raw


def wish(
    scene: ShardScene, name: str, acknowledged: int = 0, skew_ms: int = 0, **keys: str
) -> bytes:
    now = scene.ledger_time.read()
    fetch = RelayFetch(
        network_id=NETWORK,
        key=key_of(name),
        ledger_ms=now.ledger.close_time_s * 1000 + now.age_ms + skew_ms,
        acknowledged=acknowledged,
    )
    return RELAY_FETCH.sign(fetch, seed_of(keys.get("signer", name))).raw


def fetch(
    scene: ShardScene, client: httpx.Client, name: str, acknowledged: int = 0, wait_s: int = 0
) -> list[RelayedFrame]:
    raw = wish(scene, name, acknowledged)
    answer = client.post("/v1/relay/fetch", content=raw, params={"wait_s": wait_s})
    assert answer.status_code == 200, answer.text
    address, frames = parse_answer(answer.content)
    assert address == bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
    return frames


def texts(frames: list[RelayedFrame], recipient: str) -> list[bytes]:
    parsed = [parse_relay(relayed.raw).value for relayed in frames]
    return [open_seal(seed_of(recipient), frame.from_key, frame.payload) for frame in parsed]


def test_a_frame_waits_until_its_recipient_has_acknowledged_it(scene, client):
    for number in range(3):
        answer = client.post("/v1/relay", content=frame("ann", "bob", number, b"%d" % number))
        assert answer.status_code == 200
    first = fetch(scene, client, "bob")
    assert texts(first, "bob") == [b"0", b"1", b"2"]
    assert texts(fetch(scene, client, "bob"), "bob") == [b"0", b"1", b"2"]
    assert texts(fetch(scene, client, "bob", first[1].number), "bob") == [b"2"]
    assert fetch(scene, client, "bob", first[2].number) == []
    assert fetch(scene, client, "bob") == []


def test_a_frame_that_is_sent_twice_waits_once(scene, client):
    raw = frame("ann", "bob")
    assert [client.post("/v1/relay", content=raw).status_code for _ in range(3)] == [200] * 3
    assert len(fetch(scene, client, "bob")) == 1


def test_another_process_of_the_collector_hands_out_what_the_first_took(scene, client):
    """Nothing that was answered lives in a process only: a kill between post and fetch is this."""
    client.post("/v1/relay", content=frame("ann", "bob", text=b"kept"))
    with serve_app(make_app(parts_of(scene))) as other:
        assert texts(fetch(scene, other, "bob"), "bob") == [b"kept"]


_SERVER = """
import sys
from pathlib import Path
from shard_scene import HandClock, ledger_at
from ledger.api.app import ApiParts, make_app
from ledger.api.ledger_time import LedgerTimeSource
from ledger.serving import bind, serve
from ledger.store.engine import open_sessions

url, folder, close_time_s = sys.argv[1:]
clock = HandClock()
clock.ledger = ledger_at(int(close_time_s))
ledger_time = LedgerTimeSource(clock, interval_s=0.05, stale_s=60)
ledger_time.look()
parts = ApiParts(sessions=open_sessions(url), ledger_time=ledger_time, log_seed=bytes(32),
                 log_dir=Path(folder))
serve(make_app(parts), bind("127.0.0.1:0"), Path(folder, "ready"))
"""


@pytest.mark.process
def test_a_collector_killed_between_post_and_fetch_loses_nothing(
    scene, client, database_url, tmp_path
):
    close_time_s = scene.clock.ledger.close_time_s
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", _SERVER, database_url, str(tmp_path), str(close_time_s)]
    ready = tmp_path / "ready"
    with subprocess.Popen(words, env=environ) as process:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.02)
        url = json.loads(ready.read_text())["url"]
        answer = httpx.post(f"{url}/v1/relay", content=frame("ann", "bob", text=b"kept"))
        process.kill()
    assert answer.status_code == 200
    assert process.returncode == -signal.SIGKILL
    assert texts(fetch(scene, client, "bob"), "bob") == [b"kept"]


@pytest.mark.parametrize("in_other_process", [False, True])
def test_a_waiting_fetch_is_answered_when_a_frame_comes(scene, client, in_other_process):
    answers: list[list[RelayedFrame]] = []
    waiting = threading.Thread(
        target=lambda: answers.append(fetch(scene, client, "bob", wait_s=20))
    )
    waiting.start()
    if in_other_process:
        with serve_app(make_app(parts_of(scene))) as other:
            other.post("/v1/relay", content=frame("ann", "bob", text=b"hello"))
    else:
        with httpx.Client(base_url=client.base_url, trust_env=False) as other:
            other.post("/v1/relay", content=frame("ann", "bob", text=b"hello"))
    waiting.join()
    assert texts(answers[0], "bob") == [b"hello"]


def test_only_the_key_itself_fetches_and_only_now(scene, client):
    client.post("/v1/relay", content=frame("ann", "bob"))
    refused = {
        "bad_signature": wish(scene, "bob", signer="mallory"),
        "stale_fetch": wish(scene, "bob", skew_ms=-FETCH_SKEW_MS - 5_000),
        "malformed": wish(scene, "bob")[:-1],
    }
    for code, raw in refused.items():
        answer = client.post("/v1/relay/fetch", content=raw)
        assert (answer.status_code // 100, answer.json()["code"]) == (4, code)
    early = wish(scene, "bob", skew_ms=FETCH_SKEW_MS + 5_000)
    assert client.post("/v1/relay/fetch", content=early).json()["code"] == "stale_fetch"
    assert len(fetch(scene, client, "bob")) == 1


def test_frames_that_are_forged_malformed_or_foreign_are_refused(scene, client):
    good = frame("ann", "bob")
    foreign = RelayFrame(
        network_id=bytes(32),
        from_key=key_of("ann"),
        to_key=key_of("bob"),
        channel_id=bytes(16),
        sequence=0,
        payload=bytes(SEAL_SIZE),
    )
    refused = [
        (bytes(64) + good[64:], 400, "bad_signature"),
        (good[:100], 400, "malformed"),
        (good + bytes(FRAME_SIZE_MAX), 413, "too_large"),
        (sign_relay(foreign, seed_of("ann")).raw, 404, "unknown_network"),
    ]
    for raw, status, code in refused:
        answer = client.post("/v1/relay", content=raw)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert fetch(scene, client, "bob") == []


def test_one_senders_flood_is_stopped_and_others_still_get_through(scene, client):
    answers = [client.post("/v1/relay", content=frame("mallory", "bob", n)) for n in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 6
    assert answers[-1].json()["code"] == "recipient_full"
    assert int(answers[-1].headers["retry-after"]) > 0
    elsewhere = [client.post("/v1/relay", content=frame("mallory", "eve", n)) for n in range(4)]
    assert [answer.status_code for answer in elsewhere] == [200, 200, 429, 429]
    assert elsewhere[-1].json()["code"] == "sender_full"
    assert client.post("/v1/relay", content=frame("ann", "carl")).status_code == 200
    # Whoever fetches makes room again.
    last = fetch(scene, client, "bob")[-1].number
    fetch(scene, client, "bob", last)
    assert client.post("/v1/relay", content=frame("ann", "bob")).status_code == 200


def test_bytes_are_bounded_for_a_recipient_and_in_all(scene, client):
    big = bytes(60_000)
    assert client.post("/v1/relay", content=frame("ann", "bob", 0, big)).status_code == 200
    over = client.post("/v1/relay", content=frame("eve", "bob", 1, big))
    assert (over.status_code, over.json()["code"]) == (429, "recipient_full")
    codes = []
    for n in range(5):
        answer = client.post("/v1/relay", content=frame(f"sender {n}", f"to {n}", 0, big))
        codes.append(answer.json()["code"] if answer.status_code != 200 else "")
    assert codes[-1] == "relay_full"


def test_an_address_sends_at_a_bounded_rate(scene, client):
    codes = [client.post("/v1/relay", content=b"rubbish").json()["code"] for _ in range(70)]
    assert codes.count("malformed") == 60
    assert codes[-1] == "too_many_frames"


def test_frames_expire(scene):
    with serve_app(make_app(parts_of(scene, RelayLimits(keep_s=0)))) as client:
        assert client.post("/v1/relay", content=frame("ann", "bob")).status_code == 200
        assert fetch(scene, client, "bob") == []


def test_waiting_fetches_are_bounded_and_the_newest_of_a_key_waits(scene, client):
    got: dict[str, list[bytes]] = {}

    def wait_for_one(name: str) -> None:
        while not got.get(name):
            raw = wish(scene, name)
            answer = client.post("/v1/relay/fetch", content=raw, params={"wait_s": 20})
            if answer.status_code == 200:
                got[name] = texts(parse_answer(answer.content)[1], name)

    names = ("ann", "bob")
    threads = [threading.Thread(target=wait_for_one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    code = 0
    while code != 429:
        raw = wish(scene, "carl")
        code = client.post("/v1/relay/fetch", content=raw, params={"wait_s": 1}).status_code
    # Nobody holds a place twice: a second wish of the same key ends the first.
    assert fetch(scene, client, "ann", wait_s=1) == []
    for name in names:
        client.post("/v1/relay", content=frame("eve", name, text=b"at last"))
    for thread in threads:
        thread.join()
    assert got == {"ann": [b"at last"], "bob": [b"at last"]}


def test_the_api_document_names_the_relay(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/relay", "/v1/relay/fetch"} <= set(paths)
