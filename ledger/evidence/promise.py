"""Promise: the collector's signed answer to a bundle.

By the seal it names, the bundle is in the log, accepted or refused with a code. It is given only
after the bundle's bytes are durable. Signed by the log key.
"""

from dataclasses import dataclass

from ledger.evidence.encoding import RecordCode, RecordType


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the operator owes the sender of a bundle."""

    network_id: bytes
    """32 bytes."""

    bundle_digest: bytes
    """Digest of the bundle; 32 bytes."""

    submitter_key: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """32 bytes."""

    epoch: int
    """Epoch of the bundle's receipts."""

    sealing_epoch: int
    """Epoch in whose seal the bundle will stand: `epoch`, or a later one if it came late."""

    ledger_sequence: int
    """Latest network ledger when the promise was given."""

    close_time_s: int
    """Close time of that ledger."""


PROMISE = RecordType(
    Promise,
    RecordCode.PROMISE,
    [
        ("bundle_digest", "bytes32"),
        ("submitter_key", "bytes32"),
        ("broadcaster_account", "bytes32"),
        ("epoch", "u32"),
        ("sealing_epoch", "u32"),
        ("ledger_sequence", "u32"),
        ("close_time_s", "u64"),
    ],
)
"""Signed by the log key."""
