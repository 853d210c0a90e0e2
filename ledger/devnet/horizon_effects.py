"""Horizon's effects, as far as they are about money: credited, debited, created, removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ledger.devnet import horizon
from ledger.devnet.horizon import Json, address, amount, asset_fields
from ledger.devnet.movements import Movement, movements
from ledger.devnet.network import Record
from ledger.devnet.results import Kind
from ledger.devnet.view import View

_TYPES: Final = {
    "account_created": 0,
    "account_removed": 1,
    "account_credited": 2,
    "account_debited": 3,
}


def effects(
    view: View, record: Record, base: str, wanted: bytes | None
) -> Iterator[tuple[int, Json]]:
    """(paging token, resource) of each effect of a transaction, on one account or on all."""
    closed = view.network.ledgers[record.ledger - 1]
    counts: dict[int, int] = {}
    for movement in movements(view.network, record):
        token = record.token | (movement.operation + 1)
        for name, account, fields in _of(movement, record):
            counts[token] = counts.get(token, 0) + 1
            if wanted is not None and account != wanted:
                continue
            yield (
                token,
                {
                    "_links": {"operation": {"href": f"{base}/operations/{token}"}},
                    "id": f"{token:019d}-{counts[token]:010d}",
                    "paging_token": f"{token}-{counts[token]}",
                    "account": address(account),
                    "type": name,
                    "type_i": _TYPES[name],
                    "created_at": horizon.stamp(closed.header.close_time),
                    **fields,
                },
            )


def _of(movement: Movement, record: Record) -> Iterator[tuple[str, bytes, Json]]:
    kind = record.tx.operations[movement.operation].kind
    money = {"amount": amount(movement.stroops), **asset_fields(movement.asset)}
    if kind == Kind.CREATE_ACCOUNT:
        start = {"starting_balance": amount(movement.stroops)}
        yield "account_created", movement.destination, start
        yield "account_debited", movement.source, money
        return
    if not movement.to_balance and not movement.is_clawback:
        yield "account_credited", movement.destination, money
    if not movement.from_balance:
        yield "account_debited", movement.source, money
    if kind == Kind.ACCOUNT_MERGE:
        yield "account_removed", movement.source, {}
