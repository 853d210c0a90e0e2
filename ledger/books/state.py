"""State: what one epoch hands to the next, so that each epoch can be checked alone.

Opening state of epoch N is the closing state of N-1; its root stands in the seal leaf, the closing
root in the result leaf. The contract part (cap use, cumulative charges) is returned by the
contract; the books part (balances, undecided batches, next slots) is folded from the contract's
lines and the network facts. Encoded as rows: one kind byte and fixed-width fields each, strictly
ascending by bytes; the root is RFC 6962 over the rows. State roots use no salts: states are shown
to the auditor only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ledger.books.standing import MaturingKey, RefundRequest, SeenAccount, Standing
from ledger.books.state_layouts import STATE_LAYOUTS, RowKind
from ledger.evidence.encoding import TAG_SIZE, Reader, RecordCode, format_tag, parse_tag
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.leaf import Payment
from ledger.evidence.merkle import root_hash

ROWS_MAX = 50_000_000

_KINDS = frozenset(RowKind)

SOURCE_PEERS, SOURCE_CDN = 0, 1
"""Sources of bytes in the key of a cumulative total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Totals since the first epoch; growing numbers, never differences."""

    next_epoch: int
    """Epoch that this state opens."""

    last_ledger_sequence: int = 0
    """Last network ledger folded."""

    last_ledger_close_s: int = 0
    """Its close time."""

    next_batch_number: int = 0
    """Number of the next payout batch."""

    deposited_stroops: int = 0
    """Σ deposits credited to the broadcaster."""

    refunded_stroops: int = 0
    """Σ refunds of unspent deposits."""

    lost_stroops: int = 0
    """Σ losses that a ruling laid on the deposits."""

    charged_stroops: int = 0
    """Σ charges."""

    fees_stroops: int = 0
    """Σ fees, part of the charges; they stay in escrow until the DAO's rule moves them."""

    suspense_stroops: int = 0
    """Money that arrived without a known sender."""

    escrow_stroops: int = 0
    """Balance of the escrow account by the facts."""

    payout_stroops: int = 0
    """Balance of the payout account by the facts."""

    @property
    def unspent_stroops(self) -> int:
        """Deposits less charges, refunds and losses."""
        gone_stroops = self.charged_stroops + self.refunded_stroops + self.lost_stroops
        return self.deposited_stroops - gone_stroops


@dataclass(frozen=True, slots=True, kw_only=True)
class CapUse:
    """What an entitlement has used of its caps."""

    credited_bytes: int
    media_ms: int
    last_epoch: int
    """Last epoch the entitlement's time meets."""

    max_bytes: int = 0
    """Its cap of bytes; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cumulative:
    """Totals of one (payer, payee, source, price version)."""

    bytes_total: int
    charge_stroops: int
    fee_stroops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeBalance:
    """What a payee has earned and got."""

    accrued_stroops: int = 0
    """Σ (charges - fees) owed to it since the first epoch."""

    paid_stroops: int = 0
    """Σ payments applied on the network."""

    pays_alone: bool = False
    """Its last payment failed in a ledger; the next one stands in a batch of its own."""

    @property
    def owed_stroops(self) -> int:
        """What is accrued and not paid."""
        return self.accrued_stroops - self.paid_stroops


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBatch:
    """A planned batch whose slot no fact has decided yet."""

    kind: int
    channel_account: bytes
    channel_sequence: int
    leaf_hash: bytes
    """Memo of its transactions: `payout_hash` of its leaf; 32 bytes."""

    payments: tuple[Payment, ...]
    payees: tuple[bytes, ...] = ()
    """Who is owed each payment; empty: the accounts that are paid are the payees themselves."""

    def payee_at(self, place: int) -> bytes:
        """Return who is owed the payment at a place."""
        return self.payees[place] if self.payees else self.payments[place].account

    @property
    def total_stroops(self) -> int:
        """Σ payments."""
        return sum(payment.amount_stroops for payment in self.payments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedLane:
    """A lane counted again after its epoch's seal."""

    epoch: int
    sequence: int
    bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class XlmTotals:
    """An account of ours in the XLM book: two growing totals."""

    received_stroops: int = 0
    spent_stroops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspenseDeposit:
    """Money that arrived, that nobody could place, and whose sender is known.

    Part of the head's `suspense_stroops`; what has no known sender stands there only, as does what
    a planned refund is carrying back.
    """

    sender: bytes
    """Account it came from; 32 bytes."""

    amount_stroops: int
    """≥ 1."""

    close_s: int
    """Close time of the ledger that brought it; the refund's delay counts from here."""

    in_payout: bool = False
    """Lies in the payout account instead of escrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimableDeposit:
    """A claimable balance of the priced asset that escrow may claim and has not."""

    sender: bytes
    """Account that made it; 32 bytes."""

    amount_stroops: int
    """What claiming it brings."""

    is_known: bool
    """It is the broadcaster's."""


