"""Real BitTorrent clients of Debian, started headless on loopback, and what they leave behind."""

import base64
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

WAIT_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Transmission:
    """`transmission-daemon` with its folder; stopped by `stop`."""

    def __init__(self, folder: Path, downloads: Path) -> None:
        self.folder = folder
        self._rpc_port, self._session = free_port(), ""
        self.port = free_port()
        folder.mkdir(parents=True)
        settings = {
            "rpc-port": self._rpc_port,
            "rpc-bind-address": "127.0.0.1",
            "rpc-authentication-required": False,
            "dht-enabled": False,
            "lpd-enabled": False,
            "pex-enabled": False,
            "port-forwarding-enabled": False,
            "peer-port": self.port,
            "bind-address-ipv4": "127.0.0.1",
            "download-dir": str(downloads),
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        with (folder / "daemon.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["transmission-daemon", "-f", "-g", str(folder)], stdout=log, stderr=log
            )

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        body = json.dumps({"method": method, "arguments": arguments}).encode()
        while True:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self._rpc_port}/transmission/rpc",
                body,
                {"X-Transmission-Session-Id": self._session},
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                    return dict(json.load(response)["arguments"])
            except urllib.error.HTTPError as error:
                with error:
                    self._session = error.headers.get("X-Transmission-Session-Id", "")
            except OSError:
                time.sleep(0.2)
            assert time.monotonic() < deadline, "transmission-daemon does not answer"

    def add(self, torrent: bytes, folder: Path) -> int:
        """Add a torrent and check its files; its number."""
        added = self.call(
            "torrent-add",
            metainfo=base64.b64encode(torrent).decode(),
            **{"download-dir": str(folder)},
        )
        number = int(next(iter(added.values()))["id"])
        self.call("torrent-verify", ids=[number])
        deadline = time.monotonic() + WAIT_S
        while True:
            fields = ["status", "percentDone", "recheckProgress"]
            (state,) = self.call("torrent-get", ids=[number], fields=fields)["torrents"]
            if state["status"] not in {1, 2, 3}:
                return number
            assert time.monotonic() < deadline, state
            time.sleep(0.2)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(WAIT_S)


class QBittorrent:
    """`qbittorrent-nox` with a profile folder; stopped by `stop`."""

    def __init__(self, profile: Path, downloads: Path) -> None:
        self._web_port = free_port()
        self.port = free_port()
        self.records = profile / "qBittorrent" / "data" / "BT_backup"
        config = profile / "qBittorrent" / "config"
        config.mkdir(parents=True)
        (config / "qBittorrent.conf").write_text(
            f"[BitTorrent]\nSession\\DefaultSavePath={downloads}\nSession\\DHTEnabled=false\n"
            f"Session\\LSDEnabled=false\nSession\\PeXEnabled=false\nSession\\Port={self.port}\n"
            "Session\\Interface=lo\nSession\\InterfaceName=lo\nSession\\SaveResumeDataInterval=1\n"
            "\n[LegalNotice]\nAccepted=true\n"
            f"\n[Preferences]\nWebUI\\Address=127.0.0.1\nWebUI\\Port={self._web_port}\n"
            "WebUI\\LocalHostAuth=false\nWebUI\\UseUPnP=false\n"
        )
        self._process = subprocess.Popen(
            ["qbittorrent-nox", f"--profile={profile}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def call(self, path: str, fields: dict[str, str] | None = None, torrent: bytes = b"") -> str:
        url = f"http://127.0.0.1:{self._web_port}/api/v2/{path}"
        boundary, body = uuid.uuid4().hex, b""
        for name, value in (fields or {}).items():
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            body += f"{head}{value}\r\n".encode()
        if torrent:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="torrents"; filename="t"'
            body += f"{head}\r\nContent-Type: application/x-bittorrent\r\n\r\n".encode()
            body += torrent + b"\r\n"
        body += f"--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(
            url, None if fields is None else body, {} if fields is None else headers
        )
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                    return str(response.read().decode())
            except urllib.error.HTTPError:
                raise
            except OSError:
                assert time.monotonic() < deadline, "qbittorrent-nox does not answer"
                time.sleep(0.2)

    def add(self, torrent: bytes, folder: Path, **fields: str) -> None:
        """Add a torrent, whose files it checks."""
        self.call("torrents/add", {"savepath": str(folder), **fields}, torrent)

    def wait_until_checked(self, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + WAIT_S
        while True:
            torrents: list[dict[str, Any]] = json.loads(self.call("torrents/info"))
            states = [one["state"] for one in torrents]
            if len(states) == count and not any(state.startswith("check") for state in states):
                return torrents
            assert time.monotonic() < deadline, states
            time.sleep(0.2)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(WAIT_S)
