"""Stellar's operations and their results: what each one moved, and between whom.

Reads the bodies and results of all classic operations (types 0 to 23), so that nobody can hide a
payment to us beside an operation that the books have no use for. What the result does not tell
exactly (offers, pools, claimed balances) becomes an inexact movement of the account it concerns:
the books stop if that is one of ours, and pass it over otherwise; of a claimed balance its id is
told, by which the books know the amount from its creation. A contract (24 to 26) moves money
without saying so in envelope or result: its operation, always alone in its transaction, is an
inexact movement of its source, and whatever it brought is found when balances are compared.
Source: Stellar-transaction.x and Stellar-ledger-entries.x of stellar/stellar-xdr; the depth of
predicates and the number of crossed offers are bounded as in stellar-core.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from ledger.audit.xdr import NATIVE, Asset, MalformedXdrError, XdrReader
from ledger.books.transactions import Movement

_NOBODY = bytes(32)
"""In place of an account: the market, a pool, a claimable balance, or the network itself."""

_PATH_MAX = 5
_CLAIMANTS_MAX = 10
_PREDICATES_MAX = 2
_PREDICATE_DEPTH_MAX = 4
_CROSSED_OFFERS_MAX = 1 << 14
_INFLATION_WINNERS_MAX = 2000


class OperationType(IntEnum):
    """OperationType of Stellar-transaction.x."""

    CREATE_ACCOUNT = 0
    PAYMENT = 1
    PATH_PAYMENT_STRICT_RECEIVE = 2
    MANAGE_SELL_OFFER = 3
    CREATE_PASSIVE_SELL_OFFER = 4
    SET_OPTIONS = 5
    CHANGE_TRUST = 6
    ALLOW_TRUST = 7
    ACCOUNT_MERGE = 8
    INFLATION = 9
    MANAGE_DATA = 10
    BUMP_SEQUENCE = 11
    MANAGE_BUY_OFFER = 12
    PATH_PAYMENT_STRICT_SEND = 13
    CREATE_CLAIMABLE_BALANCE = 14
    CLAIM_CLAIMABLE_BALANCE = 15
    BEGIN_SPONSORING_FUTURE_RESERVES = 16
    END_SPONSORING_FUTURE_RESERVES = 17
    REVOKE_SPONSORSHIP = 18
    CLAWBACK = 19
    CLAWBACK_CLAIMABLE_BALANCE = 20
    SET_TRUST_LINE_FLAGS = 21
    LIQUIDITY_POOL_DEPOSIT = 22
    LIQUIDITY_POOL_WITHDRAW = 23
    INVOKE_HOST_FUNCTION = 24
    EXTEND_FOOTPRINT_TTL = 25
    RESTORE_FOOTPRINT = 26


CONTRACT_OPERATIONS = frozenset(
    {
        OperationType.INVOKE_HOST_FUNCTION,
        OperationType.EXTEND_FOOTPRINT_TTL,
        OperationType.RESTORE_FOOTPRINT,
    }
)
"""Operations of contracts: one alone makes a transaction."""

_PATH_PAYMENTS = frozenset(
    {OperationType.PATH_PAYMENT_STRICT_RECEIVE, OperationType.PATH_PAYMENT_STRICT_SEND}
)
_NO_ISSUER = -9
"""Code of a path payment's failure that is followed by the asset without an issuer."""

_PAYEE_AT_FAULT = frozenset({-5, -6, -7, -8})
"""Codes of payments that fail on the payee's side.

No such account, no trust line, not authorized to hold the asset, trust line full; the same numbers
in all three kinds of payment.
"""
_NOTHING_SET = bytes(9 * 4)
"""A set_options whose nine fields are all absent."""

