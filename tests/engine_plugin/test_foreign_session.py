"""A host application's own libtorrent session, metered beside the host's use of it."""

import asyncio
import hashlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from engine_plugin.config import ContentOptions, EngineConfig, HostSession
from engine_plugin.content import Content
from engine_plugin.engine import Engine
from engine_plugin.errors import SessionError
from engine_plugin.journal_reading import read_totals
from engine_plugin.torrents import TorrentFile, make_torrent
from engine_plugin.wire import Endpoint

pytestmark = pytest.mark.swarm

ROOT = Path(__file__).parents[2]
FILM = hashlib.shake_128(b"foreign").digest(2_000_003)


def _make_film(folder: Path) -> TorrentFile:
    folder.mkdir()
    (folder / "film.bin").write_bytes(FILM)
    return make_torrent(folder / "film.bin", piece_bytes=64 << 10)


def _open_host(address: str) -> Any:
    params: Any = lt.session_params()
    params.settings = {
        "listen_interfaces": f"{address}:0",
        "outgoing_interfaces": address,
        "enable_outgoing_utp": False,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "alert_mask": lt.alert.category_t.status_notification,
    }
    return lt.session(params)


def _add(host: Any, torrent: TorrentFile, folder: Path) -> Any:
    params = lt.load_torrent_buffer(torrent.data)
    params.save_path = str(folder)
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    return host.add_torrent(params)


def _config(state: Path, address: str) -> EngineConfig:
    return EngineConfig(listen=Endpoint(address, 0), state_path=state, dials_utp=False)


class _Host:
    """Reads its session's alerts as a host does, and hands them on."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.engine: Engine | None = None
        self.seen: list[str] = []
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stops.set()
        self._thread.join()

    def note(self, alerts: list[Any]) -> None:
        self.seen += [type(alert).__name__ for alert in alerts]

    def _run(self) -> None:
        while not self._stops.is_set():
            self.session.wait_for_alert(50)
            alerts = self.session.pop_alerts()
            self.note(alerts)
            if self.engine is not None:
                self.engine.feed(alerts)
            alerts.clear()


async def _fetch(tmp_path: Path, host: _Host, *, is_fed: bool) -> Content:
    torrent = _make_film(tmp_path / "seed")
    ready: dict[str, Any] = {}

    def listen(name: str, /, **fields: Any) -> None:
        if name == "ready":
            ready.update(fields)

    handle = _add(host.session, torrent, tmp_path / "saved")
    seeder = Engine(_config(tmp_path / "a", "127.0.0.91"), listen)
    plugin = Engine(
        _config(tmp_path / "b", "127.0.0.92"),
        host=HostSession(session=host.session, on_alerts=None if is_fed else host.note),
    )
    async with seeder, plugin:
        if is_fed:
            host.engine = plugin
            host.start()
        await seeder.add(torrent, ContentOptions(save_path=tmp_path / "seed", is_complete=True))
        content = await plugin.attach(handle)
        with pytest.raises(SessionError, match="metered already"):
            await plugin.attach(handle)
        ip, _, port = ready["listen"].rpartition(":")
        content.connect(Endpoint(ip, int(port)))
        async with asyncio.timeout(30):
            while not content.is_complete_told:
                await asyncio.sleep(0.05)
        assert await content.read_piece(1) == FILM[64 << 10 : 128 << 10]
        if is_fed:
            host.stop()
    return content


@pytest.mark.parametrize("is_fed", [True, False], ids=["host-reads", "plugin-reads"])
def test_every_byte_of_a_hosts_session_is_counted_or_called_ambiguous(
    tmp_path: Path, is_fed: bool
) -> None:
    host = _Host(_open_host("127.0.0.92"))
    asyncio.run(_fetch(tmp_path, host, is_fed=is_fed))
    assert (tmp_path / "saved" / "film.bin").read_bytes() == FILM
    totals = read_totals(tmp_path / "b" / "meter.sqlite")
    assert totals.unattested_bytes + totals.ambiguous_bytes == len(FILM)
    assert totals.unattested_bytes > 0
    assert totals.unexplained_bytes == 0
    # The host went on hearing of its own session, and keeps it.
    assert "torrent_finished_alert" in host.seen
    assert [handle.status().is_seeding for handle in host.session.get_torrents()] == [True]


def test_what_was_here_before_is_nobodys_delivery(tmp_path: Path) -> None:
    torrent = _make_film(tmp_path / "seed")
    host = _Host(_open_host("127.0.0.93"))
    handle = _add(host.session, torrent, tmp_path / "seed")

    async def scene() -> None:
        async with asyncio.timeout(30):
            while not handle.status().is_seeding:
                await asyncio.sleep(0.05)
        config = _config(tmp_path / "b", "127.0.0.93")
        hosted = HostSession(session=host.session, on_alerts=host.note)
        async with Engine(config, host=hosted) as plugin:
            content = await plugin.attach(handle)
            assert content.is_finished
            assert content.missing_pieces() == []

    asyncio.run(scene())
    totals = read_totals(tmp_path / "b" / "meter.sqlite")
    assert (totals.unattested_bytes, totals.ambiguous_bytes) == (0, 0)


def test_things_of_a_host_are_refused_by_an_engine_of_its_own(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Engine(_config(tmp_path / "a", "127.0.0.94")) as engine:
            with pytest.raises(SessionError, match="want an engine with a host"):
                engine.feed([])
            with pytest.raises(SessionError, match="want an engine with a host"):
                await engine.attach(None)

    asyncio.run(scene())
    with pytest.raises(SessionError, match=r"session: got str, want a libtorrent\.session"):
        asyncio.run(
            Engine(
                _config(tmp_path / "c", "127.0.0.94"), host=HostSession(session="session")
            ).start()
        )


def test_documented_client_fetches_and_prints_what_it_promises(tmp_path: Path) -> None:
    torrent = _make_film(tmp_path / "seed")
    (tmp_path / "film.torrent").write_bytes(torrent.data)
    client = ROOT / "docs" / "library_client.py"
    assert len(client.read_text().splitlines()) <= 45

    async def scene() -> str:
        ready: dict[str, Any] = {}

        def listen(name: str, /, **fields: Any) -> None:
            if name == "ready":
                ready.update(fields)

        async with Engine(_config(tmp_path / "a", "127.0.0.1"), listen) as seeder:
            await seeder.add(torrent, ContentOptions(save_path=tmp_path / "seed", is_complete=True))
            run = await asyncio.create_subprocess_exec(
                sys.executable,
                str(client),
                *(str(tmp_path / name) for name in ("film.torrent", "saved", "state")),
                ready["listen"],
                stdout=subprocess.PIPE,
                env={"PYTHONPATH": str(ROOT)},
            )
            said, _ = await run.communicate()
            assert run.returncode == 0
            return said.decode()

    said = asyncio.run(scene())
    assert f"begins with {FILM[:16].hex()}" in said
    assert f"bytes from peers: {len(FILM)}" in said
    assert (tmp_path / "saved" / "film.bin").read_bytes() == FILM
