"""Judging and holding entitlements: the payee's check and the viewer's own.

Not here: fetching them (`collector`), the caps themselves (`caps`), when the issuing key ends
(`issuing_key`).
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet

from engine_plugin.caps import CapUse, bytes_left, has_caps, is_used_up
from engine_plugin.issuing_key import IssuingKey
from engine_plugin.spool import Spool
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.terms import Terms

RENEW_BEFORE_S = 60
"""An entitlement is renewed when it has less than this left."""

RENEW_LEFT_DIVISOR = 4
"""It is renewed too when less than a quarter of its bytes or media time is left."""


def judge_entitlement(
    signed: Signed[Entitlement],
    terms: Signed[Terms],
    *,
    session_key: bytes,
    content_ids: AbstractSet[bytes],
    is_verified: bool = False,
) -> ReceiptVerdict:
    """Tell whether an entitlement is by these terms, for this key and for this content.

    Args:
        signed: Which.
        terms: Whose entitlements count.
        session_key: Whose it must be.
        content_ids: What it may be for.
        is_verified: Whether its signature is known to be good.
    """
    entitlement = signed.value
    if entitlement.network_id != terms.value.network_id:
        return ReceiptVerdict.WRONG_NETWORK
    stated = (entitlement.issuing_key, entitlement.broadcaster_account, entitlement.terms_digest)
    if stated != (terms.value.issuing_key, terms.value.broadcaster_account, terms.digest):
        return ReceiptVerdict.FOREIGN_ISSUER
    if not (is_verified or ENTITLEMENT.is_signed_by(signed, terms.value.issuing_key)):
        return ReceiptVerdict.BAD_SIGNATURE
    if entitlement.session_key != session_key:
        return ReceiptVerdict.FOREIGN_SESSION
    if entitlement.content_id not in content_ids:
        return ReceiptVerdict.FOREIGN_CONTENT
    return ReceiptVerdict.ACCEPTED


def covers_epoch(entitlement: Entitlement, terms: Terms, epoch: int) -> bool:
    """Tell whether an entitlement holds in some part of an epoch."""
    begins_s, ends_s = terms.epoch_start_s(epoch), terms.epoch_end_s(epoch)
    return entitlement.not_before_s < ends_s and entitlement.not_after_s >= begins_s


class OwnEntitlements:
    """The viewer's own entitlements, kept in the spool, the longest valid first."""

    def __init__(
        self,
        *,
        terms: Signed[Terms],
        spool: Spool,
        session_key: bytes,
        issuing_key: IssuingKey | None = None,
        use_of: Callable[[bytes], CapUse] = lambda _digest: CapUse(),
        now_s: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Read what is kept.

        Args:
            terms: Whose entitlements count.
            spool: Where they are kept.
            session_key: Ours.
            issuing_key: Until when the terms' key may issue.
            use_of: What we signed under an entitlement, by its digest.
            now_s: Ledger time in seconds, None while unknown.
        """
        self._terms = terms
        self._spool = spool
        self._key = session_key
        self._issuing_key = issuing_key or IssuingKey(terms.value)
        self._use_of = use_of
        self._now_s = now_s
        self.all = spool.list_entitlements(session_key)

    def take(self, signed: Signed[Entitlement], content_id: bytes) -> ReceiptVerdict:
        """Keep an entitlement if it is ours and good."""
        verdict = judge_entitlement(
            signed,
            self._terms,
            session_key=self._key,
            content_ids=frozenset({content_id}),
        )
        if verdict is ReceiptVerdict.ACCEPTED and self._is_revoked_now():
            verdict = ReceiptVerdict.ISSUING_KEY_REVOKED
        if verdict is ReceiptVerdict.ACCEPTED:
            self._spool.add_entitlement(signed)
            self.all = self._spool.list_entitlements(self._key)
        return verdict

    def find(
        self, content_id: bytes, epoch: int, besides: AbstractSet[bytes] = frozenset()
    ) -> Signed[Entitlement] | None:
        """Return the entitlement for receipts over this content in this epoch.

        Args:
            content_id: Of the content or stream.
            epoch: Of the receipts.
            besides: Digests of those that will not do.
        """
        if not self._issuing_key.covers(epoch):
            return None
        for signed in self._of(content_id):
            is_useful = signed.digest not in besides and not (
                has_caps(signed.value) and is_used_up(signed.value, self._use_of(signed.digest))
            )
            if is_useful and covers_epoch(signed.value, self._terms.value, epoch):
                return signed
        return None

    def bytes_left(self, signed: Signed[Entitlement]) -> int | None:
        """Return how many bytes may be signed under an entitlement now; None: any number."""
        if not has_caps(signed.value):
            return None
        return bytes_left(signed.value, self._use_of(signed.digest), self._now_s())

    def explain_none(
        self, content_id: bytes, epoch: int, besides: AbstractSet[bytes] = frozenset()
    ) -> str:
        """Say why `find` finds nothing: no entitlement, used up, run out, or revoked."""
        if not self._issuing_key.covers(epoch):
            return (
                f"entitlement: the issuing key is revoked after epoch "
                f"{self._issuing_key.last_epoch}, want one for epoch {epoch}"
            )
        for signed in self._of(content_id):
            use, entitlement = self._use_of(signed.digest), signed.value
            is_spent = signed.digest in besides or is_used_up(entitlement, use)
            if is_spent and covers_epoch(entitlement, self._terms.value, epoch):
                return (
                    f"entitlement: used up, {use.bytes_total} of {entitlement.max_bytes} bytes "
                    f"and {use.media_ms} of {entitlement.max_media_ms} media ms are signed"
                )
        return f"entitlement: got none for epoch {epoch}"

    def newest(self, content_id: bytes) -> Signed[Entitlement] | None:
        """Return the one for a content that lasts longest, whether or not it is of use still."""
        return next(iter(self._of(content_id)), None)

    def is_wanting(self, content_id: bytes, now_s: int | None) -> bool:
        """Tell whether a (further) entitlement should be asked for."""
        if self._is_revoked_now():
            return False
        return all(self._needs_another(signed, now_s) for signed in self._of(content_id))

    def calm_s(self, content_id: bytes, now_s: int | None) -> int:
        """Return for how many seconds no further entitlement will be wanting, as far as is known.

        Only time ends one without caps; how fast others are used up nobody knows.
        """
        if now_s is None:
            return 0
        lasts = (
            signed.value.not_after_s - RENEW_BEFORE_S - now_s
            for signed in self._of(content_id)
            if not has_caps(signed.value)
        )
        return max(0, max(lasts, default=0))

    def is_nearly_used_up(self, signed: Signed[Entitlement]) -> bool:
        """Tell whether so little is left of its bytes or media time that another is wanted."""
        entitlement, use = signed.value, self._use_of(signed.digest)
        caps = (
            (entitlement.max_bytes, use.bytes_total),
            (entitlement.max_media_ms, use.media_ms),
        )
        return any(cap and (cap - used) * RENEW_LEFT_DIVISOR < cap for cap, used in caps)

    def _needs_another(self, signed: Signed[Entitlement], now_s: int | None) -> bool:
        runs_out = now_s is not None and signed.value.not_after_s - now_s < RENEW_BEFORE_S
        return runs_out or self.is_nearly_used_up(signed)

    def _of(self, content_id: bytes) -> list[Signed[Entitlement]]:
        digest = self._terms.digest
        return [
            signed
            for signed in self.all
            if (signed.value.content_id, signed.value.terms_digest) == (content_id, digest)
        ]

    def _is_revoked_now(self) -> bool:
        now_s = self._now_s()
        if now_s is None:
            return False
        return not self._issuing_key.covers(self._terms.value.epoch_at(now_s))
