"""Bundles for the bench of overload: any number, each as dear to judge, cheap to make.

A payee's receipts are signed once and put into bundle after bundle: a worker verifies all of them
each time, the sender signs only the bundle. Not here: sending them (`overload`).
"""

import threading
from typing import Final

from ledger.bench.ingest_load import bind_payee, entitle_viewer, sign_receipt
from ledger.bench.synthetic_epoch import key_of, seed_of
from ledger.evidence.bundle import (
    BUNDLE_HEAD,
    BundleKind,
    format_bundle_body,
    make_bundle,
)
from ledger.evidence.encoding import TAG_SIZE, Signed
from ledger.evidence.keys import sign
from ledger.evidence.terms import Terms

PAYEES: Final = 16
NUMBERS: Final = 1 << 16
"""Bundles that one payee may number in an epoch."""

_NUMBER_AT: Final = TAG_SIZE + next(
    offset for offset, field in BUNDLE_HEAD.offsets() if field.name == "number"
)


class BundleMaker:
    """Makes the n-th bundle from any thread."""

    def __init__(self, terms: Signed[Terms], receipts: int) -> None:
        """Sign entitlements; receipts are signed when their payee's first bundle is made.

        Args:
            terms: The entitlements' terms.
            receipts: In each bundle, each of another viewer.
        """
        self._terms = terms
        self._viewers = [f"overload viewer {number}" for number in range(receipts)]
        self._entitlements = [entitle_viewer(terms, viewer) for viewer in self._viewers]
        self._lock = threading.Lock()
        self._bodies: dict[str, bytes] = {}

    def make(self, number: int) -> bytes:
        """Return the n-th bundle.

        Args:
            number: From 0, below `PAYEES` times `NUMBERS`.
        """
        payee = f"overload payee {number % PAYEES}"
        with self._lock:
            if payee not in self._bodies:
                self._bodies[payee] = self._format(payee)
            body = bytearray(self._bodies[payee])
        # Only its number differs from the payee's other bundles.
        body[_NUMBER_AT : _NUMBER_AT + 2] = (number // PAYEES).to_bytes(2, "little")
        raw = bytes(body)
        return sign(seed_of(payee), raw) + raw

    def _format(self, payee: str) -> bytes:
        terms = self._terms.value
        bundle = make_bundle(
            network_id=terms.network_id,
            submitter_key=key_of(payee),
            broadcaster_account=terms.broadcaster_account,
            epoch=0,
            kind=BundleKind.PAYEE,
            number=0,
            bindings=[bind_payee(terms, payee)],
            entitlements=self._entitlements,
            receipts=[
                sign_receipt(terms, viewer, entitlement.digest, payee)
                for viewer, entitlement in zip(self._viewers, self._entitlements, strict=True)
            ],
            heartbeats=[],
        )
        return format_bundle_body(bundle)