_ALREADY_EXISTS = -4
"""Code of an account creation whose destination exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation as its envelope tells it."""

    index: int
    """Place in its transaction, from 0."""

    kind: OperationType
    source: bytes
    """Account; 32 bytes."""

    destination: bytes
    """Payee of a payment, merge or account creation; empty for other operations."""

    movements: tuple[Movement, ...]
    """What it moves if it succeeds, as far as the envelope tells."""

    does_nothing: bool = False
    """Whether it is a set_options that sets nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationOutcome:
    """What became of an operation."""

    succeeded: bool
    movements: tuple[Movement, ...]
    """What it moved, if its transaction took effect; empty if it failed."""

    is_payee_at_fault: bool
    """It failed as a payment, and for the payee's account alone."""


def read_operation(reader: XdrReader, index: int, default_source: bytes) -> Operation:
    """Take an operation off the front; of a contract's, whose body is not read, only the head.

    Args:
        reader: At the operation.
        index: Its place in its transaction, from 0.
        default_source: The transaction's source account.

    Raises:
        MalformedXdrError: It is not well-formed, or of a type that this reader does not know.
    """
    source = reader.muxed_account() if reader.present() else default_source
    kind = reader.uint()
    if kind in CONTRACT_OPERATIONS:
        return Operation(
            index=index,
            kind=OperationType(kind),
            source=source,
            destination=b"",
            movements=(_untold(index, source),),
        )
    if kind not in _BODIES:
        raise MalformedXdrError("operation.type", got=kind, want="an operation, 0 to 26")
    start = reader.at
    movements, destination = _BODIES[OperationType(kind)](reader, index, source)
    body = reader.data[start : reader.at]
    return Operation(
        index=index,
        kind=OperationType(kind),
        source=source,
        destination=destination,
        movements=movements,
        does_nothing=kind == OperationType.SET_OPTIONS and body == _NOTHING_SET,
    )


def read_operation_result(reader: XdrReader, operation: Operation) -> OperationOutcome:
    """Take the result of an operation off the front.

    Raises:
        MalformedXdrError: It is not well-formed, or not the result of this operation.
    """
    code = reader.int32()
    if code == 0:
        kind = reader.uint()
        if kind != operation.kind:
            raise MalformedXdrError("result.operation type", got=kind, want=f"{operation.kind}")
        code = reader.int32()
        if code == 0:
            read = _SUCCESSES.get(operation.kind)
            movements = operation.movements if read is None else read(reader, operation)
            return OperationOutcome(succeeded=True, movements=movements, is_payee_at_fault=False)
        if operation.kind in _PATH_PAYMENTS and code == _NO_ISSUER:
            reader.asset()
        is_payee_at_fault = _is_payee_at_fault(operation.kind, code)
    else:
        is_payee_at_fault = False
    if code > 0:
        raise MalformedXdrError("result.operation code", got=code, want="at most 0")
    return OperationOutcome(succeeded=False, movements=(), is_payee_at_fault=is_payee_at_fault)


def _is_payee_at_fault(kind: OperationType, code: int) -> bool:
    if kind == OperationType.CREATE_ACCOUNT:
        return code == _ALREADY_EXISTS
    return (kind == OperationType.PAYMENT or kind in _PATH_PAYMENTS) and code in _PAYEE_AT_FAULT


# --- bodies ---------------------------------------------------------------------------------------

_Body = tuple[tuple[Movement, ...], bytes]
"""Movements and destination."""

_NOTHING: _Body = ((), b"")


def _movement(
    index: int,
    asset: Asset,
    source: bytes,
    destination: bytes,
    amount: int,
    *,
    creates_account: bool = False,
    is_exact: bool = True,
) -> Movement:
    return Movement(
        operation_index=index,
        asset_code=asset[0],
        asset_issuer=asset[1],
        source=source,
        destination=destination,
        amount_stroops=max(amount, 0),
        creates_account=creates_account,
        is_exact=is_exact,
    )


def _untold(index: int, source: bytes, asset: Asset = NATIVE, bound: int = 0) -> Movement:
    """Return the movement of an account whose gains and losses the result does not tell."""
    return _movement(index, asset, source, _NOBODY, bound, is_exact=False)


