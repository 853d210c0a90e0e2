"""Leaves: what stands in the public log, in what order, and the salts that hide who is who.

An epoch appends, at the seal: activations that begin with it, bundle leaves by bundle key,
corrections by lane, the seal leaf; after the computation: the result leaf, then one payout leaf per
batch. Public leaves name no viewer, no session key, no address and no title; a submitter appears
as a salted commitment that the party itself and the auditor can open.

Salt = HMAC-SHA-256(epoch salt key, leaf kind ‖ subject), so a rebuild gives the same bytes.
"""

import hmac
from dataclasses import dataclass
from hashlib import sha256

from ledger.evidence.encoding import (
    TAG_SIZE,
    Layout,
    Reader,
    RecordCode,
    RecordType,
    format_tag,
    parse_tag,
)
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.merkle import leaf_hash
from ledger.evidence.terms import BATCH_PAYMENTS_MAX

EVIDENCE_DAO_KEY = 1
"""Activation evidence: a signature by a DAO key of the trust file."""

PAYOUT_FUNDING = 1
"""Batch kind: escrow moves the epoch's sum to the payout account."""

PAYOUT_PAYMENTS = 2
"""Batch kind: the payout account pays payees."""

PAYOUT_REFUND = 3
"""Batch kind: escrow returns unspent deposits to the broadcaster's account."""

PAYOUT_SUSPENSE_REFUND = 4
"""Batch kind: escrow sends a deposit back to its sender that nobody could place."""

PAYOUT_STRAY_REFUND = 5
"""Batch kind: the payout account sends back what a stranger sent to it."""

PAYOUT_KINDS = frozenset(range(PAYOUT_FUNDING, PAYOUT_STRAY_REFUND + 1))
"""Kinds of batches."""

PAID_FROM_PAYOUT = frozenset((PAYOUT_PAYMENTS, PAYOUT_STRAY_REFUND))
"""Kinds whose money leaves the payout account; that of the others leaves escrow."""

_SALT_KEY_DOMAIN = b"swarmledger salt key v1\0"
_VOID_DOMAIN = b"swarmledger void slot v1\0"
_ISOLATE_DOMAIN = b"swarmledger void slot, pay alone v1\0"
_OPEN_DOMAIN = b"swarmledger open channel v1\0"


def derive_salt(epoch_salt_key: bytes, kind: RecordCode, subject: bytes) -> bytes:
    """Return the 32-byte salt of one subject in one kind of leaf."""
    return hmac.digest(epoch_salt_key, bytes([kind]) + subject, "sha256")


def commit_to(epoch_salt_key: bytes, kind: RecordCode, subject: bytes) -> bytes:
    """Return the salted 32-byte commitment to a subject: SHA-256(salt ‖ subject)."""
    return sha256(derive_salt(epoch_salt_key, kind, subject) + subject).digest()


def commit_to_salt_key(epoch_salt_key: bytes) -> bytes:
    """Return the seal leaf's 32-byte commitment to the epoch's salt key."""
    return sha256(_SALT_KEY_DOMAIN + epoch_salt_key).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLeaf:
    """One bundle, accepted or refused."""

    network_id: bytes
    """32 bytes."""

    epoch: int
    """Epoch of the bundle's receipts."""

    sealing_epoch: int
    """Epoch in whose seal it stands."""

    bundle_digest: bytes
    """Digest of the bundle's body; 32 bytes."""

    submitter_commitment: bytes
    """Salted commitment to the submitter's key; 32 bytes."""

    code: int
    """The bundle's code; 0 = its receipts were judged one by one."""

    receipts_counted: int
    """Receipts with code 0."""

    receipts_refused: int
    """Receipts with another code."""

    bytes_counted: int
    """Bytes of the receipts with code 0."""

    codes_root: bytes
    """RFC 6962 root over per-receipt codes (u16 little-endian each); 32 bytes."""


