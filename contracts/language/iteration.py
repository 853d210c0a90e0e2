"""Iteration of the rule language: comprehension clauses.

What it is: the loops inside comprehensions. What it does not do: it compiles no expression itself.
Specification: RULES.md, "Semantics".
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from contracts.language.limits import Meter, Place
from contracts.language.locks import lock, unlock
from contracts.language.values import Internal, items_of

Frame: TypeAlias = list[Any]
Fill: TypeAlias = Callable[[Frame, Any], None]
"""Adds to a list or dict that is being made."""


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
        locked = lock(iterated, meter.locks)
        for item in items_of(iterated, at, meter, "for"):
            meter.steps_left -= cost
            if meter.steps_left < 0:
                meter.step(0, at)
            bind(frame, item)
            inner(frame, made)
        if locked is not None:
            unlock(locked, meter.locks)

    return for_clause