def _create_account(reader: XdrReader, index: int, source: bytes) -> _Body:
    destination, amount = reader.account(), reader.int64()
    created = _movement(index, NATIVE, source, destination, amount, creates_account=True)
    return (created,), destination


def _payment(reader: XdrReader, index: int, source: bytes) -> _Body:
    destination, muxed_id = reader.muxed_address()
    asset, amount = reader.asset(), reader.int64()
    paid = _movement(index, asset, source, destination, amount)
    return (replace(paid, destination_id=muxed_id),), destination


def _path_payment(reader: XdrReader, index: int, source: bytes) -> _Body:
    """Bounds only: one of the two amounts is told by the result, the other by crossed offers."""
    sent_asset, sent = reader.asset(), reader.int64()
    destination, muxed_id = reader.muxed_address()
    asset, amount = reader.asset(), reader.int64()
    hops = reader.count(_PATH_MAX)
    for _ in range(hops):
        reader.asset()
    received = _movement(index, asset, source, destination, amount, is_exact=False)
    received = replace(received, destination_id=muxed_id)
    # Without a hop and within one asset it is a plain payment; what left is what arrived.
    is_plain = sent_asset == asset and hops == 0
    paid = () if is_plain else (_untold(index, source, sent_asset, sent),)
    return (*paid, received), destination


def _manage_offer(reader: XdrReader, index: int, source: bytes) -> _Body:
    body = _create_passive_offer(reader, index, source)
    reader.int64()  # offer id
    return body


def _create_passive_offer(reader: XdrReader, index: int, source: bytes) -> _Body:
    selling = reader.asset()
    reader.asset()
    reader.take(8 + 8)  # amount, price
    return (_untold(index, source, selling),), b""


