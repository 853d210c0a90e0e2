"""The serving side: judges each receipt that a peer signs for us, and keeps the good ones.

A receipt is stored before it is acknowledged. Of one lane the highest sequence stays; two receipts
that contradict each other are kept as evidence and the lane takes nothing more. Whoever has no
valid entitlement is served all the same, but what it signs is not kept.

Not here: rates and cut-offs, bundles (`bundler`), the payable rule (a contract's).
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from engine_plugin.entitlements import covers_epoch, judge_entitlement
from engine_plugin.spool import Spool, SpoolError
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.bundle import BundleKind
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms

SLACK_BYTES = 16 << 20
"""How far a claim may run ahead of what was seen leaving: more than a drain interval carries, and
what a killed payee forgets of its last second."""

CLOCK_SKEW_S = 60
"""How far the peer's reading of ledger time may differ from ours."""

_EPOCHS_AHEAD_MAX = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What stands out with one session key; content bytes of all runs."""

    session_key: bytes
    sent_bytes: int
    """Handed to its connections; duplicates, and pieces that failed over there, included."""
    receipted_bytes: int
    """Sum of the newest totals of its lanes here."""

    @property
    def unacknowledged_bytes(self) -> int:
        """What was sent and stands in no receipt; n ≥ 0."""
        return max(0, self.sent_bytes - self.receipted_bytes)


class PayeeDesk:
    """Judges receipts for one payee key under one broadcaster's terms."""

    def __init__(
        self,
        *,
        terms: Signed[Terms],
        spool: Spool,
        session_key: bytes,
        content_ids: AbstractSet[bytes],
        ledger_ms: Callable[[], int | None],
        sent_bytes: Callable[[bytes], int],
    ) -> None:
        """Bind the desk.

        Args:
            terms: What we serve under.
            spool: Where receipts become durable.
            session_key: Our key: the payee.
            content_ids: Ids of the contents and streams we serve; may grow.
            ledger_ms: Ledger time in milliseconds, None while unknown.
            sent_bytes: Content bytes ever handed to a session key's connections.
        """
        self._terms = terms
        self._spool = spool
        self._key = session_key
        self._content_ids = content_ids
        self._ledger_ms = ledger_ms
        self._sent_bytes = sent_bytes
        self._spoilt = {pair[0].value.lane_digest for pair in spool.list_equivocations()}

    def take_entitlement(self, raw: bytes, session_key: bytes) -> ReceiptVerdict:
        """Keep the entitlement that a proved peer presents, if it is good.

        Raises:
            MalformedRecordError: The bytes are no entitlement.
        """
        signed = ENTITLEMENT.parse(raw)
        verdict = self._judge_entitlement(signed, session_key)
        if verdict is ReceiptVerdict.ACCEPTED:
            self._spool.add_entitlement(signed)
        return verdict

    def take_receipt(
        self, raw: bytes, session_key: bytes
    ) -> tuple[Signed[Receipt], ReceiptVerdict]:
        """Judge a receipt of a proved peer and keep it if it is good.

        Returns:
            The receipt and the verdict on it. An accepted receipt is durable by then.

        Raises:
            MalformedRecordError: The bytes are no receipt.
        """
        signed = RECEIPT.parse(raw)
        verdict = self._judge(signed, session_key)
        if verdict is ReceiptVerdict.ACCEPTED:
            try:
                self._spool.put_receipt(signed, kind=BundleKind.PAYEE, session_key=session_key)
            except SpoolError:
                verdict = ReceiptVerdict.NOT_STORED
        return signed, verdict

    def exposure_to(self, session_key: bytes) -> Exposure:
        """Return what a session key took from us, and what it receipted.

        Raises:
            SpoolError: The spool could not be read.
        """
        return Exposure(
            session_key=session_key,
            sent_bytes=self._sent_bytes(session_key),
            receipted_bytes=sum(self._spool.receipted_bytes(session_key).values()),
        )

    def _judge(self, signed: Signed[Receipt], session_key: bytes) -> ReceiptVerdict:
        receipt = signed.value
        if not RECEIPT.is_signed_by(signed, session_key):
            return ReceiptVerdict.BAD_SIGNATURE
        if receipt.network_id != self._terms.value.network_id:
            return ReceiptVerdict.WRONG_NETWORK
        if receipt.payee_key != self._key or receipt.is_cdn:
            return ReceiptVerdict.FOREIGN_PAYEE
        entitlement = self._spool.find_entitlement(receipt.entitlement_digest)
        if entitlement is None:
            return ReceiptVerdict.UNKNOWN_ENTITLEMENT
        verdict = self._judge_entitlement(entitlement, session_key, epoch=receipt.epoch)
        if verdict is not ReceiptVerdict.ACCEPTED:
            return verdict
        return self._judge_lane(signed, session_key)

    def _judge_entitlement(
        self, signed: Signed[Entitlement], session_key: bytes, *, epoch: int | None = None
    ) -> ReceiptVerdict:
        verdict = judge_entitlement(
            signed, self._terms, session_key=session_key, content_ids=self._content_ids
        )
        if verdict is not ReceiptVerdict.ACCEPTED:
            return verdict
        if not self._is_valid_at(signed.value, epoch):
            return ReceiptVerdict.ENTITLEMENT_NOT_VALID_NOW
        return ReceiptVerdict.ACCEPTED

    def _is_valid_at(self, entitlement: Entitlement, epoch: int | None) -> bool:
        """Tell whether an entitlement holds in a receipt's epoch, or now when none is named."""
        if epoch is not None:
            return covers_epoch(entitlement, self._terms.value, epoch)
        now_ms = self._ledger_ms()
        if now_ms is None:
            return True
        first_s = entitlement.not_before_s - CLOCK_SKEW_S
        return first_s <= now_ms // 1000 <= entitlement.not_after_s + CLOCK_SKEW_S

    def _judge_lane(self, signed: Signed[Receipt], session_key: bytes) -> ReceiptVerdict:
        receipt = signed.value
        now_ms = self._ledger_ms()
        if now_ms is not None:
            epoch = self._terms.value.epoch_at(now_ms // 1000)
            if receipt.epoch > epoch + _EPOCHS_AHEAD_MAX:
                return ReceiptVerdict.WRONG_EPOCH
        if receipt.lane_digest in self._spoilt:
            return ReceiptVerdict.EQUIVOCATION
        newest = self._spool.find_receipt(receipt.lane_digest)
        if newest is not None:
            if newest.receipt.digest == signed.digest:
                return ReceiptVerdict.ACCEPTED
            if _contradict(newest.receipt.value, receipt):
                self._spool.put_equivocation(newest.receipt, signed)
                self._spoilt.add(receipt.lane_digest)
                return ReceiptVerdict.EQUIVOCATION
            if receipt.sequence < newest.receipt.value.sequence:
                return ReceiptVerdict.STALE
        totals = self._spool.receipted_bytes(session_key)
        totals[receipt.lane_digest] = receipt.bytes_total
        if sum(totals.values()) > self._sent_bytes(session_key) + SLACK_BYTES:
            return ReceiptVerdict.MORE_THAN_SENT
        return ReceiptVerdict.ACCEPTED


def _contradict(first: Receipt, second: Receipt) -> bool:
    """Tell whether one key could not honestly have signed both, which differ."""
    if first.sequence == second.sequence:
        return True
    older, newer = sorted((first, second), key=lambda receipt: receipt.sequence)
    return newer.bytes_total < older.bytes_total or newer.media_ms_total < older.media_ms_total
