"""getEvents: the events that classic assets give since CAP-67, in stellar-rpc's shapes.

Transfers, mints, burns and clawbacks of successful transactions, under the contract of their asset;
the destination's muxed id, or the memo of a payment without one, stands beside the amount. Fee
events and changes of authorization are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stellar_sdk import Address, Asset, StrKey, scval, xdr

from ledger.devnet.horizon import Json, address, stamp
from ledger.devnet.movements import Movement, movements
from ledger.devnet.network import Network, Record
from ledger.devnet.view import View
from ledger.devnet.wire import NATIVE_ASSET, asset_code

SCAN_LEDGERS: Final = 10_000
_MAX_FILTERS: Final = 5
_INVALID_REQUEST: Final = -32600
_INVALID_PARAMS: Final = -32602
_MAX_EVENT: Final = 2**32 - 1


class EventsError(ValueError):
    """A question that is refused."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Event:
    contract: str
    topics: tuple[str, ...]
    value: str
    operation: int


@dataclass(frozen=True, slots=True)
class _Filter:
    contracts: frozenset[str]
    topics: tuple[tuple[str, ...], ...]

    def passes(self, event: _Event) -> bool:
        if self.contracts and event.contract not in self.contracts:
            return False
        return not self.topics or any(_matches(wanted, event.topics) for wanted in self.topics)


def contract_events(network: Network, record: Record) -> list[list[str]]:
    """ContractEvent XDR of each operation of a transaction."""
    found: list[list[str]] = [[] for _ in record.tx.operations]
    for event in _of(network, record):
        body = xdr.ContractEventV0(
            topics=[xdr.SCVal.from_xdr(topic) for topic in event.topics],
            data=xdr.SCVal.from_xdr(event.value),
        )
        contract = xdr.ContractID(xdr.Hash(StrKey.decode_contract(event.contract)))
        made = xdr.ContractEvent(
            ext=xdr.ExtensionPoint(0),
            contract_id=contract,
            type=xdr.ContractEventType.CONTRACT,
            body=xdr.ContractEventBody(v=0, v0=body),
        )
        found[event.operation].append(made.to_xdr())
    return found


def events(view: View, params: Json, limit: int) -> tuple[list[Json], str]:
    """Events after a cursor or from a ledger on, and the cursor to go on with.

    Raises:
        EventsError: A parameter is refused.
    """
    filters = _filters(params.get("filters") or [])
    start, end = _window(view, params)
    found: list[Json] = []
    for record in view.records_in(start[0] >> 32, end - 1):
        for at, event in enumerate(_of(view.network, record)):
            place = (record.token | event.operation, at)
            if place < start or not (not filters or any(f.passes(event) for f in filters)):
                continue
            found.append(_resource(view, record, event, place))
            if len(found) == limit:
                return found, found[-1]["id"]
    return found, _cursor(((end - 1) << 32) | 0xFFFFFFFF, _MAX_EVENT)


def _cursor(token: int, event: int) -> str:
    return f"{token:019d}-{event:010d}"


def _window(view: View, params: Json) -> tuple[tuple[int, int], int]:
    page = params.get("pagination") or {}
    cursor, start_ledger = page.get("cursor"), params.get("startLedger")
    if cursor:
        token, _, event = str(cursor).partition("-")
        if start_ledger or not (token.isdecimal() and event.isdecimal()):
            raise EventsError(_INVALID_PARAMS, "cursor: want one of an event, and no startLedger")
        start = (int(token), int(event) + 1)
    elif isinstance(start_ledger, int):
        start = (start_ledger << 32, 0)
    else:
        raise EventsError(_INVALID_PARAMS, "startLedger must be positive")
    if not 1 <= start[0] >> 32 <= view.last:
        message = f"startLedger must be within the ledger range: 1 - {view.last}"
        raise EventsError(_INVALID_REQUEST, message)
    end = min(view.last + 1, (start[0] >> 32) + SCAN_LEDGERS)
    wanted = params.get("endLedger")
    return start, min(end, wanted) if isinstance(wanted, int) and wanted else end


