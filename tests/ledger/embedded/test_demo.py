"""The demo as its user meets it: a real run, wrong input, interruptions; nothing may be left."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from public_scan import scan, viewer_secrets

from ledger.audit.file import parse_audit_file
from ledger.audit.trust import parse_trust
from ledger.embedded.postgres import create_state_dir
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.epoch_document import format_epoch_document, read_epoch_leaves
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.source import FolderSource
from ledger.publiclog.verification import verify_folder

pytestmark = pytest.mark.process

RUN_SECONDS = 280


class DemoRun:
    """One demo with a mark in its environment by which all its processes are found."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.scratch = create_state_dir("swarmledger-demotest-")
        self.mark = f"SWARMLEDGER_TEST_MARK={secrets.token_hex(8)}"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        name, _, value = self.mark.partition("=")
        command = [sys.executable, "-m", "ledger.cli", "demo", "--out", str(self.out), *arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, name: value, "TMPDIR": str(self.scratch)},
            # As under a terminal, even when the tests themselves run under nohup.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        output, talk = process.communicate(timeout=RUN_SECONDS)
        return process.returncode, output.decode(), talk.decode()

    def processes(self) -> list[str]:
        """Command lines of every living process that carries the mark."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if self.mark.encode() in (folder / "environ").read_bytes():
                        command = (folder / "cmdline").read_bytes()
                        found.append(command.replace(b"\0", b" ").decode())
                except OSError:
                    continue
        return found

    def debris(self) -> list[str]:
        """Processes and temporary files that are left."""
        deadline_s = time.monotonic() + 10
        while self.processes() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        return self.processes() + [str(path) for path in self.scratch.iterdir()]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[DemoRun]:
    run = DemoRun(tmp_path)
    yield run
    shutil.rmtree(run.scratch, ignore_errors=True)


def make_folder(path: Path) -> Path:
    """A folder of files of odd sizes, one of them empty, one in a subfolder."""
    (path / "deep").mkdir(parents=True)
    for name, size in (("a.bin", 700_001), ("deep/b.bin", 1), ("c.bin", 16_385), ("d.txt", 0)):
        (path / name).write_bytes(os.urandom(size))
    return path


@pytest.mark.timeout(RUN_SECONDS + 20)
def test_a_small_demo_adds_up_and_an_outsider_proves_it(demo: DemoRun, tmp_path: Path) -> None:
    content = make_folder(tmp_path / "odd files")
    code, output, talk = demo.run(
        "--content", str(content), "--seeders", "1", "--viewers", "2", "--json"
    )
    assert code == 0, talk
    summary = json.loads(output)
    assert summary == json.loads((demo.out / "summary.json").read_text())
    size, money = summary["bytes"], summary["money"]
    assert summary["content_bytes"] == 716_387
    assert size["delivered_p2p"] == size["receipted_p2p"] == size["credited_p2p"]
    assert size["delivered_cdn"] == size["receipted_cdn"] == size["billed_cdn"]
    delivered = size["delivered_p2p"] + size["delivered_cdn"]
    assert delivered + size["ambiguous"] + size["unattested"] == 2 * 716_387
    assert money["deposited_stroops"] == money["charged_stroops"] + money["unspent_stroops"]
    assert sum(payout["stroops"] for payout in summary["payouts"]) == money["paid_stroops"]
    assert {epoch["verdict"] for epoch in summary["epochs"]} == {"proven"}
    assert summary["tamper_test"]["verdict"] == "disproven"
    files = sorted(path.name for path in demo.out.iterdir())
    for wanted in ("bill.html", "bill.csv", "trust.json", "books.beancount", "log"):
        assert wanted in files
    checkpoints = list((demo.out / "log").glob("G*/checkpoint"))
    assert len(checkpoints) == 1
    verifier = [sys.executable, "-m", "ledger.audit.command"]
    audits = [str(path) for path in sorted(demo.out.glob("epoch-*.audit"))]
    trust = str(demo.out / "trust.json")
    assert subprocess.run([*verifier, *audits, "--trust", trust], check=False).returncode == 0
    assert subprocess.run([*verifier, *audits], check=False).returncode == 2
    assert_public_files_name_nobody(demo.out)
    assert demo.debris() == []


def assert_public_files_name_nobody(out: Path) -> None:
    """The log's files and what is made of them, against what the audit files know."""
    audits = [parse_audit_file(path.read_bytes()) for path in out.glob("epoch-*.audit")]
    secrets = viewer_secrets(one.contents for one in audits)
    assert len([name for name in secrets if name.startswith("session key")]) >= 2
    trust = parse_trust((out / "trust.json").read_text())
    (log,) = (out / "log").glob("G*")
    found = verify_folder(log, keys_of_trust(trust))
    public = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in log.rglob("*")
        if path.is_file()
    }
    reader = TileReader(found.tree_size, FolderSource(log).read)
    for one in audits:
        leaves = read_epoch_leaves(reader, one.contents.epoch)
        public[f"document of epoch {one.contents.epoch}"] = format_epoch_document(
            leaves, broadcaster=trust.broadcaster_account, note=one.contents.checkpoint
        )
    assert scan(public, secrets) == []
    bitten = {"log": public[next(iter(public))] + next(iter(secrets.values()))}
    assert scan(bitten, secrets) != []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "absent", "got nothing there"),
        (lambda folder: touch(folder / "empty.bin"), "got an empty file"),
        (lambda folder: make_dir(folder / "empty"), "got a folder without content"),
        (lambda folder: make_pipe(folder / "pipe"), "got a special file"),
    ],
)
def test_content_that_cannot_be_delivered_is_refused(demo, tmp_path, make, words) -> None:
    code, _, talk = demo.run("--content", str(make(tmp_path)))
    assert code == 1
    assert words in talk
    assert demo.debris() == []


