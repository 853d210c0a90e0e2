"""Applied transactions and network facts: what the chain did to our accounts.

A *network fact* is a transaction on an account of the settlement domain as the network recorded
it: network ledger, close time, place in the ledger, envelope and result as raw XDR. An *applied
transaction* is a fact as the books read it. Reading XDR is `ledger.audit.stellar_xdr`'s; this
module has the shapes and the fact's bytes. Off the network, facts are the operator's signed claims.
"""

from dataclasses import dataclass

from ledger.evidence.encoding import (
    TAG_SIZE,
    Layout,
    Reader,
    RecordCode,
    format_counted,
    format_tag,
    parse_tag,
)

XDR_SIZE_MAX = 1 << 20
"""Longest envelope or result in bytes."""

_HEAD = Layout(
    "fact", [("ledger_sequence", "u32"), ("close_time_s", "u64"), ("apply_order", "u32")]
)
FACT_HEAD = _HEAD
"""The fixed part after the tag, for the format document's test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFact:
    """One transaction as the network recorded it."""

    network_id: bytes
    """32 bytes."""

    ledger_sequence: int
    """Network ledger it was applied in."""

    close_time_s: int
    """Close time of that ledger."""

    apply_order: int
    """Place within the ledger, from 1."""

    envelope: bytes
    """TransactionEnvelope XDR as it was submitted."""

    result: bytes
    """TransactionResult XDR."""

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: ledger, place."""
        return self.ledger_sequence, self.apply_order


def format_fact(fact: NetworkFact) -> bytes:
    """Return a fact's canonical bytes: tag, head, length-prefixed envelope and result."""
    parts = [format_tag(RecordCode.FACT, fact.network_id), _HEAD.pack(fact)]
    parts.extend(format_counted(data) for data in (fact.envelope, fact.result))
    return b"".join(parts)


def parse_fact(data: bytes) -> NetworkFact:
    """Return a fact from its canonical bytes.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    _, network_id = parse_tag(RecordCode.FACT, data)
    reader = Reader("fact", data)
    reader.take(TAG_SIZE, "tag")
    head = _HEAD.unpack(reader.take(_HEAD.size, "head"))
    envelope = reader.counted("envelope", limit=XDR_SIZE_MAX)
    result = reader.counted("result", limit=XDR_SIZE_MAX)
    reader.finish()
    return NetworkFact(network_id=network_id, envelope=envelope, result=result, **head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Value that an applied operation moved from one account to another."""

    operation_index: int
    """Place of the operation in its transaction, from 0."""

    asset_code: str
    """Code of the asset; "XLM" with a zero issuer is the native asset."""

    asset_issuer: bytes
    """Issuer account; zeros for the native asset."""

    source: bytes
    """Account the value left; zeros where the network itself paid; 32 bytes."""

    destination: bytes
    """Account it reached; zeros where it went to the market, a pool or a claimable balance."""

    amount_stroops: int
    """Amount, ≥ 0."""

    creates_account: bool
    """The operation created the destination account."""

    is_exact: bool
    """False where the result does not tell what the source gave and got.

    Asset and amount are a hint then: the books of the source's owner cannot go on.
    """

    destination_id: int | None = None
    """Id in the muxed address it was sent to; None: a plain address."""

    balance_id: bytes = b""
    """Claimable balance that it made (it has claimants then) or claimed; 32 bytes, or empty."""

    claimants: tuple[bytes, ...] = ()
    """Who may claim the balance it made."""

    @property
    def is_native(self) -> bool:
        """Tell whether it moved XLM."""
        return self.asset_issuer == bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedTransaction:
    """A network fact as the books read it."""

    ledger_sequence: int
    """Network ledger it was applied in."""

    close_time_s: int
    """Close time of that ledger."""

    apply_order: int
    """Place within the ledger."""

    tx_hash: bytes
    """Hash of the (inner) transaction; 32 bytes."""

    source_account: bytes
    """Source of the (inner) transaction; 32 bytes."""

    sequence: int
    """Its sequence number."""

    is_sequence_consumed: bool
    """False for a failure found before its sequence number was used up: its slot is still open."""

    fee_account: bytes
    """Account that paid the network fee; 32 bytes."""

    fee_charged_stroops: int
    """XLM stroops charged."""

    memo_hash: bytes
    """Hash memo; zeros if there is none."""

    memo_id: int | None = None
    """Number memo; None if there is none."""

    memo_text: bytes = b""
    """Text memo, up to 28 bytes; empty if there is none."""

    succeeded: bool
    """Whether its operations took effect."""

    does_nothing: bool = False
    """Whether it is one set_options that sets nothing: an anchor, a no-op, an account's opening."""

    movements: tuple[Movement, ...]
    """What it moved; empty if it failed."""

    failed_destinations: tuple[bytes, ...]
    """Destinations whose own side made a payment operation fail; empty on success.

    No such account, no trust line, not authorized to hold the asset, or a full trust line. What
    the payer is short of is no payee's fault.
    """
