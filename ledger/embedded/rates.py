"""Rates of a demo's transfer: slow enough to span two epochs, and so split that all serve.

Viewers' download limits set the duration; the CDN can give a quarter of the demand, the seeders
sixty per cent, so the rest can only come from other viewers.
"""

from dataclasses import dataclass

TRANSFER_S = 20
"""Seconds a transfer aims to take: longer than an epoch of 15."""

TOTAL_MAX_BYTES_PER_S = 32 << 20
"""Most payload all viewers together receive in a second: what two cores move with ease."""

LEAST_BYTES_PER_S = 24_576
"""Below this, protocol messages starve the payload."""

CDN_SHARE_PERCENT = 25
SEEDERS_SHARE_PERCENT = 60
LIMIT_FACTOR = 6
LIMIT_LEAST_S = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Limits in bytes per second, and how long the transfer may take at most."""

    viewer_down: int
    viewer_up: int
    seeder_up: int
    cdn: int
    limit_s: int


def plan_rates(content_bytes: int, viewers: int, seeders: int) -> Rates:
    """Return the limits for a transfer of this content to so many viewers."""
    demand = max(1, content_bytes * viewers // TRANSFER_S)
    demand = min(demand, TOTAL_MAX_BYTES_PER_S)
    viewer_down = max(LEAST_BYTES_PER_S, demand // viewers)
    demand = viewer_down * viewers
    duration_s = content_bytes // viewer_down + 1
    return Rates(
        viewer_down=viewer_down,
        viewer_up=viewer_down,
        seeder_up=max(LEAST_BYTES_PER_S, demand * SEEDERS_SHARE_PERCENT // 100 // seeders),
        cdn=max(LEAST_BYTES_PER_S, demand * CDN_SHARE_PERCENT // 100),
        limit_s=LIMIT_LEAST_S + LIMIT_FACTOR * duration_s,
    )
