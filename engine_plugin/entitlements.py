"""Judging and holding entitlements: the payee's check and the viewer's own.

Not here: fetching them (`collector`), caps (the contract applies them).
"""

from collections.abc import Set as AbstractSet

from engine_plugin.spool import Spool
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.terms import Terms

RENEW_BEFORE_S = 60
"""An entitlement is renewed when it has less than this left."""


def judge_entitlement(
    signed: Signed[Entitlement],
    terms: Signed[Terms],
    *,
    session_key: bytes,
    content_ids: AbstractSet[bytes],
) -> ReceiptVerdict:
    """Tell whether an entitlement is by these terms, for this key and for this content."""
    entitlement = signed.value
    if entitlement.network_id != terms.value.network_id:
        return ReceiptVerdict.WRONG_NETWORK
    stated = (entitlement.issuing_key, entitlement.broadcaster_account, entitlement.terms_digest)
    if stated != (terms.value.issuing_key, terms.value.broadcaster_account, terms.digest):
        return ReceiptVerdict.FOREIGN_ISSUER
    if not ENTITLEMENT.is_signed_by(signed, terms.value.issuing_key):
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

    def __init__(self, *, terms: Signed[Terms], spool: Spool, session_key: bytes) -> None:
        self._terms = terms
        self._spool = spool
        self._key = session_key
        self.all = spool.list_entitlements(session_key)

    def take(self, signed: Signed[Entitlement], content_id: bytes) -> ReceiptVerdict:
        """Keep an entitlement if it is ours and good."""
        verdict = judge_entitlement(
            signed,
            self._terms,
            session_key=self._key,
            content_ids=frozenset({content_id}),
        )
        if verdict is ReceiptVerdict.ACCEPTED:
            self._spool.add_entitlement(signed)
            self.all = self._spool.list_entitlements(self._key)
        return verdict

    def find(self, content_id: bytes, epoch: int) -> Signed[Entitlement] | None:
        """Return the entitlement for receipts over this content in this epoch."""
        terms = self._terms
        for signed in self.all:
            entitlement = signed.value
            fits = entitlement.content_id == content_id and entitlement.terms_digest == terms.digest
            if fits and covers_epoch(entitlement, terms.value, epoch):
                return signed
        return None

    def is_wanting(self, content_id: bytes, now_s: int | None) -> bool:
        """Tell whether a (further) entitlement should be asked for."""
        lasts_s = [
            signed.value.not_after_s
            for signed in self.all
            if signed.value.content_id == content_id
            and signed.value.terms_digest == self._terms.digest
        ]
        return not lasts_s or (now_s is not None and max(lasts_s) - now_s < RENEW_BEFORE_S)
