"""Bundles: canonical order of their records, their limits, and who must sign."""

from typing import Any

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.evidence.binding import BINDING
from ledger.evidence.bundle import (
    BUNDLE_HEAD,
    BUNDLE_SIZE_MAX,
    RECORDS_MAX,
    Bundle,
    BundleKind,
    format_bundle_body,
    is_signed_by_submitter,
    make_bundle,
    parse_bundle,
    sign_bundle,
)
from ledger.evidence.encoding import TAG_SIZE, Signed
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import sign
from ledger.evidence.receipt import RECEIPT

HEAD_END = 64 + TAG_SIZE + BUNDLE_HEAD.size


def resigned(body: bytes) -> bytes:
    return sign(builders.seed_of("seeder"), body) + body


@settings(max_examples=30)
@given(
    nonces=st.sets(st.integers(0, 50), max_size=6),
    beats=st.sets(st.integers(0, 50), max_size=3),
    kind=st.sampled_from(BundleKind),
    number=st.integers(0, 2**16 - 1),
    epoch=st.integers(0, 2**32 - 1),
)
def test_round_trip(
    nonces: set[int], beats: set[int], kind: BundleKind, number: int, epoch: int
) -> None:
    signed = builders.payee_bundle(
        [builders.receipt(nonce=nonce, epoch=epoch) for nonce in nonces],
        heartbeats=[builders.heartbeat(sequence_number=beat) for beat in beats],
        kind=kind,
        number=number,
        epoch=epoch,
    )
    parsed = parse_bundle(signed.raw)
    assert parsed == signed
    assert parsed.signatures[0] + format_bundle_body(parsed.value) == signed.raw
    assert is_signed_by_submitter(parsed)


@given(st.permutations(range(5)))
def test_order_of_the_lists_given_does_not_matter(order: list[int]) -> None:
    receipts = [builders.receipt(nonce=nonce) for nonce in range(5)]
    bindings = [builders.binding("seeder", serial=serial) for serial in range(5)]
    shuffled = builders.payee_bundle(
        [receipts[place] for place in order], bindings=[bindings[place] for place in order]
    )
    assert shuffled.raw == builders.payee_bundle(receipts, bindings=bindings).raw


def records_of(field: str) -> dict[str, Any]:
    """Two distinct records of one list, in descending order."""
    makers: dict[str, list[Signed[Any]]] = {
        "receipts": [builders.receipt(nonce=nonce) for nonce in range(2)],
        "bindings": [builders.binding("seeder", serial=serial) for serial in range(2)],
        "entitlements": [builders.entitlement(max_bytes=cap) for cap in range(2)],
        "heartbeats": [builders.heartbeat(sequence_number=number) for number in range(2)],
    }
    lists: dict[str, list[Signed[Any]]] = {name: [] for name in makers} | {field: makers[field]}
    bundle = make_bundle(
        network_id=builders.NETWORK_ID,
        submitter_key=builders.key_of("seeder"),
        broadcaster_account=builders.key_of("broadcaster"),
        epoch=builders.EPOCH,
        kind=BundleKind.PAYEE,
        number=0,
        **lists,
    )
    return {
        "network_id": bundle.network_id,
        "submitter_key": bundle.submitter_key,
        "broadcaster_account": bundle.broadcaster_account,
        "epoch": bundle.epoch,
        "kind": bundle.kind,
        "number": bundle.number,
        "bindings": bundle.bindings,
        "entitlements": bundle.entitlements,
        "receipts": bundle.receipts,
        "heartbeats": bundle.heartbeats,
    }


every_list = pytest.mark.parametrize(
    "field", ["receipts", "bindings", "entitlements", "heartbeats"]
)


@every_list
def test_records_out_of_order_or_twice_are_malformed(field: str) -> None:
    values = records_of(field)
    first, second = values[field]
    Bundle(**values)
    for wrong in ((second, first), (first, first)):
        with pytest.raises(MalformedRecordError, match=field):
            Bundle(**values | {field: wrong})


@every_list
def test_records_out_of_order_on_the_wire_are_malformed(field: str) -> None:
    values = records_of(field)
    raw = sign_bundle(Bundle(**values), builders.seed_of("seeder")).raw
    half = HEAD_END + len(values[field][0].raw)
    swapped = raw[64:HEAD_END] + raw[half:] + raw[HEAD_END:half]
    with pytest.raises(MalformedRecordError, match=field):
        parse_bundle(resigned(swapped))


