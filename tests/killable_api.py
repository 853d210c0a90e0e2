"""The operator's API as a process that a test may kill and start again on the same port."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

_SERVER = """
import json
import sys
from pathlib import Path
from shard_scene import HandClock, ledger_at
from simulated_operator import seed
from ledger.api.app import ApiParts, make_app
from ledger.api.ledger_time import LedgerTimeSource
from ledger.api.limits import IntakeLimits
from ledger.serving import bind, serve
from ledger.store.engine import open_sessions

url, folder, close_time_s, listen, limits = sys.argv[1:]
clock = HandClock()
clock.ledger = ledger_at(int(close_time_s))
ledger_time = LedgerTimeSource(clock, interval_s=0.05, stale_s=60)
ledger_time.look()
parts = ApiParts(sessions=open_sessions(url), ledger_time=ledger_time, log_seed=seed("log"),
                 log_dir=Path(folder), limits=IntakeLimits(**json.loads(limits)))
serve(make_app(parts), bind(listen), Path(folder, "ready"))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class KillableApi:
    """One API process at a time, always at the same address."""

    database_url: str
    folder: Path
    close_time_s: int
    limits: dict[str, object] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        words = [self.database_url, str(self.folder), str(self.close_time_s)]
        listen = f"127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *words, listen, json.dumps(self.limits)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        while not ready.exists():
            assert self.process.poll() is None
            time.sleep(0.02)
        assert json.loads(ready.read_text())["url"] == self.url

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
