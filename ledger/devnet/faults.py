"""The fault plane: how the devnet misbehaves on demand, to test callers against the worst.

A fault is armed with a kind, a number of answers or network ledgers that it spoils, and what it
needs besides. Those that spoil answers may be kept to requests whose path begins with `path`; a
call of JSON-RPC has the path `/rpc/METHOD`. Kinds, and what they do:

- `drop_answer`: the connection is closed before the request has any effect.
- `delay`: the answer comes `seconds` late.
- `repeat_answer`: the answer given last at the same place is given once more, as a bad cache does.
- `garble_answer`: the answer is a page that is no JSON.
- `http_500`: the answer is 500, without effect.
- `reset_after_accept`: a submission is taken, then the connection is closed without an answer.
- `http_504`: a submission is taken, the answer is 504.
- `http_503`: a submission is not taken, the answer is 503.
- `duplicate`: a submission is taken twice, the second answer is given.
- `hide_transactions`: look-ups by hash and listings act as if the last `ledgers` network ledgers
  had no transactions (a 404 window).
- `stale_replica`: everything read is as of `ledgers` network ledgers ago, at most 64.
- `stall`: no network ledger closes by the timer.
- `lose_queue`: the queue is emptied before the next close, as a killed node does.
- `time_jump`: the next network ledger closes `seconds` later than its time.
- `surge`: others bid `fee` stroops per operation, or some more, for all of a network ledger's room;
  arming the first one takes a network ledger, to give them money.

Other things happen at once when asked for (`ledger.devnet.incidents`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from ledger.devnet.view import DEPTH_LEDGERS

SURGE_FEE_STROOPS: Final = 10_000
"""What others bid per operation in a surge if it is not said."""


class FaultError(ValueError):
    """A fault that cannot be armed as asked."""


class FaultKind(Enum):
    """See the module's text."""

    DROP_ANSWER = "drop_answer"
    DELAY = "delay"
    REPEAT_ANSWER = "repeat_answer"
    GARBLE_ANSWER = "garble_answer"
    HTTP_500 = "http_500"
    RESET_AFTER_ACCEPT = "reset_after_accept"
    HTTP_504 = "http_504"
    HTTP_503 = "http_503"
    DUPLICATE = "duplicate"
    HIDE_TRANSACTIONS = "hide_transactions"
    STALE_REPLICA = "stale_replica"
    STALL = "stall"
    LOSE_QUEUE = "lose_queue"
    TIME_JUMP = "time_jump"
    SURGE = "surge"


@dataclass(slots=True)
class Fault:
    """An armed fault: how many more times it strikes (None = until cleared), and its parameters."""

    kind: FaultKind
    left: int | None = 1
    seconds: float = 0.0
    ledgers: int = 1
    path: str = ""
    fee: int = SURGE_FEE_STROOPS
    struck: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain mapping for output."""
        return {
            "kind": self.kind.value,
            "left": self.left,
            "seconds": self.seconds,
            "ledgers": self.ledgers,
            "path": self.path,
            "fee": self.fee,
            "struck": self.struck,
        }


@dataclass(slots=True)
class FaultPlane:
    """The faults armed now, oldest first."""

    armed: list[Fault] = field(default_factory=list)

    def arm(self, request: Mapping[str, Any]) -> Fault:
        """Arm a fault from its JSON form.

        `count` (default 1, 0 = until cleared) says how often it strikes; for `stall`, `surge` and
        those that change what is read it counts closes and requests.

        Raises:
            FaultError: unknown kind or a value out of range.
        """
        try:
            kind = FaultKind(request.get("kind"))
        except ValueError:
            known = ", ".join(k.value for k in FaultKind)
            raise FaultError(f"kind: got {request.get('kind')!r}, want one of {known}") from None
        path = request.get("path", "")
        if not isinstance(path, str):
            raise FaultError(f"path: got {path!r}, want text")
        seconds = request.get("seconds", 0)
        if not isinstance(seconds, int | float) or not 0 <= seconds <= 1e9:
            raise FaultError(f"seconds: got {seconds!r}, want a number from 0")
        most = DEPTH_LEDGERS if kind is FaultKind.STALE_REPLICA else 10**6
        fault = Fault(
            kind,
            whole(request, "count", 1, 0, 10**9) or None,
            float(seconds),
            whole(request, "ledgers", 1, 1, most),
            path,
            whole(request, "fee", SURGE_FEE_STROOPS, 100, 10**6),
        )
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


def whole(request: Mapping[str, Any], field_name: str, default: int, least: int, most: int) -> int:
    """A whole number of a request, within bounds.

    Raises:
        FaultError: it is none.
    """
    value = request.get(field_name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise FaultError(f"{field_name}: got {value!r}, want a whole number, {least} to {most}")
    return value