def test_same_receipt_with_another_signature_stands_once() -> None:
    receipt = builders.receipt()
    other = RECEIPT.parse(bytes(64) + receipt.body)
    with pytest.raises(MalformedRecordError, match="receipts"):
        builders.payee_bundle([receipt, other])


@pytest.mark.parametrize("kind", [0, 3])
def test_unknown_kind_is_malformed(kind: int) -> None:
    with pytest.raises(MalformedRecordError, match="kind"):
        builders.payee_bundle([], kind=kind)


@pytest.mark.parametrize("place", range(4))
def test_counts_that_lie_are_malformed(place: int) -> None:
    body = bytearray(builders.payee_bundle([builders.receipt()]).body)
    at = TAG_SIZE + BUNDLE_HEAD.size - 16 + 4 * place
    honest = int.from_bytes(body[at : at + 4], "little")
    for lie in {0, 1, 2, RECORDS_MAX, RECORDS_MAX + 1, 2**32 - 1} - {honest}:
        body[at : at + 4] = lie.to_bytes(4, "little")
        with pytest.raises(MalformedRecordError):
            parse_bundle(resigned(bytes(body)))


def test_more_records_than_allowed_are_refused_before_they_are_read() -> None:
    receipt = builders.receipt()
    many = tuple(
        Signed(receipt.value, receipt.raw, receipt.signatures) for _ in range(RECORDS_MAX + 1)
    )
    with pytest.raises(MalformedRecordError, match=str(RECORDS_MAX)):
        Bundle(**records_of("bindings") | {"receipts": many})


def test_bundle_larger_than_the_limit_is_malformed() -> None:
    with pytest.raises(MalformedRecordError, match="bundle"):
        parse_bundle(bytes(BUNDLE_SIZE_MAX + 1))
    binding = builders.binding("seeder")
    body_size = len(binding.raw) - 128
    bindings = [
        BINDING.parse(bytes(128) + binding.body[: body_size - 8] + number.to_bytes(8, "little"))
        for number in range(RECORDS_MAX)
    ]
    body = builders.receipt().body
    receipts = [
        RECEIPT.parse(bytes(64) + body[:108] + nonce.to_bytes(4, "little") + body[112:])
        for nonce in range(8000)
    ]
    values = records_of("bindings") | {
        "receipts": tuple(sorted(receipts, key=lambda r: (r.value.lane_digest, 1, r.body))),
        "bindings": tuple(sorted(bindings, key=lambda b: b.body)),
    }
    bundle = Bundle(**values)
    with pytest.raises(MalformedRecordError, match="bundle: got '4"):
        format_bundle_body(bundle)
    records = (*bundle.bindings, *bundle.receipts)
    head = builders.payee_bundle([]).body[:TAG_SIZE] + BUNDLE_HEAD.pack(bundle)
    body = head + b"".join(record.raw for record in records)
    with pytest.raises(MalformedRecordError, match="bundle: got '4"):
        parse_bundle(resigned(body))


def test_another_key_than_the_submitters_does_not_sign_it() -> None:
    bundle = builders.payee_bundle([builders.receipt()]).value
    assert is_signed_by_submitter(sign_bundle(bundle, builders.seed_of("seeder")))
    assert not is_signed_by_submitter(sign_bundle(bundle, builders.seed_of("viewer")))


def test_any_flipped_bit_makes_it_malformed_or_unsigned() -> None:
    raw = builders.viewer_bundle([builders.receipt("cdn")]).raw
    for bit in range(0, 8 * len(raw), 3):
        mutated = bytearray(raw)
        mutated[bit // 8] ^= 1 << bit % 8
        try:
            signed = parse_bundle(bytes(mutated))
        except MalformedRecordError:
            continue
        assert not is_signed_by_submitter(signed)


def test_key_names_submitter_broadcaster_epoch_kind_and_number() -> None:
    bundle = builders.payee_bundle([], number=258).value
    parties = builders.key_of("seeder") + builders.key_of("broadcaster")
    assert bundle.key == parties + bytes.fromhex("00000007 0001 0102")
    assert bundle.key != builders.payee_bundle([], number=258, epoch=8).value.key
    assert bundle.key != builders.viewer_bundle([], "seeder", number=258).value.key
