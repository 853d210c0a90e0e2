"""Conversion of one asset into another over the offers of the ledger.

Words as in the protocol's own description: the taker sells *sheep* for *wheat*; an offer on the
book sells wheat at `price_n / price_d` sheep each. Rounding follows the exchange rules of protocol
10 and later; path payments prefer a liquidity pool unless the book is strictly cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ledger.devnet import wire
from ledger.devnet.balances import (
    IssuerLine,
    add_holding,
    add_native,
    available_balance,
    holding,
    max_receive,
    may_maintain,
)
from ledger.devnet.entries import Offer
from ledger.devnet.freezing import offer_is_frozen
from ledger.devnet.operations import pools
from ledger.devnet.operations.liabilities import change_liabilities
from ledger.devnet.sponsorship import release_reserve
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import INT64_MAX, NATIVE_ASSET

MAX_OFFERS_TO_CROSS: Final = 1_000
_CLAIM_ATOM_ORDER_BOOK: Final = 1


class Stop(Enum):
    """Why a conversion ended, or could not be made."""

    DONE = "done"
    TOO_FEW_OFFERS = "too few offers"
    BAD_PRICE = "bad price"
    CROSS_SELF = "offer crosses itself"
    OVER_LIMIT = "limit passed"
    TOO_MANY = "too many offers crossed"


class Rounding(Enum):
    """What the taker insists on."""

    NORMAL = "normal"
    STRICT_RECEIVE = "strict receive"
    STRICT_SEND = "strict send"


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
    stop: Stop = Stop.DONE


@dataclass(frozen=True, slots=True)
class Trade:
    """One exchange with one offer."""

    wheat: int
    sheep: int
    wheat_stays: bool


def exchange(
    price: tuple[int, int],
    wheat_send: int,
    wheat_receive: int,
    sheep_send: int,
    sheep_receive: int,
    rounding: Rounding,
) -> Trade:
    """What changes hands between an offer and a taker, limits being maxima in stroops.

    The price error bound is applied: who trades at `NORMAL` never gets more than one per cent less
    than the price.
    """
    trade = exchange_unbounded(
        price, wheat_send, wheat_receive, sheep_send, sheep_receive, rounding
    )
    if trade.wheat > 0 and trade.sheep > 0:
        ordinary = rounding is Rounding.NORMAL
        if _within_bound(price, trade.wheat, trade.sheep, may_favor_wheat=not ordinary):
            return trade
        if not ordinary:
            raise StateError("exchange: got a price outside its error bound")
        return Trade(0, 0, trade.wheat_stays)
    if rounding is Rounding.STRICT_SEND:
        if trade.sheep == 0:
            raise StateError("exchange: got nothing sent, want something")
        return trade
    return Trade(0, 0, trade.wheat_stays)


def exchange_unbounded(
    price: tuple[int, int],
    wheat_send: int,
    wheat_receive: int,
    sheep_send: int,
    sheep_receive: int,
    rounding: Rounding,
) -> Trade:
    """The exchange before the price error bound."""
    n, d = price
    wheat_value = min(wheat_send * n, sheep_receive * d)
    sheep_value = min(sheep_send * d, wheat_receive * n)
    stays = wheat_value > sheep_value
    if stays and rounding is Rounding.STRICT_SEND:
        return Trade(sheep_value // n, min(sheep_send, sheep_receive), stays)
    if stays and (n > d or rounding is Rounding.STRICT_RECEIVE):
        wheat = sheep_value // n
        return Trade(wheat, -(-wheat * n // d), stays)
    if stays:
        sheep = sheep_value // d
        return Trade(sheep * d // n, sheep, stays)
    if n > d:
        wheat = wheat_value // n
        return Trade(wheat, wheat * n // d, stays)
    sheep = wheat_value // d
    return Trade(-(-sheep * d // n), sheep, stays)


def _within_bound(price: tuple[int, int], wheat: int, sheep: int, *, may_favor_wheat: bool) -> bool:
    n, d = price
    due, paid = 100 * n * wheat, 100 * d * sheep
    return (may_favor_wheat and paid > due) or abs(due - paid) <= n * wheat


def adjusted_amount(price: tuple[int, int], wheat_send: int, sheep_receive: int) -> int:
    """Largest amount an offer can honour exactly, in stroops."""
    everything = INT64_MAX
    return exchange(price, wheat_send, everything, everything, sheep_receive, Rounding.NORMAL).wheat


def can_sell(overlay: Overlay, seller: bytes, asset: bytes) -> int:
    """Stroops of an asset that an account could give now."""
    if asset == NATIVE_ASSET:
        return max(0, available_balance(overlay.header, overlay.need_account(seller)))
    line = holding(overlay, seller, asset)
    if isinstance(line, IssuerLine):
        return INT64_MAX
    return max(0, line.balance - line.selling) if line and may_maintain(line) else 0


def can_buy(overlay: Overlay, buyer: bytes, asset: bytes) -> int:
    """Stroops of an asset that an account could take now."""
    if asset == NATIVE_ASSET:
        return max(0, max_receive(overlay.need_account(buyer)))
    line = holding(overlay, buyer, asset)
    if isinstance(line, IssuerLine):
        return INT64_MAX
    return max(0, line.limit - line.balance - line.buying) if line and may_maintain(line) else 0


def move(overlay: Overlay, holder: bytes, asset: bytes, delta: int) -> None:
    """Change a balance within limits that were computed before.

    Raises:
        StateError: the limits did not hold.
    """
    if delta == 0:
        return
    if asset == NATIVE_ASSET:
        moved = add_native(overlay.header, overlay.need_account(holder), delta)
    else:
        line = holding(overlay, holder, asset)
        moved = line is not None and add_holding(line, delta)
    if not moved:
        raise StateError(f"exchange: got no room for {delta}, want what was computed")


def best_offer(overlay: Overlay, wheat: bytes, sheep: bytes) -> Offer | None:
    """Cheapest offer that sells wheat for sheep, the oldest of equals."""
    best: Offer | None = None
    rank: tuple[float, int] | None = None
    for key in overlay.offers():
        entry = overlay.find(key)
        offer = entry.body if entry else None
        if not isinstance(offer, Offer) or (offer.selling, offer.buying) != (wheat, sheep):
            continue
        # The protocol orders the book by prices as double precision numbers.
        candidate = (offer.price_n / offer.price_d, offer.offer_id)
        if rank is None or candidate < rank:
            best, rank = offer, candidate
    return best


def convert(
    outer: Overlay,
    sheep: bytes,
    max_sheep: int,
    wheat: bytes,
    max_wheat: int,
    rounding: Rounding,
    judge: Callable[[Offer], Stop | None],
    crossed_before: int = 0,
) -> Leg:
    """Take offers until a limit is reached, there are no more, or `judge` stops at one."""
    sold, bought, trail = 0, 0, list[bytes]()
    more = max_wheat > 0 and max_sheep > 0
    if more and crossed_before >= MAX_OFFERS_TO_CROSS:
        return Leg(sold, bought, trail, Stop.TOO_MANY)
    while more:
        with Overlay(outer) as overlay:
            best = best_offer(overlay, wheat, sheep)
            if best is None:
                break
            if overlay.header.frozen and offer_is_frozen(best, overlay.header.frozen):
                _drop(overlay, best)
                overlay.commit()
                continue
            stop = judge(best)
            if stop is not None:
                return Leg(sold, bought, trail, stop)
            if crossed_before + len(trail) >= MAX_OFFERS_TO_CROSS:
                return Leg(sold, bought, trail, Stop.TOO_MANY)
            trade, atom, emptied = _cross(overlay, best, max_wheat, max_sheep, rounding)
            overlay.commit()
        trail.append(atom)
        sold, max_sheep = sold + trade.sheep, max_sheep - trade.sheep
        bought, max_wheat = bought + trade.wheat, max_wheat - trade.wheat
        more = not trade.wheat_stays and max_wheat > 0 and max_sheep > 0
        if not more:
            return Leg(sold, bought, trail)
        if not emptied:
            return Leg(sold, bought, trail, Stop.TOO_FEW_OFFERS)
    return Leg(sold, bought, trail, Stop.TOO_FEW_OFFERS if more else Stop.DONE)


def _drop(overlay: Overlay, best: Offer) -> None:
    """Take a frozen owner's offer off the book; only what it bound moves."""
    entry = overlay.load(best.key())
    if entry is None:
        raise StateError("offer: got none, want the best one")
    change_liabilities(overlay, best, -1)
    release_reserve(overlay, entry, overlay.need_account(best.seller))
    overlay.erase(best.key())


