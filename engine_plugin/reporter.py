"""Tells the collector what there are receipts for while the epoch still runs.

People watch totals during an event; bundles come only after the epoch's turn. So every few seconds
the newest receipts of the current epoch go out as one signed provisional report, if anything
changed. Nothing depends on it: a report that is lost or refused is followed by the next one. Off
when the owner says so. Not here: evidence that counts (`bundler`, `uploader`).
"""

import asyncio
import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Protocol

import structlog

from engine_plugin.disk_sync import DiskSync
from engine_plugin.errors import CollectorRefusedError, CollectorUnavailableError
from engine_plugin.lanes import ReceiptLanes
from engine_plugin.ledger_clock import LedgerClock
from engine_plugin.spool import Spool
from ledger.evidence.bundle import BundleKind, make_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.provisional import sign_report
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms

INTERVAL_S: Final = 12.0
INTERVAL_LEAST_S: Final = 2.0
EPOCH_PARTS: Final = 4
"""An epoch has at least so many reports, however short it is."""

JITTER: Final = 0.1
"""Share of an interval by which it differs by chance."""

REFUSED_WAIT_S: Final = 300.0
"""After a refusal that the next report would meet too: the collector takes none, or none of us."""

_PASSING: Final = frozenset({"epoch_not_open", "stale_report"})
"""Refusals about a report's time: around an epoch's turn two clocks may differ."""

RECEIPTS_MAX: Final = 1_500
"""Most lanes in a report, those with most bytes: with an entitlement each they stay under 1 MiB."""

_log = structlog.get_logger(__name__)


class Door(Protocol):
    """Where reports go."""

    async def send_report(self, raw: bytes) -> None:
        """Send one; raises `CollectorUnavailableError` or `CollectorRefusedError`."""


class Reporter:
    """Reports of one engine run; runs in the event loop's thread."""

    def __init__(
        self,
        *,
        terms: Terms,
        spool: Spool,
        lanes: ReceiptLanes,
        clock: LedgerClock,
        door: Door,
        session_seed: bytes,
        session_key: bytes,
        interval_s: float | None = None,
    ) -> None:
        """Prepare; `run` sends.

        Args:
            terms: Whose epochs.
            spool: Holds the receipts that pay us, and all entitlements.
            lanes: Hold our own CDN receipts.
            clock: Ledger time.
            door: Where reports go.
            session_seed: Signs them.
            session_key: Its public key.
            interval_s: Between two reports; None: as the epoch's length asks.
        """
        self._terms = terms
        self._spool = spool
        self._lanes = lanes
        self._clock = clock
        self._door = door
        self._seed = session_seed
        self._key = session_key
        self._interval_s = interval_s or max(
            INTERVAL_LEAST_S, min(INTERVAL_S, terms.epoch_length_s / EPOCH_PARTS)
        )
        self._told: dict[tuple[int, BundleKind], bytes] = {}
        self.disk: DiskSync | None = None
        """What makes receipts durable, if the journal's commits alone do not."""

    async def run(self) -> None:
        """Report until cancelled."""
        # Engines that a channel's start woke together must not report together.
        await asyncio.sleep(random.uniform(0, self._interval_s))  # noqa: S311 - no secret
        while True:
            wait_s = self._interval_s
            try:
                await self.report()
            except CollectorUnavailableError as error:
                wait_s = max(wait_s, error.retry_after_s or 0.0)
            except CollectorRefusedError as error:
                _log.info("report_refused", code=error.code)
                if error.code not in _PASSING:
                    wait_s = REFUSED_WAIT_S
            await asyncio.sleep(wait_s * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    async def report(self) -> None:
        """Send what changed since the last report.

        Raises:
            CollectorUnavailableError: It did not arrive; the next one says all again.
            CollectorRefusedError: The collector does not take it.
            EngineError: Spool or journal refused a read.
        """
        now_ms, epoch = self._clock.now_ms(), self._clock.epoch()
        if now_ms is None or epoch is None:
            return
        self._told = {key: told for key, told in self._told.items() if key[0] >= epoch - 1}
        await self._report_epoch(epoch, now_ms)
        # An epoch's last receipts are signed at its turn.
        if epoch > self._terms.first_epoch:
            await self._report_epoch(epoch - 1, now_ms)

    async def _report_epoch(self, epoch: int, now_ms: int) -> None:
        await self._tell(BundleKind.PAYEE, epoch, now_ms, self._payee_receipts(epoch))
        await self._tell(BundleKind.VIEWER, epoch, now_ms, self._cdn_receipts(epoch))

    async def _tell(
        self, kind: BundleKind, epoch: int, now_ms: int, receipts: Sequence[Signed[Receipt]]
    ) -> None:
        state = sha256(b"".join(signed.digest for signed in receipts)).digest()
        if not receipts or self._told.get((epoch, kind)) == state:
            return
        entitlements = self._entitlements_of(receipts)
        known = {entitlement.digest for entitlement in entitlements}
        bundle = make_bundle(
            network_id=self._terms.network_id,
            submitter_key=self._key,
            broadcaster_account=self._terms.broadcaster_account,
            epoch=epoch,
            kind=kind,
            number=0,
            bindings=[],
            entitlements=entitlements,
            receipts=[each for each in receipts if each.value.entitlement_digest in known],
            heartbeats=[],
        )
        raw = sign_report(bundle, now_ms, self._seed)
        if self.disk is not None:
            await self.disk.reach()
        try:
            await self._door.send_report(raw)
        except CollectorRefusedError as error:
            if error.code not in _PASSING:
                raise
            if epoch == self._clock.epoch():
                return
        # Also when the epoch was sealed meanwhile: nobody asks for a report of it any more.
        self._told[epoch, kind] = state

    def _payee_receipts(self, epoch: int) -> list[Signed[Receipt]]:
        return self._spool.list_newest(epoch, BundleKind.PAYEE, RECEIPTS_MAX)

    def _cdn_receipts(self, epoch: int) -> list[Signed[Receipt]]:
        newest = sorted(self._lanes.list_cdn(epoch), key=lambda each: -each.bytes_total)
        return [RECEIPT.parse(stored.raw) for stored in newest[:RECEIPTS_MAX]]

    def _entitlements_of(self, receipts: Sequence[Signed[Receipt]]) -> list[Signed[Entitlement]]:
        digests = dict.fromkeys(signed.value.entitlement_digest for signed in receipts)
        found = [self._spool.find_entitlement(digest) for digest in digests]
        return [entitlement for entitlement in found if entitlement is not None]
