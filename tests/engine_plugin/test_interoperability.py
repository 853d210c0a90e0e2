"""qBittorrent, Transmission and aria2 exchange with the engine in both roles; all unattested.

Each client runs as it is packaged, with discovery off, on loopback addresses.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_plugin.torrents import TorrentFile, TorrentForm, make_torrent

pytestmark = [pytest.mark.swarm, pytest.mark.process]

FILM = hashlib.shake_128(b"interoperability").digest(3_000_017)
WAIT_S = 90


def _free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _wait(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class Client:
    """A client of another make, running on one torrent."""

    program = ""
    form = TorrentForm.V1

    def __init__(self, folder: Path, torrent: TorrentFile, *, has_content: bool) -> None:
        self.folder = folder
        self.saved = folder / "saved"
        self.saved.mkdir(parents=True)
        if has_content:
            (self.saved / "film.bin").write_bytes(FILM)
        self.torrent_path = folder / "film.torrent"
        self.torrent_path.write_bytes(torrent.data)
        self.port = _free_port()
        self.log = (folder / "log").open("wb")
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        raise NotImplementedError

    def run(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            stdout=self.log,
            stderr=self.log,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)},
        )

    def is_complete(self) -> bool:
        film = self.saved / "film.bin"
        return film.exists() and film.read_bytes() == FILM

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Aria2(Client):
    program = "aria2c"

    def start(self) -> "subprocess.Popen[bytes]":
        self.rpc = _free_port()
        process = self.run(
            "aria2c",
            "--enable-rpc",
            f"--rpc-listen-port={self.rpc}",
            f"--dir={self.saved}",
            f"--listen-port={self.port}",
            "--seed-ratio=0.0",
            "--enable-dht=false",
            "--enable-peer-exchange=false",
            "--bt-enable-lpd=false",
            "--check-integrity=true",
            "--allow-overwrite=true",
            str(self.torrent_path),
        )
        # A peer that it could not talk to while it starts is banned for two minutes.
        _wait(self._is_up, "aria2's RPC")
        return process

    def _is_up(self) -> bool:
        call = {"jsonrpc": "2.0", "id": "1", "method": "aria2.tellActive"}
        try:
            url = f"http://127.0.0.1:{self.rpc}/jsonrpc"
            answer = httpx.post(url, json=call, timeout=5, trust_env=False).json()
        except (httpx.HTTPError, ValueError):
            return False
        return bool(answer.get("result")) and "verifiedLength" not in answer["result"][0]


class Transmission(Client):
    program = "transmission-daemon"

    def start(self) -> "subprocess.Popen[bytes]":
        self.rpc = _free_port()
        settings = {
            "download-dir": str(self.saved),
            "peer-port": self.port,
            "peer-port-random-on-start": False,
            "dht-enabled": False,
            "lpd-enabled": False,
            "pex-enabled": False,
            "utp-enabled": False,
            "port-forwarding-enabled": False,
            "rpc-port": self.rpc,
            "rpc-bind-address": "127.0.0.1",
            "rpc-authentication-required": False,
            "rpc-whitelist-enabled": False,
            "rpc-host-whitelist-enabled": False,
            "incomplete-dir-enabled": False,
        }
        config = self.folder / "config"
        config.mkdir()
        (config / "settings.json").write_text(json.dumps(settings))
        process = self.run("transmission-daemon", "-f", "-g", str(config))
        _wait(self._is_up, "transmission's RPC")
        self._call("torrent-add", filename=str(self.torrent_path), paused=False)
        return process

    def _is_up(self) -> bool:
        try:
            self._call("session-get")
        except httpx.HTTPError:
            return False
        return True

    def _call(self, method: str, **arguments: Any) -> Any:
        url = f"http://127.0.0.1:{self.rpc}/transmission/rpc"
        with httpx.Client(trust_env=False, timeout=5) as client:
            token = client.get(url).headers.get("x-transmission-session-id", "")
            answer = client.post(
                url,
                json={"method": method, "arguments": arguments},
                headers={"x-transmission-session-id": token},
            )
            answer.raise_for_status()
            return answer.json()


class QBittorrent(Client):
    program = "qbittorrent-nox"
    form = TorrentForm.HYBRID

    def start(self) -> "subprocess.Popen[bytes]":
        self.rpc = _free_port()
        config = self.folder / "profile" / "qBittorrent" / "config"
        config.mkdir(parents=True)
        lines = [
            "[LegalNotice]",
            "Accepted=true",
            "[BitTorrent]",
            rf"Session\DefaultSavePath={self.saved}",
            rf"Session\Port={self.port}",
            r"Session\DHTEnabled=false",
            r"Session\LSDEnabled=false",
            r"Session\PeXEnabled=false",
            r"Session\Interface=lo",
            "[Preferences]",
            rf"WebUI\Port={self.rpc}",
            r"WebUI\Address=127.0.0.1",
            r"WebUI\LocalHostAuth=false",
            r"WebUI\CSRFProtection=false",
        ]
        (config / "qBittorrent.conf").write_text("\n".join(lines) + "\n")
        process = self.run("qbittorrent-nox", f"--profile={self.folder / 'profile'}")
        _wait(self._is_up, "qBittorrent's web API")
        with self.torrent_path.open("rb") as file:
            added = self._post("torrents/add", files={"torrents": file})
        assert added.text == "Ok."
        return process

    def _is_up(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.rpc}/api/v2/app/version"
            return httpx.get(url, timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def _post(self, path: str, **arguments: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{self.rpc}/api/v2/{path}"
        return httpx.post(url, timeout=10, trust_env=False, **arguments)


CLIENTS = [QBittorrent, Transmission, Aria2]


@pytest.fixture(params=CLIENTS, ids=[client.program for client in CLIENTS])
def start_client(request: Any, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    kind: type[Client] = request.param
    if shutil.which(kind.program) is None:
        pytest.skip(f"{kind.program} is not installed")
    started: list[Client] = []

    def start(torrent: TorrentFile, *, has_content: bool) -> Client:
        started.append(kind(tmp_path / kind.program, torrent, has_content=has_content))
        return started[-1]

    start.form = kind.form  # type: ignore[attr-defined]
    yield start
    for client in started:
        client.close()


def _torrent(tmp_path: Path, form: TorrentForm) -> TorrentFile:
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "film.bin").write_bytes(FILM)
    torrent = make_torrent(tmp_path / "seed" / "film.bin", form=form)
    (tmp_path / "film.torrent").write_bytes(torrent.data)
    return torrent


def test_engine_serves_the_client_like_any_peer(
    tmp_path: Path, start_client: Any, start_engine: Callable[..., Any]
) -> None:
    torrent = _torrent(tmp_path, start_client.form)
    client = start_client(torrent, has_content=False)
    seeder = start_engine(
        "seed",
        tmp_path / "film.torrent",
        *("--save", tmp_path / "seed", "--listen", "127.0.0.1:0", "--state", tmp_path / "state"),
        *("--peer", f"127.0.0.1:{client.port}"),
        log="seeder",
    )
    _wait(client.is_complete, "the client completes")
    end = seeder.stop()
    assert end["uploaded_bytes"] >= len(FILM)


def test_engine_fetches_from_the_client_and_attests_nothing(
    tmp_path: Path, start_client: Any, start_engine: Callable[..., Any]
) -> None:
    torrent = _torrent(tmp_path, start_client.form)
    client = start_client(torrent, has_content=True)
    viewer = start_engine(
        "view",
        tmp_path / "film.torrent",
        *("--save", tmp_path / "saved", "--listen", "127.0.0.1:0", "--state", tmp_path / "state"),
        *("--peer", f"127.0.0.1:{client.port}", "--no-entitlement"),
        log="viewer",
    )
    viewer.wait_for("complete")
    end = viewer.stop()
    assert (tmp_path / "saved" / "film.bin").read_bytes() == FILM
    counts = end["bytes"]
    assert counts["p2p_unattested"] + counts["ambiguous"] == len(FILM)
    assert (counts["p2p_attested"], counts["cdn"]) == (0, 0)
    assert end["audit_difference_bytes"] == 0
