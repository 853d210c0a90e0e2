"""Strict reading of what a rule returned.

What it is: the checks that turn a rule's plain lists into records, or name the first field that
cannot be right. What it does not do: it recomputes no price; what a byte costs is the rule's to
decide. Specification: RULES.md, "What the ledger checks".

Checked, in this order: shape and range of every number; each lane's credited and uncredited bytes
add up to its bytes; charges name parties of lanes and exactly their credited bytes; the closing
state is the opening state plus this epoch, row by row; caps hold.
"""

from collections.abc import Mapping, Sequence
from operator import add, itemgetter, not_
from typing import Any

from contracts.columns import LaneColumns, LaneOutcomes
from contracts.interface import (
    KEY_BYTES,
    MAX_AMOUNT,
    MAX_REASON,
    REASON_IN_FULL,
    CapUse,
    Charge,
    ContractOutputError,
    ContractState,
    CumulativeRow,
    LaneSource,
    Parameters,
    RowKey,
)

_HEX_DIGITS = frozenset("0123456789abcdef")
_SOURCES = {source.value: source for source in LaneSource}
_SOURCE_NAMES = (LaneSource.P2P.value, LaneSource.CDN.value)


class OutputReader:
    """Reads one result against the lanes, parameters and opening state it was made from."""

    def __init__(
        self,
        *,
        lanes: LaneColumns,
        parameters: Parameters,
        opening: ContractState,
        texts: Mapping[bytes, str],
    ) -> None:
        """Take what the result will be read against.

        Args:
            lanes: what the rule saw.
            parameters: what the rule saw.
            opening: what the rule saw.
            texts: every key of lanes and opening, and its hexadecimal digits.
        """
        self._lanes = lanes
        self._parameters = parameters
        self._opening = opening
        self._texts = texts
        self._keys = {text: key for key, text in texts.items() if key}

    def read(self, value: Any) -> tuple[LaneOutcomes, tuple[Charge, ...], ContractState]:
        """Read and check a whole result.

        Args:
            value: what the rule returned.

        Returns:
            The outcome of each lane, the charges, and the closing state.

        Raises:
            ContractOutputError: the first field that cannot be right.
        """
        result = read_dict("result", value, ("lanes", "charges", "closing"))
        outcomes = self._outcomes(result["lanes"])
        charges = self._charges(result["charges"], outcomes)
        closing = read_dict("closing", result["closing"], ("cap_use", "cumulative"))
        state = ContractState(
            cap_use=self._cap_use(closing["cap_use"], outcomes),
            cumulative=self._cumulative(closing["cumulative"], charges),
        )
        return outcomes, charges, state

    def _outcomes(self, value: Any) -> LaneOutcomes:
        """Read the outcomes, column by column; row by row only to find what is wrong."""
        rows = read_list("lanes", value, len(self._lanes))
        if set(map(type, rows)) <= {list} and set(map(len, rows)) <= {3}:
            columns = [list(map(itemgetter(place), rows)) for place in range(3)]
            if self._are_right(*columns):
                return LaneOutcomes(*columns)
        received_bytes = self._lanes.received_bytes
        outcomes = [
            _read_outcome(f"lanes[{place}]", row, received_bytes[place])
            for place, row in enumerate(rows)
        ]
        return LaneOutcomes(*map(list, zip(*outcomes, strict=True)))

    def _are_right(self, credited: list[Any], uncredited: list[Any], reasons: list[Any]) -> bool:
        """Whether these are outcomes of the lanes; no amount is beyond what its lane received."""
        if not credited:
            return True
        return (
            all(set(map(type, column)) == {int} for column in (credited, uncredited, reasons))
            and min(credited) >= 0
            and min(uncredited) >= 0
            and 0 <= min(reasons) <= max(reasons) <= MAX_REASON
            and list(map(add, credited, uncredited)) == list(self._lanes.received_bytes)
            and list(map(not_, reasons)) == list(map(not_, uncredited))
        )

    def _charges(self, value: Any, outcomes: LaneOutcomes) -> tuple[Charge, ...]:
        lanes, version = self._lanes, self._parameters.price_version
        credited_by_party: dict[tuple[bytes, bytes, bool], int] = {}
        parties = zip(lanes.payers, lanes.payees, lanes.are_cdn, strict=True)
        for party, credited in zip(parties, outcomes.credited_bytes, strict=True):
            credited_by_party[party] = credited_by_party.get(party, 0) + credited
        credited_by_key: dict[RowKey, int] = {
            (payer, payee, _SOURCE_NAMES[is_cdn], version): credited
            for (payer, payee, is_cdn), credited in credited_by_party.items()
        }
        charges: list[Charge] = []
        previous: RowKey | None = None
        for place, row in enumerate(read_list("charges", value)):
            name = f"charges[{place}]"
            key, amounts = self._row(name, row)
            if previous is not None and previous >= key:
                raise ContractOutputError(name, key, "a row after the one before it")
            previous = key
            charged_bytes, charge_stroops, fee_stroops = amounts
            if charged_bytes == 0 or charged_bytes != credited_by_key.get(key, 0):
                raise ContractOutputError(
                    f"{name}.bytes", charged_bytes, f"{credited_by_key.get(key, 0)}, and not 0"
                )
            charges.append(
                Charge(
                    payer=key[0],
                    payee=key[1],
                    source=_SOURCES[key[2]],
                    price_version=key[3],
                    charged_bytes=charged_bytes,
                    charge_stroops=charge_stroops,
                    fee_stroops=fee_stroops,
                )
            )
        return tuple(charges)

    def _cap_use(self, value: Any, outcomes: LaneOutcomes) -> tuple[CapUse, ...]:
        lanes = self._lanes
        opening = {row.entitlement: row for row in self._opening.cap_use}
        credited = {row.entitlement: row.credited_bytes for row in self._opening.cap_use}
        latest_ms = {row.entitlement: row.media_ms for row in self._opening.cap_use}
        for entitlement, credited_bytes, media_ms in zip(
            lanes.entitlements, outcomes.credited_bytes, lanes.media_ms, strict=True
        ):
            credited[entitlement] = credited.get(entitlement, 0) + credited_bytes
            if media_ms > latest_ms.get(entitlement, -1):
                latest_ms[entitlement] = media_ms
        max_bytes = dict(zip(lanes.entitlements, lanes.max_bytes, strict=True))
        rows: list[CapUse] = []
        for place, (row, want) in enumerate(
            zip(read_list("cap_use", value, len(credited)), sorted(credited), strict=True)
        ):
            name = f"cap_use[{place}]"
            entitlement, used_bytes, media_ms = read_list(name, row, 3)
            if entitlement != self._texts[want]:
                read_key(f"{name}.entitlement", entitlement)
                raise ContractOutputError(f"{name}.entitlement", entitlement, want.hex())
            if read_amount(f"{name}.credited", used_bytes) != credited[want]:
                raise ContractOutputError(f"{name}.credited", used_bytes, credited[want])
            before = opening.get(want)
            used_before, ms_before = (before.credited_bytes, before.media_ms) if before else (0, 0)
            cap = max_bytes.get(want, 0)
            if cap and used_bytes > max(cap, used_before):
                raise ContractOutputError(f"{name}.credited", used_bytes, f"at most {cap}")
            if not ms_before <= read_amount(f"{name}.media_ms", media_ms) <= latest_ms[want]:
                raise ContractOutputError(
                    f"{name}.media_ms", media_ms, f"{ms_before} to {latest_ms[want]}"
                )
            rows.append(CapUse(entitlement=want, credited_bytes=used_bytes, media_ms=media_ms))
        return tuple(rows)

    def _cumulative(self, value: Any, charges: Sequence[Charge]) -> tuple[CumulativeRow, ...]:
        wanted = _add_charges(self._opening.cumulative, charges)
        rows: list[CumulativeRow] = []
        for place, (row, want) in enumerate(
            zip(read_list("cumulative", value, len(wanted)), sorted(wanted), strict=True)
        ):
            name = f"cumulative[{place}]"
            key, amounts = self._row(name, row)
            if key != want:
                raise ContractOutputError(name, key, want)
            if amounts != wanted[want]:
                raise ContractOutputError(name, amounts, wanted[want])
            rows.append(
                CumulativeRow(
                    payer=key[0],
                    payee=key[1],
                    source=_SOURCES[key[2]],
                    price_version=key[3],
                    total_bytes=amounts[0],
                    charge_stroops=amounts[1],
                    fee_stroops=amounts[2],
                )
            )
        return tuple(rows)

    def _row(self, name: str, value: Any) -> tuple[RowKey, tuple[int, int, int]]:
        """Read payer, payee, source, price version, bytes, charge and fee."""
        if type(value) is list and len(value) == 7:
            payer, payee, source, version, total_bytes, charge, fee = value
            if (
                type(version) is type(total_bytes) is type(charge) is type(fee) is int
                and type(payer) is type(payee) is type(source) is str
                and 0 <= version <= MAX_AMOUNT
                and 0 <= total_bytes <= MAX_AMOUNT
                and 0 <= fee <= charge <= MAX_AMOUNT
                and source in _SOURCE_NAMES
                and payer in self._keys
                and payee in self._keys
            ):
                key = (self._keys[payer], self._keys[payee], source, version)
                return key, (total_bytes, charge, fee)
        return _read_row(name, value)


