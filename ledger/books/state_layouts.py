"""State layouts: the kinds of rows of a state, and the fields of each.

A row is its kind's byte, then these fields. Not here: what they mean (`state`, `standing`).
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from ledger.evidence.encoding import Layout


class RowKind(IntEnum):
    """The first byte of a state row."""

    HEAD = 1
    CAP_USE = 2
    VOID = 3
    CUMULATIVE = 4
    PAYEE = 5
    BATCH = 6
    BATCH_PAYMENT = 7
    CHANNEL = 8
    CORRECTED_LANE = 9
    XLM = 10
    SUSPENSE = 11
    MATURING = 12
    STANDING = 13
    SEEN_ACCOUNT = 14
    REFUND = 15
    CLAIMABLE = 20


_LAYOUTS: Mapping[RowKind, Layout] = {
    RowKind.HEAD: Layout(
        "state.head",
        [
            ("next_epoch", "u32"),
            ("last_ledger_sequence", "u32"),
            ("last_ledger_close_s", "u64"),
            ("next_batch_number", "u64"),
            ("deposited_stroops", "u64"),
            ("refunded_stroops", "u64"),
            ("lost_stroops", "u64"),
            ("charged_stroops", "u64"),
            ("fees_stroops", "u64"),
            ("suspense_stroops", "u64"),
            ("escrow_stroops", "u64"),
            ("payout_stroops", "u64"),
        ],
    ),
    RowKind.CAP_USE: Layout(
        "state.cap_use",
        [
            ("entitlement", "bytes32"),
            ("credited_bytes", "u64"),
            ("media_ms", "u64"),
            ("last_epoch", "u32"),
            ("max_bytes", "u64"),
        ],
    ),
    RowKind.VOID: Layout("state.void", [("entitlement", "bytes32"), ("first_epoch", "u32")]),
    RowKind.CUMULATIVE: Layout(
        "state.cumulative",
        [
            ("payer", "bytes32"),
            ("payee", "bytes32"),
            ("source", "u8"),
            ("price_version", "u32"),
            ("bytes_total", "u64"),
            ("charge_stroops", "u64"),
            ("fee_stroops", "u64"),
        ],
    ),
    RowKind.PAYEE: Layout(
        "state.payee",
        [
            ("account", "bytes32"),
            ("accrued_stroops", "u64"),
            ("paid_stroops", "u64"),
            ("pays_alone", "u8"),
        ],
    ),
    RowKind.BATCH: Layout(
        "state.batch",
        [
            ("number", "u64"),
            ("kind", "u16"),
            ("channel_account", "bytes32"),
            ("channel_sequence", "u64"),
            ("leaf_hash", "bytes32"),
        ],
    ),
    RowKind.BATCH_PAYMENT: Layout(
        "state.batch_payment",
        [
            ("number", "u64"),
            ("place", "u16"),
            ("account", "bytes32"),
            ("amount_stroops", "u64"),
            ("payee", "bytes32"),
        ],
    ),
    RowKind.CHANNEL: Layout("state.channel", [("account", "bytes32"), ("next_sequence", "u64")]),
    RowKind.CORRECTED_LANE: Layout(
        "state.corrected_lane",
        [
            ("lane_digest", "bytes32"),
            ("epoch", "u32"),
            ("sequence", "u64"),
            ("bytes_total", "u64"),
        ],
    ),
    RowKind.XLM: Layout(
        "state.xlm",
        [("account", "bytes32"), ("received_stroops", "u64"), ("spent_stroops", "u64")],
    ),
    RowKind.SUSPENSE: Layout(
        "state.suspense",
        [
            ("tx_hash", "bytes32"),
            ("operation", "u32"),
            ("sender", "bytes32"),
            ("amount_stroops", "u64"),
            ("close_s", "u64"),
            ("in_payout", "u8"),
        ],
    ),
    RowKind.MATURING: Layout(
        "state.maturing", [("account", "bytes32"), ("due_s", "u64"), ("amount_stroops", "u64")]
    ),
    RowKind.STANDING: Layout(
        "state.standing",
        [
            ("account", "bytes32"),
            ("pay_to", "bytes32"),
            ("pay_to_serial", "u64"),
            ("next_pay_to", "bytes32"),
            ("next_from_s", "u64"),
            ("cash_out_serial", "u64"),
            ("cash_out_open", "u8"),
        ],
    ),
    RowKind.SEEN_ACCOUNT: Layout(
        "state.seen_account",
        [
            ("account", "bytes32"),
            ("seen_ledger", "u32"),
            ("readiness", "u16"),
            ("entry_ledger", "u32"),
            ("room_stroops", "u64"),
        ],
    ),
    RowKind.REFUND: Layout(
        "state.refund",
        [
            ("serial", "u64"),
            ("left_stroops", "u64"),
            ("planned_stroops", "u64"),
            ("due_s", "u64"),
            ("first_epoch", "u32"),
        ],
    ),
    RowKind.CLAIMABLE: Layout(
        "state.claimable",
        [
            ("balance_id", "bytes32"),
            ("sender", "bytes32"),
            ("amount_stroops", "u64"),
            ("is_known", "u8"),
        ],
    ),
}
STATE_LAYOUTS: Mapping[RowKind, Layout] = MappingProxyType(_LAYOUTS)
"""Row layouts after the kind byte, for the format document's test."""
