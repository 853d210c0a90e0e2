"""What is due when: receipts over new credits, their last one at an epoch's turn, bundles after it.

Called a few times a second and told of events that make a receipt due at once (a download that
finished, a peer that left, the end of the run). Everything it decides can be decided again after
a crash: the journal and the spool hold what was done.

Not here: signing itself (`lanes`), bundle contents (`bundler`), sockets.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import structlog

from engine_plugin.bundler import Bundler
from engine_plugin.cadence import Cadence
from engine_plugin.entitlements import OwnEntitlements
from engine_plugin.exchange import Exchange
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import Claim, Source
from engine_plugin.lanes import ReceiptLanes
from engine_plugin.ledger_clock import LedgerClock
from engine_plugin.spool import Spool, SpooledBundle
from engine_plugin.uploader import Uploader
from ledger.evidence.bundle import BundleKind
from ledger.evidence.encoding import Signed
from ledger.evidence.receipt import RECEIPT, Receipt

PAYEE_BUNDLE_AFTER_MS = 1500
"""Ledger time after an epoch's end at which its payee bundle is made."""

VIEWER_BUNDLE_AFTER_MS = 1000
"""The same for our own CDN receipts: a batch in flight at the turn has been journalled by then."""

_BUNDLE_AFTER_MS = {
    BundleKind.PAYEE: PAYEE_BUNDLE_AFTER_MS,
    BundleKind.VIEWER: VIEWER_BUNDLE_AFTER_MS,
}

PAYEE_QUIET_S = 0.75
"""A payee bundle waits while receipts of its epoch still come in, half as long when it is late."""

PAYEE_BUNDLE_LATEST_MS = 3000
FLUSH_DELAY_S = 0.6
"""From an event to the receipts it makes due: the meter has journalled what came before it."""

STAMP_INTERVAL_S = 2.0
BUNDLE_LOOK_S = 1.0
"""How often it is looked for bundles to make while none is waited for."""

_COMPLAINTS_KEPT = 4096

Emit = Callable[..., None]

_log = structlog.get_logger(__name__)


