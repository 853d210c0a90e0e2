"""The run-book: each of its commands is run in its order, on a real network and database."""

import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from operator_processes import processes, ready_url
from stellar_sdk import Network

from ledger.books.errors import BooksError
from ledger.embedded.drill_parties import Party
from ledger.evidence.terms import parse_terms
from ledger.stellar import failures
from ledger.stellar.cosigning import Reason
from ledger.stellar.failures import FROZEN, Reaction
from ledger.stellar.gateway import FILTERED
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.seed_files import read_seed
from ledger.stellar.stopping import OTHER_HISTORY, UNPLANNED, UNPROVEN
from ledger.store.coverage_store import EscrowLevel
from ledger.store.halt_store import HaltName

FOLDER = Path(__file__).parents[2] / "docs"
PAGE = (FOLDER / "runbook.md").read_text("utf-8")
PASSPHRASE = "swarmledger run-book tests"
PATIENCE_S = 180
EPOCH_SECONDS = 6
END = "\x1e"
# The product's own entry point. Encrypted keys take thirty times less here than elsewhere: some
# forty are made and opened, and what Argon2id costs is no part of the page.
PROGRAM = """\
import sys
from ledger import cli
from ledger.stellar import seed_files
seed_files.encrypt_seed.__kwdefaults__.update(passes=1, memory_kib=24 * 1024)
sys.exit(cli.main())
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the page and what the page says of it, or what happens outside in between."""

    command: str
    wanted: tuple[str, ...] = ()
    status: int = 0
    event: str = ""


def read_steps(page: str) -> Iterator[Step]:
    """Yield the page's commands and events in their order."""
    for match in re.finditer(r"```sh runbook\n(.*?)```|<!-- event: (\w+) -->", page, re.DOTALL):
        if match[2]:
            yield Step("", event=match[2])
        else:
            yield from _steps_of(match[1].splitlines())


def _steps_of(lines: list[str]) -> Iterator[Step]:
    step: Step | None = None
    for line in lines:
        if line.startswith("#> ") and step is not None:
            step = Step(step.command, (*step.wanted, line[3:]), step.status)
        elif line.startswith("#! ") and step is not None:
            step = Step(step.command, step.wanted, int(line[3:]))
        elif line.strip():
            if step is not None:
                yield step
            step = Step(line)
    if step is not None:
        yield step


STEPS = tuple(read_steps(PAGE))
OWN = '--key keys/payees/payee.seed --api "$API"'
WRONG = (
    f"status {OWN} --broadcaster GNOBODY",
    f"status {OWN} --broadcaster $(account payout)",
    'status --key keys/none.seed --api "$API"',
    'status --key settler-c.seed --api "$API"',
    "status --key keys/payees/payee.seed --api http://127.0.0.1:1",
    'status --key keys/payees/payee.seed --api "$API/nowhere"',
    "status --key keys/payees/payee.seed --api http://[",
    "status --key keys/payees/payee.seed --api operator.example",
    f"statement {OWN} --first 3 --last 1",
    f"statement {OWN} --first -1",
    f"statement {OWN} --first 4000000000 --last 4000000001",
    'cash-out --key settler-c.seed --api "$API"',
    f"pay-to {OWN} --to-key keys/none.seed",
    f"pay-to {OWN}",
    f"pay-to {OWN} --to-key new.seed --broadcaster GNOBODY",
)
"""What a payee may type by mistake."""


