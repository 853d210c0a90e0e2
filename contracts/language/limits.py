"""Bounds of the rule language and the meter that enforces the budgets of one call.

What it is: every limit by its name, and the counter of steps and allocated bytes. What it does
not do: it measures no time and no real memory; both counts are functions of the source and the
arguments alone, so every machine stops at the same place. Specification: RULES.md, "Bounds".
"""

from dataclasses import dataclass
from typing import Any, Protocol

from contracts.language.errors import (
    AllocationLimitError,
    IntegerBoundError,
    SizeLimitError,
    StepLimitError,
)
from contracts.language.locks import Locks

MAX_SOURCE_BYTES = 65_536
"""Longest source of a rule, in bytes."""

MAX_BLOCK_DEPTH = 12
"""Deepest nesting of indented blocks."""

MAX_EXPRESSION_DEPTH = 32
"""Deepest nesting of one expression's tree."""

MAX_CALL_LEVELS = 120
"""Deepest chain of nested blocks, expressions and calls together, over the whole call graph."""

MAX_PARAMETERS = 32
"""Most parameters of a function and most arguments of a call."""

MAX_STRING_CHARACTERS = 4_096
"""Longest string, literal or computed."""

MAX_ITEMS = 1 << 22
"""Most items of one list, tuple or dict."""

MAX_RANGE_BOUND = 1 << 31
"""Arguments of ``range`` lie strictly below this in magnitude."""

MAX_VALUE_DEPTH = 16
"""Deepest nesting of a value that is compared, used as a key, passed in or returned."""

INTEGER_BITS = 128
INTEGER_MIN = -(1 << 127)
INTEGER_MAX = (1 << 127) - 1

# Allocation is charged by these fixed weights, near CPython's real sizes on 64-bit machines.
STRING_BYTES = 64
CONTAINER_BYTES = 96
ITEM_BYTES = 48
ENTRY_BYTES = 160


class Place(Protocol):
    """Anything with a place in the source: what errors point at."""

    @property
    def line(self) -> int:
        """Line, from 1."""

    @property
    def column(self) -> int:
        """Column, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Budgets of one call of a rule.

    Both are part of the verdict: two engines agree only when they run with the same limits.
    """

    steps: int = 10_000_000
    """Steps the call may take; 1 or more."""

    allocation_bytes: int = 1 << 30
    """Bytes, by the fixed weights of this module, that the call may allocate in total."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: got {self.steps}, want 1 or more")
        if self.allocation_bytes < 1:
            raise ValueError(f"allocation_bytes: got {self.allocation_bytes}, want 1 or more")


class Meter:
    """Counts the steps and allocated bytes of one call down to zero."""

    __slots__ = ("_limits", "bytes_left", "last_key", "locks", "steps_left")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.locks: Locks = {}
        self.last_key: Any = None
        """The last key of a dict that was a flat tuple, for `values.key_of`."""
        self.steps_left = limits.steps
        self.bytes_left = limits.allocation_bytes

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self._limits.steps - self.steps_left

    @property
    def allocated_bytes(self) -> int:
        """Bytes allocated so far."""
        return self._limits.allocation_bytes - self.bytes_left

    def step(self, count: int, at: Place) -> None:
        """Take `count` steps.

        Raises:
            StepLimitError: the budget is spent.
        """
        self.steps_left -= count
        if self.steps_left < 0:
            raise StepLimitError(
                at.line, at.column, f"steps: more than {self._limits.steps} are needed"
            )

    def allocate(self, size_bytes: int, at: Place) -> None:
        """Charge `size_bytes` of allocation.

        Raises:
            AllocationLimitError: the budget is spent.
        """
        self.bytes_left -= size_bytes
        if self.bytes_left < 0:
            raise AllocationLimitError(
                at.line,
                at.column,
                f"allocation: more than {self._limits.allocation_bytes} bytes are needed",
            )

    def items(self, count: int, at: Place) -> None:
        """Charge a new list or tuple of `count` items, before it is made.

        Raises:
            SizeLimitError: it would be larger than `MAX_ITEMS`.
            StepLimitError: copying it would exceed the steps.
            AllocationLimitError: it would exceed the allocation.
        """
        check_item_count(count, at)
        self.step(count // 8, at)
        self.allocate(CONTAINER_BYTES + ITEM_BYTES * count, at)

    def entries(self, count: int, at: Place) -> None:
        """Charge a new dict of `count` entries, before it is made.

        Raises:
            SizeLimitError: it would be larger than `MAX_ITEMS`.
            AllocationLimitError: it would exceed the allocation.
        """
        check_item_count(count, at)
        self.allocate(CONTAINER_BYTES + ENTRY_BYTES * count, at)

    def string(self, length: int, at: Place) -> None:
        """Charge a new string of `length` characters, before it is made.

        Raises:
            SizeLimitError: it would be longer than `MAX_STRING_CHARACTERS`.
            AllocationLimitError: it would exceed the allocation.
        """
        if length > MAX_STRING_CHARACTERS:
            raise SizeLimitError(
                at.line,
                at.column,
                f"string: got {length} characters, want at most {MAX_STRING_CHARACTERS}",
            )
        self.allocate(STRING_BYTES + length, at)


def check_item_count(count: int, at: Place) -> None:
    """Refuse a container of more than `MAX_ITEMS` items.

    Raises:
        SizeLimitError: it would be larger.
    """
    if count > MAX_ITEMS:
        raise SizeLimitError(at.line, at.column, f"items: got {count}, want at most {MAX_ITEMS}")


def check_integer(value: int, at: Place) -> int:
    """Return `value` if it fits 128 bits, signed.

    Raises:
        IntegerBoundError: it does not.
    """
    if INTEGER_MIN <= value <= INTEGER_MAX:
        return value
    raise IntegerBoundError(
        at.line,
        at.column,
        f"integer: got {value.bit_length()} bits, want at most {INTEGER_BITS}, signed",
    )
