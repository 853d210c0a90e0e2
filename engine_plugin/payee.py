"""The serving side: judges each receipt that a peer signs for us, and keeps the good ones.

A receipt is stored before it is acknowledged. Of one lane the highest sequence stays; two receipts
that contradict each other are kept as evidence and the lane takes nothing more. What goes beyond
the caps of its entitlement, or comes under one whose issuing key was revoked, is not kept: nobody
would pay for it; whoever signs nothing better is pointed out to the enforcement.

Not here: rates and cut-offs (`standing`), bundles (`bundler`), the payable rule (a contract's).
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeVar

from engine_plugin.caps import CapUse, has_caps, judge_use
from engine_plugin.entitlements import covers_epoch, judge_entitlement
from engine_plugin.issuing_key import IssuingKey
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

KEYS_KEPT = 4096
"""Of so many session keys the receipts are kept in memory; of others the spool is asked again."""

_EPOCHS_AHEAD_MAX = 1

_KeptT = TypeVar("_KeptT")

_REFUSALS = frozenset(
    {
        ReceiptVerdict.ENTITLEMENT_NOT_VALID_NOW,
        ReceiptVerdict.OVER_MAX_BYTES,
        ReceiptVerdict.OVER_MAX_MEDIA,
        ReceiptVerdict.ISSUING_KEY_REVOKED,
    }
)
"""Verdicts that no later receipt under the same entitlement can mend."""


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


@dataclass(slots=True)
class _Account:
    """What one session key has receipted here, as the spool says."""

    lanes: dict[bytes, Receipt]
    """The newest of every lane."""
    bytes_total: int
    """Sum over the lanes."""


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
        issuing_key: IssuingKey | None = None,
    ) -> None:
        """Bind the desk.

        Args:
            terms: What we serve under.
            spool: Where receipts become durable.
            session_key: Our key: the payee.
            content_ids: Ids of the contents and streams we serve; may grow.
            ledger_ms: Ledger time in milliseconds, None while unknown.
            sent_bytes: Content bytes ever handed to a session key's connections.
            issuing_key: Until when the terms' key may issue.
        """
        self._terms = terms
        self._spool = spool
        self._key = session_key
        self._content_ids = content_ids
        self._ledger_ms = ledger_ms
        self._sent_bytes = sent_bytes
        self._issuing_key = issuing_key or IssuingKey(terms.value)
        self._accounts: dict[bytes, _Account] = {}
        self._entitlements: dict[bytes, Signed[Entitlement]] = {}
        """Those that receipts came under, by digest; their signatures are good."""
        self._refused: dict[bytes, ReceiptVerdict] = {}
        self._spoilt = {pair[0].value.lane_digest for pair in spool.list_equivocations()}

    def take_entitlement(self, raw: bytes, session_key: bytes) -> ReceiptVerdict:
        """Keep the entitlement that a proved peer presents, if it is good.

        Raises:
            MalformedRecordError: The bytes are no entitlement.
        """
        signed = ENTITLEMENT.parse(raw)
        verdict = self._judge_entitlement(signed, session_key)
        if verdict is ReceiptVerdict.ACCEPTED:
            if self._spool.find_entitlement(signed.digest) is None:
                self._refused.pop(session_key, None)
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
        lane = signed.value.lane_digest
        verdict = self._judge(signed, lane, session_key)
        if verdict is ReceiptVerdict.ACCEPTED:
            try:
                self._spool.put_receipt(signed, kind=BundleKind.PAYEE, session_key=session_key)
            except SpoolError:
                verdict = ReceiptVerdict.NOT_STORED
            else:
                self._note_kept(signed.value, lane, session_key)
                self._refused.pop(session_key, None)
        elif verdict in _REFUSALS:
            _keep(self._refused, session_key, verdict)
        return signed, verdict

    def refusal_of(self, session_key: bytes) -> ReceiptVerdict | None:
        """Return why a key's last receipt was refused for good; None: it was not.

        A new entitlement, or an accepted receipt, ends it.
        """
        return self._refused.get(session_key)

    def exposure_to(self, session_key: bytes) -> Exposure:
        """Return what a session key took from us, and what it receipted.

        Raises:
            SpoolError: The spool could not be read.
        """
        return Exposure(
            session_key=session_key,
            sent_bytes=self._sent_bytes(session_key),
            receipted_bytes=self.receipted_bytes(session_key),
        )

    def receipted_bytes(self, session_key: bytes) -> int:
        """Return the sum of the newest totals of a session key's lanes.

        Raises:
            SpoolError: The spool could not be read.
        """
        return self._account_of(session_key).bytes_total

    def _judge(self, signed: Signed[Receipt], lane: bytes, session_key: bytes) -> ReceiptVerdict:
        receipt = signed.value
        if not RECEIPT.is_signed_by(signed, session_key):
            return ReceiptVerdict.BAD_SIGNATURE
        if receipt.network_id != self._terms.value.network_id:
            return ReceiptVerdict.WRONG_NETWORK
        if receipt.payee_key != self._key or receipt.is_cdn:
            return ReceiptVerdict.FOREIGN_PAYEE
        digest = receipt.entitlement_digest
        known = self._entitlements.get(digest)
        entitlement = known or self._spool.find_entitlement(digest)
        if entitlement is None:
            return ReceiptVerdict.UNKNOWN_ENTITLEMENT
        verdict = self._judge_entitlement(
            entitlement, session_key, epoch=receipt.epoch, is_verified=known is not None
        )
        if verdict is not ReceiptVerdict.ACCEPTED:
            return verdict
        _keep(self._entitlements, digest, entitlement)
        verdict = self._judge_lane(signed, lane, session_key)
        if verdict is not ReceiptVerdict.ACCEPTED:
            return verdict
        return self._judge_caps(receipt, lane, entitlement.value, session_key)

    def _judge_caps(
        self, receipt: Receipt, lane: bytes, entitlement: Entitlement, session_key: bytes
    ) -> ReceiptVerdict:
        if not has_caps(entitlement):
            return ReceiptVerdict.ACCEPTED
        lanes = dict(self._account_of(session_key).lanes)
        before = lanes.get(lane)
        if before is not None and before.bytes_total == receipt.bytes_total:
            # Nothing more is claimed, so a cap that was tightened by time is no matter.
            return ReceiptVerdict.ACCEPTED
        lanes[lane] = receipt
        under = [
            each for each in lanes.values() if each.entitlement_digest == receipt.entitlement_digest
        ]
        use = CapUse(
            bytes_total=sum([each.bytes_total for each in under]),
            media_ms=max([each.media_ms_total for each in under]),
        )
        now_ms = self._ledger_ms()
        now_s = None if now_ms is None else now_ms // 1000 + CLOCK_SKEW_S
        return judge_use(entitlement, use, now_s)

    def _account_of(self, session_key: bytes) -> _Account:
        """Return what a session key has receipted; read once, then kept for a while."""
        account = self._accounts.get(session_key)
        if account is None:
            lanes = {
                signed.value.lane_digest: signed.value
                for signed in self._spool.list_receipts_of(session_key)
            }
            account = _Account(lanes, sum(lane.bytes_total for lane in lanes.values()))
        _keep(self._accounts, session_key, account)
        return account

    def _note_kept(self, receipt: Receipt, lane: bytes, session_key: bytes) -> None:
        account = self._account_of(session_key)
        before = account.lanes.get(lane)
        account.lanes[lane] = receipt
        account.bytes_total += receipt.bytes_total - (before.bytes_total if before else 0)

    def _judge_entitlement(
        self,
        signed: Signed[Entitlement],
        session_key: bytes,
        *,
        epoch: int | None = None,
        is_verified: bool = False,
    ) -> ReceiptVerdict:
        verdict = judge_entitlement(
            signed,
            self._terms,
            session_key=session_key,
            content_ids=self._content_ids,
            is_verified=is_verified,
        )
        if verdict is not ReceiptVerdict.ACCEPTED:
            return verdict
        if not self._is_valid_at(signed.value, epoch):
            return ReceiptVerdict.ENTITLEMENT_NOT_VALID_NOW
        if not self._is_issued_for(epoch):
            return ReceiptVerdict.ISSUING_KEY_REVOKED
        return ReceiptVerdict.ACCEPTED

    def _is_issued_for(self, epoch: int | None) -> bool:
        """Tell whether the issuing key holds in a receipt's epoch, or now when none is named."""
        now_ms = self._ledger_ms()
        if epoch is None and now_ms is not None:
            epoch = self._terms.value.epoch_at(now_ms // 1000)
        return epoch is None or self._issuing_key.covers(epoch)

    def _is_valid_at(self, entitlement: Entitlement, epoch: int | None) -> bool:
        """Tell whether an entitlement holds in a receipt's epoch, or now when none is named."""
        if epoch is not None:
            return covers_epoch(entitlement, self._terms.value, epoch)
        now_ms = self._ledger_ms()
        if now_ms is None:
            return True
        first_s = entitlement.not_before_s - CLOCK_SKEW_S
        return first_s <= now_ms // 1000 <= entitlement.not_after_s + CLOCK_SKEW_S

    def _judge_lane(
        self, signed: Signed[Receipt], lane: bytes, session_key: bytes
    ) -> ReceiptVerdict:
        receipt = signed.value
        now_ms = self._ledger_ms()
        if now_ms is not None:
            epoch = self._terms.value.epoch_at(now_ms // 1000)
            if receipt.epoch > epoch + _EPOCHS_AHEAD_MAX:
                return ReceiptVerdict.WRONG_EPOCH
        if lane in self._spoilt:
            return ReceiptVerdict.EQUIVOCATION
        account = self._account_of(session_key)
        newest = account.lanes.get(lane)
        if newest is not None:
            if newest == receipt:
                return ReceiptVerdict.ACCEPTED
            if _contradict(newest, receipt):
                kept = self._spool.find_receipt(lane)
                if kept is not None:
                    self._spool.put_equivocation(kept.receipt, signed)
                self._spoilt.add(lane)
                return ReceiptVerdict.EQUIVOCATION
            if receipt.sequence < newest.sequence:
                return ReceiptVerdict.STALE
        before = 0 if newest is None else newest.bytes_total
        total = account.bytes_total - before + receipt.bytes_total
        if total > self._sent_bytes(session_key) + SLACK_BYTES:
            return ReceiptVerdict.MORE_THAN_SENT
        return ReceiptVerdict.ACCEPTED


def _keep(kept: dict[bytes, _KeptT], key: bytes, value: _KeptT) -> None:
    """Keep a value as the newest of a bounded number."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > KEYS_KEPT:
        del kept[next(iter(kept))]


def _contradict(first: Receipt, second: Receipt) -> bool:
    """Tell whether one key could not honestly have signed both, which differ."""
    if first.sequence == second.sequence:
        return True
    older, newer = sorted((first, second), key=lambda receipt: receipt.sequence)
    return newer.bytes_total < older.bytes_total or newer.media_ms_total < older.media_ms_total