SuspenseKey = tuple[bytes, int]
"""(transaction hash, place of its operation from 0)."""

CumulativeKey = tuple[bytes, bytes, int, int]
"""(payer, payee, source: 0 peers, 1 CDN, price version)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an epoch needs to know of the epochs before."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """Whose books; 32 bytes."""

    head: Head
    cap_use: Mapping[bytes, CapUse] = field(default_factory=dict)
    """By entitlement digest."""

    void_from: Mapping[bytes, int] = field(default_factory=dict)
    """Entitlement digest → first epoch in which it is void."""

    cumulative: Mapping[CumulativeKey, Cumulative] = field(default_factory=dict)
    payees: Mapping[bytes, PayeeBalance] = field(default_factory=dict)
    """By account."""

    batches: Mapping[int, OpenBatch] = field(default_factory=dict)
    """Undecided ones, by number."""

    channels: Mapping[bytes, int] = field(default_factory=dict)
    """Channel account → next sequence number to use."""

    corrected_lanes: Mapping[bytes, CorrectedLane] = field(default_factory=dict)
    """By lane digest."""

    xlm: Mapping[bytes, XlmTotals] = field(default_factory=dict)
    """By account of ours."""

    suspense: Mapping[SuspenseKey, SuspenseDeposit] = field(default_factory=dict)
    """Deposits that may go back to their senders."""

    claimable: Mapping[bytes, ClaimableDeposit] = field(default_factory=dict)
    """By the claimable balance's id."""

    maturing: Mapping[MaturingKey, int] = field(default_factory=dict)
    """Accrued amounts, in stroops, whose challenge window is not over; part of what is owed."""

    standing: Mapping[bytes, Standing] = field(default_factory=dict)
    """Payees' own instructions, by account."""

    seen_accounts: Mapping[bytes, SeenAccount] = field(default_factory=dict)
    """What was seen of accounts on the network."""

    refund: RefundRequest | None = None
    """The broadcaster's newest request."""

    @property
    def unspent_stroops(self) -> int:
        """Deposits less charges, refunds and losses; negative when more was charged than left."""
        return self.head.unspent_stroops

    @property
    def carried_stroops(self) -> int:
        """Σ owed to payees."""
        return sum(payee.owed_stroops for payee in self.payees.values())

    @property
    def paid_stroops(self) -> int:
        """Σ paid to payees."""
        return sum(payee.paid_stroops for payee in self.payees.values())


def genesis_state(network_id: bytes, broadcaster_account: bytes, first_epoch: int) -> State:
    """Return the state before the first epoch: nothing happened yet."""
    return State(
        network_id=network_id,
        broadcaster_account=broadcaster_account,
        head=Head(next_epoch=first_epoch),
    )


def state_rows(state: State) -> list[bytes]:
    """Return the state's rows, strictly ascending."""
    rows = [
        bytes([kind]) + STATE_LAYOUTS[kind].pack_values(values) for kind, values in _values(state)
    ]
    rows.sort()
    return rows


