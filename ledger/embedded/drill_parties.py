"""Parties of a drill: payees with bundles of real signatures, and spools that outlive the operator.

Each payee serves one viewer of its own in every epoch, whole gibibytes, so that what it earns is a
whole number of stroops that anybody can compute without the product. Engines are left out: what
they would write, a spool with bundles and promises, is written here in the same form.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import BundleKind, make_bundle, parse_bundle, sign_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.keys import generate_seed, public_key_of
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms

_LAST_EPOCH: Final = 1_000_000
_PPM: Final = 1_000_000
_GIB: Final = 1 << 30
_GIB_MOST: Final = 3
_SCHEMA: Final = """
CREATE TABLE bundle (epoch INTEGER, kind INTEGER, number INTEGER, digest BLOB, raw BLOB,
                     state TEXT, promise BLOB, PRIMARY KEY (epoch, kind, number));
CREATE TABLE receipt (epoch INTEGER, lane_digest BLOB, sequence INTEGER, bundled_sequence INTEGER);
"""


@dataclass(kw_only=True)
class Party:
    """One payee with its keys and its spool."""

    name: str
    account_seed: bytes = field(repr=False)
    folder: Path
    """Where its spool is; made if missing."""

    number: int
    """From 0; makes its earnings its own."""

    session_seed: bytes = field(default_factory=generate_seed, repr=False)
    viewer_seed: bytes = field(default_factory=generate_seed, repr=False)

    @property
    def account(self) -> bytes:
        """Its Stellar account; 32 bytes."""
        return public_key_of(self.account_seed)

    def bytes_of(self, epoch: int) -> int:
        """What it delivers in an epoch."""
        return _GIB * (1 + (self.number + epoch) % _GIB_MOST)

    def earned_stroops(self, terms: Terms, epochs: int) -> int:
        """What it is to get for the first so many epochs: a viewer's charge less the fee.

        Raises:
            ValueError: The price makes it no whole number: our own error.
        """
        total = 0
        for epoch in range(epochs):
            charge, rest = divmod(
                self.bytes_of(epoch) * terms.price_stroops, terms.price_quantity_bytes
            )
            fee, fee_rest = divmod(charge * terms.fee_ppm, _PPM)
            if rest or fee_rest:
                raise ValueError("price: got one that makes parts of stroops, want whole ones")
            total += charge - fee
        return total

    def make_bundle(self, terms: Signed[Terms], issuing_seed: bytes, epoch: int) -> bytes:
        """Return its signed bundle of an epoch: binding, entitlement, one receipt."""
        value = terms.value
        network_id = value.network_id
        entitlement = ENTITLEMENT.sign(self._entitlement(terms), issuing_seed)
        receipt = Receipt(
            network_id=network_id,
            flags=0,
            entitlement_digest=entitlement.digest,
            payee_key=public_key_of(self.session_seed),
            epoch=epoch,
            nonce=0,
            sequence=1,
            bytes_total=self.bytes_of(epoch),
            media_ms_total=0,
            credit_root=sha256(f"{self.name} {epoch}".encode()).digest(),
        )
        binding = Binding(
            network_id=network_id,
            account=self.account,
            key=public_key_of(self.session_seed),
            role=Role.SESSION,
            first_epoch=0,
            last_epoch=_LAST_EPOCH,
            serial=1,
        )
        bundle = make_bundle(
            network_id=network_id,
            submitter_key=public_key_of(self.session_seed),
            broadcaster_account=value.broadcaster_account,
            epoch=epoch,
            kind=BundleKind.PAYEE,
            number=0,
            bindings=[BINDING.sign(binding, self.account_seed, self.session_seed)],
            entitlements=[entitlement],
            receipts=[RECEIPT.sign(receipt, self.viewer_seed)],
            heartbeats=[],
        )
        return sign_bundle(bundle, self.session_seed).raw

    def _entitlement(self, terms: Signed[Terms]) -> Entitlement:
        value = terms.value
        return Entitlement(
            network_id=value.network_id,
            broadcaster_account=value.broadcaster_account,
            issuing_key=value.issuing_key,
            terms_digest=terms.digest,
            content_id=sha256(b"a drill's content").digest(),
            session_key=public_key_of(self.viewer_seed),
            payer_account=value.broadcaster_account,
            serial=sha256(self.name.encode()).digest()[:16],
            assignment_seed=bytes(32),
            not_before_s=value.genesis_s,
            not_after_s=value.genesis_s + 86_400,
            max_bytes=0,
            max_media_ms=0,
            max_rate_kbps=0,
            assignment_policy=0,
            country="",
        )

    def keep(self, raw: bytes, promise: bytes | None) -> None:
        """Put a bundle into the spool, with the collector's promise if there is one."""
        path = self.folder / "spool.sqlite"
        is_new = not path.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        bundle = parse_bundle(raw)
        value = bundle.value
        row = (value.epoch, int(value.kind), value.number, bundle.digest, raw, "sent", promise)
        with closing(sqlite3.connect(path)) as connection, connection:
            if is_new:
                connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO bundle VALUES (?, ?, ?, ?, ?, ?, ?)", row)
