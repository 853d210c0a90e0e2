"""State: rows, root, and strict parsing of what one epoch hands to the next."""

from dataclasses import fields, replace
from typing import Any

import book_builders
import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.books.standing import RefundRequest, SeenAccount, Standing
from ledger.books.state import (
    STATE_LAYOUTS,
    CapUse,
    CorrectedLane,
    Cumulative,
    Head,
    OpenBatch,
    PayeeBalance,
    State,
    SuspenseDeposit,
    XlmTotals,
    format_state,
    parse_state,
    state_root,
    state_rows,
)
from ledger.books.state_layouts import RowKind
from ledger.evidence.encoding import TAG_SIZE
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.leaf import Payment
from ledger.evidence.merkle import root_hash

keys = st.binary(min_size=32, max_size=32)
u16, u32, u63 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)


def made_of(kind: type, /, **strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **strategies)


heads = made_of(
    Head,
    **{
        field.name: u32 if field.name in {"next_epoch", "last_ledger_sequence"} else u63
        for field in fields(Head)
    },
)
payments = made_of(Payment, account=keys, amount_stroops=st.integers(1, 2**63 - 1))
states = made_of(
    State,
    network_id=keys,
    broadcaster_account=keys,
    head=heads,
    cap_use=st.dictionaries(
        keys, made_of(CapUse, credited_bytes=u63, media_ms=u63, last_epoch=u32), max_size=3
    ),
    void_from=st.dictionaries(keys, u32, max_size=3),
    cumulative=st.dictionaries(
        st.tuples(keys, keys, st.integers(0, 1), u32),
        made_of(Cumulative, bytes_total=u63, charge_stroops=u63, fee_stroops=u63),
        max_size=3,
    ),
    payees=st.dictionaries(
        keys,
        made_of(PayeeBalance, accrued_stroops=u63, paid_stroops=u63, pays_alone=st.booleans()),
        max_size=3,
    ),
    batches=st.dictionaries(
        u63,
        made_of(
            OpenBatch,
            kind=u16,
            channel_account=keys,
            channel_sequence=u63,
            leaf_hash=keys,
            payments=st.lists(payments, max_size=4).map(tuple),
        ),
        max_size=3,
    ),
    channels=st.dictionaries(keys, u63, max_size=3),
    corrected_lanes=st.dictionaries(
        keys, made_of(CorrectedLane, epoch=u32, sequence=u63, bytes_total=u63), max_size=3
    ),
    xlm=st.dictionaries(
        keys, made_of(XlmTotals, received_stroops=u63, spent_stroops=u63), max_size=3
    ),
    maturing=st.dictionaries(st.tuples(keys, u63), u63, max_size=3),
    standing=st.dictionaries(
        keys,
        made_of(
            Standing,
            pay_to=keys,
            pay_to_serial=u63,
            next_pay_to=keys,
            next_from_s=u63,
            cash_out_serial=u63,
            cash_out_open=st.booleans(),
        ),
        max_size=3,
    ),
    seen_accounts=st.dictionaries(
        keys,
        made_of(SeenAccount, seen_ledger=u32, readiness=u16, entry_ledger=u32, room_stroops=u63),
        max_size=3,
    ),
    refund=st.none()
    | made_of(
        RefundRequest,
        serial=u63,
        left_stroops=u63,
        planned_stroops=u63,
        due_s=u63,
        first_epoch=u32,
    ),
    suspense=st.dictionaries(
        st.tuples(keys, u32),
        made_of(
            SuspenseDeposit, sender=keys, amount_stroops=u63, close_s=u63, in_payout=st.booleans()
        ),
        max_size=3,
    ),
)


@settings(max_examples=60)
@given(states)
def test_round_trip(state: State) -> None:
    data = format_state(state)
    parsed = parse_state(data)
    assert parsed == state
    assert format_state(parsed) == data
    assert state_root(parsed) == state_root(state)


def test_root_is_over_strictly_ascending_rows() -> None:
    rows = state_rows(book_builders.full_state())
    assert rows == sorted(set(rows))
    assert {row[0] for row in rows} == set(RowKind)
    assert state_root(book_builders.full_state()) == root_hash(rows)


def test_order_in_which_a_state_was_built_does_not_matter() -> None:
    state = book_builders.full_state()
    backwards = {
        name: dict(reversed(getattr(state, name).items()))
        for name in ("payees", "batches", "channels", "cumulative")
    }
    assert format_state(replace(state, **backwards)) == format_state(state)


