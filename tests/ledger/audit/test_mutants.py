"""A sample of the verifier's checks, taken out one at a time: the tests notice. All: `.ci/long`."""

import ast

import mutate_verifier
import pytest


@pytest.mark.parametrize("part", [1, 3])
def test_check_that_is_taken_out_is_missed(part: int) -> None:
    index = part * len(mutate_verifier.all_checks()) // 4
    assert mutate_verifier.survivors([index], ["test_each_check.py"]) == []


def test_every_call_that_only_raises_is_a_check() -> None:
    found = [words for _, _, words in mutate_verifier.all_checks()]
    source = "".join(ast.unparse(mutate_verifier.parse(name)) for name in mutate_verifier.MODULES)
    assert len(found) > 80
    assert sum("require_same(" in words for words in found) <= source.count("require_same(")
