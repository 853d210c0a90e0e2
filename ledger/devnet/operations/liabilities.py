"""What open offers bind of their sellers' balances (protocol 10's liabilities)."""

from __future__ import annotations

from ledger.devnet.entries import Account, Offer, TrustLine
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import INT64_MAX, NATIVE_ASSET, asset_issuer


def offer_liabilities(price: tuple[int, int], amount: int) -> tuple[int, int]:
    """(selling, buying) stroops that move when a taker without limits takes all of an offer."""
    n, d = price
    value = min(amount * n, INT64_MAX * d)
    if n > d:
        selling = value // n
        return selling, selling * n // d
    buying = value // d
    return -(-buying * d // n), buying


def change_liabilities(overlay: Overlay, offer: Offer, sign: int) -> None:
    """Bind (+1) or release (−1) what an offer holds of its seller's balances."""
    selling, buying = offer_liabilities((offer.price_n, offer.price_d), offer.amount)
    _bind(overlay, offer.seller, offer.buying, selling=0, buying=sign * buying)
    _bind(overlay, offer.seller, offer.selling, selling=sign * selling, buying=0)


def _bind(overlay: Overlay, holder: bytes, asset: bytes, *, selling: int, buying: int) -> None:
    target: Account | TrustLine | None
    if asset == NATIVE_ASSET:
        target = overlay.need_account(holder)
    elif asset_issuer(asset) == holder:
        return
    else:
        target = overlay.trustline(holder, asset)
    if target is None:
        raise StateError("liabilities: got no trust line, want one under an offer")
    if selling or buying:
        target.level = max(target.level, 1)
    target.selling += selling
    target.buying += buying