def _filters(asked: object) -> list[_Filter]:
    if not isinstance(asked, list) or len(asked) > _MAX_FILTERS:
        raise EventsError(_INVALID_PARAMS, f"maximum {_MAX_FILTERS} filters per request")
    found = []
    for item in asked:
        contracts = item.get("contractIds") or [] if isinstance(item, dict) else None
        topics = item.get("topics") or [] if isinstance(item, dict) else None
        if not isinstance(contracts, list) or not isinstance(topics, list):
            raise EventsError(_INVALID_PARAMS, "filter: want contractIds and topics")
        if item.get("type", "contract") not in ("contract", None):
            contracts = ["none of this type"]
        segments = tuple(tuple(str(part) for part in topic) for topic in topics)
        found.append(_Filter(frozenset(str(name) for name in contracts), segments))
    return found


def _matches(wanted: Sequence[str], topics: Sequence[str]) -> bool:
    if wanted and wanted[-1] == "**":
        head = wanted[:-1]
        return len(topics) >= len(head) and _matches(head, topics[: len(head)])
    pairs = zip(wanted, topics, strict=False)
    return len(wanted) == len(topics) and all(want in ("*", got) for want, got in pairs)


def _resource(view: View, record: Record, event: _Event, place: tuple[int, int]) -> Json:
    closed = view.network.ledgers[record.ledger - 1]
    return {
        "type": "contract",
        "ledger": record.ledger,
        "ledgerClosedAt": stamp(closed.header.close_time),
        "contractId": event.contract,
        "id": _cursor(*place),
        "operationIndex": event.operation,
        "transactionIndex": record.index,
        "txHash": record.tx.hash.hex(),
        "inSuccessfulContractCall": True,
        "topic": list(event.topics),
        "value": event.value,
    }


def _of(network: Network, record: Record) -> Iterator[_Event]:
    for movement in movements(network, record):
        asset = _sdk_asset(movement.asset)
        parties = [
            _address(movement.source, movement.from_balance),
            _address(movement.destination, movement.to_balance),
        ]
        if movement.is_clawback:
            name, named = "clawback", parties[:1]
        elif movement.is_mint:
            name, named = "mint", parties[1:]
        elif movement.is_burn:
            name, named = "burn", parties[:1]
        else:
            name, named = "transfer", parties
        topics = [scval.to_symbol(name), *named]
        text = "native" if asset.is_native() else f"{asset.code}:{asset.issuer}"
        topics.append(scval.to_string(text))
        yield _Event(
            asset.contract_id(network.settings.passphrase),
            tuple(topic.to_xdr() for topic in topics),
            _value(movement, record, with_memo=name in ("transfer", "mint")).to_xdr(),
            movement.operation,
        )


def _sdk_asset(raw: bytes) -> Asset:
    if raw == NATIVE_ASSET:
        return Asset.native()
    return Asset(asset_code(raw), address(raw[-32:]))


def _address(party: bytes, is_balance: bool) -> xdr.SCVal:
    if is_balance:
        name = StrKey.encode_claimable_balance(bytes(1) + party)
        return scval.to_address(Address(name))
    return scval.to_address(Address(address(party)))


def _value(movement: Movement, record: Record, *, with_memo: bool) -> xdr.SCVal:
    amount = scval.to_int128(movement.stroops)
    muxed = _muxed_id(movement, record) if with_memo else None
    if muxed is None:
        return amount
    fields = {scval.to_symbol("amount"): amount, scval.to_symbol("to_muxed_id"): muxed}
    return scval.to_map(fields)


def _muxed_id(movement: Movement, record: Record) -> xdr.SCVal | None:
    if movement.muxed is None:
        return None
    if movement.muxed.med25519 is not None:
        return scval.to_uint64(movement.muxed.med25519.id.uint64)
    memo = record.tx.memo
    if memo.text is not None:
        return scval.to_string(memo.text)
    if memo.id is not None:
        return scval.to_uint64(memo.id.uint64)
    if memo.hash is not None:
        return scval.to_bytes(memo.hash.hash)
    if memo.ret_hash is not None:
        return scval.to_bytes(memo.ret_hash.hash)
    return None
