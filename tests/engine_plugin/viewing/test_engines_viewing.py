"""Two engines, an operator, the HTTP face: what a player plays stands in a viewer's bundle."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from media_clips import make_clip

from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.engine import Engine
from engine_plugin.http_face.face import FaceConfig, start_http_face
from engine_plugin.torrents import TorrentFile, make_torrent
from engine_plugin.wire import Endpoint
from ledger.books.heartbeats import judge_heartbeats
from ledger.books.judgement import BundleCode, check_bundle
from ledger.books.viewing_time import measure_viewing
from ledger.evidence.bundle import BundleKind
from ledger.evidence.heartbeat import FLAG_ESTIMATED, Heartbeat

pytestmark = pytest.mark.swarm

Watch = Callable[[httpx.AsyncClient, TorrentFile], Any]


async def run(folder: Path, operator: Any, torrent: TorrentFile, watch: Watch) -> None:
    ready: list[dict[str, Any]] = []

    def note(name: str, /, **fields: Any) -> None:
        if name == "ready":
            ready.append(fields)

    def config(name: str, ip: str) -> EngineConfig:
        return EngineConfig(
            listen=Endpoint(ip, 0),
            state_path=folder / name,
            terms=operator.terms,
            entitlement_url=operator.url,
            dials_utp=False,
        )

    async with Engine(config("seeder", "127.0.0.81"), note) as seeder:
        await seeder.add(torrent, ContentOptions(save_path=folder, is_complete=True))
        ip, _, port = ready[0]["listen"].rpartition(":")
        viewer = Engine(config("viewer", "127.0.0.82"), note)
        await viewer.start()
        face = FaceConfig(
            save_path=folder / "saved",
            token_path=folder / "http-token",
            listen=Endpoint("127.0.0.1", 0),
            peers=(Endpoint(ip, int(port)),),
        )
        async with await start_http_face(viewer, face) as running:
            running.add_torrent(torrent)
            async with httpx.AsyncClient(
                base_url=running.url, trust_env=False, timeout=30, follow_redirects=False
            ) as client:
                await watch(client, torrent)
        await viewer.stop()


async def ask(client: httpx.AsyncClient, path: str, torrent: TorrentFile) -> dict[str, str]:
    query = {"infohash": torrent.infohash_v1.hex(), "format": "json"}
    answer = await client.get(path, params=query)
    fields: dict[str, str] = answer.json()["response"]
    return fields


def judged(operator: Any) -> tuple[Heartbeat, ...]:
    bundles = operator.list_bundles(BundleKind.VIEWER)
    checks = [check_bundle(each.raw, operator.terms, each.value.epoch) for each in bundles]
    assert {check.code for check in checks} == {BundleCode.ACCEPTED}
    judgement = judge_heartbeats(checks, operator.terms)
    assert judgement.refused == 0
    (beats,) = judgement.by_viewer.values()
    return beats


def measure(beats: tuple[Heartbeat, ...]) -> int:
    last_ms = beats[-1].timestamp_ms + 1
    return measure_viewing(beats, start_ms=0, end_ms_exclusive=last_ms).playing_ms


def test_reports_to_the_face_reach_the_operator_in_a_bundle_and_in_receipts(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    torrent = make_torrent(make_clip(tmp_path / "film.mp4", lasts_s=4))

    async def watch(client: httpx.AsyncClient, torrent: TorrentFile) -> None:
        told = await ask(client, "/ace/getstream", torrent)
        began_s = time.monotonic()

        async def report(state: str, number: int, position_ms: int) -> None:
            body = f'e=ps,sta={state},sid="a player",sn={number},pt={position_ms}'
            answer = await client.post(
                told["cmcd_url"], content=body, headers={"content-type": "application/cmcd"}
            )
            assert answer.status_code == 204

        await report("p", 0, 0)
        await asyncio.sleep(1.2)
        await report("a", 1, 1000)
        assert len((await client.get(told["playback_url"])).content) > 10_000
        # The first receipt is due a second after the bytes.
        await asyncio.sleep(1.5)
        await report("p", 2, 1000)
        await asyncio.sleep(0.6)
        await report("e", 3, 1500)
        assert time.monotonic() - began_s >= 1.5

    asyncio.run(run(tmp_path, operator, torrent, watch))
    beats = judged(operator)
    assert [beat.state for beat in beats] == ["p", "a", "p", "e"]
    assert measure(beats) == beats[-1].media_ms_total == 1500
    assert beats[-1].bytes_p2p_total == torrent.content_bytes
    media = {
        receipt.media_ms_total for receipt in operator.final_receipts(BundleKind.PAYEE).values()
    }
    assert media <= {1000, 1500}
    assert media


def test_player_that_only_fetches_segments_is_estimated_within_wall_clock(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    torrent = make_torrent(make_clip(tmp_path / "film.mp4", lasts_s=20))
    walls: list[float] = []

    async def watch(client: httpx.AsyncClient, torrent: TorrentFile) -> None:
        told = await ask(client, "/ace/manifest.m3u8", torrent)
        playlist = (await client.get(told["playback_url"])).text
        segments = [line for line in playlist.splitlines() if line and not line.startswith("#")]
        began_s = time.monotonic()
        await client.get(segments[0])
        await asyncio.sleep(2)
        walls.append((time.monotonic() - began_s) * 1000)

    asyncio.run(run(tmp_path, operator, torrent, watch))
    beats = judged(operator)
    assert {beat.flags for beat in beats} == {FLAG_ESTIMATED}
    assert (beats[0].state, beats[-1].state) == ("p", "q")
    assert 1500 <= measure(beats) <= walls[0] + 8000
    assert measure(beats) <= beats[-1].timestamp_ms - beats[0].timestamp_ms


def test_player_of_a_plain_file_is_estimated_from_its_duration(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    torrent = make_torrent(make_clip(tmp_path / "film.mp4", lasts_s=30))

    async def watch(client: httpx.AsyncClient, torrent: TorrentFile) -> None:
        told = await ask(client, "/ace/getstream", torrent)
        for begin in range(0, torrent.content_bytes - (64 << 10), 64 << 10):
            span = {"range": f"bytes={begin}-{begin + (64 << 10) - 1}"}
            async with client.stream("GET", told["playback_url"], headers=span) as answer:
                await answer.aread()
                await asyncio.sleep(0.02)
        async with client.stream("GET", told["playback_url"]) as answer:
            async for _ in answer.aiter_bytes(16 << 10):
                await asyncio.sleep(0.04)

    asyncio.run(run(tmp_path, operator, torrent, watch))
    beats = judged(operator)
    assert {beat.flags for beat in beats} == {FLAG_ESTIMATED}
    assert 0 < measure(beats) <= beats[-1].timestamp_ms - beats[0].timestamp_ms
