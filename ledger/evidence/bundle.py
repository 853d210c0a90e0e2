"""Bundle: a party's final receipts of an epoch with what is needed to check them, signed once.

A *payee* bundle is sent by whoever is paid: its signature countersigns every receipt in it. A
*viewer* bundle is sent by the session key: CDN receipts and heartbeats, since a CDN runs no plugin.
Records stand in a canonical order, so a bundle's content has one encoding. A bundle is refused
whole only for its frame (this module); each receipt is judged alone (`ledger.books.bundle_check`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any

from ledger.evidence.binding import BINDING, Binding
from ledger.evidence.encoding import (
    TAG_SIZE,
    Layout,
    Reader,
    RecordCode,
    Signed,
    format_tag,
    parse_tag,
)
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement, EntitlementRows
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.heartbeat import HEARTBEAT, Heartbeat
from ledger.evidence.keys import SIGNATURE_SIZE, sign, verify_rows
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.receipt_rows import ReceiptRows

BUNDLE_SIZE_MAX = 4 << 20
"""Largest bundle in bytes; a party with more sends several, numbered."""

RECORDS_MAX = 10_000
"""Most records of one kind in a bundle."""


class BundleKind(IntEnum):
    """Who sends it."""

    PAYEE = 1
    VIEWER = 2


_HEAD = Layout(
    "bundle",
    [
        ("submitter_key", "bytes32"),
        ("broadcaster_account", "bytes32"),
        ("epoch", "u32"),
        ("kind", "u16"),
        ("number", "u16"),
        ("binding_count", "u32"),
        ("entitlement_count", "u32"),
        ("receipt_count", "u32"),
        ("heartbeat_count", "u32"),
    ],
)
BUNDLE_HEAD = _HEAD
"""The fixed part after the tag, for the format document's test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one party submits for one epoch of one broadcaster."""

    network_id: bytes
    """32 bytes."""

    submitter_key: bytes
    """Session key of the sender, 32 bytes; signer."""

    broadcaster_account: bytes
    """Whose log it goes to; 32 bytes."""

    epoch: int
    """Epoch of every receipt in it."""

    kind: int
    """A `BundleKind`."""

    number: int
    """From 0; a later bundle of the same key adds to the earlier ones."""

    bindings: tuple[Signed[Binding], ...]
    """By ascending bytes of the body."""

    entitlements: EntitlementRows
    """By ascending digest."""

    receipts: ReceiptRows
    """By ascending (lane digest, sequence, body)."""

    heartbeats: tuple[Signed[Heartbeat], ...]
    """By ascending (session id, sequence number, body)."""

    def __post_init__(self) -> None:
        if self.kind not in set(BundleKind):
            raise MalformedRecordError("bundle.kind", got=self.kind, want="1 or 2")
        # Records made one by one become rows: what the wire says, and nothing beside it.
        object.__setattr__(self, "entitlements", EntitlementRows.of(self.entitlements))
        object.__setattr__(self, "receipts", ReceiptRows.of(self.receipts))
        _require_order("bindings", [binding.body for binding in self.bindings])
        _require_order("entitlements", self.entitlements.digests())
        _require_receipts_ordered(self.receipts)
        _require_order("heartbeats", [_heartbeat_order(beat) for beat in self.heartbeats])

    @property
    def binding_count(self) -> int:
        """Number of bindings."""
        return len(self.bindings)

    @property
    def entitlement_count(self) -> int:
        """Number of entitlements."""
        return len(self.entitlements)

    @property
    def receipt_count(self) -> int:
        """Number of receipts."""
        return len(self.receipts)

    @property
    def heartbeat_count(self) -> int:
        """Number of heartbeats."""
        return len(self.heartbeats)

    @property
    def key(self) -> bytes:
        """The 72 bytes that name it: submitter, broadcaster, epoch, kind, number."""
        return (
            self.submitter_key
            + self.broadcaster_account
            + self.epoch.to_bytes(4, "big")
            + self.kind.to_bytes(2, "big")
            + self.number.to_bytes(2, "big")
        )


def _receipt_order(receipt: Signed[Receipt]) -> tuple[bytes, int, bytes]:
    return receipt.value.lane_digest, receipt.value.sequence, receipt.body


def _heartbeat_order(beat: Signed[Heartbeat]) -> tuple[bytes, int, bytes]:
    return beat.value.session_id, beat.value.sequence_number, beat.body


def _require_receipts_ordered(receipts: ReceiptRows) -> None:
    _require_count("receipts", len(receipts))
    place = receipts.first_disorder()
    if place is not None:
        got = _receipt_order(receipts[place])
        raise MalformedRecordError("bundle.receipts", got=got, want="strictly ascending")


