"""`swarmledger log` as its user meets it: exit status, results, evidence."""

import json
from pathlib import Path

import pytest
from public_logs import LogMaker, make_trust, serve_folder, vkey
from simulated_operator import seed

from ledger.audit.trust import format_trust, parse_trust
from ledger.evidence.keys import public_key_of
from ledger.publiclog.command import main
from ledger.sealing.log_seeds import next_seed_file
from ledger.stellar.seed_files import read_seed


@pytest.fixture
def trust(tmp_path: Path) -> str:
    path = tmp_path / "trust.json"
    path.write_text(format_trust(make_trust()))
    return str(path)


def test_mirror_verify_and_print_an_epoch(tmp_path: Path, trust: str, capsys) -> None:
    log, mirror = LogMaker(), str(tmp_path / "mirror")
    for _ in range(3):
        log.close(100).write(tmp_path / "log")
        with serve_folder(tmp_path / "log") as (url, _):
            assert main(["mirror", url, mirror, "--trust", trust]) == 0
    assert main(["verify", mirror, "--vkey", vkey(), "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["tree_size"], last["last_epoch"], last["kept"]) == (len(log.leaves), 2, 3)
    assert main(["epoch", mirror, "1", "--trust", trust]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["epoch"], document["bundles"]["count"]) == (1, 100)
    assert document["log"]["checkpoint"] == log.notes[1].decode()
    assert main(["epoch", mirror, "7", "--trust", trust]) == 2


def test_a_fork_is_reported_with_its_evidence(tmp_path: Path, trust: str, capsys) -> None:
    LogMaker().close().write(tmp_path / "log")
    LogMaker(salt="fork").close().close().write(tmp_path / "fork")
    state = tmp_path / "watch" / "state"
    state.parent.mkdir()
    watch = ["--state", str(state), "--trust", trust, "--once", "--json"]
    assert main(["monitor", str(tmp_path / "log"), *watch]) == 0
    assert main(["monitor", str(tmp_path / "fork"), *watch]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"] == "fork"
    (evidence,) = state.parent.glob("fork-*")
    assert {path.name for path in evidence.iterdir()} == {
        "first.checkpoint",
        "second.checkpoint",
        "report.json",
    }
    assert main(["monitor", str(tmp_path / "log"), *watch]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "absent"],
        ["verify", "absent", "--vkey", "nonsense"],
        ["verify", "absent", "--vkey", vkey()],
        ["verify", "absent", "--trust", "absent.json"],
        ["monitor", "http://127.0.0.1:1/log", "--state", "s", "--once", "--vkey", vkey()],
        ["mirror", "ftp://host/log", "m", "--vkey", vkey()],
        ["mirror", "http://127.0.0.1:nope/log", "m", "--vkey", vkey()],
        ["check-complaint", "absent"],
        ["find-missing", "--mine", "absent", "--log", "absent"],
    ],
)
def test_what_cannot_be_told_is_two(arguments, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "cannot tell" in capsys.readouterr().err


def test_rotate_makes_the_next_key_once(tmp_path: Path, trust: str, capsys) -> None:
    seed_file, out = tmp_path / "log.seed", tmp_path / "new.json"
    write_seed(seed_file, seed("log"))
    arguments = ["rotate", "--log-key-file", str(seed_file), "--trust", trust, "--json"]
    for _ in range(2):
        assert main([*arguments, "--first-epoch", "7", "--out", str(out)]) == 0
    told = [json.loads(line)["log_key"] for line in capsys.readouterr().out.splitlines()]
    rotated = parse_trust(out.read_text())
    assert [key.first_epoch for key in rotated.log_keys] == [0, 7]
    assert told == [rotated.log_keys[1].key.hex()] * 2
    following = next_seed_file(seed_file)
    assert following.stat().st_mode & 0o777 == 0o600
    assert public_key_of(read_seed(following)) == rotated.log_keys[1].key
    assert main([*arguments, "--first-epoch", "0", "--out", str(out)]) == 2
    write_seed(seed_file, seed("thief"))
    assert main([*arguments, "--first-epoch", "7", "--out", str(out)]) == 2


def write_seed(path: Path, value: bytes) -> None:
    path.touch(mode=0o600)
    path.write_text(value.hex())


def test_a_changed_tile_is_one(tmp_path: Path, trust: str) -> None:
    folder = LogMaker().close(300).write(tmp_path / "log")
    tile = folder / "tile/0/000"
    tile.write_bytes(tile.read_bytes()[:-1] + b"?")
    assert main(["verify", str(folder), "--trust", trust]) == 1
