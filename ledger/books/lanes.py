"""Lanes: what judgement found for each lane of a seal, kept as columns.

A seal may have millions of lanes, of which most share their entitlement and payee with others:
`Lanes` holds what they share once, numbers as arrays, and makes a `JudgedLane` when asked for one.
Not here: judging (`lane_judgement`), what a lane is paid (the contract).
"""

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, overload

from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.merkle import root_of_hashes

_ENTRY = struct.Struct("<32sQQ")
_LEAF = struct.Struct("<x32sQQ")
"""A lane entry behind the zero byte that marks a leaf (RFC 6962 §2.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCount:
    """What a lane counts for."""

    sequence: int
    """Sequence of the receipt that counts."""

    bytes_total: int
    """Its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedLane:
    """One lane after judgement: the contract's input, and an entry under the lane root."""

    lane_digest: bytes
    """32 bytes."""

    epoch: int
    """Epoch of the lane; below the sealing epoch for a correction."""

    entitlement_digest: bytes
    """32 bytes."""

    payee_key: bytes
    """32 bytes."""

    payee_account: bytes
    """Account that earns; zeros for a CDN without one."""

    payer_account: bytes
    """Account that is charged."""

    content_id: bytes
    """32 bytes."""

    is_cdn: bool
    """Source of the bytes."""

    count: LaneCount
    """What counts from now on."""

    bytes_before: int
    """What counted in earlier seals; 0 unless this is a correction."""

    media_ms_total: int
    """Media time stated by the counting receipt."""

    max_bytes: int
    """Cap of the entitlement; 0 = none."""

    max_media_ms: int
    """Cap of the entitlement; 0 = none."""

    entitlement_last_epoch: int
    """Last epoch the entitlement's time meets; its cap use is forgotten some epochs later."""

    @property
    def bytes_new(self) -> int:
        """Bytes this seal adds."""
        return self.count.bytes_total - self.bytes_before


class LaneEntitlement(NamedTuple):
    """What all lanes of one entitlement share."""

    digest: bytes
    payer_account: bytes
    content_id: bytes
    max_bytes: int
    max_media_ms: int
    last_epoch: int


class LanePayee(NamedTuple):
    """What all lanes of one payee share."""

    key: bytes
    account: bytes
    is_cdn: bool

    @property
    def subject(self) -> bytes:
        """Whose statement line its bytes stand in: the account; the key of a CDN without one."""
        return self.key if self.account == ZERO_KEY else self.account


class LaneNumbers(NamedTuple):
    """The numbers of all lanes, a column each, in the order of the lanes."""

    epochs: "array[int]"
    sequences: "array[int]"
    bytes_totals: "array[int]"
    bytes_before: "array[int]"
    media_ms_totals: "array[int]"

    @classmethod
    def empty(cls) -> "LaneNumbers":
        """Return columns of no lanes."""
        return cls(array("I"), array("Q"), array("Q"), array("Q"), array("Q"))


class Lanes(Sequence[JudgedLane]):
    """Judged lanes in a defined order; each is made an object on demand."""

    __slots__ = ("digests", "entitlements", "numbers", "payees")

    def __init__(
        self,
        digests: list[bytes],
        entitlements: list[LaneEntitlement],
        payees: list[LanePayee],
        numbers: LaneNumbers,
    ) -> None:
        """Take the columns, all of one length, without a copy."""
        self.digests = digests
        self.entitlements = entitlements
        self.payees = payees
        self.numbers = numbers

    @classmethod
    def of(cls, lanes: Sequence[JudgedLane]) -> "Lanes":
        """Return columns of these lanes; themselves if they are columns already."""
        if isinstance(lanes, Lanes):
            return lanes
        numbers = LaneNumbers.empty()
        for lane in lanes:
            numbers.epochs.append(lane.epoch)
            numbers.sequences.append(lane.count.sequence)
            numbers.bytes_totals.append(lane.count.bytes_total)
            numbers.bytes_before.append(lane.bytes_before)
            numbers.media_ms_totals.append(lane.media_ms_total)
        return cls(
            [lane.lane_digest for lane in lanes],
            [_entitlement_of(lane) for lane in lanes],
            [LanePayee(lane.payee_key, lane.payee_account, lane.is_cdn) for lane in lanes],
            numbers,
        )

    def __len__(self) -> int:
        return len(self.digests)

    @overload
    def __getitem__(self, index: int) -> JudgedLane: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[JudgedLane, ...]: ...

    def __getitem__(self, index: int | slice) -> JudgedLane | tuple[JudgedLane, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        entitlement, payee = self.entitlements[index], self.payees[index]
        numbers = self.numbers
        return JudgedLane(
            lane_digest=self.digests[index],
            epoch=numbers.epochs[index],
            entitlement_digest=entitlement.digest,
            payee_key=payee.key,
            payee_account=payee.account,
            payer_account=entitlement.payer_account,
            content_id=entitlement.content_id,
            is_cdn=payee.is_cdn,
            count=LaneCount(
                sequence=numbers.sequences[index], bytes_total=numbers.bytes_totals[index]
            ),
            bytes_before=numbers.bytes_before[index],
            media_ms_total=numbers.media_ms_totals[index],
            max_bytes=entitlement.max_bytes,
            max_media_ms=entitlement.max_media_ms,
            entitlement_last_epoch=entitlement.last_epoch,
        )

    def __iter__(self) -> Iterator[JudgedLane]:
        return (self[at] for at in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Lanes):
            return (self.digests, self.entitlements, self.payees, self.numbers) == (
                other.digests,
                other.entitlements,
                other.payees,
                other.numbers,
            )
        return tuple(self) == other

    __hash__ = None  # type: ignore[assignment]  # columns are lists: nobody may hash them

    def bytes_new(self) -> list[int]:
        """Return what this seal adds to each lane."""
        numbers = self.numbers
        return [
            total - before
            for total, before in zip(numbers.bytes_totals, numbers.bytes_before, strict=True)
        ]

    def corrections(self, sealing_epoch: int) -> list[JudgedLane]:
        """Return the lanes of earlier epochs than the one that is sealed."""
        epochs = self.numbers.epochs
        if not epochs or min(epochs) >= sealing_epoch:
            return []
        return [self[at] for at, epoch in enumerate(epochs) if epoch < sealing_epoch]

    def root(self) -> bytes:
        """Return the RFC 6962 root over all lane entries."""
        numbers = self.numbers
        pack = _LEAF.pack
        return root_of_hashes(
            [
                sha256(pack(digest, sequence, total)).digest()
                for digest, sequence, total in zip(
                    self.digests, numbers.sequences, numbers.bytes_totals, strict=True
                )
            ]
        )


def _entitlement_of(lane: JudgedLane) -> LaneEntitlement:
    return LaneEntitlement(
        lane.entitlement_digest,
        lane.payer_account,
        lane.content_id,
        lane.max_bytes,
        lane.max_media_ms,
        lane.entitlement_last_epoch,
    )


def format_lane_entry(lane_digest: bytes, count: LaneCount) -> bytes:
    """Return the 48-byte leaf under the lane root: digest, sequence, counted bytes."""
    return _ENTRY.pack(lane_digest, count.sequence, count.bytes_total)


def format_lane_entries(lanes: Iterable[tuple[bytes, int, int]]) -> list[bytes]:
    """Return the leaves under the lane root of (lane digest, sequence, counted bytes)."""
    return [_ENTRY.pack(*lane) for lane in lanes]


def lane_root_of(lanes: Sequence[JudgedLane]) -> bytes:
    """Return the RFC 6962 root over all lane entries, by ascending lane digest."""
    return Lanes.of(lanes).root()
