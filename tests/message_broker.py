"""A RabbitMQ of a test's own, from the Debian package, on loopback ports nobody else uses."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
PATIENCE_S = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class RabbitMq:
    """One broker; `kill` ends it as a power cut would, `wipe` loses its messages."""

    def __init__(self, log: Path) -> None:
        if not SERVER.exists():
            pytest.skip("needs the Debian package rabbitmq-server")
        # Where another account may go: a test's own folder lets nobody else in.
        self.folder = Path(tempfile.mkdtemp(prefix="swarmledger-rabbitmq-"))
        self.log, self.port = log, free_port()
        self.epmd_port, self.dist_port = free_port(), free_port()
        self._account: dict[str, object] = {}
        if os.getuid() == 0:
            # Its scripts refuse to run as root.
            user = pwd.getpwnam("rabbitmq")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "db"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none"),
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [SERVER],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._account,
            )
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def wipe(self) -> None:
        """Lose every queue and message; it must not run."""
        shutil.rmtree(self.folder / "db")

    def close(self) -> None:
        """End it and the port mapper that it started; remove its folder."""
        self.kill()
        _kill_listener(self.epmd_port)
        shutil.rmtree(self.folder, ignore_errors=True)


def _kill_listener(port: int) -> None:
    """End whoever listens on a port: Erlang's port mapper leaves its parent's group."""
    found = subprocess.run(
        ["ss", "-Hltnp", f"sport = :{port}"], check=False, capture_output=True, text=True
    ).stdout
    for piece in found.split("pid=")[1:]:
        os.kill(int(piece.split(",")[0]), signal.SIGKILL)
