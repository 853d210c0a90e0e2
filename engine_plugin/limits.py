"""How much an engine may move now: a pure function of the owner's settings, the time, the month.

The nearer the month's volume, the slower: what is left is spread over some seconds, so that
content already handed to the network does not run past it. Disk space is granted before content is
fetched, whole; nothing is ever deleted to make room.

Not here: counting (`upload_volume`), telling libtorrent (`owners_limits`).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from engine_plugin.errors import EngineError
from engine_plugin.owner_settings import OwnerSettings

SPREAD_S = 4
"""Over how many seconds the rest of a month's volume is spread."""

RATE_LEAST_BYTES = 16 * 1024
"""Slower than a block a second is standing still."""


class StopReason(StrEnum):
    """Why an engine serves nothing at the moment."""

    SCHEDULE = "schedule"
    MONTHLY_VOLUME = "monthly_volume"


class QuotaError(EngineError):
    """Content does not fit into the disk quota, or the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedRates:
    """What holds now."""

    upload_bytes_per_s: int
    """0 = unlimited; not read while `stop_reason` is set."""
    download_bytes_per_s: int
    """0 = unlimited."""
    stop_reason: StopReason | None = None
    """Set while nothing may be served; downloads go on."""


def allow_rates(settings: OwnerSettings, local: datetime, *, uploaded_bytes: int) -> AllowedRates:
    """Return what an engine may do at a moment.

    Args:
        settings: The owner's.
        local: The owner's local time.
        uploaded_bytes: Content bytes served in the month of `local` so far; n ≥ 0.
    """
    upload, reason = settings.upload_bytes_per_s, None
    if settings.monthly_upload_bytes:
        pace = (settings.monthly_upload_bytes - uploaded_bytes) // SPREAD_S
        if pace < RATE_LEAST_BYTES:
            reason = StopReason.MONTHLY_VOLUME
        elif not upload or pace < upload:
            upload = pace
    if not settings.windows.is_open(local):
        reason = StopReason.SCHEDULE
    return AllowedRates(
        upload_bytes_per_s=upload,
        download_bytes_per_s=settings.download_bytes_per_s,
        stop_reason=reason,
    )


def grant_disk(
    settings: OwnerSettings, name: str, *, wanted_bytes: int, held_bytes: int, free_bytes: int
) -> None:
    """Check that content fits before it is fetched.

    Args:
        settings: The owner's.
        name: The content's, for the message.
        wanted_bytes: What fetching it will write.
        held_bytes: What fetched content fills already.
        free_bytes: What the file system has left.

    Raises:
        QuotaError: It does not fit.
    """
    quota = settings.disk_quota_bytes
    if quota and held_bytes + wanted_bytes > quota:
        raise QuotaError(
            f"disk_quota_bytes: got {wanted_bytes} bytes for {name} beside {held_bytes} held,"
            f" want at most {quota} in all"
        )
    if wanted_bytes > free_bytes:
        raise QuotaError(f"{name}: got {free_bytes} bytes free on the disk, want {wanted_bytes}")


def month_of(local: datetime) -> str:
    """Return the calendar month of a local time, "YYYY-MM"."""
    return f"{local.year:04}-{local.month:02}"
