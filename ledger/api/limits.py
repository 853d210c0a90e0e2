"""What the collector holds, handles and promises at most; every figure is a setting.

Sizes in bytes, times in seconds. `swarmledger api serve` reads them from the configuration
(`SWARMLEDGER_…`, or the TOML file); tests make their own. Not here: the relay's (`relay`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger.config import Settings
from ledger.store.upload_store import UploadBounds

MIB: Final = 1 << 20
GIB: Final = 1 << 30
CHUNK_BYTES_MIN: Final = 4_096
"""Least size of a chunk that is not the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """Limits of one API process, and those that all of them share through the database."""

    requests: int = 256
    """Requests handled at once, long polls of the relay apart."""
    bodies: int = 32
    """Of these, requests whose body is being read or stored."""
    body_timeout_s: float = 60
    """How long a body may take to come in."""
    address_per_s: float = 500
    address_burst: int = 5_000
    """Requests with a body from one address (IPv6: /64)."""
    sender_per_s: float = 50
    sender_burst: int = 1_000
    """Signed bundles and reports of one submitter's key."""
    fair_bundles: int = 32
    """Unjudged bundles of one submitter while the backlog is over half of its limit."""
    backlog_bundles: int = 20_000
    """Unjudged bundles in the database."""
    backlog_bytes: int = 4 * GIB
    """Bytes of them."""
    broadcaster_percent: int = 80
    """Share of these two that one broadcaster may take, so that one stalled payer stops nobody."""
    disk_free_bytes: int = 256 * MIB
    """Free space below which nothing is taken in."""
    disk_dirs: tuple[Path, ...] = ()
    """Folders whose disks are looked at, the logs' folder beside them."""
    uploads: UploadBounds = field(
        default_factory=lambda: UploadBounds(
            sender_uploads=32, uploads=1_024, total_bytes=GIB, chunk_bytes=MIB
        )
    )
    """Uploads under way."""
    upload_keep_s: int = 3_600
    """Time without a byte after which an unfinished upload is dropped."""
    answer_keep_s: int = 600
    """How long the answer of a finished upload can be read."""
    report_rows: int = 200_000
    """Rows of provisional reports an epoch."""
    totals_token: str = ""
    """Bearer token that may see totals per content; empty: nobody does over HTTP."""
    logs_addresses: bool = False
    """Whether log lines say addresses in clear."""


def limits_of(settings: Settings) -> IntakeLimits:
    """Return the limits that the configuration states.

    Raises:
        OSError: The token's file cannot be read.
    """
    token = ""
    if settings.api_totals_token_file is not None:
        token = settings.api_totals_token_file.read_text(encoding="utf-8").strip()
    dirs = tuple(Path(part.strip()) for part in settings.api_disk_dirs.split(",") if part.strip())
    return IntakeLimits(
        requests=settings.api_requests_max,
        bodies=settings.api_bodies_max,
        body_timeout_s=settings.api_body_timeout_s,
        address_per_s=settings.api_address_per_s,
        address_burst=settings.api_address_burst,
        sender_per_s=settings.api_sender_per_s,
        sender_burst=settings.api_sender_burst,
        fair_bundles=settings.api_fair_bundles,
        backlog_bundles=settings.api_backlog_bundles,
        backlog_bytes=settings.api_backlog_bytes,
        broadcaster_percent=settings.api_broadcaster_percent,
        disk_free_bytes=settings.api_disk_free_bytes,
        disk_dirs=dirs,
        uploads=UploadBounds(
            sender_uploads=settings.api_uploads_sender,
            uploads=settings.api_uploads_max,
            total_bytes=settings.api_uploads_bytes,
            chunk_bytes=settings.api_chunk_bytes,
        ),
        upload_keep_s=settings.api_upload_keep_s,
        report_rows=settings.api_report_rows,
        totals_token=token,
        logs_addresses=settings.api_log_addresses,
    )
