"""Both ways of running a rule, side by side: the closures that are normative, and Python code."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from contracts.language import LanguageError, Limits, Program
from contracts.language.compiler import compile_functions, evaluate_constants
from contracts.language.limits import Meter
from contracts.language.syntax import Define
from contracts.language.translation import Deviation, Translation, translate
from contracts.language.values import charge_out, copy_out


@dataclass(frozen=True)
class Run:
    """All that a run shows of itself."""

    value: Any
    steps: int
    allocated_bytes: int


@dataclass(frozen=True)
class Failure:
    """How a run failed."""

    kind: type[LanguageError]
    message: str
    line: int
    column: int


Made = Callable[[], list[Any]]


def exactly(value: Any) -> Any:
    """The value with its types, since Python's True equals 1."""
    if isinstance(value, list | tuple):
        return type(value), [exactly(item) for item in value]
    if isinstance(value, dict):
        return dict, [(key, exactly(item)) for key, item in value.items()]
    return type(value), value


def define_of(program: Program, function: str) -> Define:
    return next(define for define in program.check().functions if define.name == function)


@lru_cache(maxsize=16)
def translation_of(program: Program) -> Translation | None:
    """A program's translation; its constants are the same in every run that gets so far."""
    return translate(program.check(), evaluate_constants(program.check(), Meter(Limits())))


def run_closures(program: Program, function: str, make: Made, limits: Limits) -> Run | Failure:
    """The verdict of the closures."""
    meter = Meter(limits)
    try:
        constants = evaluate_constants(program.check(), meter)
        run, _ = compile_functions(program.check(), constants, meter)[function]
        value = copy_out(run(make()), define_of(program, function), meter)
    except LanguageError as error:
        return Failure(type(error), error.message, error.line, error.column)
    return Run(exactly(value), meter.steps, meter.allocated_bytes)


def run_code(program: Program, function: str, make: Made, limits: Limits) -> Run | Failure | None:
    """What the translated code says: None where it leaves the verdict to the closures."""
    meter = Meter(limits)
    try:
        constants = evaluate_constants(program.check(), meter)
        translation = translation_of(program)
        if translation is None:
            return None
        value = translation.run(function, make(), constants, meter)
        steps, allocated_bytes = meter.steps, meter.allocated_bytes
        copied = copy_out(value, define_of(program, function), meter)
        other = Meter(limits)
        other.step(steps, define_of(program, function))
        charge_out(value, define_of(program, function), other)
        assert other.steps == meter.steps
    except Deviation:
        return None
    except LanguageError as error:
        return Failure(type(error), error.message, error.line, error.column)
    return Run(exactly(copied), meter.steps, allocated_bytes)


def check_equal(program: Program, function: str, make: Made, limits: Limits) -> Run | Failure:
    """Run both ways: equal where the rule succeeds; where it fails the code says nothing else.

    Raises:
        AssertionError: the two differ.
    """
    normative = run_closures(program, function, make, limits)
    fast = run_code(program, function, make, limits)
    if isinstance(normative, Run):
        assert fast == normative or translation_of(program) is None
    else:
        assert fast is None or fast == normative
    return normative