def _values(state: State) -> Iterator[tuple[RowKind, Sequence[int | bytes]]]:
    """Yield every row's values in the order of its layout."""
    head = state.head
    yield RowKind.HEAD, [getattr(head, name.name) for name in STATE_LAYOUTS[RowKind.HEAD].fields]
    for entitlement, use in state.cap_use.items():
        used = (use.credited_bytes, use.media_ms, use.last_epoch, use.max_bytes)
        yield RowKind.CAP_USE, (entitlement, *used)
    for entitlement, first_epoch in state.void_from.items():
        yield RowKind.VOID, (entitlement, first_epoch)
    for key, total in state.cumulative.items():
        totals = (total.bytes_total, total.charge_stroops, total.fee_stroops)
        yield RowKind.CUMULATIVE, (*key, *totals)
    for account, payee in state.payees.items():
        totals = (payee.accrued_stroops, payee.paid_stroops, int(payee.pays_alone))
        yield RowKind.PAYEE, (account, *totals)
    for number, batch in state.batches.items():
        slot = (batch.channel_account, batch.channel_sequence)
        yield RowKind.BATCH, (number, batch.kind, *slot, batch.leaf_hash)
        for place, payment in enumerate(batch.payments):
            paid = (payment.account, payment.amount_stroops, batch.payee_at(place))
            yield RowKind.BATCH_PAYMENT, (number, place, *paid)
    for account, next_sequence in state.channels.items():
        yield RowKind.CHANNEL, (account, next_sequence)
    for digest, lane in state.corrected_lanes.items():
        yield RowKind.CORRECTED_LANE, (digest, lane.epoch, lane.sequence, lane.bytes_total)
    for account, xlm in state.xlm.items():
        yield RowKind.XLM, (account, xlm.received_stroops, xlm.spent_stroops)
    for suspense_key, held in state.suspense.items():
        money = (held.sender, held.amount_stroops, held.close_s, int(held.in_payout))
        yield RowKind.SUSPENSE, (*suspense_key, *money)
    for balance_id, offered in state.claimable.items():
        yield (
            RowKind.CLAIMABLE,
            (balance_id, offered.sender, offered.amount_stroops, int(offered.is_known)),
        )
    yield from _instructed_values(state)


def _instructed_values(state: State) -> Iterator[tuple[RowKind, Sequence[int | bytes]]]:
    """Yield the rows that instructions left behind."""
    for maturing_key, amount_stroops in state.maturing.items():
        yield RowKind.MATURING, (*maturing_key, amount_stroops)
    for account, standing in state.standing.items():
        yield RowKind.STANDING, _row_of(RowKind.STANDING, account, standing)
    for account, seen in state.seen_accounts.items():
        yield RowKind.SEEN_ACCOUNT, _row_of(RowKind.SEEN_ACCOUNT, account, seen)
    if state.refund is not None:
        names = [name.name for name in STATE_LAYOUTS[RowKind.REFUND].fields]
        yield RowKind.REFUND, [getattr(state.refund, name) for name in names]


def _row_of(kind: RowKind, account: bytes, value: object) -> list[int | bytes]:
    return [account, *(getattr(value, name.name) for name in STATE_LAYOUTS[kind].fields[1:])]


def state_root(state: State) -> bytes:
    """Return the RFC 6962 root over the state's rows."""
    return root_hash(state_rows(state))


def format_state(state: State) -> bytes:
    """Return the state's canonical bytes: tag, broadcaster, row count, length-prefixed rows."""
    return _format_rows(state.network_id, state.broadcaster_account, state_rows(state))


def _format_rows(network_id: bytes, broadcaster_account: bytes, rows: Sequence[bytes]) -> bytes:
    parts = [format_tag(RecordCode.STATE, network_id), broadcaster_account]
    parts.append(len(rows).to_bytes(4, "little"))
    parts.extend(len(row).to_bytes(2, "little") + row for row in rows)
    return b"".join(parts)


