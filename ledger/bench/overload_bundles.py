"""Bundles for the bench of overload: any number, each as dear to judge, cheap to make.

A payee's receipts are signed once and put into bundle after bundle: a worker verifies all of them
each time, the sender signs only the bundle. Not here: sending them (`overload`).
"""

import threading
from typing import Final

from ledger.bench.ingest_load import bind_payee, entitle_viewer, sign_receipt
from ledger.bench.synthetic_epoch import key_of, seed_of
from ledger.evidence.binding import Binding
from ledger.evidence.bundle import BundleKind, make_bundle, sign_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.receipt import Receipt
from ledger.evidence.terms import Terms

PAYEES: Final = 16
NUMBERS: Final = 1 << 16
"""Bundles that one payee may number in an epoch."""


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
        self._known: dict[str, tuple[Signed[Binding], list[Signed[Receipt]]]] = {}

    @property
    def entitlements(self) -> list[Signed[Entitlement]]:
        """Those that stand in every bundle."""
        return self._entitlements

    def make(self, number: int) -> bytes:
        """Return the n-th bundle.

        Args:
            number: From 0, below `PAYEES` times `NUMBERS`.
        """
        payee = f"overload payee {number % PAYEES}"
        with self._lock:
            if payee not in self._known:
                self._known[payee] = self._sign(payee)
            binding, receipts = self._known[payee]
        terms = self._terms.value
        bundle = make_bundle(
            network_id=terms.network_id,
            submitter_key=key_of(payee),
            broadcaster_account=terms.broadcaster_account,
            epoch=0,
            kind=BundleKind.PAYEE,
            number=number // PAYEES,
            bindings=[binding],
            entitlements=self._entitlements,
            receipts=receipts,
            heartbeats=[],
        )
        return sign_bundle(bundle, seed_of(payee)).raw

    def _sign(self, payee: str) -> tuple[Signed[Binding], list[Signed[Receipt]]]:
        terms = self._terms.value
        receipts = [
            sign_receipt(terms, viewer, entitlement.digest, payee)
            for viewer, entitlement in zip(self._viewers, self._entitlements, strict=True)
        ]
        return bind_payee(terms, payee), receipts
