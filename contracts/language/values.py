"""Values of the rule language: containers, keys, equality, order, and copies in and out.

What it is: Starlark's meaning of values, where it differs from Python's: ``True`` is not 1, only
like things have an order, and nobody changes a list that is being iterated. What it does not do:
it performs no operators; see `operations`. Specification: RULES.md, "Values".

All values are Python's own, of exactly the types int, str, bool, tuple, range, list, dict and
None. What may not change at the moment stands in the meter's locks, by identity. Every recursive
walk here counts its depth and charges its steps, because a rule can build values that contain
themselves.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, NoReturn, TypeAlias

from contracts.language.errors import (
    ArgumentError,
    DepthLimitError,
    FrozenValueError,
    TypeMismatchError,
)
from contracts.language.limits import (
    INTEGER_MAX,
    INTEGER_MIN,
    MAX_ITEMS,
    MAX_STRING_CHARACTERS,
    MAX_VALUE_DEPTH,
    STRING_BYTES,
    Meter,
    Place,
)
from contracts.language.locks import FROZEN, freeze_for_good, held

Value: TypeAlias = "int | str | bool | list[Value] | tuple[Value, ...] | dict[str, Value] | None"
"""What a host passes in and gets back; plain Python values."""

Internal: TypeAlias = Any
"""A value inside the interpreter; its type is decided while the rule runs."""

_TYPE_NAMES = {
    bool: "bool",
    dict: "dict",
    int: "int",
    list: "list",
    range: "range",
    str: "string",
    tuple: "tuple",
    type(None): "NoneType",
}
_FLAT = frozenset((int, str))
_FLAT_ITEMS = 8
_TEXT = frozenset(map(chr, [0x09, 0x0A, *range(0x20, 0x7F)]))


class TextKey(str):
    """The key text of a key that is not a string, with the key itself.

    A dict is kept by key text; a string is its own. All hashing is thus Python's keyed string
    hash, so that no rule can choose colliding keys, and 1 and True stay apart.
    """

    __slots__ = ("original", "size_bytes")

    original: Internal
    size_bytes: int
    """What making the key is charged, if the key is flat."""


def type_name(value: Internal) -> str:
    """Return Starlark's name of a value's type."""
    return _TYPE_NAMES[type(value)]


def mismatch(at: Place, what: str, *values: Internal) -> NoReturn:
    """Raise the type error of an operation.

    Raises:
        TypeMismatchError: always.
    """
    names = " and ".join(type_name(value) for value in values)
    raise TypeMismatchError(at.line, at.column, f"{what}: does not take {names}")


def check_depth(depth: int, at: Place) -> None:
    """Refuse to walk deeper into a value than `MAX_VALUE_DEPTH`.

    Raises:
        DepthLimitError: `depth` is beyond it.
    """
    if depth > MAX_VALUE_DEPTH:
        raise DepthLimitError(
            at.line, at.column, f"value: nested deeper than {MAX_VALUE_DEPTH} levels"
        )


def check_unlocked(container: list[Any] | dict[str, Any], at: Place, meter: Meter) -> None:
    """Refuse to change a constant, or what is being iterated.

    Raises:
        FrozenValueError: the container is locked.
    """
    locks = held(container, meter.locks)
    if locks:
        why = "is a module constant" if locks >= FROZEN else "is being iterated"
        raise FrozenValueError(at.line, at.column, f"change: the {type_name(container)} {why}")


def freeze(value: Internal, at: Place, meter: Meter, depth: int = 1) -> None:
    """Lock a module constant, with all that it contains, for good."""
    check_depth(depth, at)
    meter.step(1, at)
    if isinstance(value, list | dict):
        freeze_for_good(value, meter.locks)
    if isinstance(value, list | tuple):
        for item in value:
            freeze(item, at, meter, depth + 1)
    elif isinstance(value, dict):
        for item in value.values():
            freeze(item, at, meter, depth + 1)


# Keys


def key_of(value: Internal, at: Place, meter: Meter) -> str:
    """Return the key text of a dict key.

    Raises:
        TypeMismatchError: the value is, or contains, a list, a dict or a range.
        DepthLimitError: it is nested too deeply.
    """
    if type(value) is str:
        return value
    known: TextKey | None = meter.last_key
    if known is not None and known.original is value:
        # The same tuple again, as when a key is looked for and then set.
        meter.step(len(value), at)
        meter.allocate(known.size_bytes, at)
        return known
    if type(value) is tuple and len(value) <= _FLAT_ITEMS and _FLAT.issuperset(map(type, value)):
        # Python's own text of a flat tuple is unambiguous too, and quicker.
        meter.step(len(value), at)
        size_bytes = STRING_BYTES + sum([len(item) for item in value if type(item) is str])
        meter.allocate(size_bytes, at)
        key = TextKey(f"\0{value!r}")
        key.size_bytes = size_bytes
        meter.last_key = key
    else:
        parts: list[str] = []
        _write_key(value, parts, at, meter, 1)
        meter.allocate(STRING_BYTES, at)
        key = TextKey("\0" + "".join(parts))
    key.original = value
    return key


def _write_key(value: Internal, parts: list[str], at: Place, meter: Meter, depth: int) -> None:
    check_depth(depth, at)
    kind = type(value)
    if kind is str:
        # Charged before the parts are joined: one string can stand in a tuple many times.
        meter.allocate(len(value), at)
        parts.append(f"{len(value)}:{value}")
    elif kind is int:
        parts.append(f"i{value},")
    elif kind is tuple:
        meter.step(len(value), at)
        parts.append("(")
        for item in value:
            _write_key(item, parts, at, meter, depth + 1)
        parts.append(")")
    elif value is True or value is False or value is None:
        parts.append(f"{value},")
    else:
        mismatch(at, "key", value)


def keys_in_order(container: dict[str, Any]) -> list[Internal]:
    """Return the keys of a dict in insertion order."""
    return [key.original if isinstance(key, TextKey) else key for key in container]


def items_of(value: Internal, at: Place, meter: Meter, what: str) -> Any:
    """Return something to iterate over: the value itself, or a dict's keys.

    Raises:
        TypeMismatchError: the value is not a list, tuple, dict or range.
    """
    kind = type(value)
    if kind is list or kind is tuple or kind is range:
        return value
    if kind is dict:
        meter.items(len(value), at)
        return keys_in_order(value)
    return mismatch(at, what, value)


# Equality and order


def is_equal(left: Internal, right: Internal, at: Place, meter: Meter, depth: int = 1) -> bool:
    """Tell whether two values are equal; values of different types never are.

    Raises:
        DepthLimitError: equal containers are nested too deeply.
        StepLimitError: the walk exceeds the steps.
    """
    kind = type(left)
    if kind is not type(right):
        return False
    if kind is dict:
        return _is_equal_dict(left, right, at, meter, depth)
    if kind is not list and kind is not tuple:
        return bool(left == right)
    if depth > MAX_VALUE_DEPTH:
        check_depth(depth, at)
    if len(left) != len(right):
        return False
    steps = 0
    for one, other in zip(left, right, strict=True):
        steps += 1
        if type(one) is not int or type(other) is not int:
            meter.step(steps, at)
            steps = 0
            if not is_equal(one, other, at, meter, depth + 1):
                return False
        elif one != other:
            meter.step(steps, at)
            return False
    meter.steps_left -= steps
    if meter.steps_left < 0:
        meter.step(0, at)
    return True


def _is_equal_dict(
    left: dict[str, Any], right: dict[str, Any], at: Place, meter: Meter, depth: int
) -> bool:
    check_depth(depth, at)
    if len(left) != len(right):
        return False
    for key, one in left.items():
        meter.step(1, at)
        if key not in right or not is_equal(one, right[key], at, meter, depth + 1):
            return False
    return True


def compare(left: Internal, right: Internal, at: Place, meter: Meter, depth: int = 1) -> int:
    """Order two values: negative, 0 or positive.

    Raises:
        TypeMismatchError: they have no order: other than two integers, strings, booleans, lists
            or tuples of values that have one.
        DepthLimitError: they are nested too deeply.
        StepLimitError: the walk exceeds the steps.
    """
    kind = type(left)
    if kind is type(right):
        if kind is int or kind is str or kind is bool:
            return int(left > right) - int(left < right)
        if kind is list or kind is tuple:
            check_depth(depth, at)
            for one, other in zip(left, right, strict=False):
                meter.step(1, at)
                order = compare(one, other, at, meter, depth + 1)
                if order:
                    return order
            return len(left) - len(right)
    return mismatch(at, "order", left, right)


# Copies


def copy_in(value: Any, where: str, depth: int = 1) -> Internal:
    """Copy a host's value into the language.

    Args:
        value: a value of the host.
        where: what to call it in an error.
        depth: levels around it; a caller leaves it out.

    Raises:
        ArgumentError: the value, or something inside it, is not one of the language.
    """
    kind = type(value)
    if kind is str:
        return check_text(value, where)
    if kind is int:
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise ArgumentError(0, 0, f"{where}: got an integer beyond 128 bits, want it inside")
        return value
    if value is None or kind is bool:
        return value
    if depth > MAX_VALUE_DEPTH:
        raise ArgumentError(0, 0, f"{where}: nested deeper than {MAX_VALUE_DEPTH} levels")
    if not isinstance(value, list | tuple | dict):
        raise ArgumentError(0, 0, f"{where}: got {kind.__name__}, want a value of the language")
    if len(value) > MAX_ITEMS:
        raise ArgumentError(0, 0, f"{where}: got {len(value)} items, want at most {MAX_ITEMS}")
    if isinstance(value, list):
        return [_copy_item(item, where, depth + 1) for item in value]
    if isinstance(value, tuple):
        return tuple([_copy_item(item, where, depth + 1) for item in value])
    copied: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str:
            raise ArgumentError(0, 0, f"{where}: got a key of {type(key).__name__}, want str")
        copied[check_text(key, where)] = _copy_item(item, where, depth + 1)
    return copied


def _copy_item(item: Any, where: str, depth: int) -> Internal:
    """Copy what stands in a container; the cases that are by far the most come first."""
    kind = type(item)
    if kind is int and INTEGER_MIN <= item <= INTEGER_MAX:
        return item
    if kind is str and len(item) <= MAX_STRING_CHARACTERS and item.isascii():
        return item if item.isprintable() else check_text(item, where)
    return copy_in(item, where, depth)


def check_text(value: str, where: str) -> str:
    """Return a host's string if it is one of the language.

    Raises:
        ArgumentError: it is too long, or holds other than printable ASCII, tabs and newlines.
    """
    if len(value) > MAX_STRING_CHARACTERS:
        raise ArgumentError(
            0, 0, f"{where}: got {len(value)} characters, want at most {MAX_STRING_CHARACTERS}"
        )
    if not (value.isascii() and value.isprintable()) and not _TEXT.issuperset(value):
        raise ArgumentError(0, 0, f"{where}: got a string with other than printable ASCII")
    return value


def copy_out(value: Internal, at: Place, meter: Meter, depth: int = 1) -> Any:
    """Copy a value out to the host, as plain Python values that share nothing.

    Raises:
        TypeMismatchError: the value contains a range, or a dict whose keys are not strings.
        DepthLimitError: it is nested too deeply.
        StepLimitError: the copy exceeds the steps.
    """
    meter.steps_left -= 1
    if meter.steps_left < 0:
        meter.step(0, at)
    kind = type(value)
    if kind is int or kind is str or kind is bool or value is None:
        return value
    check_depth(depth, at)
    if kind is list:
        return [copy_out(item, at, meter, depth + 1) for item in value]
    if kind is tuple:
        return tuple([copy_out(item, at, meter, depth + 1) for item in value])
    if kind is dict:
        copied = {}
        for key, item in value.items():
            if type(key) is not str:
                mismatch(at, "key of a returned dict", key.original)
            copied[key] = copy_out(item, at, meter, depth + 1)
        return copied
    return mismatch(at, "returned value", value)


_SCALARS = frozenset((int, str, bool, type(None)))


def _are_flat_lists(items: Iterable[Internal]) -> bool:
    """Whether all items are lists of plain values only."""
    if set(map(type, items)) != {list}:
        return False
    return _SCALARS.issuperset(map(type, chain.from_iterable(items)))


def charge_out(value: Internal, at: Place, meter: Meter, depth: int = 1) -> None:
    """Charge and check a returned value as `copy_out` does, without copying it.

    Raises:
        TypeMismatchError: the value contains a range, or a dict whose keys are not strings.
        DepthLimitError: it is nested too deeply.
        StepLimitError: the copy would exceed the steps.
    """
    meter.step(1, at)
    kind = type(value)
    if kind in _SCALARS:
        return
    check_depth(depth, at)
    if kind is not list and kind is not tuple and kind is not dict:
        mismatch(at, "returned value", value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                mismatch(at, "key of a returned dict", key.original)
            charge_out(item, at, meter, depth + 1)
    elif _SCALARS.issuperset(map(type, value)):
        meter.step(len(value), at)
    elif depth < MAX_VALUE_DEPTH and _are_flat_lists(value):
        meter.step(len(value) + sum(map(len, value)), at)
    else:
        for item in value:
            charge_out(item, at, meter, depth + 1)
