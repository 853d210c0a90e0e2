"""Built-in functions of the rule language.

What it is: the thirteen functions that every rule may call. What it does not do: their counts of
arguments are checked before a rule runs, by `checker`. Specification: RULES.md, "Built-ins".

Every result is charged before it is made.
"""

from collections.abc import Callable
from functools import cmp_to_key
from typing import Any, TypeAlias

from contracts.language.errors import MissingItemError, RuleFailedError, TypeMismatchError
from contracts.language.limits import MAX_RANGE_BOUND, Meter, Place, check_integer
from contracts.language.operations import make_range
from contracts.language.values import (
    Internal,
    check_depth,
    compare,
    items_of,
    key_of,
    mismatch,
)

Builtin: TypeAlias = Callable[[list[Internal], dict[str, Internal], Place, Meter], Internal]
Keywords: TypeAlias = dict[str, Internal]

MAX_MESSAGE_CHARACTERS = 1_000
"""Longest message of ``fail``; the rest is cut off."""


def _abs(arguments: list[Internal], _: Keywords, at: Place, _meter: Meter) -> Internal:
    (value,) = arguments
    if type(value) is not int:
        mismatch(at, "abs", value)
    return check_integer(abs(value), at)


def _bool(arguments: list[Internal], _: Keywords, _at: Place, _meter: Meter) -> Internal:
    return bool(arguments[0]) if arguments else False


def _dict(arguments: list[Internal], _: Keywords, at: Place, meter: Meter) -> Internal:
    made: dict[str, Any] = {}
    source = arguments[0] if arguments else ()
    if isinstance(source, dict):
        meter.step(len(source), at)
        meter.entries(len(source), at)
        made.update(source)
        return made
    pairs = items_of(source, at, meter, "dict")
    meter.step(len(pairs), at)
    meter.entries(len(pairs), at)
    for pair in pairs:
        if type(pair) not in {list, tuple} or len(pair) != 2:
            raise TypeMismatchError(at.line, at.column, "dict: want pairs of a key and a value")
        made[key_of(pair[0], at, meter)] = pair[1]
    return made


def _enumerate(arguments: list[Internal], _: Keywords, at: Place, meter: Meter) -> Internal:
    start = arguments[1] if len(arguments) == 2 else 0
    if type(start) is not int:
        mismatch(at, "enumerate", start)
    items = items_of(arguments[0], at, meter, "enumerate")
    check_integer(start + len(items), at)
    charge_rows(len(items), 2, at, meter)
    return list(enumerate(items, start))


def _fail(arguments: list[Internal], _: Keywords, at: Place, _meter: Meter) -> Internal:
    for argument in arguments:
        if type(argument) is not str and type(argument) is not int:
            mismatch(at, "fail", argument)
    message = " ".join(map(str, arguments))[:MAX_MESSAGE_CHARACTERS]
    raise RuleFailedError(at.line, at.column, f"fail: {message}")


def _len(arguments: list[Internal], _: Keywords, at: Place, _meter: Meter) -> Internal:
    (value,) = arguments
    if type(value) not in {str, list, dict, tuple, range}:
        mismatch(at, "len", value)
    return len(value)


def _list(arguments: list[Internal], _: Keywords, at: Place, meter: Meter) -> Internal:
    items = items_of(arguments[0] if arguments else (), at, meter, "list")
    meter.items(len(items), at)
    return list(items)


def _tuple(arguments: list[Internal], _: Keywords, at: Place, meter: Meter) -> Internal:
    items = items_of(arguments[0] if arguments else (), at, meter, "tuple")
    meter.items(len(items), at)
    return tuple(items)


def _extreme(arguments: list[Internal], at: Place, meter: Meter, what: str, sign: int) -> Internal:
    """The first least (sign −1) or greatest (sign 1) of the arguments, or of one iterable."""
    items = arguments if len(arguments) > 1 else items_of(arguments[0], at, meter, what)
    if not len(items):
        raise MissingItemError(at.line, at.column, f"{what}: got no items, want one or more")
    if _are_alike_scalars(items):
        meter.step(len(items) - 1, at)
        return min(items) if sign < 0 else max(items)
    best = items[0]
    compare(best, best, at, meter)
    for position in range(1, len(items)):
        meter.step(1, at)
        item = items[position]
        if compare(item, best, at, meter) * sign > 0:
            best = item
    return best


