"""Translated rules: the same value, steps and bytes as the closures, and never a wrong verdict."""

import os
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rule_programs import ProgramMaker
from rule_runs import Run, check_equal

from contracts.language import LanguageError, Limits, parse

LONG = os.environ.get("SWARMLEDGER_LONG_TESTS") == "1"
ROOMY = Limits(steps=50_000, allocation_bytes=1 << 22)


def arguments() -> list[Any]:
    rows = [{"a": 1, "n": 4, "s": "x"}, {"a": 2, "n": -3, "s": "y"}, {"a": 0, "n": 9, "s": "x"}]
    return [rows, [3, 1, 2], "word"]


@given(seed=st.integers(0, (1 << 48) - 1))
@settings(max_examples=20_000 if LONG else 120)
def test_random_program_runs_the_same_both_ways(seed: int) -> None:
    source = ProgramMaker(seed).program()
    program = parse(source.encode())
    try:
        program.check()
    except LanguageError:
        return
    verdict = check_equal(program, "f", arguments, ROOMY)
    if not isinstance(verdict, Run):
        return
    # The budget that just suffices suffices both ways; less stops both.
    enough = Limits(steps=verdict.steps, allocation_bytes=max(verdict.allocated_bytes, 1))
    assert check_equal(program, "f", arguments, enough) == verdict
    for less in (
        Limits(steps=verdict.steps - 1, allocation_bytes=enough.allocation_bytes),
        Limits(steps=verdict.steps, allocation_bytes=max(enough.allocation_bytes - 1, 1)),
    ):
        assert less == enough or not isinstance(check_equal(program, "f", arguments, less), Run)


def test_random_programs_mostly_succeed() -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(60):
        program = parse(ProgramMaker(seed).program().encode())
        try:
            verdict = check_equal(program, "f", arguments, ROOMY)
        except LanguageError as error:
            verdicts[type(error).__name__] += 1
            continue
        verdicts["value" if isinstance(verdict, Run) else verdict.kind.__name__] += 1
    assert verdicts["value"] >= 20, verdicts
    assert len(verdicts) >= 4, verdicts
