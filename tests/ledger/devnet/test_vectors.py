"""The devnet against results recorded from a real stellar-core (v19.14.0)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ledger.devnet.vectors import Verdict, judge_files, read_lines

VECTORS = Path(__file__).parents[2] / "vectors" / "stellar"
CASES = VECTORS / "cases.jsonl.gz"

# These claim balances that were made before the recording and stand nowhere in it.
UNKNOWN_BALANCE = {
    "cb_reclaim_too_early",
    "cb_claim_before_deadline_at_deadline",
    "cb_claim_relative_expired",
}


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
    assert [d for d in differ if d.name not in UNKNOWN_BALANCE] == []


def test_only_cases_whose_balance_the_recording_lacks_differ(verdict: Verdict) -> None:
    assert {difference.name for difference in verdict.differ} == UNKNOWN_BALANCE
    assert verdict.agree == verdict.cases - len(UNKNOWN_BALANCE)


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
