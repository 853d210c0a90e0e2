"""Translated rules: the same value, steps and bytes as the closures, and never a wrong verdict."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_programs import ProgramMaker
from rule_runs import Run, check_equal, run_code, translation_of

from contracts.language import (
    AllocationLimitError,
    DivisionByZeroError,
    FrozenValueError,
    IntegerBoundError,
    LanguageError,
    Limits,
    MissingItemError,
    RuleFailedError,
    SizeLimitError,
    StepLimitError,
    TypeMismatchError,
    UnassignedError,
    parse,
)
from contracts.language.translation.execution import _TABLE
from contracts.registry import load_standard

LONG = os.environ.get("SWARMLEDGER_LONG_TESTS") == "1"
ROOMY = Limits(steps=50_000, allocation_bytes=1 << 22)


def arguments() -> list[Any]:
    rows = [{"a": 1, "n": 4, "s": "x"}, {"a": 2, "n": -3, "s": "y"}, {"a": 0, "n": 9, "s": "x"}]
    return [rows, [3, 1, 2], "word"]


@given(seed=st.integers(0, (1 << 48) - 1))
@settings(max_examples=20_000 if LONG else 50)
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
    for seed in range(40):
        program = parse(ProgramMaker(seed).program().encode())
        try:
            verdict = check_equal(program, "f", arguments, ROOMY)
        except LanguageError as error:
            verdicts[type(error).__name__] += 1
            continue
        verdicts["value" if isinstance(verdict, Run) else verdict.kind.__name__] += 1
    assert verdicts["value"] >= 10, verdicts
    assert len(verdicts) >= 4, verdicts


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """Code, and all code inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


@pytest.mark.parametrize("seed", range(12))
def test_translated_code_names_only_the_table_and_three_attributes(seed: int) -> None:
    program = load_standard("traffic").parse()
    if seed:
        program = parse(ProgramMaker(seed).program().encode())
    translation = translation_of(program)
    assert translation is not None
    attributes = {"append", "bytes_left", "steps_left"}
    assert not attributes & set(_TABLE)
    for code in codes_in(translation._code):
        for name in set(code.co_names) - attributes - {"m", "locks"}:
            assert name in _TABLE or re.fullmatch(r"[fk]\d+", name)
        for name in (*code.co_varnames, *code.co_freevars, *code.co_cellvars):
            assert re.fullmatch(r"[vt]\d+|[nb]", name)


def test_rule_cannot_reach_python_by_its_names() -> None:
    source = (
        "def deviation(m):\n    return m + 1\n"
        "def __import__(locks, n, b):\n    __builtins__ = locks + n + b\n    return __builtins__\n"
        "def f(v1, t1, exec):\n    return [deviation(v1), __import__(t1, n=2, b=exec)]\n"
    )
    program = parse(source.encode())
    assert program.call("f", [1, 2, 3], limits=ROOMY).value == [2, 7]


def test_code_without_builtins_cannot_import() -> None:
    assert _TABLE["__builtins__"] == {}


def test_rule_nested_too_deeply_for_python_runs_by_the_closures() -> None:
    lines = ["def f(numbers):", "    y = 0"]
    lines += [f"{'    ' * depth}for a{depth} in numbers:" for depth in range(1, 11)]
    inner = " ".join(f"for b{depth} in numbers" for depth in range(12))
    lines += [f"{'    ' * 11}y += len([1 {inner}])", "    return y"]
    program = parse("\n".join(lines).encode() + b"\n")
    assert translation_of(program) is None
    assert program.call("f", [[5]], limits=ROOMY).value == 1


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("x = []\nx += (1, 2)\nreturn x", [1, 2]),
        ("x = []\nx += [1] * 9\nreturn x", [1] * 9),
        ("x = numbers\nfor x in x:\n  x = [x]\nreturn x", [2]),
        (
            "x = {}\nfor a, b in zip(numbers, [1, 2]):\n  numbers[1] = 9\n  x[b] = a\nreturn x[2]",
            1,
        ),
        ("for a, b in enumerate(numbers):\n  numbers += [a]\nreturn numbers", [3, 1, 2, 0, 1, 2]),
        ("x = 0\nfor a in numbers:\n  if a == 1:\n    break\n  x += a\nreturn x", 3),
        ("x = {'a': []}\nx['a'] += [1]\nx['a'] += x['a']\nreturn x", {"a": [1, 1]}),
        ("x = {(1, 'b'): 2}\nx[(1, 'b')] += 3\nreturn [x[(1, 'b')], len(x)]", [5, 1]),
        ("x = 'a' + word + ':' + word + ':'\nreturn x", "aword:word:"),
        ("x = 1 < 2 and word == 'word' or 3 > x\nreturn x", True),
        ("x = [a for a in numbers if a > 1 and (a < 3 or a in numbers)]\nreturn x", [3, 2]),
        ("return [[a for a in a] for a in [numbers]]", [[3, 1, 2]]),
    ],
)
def test_corner_of_the_translation_has_its_value(body: str, want: Any) -> None:
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    program = parse(f"def f(rows, numbers, word):\n{lines}".encode())
    verdict = check_equal(program, "f", arguments, ROOMY)
    assert isinstance(verdict, Run)
    assert run_code(program, "f", arguments, ROOMY) == verdict
    assert program.call("f", arguments(), limits=ROOMY).value == want


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("for a in numbers:\n  numbers += [a]", FrozenValueError),
        ("x = {'a': 1}\nfor a in x:\n  x[a] += 1", FrozenValueError),
        ("for a in numbers:\n  for b in numbers:\n    numbers[0] = b", FrozenValueError),
        ("if numbers == 1:\n  x = 2\nreturn x", UnassignedError),
        ("for a in []:\n  pass\nreturn a", UnassignedError),
        ("return numbers[3]", MissingItemError),
        ("return rows[0]['z']", MissingItemError),
        ("return min([True, 2])", TypeMismatchError),
        ("return True + 1", TypeMismatchError),
        ("return word + 1 + word", TypeMismatchError),
        ("x = 'a' * 4000\nreturn x + ':' + x", SizeLimitError),
        ("x = 1\nfor a in range(200):\n  x *= 2\nreturn x", IntegerBoundError),
        ("return 1 // (numbers[1] - 1)", DivisionByZeroError),
        ("for a in range(2000):\n  for b in range(2000):\n    x = a", StepLimitError),
        ("x = [[a] * 999 for a in range(999)]", AllocationLimitError),
        ("fail('no')", RuleFailedError),
    ],
)
def test_failure_leaves_the_verdict_to_the_closures(body: str, error: type[LanguageError]) -> None:
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    program = parse(f"def f(rows, numbers, word):\n{lines}".encode())
    assert run_code(program, "f", arguments, ROOMY) is None
    with pytest.raises(error):
        program.call("f", arguments(), limits=ROOMY)


def test_arguments_made_for_a_rule_are_made_anew_when_it_fails() -> None:
    made: list[list[int]] = []

    def make() -> list[Any]:
        made.append([1, 2])
        return [made[-1]]

    program = parse(b"def f(x):\n    x[0] += 1\n    return x[0] // (2 - x[0])\n")
    with pytest.raises(DivisionByZeroError):
        program.call_on("f", make, limits=ROOMY)
    assert all(numbers == [2, 2] for numbers in made[-2:])
