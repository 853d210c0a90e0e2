"""Values of the rule language: containers, keys, equality, order, and copies in and out.

What it is: Starlark's meaning of values, where it differs from Python's: ``True`` is not 1, only
like things have an order, and nobody changes a list that is being iterated. What it does not do:
it performs no operators; see `operations`. Specification: RULES.md, "Values".

Integers, strings, booleans, None, tuples and ranges are Python's own. Lists and dicts are
subclasses with a lock. Every recursive walk here counts its depth and charges its steps, because
a rule can build values that contain themselves.
"""

from collections.abc import Iterable
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

Value: TypeAlias = "int | str | bool | list[Value] | tuple[Value, ...] | dict[str, Value] | None"
"""What a host passes in and gets back; plain Python values."""

Internal: TypeAlias = Any
"""A value inside the interpreter; its type is decided while the rule runs."""

FROZEN = 1 << 30
"""Lock count of a module constant; it is never released."""

_TYPE_NAMES = {bool: "bool", int: "int", str: "string", tuple: "tuple", range: "range"}
_FLAT = frozenset((int, str))
_FLAT_ITEMS = 8
_TEXT = frozenset(map(chr, [0x09, 0x0A, *range(0x20, 0x7F)]))


class ListValue(list[Any]):
    """A list; it may be changed only while `locks` is 0."""

    __slots__ = ("locks",)

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self.locks = 0


class DictValue(dict[str, Any]):
    """A dict in insertion order, by key text; it may be changed only while `locks` is 0.

    A string is its own key text; every other key is a `TextKey`. All hashing is thus Python's
    keyed string hash, so that no rule can choose colliding keys, and 1 and True stay apart.
    """

    __slots__ = ("locks",)

    def __init__(self) -> None:
        super().__init__()
        self.locks = 0


class TextKey(str):
    """The key text of a key that is not a string, with the key itself."""

    __slots__ = ("original",)

    original: Internal


def type_name(value: Internal) -> str:
    """Return Starlark's name of a value's type."""
    if value is None:
        return "NoneType"
    if isinstance(value, ListValue):
        return "list"
    if isinstance(value, DictValue):
        return "dict"
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


def check_unlocked(container: ListValue | DictValue, at: Place) -> None:
    """Refuse to change a constant, or what is being iterated.

    Raises:
        FrozenValueError: the container is locked.
    """
    if container.locks:
        why = "is a module constant" if container.locks >= FROZEN else "is being iterated"
        raise FrozenValueError(at.line, at.column, f"change: the {type_name(container)} {why}")


def freeze(value: Internal, at: Place, meter: Meter, depth: int = 1) -> None:
    """Lock a module constant, with all that it contains, for good."""
    check_depth(depth, at)
    meter.step(1, at)
    if isinstance(value, ListValue | DictValue):
        value.locks = FROZEN
    if isinstance(value, ListValue | tuple):
        for item in value:
            freeze(item, at, meter, depth + 1)
    elif isinstance(value, DictValue):
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
    if type(value) is tuple and len(value) <= _FLAT_ITEMS and _FLAT.issuperset(map(type, value)):
        # Python's own text of a flat tuple is unambiguous too, and quicker.
        meter.step(len(value), at)
        meter.allocate(STRING_BYTES + sum(len(item) for item in value if type(item) is str), at)
        key = TextKey(f"\0{value!r}")
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


def keys_in_order(container: DictValue) -> list[Internal]:
    """Return the keys of a dict in insertion order."""
    return [key.original if isinstance(key, TextKey) else key for key in container]


def items_of(value: Internal, at: Place, meter: Meter, what: str) -> Any:
    """Return something to iterate over: the value itself, or a dict's keys.

    Raises:
        TypeMismatchError: the value is not a list, tuple, dict or range.
    """
    kind = type(value)
    if kind is ListValue or kind is tuple or kind is range:
        return value
    if kind is DictValue:
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
    if kind is ListValue or kind is tuple:
        check_depth(depth, at)
        if len(left) != len(right):
            return False
        for one, other in zip(left, right, strict=True):
            meter.step(1, at)
            if not is_equal(one, other, at, meter, depth + 1):
                return False
        return True
    if kind is DictValue:
        check_depth(depth, at)
        if len(left) != len(right):
            return False
        for key, one in left.items():
            meter.step(1, at)
            if key not in right or not is_equal(one, right[key], at, meter, depth + 1):
                return False
        return True
    return bool(left == right)


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
        if kind is ListValue or kind is tuple:
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
        return ListValue([_copy_item(item, where, depth + 1) for item in value])
    if isinstance(value, tuple):
        return tuple([_copy_item(item, where, depth + 1) for item in value])
    copied = DictValue()
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
    if kind is ListValue:
        return [copy_out(item, at, meter, depth + 1) for item in value]
    if kind is tuple:
        return tuple([copy_out(item, at, meter, depth + 1) for item in value])
    if kind is DictValue:
        copied = {}
        for key, item in value.items():
            if type(key) is not str:
                mismatch(at, "key of a returned dict", key.original)
            copied[key] = copy_out(item, at, meter, depth + 1)
        return copied
    return mismatch(at, "returned value", value)
