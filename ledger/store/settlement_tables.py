"""Tables of network facts, payout batches, anchors, their attempts and bumps: rows, not objects.

The database holds what exactly-once rests on: one fact for a place in the chain, one batch for a
slot, one envelope for an attempt. Facts, epoch ledgers, attempts and bumps are append-only; a
decided batch or anchor never changes (triggers of migrations 0002 and 0014). Queries are in
`settlement_store`, `bump_store`, `source_store` and `stop_store`.
"""

from sqlalchemy import CheckConstraint, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.store.base import Base, check_length, check_natural
from ledger.store.settlement_states import SettlementState

BATCH = "batch"
ANCHOR = "anchor"
BURN = "burn"


class NetworkFactRow(Base):
    """A transaction on an account of the settlement domain, as the network recorded it."""

    __tablename__ = "network_facts"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("network_id"),
        check_length("tx_hash"),
        check_length("source_account"),
        check_length("memo_hash"),
        check_natural("sequence"),
        Index(None, "broadcaster", "source_account", "sequence"),
        UniqueConstraint("broadcaster", "tx_hash"),
    )

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    ledger_sequence: Mapped[int] = mapped_column(primary_key=True)
    apply_order: Mapped[int] = mapped_column(primary_key=True)
    network_id: Mapped[bytes]
    close_time_s: Mapped[int]
    tx_hash: Mapped[bytes]
    source_account: Mapped[bytes]
    sequence: Mapped[int]
    memo_hash: Mapped[bytes]
    succeeded: Mapped[bool]
    envelope: Mapped[bytes]
    result: Mapped[bytes]


class FactCursorRow(Base):
    """How far the transactions of one account were read."""

    __tablename__ = "fact_cursors"
    __table_args__ = (check_length("broadcaster"), check_length("account"))

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    account: Mapped[bytes] = mapped_column(primary_key=True)
    ledger_sequence: Mapped[int]
    apply_order: Mapped[int]


class FactProgressRow(Base):
    """Through which closed ledger the facts of a domain are complete."""

    __tablename__ = "fact_progress"
    __table_args__ = (check_length("broadcaster"),)

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    ledger_sequence: Mapped[int]
    close_time_s: Mapped[int]


class EpochLedgerRow(Base):
    """The last network ledger that closed before an epoch's end; facts are complete through it."""

    __tablename__ = "epoch_ledgers"
    __table_args__ = (check_length("broadcaster"), check_natural("epoch"))

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    ledger_sequence: Mapped[int]
    close_time_s: Mapped[int]


_STATES = ", ".join(f"'{state}'" for state in SettlementState)


class BatchRow(Base):
    """A payout batch, bound for life to one slot."""

    __tablename__ = "batches"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("channel_account"),
        CheckConstraint(f"state IN ({_STATES})", name="state_known"),
        CheckConstraint("attempt >= -1", name="attempt_from"),
        UniqueConstraint("channel_account", "channel_sequence"),
        Index(None, "broadcaster", "state"),
    )

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    kind: Mapped[int]
    leaf: Mapped[bytes]
    channel_account: Mapped[bytes]
    channel_sequence: Mapped[int]
    state: Mapped[str]
    attempt: Mapped[int]
    """Number of the newest attempt; -1 before the first."""

    tx_hash: Mapped[bytes | None]
    """The transaction that decided the slot; null while it is open."""

    reason: Mapped[str]
    """Why it failed, halted or is to burn; empty otherwise."""

    isolates: Mapped[bool]
    """Whether its no-op says that each payee is to be paid alone from then on."""


class AnchorRow(Base):
    """A checkpoint that is to stand on the chain."""

    __tablename__ = "anchors"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("body_hash"),
        CheckConstraint(f"state IN ({_STATES})", name="state_known"),
        CheckConstraint("attempt >= -1", name="attempt_from"),
    )

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    body_hash: Mapped[bytes]
    state: Mapped[str]
    attempt: Mapped[int]
    tx_hash: Mapped[bytes | None]
    """The transaction that anchored it; null until then."""


class AttemptRow(Base):
    """A signed envelope, stored before it is sent."""

    __tablename__ = "attempts"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("tx_hash"),
        CheckConstraint(f"purpose IN ('{BATCH}', '{ANCHOR}', '{BURN}')", name="purpose_known"),
        UniqueConstraint("tx_hash"),
    )

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    purpose: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """Batch number (of a no-op too), or epoch of an anchor."""

    attempt: Mapped[int] = mapped_column(primary_key=True)
    source_account: Mapped[bytes]
    sequence: Mapped[int]
    envelope: Mapped[bytes]
    tx_hash: Mapped[bytes]
    max_ledger_sequence: Mapped[int]
    max_time_s: Mapped[int]


class BumpRow(Base):
    """A fee bump around an attempt's unchanged envelope, stored before it is sent."""

    __tablename__ = "bumps"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("outer_hash"),
        check_length("tx_hash"),
        check_natural("step"),
        check_natural("fee_stroops"),
        UniqueConstraint("tx_hash", "step"),
        Index(None, "broadcaster", "close_time_s"),
    )

    outer_hash: Mapped[bytes] = mapped_column(primary_key=True)
    broadcaster: Mapped[bytes]
    tx_hash: Mapped[bytes]
    """Of the inner transaction: the attempt's."""

    step: Mapped[int]
    """Rung of the ladder, from 0."""

    bid_stroops: Mapped[int]
    """Offered per operation."""

    fee_stroops: Mapped[int]
    """Offered in all: the most it can cost."""

    envelope: Mapped[bytes]
    ledger_sequence: Mapped[int]
    """Newest closed ledger when it was made."""

    close_time_s: Mapped[int]
    """Of that ledger: the day's spending is counted by it."""


class SourceMarkRow(Base):
    """The newest closed ledger that a source ever told: what lies before it is old."""

    __tablename__ = "source_marks"
    __table_args__ = (check_length("broadcaster"),)

    broadcaster: Mapped[bytes] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    ledger_sequence: Mapped[int]
    close_time_s: Mapped[int]
    looks: Mapped[int]
    """How often it was asked since and told nothing newer."""


class StopRow(Base):
    """Why nothing is signed or sent, for a whole domain or for one account's lane."""

    __tablename__ = "stops"
    __table_args__ = (
        check_length("broadcaster"),
        check_length("account"),
        Index(
            "uq_stops_open",
            "broadcaster",
            "account",
            "cause",
            unique=True,
            postgresql_where=text("lifted_ledger IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    broadcaster: Mapped[bytes]
    account: Mapped[bytes]
    """Account whose lane stands still; zeros: the whole domain."""

    is_halt: Mapped[bool]
    """A person lifts a halt; a pause lifts itself."""

    cause: Mapped[str]
    """A result code, or a word for what was found."""

    reason: Mapped[str]
    """What a person reads."""

    since_ledger: Mapped[int]
    lifted_ledger: Mapped[int | None]
    lifted_why: Mapped[str | None]


class SendingRow(Base):
    """What became of sending an envelope, by its hash; no outcome is concluded from it."""

    __tablename__ = "sendings"
    __table_args__ = (check_length("tx_hash"),)

    tx_hash: Mapped[bytes] = mapped_column(primary_key=True)
    ledger_sequence: Mapped[int]
    """Newest closed ledger when it was last sent."""

    first_sequence: Mapped[int]
    """Newest closed ledger when it was first sent."""

    times: Mapped[int]
    status: Mapped[str]
    code: Mapped[str]
