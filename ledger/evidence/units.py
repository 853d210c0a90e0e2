"""Bytes, money and their only arithmetic: floors, largest remainders, seven decimals.

Bytes are integers. Money is integer stroops, 10⁻⁷ of a named asset. A price is an integer of
stroops for a stated quantity of bytes, so "GB" appears nowhere without its definition. All
divisions of the project go through this module, which names their rounding.
"""

from collections.abc import Sequence
from typing import Final, NewType

ByteCount = NewType("ByteCount", int)
"""Payload bytes, 0 to 2**63 - 1."""

Stroops = NewType("Stroops", int)
"""10⁻⁷ of an asset's unit, 0 to 2**63 - 1."""

AMOUNT_MAX: Final = 2**63 - 1
"""Largest amount of bytes or stroops: what Postgres' bigint and Stellar's int64 hold."""

STROOPS_PER_TOKEN: Final = 10_000_000
PPM: Final = 1_000_000

TRAFFIC_UNIT_BYTES: Final = 1 << 20
"""The network's traffic unit, 1 MiB."""

QUANTITY_BYTES: Final[dict[str, int]] = {
    "unit": TRAFFIC_UNIT_BYTES,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
"""What each unit name means, in bytes."""


def charge_for(price_stroops: int, quantity_bytes: int, cumulative_bytes: int) -> int:
    """Return ⌊price x cumulative bytes / quantity⌋ in stroops.

    A charge for an interval is the difference of two such floors, so the sum over intervals never
    depends on how time is cut.

    Raises:
        ValueError: An argument is negative, or the quantity is not positive.
    """
    if price_stroops < 0 or cumulative_bytes < 0 or quantity_bytes < 1:
        raise ValueError(
            f"charge: got price {price_stroops}, quantity {quantity_bytes}, "
            f"bytes {cumulative_bytes}, want price ≥ 0, quantity ≥ 1, bytes ≥ 0"
        )
    return price_stroops * cumulative_bytes // quantity_bytes


def fee_for(fee_ppm: int, cumulative_charge_stroops: int) -> int:
    """Return ⌊rate x cumulative charge⌋ in stroops; the rate in parts per million."""
    if not 0 <= fee_ppm <= PPM or cumulative_charge_stroops < 0:
        raise ValueError(
            f"fee: got {fee_ppm} ppm of {cumulative_charge_stroops}, want 0..{PPM} of ≥ 0"
        )
    return fee_ppm * cumulative_charge_stroops // PPM


def split_by_largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Split an integer total in proportion to weights so that the parts sum to it exactly.

    Each part is floored; the left-over units go to the largest remainders, ties to the earlier
    position. With all weights zero every part is zero, which only a zero total allows.

    Args:
        total: What is split, ≥ 0.
        weights: Non-negative integers, in a defined order.

    Returns:
        One part per weight, each ≥ 0.

    Raises:
        ValueError: A negative number, or a positive total without a positive weight.
    """
    weight_sum = sum(weights)
    if total < 0 or any(weight < 0 for weight in weights):
        raise ValueError(f"split: got total {total}, weights {list(weights)[:8]}, want ≥ 0")
    if weight_sum == 0:
        if total:
            raise ValueError(f"split: got total {total} and no positive weight")
        return [0] * len(weights)
    parts = [total * weight // weight_sum for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda place: (-(total * weights[place] % weight_sum), place)
    )
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts


def format_stroops(amount_stroops: int) -> str:
    """Write stroops as a decimal with always seven places, such as "0.0000001"."""
    sign = "-" if amount_stroops < 0 else ""
    whole, rest = divmod(abs(amount_stroops), STROOPS_PER_TOKEN)
    return f"{sign}{whole}.{rest:07d}"


def parse_stroops(text: str) -> int:
    """Read a decimal with exactly seven places; the inverse of `format_stroops`.

    Raises:
        ValueError: The text is not what `format_stroops` prints.
    """
    whole, _, rest = text.removeprefix("-").partition(".")
    if not (whole.isascii() and whole.isdigit() and rest.isascii() and rest.isdigit()):
        raise ValueError(f"amount: got {text[:40]!r}, want digits with seven decimals")
    amount = int(whole) * STROOPS_PER_TOKEN + int(rest)
    amount = -amount if text.startswith("-") else amount
    if format_stroops(amount) != text:
        raise ValueError(f"amount: got {text[:40]!r}, want {format_stroops(amount)!r}")
    return amount


def format_quantity(amount_bytes: int, unit: str, *, places: int = 3) -> str:
    """Write bytes in a named unit, rounded half up, with the unit: "1.074 GB".

    For people's eyes only; no stored value is ever in such a unit.

    Raises:
        KeyError: The unit is unknown.
    """
    scale = 10**places
    size = QUANTITY_BYTES[unit]
    scaled = (2 * amount_bytes * scale + size) // (2 * size)
    whole, rest = divmod(scaled, scale)
    return f"{whole:,}.{rest:0{places}d} {unit}" if places else f"{whole:,} {unit}"
