"""Issuer's pace: how often viewers, and the back end with the token, may ask for entitlements.

Counts are those of this process (`pacing`). Not here: how much may be issued (`issuing_budget`).
"""

import time
from collections.abc import Callable

from fastapi import Request

from ledger.api.answers import RefusedError
from ledger.api.limits import IntakeLimits
from ledger.api.pacing import Buckets
from ledger.api.request_note import network_of


class Pace:
    """How often viewers of one address, and the back end with the token, may ask.

    The figures are those of the operator's API (`limits`), as of one address and of one sender.
    """

    def __init__(
        self, limits: IntakeLimits | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with nobody having asked; None: the default figures."""
        figures = limits or IntakeLimits()
        self._addresses = Buckets(
            per_s=figures.address_per_s, burst=figures.address_burst, monotonic=monotonic
        )
        self._senders = Buckets(
            per_s=figures.sender_per_s, burst=figures.sender_burst, monotonic=monotonic
        )

    def require_address(self, request: Request) -> None:
        """Raise 429 if an address (IPv6: /64) asks too often."""
        host = None if request.client is None else request.client.host
        self._require(self._addresses, "address", network_of(host))

    def require_sender(self, name: bytes) -> None:
        """Raise 429 if a session key or a token asks too often."""
        self._require(self._senders, "sender", name)

    @staticmethod
    def _require(buckets: Buckets, field: str, name: bytes) -> None:
        if wait_s := buckets.take(name):
            raise RefusedError(
                429,
                "too_many_requests",
                field=field,
                got="more",
                want="fewer",
                retry_after_s=wait_s,
            )
