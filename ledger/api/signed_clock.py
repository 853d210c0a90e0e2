"""Ledger time for a broadcaster's back end: the collector's signed clock, not the machine's own.

A reading is asked for with a fresh nonce and believed when the log's key of the terms signed it.
Between readings the machine's monotonic clock runs on, for a bounded time; its wall clock is never
asked. Not here: what the collector knows ledger time from (`ledger_time`). Source: FORMATS.md,
"Clock".
"""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

import httpx

from ledger.audit.address import format_account
from ledger.evidence.clock import CLOCK
from ledger.evidence.errors import EvidenceError
from ledger.evidence.terms import Terms

FRESH_S: Final = 10.0
"""Age of a reading after which another one is asked for."""

STALE_S: Final = 60.0
"""Age after which a reading says nothing any more."""

TIMEOUT_S: Final = 5.0
"""How long a question may take; longer, and the answer would say too little about now."""


class ClockUnknownError(Exception):
    """No reading of the collector's clock is good enough; ask again later."""


class SignedClock:
    """Ledger time under one broadcaster's terms; safe to read from any thread."""

    def __init__(self, terms: Terms, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._terms = terms
        self._monotonic = monotonic
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)
        self._lock = threading.Lock()
        self._read_at_s = float("-inf")
        self._then_ms = 0

    def now_s(self) -> int:
        """Return ledger time in Unix seconds; never earlier than what was told before.

        Raises:
            ClockUnknownError: The collector gave no believable reading for a minute.
        """
        with self._lock:
            if self._age_s() > FRESH_S:
                self._read()
            return (self._then_ms + int(self._age_s() * 1_000)) // 1_000

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _age_s(self) -> float:
        return self._monotonic() - self._read_at_s

    def _read(self) -> None:
        asked_at_s = self._monotonic()
        try:
            now_ms = read_ledger_ms(self._client, self._terms.collector_url, self._terms)
        except ClockUnknownError:
            if self._age_s() > STALE_S:
                raise
            return
        if self._read_at_s != float("-inf"):
            now_ms = max(now_ms, self._then_ms + int((asked_at_s - self._read_at_s) * 1_000))
        self._then_ms, self._read_at_s = now_ms, asked_at_s


def read_ledger_ms(client: httpx.Client, api: str, terms: Terms) -> int:
    """Ask a collector for ledger time, once.

    Args:
        client: Asks; its time limit holds.
        api: The collector's base URL.
        terms: Name the log's key, which has to sign the answer.

    Returns:
        Unix milliseconds: the newest close, and how long ago it was when the collector answered.

    Raises:
        ClockUnknownError: No answer, or none to believe.
    """
    nonce = secrets.token_bytes(16)
    try:
        answer = client.get(
            f"{api.rstrip('/')}/v1/clock",
            params={
                "nonce": nonce.hex(),
                "broadcaster": format_account(terms.broadcaster_account),
                "log_key": terms.log_key.hex(),
            },
        )
        answer.raise_for_status()
        return _believe(answer.content, nonce, terms)
    except (httpx.HTTPError, EvidenceError, ValueError) as error:
        raise ClockUnknownError(f"collector's clock: {error}") from error


def _believe(raw: bytes, nonce: bytes, terms: Terms) -> int:
    signed = CLOCK.parse(raw)
    CLOCK.require_signed_by(signed, terms.log_key)
    clock = signed.value
    for field, got, want in (
        ("nonce", clock.nonce, nonce),
        ("network_id", clock.network_id, terms.network_id),
        ("genesis_s", clock.genesis_s, terms.genesis_s),
        ("epoch_length_s", clock.epoch_length_s, terms.epoch_length_s),
    ):
        if got != want:
            raise ValueError(f"clock.{field}: got {got!r}, want {want!r}")
    return clock.close_time_s * 1_000 + clock.age_ms
