"""Fixed-width records: one encoding of each value, and nothing else parses."""

from dataclasses import dataclass

import builders
import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.books.errors import BooksError
from ledger.evidence.encoding import (
    TAG_SIZE,
    Layout,
    Reader,
    RecordCode,
    RecordType,
    Signed,
    format_counted,
    format_tag,
    parse_tag,
)
from ledger.evidence.errors import BadSignatureError, EvidenceError, MalformedRecordError
from ledger.evidence.keys import verify
from ledger.evidence.receipt import RECEIPT

REFUSALS = (EvidenceError, BooksError)
every_sample = pytest.mark.parametrize("sample", records.SAMPLES, ids=lambda sample: sample.name)
every_tagged = pytest.mark.parametrize("sample", records.TAGGED, ids=lambda sample: sample.name)
every_signed = pytest.mark.parametrize("sample", records.SIGNED, ids=lambda sample: sample.name)


def flip(data: bytes, bit: int) -> bytes:
    mutated = bytearray(data)
    mutated[bit // 8] ^= 1 << (bit % 8)
    return bytes(mutated)


# --- every record ---------------------------------------------------------------------------------


@every_sample
def test_record_prints_back_identically(sample: records.Sample) -> None:
    parsed = sample.parse(sample.raw)
    assert sample.format(parsed) == sample.raw
    assert sample.parse(sample.format(parsed)) == parsed


@every_sample
def test_record_cut_at_any_length_is_malformed(sample: records.Sample) -> None:
    for size in range(len(sample.raw)):
        with pytest.raises(MalformedRecordError):
            sample.parse(sample.raw[:size])


@every_sample
@pytest.mark.parametrize("tail", [b"\0", b"\1", bytes(32)])
def test_record_with_bytes_after_its_end_is_malformed(sample: records.Sample, tail: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        sample.parse(sample.raw + tail)


@every_sample
def test_record_with_a_flipped_bit_is_refused_or_another_canonical_record(
    sample: records.Sample,
) -> None:
    original = sample.parse(sample.raw)
    for bit in range(8 * len(sample.raw)):
        mutated = flip(sample.raw, bit)
        try:
            parsed = sample.parse(mutated)
        except REFUSALS:
            continue
        assert sample.format(parsed) == mutated
        assert parsed != original


@every_signed
def test_record_with_a_flipped_bit_is_malformed_or_fails_its_signature(
    sample: records.Sample,
) -> None:
    for bit in range(8 * len(sample.raw)):
        try:
            signed: Signed[object] = sample.parse(flip(sample.raw, bit))
        except MalformedRecordError:
            continue
        assert len(signed.signatures) == len(sample.signers)
        assert not all(
            verify(key, signed.body, signature)
            for key, signature in zip(sample.signers, signed.signatures, strict=True)
        )


@every_sample
@settings(max_examples=25)
@given(data=st.data())
def test_record_with_any_bytes_overwritten_is_refused_or_canonical(
    sample: records.Sample, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(sample.raw) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=12))[: len(sample.raw) - at]
    mutated = sample.raw[:at] + patch + sample.raw[at + len(patch) :]
    try:
        parsed = sample.parse(mutated)
    except REFUSALS:
        return
    assert sample.format(parsed) == mutated


@every_tagged
def test_tag_opens_the_body(sample: records.Sample) -> None:
    assert sample.code is not None
    body = sample.raw[sample.tag_at :]
    assert body[:TAG_SIZE] == b"SWLG\x01" + bytes([sample.code]) + body[6:8] + builders.NETWORK_ID


WITH_A_FLAG = {RecordCode.RECEIPT, RecordCode.HEARTBEAT, RecordCode.SEGMENT}
"""Records whose flag bit 0 is known."""


@every_tagged
@pytest.mark.parametrize(
    ("offset", "what"),
    [(0, "magic"), (3, "magic"), (4, "version"), (5, "type"), (6, "flags"), (7, "flags")],
)
def test_other_tag_is_malformed(sample: records.Sample, offset: int, what: str) -> None:
    at = sample.tag_at + offset
    for value in range(256):
        known_flag = what == "flags" and offset == 6 and sample.code in WITH_A_FLAG
        if value == sample.raw[at] or (known_flag and value in {0, 1}):
            continue
        with pytest.raises(MalformedRecordError):
            sample.parse(sample.raw[:at] + bytes([value]) + sample.raw[at + 1 :])


@every_tagged
def test_record_is_no_other_record(sample: records.Sample) -> None:
    for other in records.SAMPLES:
        if other.code != sample.code:
            with pytest.raises(REFUSALS):
                other.parse(sample.raw)


@every_signed
def test_signature_of_another_network_does_not_verify(sample: records.Sample) -> None:
    other_network = sample.tag_at + 8
    signed = sample.parse(flip(sample.raw, 8 * other_network))
    assert not verify(sample.signers[0], signed.body, signed.signatures[0])


@every_signed
def test_digest_does_not_depend_on_signature_bytes(sample: records.Sample) -> None:
    signed = sample.parse(sample.raw)
    assert sample.parse(flip(sample.raw, 0)).digest == signed.digest


def test_type_codes_are_never_given_twice() -> None:
    assert len({int(code) for code in RecordCode}) == len(RecordCode.__members__)


# --- layouts --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    small: int = 1
    short: int = 2
    medium: int = 3
    large: int = 4
    key: bytes = b"kkkk"
    text: str = "né"


ROW = Layout(
    "row",
    [
        ("small", "u8"),
        ("short", "u16"),
        ("medium", "u32"),
        ("large", "u64"),
        ("key", "bytes4"),
        ("text", "text6"),
    ],
)
ROW_BYTES = bytes.fromhex("01 0200 03000000 0400000000000000 6b6b6b6b 6ec3a9000000")


def test_layout_is_little_endian_without_gaps() -> None:
    assert ROW.pack(Row()) == ROW_BYTES
    assert ROW.size == len(ROW_BYTES) == 25
    assert [(offset, field.name) for offset, field in ROW.offsets()] == [
        (0, "small"),
        (1, "short"),
        (3, "medium"),
        (7, "large"),
        (15, "key"),
        (19, "text"),
    ]


@given(
    small=st.integers(0, 2**8 - 1),
    short=st.integers(0, 2**16 - 1),
    medium=st.integers(0, 2**32 - 1),
    large=st.integers(0, 2**63 - 1),
    key=st.binary(min_size=4, max_size=4),
    text=st.text(max_size=6).filter(lambda text: "\0" not in text and len(text.encode()) <= 6),
)
def test_layout_round_trip(
    small: int, short: int, medium: int, large: int, key: bytes, text: str
) -> None:
    row = Row(small=small, short=short, medium=medium, large=large, key=key, text=text)
    assert Row(**ROW.unpack(ROW.pack(row))) == row


@given(st.binary(min_size=25, max_size=25))
def test_any_bytes_of_the_right_size_are_refused_or_canonical(data: bytes) -> None:
    try:
        values = ROW.unpack(data)
    except MalformedRecordError:
        return
    assert ROW.pack(Row(**values)) == data


@pytest.mark.parametrize(
    "row",
    [
        Row(small=256),
        Row(short=65_536),
        Row(medium=2**32),
        Row(large=2**63),
        Row(large=2**64),
        Row(small=-1),
        Row(small=1.0),  # type: ignore[arg-type]
        Row(small="1"),  # type: ignore[arg-type]
        Row(key=b"kkk"),
        Row(key=b"kkkkk"),
        Row(key="kkkk"),  # type: ignore[arg-type]
        Row(text="seven b"),
        Row(text="éééé"),
        Row(text="a\0b"),
        Row(text="a\0"),
        Row(text="\udc80"),
        Row(text=b"bytes"),  # type: ignore[arg-type]
    ],
)
def test_value_that_does_not_fit_is_refused(row: Row) -> None:
    with pytest.raises(MalformedRecordError):
        ROW.pack(row)


@pytest.mark.parametrize(
    ("at", "patch"),
    [
        (7, "0000000000000080"),
        (7, "ffffffffffffffff"),
        (19, "6e0000000001"),
        (19, "006e00000000"),
        (19, "6e006e000000"),
        (19, "ff0000000000"),
        (19, "c0af00000000"),
        (19, "eda080000000"),
        (19, "6e6e6e6e6ec3"),
    ],
)
def test_field_that_is_not_canonical_is_malformed(at: int, patch: str) -> None:
    data = bytes.fromhex(patch)
    with pytest.raises(MalformedRecordError):
        ROW.unpack(ROW_BYTES[:at] + data + ROW_BYTES[at + len(data) :])


def test_numbers_up_to_the_limit_of_int64_parse() -> None:
    row = Row(large=2**63 - 1, text="sixsix")
    assert Row(**ROW.unpack(ROW.pack(row))) == row


def test_text_may_fill_its_field_or_be_empty() -> None:
    for text in ("", "sixsix"):
        assert ROW.unpack(ROW.pack(Row(text=text)))["text"] == text


# --- tags and types -------------------------------------------------------------------------------


def test_network_id_of_another_length_is_refused() -> None:
    for size in (0, 31, 33):
        with pytest.raises(MalformedRecordError):
            format_tag(RecordCode.RECEIPT, bytes(size))


def test_unknown_flag_is_refused_when_printing_and_parsing() -> None:
    with pytest.raises(MalformedRecordError):
        builders.receipt(flags=2)
    with pytest.raises(MalformedRecordError):
        builders.receipt(flags=-1)
    tag = format_tag(RecordCode.RECEIPT, builders.NETWORK_ID, 3)
    assert parse_tag(RecordCode.RECEIPT, tag, 3) == (3, builders.NETWORK_ID)
    with pytest.raises(MalformedRecordError):
        parse_tag(RecordCode.RECEIPT, tag, 1)


def test_dataclass_that_differs_from_its_layout_is_noticed_at_import() -> None:
    with pytest.raises(AssertionError):
        RecordType(Row, RecordCode.CLOCK, [("small", "u8")])


def test_wrong_number_of_seeds_is_a_programming_error() -> None:
    value = builders.receipt().value
    for seeds in ((), (builders.seed_of("viewer"),) * 2):
        with pytest.raises(ValueError, match="seeds"):
            RECEIPT.sign(value, *seeds)


def test_too_few_or_other_keys_do_not_verify() -> None:
    signed = builders.receipt()
    key = builders.key_of("viewer")
    assert RECEIPT.is_signed_by(signed, key)
    RECEIPT.require_signed_by(signed, key)
    for keys in ((), (key, key), (builders.key_of("seeder"),), (bytes(32),)):
        assert not RECEIPT.is_signed_by(signed, *keys)
        with pytest.raises(BadSignatureError):
            RECEIPT.require_signed_by(signed, *keys)


# --- reader ---------------------------------------------------------------------------------------


def test_reader_takes_fields_in_order_and_never_past_the_end() -> None:
    reader = Reader("r", b"\x02\x00\x00\x00hi\x07rest")
    assert reader.counted("name", limit=2) == b"hi"
    assert reader.integer(1, "number") == 7
    with pytest.raises(MalformedRecordError):
        reader.take(5, "too much")
    assert reader.rest() == b"rest"
    reader.finish()


def test_reader_refuses_lengths_over_their_limit_and_left_overs() -> None:
    with pytest.raises(MalformedRecordError):
        Reader("r", format_counted(b"abc")).counted("name", limit=2)
    with pytest.raises(MalformedRecordError):
        Reader("r", (2**63).to_bytes(8, "little")).integer(8, "number")
    with pytest.raises(MalformedRecordError):
        Reader("r", b"x").finish()