class Accounting:
    """Decides what to sign and what to bundle; runs in the event loop's thread."""

    def __init__(
        self,
        *,
        journal: MeterJournal,
        spool: Spool,
        clock: LedgerClock,
        lanes: ReceiptLanes,
        cadence: Cadence,
        entitlements: OwnEntitlements,
        exchange: Exchange,
        bundler: Bundler,
        uploader: Uploader,
        session_key: bytes,
        kept_epochs: int,
        emit: Emit,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._clock = clock
        self._lanes = lanes
        self._entitlements = entitlements
        self._exchange = exchange
        self._bundler = bundler
        self._uploader = uploader
        self._key = session_key
        self._kept_epochs = kept_epochs
        self._emit = emit
        self._cadence = cadence
        self._epoch: int | None = None
        self._next_stamp_s = 0.0
        self._next_bundle_s = 0.0
        self._flush_all_at_s: float | None = None
        self._flush_at_s: dict[bytes, float] = {}
        self._complained: dict[tuple[bytes, int], None] = {}
        self._unsent: dict[bytes, tuple[bytes, Signed[Receipt]]] = {}
        """Payee and newest receipt of every lane whose newest receipt is not durable yet."""
        self._spooled_epochs: set[int] = set()
        """Epochs that ended and whose CDN receipts are all in the spool."""

    def flush_all_soon(self, now_s: float) -> None:
        """Make every unsigned byte due shortly."""
        self._flush_all_at_s = now_s + FLUSH_DELAY_S

    def flush_soon(self, payee_key: bytes, now_s: float) -> None:
        """Make a payee's unsigned bytes due shortly."""
        self._flush_at_s[payee_key] = now_s + FLUSH_DELAY_S

    def tick(self, now_s: float) -> None:
        """Sign and bundle what is due.

        Raises:
            JournalError: The journal refused; the next tick tries again.
            SpoolError: The spool refused; the next tick tries again.
        """
        self.sign_due(now_s)
        if now_s >= self._next_bundle_s:
            is_awaited = self._bundle_due(now_s)
            self._next_bundle_s = now_s if is_awaited else now_s + BUNDLE_LOOK_S

    def sign_due(self, now_s: float) -> None:
        """Sign what is due; called too when new credits have become durable.

        Raises:
            JournalError: The journal refused; the next call tries again.
        """
        self._look_at_clock(now_s)
        self._sign_due(now_s)

    def sign_all(self) -> None:
        """Sign every creditable byte now.

        Raises:
            JournalError: The journal refused.
        """
        for claim in self._journal.list_claims():
            self._sign(claim)

    def bundle_all(self) -> None:
        """Bundle every receipt that stands in no bundle, of the current epoch too.

        Raises:
            SpoolError: The spool refused.
        """
        self._spool_cdn_receipts(None)
        for kind in BundleKind:
            for epoch in self._spool.list_unbundled_epochs(kind):
                self._bundle(epoch, kind)

    def _look_at_clock(self, now_s: float) -> None:
        epoch = self._clock.epoch()
        if epoch is None:
            return
        if now_s >= self._next_stamp_s:
            self._next_stamp_s = now_s + STAMP_INTERVAL_S
            self._journal.stamp_epoch(epoch)
        if epoch != self._epoch:
            self._spool.prune(epoch - self._kept_epochs)
            self._emit("epoch", epoch=epoch, previous=self._epoch)
            self._epoch = epoch
            self._next_bundle_s = now_s

    def _sign_due(self, now_s: float) -> None:
        flush_all = self._flush_all_at_s is not None and now_s >= self._flush_all_at_s
        if flush_all:
            self._flush_all_at_s = None
        flushed = {key for key, at_s in self._flush_at_s.items() if now_s >= at_s}
        for key in flushed:
            del self._flush_at_s[key]
        claims = self._journal.list_claims()
        due = self._cadence.list_due(
            claims, is_known=self._lanes.is_known, epoch=self._epoch, now_s=now_s
        )
        for claim in claims:
            if claim in due or flush_all or claim.payee_key in flushed:
                self._sign(claim)

    def _sign(self, claim: Claim) -> None:
        if claim.session_key != self._key:
            self._complain(claim, "session_key: got another key's credits; its seed is gone")
            return
        for signed in self._sign_under_caps(claim):
            self._tell_signed(claim, signed)

    def _tell_signed(self, claim: Claim, signed: Signed[Receipt]) -> None:
        self._cadence.note_signed(claim, is_known=self._lanes.is_known(claim.payee_key))
        receipt = signed.value
        self._spooled_epochs.discard(receipt.epoch)
        if receipt.epoch != self._epoch:
            self._next_bundle_s = 0.0
        self._unsent[receipt.lane_digest] = claim.payee_key, signed
        self.send_durable()

    def send_durable(self) -> None:
        """Send the newest receipt of every lane, once it is durable; called when more is."""
        for lane, (payee_key, signed) in list(self._unsent.items()):
            if self._lanes.is_durable(lane):
                del self._unsent[lane]
                self._send(payee_key, lane, signed)

    def _send(self, payee_key: bytes, lane: bytes, signed: Signed[Receipt]) -> None:
        receipt = signed.value
        is_sent = not receipt.is_cdn and self._exchange.send_receipt(payee_key, signed)
        self._emit(
            "receipt",
            direction="cdn" if receipt.is_cdn else "out",
            peer=payee_key.hex(),
            epoch=receipt.epoch,
            sequence=receipt.sequence,
            bytes_total=receipt.bytes_total,
            lane=lane.hex(),
            sent=is_sent,
        )

    def _sign_under_caps(self, claim: Claim) -> Iterator[Signed[Receipt]]:
        """Sign what the entitlements we hold allow, one after the other; say so when none does."""
        tried: set[bytes] = set()
        while entitlement := self._entitlements.find(claim.scope_id, claim.epoch, tried):
            left = self._entitlements.bytes_left(entitlement)
            signed = self._lanes.sign_claim(claim, entitlement, byte_limit=left)
            if signed is not None:
                yield signed
            if left is None:
                return
            tried.add(entitlement.digest)
        if any(_is_same_lane(claim, left) for left in self._journal.list_claims()):
            why = self._entitlements.explain_none(claim.scope_id, claim.epoch, tried)
            self._complain(claim, why)

    def _bundle_due(self, now_s: float) -> bool:
        """Bundle what is due; tell whether some epoch that has ended waits for its bundle."""
        is_awaited = False
        self._spool_cdn_receipts(VIEWER_BUNDLE_AFTER_MS)
        for kind, after_ms in _BUNDLE_AFTER_MS.items():
            for epoch in self._spool.list_unbundled_epochs(kind):
                since_ms = self._clock.ms_since_end(epoch)
                if since_ms is None or since_ms < after_ms:
                    is_awaited |= epoch != self._epoch
                elif kind is BundleKind.VIEWER or self._is_quiet(epoch, since_ms, now_s):
                    self._bundle(epoch, kind)
                else:
                    is_awaited = True
        return is_awaited

    def _is_quiet(self, epoch: int, since_ms: int, now_s: float) -> bool:
        """Tell whether no more receipts of an ended epoch seem to be on their way."""
        wait_s = PAYEE_QUIET_S if since_ms < PAYEE_BUNDLE_LATEST_MS else PAYEE_QUIET_S / 2
        return now_s - self._exchange.totals.last_receipt_s.get(epoch, 0.0) >= wait_s

    def _spool_cdn_receipts(self, after_ms: int | None) -> None:
        """Hand the final CDN receipts of ended epochs to the spool; of all epochs when None."""
        unsigned = {claim.epoch for claim in self._journal.list_claims() if _is_cdn(claim)}
        # Of what the spool has pruned nothing is sent again.
        oldest = 0 if self._epoch is None else self._epoch - self._kept_epochs
        for epoch in self._lanes.list_cdn_epochs():
            if epoch in self._spooled_epochs or epoch < oldest:
                continue
            since_ms = self._clock.ms_since_end(epoch)
            is_over = since_ms is not None and after_ms is not None and since_ms >= after_ms
            if after_ms is not None and not (is_over and epoch not in unsigned):
                continue
            for stored in self._lanes.list_cdn(epoch):
                signed = RECEIPT.parse(stored.raw)
                known = self._spool.find_receipt(signed.value.lane_digest)
                if known is None or known.receipt.value.sequence < stored.sequence:
                    self._spool.put_receipt(signed, kind=BundleKind.VIEWER, session_key=self._key)
            if is_over and epoch not in unsigned:
                self._spooled_epochs.add(epoch)

    def _bundle(self, epoch: int, kind: BundleKind) -> None:
        while (bundle := self._bundler.bundle_epoch(epoch, kind)) is not None:
            _log.info("bundled", **_log_names(bundle))
            self._uploader.wake()

    def _complain(self, claim: Claim, detail: str) -> None:
        if (claim.payee_key, claim.epoch) not in self._complained:
            self._complained[claim.payee_key, claim.epoch] = None
            if len(self._complained) > _COMPLAINTS_KEPT:
                del self._complained[next(iter(self._complained))]
            _log.warning("unsigned", peer=claim.payee_key.hex()[:16], detail=detail)
            self._emit("error", where="receipts", detail=detail, peer=claim.payee_key.hex())


def _is_same_lane(first: Claim, second: Claim) -> bool:
    return replace(first, byte_count=0) == replace(second, byte_count=0)


def _is_cdn(claim: Claim) -> bool:
    return claim.source is Source.CDN


def _log_names(bundle: SpooledBundle) -> dict[str, object]:
    return {
        "epoch": bundle.epoch,
        "number": bundle.number,
        "kind": bundle.kind.name.lower(),
        "receipts": bundle.receipt_count,
        "bytes": bundle.bytes_total,
    }