def _set_options(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    if reader.present():
        reader.account()
    for _ in range(6):
        if reader.present():
            reader.uint()
    if reader.present():
        reader.opaque(32)
    if reader.present():
        reader.skip_signer_key()
        reader.uint()
    return _NOTHING


def _change_trust(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    if _take_pool_share(reader):
        reader.choice("change_trust.pool", 0)
        reader.asset()
        reader.asset()
        reader.int32()  # fee
    else:
        reader.asset()
    reader.int64()
    return _NOTHING


def _take_pool_share(reader: XdrReader) -> bool:
    """Take the discriminant of a pool share if one follows, and leave any other where it is."""
    start = reader.at
    if reader.uint() == 3:
        return True
    reader.at = start
    return False


def _allow_trust(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.account()
    reader.asset_code()
    reader.uint()
    return _NOTHING


def _account_merge(reader: XdrReader, index: int, source: bytes) -> _Body:
    destination, muxed_id = reader.muxed_address()
    merged = _movement(index, NATIVE, source, destination, 0)
    return (replace(merged, destination_id=muxed_id),), destination


def _manage_data(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.opaque(64)
    if reader.present():
        reader.opaque(64)
    return _NOTHING


def _bump_sequence(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.int64()
    return _NOTHING


def _create_claimable_balance(reader: XdrReader, index: int, source: bytes) -> _Body:
    asset, amount = reader.asset(), reader.int64()
    claimants: list[bytes] = []
    for _ in range(reader.count(_CLAIMANTS_MAX)):
        reader.choice("claimant", 0)
        claimants.append(reader.account())
        _skip_predicate(reader, depth=1)
    made = _movement(index, asset, source, _NOBODY, amount)
    return (replace(made, claimants=tuple(claimants)),), b""


def _skip_predicate(reader: XdrReader, depth: int) -> None:
    if depth > _PREDICATE_DEPTH_MAX:
        raise MalformedXdrError(
            "predicate", got=f"depth {depth}", want=f"at most {_PREDICATE_DEPTH_MAX}"
        )
    kind = reader.choice("predicate", 5)
    if kind in {1, 2}:  # and, or
        for _ in range(reader.count(_PREDICATES_MAX)):
            _skip_predicate(reader, depth + 1)
    elif kind == 3:  # not
        if reader.present():
            _skip_predicate(reader, depth + 1)
    elif kind != 0:  # before a time
        reader.int64()


def _claim_claimable_balance(reader: XdrReader, index: int, source: bytes) -> _Body:
    """The result tells neither asset nor amount: the operation that made the balance did."""
    return (replace(_untold(index, source), balance_id=_take_balance_id(reader)),), b""


def _take_balance_id(reader: XdrReader) -> bytes:
    reader.choice("claimable balance", 0)
    return reader.take(32)


def _begin_sponsoring(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    reader.account()
    return _NOTHING


def _empty(_reader: XdrReader, _index: int, _source: bytes) -> _Body:
    return _NOTHING


def _revoke_sponsorship(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    if reader.choice("revoke_sponsorship", 1) == 0:
        _skip_ledger_key(reader)
    else:
        reader.account()
        reader.skip_signer_key()
    return _NOTHING


def _skip_ledger_key(reader: XdrReader) -> None:
    """Read past the key of an entry that can be sponsored, and of a pool."""
    kind = reader.choice("ledger key", 5)
    if kind <= 3:  # account, trust line, offer, data: all of an account
        reader.account()
    if kind == 1:
        if _take_pool_share(reader):
            reader.take(32)
        else:
            reader.asset()
    elif kind == 2:
        reader.int64()
    elif kind == 3:
        reader.opaque(64)
    elif kind == 4:
        _take_balance_id(reader)
    elif kind == 5:
        reader.take(32)


def _clawback(reader: XdrReader, index: int, source: bytes) -> _Body:
    asset, holder, amount = reader.asset(), reader.muxed_account(), reader.int64()
    return (_movement(index, asset, holder, source, amount),), b""


def _clawback_claimable_balance(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    """The balance left its account when it was created; nobody has it after."""
    _take_balance_id(reader)
    return _NOTHING


def _set_trust_line_flags(reader: XdrReader, _index: int, _source: bytes) -> _Body:
    """A revoked holder keeps its balance; shares in pools become claimable balances."""
    reader.account()
    reader.asset()
    reader.take(8)
    return _NOTHING


def _deposit_to_pool(reader: XdrReader, index: int, source: bytes) -> _Body:
    reader.take(32 + 8 + 8 + 8 + 8)  # pool, two amounts, two prices
    return (_untold(index, source),), b""


def _withdraw_from_pool(reader: XdrReader, index: int, source: bytes) -> _Body:
    reader.take(32 + 8 + 8 + 8)  # pool, shares, two amounts
    return (_untold(index, source),), b""


_BODIES: dict[OperationType, Callable[[XdrReader, int, bytes], _Body]] = {
    OperationType.CREATE_ACCOUNT: _create_account,
    OperationType.PAYMENT: _payment,
    OperationType.PATH_PAYMENT_STRICT_RECEIVE: _path_payment,
    OperationType.MANAGE_SELL_OFFER: _manage_offer,
    OperationType.CREATE_PASSIVE_SELL_OFFER: _create_passive_offer,
    OperationType.SET_OPTIONS: _set_options,
    OperationType.CHANGE_TRUST: _change_trust,
    OperationType.ALLOW_TRUST: _allow_trust,
    OperationType.ACCOUNT_MERGE: _account_merge,
    OperationType.INFLATION: _empty,
    OperationType.MANAGE_DATA: _manage_data,
    OperationType.BUMP_SEQUENCE: _bump_sequence,
    OperationType.MANAGE_BUY_OFFER: _manage_offer,
    OperationType.PATH_PAYMENT_STRICT_SEND: _path_payment,
    OperationType.CREATE_CLAIMABLE_BALANCE: _create_claimable_balance,
    OperationType.CLAIM_CLAIMABLE_BALANCE: _claim_claimable_balance,
    OperationType.BEGIN_SPONSORING_FUTURE_RESERVES: _begin_sponsoring,
    OperationType.END_SPONSORING_FUTURE_RESERVES: _empty,
    OperationType.REVOKE_SPONSORSHIP: _revoke_sponsorship,
    OperationType.CLAWBACK: _clawback,
    OperationType.CLAWBACK_CLAIMABLE_BALANCE: _clawback_claimable_balance,
    OperationType.SET_TRUST_LINE_FLAGS: _set_trust_line_flags,
    OperationType.LIQUIDITY_POOL_DEPOSIT: _deposit_to_pool,
    OperationType.LIQUIDITY_POOL_WITHDRAW: _withdraw_from_pool,
}


# --- results of success ---------------------------------------------------------------------------


def _path_payment_done(reader: XdrReader, operation: Operation) -> tuple[Movement, ...]:
    """Fill in what arrived."""
    sellers = _crossed(reader, operation.index)
    *paid, received = operation.movements
    place = reader.account(), reader.asset()
    if place != (received.destination, (received.asset_code, received.asset_issuer)):
        raise MalformedXdrError("result.last", got=place, want="the payment's destination")
    arrived = replace(received, amount_stroops=reader.amount(), is_exact=True)
    return *paid, arrived, *sellers


def _crossed(reader: XdrReader, index: int) -> list[Movement]:
    """Return a movement per crossed offer: its seller traded with our knowing only half of it."""
    sellers: list[Movement] = []
    for _ in range(reader.count(_CROSSED_OFFERS_MAX)):
        kind = reader.choice("claim atom", 2)
        # Version 0 is an offer whose account has no discriminant; 2 is a pool, of nobody.
        seller = reader.account() if kind == 1 else reader.take(32)
        if kind != 2:
            reader.int64()
        sold, sold_amount = reader.asset(), reader.amount()
        reader.asset()
        reader.amount()
        if kind != 2:
            sellers.append(_untold(index, seller, sold, sold_amount))
    return sellers


def _offer_done(reader: XdrReader, operation: Operation) -> tuple[Movement, ...]:
    sellers = _crossed(reader, operation.index)
    if reader.choice("result.offer", 2) != 2:  # created or updated, not deleted
        reader.account()
        reader.int64()
        reader.asset()
        reader.asset()
        reader.take(8 + 8 + 4)  # amount, price, flags
        reader.choice("result.offer.ext", 0)
    return *operation.movements, *sellers


def _merge_done(reader: XdrReader, operation: Operation) -> tuple[Movement, ...]:
    (moved,) = operation.movements
    return (replace(moved, amount_stroops=reader.amount()),)


def _inflation_done(reader: XdrReader, operation: Operation) -> tuple[Movement, ...]:
    """The network pays; the operation's source gets nothing for it."""
    return tuple(
        _movement(operation.index, NATIVE, _NOBODY, reader.account(), reader.amount())
        for _ in range(reader.count(_INFLATION_WINNERS_MAX))
    )


def _claimable_balance_done(reader: XdrReader, operation: Operation) -> tuple[Movement, ...]:
    (made,) = operation.movements
    return (replace(made, balance_id=_take_balance_id(reader)),)


def _host_function_done(reader: XdrReader, operation: Operation) -> tuple[Movement, ...]:
    reader.take(32)  # hash of what it returned
    return operation.movements


_SUCCESSES: dict[OperationType, Callable[[XdrReader, Operation], tuple[Movement, ...]]] = {
    OperationType.PATH_PAYMENT_STRICT_RECEIVE: _path_payment_done,
    OperationType.PATH_PAYMENT_STRICT_SEND: _path_payment_done,
    OperationType.MANAGE_SELL_OFFER: _offer_done,
    OperationType.MANAGE_BUY_OFFER: _offer_done,
    OperationType.CREATE_PASSIVE_SELL_OFFER: _offer_done,
    OperationType.ACCOUNT_MERGE: _merge_done,
    OperationType.INFLATION: _inflation_done,
    OperationType.CREATE_CLAIMABLE_BALANCE: _claimable_balance_done,
    OperationType.INVOKE_HOST_FUNCTION: _host_function_done,
}