@pytest.mark.parametrize("name", [field.name for field in fields(Head)])
def test_root_changes_with_every_total(name: str) -> None:
    state = book_builders.full_state()
    changed = replace(state.head, **{name: getattr(state.head, name) + 1})
    assert state_root(replace(state, head=changed)) != state_root(state)


def test_places_of_payments_past_ten_stay_in_order() -> None:
    many = tuple(
        Payment(account=builders.digest_of(str(n)), amount_stroops=n + 1) for n in range(100)
    )
    batch = replace(book_builders.full_state().batches[3], payments=many, payees=())
    state = book_builders.full_state(batches={3: batch})
    assert parse_state(format_state(state)).batches[3].payments == many


def test_batch_keeps_who_is_owed_what_is_paid_elsewhere() -> None:
    batch = book_builders.full_state().batches[3]
    assert batch.payee_at(0) != batch.payments[0].account
    assert parse_state(format_state(book_builders.full_state())).batches[3] == batch


def rebuilt(rows: list[bytes]) -> bytes:
    head = format_state(book_builders.full_state())[: TAG_SIZE + 32]
    parts = [head, len(rows).to_bytes(4, "little")]
    return b"".join(parts) + b"".join(len(row).to_bytes(2, "little") + row for row in rows)


ROWS = state_rows(book_builders.full_state())
CUMULATIVE = next(row for row in ROWS if row[0] == RowKind.CUMULATIVE)
PAYEE = next(row for row in ROWS if row[0] == RowKind.PAYEE)
PAYMENT = next(row for row in ROWS if row[0] == RowKind.BATCH_PAYMENT)
STANDING = next(row for row in ROWS if row[0] == RowKind.STANDING)
REFUND = next(row for row in ROWS if row[0] == RowKind.REFUND)
HEAD = ROWS[0]


def with_row(row: bytes, instead_of: bytes | None = None) -> bytes:
    return rebuilt(sorted([row, *(known for known in ROWS if known != instead_of)]))


@pytest.mark.parametrize(
    "data",
    [
        rebuilt(ROWS[::-1]),
        rebuilt([ROWS[0], *ROWS]),
        rebuilt(ROWS[1:]),
        with_row(HEAD[:1] + bytes(len(HEAD) - 1)),
        with_row(b""),
        with_row(b"\x00"),
        with_row(b"\x0b" + bytes(40)),
        with_row(PAYEE + b"\0", PAYEE),
        with_row(PAYEE[:-1] + b"\x02", PAYEE),
        with_row(PAYEE[:-1] + bytes([PAYEE[-1] ^ 1])),
        with_row(CUMULATIVE[:65] + b"\x02" + CUMULATIVE[66:], CUMULATIVE),
        with_row(PAYMENT[:1] + (9).to_bytes(8, "little") + PAYMENT[9:]),
        with_row(PAYMENT[:9] + (7).to_bytes(2, "little") + PAYMENT[11:]),
        with_row(PAYMENT[:43] + bytes(8) + PAYMENT[51:], PAYMENT),
        with_row(STANDING[:-1] + b"\x02", STANDING),
        with_row(REFUND[:1] + bytes([REFUND[1] ^ 1]) + REFUND[2:]),
    ],
    ids=[
        "descending", "twice", "no-head", "two-heads", "empty-row", "kind-0", "kind-11", "long-row",
        "flag-2", "two-balances", "source-2", "payment-without-batch", "gap-in-payments",
        "payment-of-nothing", "cash-out-2", "two-refunds",
    ],
)  # fmt: skip
def test_rows_that_are_not_canonical_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        parse_state(data)


def test_row_count_that_lies_is_malformed() -> None:
    data = rebuilt(ROWS)
    at = TAG_SIZE + 32
    for lie in (0, len(ROWS) - 1, len(ROWS) + 1, 2**32 - 1):
        with pytest.raises(MalformedRecordError):
            parse_state(data[:at] + lie.to_bytes(4, "little") + data[at + 4 :])


def test_derived_totals() -> None:
    state = book_builders.full_state()
    assert state.unspent_stroops == 1_000_000_000 - 27_939_677
    assert state.carried_stroops == 25_145_710 + 1
    assert state.paid_stroops == 7
    assert set(STATE_LAYOUTS) == set(RowKind)