def _are_alike_scalars(items: Any) -> bool:
    """Whether all items are integers, or all strings; equal ones are then one and the same."""
    return type(items) is not range and set(map(type, items)) in ({int}, {str})


def _min(arguments: list[Internal], _: Keywords, at: Place, meter: Meter) -> Internal:
    return _extreme(arguments, at, meter, "min", -1)


def _max(arguments: list[Internal], _: Keywords, at: Place, meter: Meter) -> Internal:
    return _extreme(arguments, at, meter, "max", 1)


def _range(arguments: list[Internal], _: Keywords, at: Place, _meter: Meter) -> Internal:
    return make_range(arguments, at, MAX_RANGE_BOUND)


def _sorted(arguments: list[Internal], keywords: Keywords, at: Place, meter: Meter) -> Internal:
    """A new sorted list; stable, also in reverse.

    The charge follows from the number and size of the items. It must not depend on how many
    comparisons a particular sorting algorithm makes.
    """
    reverse = keywords.get("reverse", False)
    if type(reverse) is not bool:
        mismatch(at, "sorted", reverse)
    items = items_of(arguments[0], at, meter, "sorted")
    count = len(items)
    meter.items(count, at)
    if count == 0:
        return []
    if _are_alike_scalars(items):
        meter.step(count, at)
        weight = 1
    else:
        weight = max(_weight(item, at, meter, 1) for item in items)
    meter.step(count * count.bit_length() * weight, at)
    if count == 1:
        compare(items[0], items[0], at, meter)
    if _is_plain(items):
        return sorted(items, reverse=reverse)
    unmetered = _Unmetered()

    def order(left: Internal, right: Internal) -> int:
        return compare(left, right, at, unmetered)

    return sorted(items, key=cmp_to_key(order), reverse=reverse)


class _Unmetered(Meter):
    """A meter for comparisons that were paid for in advance."""

    __slots__ = ()

    def __init__(self) -> None:
        """Start without limits: nothing is counted."""

    def step(self, count: int, at: Place) -> None:
        """Count nothing."""


def _weight(value: Internal, at: Place, meter: Meter, depth: int) -> int:
    """Number of values in a value; each is charged one step."""
    check_depth(depth, at)
    meter.step(1, at)
    weight = 1
    if type(value) is list or type(value) is tuple:
        for item in value:
            weight += _weight(item, at, meter, depth + 1)
    return weight


def _is_plain(items: Any) -> bool:
    """Whether Python orders the items as the language does: all alike, of integers or strings."""
    first = items[0]
    kind = type(first)
    if kind is not tuple:
        return kind in {int, str} and all(type(item) is kind for item in items)
    shape = tuple(map(type, first))
    if not {int, str}.issuperset(shape):
        return False
    return all(type(item) is tuple and tuple(map(type, item)) == shape for item in items)


def _zip(arguments: list[Internal], _: Keywords, at: Place, meter: Meter) -> Internal:
    columns = [items_of(argument, at, meter, "zip") for argument in arguments]
    charge_rows(min(map(len, columns)), len(columns), at, meter)
    return list(zip(*columns, strict=False))


def charge_rows(rows: int, columns: int, at: Place, meter: Meter) -> None:
    """Charge a new list of `rows` tuples of `columns` items."""
    meter.items(rows, at)
    meter.step(rows, at)
    meter.allocate(rows * (96 + 48 * columns), at)


BUILTINS: dict[str, Builtin] = {
    "abs": _abs,
    "bool": _bool,
    "dict": _dict,
    "enumerate": _enumerate,
    "fail": _fail,
    "len": _len,
    "list": _list,
    "max": _max,
    "min": _min,
    "range": _range,
    "sorted": _sorted,
    "tuple": _tuple,
    "zip": _zip,
}
