"""Binding: an account and a key say, both signing, that the key acts for the account.

Account → key, role, first and last epoch. Of two bindings of one key and role the one with the
higher serial counts; so a newer one with an earlier last epoch revokes. Not here: rotation policy
(SECURITY.md).
"""

from dataclasses import dataclass
from enum import IntEnum

from ledger.evidence.encoding import RecordCode, RecordType, Signed
from ledger.evidence.errors import MalformedRecordError


class Role(IntEnum):
    """What the bound key may do."""

    SESSION = 1
    """Receives and serves; signs receipts, bundles, heartbeats, hello."""

    ISSUING = 2
    """Signs terms and entitlements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """An account's statement about one key."""

    network_id: bytes
    """32 bytes."""

    account: bytes
    """Stellar account key, 32 bytes; first signer."""

    key: bytes
    """The bound key, 32 bytes; second signer."""

    role: int
    """A `Role`."""

    first_epoch: int
    """First epoch the key acts in."""

    last_epoch: int
    """Last epoch the key acts in; below first_epoch means never."""

    serial: int
    """Rises with every binding of the same key and role."""

    def __post_init__(self) -> None:
        if self.role not in set(Role):
            raise MalformedRecordError("binding.role", got=self.role, want="1 or 2")

    def covers(self, role: Role, epoch: int) -> bool:
        """Tell whether the key acts in this role in this epoch."""
        return self.role == role and self.first_epoch <= epoch <= self.last_epoch


BINDING = RecordType(
    Binding,
    RecordCode.BINDING,
    [
        ("account", "bytes32"),
        ("key", "bytes32"),
        ("role", "u32"),
        ("first_epoch", "u32"),
        ("last_epoch", "u32"),
        ("serial", "u64"),
    ],
    signers=2,
)
"""Signed by the account, then by the key; 128 + 124 bytes."""


def is_valid_binding(signed: Signed[Binding]) -> bool:
    """Tell whether both the account and the key signed."""
    return BINDING.is_signed_by(signed, signed.value.account, signed.value.key)
