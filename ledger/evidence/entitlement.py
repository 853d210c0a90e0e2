"""Entitlement: a broadcaster's signed, capped permission for one session key.

Without one no byte is payable. The issuing key signs; caps bound what two colluding keys can
claim. Not here: whether the escrow covers it (the ledger decides), applying caps (the contract).
"""

from dataclasses import dataclass

from ledger.evidence.encoding import RecordCode, RecordType
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.record_rows import RecordRows, part_struct, row_struct


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """What one session key may receive. Zero caps mean no cap; zero fields mean absent."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """Whose content; 32 bytes."""

    issuing_key: bytes
    """Signer; 32 bytes."""

    terms_digest: bytes
    """Digest of the terms it is given under; 32 bytes."""

    content_id: bytes
    """v2 info-hash, or v1 info-hash padded with zeros, or a stream id; 32 bytes."""

    session_key: bytes
    """The key that may sign receipts; 32 bytes."""

    payer_account: bytes
    """Account that is charged; 32 bytes."""

    serial: bytes
    """16 random bytes that make two entitlements distinct."""

    assignment_seed: bytes
    """Seed of the list of assigned seeders; zeros when everybody may serve."""

    not_before_s: int
    """First second it holds, ledger time."""

    not_after_s: int
    """Last second it holds, ledger time."""

    max_bytes: int
    """Cap of credited bytes over all payees and epochs; 0 = none."""

    max_media_ms: int
    """Cap of media time; 0 = none."""

    max_rate_kbps: int
    """Cap of the rate in kilobits per second; 0 = none."""

    assignment_policy: int
    """0 = any seeder of the swarm."""

    country: str
    """ISO 3166 code, or empty."""

    def __post_init__(self) -> None:
        if self.not_after_s < self.not_before_s:
            raise MalformedRecordError(
                "entitlement.not_after_s", got=self.not_after_s, want=f"≥ {self.not_before_s}"
            )


ENTITLEMENT = RecordType(
    Entitlement,
    RecordCode.ENTITLEMENT,
    [
        ("broadcaster_account", "bytes32"),
        ("issuing_key", "bytes32"),
        ("terms_digest", "bytes32"),
        ("content_id", "bytes32"),
        ("session_key", "bytes32"),
        ("payer_account", "bytes32"),
        ("serial", "bytes16"),
        ("assignment_seed", "bytes32"),
        ("not_before_s", "u64"),
        ("not_after_s", "u64"),
        ("max_bytes", "u64"),
        ("max_media_ms", "u64"),
        ("max_rate_kbps", "u32"),
        ("assignment_policy", "u16"),
        ("country", "text2"),
    ],
)
"""Signed by the issuing key."""


class EntitlementRows(RecordRows[Entitlement]):
    """Signed entitlements over the bytes they came in; rows as `record_rows` says."""

    __slots__ = ()

    record = ENTITLEMENT
    layout = row_struct(ENTITLEMENT)

    def _keeps_rule(self) -> bool:
        """No last second lies before the first one."""
        return all(first <= last for first, last in self.rows(_SECONDS))


_SECONDS = part_struct(ENTITLEMENT, "not_before_s", "not_after_s")
