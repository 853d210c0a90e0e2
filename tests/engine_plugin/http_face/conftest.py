"""Two real engines on loopback, the viewer's with an HTTP face; the loop runs in a thread."""

import asyncio
import random
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from media_clips import make_clip

from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.content import Content
from engine_plugin.engine import Engine
from engine_plugin.http_face.face import FaceConfig, HttpFace, start_http_face
from engine_plugin.http_face.sessions import SessionLimits
from engine_plugin.torrents import TorrentFile, make_torrent
from engine_plugin.wire import Endpoint

T = TypeVar("T")
LOOPBACK = Endpoint("127.0.0.1", 0)


@dataclass
class Scene:
    """A seeder, a viewer and the viewer's face."""

    folder: Path
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    seeder: Engine = field(init=False)
    viewer: Engine = field(init=False)
    face: HttpFace = field(init=False)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    async def start(self, **config: Any) -> None:
        listens: list[str] = []

        def note(name: str, /, **fields: Any) -> None:
            if name == "ready":
                listens.append(fields["listen"])

        self.seeder = await self.stack.enter_async_context(
            Engine(EngineConfig(listen=LOOPBACK, state_path=self.folder / "seeder", **TCP), note)
        )
        self.viewer = await self.stack.enter_async_context(
            Engine(EngineConfig(listen=LOOPBACK, state_path=self.folder / "viewer", **TCP), note)
        )
        ip, _, port = listens[0].rpartition(":")
        self.seeds_at = Endpoint(ip, int(port))
        token_path = self.folder / "viewer" / "http-token"
        self.face = await self.start_face(token_path=token_path, **config)

    async def start_face(self, **config: Any) -> HttpFace:
        fields: dict[str, Any] = {
            "save_path": self.folder / "saved",
            "token_path": self.folder / "viewer" / "second-token",
            "listen": LOOPBACK,
            "peers": (self.seeds_at,),
            "metadata_ip": "127.0.0.1",
        }
        return await self.stack.enter_async_context(
            await start_http_face(self.viewer, FaceConfig(**fields | config))
        )

    async def seed(self, path: Path, **options: Any) -> TorrentFile:
        torrent = make_torrent(path, **options)
        await self.seeder.add(
            torrent, ContentOptions(save_path=path.resolve().parent, is_complete=True)
        )
        return torrent

    def share(self, path: Path, **options: Any) -> TorrentFile:
        """Seed content that the viewer's face knows of but has not started."""
        torrent = self.run(self.seed(path, **options))
        self.loop.call_soon_threadsafe(self.face.add_torrent, torrent)
        return torrent

    async def start_content(self, infohash: str) -> None:
        """Ask for content as a program of this machine does."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.head(
                f"{self.face.url}/ace/getstream", params={"infohash": infohash}
            )
        assert answer.status_code == 200

    def contents(self) -> list[Content]:
        return list(self.viewer.contents.values())

    @property
    def token(self) -> str:
        return (self.folder / "viewer" / "http-token").read_text().strip()

    def close(self) -> None:
        self.run(self.stack.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


TCP = {"dials_utp": False, "allows_local_web_seeds": True}
LIMITS = SessionLimits(sessions_max=8, connections_max=8, idle_s=60)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"))
    try:
        made.run(made.start(limits=LIMITS, allows_private_urls=True))
        yield made
    finally:
        made.close()


@pytest.fixture
def client(scene: Scene) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=scene.face.url, trust_env=False, timeout=30) as made:
        yield made


@pytest.fixture(scope="module")
def film(scene: Scene) -> tuple[TorrentFile, bytes]:
    """A file of random bytes, and its torrent."""
    folder = scene.folder / "film"
    folder.mkdir()
    data = random.Random(3).randbytes(3 * (1 << 20) + 77)
    (folder / "film.mp4").write_bytes(data)
    return scene.share(folder / "film.mp4"), data


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short films: the same pictures and sound as .mp4, .mkv and .ts."""
    folder = tmp_path_factory.mktemp("clips")
    return {kind: make_clip(folder / f"clip.{kind}") for kind in ("mp4", "mkv", "ts")}
