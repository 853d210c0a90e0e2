"""Turns spooled receipts into numbered, signed bundles.

A payee bundle holds the newest receipts of the lanes that pay us, and countersigns them; a viewer
bundle holds our own CDN receipts, since a CDN runs no plugin, and our playbacks' heartbeats. Both
carry the entitlements and our binding, so that the collector needs nothing else. What comes later
goes into the epoch's next number. A bundle is durable before it is sent.

Not here: when to bundle (`accounting`), sending (`uploader`).
"""

from collections.abc import Sequence

from engine_plugin.spool import BundleState, Spool, SpooledBundle
from ledger.evidence.binding import Binding
from ledger.evidence.bundle import BundleKind, make_bundle, sign_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.heartbeat import Heartbeat
from ledger.evidence.receipt import Receipt
from ledger.evidence.terms import Terms

RECEIPTS_MAX = 4000
"""Most receipts in one bundle: with an entitlement each they stay under the bundle's size."""

HEARTBEATS_MAX = 2000
"""Most heartbeats in one bundle, beside as many receipts as there may be; more go into the next."""


class Bundler:
    """Makes the bundles of one submitter key under one broadcaster's terms."""

    def __init__(
        self,
        *,
        terms: Terms,
        spool: Spool,
        session_seed: bytes,
        session_key: bytes,
        binding: Signed[Binding],
    ) -> None:
        self._terms = terms
        self._spool = spool
        self._seed = session_seed
        self._key = session_key
        self._binding = binding

    def bundle_epoch(self, epoch: int, kind: BundleKind) -> SpooledBundle | None:
        """Bundle receipts and heartbeats of an epoch that no bundle has yet, up to the limits.

        Returns:
            The bundle, durable and unsent, or None when there is nothing to bundle.

        Raises:
            SpoolError: The spool refused; nothing was bundled.
        """
        receipts = self._spool.list_unbundled(epoch, kind, RECEIPTS_MAX)
        heartbeats: list[Signed[Heartbeat]] = []
        if kind is BundleKind.VIEWER:
            heartbeats = self._spool.list_unbundled_heartbeats(epoch, HEARTBEATS_MAX)
        if not (receipts or heartbeats):
            return None
        number = self._spool.next_number(epoch, kind)
        bundle = make_bundle(
            network_id=self._terms.network_id,
            submitter_key=self._key,
            broadcaster_account=self._terms.broadcaster_account,
            epoch=epoch,
            kind=kind,
            number=number,
            bindings=[self._binding],
            entitlements=self._entitlements_of([*receipts, *heartbeats]),
            receipts=receipts,
            heartbeats=heartbeats,
        )
        signed = sign_bundle(bundle, self._seed)
        spooled = SpooledBundle(
            epoch=epoch,
            kind=kind,
            number=number,
            digest=signed.digest,
            raw=signed.raw,
            receipt_count=len(receipts),
            bytes_total=sum(receipt.value.bytes_total for receipt in receipts),
            state=BundleState.UNSENT,
            promise=None,
            code="",
            detail="",
        )
        self._spool.put_bundle(spooled, receipts, heartbeats)
        return spooled

    def _entitlements_of(
        self, records: Sequence[Signed[Receipt] | Signed[Heartbeat]]
    ) -> list[Signed[Entitlement]]:
        digests = {record.value.entitlement_digest for record in records}
        found = [self._spool.find_entitlement(digest) for digest in digests]
        return [entitlement for entitlement in found if entitlement is not None]
