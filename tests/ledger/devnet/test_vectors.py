"""The devnet against results recorded from a real stellar-core (v19.14.0)."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ledger.devnet.command import app
from ledger.devnet.vectors import VectorError, Verdict, judge_files, read_lines

VECTORS = Path(__file__).parents[2] / "vectors" / "stellar"
CASES = VECTORS / "cases.jsonl.gz"

# These claim balances that stand nowhere in the recording; the judge says so.
UNLISTED_BALANCE = [
    "cb_reclaim_too_early",
    "cb_claim_before_deadline_at_deadline",
    "cb_claim_relative_expired",
]


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    return judge_files([CASES])


@pytest.fixture(scope="module")
def groups() -> dict[str, str]:
    return {case["name"]: case["case"] for case in read_lines(CASES)[1:]}


def test_every_case_of_the_recording_is_judged(verdict: Verdict, groups: dict[str, str]) -> None:
    assert verdict.cases == len(groups) == 299


@pytest.mark.parametrize("group", sorted({c["case"] for c in read_lines(CASES)[1:]}))
def test_group_agrees_byte_for_byte(group: str, verdict: Verdict, groups: dict[str, str]) -> None:
    differ = [d for d in verdict.differ if groups[d.name] == group]
    assert differ == []


def test_all_agree_and_cases_on_an_unlisted_balance_are_named(verdict: Verdict) -> None:
    assert verdict.agree == verdict.cases
    assert verdict.as_json()["assumed"] == UNLISTED_BALANCE


@pytest.mark.parametrize("name", UNLISTED_BALANCE)
def test_stand_in_does_not_follow_the_recorded_result(tmp_path: Path, name: str) -> None:
    # A claim of the same balance recorded with another code is a difference, not agreement.
    lines = read_lines(CASES)
    for line in lines:
        if line.get("name") == name:
            raw = bytearray(base64.b64decode(line["result"]))
            assert raw[-8:-4] == (-2).to_bytes(4, signed=True)
            raw[-8:-4] = (-4).to_bytes(4, signed=True)
            line["result"] = base64.b64encode(raw).decode()
    altered = tmp_path / "altered.jsonl"
    altered.write_text("\n".join(map(json.dumps, lines)))
    assert [d.name for d in judge_files([altered]).differ] == [name]


def test_unknown_id_is_not_taken_for_an_unlisted_balance(verdict: Verdict) -> None:
    assert "cb_claim_unknown_id" not in verdict.assumed


@pytest.mark.parametrize("value", [None, "1", -1, 2**70, True, 1.5])
def test_header_field_out_of_range_is_refused_in_one_line(tmp_path: Path, value: object) -> None:
    lines = read_lines(CASES)[:2]
    lines[1]["lcl"]["base_fee"] = value
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(VectorError, match="base_fee: got"):
        judge_files([path])


def test_folder_is_judged_file_by_file_in_any_form(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl.gz").write_bytes((VECTORS / "random.jsonl.gz").read_bytes())
    lines = gzip.decompress(CASES.read_bytes()).splitlines()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([lines[0], lines[2], b""]))
    (tmp_path / "notes.txt").write_text("not a recording")
    assert judge_files([tmp_path]).cases == 147


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got no lines"),
        (b"\xff\xfe", "1: "),
        (b"[1]\n", "got list, want an object"),
        (b'{"schema":1}\n{"envelope":"AAAA"}\n', "no recording: no field"),
        (b"\x1f\x8bnonsense", "1: "),
        (b'{"world":[],"passphrase":"p","protocol":19}\n', "no recording"),
        (b'{"a":' * 5_000, "1: "),
    ],
)
def test_what_is_no_recording_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(VectorError, match=message) as caught:
        judge_files([path])
    assert "\n" not in str(caught.value)
    done = CliRunner().invoke(app, ["check-vectors", str(path), "--json"])
    assert done.exit_code == 2
    assert done.output.startswith("error: ")


def test_ledgers_of_random_transactions_agree_to_the_end() -> None:
    verdict = judge_files([VECTORS / "random.jsonl.gz"])
    assert verdict.differ == []
    assert verdict.cases == verdict.agree == 146


@pytest.mark.parametrize(
    ("field", "value"),
    [("submit_status", "ERROR"), ("outcome", "dropped"), ("result", "AAAA"), ("post", "unchanged")],
)
def test_changed_recording_is_noticed(tmp_path: Path, field: str, value: str) -> None:
    lines = read_lines(CASES)
    case = next(line for line in lines if line.get("name") == "payment_issued_mint")
    altered = tmp_path / "altered.jsonl"
    altered.write_text("\n".join(json.dumps(x) for x in (lines[0], case | {field: value})))
    verdict = judge_files([altered])
    assert verdict.cases == 1
    assert verdict.agree == 0
    assert verdict.differ[0].name == "payment_issued_mint"


def test_changed_last_modified_ledger_is_noticed(tmp_path: Path) -> None:
    lines = read_lines(CASES)
    case = next(line for line in lines if line.get("name") == "payment_issued_mint")
    entry = case["post"][0]["entry"]
    case["post"][0]["entry"] = ("B" if entry[0] != "B" else "C") + entry[1:]
    altered = tmp_path / "altered.jsonl.gz"
    altered.write_bytes(gzip.compress("\n".join(map(json.dumps, (lines[0], case))).encode()))
    assert judge_files([altered]).agree == 0


def test_group_option_keeps_only_named_groups() -> None:
    verdict = judge_files([CASES], ["payment_native", "fee*"])
    assert verdict.cases == 6 + 7 + 16
