"""Operations by type: one module a family, one table to find them."""

from __future__ import annotations

from typing import Final

from ledger.devnet.operations import account, payments, trust
from ledger.devnet.operations.base import Call, Handler, Threshold

HANDLERS: Final[dict[int, Handler]] = {
    **payments.HANDLERS,
    **trust.HANDLERS,
    **account.HANDLERS,
}

__all__ = ["HANDLERS", "Call", "Handler", "Threshold"]