def _add_charges(
    opening: Sequence[CumulativeRow], charges: Sequence[Charge]
) -> Mapping[RowKey, tuple[int, int, int]]:
    """Opening totals plus this epoch's charges."""
    totals = {row.key: (row.total_bytes, row.charge_stroops, row.fee_stroops) for row in opening}
    for charge in charges:
        total_bytes, charge_stroops, fee_stroops = totals.get(charge.key, (0, 0, 0))
        totals[charge.key] = (
            total_bytes + charge.charged_bytes,
            charge_stroops + charge.charge_stroops,
            fee_stroops + charge.fee_stroops,
        )
    return totals


def _read_outcome(name: str, value: Any, received_bytes: int) -> tuple[int, int, int]:
    """Read credited and uncredited bytes and the reason of one lane."""
    credited, uncredited, reason = read_list(name, value, 3)
    credited = read_amount(f"{name}.credited", credited)
    uncredited = read_amount(f"{name}.uncredited", uncredited)
    reason = read_amount(f"{name}.reason", reason, most=MAX_REASON)
    if credited + uncredited != received_bytes:
        raise ContractOutputError(
            f"{name}.credited + uncredited", credited + uncredited, received_bytes
        )
    if (reason == REASON_IN_FULL) != (uncredited == 0):
        raise ContractOutputError(
            f"{name}.reason", reason, f"0 exactly if nothing of {uncredited} is uncredited"
        )
    return credited, uncredited, reason


