"""Capacity: what an operator needs for so many viewers, computed from what was measured here.

The model of an event: every viewer receives from ten payees and every pair leaves one receipt an
epoch of five minutes. Not here: measuring (`ingest`), and what a seal costs (`seal`).
"""

from collections.abc import Mapping
from typing import Any, Final

PAYEES: Final = 10
EPOCH_S: Final = 300
USE_SHARE: Final = 0.6
"""Share of a core that is planned to be busy."""

WORKER_MEMORY_BYTES_PER_VIEWER: Final = 270
"""A worker's memory of a viewer: its key and its entitlement's signature."""

AUDIT_BYTES_PER_RECEIPT: Final = 640
"""Bundles with entitlements, statements and the rest of an epoch's file."""

RAW_EPOCHS: Final = 4
"""Epochs whose bundles are in Postgres at once: the one that fills, one that is sealed and settled,
and two that are kept after it."""


def capacity_of(figures: Mapping[str, float]) -> dict[str, Any]:
    """Return what 1 and 30 million viewers take.

    Args:
        figures: Of `bench ingest`: processor time per receipt by part and of libsodium's loop alone
            (`cores_verifying` is that loop's share of the cores), bytes per receipt by table.
    """
    return {
        f"{millions}_million_viewers": _capacity(millions * 1_000_000, figures)
        for millions in (1, 30)
    }


def _capacity(viewers: int, figures: Mapping[str, float]) -> dict[str, float]:
    receipts = viewers * PAYEES
    per_s = receipts / EPOCH_S
    cores = per_s * figures["cpu_us_per_receipt"] / 1e6
    postgres_cores = per_s * figures["postgres_us_per_receipt"] / 1e6
    live = figures["bundle_raws_bytes_per_receipt"] + figures["receipts_bytes_per_receipt"]
    return {
        "receipts_per_s": round(per_s),
        "cores_busy": round(cores, 2),
        "cores_verifying": round(per_s * figures["raw_us_per_receipt"] / 1e6, 2),
        "cores_to_buy": round(cores / USE_SHARE, 1),
        "postgres_cores_busy": round(postgres_cores, 2),
        "ingress_mbit_per_s": round(per_s * figures["bundle_raws_bytes_per_receipt"] * 8 / 1e6, 1),
        "postgres_live_gb": round(receipts * live * RAW_EPOCHS / 1e9, 1),
        "audit_files_gb_per_day": round(
            receipts * AUDIT_BYTES_PER_RECEIPT * 86_400 / EPOCH_S / 1e9
        ),
        "worker_memory_mb": round(min(viewers, 1 << 20) * WORKER_MEMORY_BYTES_PER_VIEWER / 1e6),
    }
