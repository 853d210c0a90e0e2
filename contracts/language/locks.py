"""Locks: which lists and dicts may not change now, because a loop walks them or for good.

What it is: a count for each locked container, by its identity. What it does not do: it decides
nothing by the number that an identity is; a container is alive for as long as it is locked, so
that no other one can be taken for it. Specification: RULES.md, "Values and operators".
"""

from typing import Any, TypeAlias

Locks: TypeAlias = dict[int, int]
"""Loops that walk a container, by the container's identity."""

FROZEN = 1 << 30
"""Count of a module constant; it is never released."""


def held(container: Any, locks: Locks) -> int:
    """Return how often a container is locked: 0 if it may change."""
    return locks.get(id(container), 0)


def freeze_for_good(container: Any, locks: Locks) -> None:
    """Lock a container that lives as long as the call."""
    locks[id(container)] = FROZEN


def lock(iterated: Any, locks: Locks) -> int | None:
    """Lock what is about to be iterated, unless it is frozen or cannot change anyway.

    Returns:
        What to `unlock` when the loop is over, if anything.
    """
    if type(iterated) is not list and type(iterated) is not dict:
        return None
    identity = id(iterated)
    count = locks.get(identity, 0)
    if count >= FROZEN:
        return None
    locks[identity] = count + 1
    return identity


def unlock(identity: int, locks: Locks) -> None:
    """Release one lock."""
    count = locks.pop(identity)
    if count > 1:
        locks[identity] = count - 1
