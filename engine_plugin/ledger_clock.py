"""Ledger time on a machine whose own clock may be wrong.

A reading is the collector's signed statement of the latest network ledger's close time, bound to a
nonce of ours. Between readings the machine's monotonic clock runs on; its wall clock is never
asked, so stepping it changes nothing. Told time never steps back.

Not here: when to read again and over which URL (`collector`).
Source: FORMATS.md, "Clock".
"""

import threading
import time
from collections.abc import Callable

from engine_plugin.errors import EngineError
from ledger.evidence.clock import CLOCK
from ledger.evidence.errors import EvidenceError
from ledger.evidence.terms import Terms

ROUND_TRIP_MOST_S = 5.0
"""A reading that took longer says too little about now."""


class ClockRefusedError(EngineError):
    """A reading that must not be believed: the message says which field, got, want."""


class LedgerClock:
    """Ledger time of one broadcaster's terms. Methods may be called from any thread."""

    def __init__(self, terms: Terms, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._terms = terms
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._offset_ms: int | None = None
        self._told_ms = 0

    @property
    def is_known(self) -> bool:
        """Whether there was a reading yet."""
        return self._offset_ms is not None

    def take_reading(self, raw: bytes, *, nonce: bytes, asked_s: float) -> None:
        """Take a signed reading.

        Args:
            raw: The record as it came.
            nonce: The 16 bytes that were asked with.
            asked_s: Monotonic seconds at which it was asked for.

        Raises:
            ClockRefusedError: It is malformed, signed by another key, an answer to another
                question, of other terms, or came too late.
        """
        answered_s = self._monotonic()
        try:
            signed = CLOCK.parse(raw)
            CLOCK.require_signed_by(signed, self._terms.log_key)
        except EvidenceError as error:
            raise ClockRefusedError(str(error)) from None
        clock = signed.value
        checks: list[tuple[str, object, object]] = [
            ("clock.nonce", clock.nonce, nonce),
            ("clock.network_id", clock.network_id, self._terms.network_id),
            ("clock.genesis_s", clock.genesis_s, self._terms.genesis_s),
            ("clock.epoch_length_s", clock.epoch_length_s, self._terms.epoch_length_s),
        ]
        for field, got, want in checks:
            if got != want:
                raise ClockRefusedError(f"{field}: got {got!r}, want {want!r}")
        if answered_s - asked_s > ROUND_TRIP_MOST_S:
            raise ClockRefusedError(
                f"clock: got an answer after {answered_s - asked_s:.1f} s, "
                f"want at most {ROUND_TRIP_MOST_S} s"
            )
        # The operator read its clock somewhere between the question and the answer.
        middle_ms = int((asked_s + answered_s) * 500)
        with self._lock:
            self._offset_ms = clock.close_time_s * 1000 + clock.age_ms - middle_ms

    def now_ms(self) -> int | None:
        """Return ledger time in milliseconds, or None before the first reading."""
        with self._lock:
            if self._offset_ms is None:
                return None
            self._told_ms = max(self._told_ms, self._offset_ms + int(self._monotonic() * 1000))
            return self._told_ms

    def epoch(self) -> int | None:
        """Return the current epoch, or None before the first reading."""
        now_ms = self.now_ms()
        return None if now_ms is None else self._terms.epoch_at(now_ms // 1000)

    def ms_since_end(self, epoch: int) -> int | None:
        """Return milliseconds since an epoch ended, negative while it lasts; None if unknown."""
        now_ms = self.now_ms()
        return None if now_ms is None else now_ms - self._terms.epoch_end_s(epoch) * 1000
