"""An entitlement's caps: what may be receipted under it, the same rule on both sides.

The viewer signs no more than this, the seeder keeps no receipt beyond it. A seeder sees only the
receipts that pay it, the viewer all that it signed; what all seeders together are credited is
bounded once more by the contract.

Pure. Not here: who the entitlement is by and for (`entitlements`).
"""

from dataclasses import dataclass

from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.entitlement import Entitlement

RATE_HEAD_START_S = 60
"""A rate cap lets a player fetch this many seconds' worth ahead: buffers fill faster than they
are played."""

_BYTES_PER_KILOBIT = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class CapUse:
    """What was receipted under one entitlement."""

    bytes_total: int = 0
    """Over all lanes and epochs."""
    media_ms: int = 0
    """Highest media time that a receipt states."""


def has_caps(entitlement: Entitlement) -> bool:
    """Tell whether anything bounds what may be receipted."""
    return bool(entitlement.max_bytes or entitlement.max_media_ms or entitlement.max_rate_kbps)


def rate_allowance_bytes(entitlement: Entitlement, now_s: int) -> int | None:
    """Return the bytes that the rate cap allows until now; None: there is no such cap."""
    if not entitlement.max_rate_kbps:
        return None
    until_s = min(now_s, entitlement.not_after_s)
    held_s = max(0, until_s - entitlement.not_before_s) + RATE_HEAD_START_S
    return entitlement.max_rate_kbps * _BYTES_PER_KILOBIT * held_s


def judge_use(entitlement: Entitlement, use: CapUse, now_s: int | None) -> ReceiptVerdict:
    """Tell whether receipts may state this much.

    Args:
        entitlement: Whose caps.
        use: With the receipt in question.
        now_s: Ledger time; None while unknown: then the rate is not judged.
    """
    if entitlement.max_bytes and use.bytes_total > entitlement.max_bytes:
        return ReceiptVerdict.OVER_MAX_BYTES
    if entitlement.max_media_ms and use.media_ms > entitlement.max_media_ms:
        return ReceiptVerdict.OVER_MAX_MEDIA
    if now_s is not None:
        allowance = rate_allowance_bytes(entitlement, now_s)
        if allowance is not None and use.bytes_total > allowance:
            return ReceiptVerdict.OVER_MAX_RATE
    return ReceiptVerdict.ACCEPTED


def bytes_left(entitlement: Entitlement, use: CapUse, now_s: int | None) -> int | None:
    """Return how many more bytes may be receipted now; None: as many as one likes."""
    bounds = [entitlement.max_bytes] if entitlement.max_bytes else []
    if now_s is not None:
        allowance = rate_allowance_bytes(entitlement, now_s)
        bounds += [] if allowance is None else [allowance]
    return max(0, min(bounds) - use.bytes_total) if bounds else None


def is_used_up(entitlement: Entitlement, use: CapUse) -> bool:
    """Tell whether time alone will not allow one more byte."""
    is_out_of_bytes = bool(entitlement.max_bytes) and use.bytes_total >= entitlement.max_bytes
    is_out_of_media = bool(entitlement.max_media_ms) and use.media_ms >= entitlement.max_media_ms
    return is_out_of_bytes or is_out_of_media
