"""A worker that kills itself with SIGKILL at a chosen step; started by test_crashes.

A step is a moment just before or just after a commit or a submission; its name is that moment and
the functions of the settlement that led to it. The process reads one JSON object a line from
standard input, {"kill_at": n, "kill_in": name, "ticks": m}, and for each forks a worker that
closes a network ledger and settles, m times or until everything is decided. It dies at its n-th
step or at the first one with the name; 0 and "" kill never. The answer is one JSON object:
{"signal": what ended the worker, "steps": how many it made, "names": each name once, in order,
"done": whether everything was decided}.
"""

import json
import os
import pickle
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from sqlalchemy import event

from ledger.stellar.domain import SettlementDomain
from ledger.stellar.gateway import SubmitAnswer
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.settlement import settle
from ledger.store import settlement_store as store
from ledger.store.engine import Session, make_session_factory, open_engine


class Steps:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, kill_at: int, kill_in: str) -> None:
        self.kill_at = kill_at
        self.kill_in = kill_in
        self.made = 0
        self.names: dict[str, None] = {}

    def step(self, moment: str) -> None:
        self.made += 1
        name = f"{moment} of {_path()}"
        self.names[name] = None
        if self.made == self.kill_at or name == self.kill_in:
            os.kill(os.getpid(), signal.SIGKILL)


def _path() -> str:
    """The settlement's functions on the stack, outermost first."""
    names: list[str] = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        module = frame.f_globals["__name__"]
        if module.startswith("ledger.stellar."):
            names.append(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}")
        frame = frame.f_back
    return " > ".join(reversed(names))


class SteppingGateway(HorizonGateway):
    """A gateway whose submissions have a step before and after."""

    steps: Steps

    def submit(self, envelope: bytes) -> SubmitAnswer:
        self.steps.step("before submission")
        answer = super().submit(envelope)
        self.steps.step("after submission")
        return answer


def work(
    domain: SettlementDomain, database_url: str, url: str, order: dict[str, Any], done: int
) -> None:
    steps = Steps(order["kill_at"], order["kill_in"])
    gateway = SteppingGateway(url, domain.passphrase)
    gateway.steps = steps
    engine = open_engine(database_url)
    sessions = make_session_factory(engine)
    event.listen(Session, "before_commit", lambda _: steps.step("before commit"))
    event.listen(Session, "after_commit", lambda _: steps.step("after commit"))
    client = httpx.Client(base_url=url, trust_env=False, timeout=60)
    is_done = False
    for _ in range(order["ticks"]):
        client.post("/devnet/close").raise_for_status()
        report = settle(sessions, [gateway], domain)
        with sessions() as session:
            anchors = store.load_undecided_anchors(session, domain.broadcaster)
        is_done = not report.undecided and not anchors
        if is_done:
            break
    answer = {"steps": steps.made, "names": list(steps.names), "done": is_done}
    os.write(done, json.dumps(answer).encode())


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
        print(json.dumps({"signal": ended_by, **json.loads(made or "{}")}), flush=True)


if __name__ == "__main__":
    main()
