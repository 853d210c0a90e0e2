"""Reserves, available balances and trust line arithmetic, by the rules since protocol 10.

Amounts are stroops of the asset. Nothing here decides result codes.
"""

from __future__ import annotations

from ledger.devnet.entries import AUTHORIZED, MAINTAIN_LIABILITIES, Account, TrustLine
from ledger.devnet.state import Header, Overlay
from ledger.devnet.wire import INT64_MAX, asset_issuer


def min_balance(header: Header, account: Account) -> int:
    """Stroops an account may not go below: (2 + sub-entries + sponsoring − sponsored) × reserve."""
    count = 2 + account.sub_entries + account.sponsoring - account.sponsored
    return count * header.base_reserve


def available_balance(header: Header, account: Account) -> int:
    """Stroops of XLM an account can spend; may be negative."""
    return account.balance - min_balance(header, account) - account.selling


def max_receive(account: Account) -> int:
    """Stroops of XLM an account can still receive."""
    return INT64_MAX - account.balance - account.buying


def add_native(header: Header, account: Account, delta: int) -> bool:
    """Change an account's balance within reserve, liabilities and the 64-bit range."""
    changed = account.balance + delta
    if changed < 0 or changed > INT64_MAX:
        return False
    if delta < 0 and changed - min_balance(header, account) < account.selling:
        return False
    if changed > INT64_MAX - account.buying:
        return False
    account.balance = changed
    return True


def is_authorized(line: TrustLine) -> bool:
    """Fully authorised: may send and receive."""
    return bool(line.flags & AUTHORIZED)


def may_maintain(line: TrustLine) -> bool:
    """Authorised at least to keep its liabilities; pool shares always are."""
    return line.asset[3] == 3 or bool(line.flags & (AUTHORIZED | MAINTAIN_LIABILITIES))


def add_line(line: TrustLine, delta: int) -> bool:
    """Change a trust line's balance within its limit and liabilities; needs some authorisation."""
    if delta == 0:
        return True
    if not may_maintain(line):
        return False
    changed = line.balance + delta
    if changed < 0 or changed > line.limit:
        return False
    if changed < line.selling or changed > line.limit - line.buying:
        return False
    line.balance = changed
    return True


class IssuerLine:
    """The issuer's side of its own asset: always authorised, without limit or balance."""


Holding = TrustLine | IssuerLine


def holding(overlay: Overlay, account: bytes, asset: bytes) -> Holding | None:
    """Trust line of an account, or its issuer's stand-in, or None."""
    if asset_issuer(asset) == account:
        return IssuerLine()
    return overlay.trustline(account, asset)


def holding_authorized(line: Holding) -> bool:
    """Whether the holder may send and receive."""
    return isinstance(line, IssuerLine) or is_authorized(line)


def add_holding(line: Holding, delta: int) -> bool:
    """Change a holding's balance; an issuer's never refuses."""
    return isinstance(line, IssuerLine) or add_line(line, delta)
