"""Rows over bytes and records parsed one by one: the same records, the same errors, one order."""

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, EntitlementRows
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.receipt import FLAG_CDN, RECEIPT, Receipt
from ledger.evidence.receipt_rows import ROW_FIELDS, ReceiptRows
from ledger.evidence.record_rows import RecordRows, part_struct

RECEIPTS = [builders.receipt(nonce=nonce, sequence=1 + 256 * nonce) for nonce in range(3)]
ENTITLEMENTS = [
    builders.entitlement(max_bytes=cap, country=country)
    for cap, country in ((0, ""), (1, "D"), (2**63 - 1, "DE"))
]
KINDS = [(ReceiptRows, RECEIPT, RECEIPTS), (EntitlementRows, ENTITLEMENT, ENTITLEMENTS)]
every_kind = pytest.mark.parametrize(("rows_type", "record", "signed"), KINDS)


def error_of(parse) -> str | None:
    try:
        parse()
    except MalformedRecordError as error:
        return str(error)
    return None


@every_kind
def test_rows_are_the_records_wherever_they_stand_in_the_bytes(rows_type, record, signed):
    joined = b"".join(one.raw for one in signed)
    for before, after in ((b"", b""), (b"x" * 7, b"y" * 400)):
        rows = rows_type(before + joined + after, len(before), len(signed))
        assert list(rows) == signed
        assert rows[-1] == signed[-1]
        assert rows[1:] == tuple(signed[1:])
        assert rows.raw_all() == joined
        assert list(rows.digests()) == [one.digest for one in signed]
        assert [rows.body(at) for at in range(3)] == [one.body for one in signed]
        assert [rows.signature(at) for at in range(3)] == [one.signatures[0] for one in signed]
        assert rows == rows_type.of(signed)
        assert hash(rows) == hash(rows_type.of(signed))
        assert rows_type.of(rows) is rows
    with pytest.raises(IndexError):
        rows_type(joined)[3]


def test_row_has_the_records_fields_in_the_order_of_its_format():
    rows = ReceiptRows.of(RECEIPTS)
    for row, signed in zip(rows.rows(), RECEIPTS, strict=True):
        assert dict(zip(ROW_FIELDS, row, strict=True)) == {
            name: getattr(signed.value, name) for name in ROW_FIELDS
        }
    part = part_struct(RECEIPT, "flags", "sequence")
    assert list(rows.rows(part)) == [(0, one.value.sequence) for one in RECEIPTS]
    assert list(rows.lane_digests()) == [one.value.lane_digest for one in RECEIPTS]


@every_kind
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_changed_bytes_are_malformed_exactly_when_a_record_alone_is(
    rows_type, record, signed, data
):
    raw = bytearray(b"".join(one.raw for one in signed))
    size = record.size
    for _ in range(data.draw(st.integers(1, 2))):
        # The signature's bytes may be anything: aim at the body.
        at = data.draw(st.integers(0, 2)) * size + data.draw(st.integers(64, size - 1))
        raw[at] = data.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xC3, 0xFF]))
    raw = bytes(raw)

    def parse_alone() -> list:
        return [record.parse(raw[at : at + size]) for at in range(0, len(raw), size)]

    wanted = error_of(parse_alone)
    assert error_of(lambda: rows_type(raw)) == wanted
    if wanted is None:
        assert list(rows_type(raw)) == parse_alone()


@every_kind
def test_every_bit_of_a_body_is_looked_at_as_in_a_record_alone(rows_type, record, signed):
    for bit in range(64 * 8, record.size * 8):
        raw = bytearray(signed[0].raw)
        raw[bit // 8] ^= 1 << bit % 8
        both = bytes(raw) + signed[1].raw
        assert error_of(lambda raw=both: rows_type(raw)) == error_of(
            lambda raw=bytes(raw): record.parse(raw)
        )


def test_receipt_of_sequence_zero_is_malformed_among_others():
    body = RECEIPTS[1].body
    zero = bytes(64) + body[:112] + bytes(8) + body[120:]
    with pytest.raises(MalformedRecordError, match="sequence"):
        ReceiptRows(RECEIPTS[0].raw + zero + RECEIPTS[2].raw)


def test_bytes_missing_or_left_over_are_malformed():
    raw = RECEIPTS[0].raw
    for wrong in (raw[:-1], raw + b"x"):
        with pytest.raises(MalformedRecordError, match="receipt"):
            ReceiptRows(wrong)
    with pytest.raises(MalformedRecordError, match="receipt"):
        ReceiptRows(raw, 0, 2)


def test_record_with_two_signers_has_no_rows():
    from ledger.evidence.binding import BINDING
    from ledger.evidence.record_rows import row_struct

    with pytest.raises(ValueError, match="2 signers"):
        row_struct(BINDING)


def signed_receipt(nonce: int, sequence: int, total: int) -> Signed[Receipt]:
    value = Receipt(
        network_id=builders.NETWORK_ID,
        flags=FLAG_CDN,
        entitlement_digest=bytes(32),
        payee_key=bytes(32),
        epoch=1,
        nonce=nonce,
        sequence=sequence,
        bytes_total=total,
        media_ms_total=0,
        credit_root=bytes(32),
    )
    return RECEIPT.parse(bytes(64) + RECEIPT.format_body(value))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([1, 2, 255, 256]), st.integers(0, 2)),
        max_size=6,
    )
)
def test_disorder_is_found_at_the_first_record_that_is_not_above_the_one_before(numbers):
    signed = [signed_receipt(*one) for one in numbers]
    keys = [(one.value.lane_digest, one.value.sequence, one.body) for one in signed]
    wrong = [at for at in range(1, len(keys)) if keys[at - 1] >= keys[at]]
    assert ReceiptRows.of(signed).first_disorder() == (wrong[0] if wrong else None)


def test_rows_without_a_record_type_cannot_be_made():
    with pytest.raises(AttributeError):
        RecordRows(b"")
