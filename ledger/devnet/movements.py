"""Movements: which asset went from whom to whom in a transaction, read off operations and results.

Events (CAP-67) and effects are made of these. Offers on a path give two movements each, as they
change hands with the one who sends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stellar_sdk import xdr

from ledger.devnet.envelope import Operation, account_key_of, arm, muxed_key
from ledger.devnet.network import Network, Record
from ledger.devnet.results import Kind
from ledger.devnet.wire import NATIVE_ASSET, Reader, asset_issuer


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One movement; a party is an account's key, or the id of a claimable balance."""

    operation: int
    """Index from 0."""

    source: bytes
    destination: bytes
    asset: bytes
    """Asset XDR."""

    stroops: int
    muxed: xdr.MuxedAccount | None = None
    """The destination as the operation names it."""

    from_balance: bool = False
    to_balance: bool = False
    is_clawback: bool = False

    @property
    def is_mint(self) -> bool:
        """Whether the issuer makes the money."""
        issuer = asset_issuer(self.asset)
        return issuer == self.source and issuer != self.destination

    @property
    def is_burn(self) -> bool:
        """Whether the issuer ends it."""
        issuer = asset_issuer(self.asset)
        return issuer == self.destination and issuer != self.source


def is_successful(result: bytes) -> bool:
    """Whether a TransactionResult is a success, by the code after its fee; nothing is decoded."""
    return int.from_bytes(result[8:12], signed=True) >= 0


def movements(network: Network, record: Record) -> Iterator[Movement]:
    """Movements of a transaction in order; none of one that failed."""
    if not is_successful(record.result_xdr):
        return
    results = (record.result.inner or record.result).operations
    for index, operation in enumerate(record.tx.operations):
        source = operation.source or record.tx.source
        yield from _of(network, index, source, operation, results[index].xdr)


def _of(
    network: Network, index: int, source: bytes, operation: Operation, result: bytes
) -> Iterator[Movement]:
    body = operation.body
    if body.create_account_op is not None:
        create = body.create_account_op
        target = account_key_of(create.destination)
        yield _native(index, source, target, create.starting_balance.int64)
    elif body.payment_op is not None:
        pay = body.payment_op
        yield Movement(
            operation=index,
            source=source,
            destination=muxed_key(pay.destination),
            asset=pay.asset.to_xdr_bytes(),
            stroops=pay.amount.int64,
            muxed=pay.destination,
        )
    elif operation.kind == Kind.ACCOUNT_MERGE:
        target = muxed_key(arm(body.destination))
        yield _native(index, source, target, Reader(result[-8:]).i64())
    elif operation.kind in (Kind.PATH_PAYMENT_STRICT_RECEIVE, Kind.PATH_PAYMENT_STRICT_SEND):
        yield from _on_path(index, source, operation, result)
    else:
        yield from _of_balances(network, index, source, operation, result)


def _native(index: int, source: bytes, destination: bytes, stroops: int) -> Movement:
    return Movement(
        operation=index,
        source=source,
        destination=destination,
        asset=NATIVE_ASSET,
        stroops=stroops,
    )


def _on_path(index: int, source: bytes, operation: Operation, result: bytes) -> Iterator[Movement]:
    body = operation.body
    receive, send = body.path_payment_strict_receive_op, body.path_payment_strict_send_op
    path: xdr.PathPaymentStrictReceiveOp | xdr.PathPaymentStrictSendOp
    path = receive if receive is not None else arm(send)
    reader = Reader(result, 12)
    for _ in range(reader.u32()):
        kind = reader.i32()
        party = reader.account() if kind == 1 else reader.take(32)
        if kind != 2:
            reader.i64()  # the offer's number
        sold, sold_stroops = reader.asset(), reader.i64()
        bought, bought_stroops = reader.asset(), reader.i64()
        for asset, stroops, giver, taker in (
            (bought, bought_stroops, source, party),
            (sold, sold_stroops, party, source),
        ):
            yield Movement(
                operation=index, source=giver, destination=taker, asset=asset, stroops=stroops
            )
    yield Movement(
        operation=index,
        source=source,
        destination=muxed_key(path.destination),
        asset=path.dest_asset.to_xdr_bytes(),
        stroops=Reader(result[-8:]).i64(),
        muxed=path.destination,
    )


def _of_balances(
    network: Network, index: int, source: bytes, operation: Operation, result: bytes
) -> Iterator[Movement]:
    body = operation.body
    if body.create_claimable_balance_op is not None:
        create = body.create_claimable_balance_op
        yield Movement(
            operation=index,
            source=source,
            destination=result[-32:],
            asset=create.asset.to_xdr_bytes(),
            stroops=create.amount.int64,
            to_balance=True,
        )
    elif body.clawback_op is not None:
        claw = body.clawback_op
        yield Movement(
            operation=index,
            source=muxed_key(claw.from_),
            destination=source,
            asset=claw.asset.to_xdr_bytes(),
            stroops=claw.amount.int64,
            is_clawback=True,
        )
    elif operation.kind in (Kind.CLAIM_CLAIMABLE_BALANCE, Kind.CLAWBACK_CLAIMABLE_BALANCE):
        claim = body.claim_claimable_balance_op or arm(body.clawback_claimable_balance_op)
        balance = arm(claim.balance_id.v0).hash
        asset, stroops = _created(network, balance)
        yield Movement(
            operation=index,
            source=balance,
            destination=source,
            asset=asset,
            stroops=stroops,
            from_balance=True,
            is_clawback=operation.kind == Kind.CLAWBACK_CLAIMABLE_BALANCE,
        )


def _created(network: Network, balance: bytes) -> tuple[bytes, int]:
    """What a claimable balance held, by the transaction that made it."""
    for record in reversed(network.records):
        if balance in record.result_xdr and is_successful(record.result_xdr):
            results = (record.result.inner or record.result).operations
            for operation, result in zip(record.tx.operations, results, strict=True):
                create = operation.body.create_claimable_balance_op
                if create is not None and result.xdr[-32:] == balance:
                    return create.asset.to_xdr_bytes(), create.amount.int64
    return NATIVE_ASSET, 0
