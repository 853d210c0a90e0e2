"""Tables of evidence, epochs and the log: rows, not objects.

One class a table, as migration 0001 made it; `swarmledger db check` compares the two. Store
functions translate rows to domain types and back. Triggers (in the migration) make everything but
`broadcasters`, `epochs`, `bundles`, `receipts` and `relay_frames` append-only, let an epoch only go
forward, and refuse any change of a bundle once its epoch is sealed. What an epoch leaves behind is
partitioned by sealing epoch and expires as a whole (`expiry_store`). Tables of the settlement stand
in `settlement_store`.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from ledger.store.base import Base, check_length, check_natural


def _of_epoch(column: str) -> ForeignKeyConstraint:
    """A foreign key of (broadcaster, epoch), the epoch standing in `column`."""
    return ForeignKeyConstraint(
        ["broadcaster_id", column], ["epochs.broadcaster_id", "epochs.number"]
    )


_BY_EPOCH: Final = {"postgresql_partition_by": "LIST (sealing_epoch)"}
"""One partition a sealing epoch, made with the epoch's first bundle (migration 0007)."""


class BroadcasterRow(Base):
    """A broadcaster, hence a shard."""

    __tablename__ = "broadcasters"
    __table_args__ = (check_length("account"), check_length("network_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[bytes] = mapped_column(unique=True)
    network_id: Mapped[bytes]
    binding: Mapped[bytes]
    """The signed binding of the first issuing key."""
    registered_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IssuingBindingRow(Base):
    """A later binding of one of a broadcaster's issuing keys: a new key's, or a revocation."""

    __tablename__ = "issuing_bindings"
    __table_args__ = (check_length("key"), check_natural("serial"))

    broadcaster_id: Mapped[int] = mapped_column(ForeignKey("broadcasters.id"), primary_key=True)
    key: Mapped[bytes] = mapped_column(primary_key=True)
    serial: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    raw: Mapped[bytes]


class TermsRow(Base):
    """Signed terms; the newest that covers an epoch is in force in it."""

    __tablename__ = "terms"
    __table_args__ = (
        check_length("digest"),
        check_natural("first_epoch"),
        check_natural("last_epoch"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    broadcaster_id: Mapped[int] = mapped_column(ForeignKey("broadcasters.id"))
    digest: Mapped[bytes] = mapped_column(unique=True)
    raw: Mapped[bytes]
    first_epoch: Mapped[int]
    last_epoch: Mapped[int]


class ActivationRow(Base):
    """A signed activation of a contract."""

    __tablename__ = "activations"
    __table_args__ = (
        UniqueConstraint("broadcaster_id", "first_epoch"),
        check_natural("first_epoch"),
        check_length("rules_digest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    broadcaster_id: Mapped[int] = mapped_column(ForeignKey("broadcasters.id"))
    first_epoch: Mapped[int]
    rules_digest: Mapped[bytes]
    raw: Mapped[bytes]


class EpochRow(Base):
    """An epoch's life; `open` rows are made ahead of time."""

    __tablename__ = "epochs"
    __table_args__ = (
        CheckConstraint(
            "state IN ('open', 'sealing', 'sealed', 'computed', 'settled')", name="state_known"
        ),
        check_natural("number"),
        check_length("salt_key"),
        check_length("audit_digest"),
        CheckConstraint(
            "0 <= opening_size AND opening_size < sealed_size AND sealed_size < result_size",
            name="sizes_rise",
        ),
        CheckConstraint(
            "state IN ('open', 'sealing') OR (sealed_size IS NOT NULL AND opening_size IS NOT NULL"
            " AND last_ledger_sequence IS NOT NULL AND last_ledger_close_s IS NOT NULL)",
            name="sealed_with_sizes",
        ),
        CheckConstraint(
            "state NOT IN ('computed', 'settled') OR result_size IS NOT NULL",
            name="computed_with_size",
        ),
    )

    broadcaster_id: Mapped[int] = mapped_column(ForeignKey("broadcasters.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(Text, server_default="open")
    salt_key: Mapped[bytes]
    opening_size: Mapped[int | None]
    """Leaves in the log before this epoch; null before the seal."""
    sealed_size: Mapped[int | None]
    """Leaves in the log with the seal leaf; null before the seal."""
    result_size: Mapped[int | None]
    """Leaves in the log with the result and payout leaves; null before the computation."""
    last_ledger_sequence: Mapped[int | None]
    """Last network ledger that closed before the epoch's end; null before the seal."""
    last_ledger_close_s: Mapped[int | None]
    """Its close time."""
    published_at: Mapped[datetime | None]
    """When the log's files with this epoch's checkpoint were written first; null before."""
    audit_digest: Mapped[bytes | None]
    """SHA-256 of the audit file; null until it is written."""


class BundleRow(Base):
    """A bundle's frame, the promise it got, and what became of it; `BundleRawRow` has its bytes."""

    __tablename__ = "bundles"
    __table_args__ = (
        UniqueConstraint("submitter_key", "broadcaster_id", "epoch", "kind", "number"),
        _of_epoch("sealing_epoch"),
        CheckConstraint("state IN ('received', 'judged', 'poison')", name="state_known"),
        check_length("submitter_key"),
        check_length("digest"),
        check_length("payee_account"),
        check_length("vouch"),
        check_natural("epoch"),
        check_natural("number"),
        check_natural("size_bytes"),
        CheckConstraint("kind IN (1, 2)", name="kind_known"),
        CheckConstraint("sealing_epoch >= epoch", name="sealed_not_before"),
        CheckConstraint(
            "(state = 'received') = (code IS NULL) AND (code IS NULL) = (receipt_codes IS NULL)"
            " AND (code IS NULL) = (payee_account IS NULL)",
            name="verdict_whole",
        ),
        Index("ix_bundles_sealing_epoch", "broadcaster_id", "sealing_epoch"),
        Index(
            "ix_bundles_received",
            text("enqueued_at NULLS FIRST"),
            postgresql_where=text("state = 'received'"),
        ),
        Index(
            "ix_bundles_waiting_of",
            "submitter_key",
            postgresql_where=text("state = 'received'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    broadcaster_id: Mapped[int]
    submitter_key: Mapped[bytes]
    epoch: Mapped[int]
    kind: Mapped[int]
    number: Mapped[int]
    digest: Mapped[bytes] = mapped_column(unique=True)
    size_bytes: Mapped[int]
    """Bytes of the bundle as it came."""
    promise: Mapped[bytes]
    sealing_epoch: Mapped[int]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    state: Mapped[str] = mapped_column(Text, server_default="received")
    attempts: Mapped[int] = mapped_column(server_default="0")
    """How often a worker began to judge it."""
    enqueued_at: Mapped[datetime | None]
    """When a task for it was published last; null: never."""
    code: Mapped[int | None]
    """A `BundleCode`; null before the verdict."""
    receipt_codes: Mapped[bytes | None]
    """u16 little-endian `ReceiptCode` per receipt by its bundle's check; null before a verdict."""
    final_codes: Mapped[bytes | None]
    """The same as judged with all other receipts of the seal; null before the seal."""
    payee_account: Mapped[bytes | None]
    """Account bound to the submitter, zeros if none; null before the verdict."""
    vouch: Mapped[bytes | None]
    """The worker's mark on its verdict, 32 bytes; null: nobody vouches for one."""


class ConflictRow(Base):
    """Other bytes that came, signed, under the key of a promised bundle: evidence."""

    __tablename__ = "conflicts"
    __table_args__ = (check_length("digest"), Index("ix_conflicts_bundle_id", "bundle_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    bundle_id: Mapped[int] = mapped_column(ForeignKey("bundles.id"))
    digest: Mapped[bytes] = mapped_column(unique=True)
    raw: Mapped[bytes]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())


class BundleRawRow(Base):
    """A page of a bundle's bytes; expires once its epoch's audit file holds them."""

    __tablename__ = "bundle_raws"
    __table_args__ = (_BY_EPOCH,)

    sealing_epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bundle_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    page: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """From 0; `raw_store` joins them."""
    raw: Mapped[bytes]


class ReceiptRow(Base):
    """The receipt of a lane that counts so far in a seal; the bundle holds its bytes and code.

    Of those that passed their bundles' checks the one with the highest sequence, of two with the
    same sequence that with fewer bytes. The seal judges all of them, out of the bundles.
    """

    __tablename__ = "receipts"
    __table_args__ = (check_natural("sequence"), check_natural("bytes_total"), _BY_EPOCH)

    lane: Mapped[UUID] = mapped_column(primary_key=True)
    """First 16 bytes of the lane digest, which no other broadcaster's lane has."""
    sealing_epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    broadcaster_id: Mapped[int]
    epoch: Mapped[int]
    sequence: Mapped[int]
    bytes_total: Mapped[int]
    bundle_id: Mapped[int]
    """The bundle it stands in."""
    place: Mapped[int] = mapped_column(Integer)
    """Its place in that bundle, from 0."""
    is_cdn: Mapped[bool]
    entitlement: Mapped[UUID | None]
    """First 16 bytes of the entitlement's digest; null in rows of before it was kept."""
    cap_bytes: Mapped[int | None]
    """The most that all lanes of the entitlement can be credited together."""


class RefusalRow(Base):
    """A bundle or a receipt that was refused for good, with the numbers that say which."""

    __tablename__ = "refusals"
    __table_args__ = (
        UniqueConstraint("bundle_id", "place", postgresql_nulls_not_distinct=True),
        check_length("lane_digest"),
        CheckConstraint("code > 0", name="code_refuses"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    bundle_id: Mapped[int] = mapped_column(ForeignKey("bundles.id"))
    place: Mapped[int | None]
    """Place of the receipt in its bundle, from 0; null: the whole bundle."""
    code: Mapped[int]
    """A `ReceiptCode`, or a `BundleCode` when the place is null."""
    lane_digest: Mapped[bytes | None]
    sequence: Mapped[int | None]
    bytes_total: Mapped[int | None]
    field: Mapped[str | None] = mapped_column(Text)
    """What disagrees; null for refusals from before it was kept."""
    got: Mapped[str | None] = mapped_column(Text)
    want: Mapped[str | None] = mapped_column(Text)


class EquivocationRow(Base):
    """Two receipts that one honest session key cannot both have signed."""

    __tablename__ = "equivocations"
    __table_args__ = (_of_epoch("sealing_epoch"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    broadcaster_id: Mapped[int]
    sealing_epoch: Mapped[int]
    first_receipt: Mapped[bytes]
    second_receipt: Mapped[bytes]


class LaneRow(Base):
    """What a lane counted for in a seal; the entries under that result's lane root."""

    __tablename__ = "lanes"
    __table_args__ = (
        check_length("lane_digest"),
        check_natural("sequence"),
        check_natural("bytes_total"),
        _BY_EPOCH,
    )

    broadcaster_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sealing_epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    lane_digest: Mapped[bytes] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    """Epoch of the lane; below the sealing epoch for a correction."""
    sequence: Mapped[int]
    bytes_total: Mapped[int]


class LeafRow(Base):
    """A leaf of the public log."""

    __tablename__ = "leaves"
    __table_args__ = (
        _of_epoch("epoch"),
        check_natural("leaf_index"),
        check_length("leaf_hash"),
        CheckConstraint("octet_length(data) <= 65535", name="data_fits"),
    )

    broadcaster_id: Mapped[int] = mapped_column(primary_key=True)
    leaf_index: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    """Epoch that appended it."""
    data: Mapped[bytes]
    leaf_hash: Mapped[bytes]


class StateRow(Base):
    """An epoch's closing state, the next one's opening state."""

    __tablename__ = "states"
    __table_args__ = (_of_epoch("epoch"), check_length("root"))

    broadcaster_id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    closing: Mapped[bytes]
    root: Mapped[bytes]


class ResultRow(Base):
    """An epoch's journal, statements and sum-tree root."""

    __tablename__ = "results"
    __table_args__ = (
        _of_epoch("epoch"),
        check_length("sum_tree_hash"),
        check_natural("sum_tree_bytes"),
        check_natural("sum_tree_stroops"),
    )

    broadcaster_id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    journal: Mapped[bytes]
    statements: Mapped[bytes]
    sum_tree_hash: Mapped[bytes]
    sum_tree_bytes: Mapped[int]
    sum_tree_stroops: Mapped[int]


class CheckpointRow(Base):
    """The signed tree head after an epoch's result."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("broadcaster_id", "tree_size"),
        _of_epoch("epoch"),
        check_natural("tree_size"),
        check_length("root"),
        check_length("body_hash"),
        CheckConstraint("octet_length(frontier) >= 8", name="frontier_length"),
    )

    broadcaster_id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    tree_size: Mapped[int]
    root: Mapped[bytes]
    body_hash: Mapped[bytes]
    """SHA-256 of the note's text: what is anchored on the chain."""
    note: Mapped[bytes]
    """The signed note."""

    frontier: Mapped[bytes]
    """State of a `RootBuilder` over the signed tree; checked against a signed root when read."""


class RelayFrameRow(Base):
    """A sealed frame that waits for its recipient; deleted once it has come in, or has expired."""

    __tablename__ = "relay_frames"
    __table_args__ = (
        check_length("digest"),
        check_length("from_key"),
        check_length("to_key"),
        Index("ix_relay_frames_to_key", "to_key", "id"),
        Index("ix_relay_frames_from_key", "from_key"),
        Index("ix_relay_frames_stored_at", "stored_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    from_key: Mapped[bytes]
    to_key: Mapped[bytes]
    raw: Mapped[bytes]
    """The frame as its sender signed it."""
    stored_at: Mapped[datetime] = mapped_column(server_default=func.now())
