"""Translated rules: made once a program, run in a closed namespace of their own.

What it is: the translation of a checked module to Python code, the fixed table of names that this
code may use, and its run. What it does not do: it names no error. A run that meets anything out of
the ordinary deviates, and its caller runs the rule again by the closures of `compiler`, which are
normative. Specification: RULES.md, "Errors".

Rules are pure, so that running one twice is the same as once. The code holds no text of the rule
but its string constants; it sees no built-ins and no attribute but the meter's two counts and the
`append` of lists that it has made sure are lists.
"""

import ast
from collections.abc import Iterable, Sequence
from types import CodeType
from typing import Any

from contracts.language.builtin_functions import BUILTINS, charge_rows
from contracts.language.checker import CheckedModule
from contracts.language.errors import LanguageError
from contracts.language.limits import (
    Meter,
    Place,
    check_integer,
)
from contracts.language.locks import lock, unlock
from contracts.language.operations import (
    RELATIONS,
    add,
    contains,
    extend,
    get_item,
    get_slice,
    multiply,
    set_item,
)
from contracts.language.syntax import Node
from contracts.language.translation.emitter import UntranslatableError
from contracts.language.translation.statements import translate_function
from contracts.language.values import Internal, is_equal, items_of, key_of, mismatch

_SCALARS = (int, str, bool, type(None))


class Deviation(Exception):  # noqa: N818 - it is no error: it hands over to the closures
    """The run met something that only the closures can judge."""


def _rows_of_zip(arguments: list[Internal], at: Place, meter: Meter) -> tuple[int, Iterable[Any]]:
    """Return the count and the rows of a ``zip``, which only a loop will see."""
    columns = [items_of(argument, at, meter, "zip")[:] for argument in arguments]
    count = min(map(len, columns))
    charge_rows(count, len(columns), at, meter)
    return count, zip(*columns, strict=False)


def _rows_of_enumerate(
    arguments: list[Internal], at: Place, meter: Meter
) -> tuple[int, Iterable[Any]]:
    """Return the count and the rows of an ``enumerate``, which only a loop will see."""
    start = arguments[1] if len(arguments) == 2 else 0
    if type(start) is not int:
        mismatch(at, "enumerate", start)
    items = items_of(arguments[0], at, meter, "enumerate")
    count = len(items)
    check_integer(start + count, at)
    charge_rows(count, 2, at, meter)
    return count, enumerate(items[:], start)


_TABLE: dict[str, Any] = {
    "__builtins__": {},
    **{f"b_{name}": builtin for name, builtin in BUILTINS.items()},
    "add": add,
    "at": Node(0, 0),
    "contains": contains,
    "deviation": Deviation,
    "dict": dict,
    "extend": extend,
    "get_item": get_item,
    "get_slice": get_slice,
    "id": id,
    "int": int,
    "is_at_least": RELATIONS[">="],
    "is_at_most": RELATIONS["<="],
    "is_equal": is_equal,
    "is_greater": RELATIONS[">"],
    "is_less": RELATIONS["<"],
    "items_of": items_of,
    "key_of": key_of,
    "len": len,
    "list": list,
    "lock": lock,
    "multiply": multiply,
    "range": range,
    "rows_of_enumerate": _rows_of_enumerate,
    "rows_of_zip": _rows_of_zip,
    "set_item": set_item,
    "sized": frozenset((str, list, dict, tuple, range)),
    "str": str,
    "tuple": tuple,
    "type": type,
    "unlock": unlock,
}
"""All that translated code can name, besides its own functions, constants, meter and locks."""


class Translation:
    """A translated module; it keeps nothing between two runs."""

    __slots__ = ("_code", "_constant_names", "_function_names")

    def __init__(
        self, code: CodeType, function_names: dict[str, str], constant_names: dict[str, str]
    ) -> None:
        self._code = code
        self._function_names = function_names
        self._constant_names = constant_names

    def run(
        self,
        function: str,
        arguments: Sequence[Internal],
        constants: dict[str, Internal],
        meter: Meter,
    ) -> Internal:
        """Run a function.

        Args:
            function: its name in the rule.
            arguments: its arguments, in order; the rule may change them.
            constants: the module's constants, evaluated for this run.
            meter: pays for the run, and has paid for the constants.

        Raises:
            Deviation: the closures must say what happens; arguments and meter are spoilt.
        """
        namespace = dict(_TABLE, m=meter, locks=meter.locks)
        for name, translated in self._constant_names.items():
            namespace[translated] = constants[name]
        exec(self._code, namespace)  # noqa: S102 - our own code, in a closed namespace
        try:
            return namespace[self._function_names[function]](*arguments)
        except (LanguageError, LookupError, TypeError, UnboundLocalError) as error:
            raise Deviation from error


def translate(checked: CheckedModule, constants: dict[str, Internal]) -> Translation | None:
    """Translate a checked module.

    Args:
        checked: what the checker returned.
        constants: its constants; they are the same in every run.

    Returns:
        The translation; None if the module is nested too deeply for Python.
    """
    constant_names = {
        name: f"k{number}"
        for number, (name, value) in enumerate(constants.items())
        if type(value) not in _SCALARS
    }
    functions: dict[str, tuple[str, tuple[str, ...]]] = {}
    body: list[ast.stmt] = []
    try:
        for number, define in enumerate(checked.functions):
            parameters = tuple(parameter.name for parameter in define.parameters)
            functions[define.name] = (f"f{number}", parameters)
            body.append(translate_function(define, constants, constant_names, functions))
        module = ast.fix_missing_locations(ast.Module(body=body, type_ignores=[]))
        code = compile(module, "<rule>", "exec", dont_inherit=True, optimize=0)
    except (UntranslatableError, SyntaxError):
        # Python refuses more than 20 nested loops; so deep a rule is slow, but not wrong.
        return None
    return Translation(code, {name: made for name, (made, _) in functions.items()}, constant_names)
