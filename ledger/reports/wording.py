"""Wording: numbers, units, times and addresses as a reader sees them.

Presentation only; every input is an integer and no result is read back as a number. Sizes are
printed with their unit, times with UTC, money with seven decimals. GB = 10⁹ bytes is exact with
nine decimals; GiB = 2³⁰ bytes is rounded and says so where it stands.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from ledger.audit.address import format_account
from ledger.books.standing import CarryReason
from ledger.evidence.units import PPM, QUANTITY_BYTES, format_stroops

GB_BYTES = QUANTITY_BYTES["GB"]
_PRICE_UNITS = ("TB", "GB", "MB", "TiB", "GiB", "MiB")
_PRICE_COUNT_MAX = 1000
_SHORT_ENDS = 6

CARRY_REASONS: Mapping[CarryReason, str] = MappingProxyType(
    {
        CarryReason.NOTHING_OWED: "nothing is owed",
        CarryReason.PLANNED: "a payout is planned",
        CarryReason.BELOW_THRESHOLD: "it is below the payout threshold",
        CarryReason.IN_CHALLENGE: "its challenge window is not over",
        CarryReason.UNDECIDED: "an earlier payout is not decided yet",
        CarryReason.NOT_COVERED: "escrow does not hold enough for everybody",
        CarryReason.NO_CHANNEL: "no channel account is open",
        CarryReason.FORBIDDEN_ADDRESS: "the account to pay to is one of the settlement's own",
        CarryReason.NO_ACCOUNT: "the account to pay to does not exist",
        CarryReason.NO_TRUSTLINE: "the account to pay to has no trustline",
        CarryReason.NOT_AUTHORISED: "the issuer has not authorised the trustline",
        CarryReason.LINE_FULL: "the trustline has no room for it",
        CarryReason.MEMO_REQUIRED: "the account to pay to takes no payment without a memo",
        CarryReason.FROZEN: "the network has frozen the account to pay to",
    }
)
"""Why a payee's money is carried, as half a sentence."""

_MINUTE_MS = 60_000


def format_gb(amount_bytes: int) -> str:
    """Write bytes in GB (10⁹ bytes) exactly, always nine decimals, no unit: "0.067108864"."""
    whole, rest = divmod(amount_bytes, GB_BYTES)
    return f"{whole}.{rest:09d}"


def format_amount(amount_stroops: int) -> str:
    """Write stroops with seven decimals and groups of thousands: "1,234.5000000"."""
    whole, _, rest = format_stroops(abs(amount_stroops)).partition(".")
    return f"{'−' if amount_stroops < 0 else ''}{int(whole):,}.{rest}"


def name_quantity(quantity_bytes: int) -> str:
    """Name a price's quantity: "GB", "100 GiB", or its bytes where no unit fits evenly."""
    for unit in _PRICE_UNITS:
        count, rest = divmod(quantity_bytes, QUANTITY_BYTES[unit])
        if count and not rest and count < _PRICE_COUNT_MAX:
            return unit if count == 1 else f"{count} {unit}"
    return f"{quantity_bytes:,} bytes" if quantity_bytes != 1 else "byte"


def describe_quantity(quantity_bytes: int) -> str:
    """Name a price's quantity and define it in bytes: "GB (1,000,000,000 bytes)"."""
    name = name_quantity(quantity_bytes)
    return name if "byte" in name else f"{name} ({quantity_bytes:,} bytes)"


def describe_price(price_stroops: int, quantity_bytes: int, asset_code: str) -> str:
    """Say a price with its unit: "0.0100000 EURT per GB (1,000,000,000 bytes)"."""
    return f"{format_amount(price_stroops)} {asset_code} per {describe_quantity(quantity_bytes)}"


def format_utc(time_s: int) -> str:
    """Write a time for people: "2026-01-31 23:59:45 UTC"."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def format_iso(time_s: int) -> str:
    """Write a time for machines: "2026-01-31T23:59:45Z"."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_minutes(media_ms: int | None) -> str:
    """Write media time in minutes, one decimal, rounded half up; None is "not reported"."""
    if not media_ms:
        return "not reported"
    tenths = (2 * 10 * media_ms + _MINUTE_MS) // (2 * _MINUTE_MS)
    return f"{tenths // 10:,}.{tenths % 10}"


def format_percent(part: int, whole: int) -> str:
    """Write a share with two decimals, rounded half up: "76.54 %"; of nothing: "–"."""
    if whole == 0:
        return "–"
    hundredths = (2 * 10_000 * part + whole) // (2 * whole)
    return f"{hundredths // 100}.{hundredths % 100:02d} %"


def format_rate(rate_ppm: int) -> str:
    """Write a rate: "10 % (100,000 ppm)", with as many decimals as it has."""
    whole, rest = divmod(rate_ppm * 100, PPM)
    percent = f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
    return f"{percent} % ({rate_ppm:,} ppm)"


def short_account(account: bytes) -> str:
    """Write an account's address in short: "GABCDE…UVWXYZ"."""
    return short_text(format_account(account))


def short_text(text: str) -> str:
    """Shorten a long address, key or hash: its first and last six characters."""
    return f"{text[:_SHORT_ENDS]}…{text[-_SHORT_ENDS:]}"
