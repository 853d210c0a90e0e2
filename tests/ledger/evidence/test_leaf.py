"""Leaves: what the log tells, which kind a leaf is, and what salts hide."""

import hmac
from hashlib import sha256

import builders
import pytest
import records
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.leaf import (
    ACTIVATION,
    BUNDLE_LEAF,
    PAYOUT_FUNDING,
    PAYOUT_PAYMENTS,
    RESULT_LEAF,
    SEAL_LEAF,
    Payment,
    code_of_leaf,
    commit_to,
    commit_to_salt_key,
    derive_salt,
    format_payout_leaf,
    parse_payout_leaf,
)

LEAVES = [sample for sample in records.SAMPLES if sample.name.startswith("leaf-")]
u32 = st.integers(0, 2**32 - 1)
u63 = st.integers(0, 2**63 - 1)
keys = st.binary(min_size=32, max_size=32)


@given(u32, u32, u63, st.integers(0, 2**16 - 1), keys)
def test_bundle_leaf_round_trip(
    epoch: int, counted: int, total: int, code: int, digest: bytes
) -> None:
    leaf = builders.bundle_leaf(
        epoch=epoch, receipts_counted=counted, bytes_counted=total, code=code, bundle_digest=digest
    )
    assert BUNDLE_LEAF.parse_body(BUNDLE_LEAF.format_body(leaf)) == leaf


@given(u32, u63, u32, keys)
def test_seal_leaf_round_trip(epoch: int, close: int, count: int, root: bytes) -> None:
    leaf = builders.seal_leaf(
        epoch=epoch, last_ledger_close_s=close, fact_count=count, facts_root=root
    )
    assert SEAL_LEAF.parse_body(SEAL_LEAF.format_body(leaf)) == leaf


@given(st.lists(u63, min_size=8, max_size=8), keys)
def test_result_leaf_round_trip(totals: list[int], root: bytes) -> None:
    leaf = builders.result_leaf(
        bytes_p2p_credited=totals[0],
        bytes_cdn_credited=totals[1],
        bytes_uncredited=totals[2],
        charged_stroops=totals[3],
        fee_stroops=totals[4],
        sum_tree_bytes=totals[5],
        sum_tree_stroops=totals[6],
        lane_count=totals[7] % 2**32,
        lane_root=root,
    )
    assert RESULT_LEAF.parse_body(RESULT_LEAF.format_body(leaf)) == leaf


@given(
    st.lists(st.tuples(keys, st.integers(1, 2**63 - 1)), min_size=1, max_size=100),
    st.sampled_from([PAYOUT_FUNDING, PAYOUT_PAYMENTS]),
    u63,
)
def test_payout_leaf_round_trip(
    payments: list[tuple[bytes, int]], kind: int, sequence: int
) -> None:
    leaf = builders.payout_leaf(
        kind=kind,
        channel_sequence=sequence,
        payments=tuple(Payment(account=a, amount_stroops=n) for a, n in payments),
    )
    assert parse_payout_leaf(format_payout_leaf(leaf)) == leaf
    assert leaf.total_stroops == sum(amount for _, amount in payments)


def test_payout_needs_one_to_a_hundred_payments_of_a_known_kind() -> None:
    payment = Payment(account=builders.key_of("seeder account"), amount_stroops=1)
    builders.payout_leaf(payments=(payment,) * 100)
    for payments in ((), (payment,) * 101):
        with pytest.raises(MalformedRecordError, match="payments"):
            builders.payout_leaf(payments=payments)
    for kind in (0, 6):
        with pytest.raises(MalformedRecordError, match="kind"):
            builders.payout_leaf(kind=kind)


def test_payment_of_nothing_is_malformed() -> None:
    with pytest.raises(MalformedRecordError, match="amount"):
        Payment(account=builders.key_of("seeder account"), amount_stroops=0)


def test_payout_counts_that_lie_are_malformed() -> None:
    raw = format_payout_leaf(builders.payout_leaf())
    at = len(raw) - 2 * 40 - 2
    assert raw[at : at + 2] == b"\x02\x00"
    for lie in (0, 1, 3, 100, 101, 65_535):
        with pytest.raises(MalformedRecordError):
            parse_payout_leaf(raw[:at] + lie.to_bytes(2, "little") + raw[at + 2 :])


def test_activation_is_signed_by_the_dao_and_knows_one_kind_of_evidence() -> None:
    signed = builders.activation()
    assert ACTIVATION.is_signed_by(signed, signed.value.dao_key)
    assert not ACTIVATION.is_signed_by(signed, builders.key_of("issuing"))
    for kind in (0, 2):
        with pytest.raises(MalformedRecordError, match="evidence_kind"):
            builders.activation(evidence_kind=kind)


@pytest.mark.parametrize("sample", LEAVES, ids=lambda sample: sample.name)
def test_kind_of_a_leaf_is_read_from_its_tag(sample: records.Sample) -> None:
    assert code_of_leaf(sample.raw) == sample.code


@pytest.mark.parametrize(
    "data",
    [b"", b"SWLG", b"SWLG\x01", bytes(200), builders.receipt().raw, builders.receipt().body,
     builders.activation().body],
    ids=["empty", "magic", "no-type", "zeros", "receipt", "receipt-body", "unsigned-activation"],
)  # fmt: skip
def test_bytes_that_are_no_leaf_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        code_of_leaf(data)


def test_salt_depends_on_key_kind_and_subject() -> None:
    key, subject = bytes(32), b"subject"
    salt = derive_salt(key, RecordCode.LEAF_BUNDLE, subject)
    assert salt == hmac.digest(key, b"\x20subject", "sha256")
    assert commit_to(key, RecordCode.LEAF_BUNDLE, subject) == sha256(salt + subject).digest()
    assert salt != derive_salt(key, RecordCode.LEAF_CORRECTION, subject)
    assert salt != derive_salt(key, RecordCode.LEAF_BUNDLE, b"other")
    assert salt != derive_salt(b"\1" * 32, RecordCode.LEAF_BUNDLE, subject)


def test_commitment_to_the_salt_key_is_no_salt() -> None:
    key = bytes(32)
    assert commit_to_salt_key(key) == sha256(b"swarmledger salt key v1\0" + key).digest()
