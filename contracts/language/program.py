"""The rule language's face: parse, check and call a rule.

What it is: the four names that everybody else uses. What it does not do: it knows no rule and no
ledger. Specification: RULES.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.language.checker import CheckedModule, check_module
from contracts.language.compiler import compile_functions, evaluate_constants
from contracts.language.errors import ArgumentError
from contracts.language.limits import Limits, Meter
from contracts.language.parser import parse_module
from contracts.language.syntax import Define, Module
from contracts.language.translation import Deviation, Translation, translate
from contracts.language.values import Internal, Value, charge_out, copy_in, copy_out


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What a call returned."""

    value: Any
    """The result: plain integers, strings, booleans, None, lists, tuples and dicts."""

    steps: int
    """Steps taken; a function of the source, the arguments and nothing else."""


class Program:
    """A parsed rule; it is checked before its first call, and keeps nothing between calls."""

    __slots__ = ("_checked", "_is_translated", "_module", "_translation")

    def __init__(self, module: Module) -> None:
        self._module = module
        self._checked: CheckedModule | None = None
        self._is_translated = False
        self._translation: Translation | None = None

    def check(self) -> CheckedModule:
        """Check the rule once.

        Raises:
            CheckError: a static rule of the language is broken.
        """
        if self._checked is None:
            self._checked = check_module(self._module)
        return self._checked

    def call(self, function: str, arguments: Sequence[Value], *, limits: Limits) -> CallResult:
        """Call a function of the rule.

        Arguments and result are copied, so nothing is shared with the caller.

        Args:
            function: name of a function of the module.
            arguments: its arguments, in order; they are not changed.
            limits: budgets of the call.

        Returns:
            The value that the function returned, and the steps that it took.

        Raises:
            CheckError: a static rule of the language is broken.
            ArgumentError: there is no such function, or the arguments do not fit it.
            EvalError: the rule failed, or a limit stopped it.
        """
        define = _find(self.check(), function)
        _check_count(define, len(arguments))

        def copy() -> list[Internal]:
            return [
                copy_in(argument, parameter.name)
                for argument, parameter in zip(arguments, define.parameters, strict=True)
            ]

        value, meter = self._run(define, copy, limits)
        return CallResult(value=copy_out(value, define, meter), steps=meter.steps)

    def call_on(
        self, function: str, make: Callable[[], list[Internal]], *, limits: Limits
    ) -> CallResult:
        """Call a function of the rule on arguments that are made for it; nothing is copied.

        Args:
            function: name of a function of the module.
            make: returns the arguments: values of exactly the language's types and bounds, which
                nobody else holds and the rule may change. It is called twice if the rule fails.
            limits: budgets of the call.

        Returns:
            As `call`; but parts of the value may be one and the same list or dict.

        Raises:
            CheckError: a static rule of the language is broken.
            ArgumentError: there is no such function, or the arguments do not fit it.
            EvalError: the rule failed, or a limit stopped it.
        """
        define = _find(self.check(), function)
        value, meter = self._run(define, make, limits)
        charge_out(value, define, meter)
        return CallResult(value=value, steps=meter.steps)

    def _run(
        self, define: Define, make: Callable[[], list[Internal]], limits: Limits
    ) -> tuple[Internal, Meter]:
        """Run a function the fast way, and where that deviates, by the closures."""
        arguments = make()
        _check_count(define, len(arguments))
        checked = self.check()
        meter = Meter(limits)
        constants = evaluate_constants(checked, meter)
        if not self._is_translated:
            self._translation = translate(checked, constants)
            self._is_translated = True
        if self._translation is not None:
            try:
                return self._translation.run(define.name, arguments, constants, meter), meter
            except Deviation:
                arguments = make()
                meter = Meter(limits)
                constants = evaluate_constants(checked, meter)
        run, _ = compile_functions(checked, constants, meter)[define.name]
        return run(arguments), meter


def parse(source: bytes) -> Program:
    """Parse the source of a rule.

    Raises:
        ParseError: the source is not a program of the grammar.
        CheckError: it uses a part of Starlark that rules may not use.
    """
    return Program(parse_module(source))


def check(program: Program) -> None:
    """Check a parsed rule.

    Raises:
        CheckError: a static rule of the language is broken.
    """
    program.check()


def _check_count(define: Define, count: int) -> None:
    if count != len(define.parameters):
        raise ArgumentError(
            0, 0, f"arguments of {define.name}: got {count}, want {len(define.parameters)}"
        )


def _find(checked: CheckedModule, function: str) -> Define:
    for define in checked.functions:
        if define.name == function:
            return define
    raise ArgumentError(0, 0, f"function: got {function!r}, want one that the rule defines")
