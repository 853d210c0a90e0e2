"""Clock: the collector's signed reading of ledger time.

Plugins keep a monotonic offset to it; steps of a machine's own clock change nothing. The nonce is
the asker's, so an old reading cannot be replayed. Epoch = ⌊(close time - genesis) / length⌋.
"""

from dataclasses import dataclass

from ledger.evidence.encoding import RecordCode, RecordType


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Latest closed network ledger, as the operator saw it when asked."""

    network_id: bytes
    """32 bytes."""

    nonce: bytes
    """The 16 bytes that came with the question."""

    ledger_sequence: int
    """Sequence of the latest closed network ledger."""

    close_time_s: int
    """Its close time."""

    age_ms: int
    """Milliseconds since the operator first saw that ledger; at most an hour is told."""

    genesis_s: int
    """Start of epoch 0."""

    epoch_length_s: int
    """Seconds per epoch."""

    grace_s: int
    """Seconds after an epoch's end in which its bundles enter its own seal."""


CLOCK = RecordType(
    Clock,
    RecordCode.CLOCK,
    [
        ("nonce", "bytes16"),
        ("ledger_sequence", "u32"),
        ("close_time_s", "u64"),
        ("age_ms", "u32"),
        ("genesis_s", "u64"),
        ("epoch_length_s", "u32"),
        ("grace_s", "u32"),
    ],
)
"""Signed by the log key."""
