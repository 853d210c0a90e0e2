"""`swarmledger engine serve` as a process: torrents by name, live streams, CDNs, a clean stop."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import m3u8
import pytest
from engine_commands import engine as engine_command
from media_clips import make_clip

from engine_plugin.torrents import make_torrent

pytestmark = [pytest.mark.swarm, pytest.mark.process]


def serve(start: Any, tmp_path: Path, *arguments: object) -> tuple[Any, httpx.Client]:
    engine = start(
        "serve", *arguments, "--save", tmp_path / "saved", "--state", tmp_path / "viewer",
        "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-entitlement", log="serve",
    )  # fmt: skip
    url = engine.wait_for("http")["url"]
    return engine, httpx.Client(base_url=url, trust_env=False, timeout=60)


def test_known_torrent_starts_when_a_player_asks_and_stops_cleanly(
    tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    data = bytes(range(256)) * 4096
    (tmp_path / "film.mp4").write_bytes(data)
    seeder = start_engine(
        "seed", tmp_path / "film.mp4", "--torrent-out", tmp_path / "t", "--state",
        tmp_path / "seeder", "--listen", "127.0.0.1:0", log="seed",
    )  # fmt: skip
    ready = seeder.wait_for("ready")
    engine, client = serve(start_engine, tmp_path, tmp_path / "t", "--peer", ready["listen"])
    with client:
        found = client.get("/search", params={"query": "film"}).json()["result"]
        assert found["total"] == 1
        infohash = found["results"][0]["items"][0]["infohash"]
        answer = client.get("/ace/getstream", params={"infohash": infohash})
        assert answer.content == data
    engine.wait_for("complete", content_id=ready["content_id"])
    engine.stop()
    seeder.stop()


def test_address_in_use_ends_with_one_line(
    tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    engine, client = serve(start_engine, tmp_path)
    client.close()
    taken = str(client.base_url).removeprefix("http://").rstrip("/")
    second = start_engine(
        "serve", "--save", tmp_path, "--state", tmp_path / "second", "--listen", "127.0.0.1:0",
        "--http", taken, "--no-entitlement", log="second",
    )  # fmt: skip
    assert second.process.wait(30) == 1
    assert "Address already in use" in second.log.read_text()
    engine.stop()


def test_cdn_helps_where_no_peer_does(
    tmp_path: Path,
    start_engine: Callable[..., Any],
    make_cdn: Callable[[bytes, int], str],
) -> None:
    data = bytes(range(256)) * 4096
    (tmp_path / "film.ts").write_bytes(data)
    host = make_cdn(data, 8 << 20)
    torrent = make_torrent(tmp_path / "film.ts", web_seeds=[f"http://{host}/film.ts"])
    (tmp_path / "t").write_bytes(torrent.data)
    engine, client = serve(start_engine, tmp_path, tmp_path / "t")
    with client:
        query = {"content_id": torrent.content_id.hex(), "format": "json"}
        opened = client.get("/ace/getstream", params=query).json()["response"]
        assert client.get(opened["playback_url"]).content == data
        told = client.get(opened["stat_url"]).json()["response"]
        assert told["http_downloaded"] == told["downloaded"] == len(data)
        [cdn] = told["cdns"]
        assert cdn["url"] == f"http://{host}/film.ts"
        assert cdn["failures"] == 0
        # The last tick may not have seen yet that nothing is missing any more.
        assert cdn["state"] in {"active", "ready"}
    engine.stop()


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("hurry=1", "got 'hurry=1', want NAME=SECONDS"),
        ("risk=soon", "got 'risk=soon', want NAME=SECONDS"),
        ("risk=-1", "risk_s: got -1.0"),
        ("safe=nan", "safe_s: got nan"),
        ("safe=1", "safe_s: got 1.0, want more than risk_s 4.0"),
    ],
)
def test_wrong_cdn_time_is_refused(text: str, detail: str, tmp_path: Path) -> None:
    called = engine_command(
        "serve", "--save", tmp_path, "--state", tmp_path / "state",
        "--listen", "127.0.0.1:0", "--no-entitlement", "--cdn", text,
    )  # fmt: skip
    assert called.code == 2
    assert detail in called.err


def test_live_stream_is_followed_for_players(
    tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    clip = make_clip(tmp_path / "clip.ts")
    caster = start_engine(
        "broadcast", "--input", clip, "--loop", "--realtime", "--state", tmp_path / "caster",
        "--listen", "127.0.0.1:0", "--index", "127.0.0.1:0",
        "--descriptor-out", tmp_path / "descriptor", log="caster",
    )  # fmt: skip
    index = caster.wait_for("broadcasting")["index"]
    engine, client = serve(start_engine, tmp_path, "--stream", index)
    with client:
        stream_id = caster.of("broadcasting")[0]["stream_id"]
        playlist = client.get("/ace/manifest.m3u8", params={"content_id": stream_id})
        segments = m3u8.loads(playlist.text).segments
        assert segments
        assert client.get(segments[-1].uri).content[:1] == b"\x47"
        taken = 0
        with client.stream("GET", "/ace/getstream", params={"id": stream_id}) as answer:
            until_s = time.monotonic() + 60
            for part in answer.iter_raw():
                taken += len(part)
                if taken > 400_000 or time.monotonic() > until_s:
                    break
        assert taken > 400_000
    engine.stop()
    caster.kill()
    assert threading.active_count() < 20