def _cross(
    overlay: Overlay, best: Offer, max_wheat: int, max_sheep: int, rounding: Rounding
) -> tuple[Trade, bytes, bool]:
    """Trade with one offer: the trade, its ClaimAtom, whether the offer is gone."""
    seller, wheat, sheep = best.seller, best.selling, best.buying
    if overlay.peek_account(seller) is None:
        raise StateError("offer: got no seller, want one")
    entry = overlay.load(best.key())
    if entry is None or not isinstance(entry.body, Offer):
        raise StateError("offer: got none, want the best one")
    offer = entry.body
    price = (offer.price_n, offer.price_d)
    change_liabilities(overlay, offer, -1)
    give = min(offer.amount, can_sell(overlay, seller, wheat))
    take = can_buy(overlay, seller, sheep)
    offer.amount = adjusted_amount(price, give, take)
    give = min(offer.amount, can_sell(overlay, seller, wheat))
    trade = exchange(price, give, max_wheat, max_sheep, take, rounding)
    move(overlay, seller, sheep, trade.sheep)
    move(overlay, seller, wheat, -trade.wheat)
    if trade.wheat_stays:
        give = min(offer.amount - trade.wheat, can_sell(overlay, seller, wheat))
        offer.amount = adjusted_amount(price, give, can_buy(overlay, seller, sheep))
    else:
        offer.amount = 0
    if offer.amount == 0:
        release_reserve(overlay, entry, overlay.need_account(seller))
        overlay.erase(offer.key())
    else:
        change_liabilities(overlay, offer, 1)
    atom = wire.i32(_CLAIM_ATOM_ORDER_BOOK) + wire.account_id(seller) + wire.i64(best.offer_id)
    atom += wheat + wire.i64(trade.wheat) + sheep + wire.i64(trade.sheep)
    return trade, atom, offer.amount == 0


