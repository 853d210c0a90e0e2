"""Errors of the rule language: one tree, every leaf with its place in the source.

What it is: the classes that parsing, checking and running a rule raise. What it does not do: it
never wraps Python's own exceptions; one that escapes the language is a defect of the language.
Specification: RULES.md, "Errors".

::

    LanguageError                      every verdict of the language about a rule or its arguments
    ├─ ParseError                      the bytes are not a program of the grammar
    │  └─ SourceLimitError             source size, nesting or literal beyond its bound
    ├─ CheckError                      it parses, but the language refuses it before it runs
    │  ├─ ForbiddenError               a construct of Starlark that rules may not use
    │  ├─ UndefinedNameError           a name that nothing binds
    │  └─ CallGraphError               recursion, or calls nested deeper than the bound
    └─ EvalError                       it failed while it ran
       ├─ ArgumentError                the host's call: no such function, count or value
       ├─ TypeMismatchError            an operation on values of the wrong type
       ├─ IntegerBoundError            a result outside 128 bits, signed
       ├─ DivisionByZeroError          // or % by 0
       ├─ MissingItemError             no such key, or an index out of range
       ├─ FrozenValueError             change of a constant, or of what is being iterated
       ├─ UnassignedError              a local read before anything was assigned to it
       ├─ RuleFailedError              the rule called fail()
       └─ LimitError
          ├─ StepLimitError            the step budget is spent
          ├─ AllocationLimitError      the allocation budget is spent
          ├─ SizeLimitError            one string, list, tuple, dict or range is too large
          └─ DepthLimitError           a value is nested too deeply
"""


class LanguageError(Exception):
    """A rule was refused or failed; `line` and `column` count from 1, 0 means no place.

    Anybody may catch it: it says that the rule is at fault, never this program.
    """

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(f"line {line}, column {column}: {message}" if line else message)
        self.line = line
        self.column = column
        self.message = message


class ParseError(LanguageError):
    """The source is not a program of the grammar."""


class SourceLimitError(ParseError):
    """The source is larger or nested more deeply than the language allows."""


class CheckError(LanguageError):
    """The source parses, but the language refuses it before it runs."""


class ForbiddenError(CheckError):
    """The source uses a part of Starlark that rules may not use."""


class UndefinedNameError(CheckError):
    """A name is used that neither the rule nor the language binds."""


class CallGraphError(CheckError):
    """Functions call themselves, directly or not, or nest deeper than the bound."""


class EvalError(LanguageError):
    """The rule failed while it ran."""


class ArgumentError(EvalError):
    """The host called a function that is not there, or with unusable arguments."""


class TypeMismatchError(EvalError):
    """An operation met a value of the wrong type."""


class IntegerBoundError(EvalError):
    """An integer left the range −2**127 … 2**127 − 1."""


class DivisionByZeroError(EvalError):
    """The right side of ``//`` or ``%`` was 0."""


class MissingItemError(EvalError):
    """A dict has no such key, or an index is out of range."""


class FrozenValueError(EvalError):
    """A rule changed a module constant, or a list or dict that it was iterating over."""


class UnassignedError(EvalError):
    """A local variable was read before it was assigned."""


class RuleFailedError(EvalError):
    """The rule called ``fail``; `message` carries its words."""


class LimitError(EvalError):
    """A bound on the running rule was reached."""


class StepLimitError(LimitError):
    """The step budget of the call is spent."""


class AllocationLimitError(LimitError):
    """The allocation budget of the call is spent."""


class SizeLimitError(LimitError):
    """One string, list, tuple, dict or range would be too large."""


class DepthLimitError(LimitError):
    """A value is nested more deeply than the language handles."""
