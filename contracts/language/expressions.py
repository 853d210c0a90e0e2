"""Closures for the operators that rules use most, with their common cases inline.

What it is: binary operators and indexing compiled for speed. What it does not do: it decides no
meaning; whatever is not a plain integer or string goes to `operations`, and the two must agree.
Specification: RULES.md, "Operators".
"""

from collections.abc import Callable
from typing import TypeAlias

from contracts.language.iteration import Frame
from contracts.language.limits import INTEGER_MAX, INTEGER_MIN, Meter
from contracts.language.operations import ARITHMETIC, RELATIONS, add, get_item, multiply, subtract
from contracts.language.syntax import Binary, Constant, Index
from contracts.language.values import Internal

Run: TypeAlias = Callable[[Frame], Internal]


def compile_index(
    node: Index, container_of: Run, key_at: Run, slot: int | None, meter: Meter
) -> Run:
    """Compile ``container[key]``; strings into dicts and integers into lists go directly.

    Args:
        node: the expression.
        container_of: the compiled container.
        key_at: the compiled key.
        slot: the container's slot, if it is a local variable.
        meter: pays for the rest.
    """
    if isinstance(node.key, Constant) and isinstance(node.key.value, str):
        if slot is not None:
            return _compile_field_of_local(node, node.key.value, container_of, slot, meter)
        return _compile_field(node, node.key.value, container_of, meter)

    def run(frame: Frame) -> Internal:
        container = container_of(frame)
        key = key_at(frame)
        if type(key) is int and type(container) is list:
            if -len(container) <= key < len(container):
                return container[key]
        elif type(key) is str and type(container) is dict and key in container:
            return container[key]
        return get_item(container, key, node, meter)

    return run


def _compile_field(node: Index, key: str, container_of: Run, meter: Meter) -> Run:
    """Compile ``container["name"]``."""

    def run(frame: Frame) -> Internal:
        container = container_of(frame)
        if type(container) is dict and key in container:
            return container[key]
        return get_item(container, key, node, meter)

    return run


def _compile_field_of_local(
    node: Index, key: str, container_of: Run, slot: int, meter: Meter
) -> Run:
    """Compile ``local["name"]``; an unassigned local is no dict, and is found on the slow way."""

    def run(frame: Frame) -> Internal:
        container = frame[slot]
        if type(container) is dict and key in container:
            return container[key]
        return get_item(container_of(frame), key, node, meter)

    return run


def compile_binary(node: Binary, left: Run, right: Run, meter: Meter) -> Run:
    """Compile a binary operator on two compiled operands."""
    operator = node.operator
    if operator == "and":
        return lambda frame: left(frame) and right(frame)
    if operator == "or":
        return lambda frame: left(frame) or right(frame)
    special = _SPECIAL.get(operator)
    if special is not None:
        return special(node, left, right, meter)
    operate = ARITHMETIC.get(operator) or RELATIONS[operator]
    return lambda frame: operate(left(frame), right(frame), node, meter)


def _compile_add(node: Binary, left: Run, right: Run, meter: Meter) -> Run:
    def run(frame: Frame) -> Internal:
        one, other = left(frame), right(frame)
        if type(one) is int and type(other) is int:
            total = one + other
            if INTEGER_MIN <= total <= INTEGER_MAX:
                return total
        return add(one, other, node, meter)

    return run


def _compile_subtract(node: Binary, left: Run, right: Run, meter: Meter) -> Run:
    def run(frame: Frame) -> Internal:
        one, other = left(frame), right(frame)
        if type(one) is int and type(other) is int:
            difference = one - other
            if INTEGER_MIN <= difference <= INTEGER_MAX:
                return difference
        return subtract(one, other, node, meter)

    return run


def _compile_multiply(node: Binary, left: Run, right: Run, meter: Meter) -> Run:
    def run(frame: Frame) -> Internal:
        one, other = left(frame), right(frame)
        if type(one) is int and type(other) is int:
            product = one * other
            if INTEGER_MIN <= product <= INTEGER_MAX:
                return product
        return multiply(one, other, node, meter)

    return run


def _compile_equal(node: Binary, left: Run, right: Run, meter: Meter) -> Run:
    relate = RELATIONS["=="]

    def run(frame: Frame) -> Internal:
        one, other = left(frame), right(frame)
        kind = type(one)
        if kind is not type(other):
            return False
        if kind is int or kind is str:
            return one == other
        return relate(one, other, node, meter)

    return run


def _compile_greater(node: Binary, left: Run, right: Run, meter: Meter) -> Run:
    relate = RELATIONS[">"]

    def run(frame: Frame) -> Internal:
        one, other = left(frame), right(frame)
        if type(one) is int and type(other) is int:
            return one > other
        return relate(one, other, node, meter)

    return run


def _compile_less(node: Binary, left: Run, right: Run, meter: Meter) -> Run:
    relate = RELATIONS["<"]

    def run(frame: Frame) -> Internal:
        one, other = left(frame), right(frame)
        if type(one) is int and type(other) is int:
            return one < other
        return relate(one, other, node, meter)

    return run


def _compile_in(node: Binary, left: Run, right: Run, meter: Meter) -> Run:
    relate = RELATIONS["in"]

    def run(frame: Frame) -> Internal:
        item, container = left(frame), right(frame)
        if type(item) is str and type(container) is dict:
            return item in container
        return relate(item, container, node, meter)

    return run


_SPECIAL: dict[str, Callable[[Binary, Run, Run, Meter], Run]] = {
    "+": _compile_add,
    "-": _compile_subtract,
    "*": _compile_multiply,
    "==": _compile_equal,
    ">": _compile_greater,
    "<": _compile_less,
    "in": _compile_in,
}
