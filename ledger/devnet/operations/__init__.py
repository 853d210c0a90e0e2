"""Operations by type: one module a family, one table to find them."""

from __future__ import annotations

from typing import Final

from ledger.devnet.operations import (
    account,
    claimable,
    offers,
    payments,
    pools,
    sponsoring,
    trust,
)
from ledger.devnet.operations.base import Call, Handler, Threshold

HANDLERS: Final[dict[int, Handler]] = {
    **payments.HANDLERS,
    **trust.HANDLERS,
    **account.HANDLERS,
    **offers.HANDLERS,
    **claimable.HANDLERS,
    **sponsoring.HANDLERS,
    **pools.HANDLERS,
}

__all__ = ["HANDLERS", "Call", "Handler", "Threshold"]
