"""The records that go into a rule and come out of it.

What it is: lanes, parameters, state rows and results as frozen types with their ranges. What it
does not do: it runs no rule and knows nothing of the language. Specification: RULES.md,
"Contract interface".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TypeAlias

MAX_AMOUNT = (1 << 63) - 1
"""Largest amount of bytes, stroops or milliseconds, and largest price version."""

KEY_BYTES = 32
MILLION = 1_000_000
REASON_IN_FULL = 0
REASON_OVER_CAP = 1
MAX_REASON = 255

RowKey: TypeAlias = tuple[bytes, bytes, str, int]


class SettlementError(Exception):
    """Base of the errors at the contract's border.

    ::

        SettlementError            field: got, want
        ├─ ContractInputError      what the ledger passes in is out of range; a rule never sees it
        └─ ContractOutputError     what a rule returned cannot be right; nothing of it is used
    """

    def __init__(self, field_name: str, got: object, want: object) -> None:
        super().__init__(f"{field_name}: got {got!s:.200}, want {want!s:.200}")
        self.field = field_name
        self.got = got
        self.want = want


class ContractInputError(SettlementError):
    """Lanes, parameters or opening state are out of range or contradict each other."""


class ContractOutputError(SettlementError):
    """A rule returned what cannot be right."""


class LaneSource(StrEnum):
    """Where the bytes of a lane came from."""

    P2P = "p2p"
    CDN = "cdn"


def name_of_source(source: LaneSource) -> str:
    """Return the name of a source, as rules see it."""
    return "cdn" if source is LaneSource.CDN else "p2p"


def check_amount(name: str, value: int) -> None:
    """Refuse what is not an integer from 0 to `MAX_AMOUNT`.

    Raises:
        ContractInputError: it is not.
    """
    if type(value) is not int or not 0 <= value <= MAX_AMOUNT:
        raise ContractInputError(name, repr(value), f"an integer from 0 to {MAX_AMOUNT}")


def check_key(name: str, value: bytes) -> None:
    """Refuse what is not 32 bytes.

    Raises:
        ContractInputError: it is not.
    """
    if len(value) != KEY_BYTES:
        raise ContractInputError(name, f"{len(value)} bytes", f"{KEY_BYTES} bytes")


def _is_row(payer: bytes, payee: bytes, version: int, size: int, charge: int, fee: int) -> bool:
    """Whether the fields of a row are in range; if not, checks by name say which is not."""
    return (
        len(payer) == KEY_BYTES == len(payee)
        and type(version) is type(size) is type(charge) is type(fee) is int
        and 0 <= version <= MAX_AMOUNT
        and 0 <= size <= MAX_AMOUNT
        and 0 <= fee <= charge <= MAX_AMOUNT
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneInput:
    """One judged lane of an epoch.

    Raises:
        ContractInputError: a field is out of range.
    """

    entitlement: bytes
    """Digest of the entitlement; 32 bytes."""

    payer: bytes
    """Account that pays, as its public key; 32 bytes."""

    payee: bytes
    """Account that earns, as its public key; 32 bytes, or empty for a CDN without an account."""

    payee_key: bytes
    """Key named in the receipts: a session key or a CDN key; 32 bytes."""

    content: bytes
    """Content or stream id; 32 bytes."""

    source: LaneSource
    """Peer or CDN."""

    received_bytes: int
    """Bytes of this lane that are new in this epoch; for a correction: new minus counted."""

    media_ms: int
    """Media time of the whole session up to this lane's last receipt; milliseconds."""

    max_bytes: int
    """The entitlement's cap in bytes; 0 means none."""

    max_media_ms: int
    """The entitlement's cap in media time; milliseconds, 0 means none."""

    def __post_init__(self) -> None:
        check_key("entitlement", self.entitlement)
        check_key("payer", self.payer)
        if self.payee or self.source is LaneSource.P2P:
            check_key("payee", self.payee)
        check_key("payee_key", self.payee_key)
        check_key("content", self.content)
        for name in ("received_bytes", "media_ms", "max_bytes", "max_media_ms"):
            check_amount(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What the terms and the DAO fix for the rule.

    A price version stands for one set of all these numbers: whoever changes one of them must
    count the version up.

    Raises:
        ContractInputError: a field is out of range.
    """

    price_version: int
    """Version of the price book; 0 or more."""

    price_stroops: int
    """Price of `price_quantity_bytes` from peers; stroops, 0 or more."""

    price_quantity_bytes: int
    """Bytes that cost `price_stroops`; 1 or more."""

    fee_ppm: int
    """The network's share of each charge, taken from the payee; millionths, 0 to 1,000,000."""

    cdn_prices: Mapping[bytes, tuple[int, int]] = field(default_factory=dict)
    """Per CDN key (32 bytes): stroops and the bytes that cost them. Others are not charged."""

    def __post_init__(self) -> None:
        check_amount("price_version", self.price_version)
        check_amount("price_stroops", self.price_stroops)
        check_amount("price_quantity_bytes", self.price_quantity_bytes)
        check_amount("fee_ppm", self.fee_ppm)
        if self.price_quantity_bytes == 0:
            raise ContractInputError("price_quantity_bytes", 0, "1 or more")
        if self.fee_ppm > MILLION:
            raise ContractInputError("fee_ppm", self.fee_ppm, f"at most {MILLION}")
        for key, (stroops, quantity_bytes) in self.cdn_prices.items():
            check_key("cdn_prices", key)
            check_amount("cdn_prices.stroops", stroops)
            check_amount("cdn_prices.quantity_bytes", quantity_bytes)
            if quantity_bytes == 0:
                raise ContractInputError("cdn_prices.quantity_bytes", 0, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class CapUse:
    """What an entitlement has used up so far.

    Raises:
        ContractInputError: a field is out of range.
    """

    entitlement: bytes
    """Digest of the entitlement; 32 bytes."""

    credited_bytes: int
    """Bytes credited to it so far."""

    media_ms: int
    """Longest media time that its session has stated so far; milliseconds."""

    def __post_init__(self) -> None:
        check_key("entitlement", self.entitlement)
        check_amount("credited_bytes", self.credited_bytes)
        check_amount("media_ms", self.media_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class CumulativeRow:
    """All that one payer was charged for one payee, source and price version so far.

    Raises:
        ContractInputError: a field is out of range.
    """

    payer: bytes
    """Account that pays; 32 bytes."""

    payee: bytes
    """Account that earns; 32 bytes."""

    source: LaneSource
    """Peer or CDN."""

    price_version: int
    """Version of the price book."""

    total_bytes: int
    """Bytes credited so far."""

    charge_stroops: int
    """Charged so far, fee included; stroops."""

    fee_stroops: int
    """Fee so far, part of the charge; stroops."""

    def __post_init__(self) -> None:
        charge, fee = self.charge_stroops, self.fee_stroops
        if _is_row(self.payer, self.payee, self.price_version, self.total_bytes, charge, fee):
            return
        check_key("payer", self.payer)
        check_key("payee", self.payee)
        check_amount("price_version", self.price_version)
        check_amount("total_bytes", self.total_bytes)
        check_amount("charge_stroops", self.charge_stroops)
        check_amount("fee_stroops", self.fee_stroops)
        if self.fee_stroops > self.charge_stroops:
            raise ContractInputError(
                "fee_stroops", self.fee_stroops, f"at most the charge, {self.charge_stroops}"
            )

    @property
    def key(self) -> RowKey:
        """What the row is unique and sorted by."""
        return (self.payer, self.payee, name_of_source(self.source), self.price_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one epoch adds to a `CumulativeRow`; also a line of the bill.

    Raises:
        ContractInputError: a field is out of range.
    """

    payer: bytes
    """Account that pays; 32 bytes."""

    payee: bytes
    """Account that earns; 32 bytes."""

    source: LaneSource
    """Peer or CDN."""

    price_version: int
    """Version of the price book."""

    charged_bytes: int
    """Bytes credited in this epoch; 1 or more."""

    charge_stroops: int
    """What the payer pays, fee included; stroops."""

    fee_stroops: int
    """The network's part of the charge; the payee earns the rest; stroops."""

    def __post_init__(self) -> None:
        charge, fee = self.charge_stroops, self.fee_stroops
        if _is_row(self.payer, self.payee, self.price_version, self.charged_bytes, charge, fee):
            return
        check_key("payer", self.payer)
        check_key("payee", self.payee)
        check_amount("price_version", self.price_version)
        check_amount("charged_bytes", self.charged_bytes)
        check_amount("charge_stroops", self.charge_stroops)
        check_amount("fee_stroops", self.fee_stroops)
        if self.fee_stroops > self.charge_stroops:
            raise ContractInputError(
                "fee_stroops", self.fee_stroops, f"at most the charge, {self.charge_stroops}"
            )

    @property
    def key(self) -> RowKey:
        """What the charge is unique and sorted by."""
        return (self.payer, self.payee, name_of_source(self.source), self.price_version)

    @property
    def payee_stroops(self) -> int:
        """What the payee earns: the charge less the fee; stroops."""
        return self.charge_stroops - self.fee_stroops


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractState:
    """The contract's part of the state between two epochs.

    Raises:
        ContractInputError: rows are not sorted, or not unique.
    """

    cap_use: tuple[CapUse, ...] = ()
    """Sorted by entitlement, unique."""

    cumulative: tuple[CumulativeRow, ...] = ()
    """Sorted by payer, payee, source and price version, unique."""

    def __post_init__(self) -> None:
        entitlements = [row.entitlement for row in self.cap_use]
        for place, (one, other) in enumerate(pairwise(entitlements)):
            if one >= other:
                raise ContractInputError(
                    f"cap_use[{place + 1}]", other.hex(), f"an entitlement after {one.hex()}"
                )
        keys = [row.key for row in self.cumulative]
        for place, (before, after) in enumerate(pairwise(keys)):
            if before >= after:
                raise ContractInputError(f"cumulative[{place + 1}]", after, f"a row after {before}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOutcome:
    """What a rule decided about one lane."""

    credited_bytes: int
    """Bytes that the payable rule accepts."""

    uncredited_bytes: int
    """The rest of the lane's bytes: reported, not paid."""

    reason: int
    """Why something is uncredited: 0 nothing is, 1 the entitlement's cap; up to 255."""
