"""Operators of the rule language on values of any type.

What it is: arithmetic, order, membership, indexing and assignment to items, each with its type
errors and its charges. What it does not do: it evaluates no expressions; the compiler inlines
the cases of plain integers and strings and calls here for the rest. Specification: RULES.md,
"Operators".
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from contracts.language.errors import (
    DivisionByZeroError,
    MissingItemError,
    SizeLimitError,
)
from contracts.language.limits import (
    ENTRY_BYTES,
    ITEM_BYTES,
    MAX_ITEMS,
    Meter,
    Place,
    check_integer,
    check_item_count,
)
from contracts.language.values import (
    Internal,
    check_unlocked,
    compare,
    is_equal,
    items_of,
    key_of,
    mismatch,
)

Operator: TypeAlias = Callable[[Internal, Internal, Place, Meter], Internal]


def add(left: Internal, right: Internal, at: Place, meter: Meter) -> Internal:
    """``+``: sum of integers, or concatenation of two strings, lists or tuples."""
    kind = type(left)
    if kind is type(right):
        if kind is int:
            return check_integer(left + right, at)
        if kind is str:
            meter.string(len(left) + len(right), at)
            return left + right
        if kind is list:
            meter.items(len(left) + len(right), at)
            return left + right
        if kind is tuple:
            meter.items(len(left) + len(right), at)
            return left + right
    return mismatch(at, "operator +", left, right)


def subtract(left: Internal, right: Internal, at: Place, _meter: Meter) -> Internal:
    """``-`` of integers."""
    if type(left) is int and type(right) is int:
        return check_integer(left - right, at)
    return mismatch(at, "operator -", left, right)


def multiply(left: Internal, right: Internal, at: Place, meter: Meter) -> Internal:
    """``*``: product of integers, or repetition of a string, list or tuple."""
    if type(left) is int and type(right) is int:
        return check_integer(left * right, at)
    sequence, times = (left, right) if type(right) is int else (right, left)
    if type(times) is not int:
        return mismatch(at, "operator *", left, right)
    times = min(max(times, 0), MAX_ITEMS + 1)
    if type(sequence) is str:
        meter.string(len(sequence) * times, at)
        return sequence * times
    if type(sequence) is list:
        meter.items(len(sequence) * times, at)
        return sequence * times
    if type(sequence) is tuple:
        meter.items(len(sequence) * times, at)
        return sequence * times
    return mismatch(at, "operator *", left, right)


def floor_divide(left: Internal, right: Internal, at: Place, _meter: Meter) -> Internal:
    """``//`` of integers, rounded towards minus infinity."""
    if type(left) is int and type(right) is int:
        if right == 0:
            raise DivisionByZeroError(at.line, at.column, "operator //: the divisor is 0")
        return check_integer(left // right, at)
    return mismatch(at, "operator //", left, right)


def modulo(left: Internal, right: Internal, at: Place, _meter: Meter) -> Internal:
    """``%`` of integers; the result has the sign of the divisor."""
    if type(left) is int and type(right) is int:
        if right == 0:
            raise DivisionByZeroError(at.line, at.column, "operator %: the divisor is 0")
        return left % right
    return mismatch(at, "operator %", left, right)


def negate(value: Internal, at: Place) -> Internal:
    """``-`` of one integer."""
    if type(value) is int:
        return check_integer(-value, at)
    return mismatch(at, "operator -", value)


def contains(item: Internal, container: Internal, at: Place, meter: Meter) -> bool:
    """``item in container``: a key, an element, or a part of a string."""
    kind = type(container)
    if kind is dict:
        return key_of(item, at, meter) in container
    if kind is list or kind is tuple:
        for element in container:
            meter.step(1, at)
            if is_equal(element, item, at, meter):
                return True
        return False
    if kind is str and type(item) is str:
        meter.step(len(container) // 64, at)
        return item in container
    if kind is range and type(item) is int:
        return item in container
    return bool(mismatch(at, "operator in", item, container))


ARITHMETIC: dict[str, Operator] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "//": floor_divide,
    "%": modulo,
}

RELATIONS: dict[str, Operator] = {
    "==": is_equal,
    "!=": lambda left, right, at, meter: not is_equal(left, right, at, meter),
    "<": lambda left, right, at, meter: compare(left, right, at, meter) < 0,
    ">": lambda left, right, at, meter: compare(left, right, at, meter) > 0,
    "<=": lambda left, right, at, meter: compare(left, right, at, meter) <= 0,
    ">=": lambda left, right, at, meter: compare(left, right, at, meter) >= 0,
    "in": contains,
    "not in": lambda left, right, at, meter: not contains(left, right, at, meter),
}


def get_item(container: Internal, key: Internal, at: Place, meter: Meter) -> Internal:
    """``container[key]``.

    Raises:
        MissingItemError: a dict has no such key, or the index is out of range.
        TypeMismatchError: the container has no items, or the index is no integer.
    """
    kind = type(container)
    if kind is dict:
        try:
            return container[key_of(key, at, meter)]
        except KeyError:
            shown = f"{key!r:.80}" if type(key) is str or type(key) is int else "of another type"
            raise MissingItemError(
                at.line, at.column, f"key: got {shown}, want one of the dict"
            ) from None
    if kind is list or kind is tuple or kind is range or kind is str:
        if type(key) is not int:
            mismatch(at, "index", key)
        _check_index(len(container), key, at)
        return container[key]
    return mismatch(at, "index of a value", container)


def _check_index(length: int, index: int, at: Place) -> None:
    if not -length <= index < length:
        raise MissingItemError(at.line, at.column, f"index: got {index}, want it below {length}")


def get_slice(
    container: Internal, start: Internal, stop: Internal, at: Place, meter: Meter
) -> Internal:
    """``container[start:stop]`` of a list, tuple or string; bounds are clamped."""
    for bound in (start, stop):
        if bound is not None and type(bound) is not int:
            mismatch(at, "slice", bound)
    kind = type(container)
    if kind is not list and kind is not tuple and kind is not str:
        return mismatch(at, "slice of a value", container)
    part = slice(start, stop)
    size = len(range(*part.indices(len(container))))
    if kind is str:
        meter.string(size, at)
        return container[part]
    meter.items(size, at)
    return container[part]


def set_item(container: Internal, key: Internal, value: Internal, at: Place, meter: Meter) -> None:
    """``container[key] = value``.

    Raises:
        FrozenValueError: the container is a constant, or being iterated.
        MissingItemError: a list's index is out of range.
        TypeMismatchError: the container's items cannot be set, or the index is no integer.
    """
    kind = type(container)
    if kind is dict:
        check_unlocked(container, at, meter)
        text = key_of(key, at, meter)
        before = len(container)
        container[text] = value
        if len(container) != before:
            check_item_count(before + 1, at)
            meter.allocate(ENTRY_BYTES, at)
    elif kind is list:
        if type(key) is not int:
            mismatch(at, "index", key)
        check_unlocked(container, at, meter)
        _check_index(len(container), key, at)
        container[key] = value
    else:
        mismatch(at, "assignment to an item", container)


def extend(target: list[Any], value: Internal, at: Place, meter: Meter) -> None:
    """``target += value`` on a list: append the items of any iterable, in place.

    Raises:
        FrozenValueError: the list is a constant, or being iterated.
        TypeMismatchError: the value is not iterable.
    """
    check_unlocked(target, at, meter)
    items = items_of(value, at, meter, "operator +=")
    count = len(items)
    check_item_count(len(target) + count, at)
    meter.step(count // 8, at)
    meter.allocate(ITEM_BYTES * count, at)
    target.extend(items)


def make_range(arguments: list[Internal], at: Place, bound: int) -> range:
    """Return ``range(…)`` of integers strictly between −`bound` and `bound`.

    Raises:
        SizeLimitError: an argument is out of bounds.
        TypeMismatchError: an argument is no integer.
        DivisionByZeroError: the step is 0.
    """
    for argument in arguments:
        if type(argument) is not int:
            mismatch(at, "range", argument)
        if not -bound < argument < bound:
            raise SizeLimitError(
                at.line, at.column, "range: got a bound of 2**31 or more, want less"
            )
    if len(arguments) == 3 and arguments[2] == 0:
        raise DivisionByZeroError(at.line, at.column, "range: the step is 0")
    return range(*arguments)
