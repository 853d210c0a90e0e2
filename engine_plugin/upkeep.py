"""Keeps what an engine needs from outside fresh: the ledger's clock and its own entitlements.

Both loops run for as long as the engine does and survive every failure of the other side; until
they succeed, bytes are metered and wait unsigned.

Not here: what a reading or an entitlement must satisfy (`ledger_clock`, `entitlements`).
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from engine_plugin.collector import (
    Collector,
    CollectorRefusedError,
    CollectorUnavailableError,
)
from engine_plugin.coverage import CHECK_EVERY_S, RETRY_S, CoverageGate
from engine_plugin.entitlements import OwnEntitlements
from engine_plugin.errors import EngineError
from engine_plugin.issuing_key import IssuingKey, IssuingKeyError
from engine_plugin.ledger_clock import ClockRefusedError, LedgerClock
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.binding import Binding
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement

CLOCK_INTERVAL_S = 5.0
"""At least; a hundredth of an epoch if that is longer, for the machine's clock goes on between."""
CLOCK_INTERVAL_MOST_S = 30.0
CLOCK_RETRY_S = 1.0
CLOCK_RETRY_MOST_S = 10.0
ENTITLEMENT_RETRY_S = 1.0
ENTITLEMENT_RETRY_MOST_S = 30.0
ENTITLEMENT_LOOK_MOST_S = 10.0
"""How seldom it is looked at whether an entitlement without caps runs out."""
ISSUING_KEY_INTERVAL_S = 60.0
ISSUING_KEY_RETRY_S = 5.0
_DOUBLINGS_MAX = 10

_log = structlog.get_logger(__name__)

Emit = Callable[..., None]
Fail = Callable[[str, str], None]
"""Takes where something failed, and how."""


@dataclass(slots=True)
class _Asking:
    """When a scope's entitlement is next looked at."""

    next_s: float = 0.0
    failures: int = 0


class Upkeep:
    """The clock and the entitlements of one run."""

    def __init__(
        self,
        *,
        clock: LedgerClock,
        collector: Collector,
        entitlements: OwnEntitlements,
        binding: Signed[Binding],
        issuing_key: IssuingKey,
        epoch_length_s: int,
        announce: Callable[[], None],
        announce_issuing_key: Callable[[], None],
        emit: Emit,
        fail: Fail,
    ) -> None:
        self._clock = clock
        self._collector = collector
        self._entitlements = entitlements
        self._binding = binding
        self._scopes: dict[bytes, _Asking] = {}
        self._wake = asyncio.Event()
        self._epoch_length_s = epoch_length_s
        self._issuing_key = issuing_key
        self._announce = announce
        self._announce_issuing_key = announce_issuing_key
        self._emit = emit
        self._fail = fail

    async def keep_clock(self) -> None:
        """Read the clock every few seconds until cancelled."""
        failures = 0
        while True:
            wait_s = max(CLOCK_INTERVAL_S, min(self._epoch_length_s / 100, CLOCK_INTERVAL_MOST_S))
            asked_s = time.monotonic()
            try:
                nonce, raw = await self._collector.read_clock()
                self._clock.take_reading(raw, nonce=nonce, asked_s=asked_s)
                failures = 0
            except (CollectorUnavailableError, CollectorRefusedError, ClockRefusedError) as error:
                wait_s = min(CLOCK_RETRY_S * 2**failures, CLOCK_RETRY_MOST_S)
                failures = min(failures + 1, _DOUBLINGS_MAX)
                self._fail("clock", str(error))
            await asyncio.sleep(wait_s)

    async def keep_issuing_key(self) -> None:
        """Ask for the newest word on the issuing key, now and then, until cancelled."""
        while True:
            try:
                if self._issuing_key.take(await self._collector.read_issuing_binding()):
                    self._emit("issuing_key", last_epoch=self._issuing_key.last_epoch)
                    self._announce_issuing_key()
            except CollectorUnavailableError:
                # The clock's loop says so when the collector is away.
                await asyncio.sleep(ISSUING_KEY_RETRY_S)
                continue
            except CollectorRefusedError:
                _log.info("issuing_key_untold")
            except IssuingKeyError as error:
                self._fail("issuing_key", str(error))
            await asyncio.sleep(ISSUING_KEY_INTERVAL_S)

    async def keep_coverage(self, gate: CoverageGate) -> None:
        """Ask what the escrow covers, now and then, until cancelled."""
        while gate.min_ppm:
            wait_s = CHECK_EVERY_S
            try:
                gate.take(await self._collector.read_coverage())
            except (CollectorUnavailableError, CollectorRefusedError) as error:
                gate.take(None, str(error))
                wait_s = RETRY_S
            await asyncio.sleep(wait_s)

    def watch(self, scope_id: bytes, given: Signed[Entitlement] | None) -> None:
        """Take the given entitlement for a content or stream, and keep asking for fresh ones."""
        if given is not None:
            self._take(given, scope_id)
        if scope_id not in self._scopes:
            self._scopes[scope_id] = _Asking()
            self._wake.set()

    def unwatch(self, scope_id: bytes) -> None:
        """Ask for no more entitlements for a content or stream."""
        self._scopes.pop(scope_id, None)

    async def keep_entitlements(self) -> None:
        """Ask for an entitlement whenever one is wanting, until cancelled."""
        while self._collector.can_entitle:
            self._wake.clear()
            for scope_id, asking in list(self._scopes.items()):
                if time.monotonic() >= asking.next_s:
                    await self._ask(scope_id, asking)
            next_s = min((asking.next_s for asking in self._scopes.values()), default=None)
            wait_s = None if next_s is None else max(0.0, next_s - time.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def _ask(self, scope_id: bytes, asking: "_Asking") -> None:
        wait_s = ENTITLEMENT_RETRY_S
        if self._entitlements.is_wanting(scope_id, self._ledger_s()):
            try:
                newest = self._entitlements.newest(scope_id)
                is_nearly_used_up = newest is not None and self._entitlements.is_nearly_used_up(
                    newest
                )
                fetched = await self._collector.fetch_entitlement(
                    self._binding,
                    scope_id,
                    after=newest.digest if newest is not None and is_nearly_used_up else None,
                )
                is_taken = self._take(fetched, scope_id)
            except (CollectorUnavailableError, CollectorRefusedError) as error:
                self._fail("entitlement", str(error))
                is_taken = False
            asking.failures = 0 if is_taken else min(asking.failures + 1, _DOUBLINGS_MAX)
            wait_s = min(ENTITLEMENT_RETRY_S * 2**asking.failures, ENTITLEMENT_RETRY_MOST_S)
        else:
            calm_s = self._entitlements.calm_s(scope_id, self._ledger_s())
            wait_s = max(wait_s, min(calm_s, ENTITLEMENT_LOOK_MOST_S))
        asking.next_s = time.monotonic() + wait_s

    def _take(self, signed: Signed[Entitlement], scope_id: bytes) -> bool:
        is_known = any(signed.digest == known.digest for known in self._entitlements.all)
        try:
            verdict = self._entitlements.take(signed, scope_id)
        except EngineError as error:
            self._fail("entitlement", str(error))
            return False
        if verdict is not ReceiptVerdict.ACCEPTED:
            self._emit("refused", what="own_entitlement", code=verdict.name.lower())
            return False
        if is_known:
            # The back end has no newer one yet: asking again at once would not change that.
            return False
        self._emit("entitled", digest=signed.digest.hex(), not_after_s=signed.value.not_after_s)
        self._announce()
        return True

    def _ledger_s(self) -> int | None:
        now_ms = self._clock.now_ms()
        return None if now_ms is None else now_ms // 1000