class Shell:
    """One bash that runs line after line, as a person at a terminal would."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def run(self, command: str) -> tuple[int, str]:
        """Run a line; returns its exit status and all that it printed."""
        began = time.monotonic()
        self._input.write(f"{command}\nprintf '\\036%s\\036' $?\n".encode())
        self._input.flush()
        text, give_up_at = "", time.monotonic() + PATIENCE_S
        while text.count(END) < 2:
            assert time.monotonic() < give_up_at, f"{command}: no end within {PATIENCE_S} s: {text}"
            if self._selector.select(timeout=1):
                text += os.read(self._output.fileno(), 65_536).decode("utf-8", "replace")
        printed, status, _ = text.split(END)
        if os.environ.get("RUNBOOK_TIMES"):
            print(
                f"{time.monotonic() - began:6.1f} {status} {command[:140]}\n{printed[-300:]}",
                file=sys.stderr,
            )
        return int(status), printed

    def stop(self) -> None:
        """End it and all that it started."""
        self._selector.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            time.sleep(1)
        self.process.wait(10)
        self._input.close()
        self._output.close()


@dataclass
class Rehearsal:
    """A network, an empty database, and a shell in which the page is followed."""

    place: Path
    horizon: str
    shell: Shell

    def happen(self, event: str) -> None:
        """Let happen what the page says others do."""
        events: dict[str, Callable[[], None]] = {"payees_deliver": self._deliver}
        events[event]()

    def refuse(self, arguments: str) -> str:
        """Type what is wrong; returns what is wrong with the answer, or nothing."""
        status, printed = self.shell.run(f"swarmledger payee {arguments}")
        is_told = status in {1, 2} and "Traceback" not in printed and printed.strip()
        return "" if is_told else f"payee {arguments}\nstatus {status}\n{printed}"

    def _deliver(self) -> None:
        """A payee delivers a gibibyte or more in the running epoch, and sends its receipts."""
        status, raw = self.shell.run('printf %s "$API"')
        assert status == 0
        signed = parse_terms((self.place / "broadcaster" / "broadcaster.terms").read_bytes())
        party = Party(
            name="payee",
            account_seed=read_seed(self.place / "keys" / "payees" / "payee.seed"),
            folder=self.place,
            number=0,
        )
        issuing_seed = read_seed(self.place / "broadcaster" / "issuing.seed")
        gateway = HorizonGateway(self.horizon, PASSPHRASE)
        try:
            now_s = gateway.latest_ledger().close_time_s
        finally:
            gateway.close()
        epoch = (now_s - signed.value.genesis_s) // signed.value.epoch_length_s
        bundle = party.make_bundle(signed, issuing_seed, epoch)
        with httpx.Client(base_url=raw, trust_env=False) as client:
            answer = client.post("/v1/bundles", content=bundle)
        assert answer.status_code == 200, answer.text


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def rehearsal(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rehearsal]:
    place, programs = tmp_path / "operator", tmp_path / "bin"
    programs.mkdir()
    program = programs / "swarmledger"
    program.write_text(f"#!{sys.executable}\n{PROGRAM}")
    program.chmod(0o700)
    monkeypatch.setenv("SWARMLEDGER_PASSPHRASE_FILE", str(place / "passphrase"))
    with processes(tmp_path, {}) as running:
        ready = tmp_path / "devnet.ready"
        running.start(
            "devnet", "devnet", "serve", "--passphrase", PASSPHRASE, "--ready-file", str(ready)
        )
        horizon = ready_url(ready)
        port = free_port()
        environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HOME": str(tmp_path),
            "NETWORK": PASSPHRASE,
            "HORIZON": horizon,
            "RPC": json.loads(ready.read_text())["rpc_url"],
            "LISTEN": f"127.0.0.1:{port}",
            "API": f"http://127.0.0.1:{port}",
            "PLACE": str(place),
            "EPOCH_SECONDS": str(EPOCH_SECONDS),
            "GRACE_SECONDS": "1",
            "CHALLENGE_SECONDS": "0",
            "START_SECONDS": "10",
            "DATABASE_URL": database_url,
            "SWARMLEDGER_MARGIN_LEDGERS": "1",
        }
        shell = Shell(tmp_path, environment)
        try:
            yield Rehearsal(place, horizon, shell)
        finally:
            shell.stop()


@pytest.mark.postgres
@pytest.mark.process
@pytest.mark.timeout(900)
def test_every_command_of_the_run_book_does_what_it_says(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[str] = []
    with rehearsal(tmp_path, database_url, monkeypatch) as scene:
        for step in STEPS:
            if step.event:
                scene.happen(step.event)
                continue
            status, printed = scene.shell.run(step.command)
            missing = [wanted for wanted in step.wanted if wanted not in printed]
            if status != step.status or missing:
                faults.append(f"{step.command}\nstatus {status}, missing {missing}\n{printed}")
        faults += [fault for arguments in WRONG if (fault := scene.refuse(arguments))]
        logs = "".join(
            f"--- {path.name}\n{path.read_text()[-2000:]}" for path in scene.place.glob("*.log")
        )
    assert not faults, "\n\n".join([*faults, logs])


def fenced_lines() -> list[str]:
    """Every line of a fenced block of any kind that calls the product."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if "swarmledger " in line]


def test_no_command_of_the_run_book_is_skipped() -> None:
    run = [step.command for step in STEPS if "swarmledger " in step.command]
    assert run == fenced_lines()
    assert len(run) >= 20


def test_every_reason_to_stand_still_is_in_the_table() -> None:
    table = PAGE.partition("## 14. ")[2].partition("\n## ")[0]
    told = {word for cell in re.findall(r"`([^`]+)`", table) for word in cell.split()}
    stopping = {
        code
        for code, reaction in failures._BY_CODE.items()
        if reaction in {Reaction.HALT, Reaction.HALT_LANE, Reaction.PAUSE_LANE, Reaction.BURN}
    }
    books = {error.__name__ for error in BooksError.__subclasses__()}
    levels = {str(level) for level in EscrowLevel} - {str(EscrowLevel.COVERED)}
    causes = {UNPLANNED, UNPROVEN, OTHER_HISTORY, FILTERED, FROZEN}
    assert (set(HaltName) | set(Reason) | stopping | books | levels | causes) - told == set()


def test_passphrases_are_the_networks_own() -> None:
    assert f"`{Network.PUBLIC_NETWORK_PASSPHRASE}`" in PAGE
    assert f"`{Network.TESTNET_NETWORK_PASSPHRASE}`" in PAGE


def test_links_of_the_run_book_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert [target for target in targets if not (FOLDER / target).exists()] == []


def test_run_book_is_short() -> None:
    assert len(PAGE.splitlines()) <= 300


def test_every_command_says_what_it_prints() -> None:
    silent = [
        step.command
        for step in STEPS
        if step.command.startswith("swarmledger ")
        and not step.wanted
        and not re.search(r">|&$", step.command)
    ]
    assert silent == []
