"""Judgement: which receipts of which bundles count, and with which code each other one does not.

One name for its three modules: `codes`, `bundle_check` (one bundle alone, on arrival) and
`lane_judgement` (all receipts of a seal as sets by lane).
"""

from ledger.books.bundle_check import BundleCheck, check_bundle, entitlement_codes, set_aside
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.books.lane_judgement import (
    ENTITLEMENT_BYTES_MAX,
    JudgedLane,
    Judgement,
    LaneCount,
    codes_root_of,
    format_lane_entry,
    judge_lanes,
    lane_root_of,
)

__all__ = [
    "ENTITLEMENT_BYTES_MAX",
    "BundleCheck",
    "BundleCode",
    "JudgedLane",
    "Judgement",
    "LaneCount",
    "ReceiptCode",
    "check_bundle",
    "codes_root_of",
    "entitlement_codes",
    "format_lane_entry",
    "judge_lanes",
    "lane_root_of",
    "set_aside",
]
