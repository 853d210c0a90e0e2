"""A worker that kills itself with SIGKILL at the n-th step; started by test_crashes.

A step is a moment just before or just after a commit or a submission. The process reads one JSON
object a line from standard input, {"kill_at": n, "ticks": m}, and for each forks a worker that
closes a network ledger and settles, m times or until everything is decided. It answers with one
JSON object: {"signal": what ended the worker, "steps": how many it made}; 0 kills never.
"""

import json
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import event

from ledger.stellar.domain import SettlementDomain
from ledger.stellar.gateway import SubmitAnswer
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.settlement import settle
from ledger.store import settlement_store as store
from ledger.store.engine import make_session_factory, open_engine


class Steps:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.made = 0

    def step(self, *_: Any) -> None:
        self.made += 1
        if self.made == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class SteppingGateway(HorizonGateway):
    """A gateway whose submissions have a step before and after."""

    steps: Steps

    def submit(self, envelope: bytes) -> SubmitAnswer:
        self.steps.step()
        answer = super().submit(envelope)
        self.steps.step()
        return answer


def work(
    domain: SettlementDomain, database_url: str, url: str, order: dict[str, int], done: int
) -> None:
    steps = Steps(order["kill_at"])
    gateway = SteppingGateway(url, domain.passphrase)
    gateway.steps = steps
    engine = open_engine(database_url)
    sessions = make_session_factory(engine)
    event.listen(sessions.class_, "before_commit", steps.step)
    event.listen(sessions.class_, "after_commit", steps.step)
    client = httpx.Client(base_url=url, trust_env=False)
    for _ in range(order["ticks"]):
        client.post("/devnet/close").raise_for_status()
        report = settle(sessions, [gateway], domain)
        with sessions() as session:
            anchors = store.load_undecided_anchors(session, domain.broadcaster)
        if not report.undecided and not anchors:
            break
    os.write(done, str(steps.made).encode())


def main() -> None:
    domain: SettlementDomain = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - ours
    for line in sys.stdin:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            work(domain, sys.argv[2], sys.argv[3], json.loads(line), write_end)
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            made = pipe.read()
        _, status = os.waitpid(pid, 0)
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        print(json.dumps({"signal": ended_by, "steps": int(made or 0)}), flush=True)


if __name__ == "__main__":
    main()
