"""The first picture with a CDN and a peer: real sessions, beside a plain player of a like CDN."""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faulty_cdn import FaultyCdn

from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.content import Content, SourceBytes
from engine_plugin.engine import Engine
from engine_plugin.http_face.cdn_watch import CdnWatch
from engine_plugin.playback.hybrid import HybridPolicy
from engine_plugin.playback.piece_desk import PieceDesk
from engine_plugin.playback.reader import Reader
from engine_plugin.torrents import make_torrent
from engine_plugin.wire import Endpoint
from ledger.bench.paced_player import PlayClock, play

pytestmark = pytest.mark.swarm

MIB = 1 << 20
RATE = MIB
"""The film's, bytes per second."""

FILM = hashlib.shake_128(b"start").digest(20 * MIB)
TICK_S = 1.0
"""libtorrent connects web seeds and peers once a second."""


@pytest.fixture
def cdns() -> Iterator[list[FaultyCdn]]:
    made = [FaultyCdn(FILM, rate_bytes=RATE * 5 // 4) for _ in range(2)]
    yield made
    for cdn in made:
        cdn.close()


@dataclass
class Seen:
    """What a player saw of one stretch."""

    clock: PlayClock
    before: SourceBytes
    after: SourceBytes

    @property
    def cdn_bytes(self) -> int:
        return self.after.cdn_bytes - self.before.cdn_bytes


async def _watch(content: Content, desk: PieceDesk, offset: int, length: int) -> Seen:
    """Play a stretch as it comes; the player's buffer has no bound."""
    before, clock = content.bytes_by_source(), PlayClock(RATE, length)
    got = bytearray()

    async def keep_time() -> None:
        while True:
            await asyncio.sleep(0.02)
            clock.tick(0)

    ticking = asyncio.create_task(keep_time())
    try:
        async with aclosing(Reader(desk, 0).read(offset, length)) as parts:
            async for part in parts:
                got += part
                clock.tick(len(part))
    finally:
        ticking.cancel()
    assert got == FILM[offset : offset + length]
    return Seen(clock, before, content.bytes_by_source())


async def _play(
    folder: Path, cdn: FaultyCdn, stretches: list[tuple[int, int]], *, peer_rate: int
) -> list[Seen]:
    (folder / "seed").mkdir()
    (folder / "seed" / "film.ts").write_bytes(FILM)
    torrent = make_torrent(
        folder / "seed" / "film.ts", piece_bytes=64 << 10, web_seeds=[cdn.url("film.ts")]
    )
    ready: dict[str, Any] = {}

    def listen(name: str, /, **fields: Any) -> None:
        if name == "ready":
            ready.update(fields)

    def config(state: str, address: str, **changes: Any) -> EngineConfig:
        return EngineConfig(
            listen=Endpoint(address, 0),
            state_path=folder / state,
            allows_local_web_seeds=True,
            dials_utp=False,
            **changes,
        )

    async with (
        Engine(config("a", "127.0.0.83", upload_limit=peer_rate), listen) as seeder,
        Engine(config("b", "127.0.0.84")) as viewer,
        asyncio.timeout(90),
    ):
        await seeder.add(torrent, ContentOptions(save_path=folder / "seed", is_complete=True))
        ip, _, port = ready["listen"].rpartition(":")
        options = ContentOptions(
            save_path=folder / "saved", peers=[Endpoint(ip, int(port))], uses_web_seeds=False
        )
        content = await viewer.add(torrent, options)
        desk, watch = PieceDesk(content), CdnWatch(HybridPolicy())
        watch.add(content, desk)
        driving = asyncio.create_task(watch.run())
        try:
            return [await _watch(content, desk, *stretch) for stretch in stretches]
        finally:
            driving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await driving
            await desk.close()


def test_slow_peer_holds_up_neither_the_first_picture_nor_the_next(
    tmp_path: Path, cdns: list[FaultyCdn]
) -> None:
    length = 8 * RATE

    async def both() -> tuple[list[Seen], Any]:
        plain = asyncio.to_thread(
            play, cdns[1].url("film.ts"), offset=0, length=length, rate_bytes_per_s=RATE
        )
        return await asyncio.gather(
            _play(tmp_path, cdns[0], [(0, length)], peer_rate=RATE // 2), plain
        )

    [seen], plain = asyncio.run(both())
    assert seen.clock.start_s is not None
    assert seen.clock.start_s <= 2 * plain.start_s + TICK_S
    assert seen.clock.stalled_s <= plain.stalled_s + TICK_S
    assert seen.after.p2p_bytes > 0


def test_quick_peer_leaves_the_cdn_only_a_moment_at_the_start(
    tmp_path: Path, cdns: list[FaultyCdn]
) -> None:
    cdns[0].rate_bytes = RATE // 2
    [seen] = asyncio.run(_play(tmp_path, cdns[0], [(0, len(FILM))], peer_rate=0))
    assert seen.cdn_bytes <= len(FILM) // 4
    assert cdns[0].body_bytes <= len(FILM) // 4
