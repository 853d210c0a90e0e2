"""Every call of a rule in these tests is run both ways, and the two must agree."""

from collections.abc import Callable
from typing import Any

import pytest
from rule_runs import Failure, Run, check_equal, exactly

from contracts.language import LanguageError, Limits, Program
from contracts.language.limits import Meter
from contracts.language.syntax import Define
from contracts.language.values import copy_out


@pytest.fixture(autouse=True)
def _both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Program._run

    def run_both(
        self: Program, define: Define, make: Callable[[], list[Any]], limits: Limits
    ) -> tuple[Any, Meter]:
        verdict: Run | Failure | None = None
        try:
            fits = len(make()) == len(define.parameters)
        except LanguageError:
            fits = False
        if fits:
            verdict = check_equal(self, define.name, make, limits)
        try:
            value, meter = run(self, define, make, limits)
        except LanguageError as error:
            if verdict is not None:
                failure = Failure(type(error), error.message, error.line, error.column)
                assert verdict == failure
            raise
        if isinstance(verdict, Run):
            steps, allocated = meter.steps, meter.allocated_bytes
            copied = copy_out(value, define, meter)
            assert verdict == Run(exactly(copied), meter.steps, allocated)
            meter.steps_left += meter.steps - steps
        return value, meter

    monkeypatch.setattr(Program, "_run", run_both)
