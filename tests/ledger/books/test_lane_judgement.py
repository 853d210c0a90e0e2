"""The judgement over columns gives what the readable one gives, for honest and hostile sets."""

from typing import Any

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_judgement import judge_lanes_slowly

from ledger.books.bundle_check import BundleCheck
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.books.gathering import GatheredChecks, gather_checks
from ledger.books.lane_judgement import ENTITLEMENT_BYTES_MAX, judge_lanes
from ledger.books.lanes import LaneCount, Lanes
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.receipt import Receipt, lane_digest_of

EPOCH = builders.EPOCH
VIEWERS = ("viewer", "viewer 1", "viewer 2")
PAYEES = ("seeder", "seeder 1")
TERMS = builders.terms(
    cdns=tuple(
        sorted(
            (
                builders.cdn(),
                builders.cdn(key=builders.key_of("cdn 1"), account=builders.key_of("cdn account")),
            ),
            key=lambda cdn: cdn.key,
        )
    )
)
ENTITLEMENTS = {viewer: builders.entitlement(viewer) for viewer in VIEWERS}
LANES = [
    lane_digest_of(ENTITLEMENTS[viewer].digest, builders.key_of(payee), epoch, nonce)
    for viewer in VIEWERS
    for payee in PAYEES
    for epoch in (EPOCH - 1, EPOCH)
    for nonce in (0, 1)
]
TOTALS = [0, 100, 200, ENTITLEMENT_BYTES_MAX // 2, ENTITLEMENT_BYTES_MAX, 2**63 - 1]

claims = st.lists(
    st.fixed_dictionaries(
        {
            "viewer": st.sampled_from(VIEWERS),
            "nonce": st.integers(0, 1),
            "sequence": st.integers(1, 3),
            "bytes_total": st.sampled_from(TOTALS),
            "media_ms_total": st.integers(0, 1),
            "code": st.sampled_from([ReceiptCode.COUNTED] * 4 + [ReceiptCode.BAD_SIGNATURE]),
        }
    ),
    min_size=1,
    max_size=6,
)
sends = st.lists(
    st.tuples(
        st.sampled_from(PAYEES),
        st.integers(EPOCH - 1, EPOCH),
        st.sampled_from([BundleCode.ACCEPTED] * 4 + [BundleCode.POISON]),
        claims,
    ),
    max_size=6,
)
counts = st.builds(
    LaneCount, sequence=st.integers(0, 3), bytes_total=st.sampled_from([0, 100, 150, 2**63 - 1])
)


def check_of(bundle: Signed[Bundle], code: BundleCode, codes: list[ReceiptCode]) -> BundleCheck:
    return BundleCheck(
        raw=bundle.raw,
        bundle=bundle,
        code=code,
        receipt_codes=tuple(codes),
        payee_account=builders.key_of("account"),
    )


def checks_of(made: list[tuple[str, int, BundleCode, list[dict[str, Any]]]]) -> list[BundleCheck]:
    checks: list[BundleCheck] = []
    for number, (payee, epoch, code, of_bundle) in enumerate(made):
        signed: dict[bytes, tuple[Signed[Receipt], ReceiptCode]] = {}
        for claim in of_bundle:
            fields = {name: value for name, value in claim.items() if name != "code"}
            receipt = builders.receipt(payee, epoch=epoch, **fields)
            signed[receipt.body] = (receipt, claim["code"])
        bundle = builders.payee_bundle(
            [receipt for receipt, _ in signed.values()],
            payee,
            epoch=epoch,
            number=number,
            entitlements=list(ENTITLEMENTS.values()),
        )
        codes = [
            signed[receipt.body][1] if code == BundleCode.ACCEPTED else ReceiptCode.BUNDLE_REFUSED
            for receipt in bundle.value.receipts
        ]
        checks.append(check_of(bundle, code, codes))
    return checks


@settings(max_examples=100)
@given(
    made=sends,
    void_from=st.dictionaries(
        st.sampled_from([one.digest for one in ENTITLEMENTS.values()]),
        st.integers(EPOCH - 1, EPOCH + 1),
    ),
    counted_before=st.dictionaries(st.sampled_from(LANES), counts),
)
def test_columns_judge_like_objects(
    made: list[tuple[str, int, BundleCode, list[dict[str, Any]]]],
    void_from: dict[bytes, int],
    counted_before: dict[bytes, LaneCount],
) -> None:
    checks = checks_of(made)
    given_facts: dict[str, Any] = {
        "terms": TERMS,
        "void_from": void_from,
        "counted_before": counted_before,
    }
    slow, fast = judge_lanes_slowly(checks, **given_facts), judge_lanes(checks, **given_facts)
    assert fast.codes == slow.codes
    assert tuple(fast.lanes) == slow.lanes
    assert (fast.equivocations, fast.voided) == (slow.equivocations, slow.voided)
    assert fast.bytes_counted == tuple(
        sum(
            receipt.value.bytes_total
            for receipt, code in zip(check.bundle.value.receipts, codes, strict=True)
            if code == ReceiptCode.COUNTED
        )
        for check, codes in zip(checks, slow.codes, strict=True)
        if check.bundle is not None
    )


@settings(max_examples=20)
@given(
    made=st.lists(
        st.tuples(st.sampled_from(["cdn", "cdn 1"]), st.integers(1, 2), st.integers(0, 300)),
        min_size=1,
        max_size=6,
    )
)
def test_receipts_of_several_cdns_in_one_bundle_are_told_apart(
    made: list[tuple[str, int, int]],
) -> None:
    receipts = {
        receipt.body: receipt
        for payee, sequence, total in made
        for receipt in [builders.receipt(payee, sequence=sequence, bytes_total=total)]
    }
    bundle = builders.viewer_bundle(list(receipts.values()))
    checks = [check_of(bundle, BundleCode.ACCEPTED, [ReceiptCode.COUNTED] * len(receipts))]
    slow = judge_lanes_slowly(checks, terms=TERMS, void_from={}, counted_before={})
    fast = judge_lanes(checks, terms=TERMS, void_from={}, counted_before={})
    assert (tuple(fast.lanes), fast.codes) == (slow.lanes, slow.codes)


def test_bundles_are_loaded_again_only_for_receipts_that_share_a_lane() -> None:
    alone = builders.payee_bundle([builders.receipt(nonce=3)], number=0)
    pair = builders.payee_bundle(
        [builders.receipt(sequence=1), builders.receipt(sequence=2, bytes_total=20_000)], number=1
    )
    checks = [
        check_of(bundle, BundleCode.ACCEPTED, [ReceiptCode.COUNTED] * bundle.value.receipt_count)
        for bundle in (alone, pair)
    ]
    loaded: list[int] = []

    def load(index: int) -> BundleCheck:
        loaded.append(index)
        return checks[index]

    gathered = GatheredChecks(load)
    for check in checks:
        gathered.add(check)
    judgement = judge_lanes(gathered, terms=TERMS, void_from={}, counted_before={})
    assert loaded == [1]
    assert sorted(lane.count.bytes_total for lane in judgement.lanes) == [16_384, 20_000]


def test_gathered_bundles_are_a_sequence_of_their_checks() -> None:
    checks = checks_of(
        [
            ("seeder", EPOCH, BundleCode.ACCEPTED, []),
            ("seeder 1", EPOCH, BundleCode.POISON, []),
        ]
    )
    gathered = gather_checks(checks)
    assert gather_checks(gathered) is gathered
    assert list(gathered) == list(gathered[:]) == checks
    assert gathered[-1] == checks[1]
    with pytest.raises(IndexError):
        gathered[2]


def test_lanes_made_of_objects_are_the_same_lanes() -> None:
    receipts = [builders.receipt(nonce=n, bytes_total=100 * n) for n in (1, 2)]
    bundle = builders.payee_bundle(receipts)
    check = check_of(bundle, BundleCode.ACCEPTED, [ReceiptCode.COUNTED] * 2)
    lanes = judge_lanes([check], terms=TERMS, void_from={}, counted_before={}).lanes
    assert Lanes.of(list(lanes)) == lanes == tuple(lanes)
    assert lanes[-1] == lanes[1:][0]