# Path payments


def _path_leg(
    overlay: Overlay,
    taker: bytes,
    sheep: bytes,
    max_sheep: int,
    wheat: bytes,
    max_wheat: int,
    rounding: Rounding,
    crossed_before: int,
) -> Leg | Failure:
    def judge(offer: Offer) -> Stop | None:
        return Stop.CROSS_SELF if offer.seller == taker else None

    receives = rounding is Rounding.STRICT_RECEIVE
    pooled = None
    if crossed_before < MAX_OFFERS_TO_CROSS:
        sent, received = (None, max_wheat) if receives else (max_sheep, None)
        pooled = pools.quote(overlay, sheep, wheat, sent=sent, received=received)
    with Overlay(overlay) as book:
        leg = convert(book, sheep, max_sheep, wheat, max_wheat, rounding, judge, crossed_before)
        if pooled is None or (
            leg.stop is Stop.DONE and pooled[0] * leg.bought > pooled[1] * leg.sold
        ):
            book.commit()
            pooled = None
    if pooled is not None:
        atom = pools.trade(overlay, sheep, wheat, pooled)
        leg = Leg(pooled[0], pooled[1], [atom])
    if leg.stop is not Stop.DONE:
        return Failure(leg.stop)
    complete = leg.bought == max_wheat if receives else leg.sold == max_sheep
    return leg if complete else Failure(Stop.TOO_FEW_OFFERS)


def convert_to_receive(
    overlay: Overlay, taker: bytes, send: bytes, receive: bytes, amount: int, crossed: int
) -> Leg | Failure:
    """Buy exactly `amount` stroops of `receive` for as much of `send` as that takes."""
    strict = Rounding.STRICT_RECEIVE
    return _path_leg(overlay, taker, send, INT64_MAX, receive, amount, strict, crossed)


def convert_to_send(
    overlay: Overlay, taker: bytes, send: bytes, receive: bytes, amount: int, crossed: int
) -> Leg | Failure:
    """Sell exactly `amount` stroops of `send` for as much of `receive` as that brings."""
    strict = Rounding.STRICT_SEND
    return _path_leg(overlay, taker, send, amount, receive, INT64_MAX, strict, crossed)
