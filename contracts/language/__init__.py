"""The language of the rules: an integer-only subset of Starlark, in pure Python.

What it is: tokenizer, parser, checker and interpreter, normative for what a rule means. What it
does not do: no floats, clock, randomness, input or output; nothing but the standard library.
Specification: RULES.md. Reading order: limits, errors, tokenizer, syntax, parser, checker,
values, operations, builtin_functions, iteration, expressions, compiler, program.
"""

from contracts.language.errors import (
    AllocationLimitError,
    ArgumentError,
    CallGraphError,
    CheckError,
    DepthLimitError,
    DivisionByZeroError,
    EvalError,
    ForbiddenError,
    FrozenValueError,
    IntegerBoundError,
    LanguageError,
    LimitError,
    MissingItemError,
    ParseError,
    RuleFailedError,
    SizeLimitError,
    SourceLimitError,
    StepLimitError,
    TypeMismatchError,
    UnassignedError,
    UndefinedNameError,
)
from contracts.language.limits import Limits
from contracts.language.program import CallResult, Program, check, parse
from contracts.language.values import Value

__all__ = [
    "AllocationLimitError",
    "ArgumentError",
    "CallGraphError",
    "CallResult",
    "CheckError",
    "DepthLimitError",
    "DivisionByZeroError",
    "EvalError",
    "ForbiddenError",
    "FrozenValueError",
    "IntegerBoundError",
    "LanguageError",
    "LimitError",
    "Limits",
    "MissingItemError",
    "ParseError",
    "Program",
    "RuleFailedError",
    "SizeLimitError",
    "SourceLimitError",
    "StepLimitError",
    "TypeMismatchError",
    "UnassignedError",
    "UndefinedNameError",
    "Value",
    "check",
    "parse",
]