def test_unreadable_content_is_refused(demo: DemoRun, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    secret = touch(tmp_path / "secret.bin", b"x")
    secret.chmod(0)
    code, _, talk = demo.run("--content", str(secret))
    assert (code, "Permission denied" in talk) == (1, True)


def test_an_output_folder_with_other_files_is_not_touched(demo: DemoRun) -> None:
    demo.out.mkdir()
    mine = touch(demo.out / "mine.txt", b"mine")
    code, _, talk = demo.run()
    assert (code, mine.read_bytes()) == (1, b"mine")
    assert "got a folder with other files" in talk


def test_wrong_numbers_are_wrong_usage(demo: DemoRun) -> None:
    assert demo.run("--viewers", "0")[0] == 2
    assert demo.run("--seeders", "many")[0] == 2


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("content:", signal.SIGHUP),
        ("Postgres runs", signal.SIGINT),
        ("signed its terms", signal.SIGTERM),
        ("sessions trade", signal.SIGINT),
    ],
)
@pytest.mark.timeout(200)
def test_an_interrupted_demo_leaves_nothing(demo: DemoRun, tmp_path, moment, number) -> None:
    content = touch(tmp_path / "content.bin", os.urandom(500_000))
    process = demo.start("--content", str(content), "--seeders", "1", "--viewers", "1")
    wait_for_words(process, moment)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert demo.debris() == []


@pytest.mark.timeout(200)
def test_a_child_that_dies_fails_the_demo_with_its_name(demo: DemoRun, tmp_path: Path) -> None:
    content = touch(tmp_path / "content.bin", os.urandom(500_000))
    process = demo.start("--content", str(content), "--seeders", "1", "--viewers", "1")
    wait_for_words(process, "sessions trade")
    kill_process(demo, "engine seed")
    talk = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1
    assert "seeder-1: got exit code -9" in talk
    assert demo.debris() == []


@pytest.mark.timeout(200)
def test_a_killed_demo_takes_its_children_along(demo: DemoRun, tmp_path: Path) -> None:
    content = touch(tmp_path / "content.bin", os.urandom(500_000))
    process = demo.start("--content", str(content), "--seeders", "1", "--viewers", "1")
    wait_for_words(process, "signed its terms")
    process.kill()
    process.communicate(timeout=60)
    deadline_s = time.monotonic() + 60
    while demo.processes() and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert demo.processes() == []


def touch(path: Path, data: bytes = b"") -> Path:
    path.write_bytes(data)
    return path


def make_dir(path: Path) -> Path:
    path.mkdir()
    return path


def make_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def wait_for_words(process: subprocess.Popen[bytes], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line.decode():
            return
    raise AssertionError(f"the demo ended before it said {words!r}")


def kill_process(demo: DemoRun, words: str) -> None:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                marked = demo.mark.encode() in (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if marked and words in command:
                os.kill(int(folder.name), signal.SIGKILL)
                return
    raise AssertionError(f"no process {words!r} of the demo")
