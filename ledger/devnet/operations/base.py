"""What operation families share: the context of an operation and the shape of its handler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from stellar_sdk import xdr

from ledger.devnet.entries import Account
from ledger.devnet.envelope import Transaction
from ledger.devnet.results import OP_TOO_MANY_SPONSORING, OP_TOO_MANY_SUBENTRIES, OpResult, refuse
from ledger.devnet.sponsorship import Sponsoring
from ledger.devnet.state import Overlay


class Threshold(IntEnum):
    """Index into an account's thresholds."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One operation of one transaction."""

    transaction: Transaction
    index: int
    source: bytes
    kind: int
    body: xdr.OperationBody


@dataclass(frozen=True, slots=True)
class Handler:
    """How one operation type behaves.

    `check` returns the code of a static fault or None and sees the protocol number; `apply` runs in
    an overlay of its own that is rolled back unless it returns a success.
    """

    check: Callable[[Call, int], int | None]
    apply: Callable[[Overlay, Call], OpResult]
    threshold: Callable[[Call], Threshold] = lambda _call: Threshold.MEDIUM
    since: int = 0


def source_account(overlay: Overlay, call: Call) -> Account:
    """The operation's source account, for writing."""
    return overlay.need_account(call.source)


def reserve_failure(verdict: Sponsoring, low_reserve: OpResult) -> OpResult:
    """Result of an entry that could not be paid for."""
    if verdict is Sponsoring.LOW_RESERVE:
        return low_reserve
    if verdict is Sponsoring.TOO_MANY_SUBENTRIES:
        return refuse(OP_TOO_MANY_SUBENTRIES)
    return refuse(OP_TOO_MANY_SPONSORING)
