"""The fault plane: how the devnet misbehaves on demand, to test callers against the worst.

A fault is armed with a kind, a number of answers or network ledgers it spoils, and seconds where it
needs them. Kinds, and what they do:

- `drop_answer`: the connection is closed before the request has any effect.
- `delay`: the answer comes `seconds` late.
- `reset_after_accept`: a submission is taken, then the connection is closed without an answer.
- `http_504`: a submission is taken, the answer is 504.
- `http_503`: a submission is not taken, the answer is 503.
- `duplicate`: a submission is taken twice, the second answer is given.
- `hide_transactions`: look-ups by hash and listings act as if the last `ledgers` network ledgers
  had no transactions.
- `stale_replica`: everything read is as of `ledgers` network ledgers ago, as far as headers, look-
  ups and listings go.
- `stall`: no network ledger closes.
- `lose_queue`: the queue is emptied before the next close.
- `time_jump`: the next network ledger closes `seconds` later than its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class FaultError(ValueError):
    """A fault that cannot be armed as asked."""


class FaultKind(Enum):
    """See the module's text."""

    DROP_ANSWER = "drop_answer"
    DELAY = "delay"
    RESET_AFTER_ACCEPT = "reset_after_accept"
    HTTP_504 = "http_504"
    HTTP_503 = "http_503"
    DUPLICATE = "duplicate"
    HIDE_TRANSACTIONS = "hide_transactions"
    STALE_REPLICA = "stale_replica"
    STALL = "stall"
    LOSE_QUEUE = "lose_queue"
    TIME_JUMP = "time_jump"


@dataclass(slots=True)
class Fault:
    """An armed fault: how many more times it strikes (None = until cleared), and its parameters."""

    kind: FaultKind
    left: int | None = 1
    seconds: float = 0.0
    ledgers: int = 1
    path: str = ""
    struck: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain mapping for output."""
        return {
            "kind": self.kind.value,
            "left": self.left,
            "seconds": self.seconds,
            "ledgers": self.ledgers,
            "path": self.path,
            "struck": self.struck,
        }


@dataclass(slots=True)
class FaultPlane:
    """The faults armed now, oldest first."""

    armed: list[Fault] = field(default_factory=list)

    def arm(self, request: Mapping[str, Any]) -> Fault:
        """Arm a fault from its JSON form.

        `count` (default 1, 0 = until cleared) says how often it strikes; for `stall`,
        `hide_transactions` and `stale_replica` it counts closes and look-ups.

        Raises:
            FaultError: unknown kind or a value out of range.
        """
        try:
            kind = FaultKind(request.get("kind"))
        except ValueError:
            known = ", ".join(k.value for k in FaultKind)
            raise FaultError(f"kind: got {request.get('kind')!r}, want one of {known}") from None
        count, seconds = request.get("count", 1), request.get("seconds", 0)
        ledgers, path = request.get("ledgers", 1), request.get("path", "")
        if not isinstance(count, int) or count < 0:
            raise FaultError(f"count: got {count!r}, want a whole number from 0")
        if not isinstance(seconds, int | float) or seconds < 0:
            raise FaultError(f"seconds: got {seconds!r}, want a number from 0")
        if not isinstance(ledgers, int) or ledgers < 1 or not isinstance(path, str):
            raise FaultError(f"ledgers: got {ledgers!r}, want a whole number from 1")
        fault = Fault(kind, count or None, float(seconds), ledgers, path)
        self.armed.append(fault)
        return fault

    def clear(self) -> None:
        """Disarm everything."""
        self.armed.clear()

    def strike(self, kind: FaultKind, path: str = "") -> Fault | None:
        """The oldest armed fault of a kind for a path, used up by one; None if there is none."""
        for fault in self.armed:
            if fault.kind is kind and path.startswith(fault.path):
                fault.struck += 1
                if fault.left is not None:
                    fault.left -= 1
                    if fault.left == 0:
                        self.armed.remove(fault)
                return fault
        return None