def parse_state(data: bytes) -> State:
    """Return a state from its canonical bytes.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    _, network_id = parse_tag(RecordCode.STATE, data)
    reader = Reader("state", data)
    reader.take(TAG_SIZE, "tag")
    broadcaster = reader.take(32, "broadcaster_account")
    count = reader.integer(4, "row count", limit=ROWS_MAX)
    rows = [reader.take(reader.integer(2, "row length"), "row") for _ in range(count)]
    reader.finish()
    for before, after in pairwise(rows):
        if before >= after:
            raise MalformedRecordError("state.rows", got=after[:40], want="strictly ascending")
    state = _state_of(network_id, broadcaster, rows)
    if format_state(state) != data:
        raise MalformedRecordError("state", got="rows that contradict", want="canonical rows")
    return state


def payee_accounts_in(data: bytes) -> frozenset[bytes]:
    """Return the payees in a state's canonical bytes, without parsing the rest.

    Raises:
        MalformedRecordError: The bytes end in the middle of a row.
    """
    reader = Reader("state", data)
    reader.take(TAG_SIZE + 32, "head")
    count = reader.integer(4, "row count", limit=ROWS_MAX)
    rows = (reader.take(reader.integer(2, "row length"), "row") for _ in range(count))
    return frozenset(row[1:33] for row in rows if row[:1] == bytes([RowKind.PAYEE]))


def _state_of(network_id: bytes, broadcaster: bytes, rows: list[bytes]) -> State:
    parsed: dict[RowKind, list[dict[str, Any]]] = {kind: [] for kind in RowKind}
    for row in rows:
        if not row or row[0] not in _KINDS:
            raise MalformedRecordError("state.row.kind", got=row[:1], want="a known kind")
        kind = RowKind(row[0])
        parsed[kind].append(STATE_LAYOUTS[kind].unpack(row[1:]))
    if len(parsed[RowKind.HEAD]) != 1:
        raise MalformedRecordError("state.head", got=len(parsed[RowKind.HEAD]), want="one row")
    for row_values in parsed[RowKind.CUMULATIVE]:
        if row_values["source"] > SOURCE_CDN:
            raise MalformedRecordError("state.source", got=row_values["source"], want="0 or 1")
    if len(parsed[RowKind.REFUND]) > 1:
        raise MalformedRecordError("state.refund", got=len(parsed[RowKind.REFUND]), want="one row")
    return State(
        network_id=network_id,
        broadcaster_account=broadcaster,
        head=Head(**parsed[RowKind.HEAD][0]),
        cap_use={v.pop("entitlement"): CapUse(**v) for v in parsed[RowKind.CAP_USE]},
        void_from={v["entitlement"]: v["first_epoch"] for v in parsed[RowKind.VOID]},
        cumulative={
            (v.pop("payer"), v.pop("payee"), v.pop("source"), v.pop("price_version")): Cumulative(
                **v
            )
            for v in parsed[RowKind.CUMULATIVE]
        },
        payees={
            v["account"]: PayeeBalance(
                accrued_stroops=v["accrued_stroops"],
                paid_stroops=v["paid_stroops"],
                pays_alone=bool(v["pays_alone"]),
            )
            for v in parsed[RowKind.PAYEE]
        },
        batches=_batches_of(parsed[RowKind.BATCH], parsed[RowKind.BATCH_PAYMENT]),
        channels={v["account"]: v["next_sequence"] for v in parsed[RowKind.CHANNEL]},
        corrected_lanes={
            v.pop("lane_digest"): CorrectedLane(**v) for v in parsed[RowKind.CORRECTED_LANE]
        },
        xlm={v.pop("account"): XlmTotals(**v) for v in parsed[RowKind.XLM]},
        suspense={
            (v.pop("tx_hash"), v.pop("operation")): SuspenseDeposit(
                in_payout=bool(v.pop("in_payout")), **v
            )
            for v in parsed[RowKind.SUSPENSE]
        },
        claimable={
            v.pop("balance_id"): ClaimableDeposit(is_known=bool(v.pop("is_known")), **v)
            for v in parsed[RowKind.CLAIMABLE]
        },
        maturing={
            (v["account"], v["due_s"]): v["amount_stroops"] for v in parsed[RowKind.MATURING]
        },
        standing={
            v.pop("account"): Standing(cash_out_open=bool(v.pop("cash_out_open")), **v)
            for v in parsed[RowKind.STANDING]
        },
        seen_accounts={v.pop("account"): SeenAccount(**v) for v in parsed[RowKind.SEEN_ACCOUNT]},
        refund=next((RefundRequest(**v) for v in parsed[RowKind.REFUND]), None),
    )


def _batches_of(
    rows: Sequence[dict[str, Any]], payment_rows: Sequence[dict[str, Any]]
) -> dict[int, OpenBatch]:
    """Return the undecided batches; each payment with who is owed it."""
    places: dict[int, dict[int, tuple[Payment, bytes]]] = {}
    for row in payment_rows:
        payment = Payment(account=row["account"], amount_stroops=row["amount_stroops"])
        places.setdefault(row["number"], {})[row["place"]] = (payment, row["payee"])
    batches: dict[int, OpenBatch] = {}
    for row in rows:
        number = row.pop("number")
        paid = [pair for _, pair in sorted(places.get(number, {}).items())]
        are_own = all(payment.account == payee for payment, payee in paid)
        batches[number] = OpenBatch(
            payments=tuple(payment for payment, _ in paid),
            # Nothing where everybody is paid at its own account.
            payees=() if are_own else tuple(payee for _, payee in paid),
            **row,
        )
    return batches
