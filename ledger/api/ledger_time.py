"""Ledger time in the API process: a thread that keeps looking at the network's latest ledger.

A request never waits for the network. What a request sees is the latest ledger, when this process
first saw it, and whether the last good look is recent enough to promise anything on. Not here: the
gateway (`ledger.stellar`).
"""

import threading
import time
from dataclasses import dataclass
from typing import Final

import structlog

from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import Gateway, NetworkLedger

AGE_MAX_MS: Final = 3_600_000
"""The most that is told; see `ledger.evidence.clock`."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTime:
    """What the operator knew of ledger time at one moment."""

    ledger: NetworkLedger
    age_ms: int
    """Milliseconds since this process first saw that ledger, at most an hour."""

    @property
    def now_s(self) -> int:
        """The ledger's close time plus the whole seconds since it was seen."""
        return self.ledger.close_time_s + self.age_ms // 1_000


class LedgerTimeSource:
    """Looks at a gateway until stopped; safe to read from any thread."""

    def __init__(self, gateway: Gateway, *, interval_s: float, stale_s: float) -> None:
        self._gateway = gateway
        self._interval_s = interval_s
        self._stale_s = stale_s
        self._lock = threading.Lock()
        self._ledger: NetworkLedger | None = None
        self._seen_at = 0.0
        self._looked_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-time", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; returns when the thread has ended or its call is past its own bound."""
        self._stop.set()
        self._thread.join(timeout=10)

    def look(self) -> None:
        """Ask the gateway once.

        Raises:
            GatewayError: No usable answer; what was known stays known.
        """
        ledger = self._gateway.latest_ledger()
        now = time.monotonic()
        with self._lock:
            self._looked_at = now
            # An older answer is a source that lags; time never goes back.
            if self._ledger is None or ledger.sequence > self._ledger.sequence:
                self._ledger, self._seen_at = ledger, now

    def read(self) -> LedgerTime | None:
        """Return ledger time, or None while the last good look is too old to stand on."""
        now = time.monotonic()
        with self._lock:
            if self._ledger is None or now - self._looked_at > self._stale_s:
                return None
            age_ms = min(int((now - self._seen_at) * 1_000), AGE_MAX_MS)
            return LedgerTime(ledger=self._ledger, age_ms=age_ms)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except GatewayError as error:
                _log.warning("ledger_time_unknown", error=str(error))
            self._stop.wait(self._interval_s)
