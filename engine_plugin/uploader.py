"""Brings bundles from the spool to the collector, and their fate back.

Every unsent bundle is sent, unchanged, until a promise for it is stored; failures back off with
jitter and obey Retry-After, and the next try is another bundle's, so that one the collector chokes
on holds up nobody. A large one goes in chunks, and after a cut only what is missing is sent. A
refusal is kept with its code and shown; of a number that is taken already (the spool had to be
salvaged) the receipts go into the epoch's next bundle. Promised bundles are asked after until the
collector has judged them. Nothing here can hurt a transfer.

Not here: making bundles (`bundler`), the HTTP itself (`collector`).
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_base, wait_exponential, wait_random

from engine_plugin.collector import (
    BundleStatus,
    Collector,
    CollectorRefusedError,
    CollectorUnavailableError,
)
from engine_plugin.disk_sync import DiskSync
from engine_plugin.spool import BundleState, Spool, SpooledBundle, SpoolError
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.promise import Promise

BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 30.0
CONFLICT = "bundle_conflict"
"""The collector's code for other bytes under a key that it has promised already."""

STATUS_INTERVAL_S = 5.0
STATUS_BATCH = 20
"""Most promised bundles asked after in one round."""

_JUDGED = frozenset({"judged", "accepted", "refused", "sealed", "computed", "settled"})

Emit = Callable[..., None]
"""Takes an event's name and its fields as keywords."""

_log = structlog.get_logger(__name__)


TOLD_JITTER = 0.5
"""Share of what the server asked for that is added by chance: a crowd must not come back as one."""


class _WaitAsTold(wait_base):
    """Exponential back-off with jitter, and never less than the server asked for."""

    def __init__(self) -> None:
        self._backoff = wait_exponential(multiplier=BACKOFF_FIRST_S, max=BACKOFF_MOST_S)
        self._jitter = wait_random(0, BACKOFF_FIRST_S)

    def __call__(self, retry_state: RetryCallState) -> float:
        wait_s = float(self._backoff(retry_state)) + float(self._jitter(retry_state))
        outcome = retry_state.outcome
        error = None if outcome is None else outcome.exception()
        told_s = error.retry_after_s if isinstance(error, CollectorUnavailableError) else None
        if told_s is None:
            return wait_s
        return max(wait_s, told_s + float(wait_random(0, TOLD_JITTER * told_s)(retry_state)))


class Uploader:
    """Sends what the spool holds, one bundle at a time, oldest epoch first."""

    def __init__(self, *, spool: Spool, collector: Collector, emit: Emit) -> None:
        self._spool = spool
        self._collector = collector
        self._emit = emit
        self._turn = 0
        self.disk: DiskSync | None = None
        """What makes bundles durable, if the spool's commits alone do not."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()

    def wake(self) -> None:
        """Say that there is a bundle to send."""
        self._idle.clear()
        self._wake.set()

    async def drain(self) -> None:
        """Wait until no bundle is unsent."""
        self.wake()
        await self._idle.wait()

    async def run(self) -> None:
        """Send and ask until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._send_all()
                if not self._wake.is_set():
                    self._idle.set()
                await self._ask_after()
            except SpoolError as error:
                _log.warning("spool_failed", error=str(error))
            try:
                async with asyncio.timeout(STATUS_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _send_all(self) -> None:
        retrying = AsyncRetrying(
            wait=_WaitAsTold(),
            retry=retry_if_exception_type(CollectorUnavailableError),
            before_sleep=_log_failure,
            sleep=asyncio.sleep,
        )
        while self._spool.list_bundles(BundleState.UNSENT):
            # A success starts the back-off anew.
            if self.disk is not None:
                await self.disk.reach()
            await retrying(self._send_next)

    async def _send_next(self) -> None:
        bundles = self._spool.list_bundles(BundleState.UNSENT)
        if not bundles:
            return
        bundle = bundles[self._turn % len(bundles)]
        try:
            promise: Signed[Promise] = await self._collector.send_bundle(parse_bundle(bundle.raw))
        except CollectorUnavailableError:
            self._turn += 1
            raise
        except CollectorRefusedError as error:
            self._spool.store_refusal(bundle.digest, code=error.code, detail=error.detail)
            if error.code == CONFLICT:
                self._spool.reopen_receipts(parse_bundle(bundle.raw).value.receipts)
            self._emit("refused", **_names(bundle), code=error.code, detail=error.detail)
            return
        self._spool.store_promise(bundle.digest, promise.raw)
        self._emit("bundle", **_names(bundle), sealing_epoch=promise.value.sealing_epoch)

    async def _ask_after(self) -> None:
        for bundle in self._spool.list_bundles(BundleState.SENT)[:STATUS_BATCH]:
            try:
                status = await self._collector.read_status(bundle.digest)
            except (CollectorUnavailableError, CollectorRefusedError):
                return
            if status.state in _JUDGED:
                self._archive(bundle, status)

    def _archive(self, bundle: SpooledBundle, status: BundleStatus) -> None:
        refused = [code for code in status.codes if code]
        code = str(status.code) if status.code else ""
        detail = "" if not refused else "codes " + ",".join(str(code) for code in status.codes)
        self._spool.archive(bundle.digest, code=code, detail=detail)
        if status.code or refused:
            self._emit("refused", **_names(bundle), code=str(status.code), codes=list(status.codes))


def _log_failure(state: RetryCallState) -> None:
    error = None if state.outcome is None else state.outcome.exception()
    _log.warning("upload_failed", error=str(error), attempt=state.attempt_number)


def _names(bundle: SpooledBundle) -> dict[str, Any]:
    return {
        "epoch": bundle.epoch,
        "number": bundle.number,
        "kind": bundle.kind.name.lower(),
        "digest": bundle.digest.hex(),
        "receipts": bundle.receipt_count,
        "bytes": bundle.bytes_total,
    }