BUNDLE_LEAF = RecordType(
    BundleLeaf,
    RecordCode.LEAF_BUNDLE,
    [
        ("epoch", "u32"),
        ("sealing_epoch", "u32"),
        ("bundle_digest", "bytes32"),
        ("submitter_commitment", "bytes32"),
        ("code", "u16"),
        ("receipts_counted", "u32"),
        ("receipts_refused", "u32"),
        ("bytes_counted", "u64"),
        ("codes_root", "bytes32"),
    ],
    signers=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionLeaf:
    """A lane of a sealed epoch whose counted bytes changed through late receipts."""

    network_id: bytes
    """32 bytes."""

    epoch: int
    """Epoch of the lane."""

    sealing_epoch: int
    """Epoch in whose seal the correction stands."""

    lane_commitment: bytes
    """Salted commitment to the lane digest; 32 bytes."""

    bytes_before: int
    """Bytes counted so far."""

    bytes_after: int
    """Bytes counted from now on."""


CORRECTION_LEAF = RecordType(
    CorrectionLeaf,
    RecordCode.LEAF_CORRECTION,
    [
        ("epoch", "u32"),
        ("sealing_epoch", "u32"),
        ("lane_commitment", "bytes32"),
        ("bytes_before", "u64"),
        ("bytes_after", "u64"),
    ],
    signers=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealLeaf:
    """The inputs of an epoch are final: nothing is added to them after this leaf."""

    network_id: bytes
    """32 bytes."""

    epoch: int
    """The sealed epoch."""

    terms_digest: bytes
    """Terms in force; 32 bytes."""

    rules_digest: bytes
    """Contract in force; 32 bytes."""

    opening_state_root: bytes
    """Root of the state before this epoch; equals the previous result's closing root; 32 bytes."""

    last_ledger_sequence: int
    """Last network ledger that closed before the epoch's end, and was folded."""

    last_ledger_close_s: int
    """Its close time."""

    facts_root: bytes
    """RFC 6962 root over the epoch's network facts; 32 bytes."""

    fact_count: int
    """How many facts."""

    bundle_count: int
    """How many bundle leaves stand before this leaf."""

    correction_count: int
    """How many correction leaves stand before this leaf."""

    salt_key_commitment: bytes
    """`commit_to_salt_key` of the epoch's salt key; 32 bytes."""

    instructions_root: bytes
    """RFC 6962 root over the epoch's instructions as they came; 32 bytes."""

    instruction_count: int
    """How many instructions."""


SEAL_LEAF = RecordType(
    SealLeaf,
    RecordCode.LEAF_SEAL,
    [
        ("epoch", "u32"),
        ("terms_digest", "bytes32"),
        ("rules_digest", "bytes32"),
        ("opening_state_root", "bytes32"),
        ("last_ledger_sequence", "u32"),
        ("last_ledger_close_s", "u64"),
        ("facts_root", "bytes32"),
        ("fact_count", "u32"),
        ("bundle_count", "u32"),
        ("correction_count", "u32"),
        ("salt_key_commitment", "bytes32"),
        ("instructions_root", "bytes32"),
        ("instruction_count", "u32"),
    ],
    signers=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultLeaf:
    """What the contract computed from the sealed inputs."""

    network_id: bytes
    """32 bytes."""

    epoch: int
    """The computed epoch."""

    rules_digest: bytes
    """Contract that computed; 32 bytes."""

    lane_count: int
    """Judged lanes."""

    lane_root: bytes
    """RFC 6962 root over (lane digest, sequence, counted bytes), ascending; 32 bytes."""

    bytes_p2p_credited: int
    """Credited bytes from peers."""

    bytes_cdn_credited: int
    """Credited bytes from CDNs."""

    bytes_uncredited: int
    """Counted bytes that the payable rule did not accept."""

    charged_stroops: int
    """Σ charges."""

    fee_stroops: int
    """Σ fees, part of the charges."""

    sum_tree_hash: bytes
    """Root hash of the sum tree over payee lines; 32 bytes."""

    sum_tree_bytes: int
    """Σ bytes of the sum tree: credited bytes, all sources."""

    sum_tree_stroops: int
    """Σ stroops of the sum tree: charges."""

    payout_count: int
    """Payout leaves that follow."""

    closing_state_root: bytes
    """Root of the state after this epoch; 32 bytes."""


RESULT_LEAF = RecordType(
    ResultLeaf,
    RecordCode.LEAF_RESULT,
    [
        ("epoch", "u32"),
        ("rules_digest", "bytes32"),
        ("lane_count", "u32"),
        ("lane_root", "bytes32"),
        ("bytes_p2p_credited", "u64"),
        ("bytes_cdn_credited", "u64"),
        ("bytes_uncredited", "u64"),
        ("charged_stroops", "u64"),
        ("fee_stroops", "u64"),
        ("sum_tree_hash", "bytes32"),
        ("sum_tree_bytes", "u64"),
        ("sum_tree_stroops", "u64"),
        ("payout_count", "u32"),
        ("closing_state_root", "bytes32"),
    ],
    signers=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One payment of a batch."""

    account: bytes
    """Destination account key; 32 bytes."""

    amount_stroops: int
    """Amount of the priced asset, ≥ 1."""

    def __post_init__(self) -> None:
        if self.amount_stroops < 1:
            raise MalformedRecordError(
                "payment.amount_stroops", got=self.amount_stroops, want="≥ 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutLeaf:
    """One batch, bound for life to one slot; everything its envelopes are built from."""

    network_id: bytes
    """32 bytes."""

    epoch: int
    """Epoch whose computation planned it."""

    batch_number: int
    """Rises by one with every batch of the broadcaster."""

    kind: int
    """Funding, payments, refund, suspense refund, stray refund, by the `PAYOUT_…` numbers."""

    channel_account: bytes
    """The slot's account: transaction source; 32 bytes."""

    channel_sequence: int
    """The slot's sequence number."""

    reference_ledger_sequence: int
    """Bounds of attempt k: this + (k+1) x the terms' window of ledgers."""

    reference_close_s: int
    """Bounds of attempt k: this + (k+1) x the terms' window of seconds."""

    fee_bid_stroops: int
    """Network fee bid per operation, XLM stroops."""

    asset_code: str
    """Asset that is paid."""

    asset_issuer: bytes
    """Its issuer; 32 bytes."""

    source_account: bytes
    """Account the money leaves: escrow or payout account; 32 bytes."""

    payments: tuple[Payment, ...]
    """1 to 100, in the envelope's order."""

    def __post_init__(self) -> None:
        if self.kind not in PAYOUT_KINDS:
            raise MalformedRecordError("payout.kind", got=self.kind, want="1 to 5")
        if not 1 <= len(self.payments) <= BATCH_PAYMENTS_MAX:
            raise MalformedRecordError("payout.payments", got=len(self.payments), want="1..100")

    @property
    def total_stroops(self) -> int:
        """Σ payments."""
        return sum(payment.amount_stroops for payment in self.payments)


PAYOUT_HEAD = Layout(
    "payout",
    [
        ("epoch", "u32"),
        ("batch_number", "u64"),
        ("kind", "u16"),
        ("channel_account", "bytes32"),
        ("channel_sequence", "u64"),
        ("reference_ledger_sequence", "u32"),
        ("reference_close_s", "u64"),
        ("fee_bid_stroops", "u32"),
        ("asset_code", "text12"),
        ("asset_issuer", "bytes32"),
        ("source_account", "bytes32"),
    ],
)
PAYOUT_PAYMENT = Layout("payout.payment", [("account", "bytes32"), ("amount_stroops", "u64")])


def format_payout_leaf(leaf: PayoutLeaf) -> bytes:
    """Return a payout leaf's bytes: tag, head, u16 count, payments.

    Raises:
        MalformedRecordError: A value does not fit its field.
    """
    return b"".join(
        [
            format_tag(RecordCode.LEAF_PAYOUT, leaf.network_id),
            PAYOUT_HEAD.pack(leaf),
            len(leaf.payments).to_bytes(2, "little"),
            *(PAYOUT_PAYMENT.pack(payment) for payment in leaf.payments),
        ]
    )


def parse_payout_leaf(data: bytes) -> PayoutLeaf:
    """Return a payout leaf.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    _, network_id = parse_tag(RecordCode.LEAF_PAYOUT, data)
    reader = Reader("payout", data)
    reader.take(TAG_SIZE, "tag")
    head = PAYOUT_HEAD.unpack(reader.take(PAYOUT_HEAD.size, "head"))
    count = reader.integer(2, "payment count", limit=BATCH_PAYMENTS_MAX)
    payments = tuple(
        Payment(**PAYOUT_PAYMENT.unpack(reader.take(PAYOUT_PAYMENT.size, "payment")))
        for _ in range(count)
    )
    reader.finish()
    return PayoutLeaf(network_id=network_id, payments=payments, **head)


def payout_hash(leaf: PayoutLeaf) -> bytes:
    """Return the memo of a batch's transactions: the RFC 6962 hash of its leaf; 32 bytes."""
    return leaf_hash(format_payout_leaf(leaf))


def burn_hash(batch_hash: bytes, *, isolates: bool = False) -> bytes:
    """Return the memo of the no-op that uses a batch's slot up, so that it never pays.

    Args:
        batch_hash: `payout_hash` of the batch's leaf.
        isolates: Whether the batch's payees are owed again each in a batch of its own, because one
            of them is suspected to be what no node takes.
    """
    return sha256((_ISOLATE_DOMAIN if isolates else _VOID_DOMAIN) + batch_hash).digest()


def opening_hash(network_id: bytes, channel_account: bytes) -> bytes:
    """Return the memo of the no-op by which a channel account that was there before opens.

    Its slots begin after that transaction's sequence number, and only the account's key can sign
    it: whoever created the account first has no part in them.

    Args:
        network_id: 32 bytes.
        channel_account: Its source; 32 bytes.
    """
    return sha256(_OPEN_DOMAIN + network_id + channel_account).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """From this epoch on, this contract computes what is owed."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """Where it applies; 32 bytes."""

    rules_digest: bytes
    """Content address of the contract; 32 bytes."""

    first_epoch: int
    """Epoch from which it is in force."""

    evidence_kind: int
    """`EVIDENCE_DAO_KEY`: the record is signed by a DAO key."""

    dao_key: bytes
    """The signing DAO key; 32 bytes."""

    def __post_init__(self) -> None:
        if self.evidence_kind != EVIDENCE_DAO_KEY:
            raise MalformedRecordError("activation.evidence_kind", got=self.evidence_kind, want="1")


ACTIVATION = RecordType(
    Activation,
    RecordCode.LEAF_ACTIVATION,
    [
        ("broadcaster_account", "bytes32"),
        ("rules_digest", "bytes32"),
        ("first_epoch", "u32"),
        ("evidence_kind", "u16"),
        ("dao_key", "bytes32"),
    ],
)
"""Signed by the DAO key; the whole signed record is the leaf."""


def code_of_leaf(data: bytes) -> RecordCode:
    """Return which kind of leaf these bytes claim to be.

    Raises:
        MalformedRecordError: They claim to be none.
    """
    # Only an activation carries its signature in front of the tag.
    for offset in (0, ACTIVATION.size - ACTIVATION.body_size):
        type_byte = data[offset + 5 : offset + 6]
        if data[offset : offset + 4] == b"SWLG" and type_byte:
            code = type_byte[0]
            if (code == RecordCode.LEAF_ACTIVATION) == bool(offset) and 32 <= code <= 37:
                return RecordCode(code)
    raise MalformedRecordError("leaf", got=data[:8], want="a known kind of leaf")
