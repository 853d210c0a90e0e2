"""Offers as other operations meet them: removal when an issuer withdraws authorisation (CAP-18, CAP-29)."""

from __future__ import annotations

from ledger.devnet import wire
from ledger.devnet.entries import OFFER, Account, Offer, TrustLine
from ledger.devnet.sponsorship import release_reserve
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import INT64_MAX, NATIVE_ASSET, asset_issuer


def offer_liabilities(offer: Offer) -> tuple[int, int]:
    """(selling, buying) stroops an offer binds, as the exchange at its own price would move them."""
    price_n, price_d, amount = offer.price_n, offer.price_d, offer.amount
    buying = -(-min(amount * price_n, INT64_MAX * price_d) // price_d)
    selling = min(amount, buying * price_d // price_n)
    return selling, -(-selling * price_n // price_d)


def change_liabilities(overlay: Overlay, offer: Offer, sign: int) -> None:
    """Bind (+1) or release (−1) what an offer holds of its seller's balances."""
    selling, buying = offer_liabilities(offer)
    _bind(overlay, offer.seller, offer.selling, selling=sign * selling, buying=0)
    _bind(overlay, offer.seller, offer.buying, selling=0, buying=sign * buying)


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
    target.level = max(target.level, 1)
    target.selling += selling
    target.buying += buying


def remove_offers(overlay: Overlay, seller: bytes, asset: bytes) -> None:
    """Delete a seller's offers that buy or sell an asset and release what they held."""
    prefix = wire.i32(OFFER) + wire.account_id(seller)
    for key in sorted(overlay.owned(prefix)):
        entry = overlay.find(key)
        if entry is None or not isinstance(entry.body, Offer):
            continue
        if asset in (entry.body.selling, entry.body.buying):
            loaded = overlay.load(key)
            if loaded is None or not isinstance(loaded.body, Offer):
                raise StateError("offer: got none, want the one just found")
            change_liabilities(overlay, loaded.body, -1)
            release_reserve(overlay, loaded, overlay.need_account(seller))
            overlay.erase(key)
