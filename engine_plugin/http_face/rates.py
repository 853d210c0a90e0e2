"""Bytes so far, and bytes per second between two looks."""

import time
from collections.abc import Callable
from dataclasses import dataclass

_LEAST_S = 0.5
"""Looks nearer to each other than this get the same rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCount:
    """What a playable took in and gave out in this run; content bytes."""

    p2p_bytes: int = 0
    cdn_bytes: int = 0
    sent_bytes: int = 0
    """To peers."""

    @property
    def received_bytes(self) -> int:
        """From peers and CDN together."""
        return self.p2p_bytes + self.cdn_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRates:
    """Bytes per second."""

    down: int = 0
    up: int = 0


class RateGauge:
    """Differences of counts over the time between looks."""

    def __init__(
        self, count: Callable[[], ByteCount], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._last = count()
        self._last_s = clock()
        self._rates = ByteRates()

    def look(self) -> tuple[ByteCount, ByteRates]:
        """Return the counts now, and the rates since the look before."""
        now, now_s = self._count(), self._clock()
        passed_s = now_s - self._last_s
        if passed_s >= _LEAST_S:
            self._rates = ByteRates(
                down=max(0, int((now.received_bytes - self._last.received_bytes) / passed_s)),
                up=max(0, int((now.sent_bytes - self._last.sent_bytes) / passed_s)),
            )
            self._last, self._last_s = now, now_s
        return now, self._rates
