"""Lanes and outcomes as columns: an epoch of a million lanes is no million objects.

What it is: the same records as in `interface`, a list a field, checked in bulk; a single record is
made on demand. What it does not do: it runs no rule. Specification: RULES.md, "Contract interface".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from contracts.interface import (
    KEY_BYTES,
    MAX_AMOUNT,
    ContractInputError,
    LaneInput,
    LaneOutcome,
    LaneSource,
)

_SOURCES = (LaneSource.P2P, LaneSource.CDN)
_KEY_LENGTHS = frozenset((KEY_BYTES,))
_ACCOUNT_LENGTHS = frozenset((0, KEY_BYTES))
_INTEGER = frozenset((int,))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneColumns(Sequence[LaneInput]):
    """Judged lanes of an epoch; every field as in `LaneInput`, one value a lane.

    Raises:
        ContractInputError: a field of a lane is out of range.
    """

    entitlements: Sequence[bytes]
    payers: Sequence[bytes]
    payees: Sequence[bytes]
    payee_keys: Sequence[bytes]
    contents: Sequence[bytes]
    are_cdn: Sequence[bool]
    received_bytes: Sequence[int]
    media_ms: Sequence[int]
    max_bytes: Sequence[int]
    max_media_ms: Sequence[int]

    def __post_init__(self) -> None:
        lengths = [len(column) for column in self._columns()]
        if lengths != [len(self)] * len(lengths):
            raise ContractInputError("lanes", f"columns of {lengths} lanes", "one length")
        if not self._is_in_range():
            for _ in self:
                """Making the lane that is out of range raises its error."""

    @classmethod
    def of(cls, lanes: Sequence[LaneInput]) -> "LaneColumns":
        """Return lanes as columns; themselves if they are already."""
        if isinstance(lanes, LaneColumns):
            return lanes
        return cls(
            entitlements=[lane.entitlement for lane in lanes],
            payers=[lane.payer for lane in lanes],
            payees=[lane.payee for lane in lanes],
            payee_keys=[lane.payee_key for lane in lanes],
            contents=[lane.content for lane in lanes],
            are_cdn=[lane.source is LaneSource.CDN for lane in lanes],
            received_bytes=[lane.received_bytes for lane in lanes],
            media_ms=[lane.media_ms for lane in lanes],
            max_bytes=[lane.max_bytes for lane in lanes],
            max_media_ms=[lane.max_media_ms for lane in lanes],
        )

    def _columns(self) -> tuple[Sequence[object], ...]:
        return (*self._keys(), self.payees, self.are_cdn, *self._amounts())

    def _keys(self) -> tuple[Sequence[bytes], ...]:
        return (self.entitlements, self.payers, self.payee_keys, self.contents)

    def _amounts(self) -> tuple[Sequence[int], ...]:
        return (self.received_bytes, self.media_ms, self.max_bytes, self.max_media_ms)

    def _is_in_range(self) -> bool:
        if not len(self):
            return True
        return (
            all(_KEY_LENGTHS.issuperset(map(len, column)) for column in self._keys())
            and _ACCOUNT_LENGTHS.issuperset(map(len, self.payees))
            and (all(self.payees) or all(map(_has_payee, self.payees, self.are_cdn)))
            and all(_INTEGER.issuperset(map(type, column)) for column in self._amounts())
            and all(min(column) >= 0 for column in self._amounts())
            and all(max(column) <= MAX_AMOUNT for column in self._amounts())
        )

    def __len__(self) -> int:
        return len(self.entitlements)

    @overload
    def __getitem__(self, index: int) -> LaneInput: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[LaneInput, ...]: ...

    def __getitem__(self, index: int | slice) -> LaneInput | tuple[LaneInput, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        return LaneInput(
            entitlement=self.entitlements[index],
            payer=self.payers[index],
            payee=self.payees[index],
            payee_key=self.payee_keys[index],
            content=self.contents[index],
            source=_SOURCES[self.are_cdn[index]],
            received_bytes=self.received_bytes[index],
            media_ms=self.media_ms[index],
            max_bytes=self.max_bytes[index],
            max_media_ms=self.max_media_ms[index],
        )

    def __iter__(self) -> Iterator[LaneInput]:
        return (self[place] for place in range(len(self)))

    def check_agree(self) -> None:
        """Refuse lanes that state different terms for one entitlement.

        Raises:
            ContractInputError: payer or caps of an entitlement differ between lanes.
        """
        terms = zip(self.payers, self.max_bytes, self.max_media_ms, strict=True)
        known: dict[bytes, tuple[bytes, int, int]] = {}
        for place, (entitlement, stated) in enumerate(zip(self.entitlements, terms, strict=True)):
            first = known.setdefault(entitlement, stated)
            if first != stated:
                raise ContractInputError(
                    f"lanes[{place}].terms", stated, f"{first}, as in the entitlement's first lane"
                )


def _has_payee(payee: bytes, is_cdn: bool) -> bool:
    return bool(payee) or is_cdn


class LaneOutcomes(Sequence[LaneOutcome]):
    """What a rule decided about each lane, in the order of the lanes.

    Attributes:
        credited_bytes: bytes that the payable rule accepts.
        uncredited_bytes: the rest: reported, not paid.
        reasons: why something is uncredited, as in `LaneOutcome`.
    """

    __slots__ = ("credited_bytes", "reasons", "uncredited_bytes")

    def __init__(
        self,
        credited_bytes: Sequence[int],
        uncredited_bytes: Sequence[int],
        reasons: Sequence[int],
    ) -> None:
        self.credited_bytes = credited_bytes
        self.uncredited_bytes = uncredited_bytes
        self.reasons = reasons

    def __len__(self) -> int:
        return len(self.credited_bytes)

    @overload
    def __getitem__(self, index: int) -> LaneOutcome: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[LaneOutcome, ...]: ...

    def __getitem__(self, index: int | slice) -> LaneOutcome | tuple[LaneOutcome, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        return LaneOutcome(
            credited_bytes=self.credited_bytes[index],
            uncredited_bytes=self.uncredited_bytes[index],
            reason=self.reasons[index],
        )

    def __iter__(self) -> Iterator[LaneOutcome]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LaneOutcomes | tuple | list):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # columns may be long; nobody looks them up

    def __repr__(self) -> str:
        return f"LaneOutcomes({list(self)!r})"
