"""Offers: sell, buy, passive sell; and their removal when an issuer withdraws authorisation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from stellar_sdk import xdr

from ledger.devnet import wire
from ledger.devnet.balances import available_balance, holding, is_authorized, max_receive
from ledger.devnet.entries import OFFER, Entry, Offer, TrustLine
from ledger.devnet.envelope import arm
from ledger.devnet.operations.base import Call, Handler, reserve_failure
from ledger.devnet.operations.exchange import (
    Leg,
    Rounding,
    Stop,
    adjusted_amount,
    can_buy,
    can_sell,
    convert,
    move,
)
from ledger.devnet.operations.liabilities import change_liabilities, offer_liabilities
from ledger.devnet.results import OP_EXCEEDED_WORK_LIMIT, Kind, OpResult, fail, refuse, succeed
from ledger.devnet.sponsorship import Sponsoring, create_reserve, release_reserve
from ledger.devnet.state import Overlay, StateError
from ledger.devnet.wire import INT64_MAX, NATIVE_ASSET, asset_is_valid

PASSIVE: Final = 1
# ManageSellOfferResultCode
MALFORMED, SELL_NO_TRUST, BUY_NO_TRUST, SELL_NOT_AUTHORIZED, BUY_NOT_AUTHORIZED = range(-1, -6, -1)
LINE_FULL, UNDERFUNDED, CROSS_SELF = -6, -7, -8
NOT_FOUND, LOW_RESERVE = -11, -12
CREATED, UPDATED, DELETED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Wish:
    """What an offer operation asks: sell sheep for wheat at `price` wheat per sheep.

    One of `sell_amount` and `buy_amount` limits it; the other is None.
    """

    sheep: bytes
    wheat: bytes
    price: tuple[int, int]
    offer_id: int
    sell_amount: int | None
    buy_amount: int | None
    passive: bool

    @property
    def amount(self) -> int:
        """The limit, in stroops of what it limits."""
        amount = self.buy_amount if self.sell_amount is None else self.sell_amount
        return amount or 0

    def liabilities(self) -> tuple[int, int]:
        """(selling, buying) stroops the whole offer would bind."""
        if self.sell_amount is not None:
            return offer_liabilities(self.price, self.sell_amount)
        n, d = self.price
        value = min(INT64_MAX * n, self.amount * d)
        if n > d:
            selling = value // n
            return selling, selling * n // d
        buying = value // d
        return -(-buying * d // n), buying


def _price(price: xdr.Price) -> tuple[int, int]:
    return price.n.int32, price.d.int32


def _wish(call: Call) -> Wish:
    body = call.body
    if body.manage_buy_offer_op is not None:
        buy = body.manage_buy_offer_op
        n, d = _price(buy.price)
        return Wish(
            buy.selling.to_xdr_bytes(),
            buy.buying.to_xdr_bytes(),
            (d, n),
            buy.offer_id.int64,
            None,
            buy.buy_amount.int64,
            passive=False,
        )
    if body.create_passive_sell_offer_op is not None:
        passive = body.create_passive_sell_offer_op
        return Wish(
            passive.selling.to_xdr_bytes(),
            passive.buying.to_xdr_bytes(),
            _price(passive.price),
            0,
            passive.amount.int64,
            None,
            passive=True,
        )
    sell = arm(body.manage_sell_offer_op)
    return Wish(
        sell.selling.to_xdr_bytes(),
        sell.buying.to_xdr_bytes(),
        _price(sell.price),
        sell.offer_id.int64,
        sell.amount.int64,
        None,
        passive=False,
    )


def _check(call: Call, _protocol: int) -> int | None:
    wish = _wish(call)
    if not asset_is_valid(wish.sheep) or not asset_is_valid(wish.wheat):
        return MALFORMED
    if wish.sheep == wish.wheat or wish.amount < 0 or min(wish.price) <= 0:
        return MALFORMED
    if wish.offer_id < 0 or (wish.offer_id == 0 and wish.amount == 0):
        return MALFORMED
    return None


def _line_fault(overlay: Overlay, call: Call, wish: Wish) -> int | None:
    if wish.sheep != NATIVE_ASSET:
        line = holding(overlay, call.source, wish.sheep)
        if line is None:
            return SELL_NO_TRUST
        if isinstance(line, TrustLine):
            if line.balance == 0:
                return UNDERFUNDED
            if not is_authorized(line):
                return SELL_NOT_AUTHORIZED
    if wish.wheat != NATIVE_ASSET:
        line = holding(overlay, call.source, wish.wheat)
        if line is None:
            return BUY_NO_TRUST
        if isinstance(line, TrustLine) and not is_authorized(line):
            return BUY_NOT_AUTHORIZED
    return None


def _apply(overlay: Overlay, call: Call) -> OpResult:
    wish = _wish(call)
    if wish.amount:
        with Overlay(overlay) as looking:
            fault = _line_fault(looking, call, wish)
        if fault is not None:
            return fail(call.kind, fault)
    blank = Offer(call.source, wish.offer_id, wish.sheep, wish.wheat, 0, *wish.price)
    entry = Entry(blank)
    if wish.offer_id:
        old = overlay.offer(call.source, wish.offer_id)
        if old is None:
            return fail(call.kind, NOT_FOUND)
        change_liabilities(overlay, old, -1)
        held = overlay.load(old.key())
        if held is None:
            raise StateError("offer: got none, want the one just loaded")
        blank.flags, entry.sponsor, entry.extended = old.flags, held.sponsor, held.extended
        overlay.erase(old.key())
    else:
        blank.flags = PASSIVE if wish.passive else 0
        verdict = create_reserve(overlay, entry, overlay.need_account(call.source))
        if verdict is not Sponsoring.SUCCESS:
            return reserve_failure(verdict, fail(call.kind, LOW_RESERVE))
    if not wish.amount:
        return _finish(overlay, call, entry, blank, [])
    return _trade(overlay, call, wish, entry, blank)


def _limits(overlay: Overlay, call: Call, wish: Wish) -> tuple[int, int] | int:
    """(most sheep to send, most wheat to receive), or the code of what does not fit."""
    selling, buying = wish.liabilities()
    with Overlay(overlay) as looking:
        if _room(looking, call.source, wish.wheat) < buying:
            return LINE_FULL
        if _free(looking, call.source, wish.sheep) < selling:
            return UNDERFUNDED
        sheep = can_sell(looking, call.source, wish.sheep)
        wheat = can_buy(looking, call.source, wish.wheat)
    if wish.sell_amount is not None:
        sheep = min(sheep, wish.sell_amount)
    if wish.buy_amount is not None:
        wheat = min(wheat, wish.buy_amount)
    return (sheep, wheat) if wheat else LINE_FULL


def _room(overlay: Overlay, account: bytes, asset: bytes) -> int:
    if asset == NATIVE_ASSET:
        return max_receive(overlay.need_account(account))
    return can_buy(overlay, account, asset)


def _free(overlay: Overlay, account: bytes, asset: bytes) -> int:
    if asset == NATIVE_ASSET:
        return available_balance(overlay.header, overlay.need_account(account))
    return can_sell(overlay, account, asset)


def _trade(overlay: Overlay, call: Call, wish: Wish, entry: Entry, blank: Offer) -> OpResult:
    limits = _limits(overlay, call, wish)
    if isinstance(limits, int):
        return fail(call.kind, limits)
    n, d = wish.price
    # The book's prices are sheep per wheat, the wish's are wheat per sheep.
    worst = Fraction(d, n)

    def judge(offer: Offer) -> Stop | None:
        price = Fraction(offer.price_n, offer.price_d)
        if price > worst or (blank.flags & PASSIVE and price >= worst):
            return Stop.BAD_PRICE
        return Stop.CROSS_SELF if offer.seller == call.source else None

    leg = convert(overlay, wish.sheep, limits[0], wish.wheat, limits[1], Rounding.NORMAL, judge)
    if leg.stop is Stop.CROSS_SELF:
        return fail(call.kind, CROSS_SELF)
    if leg.stop is Stop.TOO_MANY:
        return refuse(OP_EXCEEDED_WORK_LIMIT)
    if leg.bought > 0:
        move(overlay, call.source, wish.wheat, leg.bought)
        move(overlay, call.source, wish.sheep, -leg.sold)
    blank.amount = 0 if leg.stop is Stop.DONE else _left(overlay, call, wish, leg)
    return _finish(overlay, call, entry, blank, leg.trail)


def _left(overlay: Overlay, call: Call, wish: Wish, leg: Leg) -> int:
    """What stays on the book after the trades."""
    with Overlay(overlay) as looking:
        sheep = can_sell(looking, call.source, wish.sheep)
        wheat = can_buy(looking, call.source, wish.wheat)
    if wish.sell_amount is not None:
        sheep = min(sheep, wish.sell_amount - leg.sold)
    if wish.buy_amount is not None:
        wheat = min(wheat, wish.buy_amount - leg.bought)
    return adjusted_amount(wish.price, sheep, wheat)


def _finish(
    overlay: Overlay, call: Call, entry: Entry, offer: Offer, trail: list[bytes]
) -> OpResult:
    payload = wire.u32(len(trail)) + b"".join(trail)
    if offer.amount == 0:
        release_reserve(overlay, entry, overlay.need_account(call.source))
        return succeed(call.kind, payload + wire.i32(DELETED))
    effect = UPDATED
    if offer.offer_id == 0:
        overlay.header.id_pool += 1
        offer.offer_id, effect = overlay.header.id_pool, CREATED
    overlay.create(offer, entry)
    change_liabilities(overlay, offer, 1)
    return succeed(call.kind, payload + wire.i32(effect) + offer.encode())


def remove_offers(overlay: Overlay, seller: bytes, asset: bytes) -> None:
    """Delete a seller's offers that buy or sell an asset and release what they held (CAP-18)."""
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


HANDLERS: Final = {
    int(Kind.MANAGE_SELL_OFFER): Handler(_check, _apply),
    int(Kind.CREATE_PASSIVE_SELL_OFFER): Handler(_check, _apply),
    int(Kind.MANAGE_BUY_OFFER): Handler(_check, _apply),
}