def _read_row(name: str, value: Any) -> tuple[RowKey, tuple[int, int, int]]:
    """Read payer, payee, source, price version, bytes, charge and fee."""
    payer, payee, source, price_version, total_bytes, charge, fee = read_list(name, value, 7)
    if type(source) is not str or source not in {"p2p", "cdn"}:
        raise ContractOutputError(f"{name}.source", repr(source), "p2p or cdn")
    key = (
        read_key(f"{name}.payer", payer),
        read_key(f"{name}.payee", payee),
        source,
        read_amount(f"{name}.price_version", price_version),
    )
    charge_stroops = read_amount(f"{name}.charge", charge)
    return key, (
        read_amount(f"{name}.bytes", total_bytes),
        charge_stroops,
        read_amount(f"{name}.fee", fee, most=charge_stroops),
    )


def read_dict(name: str, value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return a dict that has exactly these keys.

    Raises:
        ContractOutputError: it is none, or has others.
    """
    if type(value) is not dict or set(value) != set(keys):
        got = sorted(value) if type(value) is dict else type(value).__name__
        raise ContractOutputError(name, got, f"a dict with {', '.join(keys)}")
    return value


def read_list(name: str, value: Any, count: int | None = None) -> list[Any]:
    """Return a list, of this many items if a count is given.

    Raises:
        ContractOutputError: it is none, or has another count.
    """
    if type(value) is not list:
        raise ContractOutputError(name, type(value).__name__, "a list")
    if count is not None and len(value) != count:
        raise ContractOutputError(name, f"{len(value)} items", f"{count} items")
    return value


def read_amount(name: str, value: Any, most: int = MAX_AMOUNT) -> int:
    """Return an integer from 0 to `most`.

    Raises:
        ContractOutputError: it is none.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ContractOutputError(name, repr(value), f"an integer from 0 to {most}")
    return value


def read_key(name: str, value: Any) -> bytes:
    """Return the 32 bytes that 64 lowercase hexadecimal digits stand for.

    Raises:
        ContractOutputError: the value is anything else.
    """
    if type(value) is not str or len(value) != 2 * KEY_BYTES or not _HEX_DIGITS.issuperset(value):
        raise ContractOutputError(name, repr(value), "64 lowercase hexadecimal digits")
    return bytes.fromhex(value)