def _require_count(field: str, count: int) -> None:
    if count > RECORDS_MAX:
        raise MalformedRecordError(f"bundle.{field}", got=count, want=f"at most {RECORDS_MAX}")


def _require_order(field: str, keys: Sequence[Any]) -> None:
    _require_count(field, len(keys))
    for before, after in pairwise(keys):
        if before >= after:
            raise MalformedRecordError(f"bundle.{field}", got=after, want="strictly ascending")


def format_bundle_body(bundle: Bundle) -> bytes:
    """Return the bytes that the submitter signs.

    Raises:
        MalformedRecordError: A value does not fit, or the bundle would be too large.
    """
    body = b"".join(
        [
            format_tag(RecordCode.BUNDLE, bundle.network_id),
            _HEAD.pack(bundle),
            *(binding.raw for binding in bundle.bindings),
            bundle.entitlements.raw_all(),
            bundle.receipts.raw_all(),
            *(heartbeat.raw for heartbeat in bundle.heartbeats),
        ]
    )
    if len(body) + SIGNATURE_SIZE > BUNDLE_SIZE_MAX:
        raise MalformedRecordError("bundle", got=f"{len(body)} bytes", want=f"{BUNDLE_SIZE_MAX}")
    return body


def make_bundle(
    *,
    network_id: bytes,
    submitter_key: bytes,
    broadcaster_account: bytes,
    epoch: int,
    kind: BundleKind,
    number: int,
    bindings: list[Signed[Binding]],
    entitlements: list[Signed[Entitlement]],
    receipts: list[Signed[Receipt]],
    heartbeats: list[Signed[Heartbeat]],
) -> Bundle:
    """Return a bundle of these records in canonical order; lists may come in any order."""
    return Bundle(
        network_id=network_id,
        submitter_key=submitter_key,
        broadcaster_account=broadcaster_account,
        epoch=epoch,
        kind=kind,
        number=number,
        bindings=tuple(sorted(bindings, key=lambda binding: binding.body)),
        entitlements=EntitlementRows.of(sorted(entitlements, key=lambda one: one.digest)),
        receipts=ReceiptRows.of(sorted(receipts, key=_receipt_order)),
        heartbeats=tuple(sorted(heartbeats, key=_heartbeat_order)),
    )


def sign_bundle(bundle: Bundle, submitter_seed: bytes) -> Signed[Bundle]:
    """Return the bundle signed by its submitter."""
    body = format_bundle_body(bundle)
    signature = sign(submitter_seed, body)
    return Signed(bundle, signature + body, (signature,))


def parse_bundle(raw: bytes) -> Signed[Bundle]:
    """Return a bundle with all its records checked for form; no signature is verified yet.

    Raises:
        MalformedRecordError: Size, frame or a record is not canonical.
    """
    if len(raw) > BUNDLE_SIZE_MAX:
        raise MalformedRecordError("bundle", got=f"{len(raw)} bytes", want=f"{BUNDLE_SIZE_MAX}")
    raw = bytes(raw)
    reader = Reader("bundle", raw)
    signature = reader.take(SIGNATURE_SIZE, "signature")
    _, network_id = parse_tag(RecordCode.BUNDLE, raw[SIGNATURE_SIZE:])
    reader.take(TAG_SIZE, "tag")
    head = _HEAD.unpack(reader.take(_HEAD.size, "head"))
    counts = {
        name: head.pop(f"{name}_count")
        for name in ("binding", "entitlement", "receipt", "heartbeat")
    }
    if max(counts.values()) > RECORDS_MAX:
        raise MalformedRecordError("bundle.counts", got=counts, want=f"at most {RECORDS_MAX}")
    bundle = Bundle(
        network_id=network_id,
        bindings=tuple(
            BINDING.parse(reader.take(BINDING.size, "binding")) for _ in range(counts["binding"])
        ),
        entitlements=EntitlementRows(
            raw,
            reader.skip(ENTITLEMENT.size * counts["entitlement"], "entitlement"),
            counts["entitlement"],
        ),
        receipts=ReceiptRows(
            raw, reader.skip(RECEIPT.size * counts["receipt"], "receipt"), counts["receipt"]
        ),
        heartbeats=tuple(
            HEARTBEAT.parse(reader.take(HEARTBEAT.size, "heartbeat"))
            for _ in range(counts["heartbeat"])
        ),
        **head,
    )
    reader.finish()
    return Signed(bundle, raw, (signature,))


def is_signed_by_submitter(signed: Signed[Bundle]) -> bool:
    """Tell whether the submitter named in the bundle signed it."""
    (is_signed,) = verify_rows(signed.raw, 0, len(signed.raw), [signed.value.submitter_key])
    return is_signed
