"""`swarmledger report` writes everything or nothing, and its exit status says why."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from reported_history import FILM, NEWS, reported_files
from typer.testing import CliRunner

from ledger.audit.trust import format_trust
from ledger.reports.bill_csv import read_bill_csv
from ledger.reports.command import app

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    files, trust = reported_files()
    for epoch, data in enumerate(files):
        (tmp_path / f"epoch-{epoch}.audit").write_bytes(data)
    (tmp_path / "trust.json").write_text(format_trust(trust))
    (tmp_path / "titles.json").write_text(json.dumps({NEWS.hex(): "News", FILM.hex(): "Film"}))
    return tmp_path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def make(folder: Path, *more: object):
    return run(
        "make", "--audit", folder, "--trust", folder / "trust.json", "--out", folder / "out", *more
    )


def test_everything_is_written(folder):
    result = make(folder, "--catalogue", folder / "titles.json", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert sorted(path.name for path in (folder / "out").iterdir()) == summary["files"]
    assert {"bill.html", "bill.csv", "books.beancount"} < set(summary["files"])
    assert len(summary["statements"]) == 4
    rows = read_bill_csv((folder / "out" / "bill.csv").read_text())
    assert summary["bytes"]["billed_p2p"] == sum(r.bytes_credited for r in rows if not r.cdn)
    assert summary["bytes"]["billed_cdn"] == sum(r.bytes_credited for r in rows if r.cdn)
    assert {row.content for row in rows} == {"News", "Film"}


def test_the_same_files_make_the_same_reports(folder):
    make(folder)
    before = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    make(folder)
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == before


def test_other_files_of_the_folder_stay(folder):
    (folder / "out").mkdir()
    (folder / "out" / "summary.json").write_text("{}")
    make(folder)
    assert (folder / "out" / "summary.json").read_text() == "{}"


def test_a_file_that_is_not_proven_stops_everything_and_names_the_step(folder):
    path = folder / "epoch-1.audit"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = make(folder)
    assert result.exit_code == 1
    assert "file failed" in result.stderr
    assert not (folder / "out").exists()


def test_another_ones_trust_proves_nothing(folder):
    trust = json.loads((folder / "trust.json").read_text())
    trust["grace_s"] += 1
    (folder / "trust.json").write_text(json.dumps(trust))
    result = make(folder)
    assert result.exit_code == 1
    assert "trust failed" in result.stderr


def test_a_missing_epoch_is_noticed(folder):
    (folder / "epoch-1.audit").unlink()
    result = make(folder)
    assert result.exit_code == 1
    assert "consecutive" in result.stderr


def test_names_that_are_no_audit_files_are_left_alone(folder):
    (folder / "epoch-01.audit").write_text("not one")
    (folder / "epoch-1.audit.bak").write_text("nor this")
    assert make(folder).exit_code == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trust.json", b"{}"),
        ("trust.json", b"\xff"),
        ("trust.json", None),
        ("titles.json", b"[]"),
        ("titles.json", None),
    ],
)
def test_unreadable_input_is_exit_2_and_writes_nothing(folder, name, content):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    result = make(folder, "--catalogue", folder / "titles.json")
    assert result.exit_code == 2
    assert name in result.stderr or "want" in result.stderr
    assert not (folder / "out").exists()


def test_a_folder_without_audit_files_is_exit_2(folder):
    empty = folder / "empty"
    empty.mkdir()
    result = run(
        "make", "--audit", empty, "--trust", folder / "trust.json", "--out", folder / "out"
    )
    assert (result.exit_code, "no epoch-N.audit" in result.stderr) == (2, True)


def test_a_folder_that_cannot_be_written_is_exit_2_and_keeps_what_was_there(folder):
    (folder / "out").write_text("a file")
    result = make(folder)
    assert result.exit_code == 2
    assert (folder / "out").read_text() == "a file"


def test_check_line_proves_a_statement_and_refuses_a_changed_one(folder):
    make(folder)
    for proof in (folder / "out").glob("*.proof.json"):
        result = run("check-line", proof, "--trust", folder / "trust.json")
        assert (result.exit_code, "verdict: proven" in result.stdout) == (0, True)
        text = proof.read_text()
        document = json.loads(text)
        document["lines"][0]["charge_stroops"] += 1
        proof.write_text(json.dumps(document))
        assert run("check-line", proof, "--trust", folder / "trust.json").exit_code == 1
        proof.write_text("{}")
        assert run("check-line", proof, "--trust", folder / "trust.json").exit_code == 2


@pytest.mark.process
def test_the_command_runs_as_a_process(folder):
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "ledger.reports.command",
            "make",
            "--audit",
            str(folder),
            "--trust",
            str(folder / "trust.json"),
            "--out",
            str(folder / "out"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "out" / "bill.html").stat().st_size > 10_000


def test_the_wheel_ships_the_templates():
    shipped = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    templates = ROOT / "ledger" / "reports" / "templates"
    for path in templates.iterdir():
        assert path.relative_to(ROOT).as_posix() in shipped
