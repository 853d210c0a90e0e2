"""Receipts: their size, their lane, and the leaves of their credits."""

from hashlib import sha256

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.receipt import FLAG_CDN, RECEIPT, format_credit, lane_digest_of

u32 = st.integers(0, 2**32 - 1)
u63 = st.integers(0, 2**63 - 1)


@given(st.sampled_from([0, FLAG_CDN]), u32, u32, st.integers(1, 2**63 - 1), u63, u63)
def test_round_trip(
    flags: int, epoch: int, nonce: int, sequence: int, total: int, media: int
) -> None:
    signed = builders.receipt(
        flags=flags,
        epoch=epoch,
        nonce=nonce,
        sequence=sequence,
        bytes_total=total,
        media_ms_total=media,
    )
    parsed = RECEIPT.parse(signed.raw)
    assert parsed == signed
    assert parsed.value.is_cdn == bool(flags)


def test_size_is_232_bytes() -> None:
    assert RECEIPT.size == len(builders.receipt().raw) == 232


def test_sequence_starts_at_one() -> None:
    with pytest.raises(MalformedRecordError, match="sequence"):
        builders.receipt(sequence=0)


def test_lane_is_named_by_entitlement_payee_epoch_and_nonce_alone() -> None:
    receipt = builders.receipt()
    entitlement, payee = receipt.value.entitlement_digest, receipt.value.payee_key
    preimage = b"swarmledger lane v1\0" + entitlement + payee + bytes.fromhex("0700000001000000")
    assert receipt.value.lane_digest == sha256(preimage).digest()
    later = builders.receipt(sequence=9, bytes_total=99, media_ms_total=9)
    assert later.value.lane_digest == receipt.value.lane_digest
    lanes = {
        lane_digest_of(entitlement, payee, 7, 1),
        lane_digest_of(payee, entitlement, 7, 1),
        lane_digest_of(entitlement, payee, 8, 1),
        lane_digest_of(entitlement, payee, 7, 2),
        lane_digest_of(entitlement, payee, 1, 7),
    }
    assert len(lanes) == 5


def test_credit_is_44_bytes() -> None:
    credit = format_credit(b"\xaa" * 32, 1, 16_384, 1000)
    assert credit == b"\xaa" * 32 + bytes.fromhex("01000000 00400000 e8030000")


@pytest.mark.parametrize("size", [0, 20, 31, 33])
def test_credit_of_an_id_that_is_not_32_bytes_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="content_id"):
        format_credit(bytes(size), 0, 0, 1)
