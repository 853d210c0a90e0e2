"""Receipts as steps: the receiver rebuilds the very bytes, or nothing."""

from typing import Any

import pytest
from builders import EPOCH, entitlement, receipt
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin import receipt_steps
from engine_plugin.receipt_steps import ReceiptBases
from engine_plugin.wire import RECEIPT_STEP
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.receipt import RECEIPT, Receipt


class Direction:
    """One direction of one channel: what goes in comes out."""

    def __init__(self) -> None:
        self.sender, self.receiver = ReceiptBases(), ReceiptBases()
        self.codes: list[RecordCode] = []

    def carry(self, signed: Signed[Receipt]) -> bytes:
        code, record = self.sender.format(signed)
        self.codes.append(code)
        if code is RecordCode.RECEIPT_STEP:
            return self.receiver.rebuild(record)
        self.receiver.note(RECEIPT.parse(record).value)
        return record


def test_later_receipts_of_a_lane_are_steps_of_115_bytes() -> None:
    direction = Direction()
    for sequence in (1, 2, 3):
        signed = receipt(sequence=sequence, bytes_total=sequence << 20)
        assert direction.carry(signed) == signed.raw
    assert direction.codes == [
        RecordCode.RECEIPT,
        RecordCode.RECEIPT_STEP,
        RecordCode.RECEIPT_STEP,
    ]
    assert RECEIPT_STEP.size == 115


def test_next_epoch_is_a_step_too() -> None:
    direction = Direction()
    for epoch in (EPOCH, EPOCH + 1, EPOCH + 0xFFFF):
        signed = receipt(epoch=epoch)
        assert direction.carry(signed) == signed.raw
    assert direction.codes[1:] == [RecordCode.RECEIPT_STEP] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": EPOCH - 1},
        {"epoch": EPOCH + 0x10000},
        {"sequence": 1 << 32},
        {"media_ms_total": 1 << 32},
        {"nonce": 5},
        {"payee": "other"},
        {"under": entitlement("other viewer")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_not_fit_a_step_goes_in_full(changes: dict[str, Any]) -> None:
    direction = Direction()
    direction.carry(receipt())
    signed = receipt(**changes)
    assert direction.carry(signed) == signed.raw
    assert direction.codes[1] is RecordCode.RECEIPT
    # And is built on from then on.
    again = receipt(**(changes | {"sequence": changes.get("sequence", 1)}))
    assert direction.carry(again) == again.raw


def test_numbers_go_round_without_mixing_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_steps, "BASES_MAX", 3)
    direction = Direction()
    for sequence in (1, 2):
        for nonce in (0, 1, 2, 3, 0, 3, 3):
            signed = receipt(nonce=nonce, sequence=sequence)
            assert direction.carry(signed) == signed.raw
    assert RecordCode.RECEIPT_STEP in direction.codes


def test_step_that_builds_on_nothing_is_malformed() -> None:
    direction = Direction()
    direction.sender.format(receipt())
    _, record = direction.sender.format(receipt(sequence=2))
    with pytest.raises(MalformedRecordError, match="base"):
        ReceiptBases().rebuild(record)


@given(
    sequences=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 1 << 17),
            st.integers(1, 1 << 33),
            st.integers(0, 1 << 50),
        ),
        max_size=12,
    )
)
def test_any_order_of_receipts_comes_out_as_it_went_in(
    sequences: list[tuple[int, int, int, int]],
) -> None:
    direction = Direction()
    for nonce, epoch, sequence, total in sequences:
        signed = receipt(nonce=nonce, epoch=epoch, sequence=sequence, bytes_total=total)
        assert direction.carry(signed) == signed.raw


@given(data=st.binary(min_size=115, max_size=115))
def test_any_bytes_are_rebuilt_or_refused(data: bytes) -> None:
    bases = ReceiptBases()
    bases.note(receipt().value)
    try:
        raw = bases.rebuild(data)
    except MalformedRecordError:
        return
    assert RECEIPT.parse(raw).raw == raw
