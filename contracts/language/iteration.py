"""Iteration of the rule language: locks on what is iterated, and comprehension clauses.

What it is: the loops inside comprehensions, and the lock that every loop takes, so that nobody
changes a list or dict while it is walked. What it does not do: it compiles no expression itself.
Specification: RULES.md, "Semantics".
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from contracts.language.limits import Meter, Place
from contracts.language.values import FROZEN, DictValue, Internal, ListValue, items_of

Frame: TypeAlias = list[Any]
Fill: TypeAlias = Callable[[Frame, Any], None]
"""Adds to a list or dict that is being made."""


def lock(iterated: Internal) -> ListValue | DictValue | None:
    """Lock what is about to be iterated, unless it is frozen or cannot change anyway."""
    if isinstance(iterated, ListValue | DictValue) and iterated.locks < FROZEN:
        iterated.locks += 1
        return iterated
    return None


def compile_clause(
    run: Callable[[Frame], Internal],
    store: Callable[[Frame, Internal], None] | None,
    at: Place,
    inner: Fill,
    cost: int,
    meter: Meter,
) -> Fill:
    """Compile one clause of a comprehension around those that follow it.

    Args:
        run: the iterable of a ``for`` clause, or the condition of an ``if`` clause.
        store: assigns to the variables of a ``for`` clause; None for an ``if`` clause.
        at: the clause's place.
        inner: what follows: the next clause, or the element.
        cost: steps of each pass of a ``for`` clause.
        meter: pays for the passes.
    """
    if store is None:

        def filter_clause(frame: Frame, made: Any) -> None:
            if run(frame):
                inner(frame, made)

        return filter_clause
    bind = store

    def for_clause(frame: Frame, made: Any) -> None:
        iterated = run(frame)
        locked = lock(iterated)
        for item in items_of(iterated, at, meter, "for"):
            meter.steps_left -= cost
            if meter.steps_left < 0:
                meter.step(0, at)
            bind(frame, item)
            inner(frame, made)
        if locked is not None:
            locked.locks -= 1

    return for_clause
