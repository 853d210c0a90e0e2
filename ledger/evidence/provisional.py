"""Provisional report: what a party has receipts for in an epoch that still runs.

A fixed record, signed by the party, in front of a bundle's body that is not signed as a bundle: so
it can be read and checked like one, and can never stand for one. It is for the totals people watch
during an event; nothing is sealed, billed or paid from it. Not here: which reports are believed
(`ledger.api.provisional`), the sums (`ledger.store.totals_store`).
"""

from dataclasses import dataclass
from hashlib import sha256

from ledger.evidence.bundle import Bundle, format_bundle_body, parse_bundle
from ledger.evidence.encoding import RecordCode, RecordType, Signed
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import SIGNATURE_SIZE

REPORT_SIZE_MAX = 1 << 20
"""Largest report in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisional:
    """The signed part of a report."""

    network_id: bytes
    """32 bytes."""

    taken_ms: int
    """Ledger time of the report; of one party's reports the newest counts."""

    body_digest: bytes
    """SHA-256 of the body that follows; 32 bytes."""


PROVISIONAL = RecordType(
    Provisional,
    RecordCode.PROVISIONAL,
    [("taken_ms", "u64"), ("body_digest", "bytes32")],
)
"""Signed by the submitter of the body that follows; 144 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report as it travels, parsed."""

    head: Signed[Provisional]
    bundle: Bundle
    """What the party has receipts for; without heartbeats."""

    @property
    def is_signed(self) -> bool:
        """Tell whether the party named in the body signed the head."""
        return PROVISIONAL.is_signed_by(self.head, self.bundle.submitter_key)


def sign_report(bundle: Bundle, taken_ms: int, submitter_seed: bytes) -> bytes:
    """Return a report's bytes.

    Raises:
        MalformedRecordError: A value does not fit, or the report would be too large.
    """
    body = format_bundle_body(bundle)
    head = Provisional(
        network_id=bundle.network_id, taken_ms=taken_ms, body_digest=sha256(body).digest()
    )
    raw = PROVISIONAL.sign(head, submitter_seed).raw + body
    if len(raw) > REPORT_SIZE_MAX:
        raise MalformedRecordError("report", got=f"{len(raw)} bytes", want=f"{REPORT_SIZE_MAX}")
    return raw


def parse_report(raw: bytes) -> Report:
    """Return a report in these bytes; no signature is verified yet.

    Raises:
        MalformedRecordError: Size, head, body or their belonging together is not right.
    """
    if len(raw) > REPORT_SIZE_MAX:
        raise MalformedRecordError("report", got=f"{len(raw)} bytes", want=f"{REPORT_SIZE_MAX}")
    head = PROVISIONAL.parse(raw[: PROVISIONAL.size])
    body = raw[PROVISIONAL.size :]
    digest = sha256(body).digest()
    if head.value.body_digest != digest:
        raise MalformedRecordError(
            "provisional.body_digest", got=head.value.body_digest, want=digest.hex()
        )
    bundle = parse_bundle(bytes(SIGNATURE_SIZE) + body).value
    if bundle.network_id != head.value.network_id:
        raise MalformedRecordError(
            "bundle.network_id", got=bundle.network_id, want=head.value.network_id.hex()
        )
    if bundle.heartbeat_count:
        raise MalformedRecordError("bundle.heartbeats", got=bundle.heartbeat_count, want="none")
    return Report(head=head, bundle=bundle)
