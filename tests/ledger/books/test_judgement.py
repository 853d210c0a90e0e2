"""Judgement: one case for every code, and one result whatever the order of arrival."""

from collections.abc import Sequence
from dataclasses import replace

import book_builders
import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.books.judgement import (
    ENTITLEMENT_BYTES_MAX,
    BundleCode,
    Judgement,
    LaneCount,
    ReceiptCode,
    check_bundle,
    codes_root_of,
    format_lane_entry,
    judge_lanes,
    lane_root_of,
)
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.keys import network_id_of
from ledger.evidence.merkle import EMPTY_ROOT, root_hash
from ledger.evidence.receipt import FLAG_CDN, RECEIPT, Receipt

EPOCH = builders.EPOCH
OTHER_NETWORK = network_id_of("another network")


def bundle_code(
    bundle: Signed[Bundle], sealing_epoch: int = EPOCH, **terms_changes: object
) -> BundleCode:
    return check_bundle(bundle.raw, builders.signed_terms(**terms_changes), sealing_epoch).code


def codes_of(bundle: Signed[Bundle]) -> tuple[ReceiptCode, ...]:
    check = check_bundle(bundle.raw, builders.signed_terms(), EPOCH)
    assert check.code == BundleCode.ACCEPTED
    return check.receipt_codes


def judge(
    *bundles: Signed[Bundle],
    sealing_epoch: int = EPOCH,
    void_from: dict[bytes, int] | None = None,
    counted_before: dict[bytes, LaneCount] | None = None,
) -> Judgement:
    terms = builders.signed_terms()
    return judge_lanes(
        book_builders.checks_of(bundles, terms, sealing_epoch),
        terms=terms.value,
        void_from=void_from or {},
        counted_before=counted_before or {},
    )


def judge_receipts(*receipts: Signed[Receipt], **more: dict[bytes, int]) -> Judgement:
    return judge(builders.payee_bundle(receipts), **more)


def totals(judgement: Judgement) -> list[int]:
    return [lane.count.bytes_total for lane in judgement.lanes]


# --- bundles --------------------------------------------------------------------------------------


def test_honest_bundle_is_accepted_with_the_submitters_account() -> None:
    bundle = builders.payee_bundle([builders.receipt()])
    check = check_bundle(bundle.raw, builders.signed_terms(), EPOCH)
    assert check.code == BundleCode.ACCEPTED
    assert check.receipt_codes == (ReceiptCode.COUNTED,)
    assert check.payee_account == builders.key_of("seeder account")
    assert check.bundle == bundle


@pytest.mark.parametrize("raw", [b"", bytes(1000), b"\xff" * 5000])
def test_malformed_bundle(raw: bytes) -> None:
    check = check_bundle(raw, builders.signed_terms(), EPOCH)
    assert (check.code, check.bundle, check.receipt_codes) == (BundleCode.MALFORMED, None, ())


@given(st.integers(0, 8 * 1060 - 1))
def test_hostile_bytes_never_raise(bit: int) -> None:
    raw = bytearray(builders.payee_bundle([builders.receipt()]).raw)
    raw[bit // 8] ^= 1 << bit % 8
    check = check_bundle(bytes(raw), builders.signed_terms(), EPOCH)
    assert check.code != BundleCode.ACCEPTED


def test_bundle_of_another_network() -> None:
    bundle = builders.payee_bundle([builders.receipt()], network_id=OTHER_NETWORK)
    assert bundle_code(bundle) == BundleCode.WRONG_NETWORK


def test_bundle_for_another_broadcaster() -> None:
    bundle = builders.payee_bundle([], broadcaster_account=builders.key_of("other"))
    assert bundle_code(bundle) == BundleCode.WRONG_BROADCASTER


def test_bundle_is_too_late_after_the_correction_window_and_never_from_the_future() -> None:
    bundle = builders.payee_bundle([builders.receipt()])
    codes = [bundle_code(bundle, epoch, correction_epochs=3) for epoch in range(EPOCH - 1, 12)]
    accepted, late = BundleCode.ACCEPTED, BundleCode.TOO_LATE
    assert codes == [late, accepted, accepted, accepted, accepted, late]


def test_bundle_not_signed_by_its_submitter() -> None:
    bundle = builders.payee_bundle([builders.receipt()])
    forged = bytes(64) + bundle.body
    check = check_bundle(forged, builders.signed_terms(), EPOCH)
    assert check.code == BundleCode.BAD_SIGNATURE
    assert check.receipt_codes == (ReceiptCode.BUNDLE_REFUSED,)


def test_receipts_of_a_refused_bundle_do_not_count() -> None:
    forged = check_bundle(
        bytes(64) + builders.payee_bundle([builders.receipt()]).body,
        builders.signed_terms(),
        EPOCH,
    )
    judgement = judge_lanes([forged], terms=builders.terms(), void_from={}, counted_before={})
    assert judgement.codes == ((ReceiptCode.BUNDLE_REFUSED,),)
    assert judgement.lanes == ()


def test_bundle_set_aside_as_poison_counts_nothing() -> None:
    bundle = builders.payee_bundle([builders.receipt()])
    check = check_bundle(bundle.raw, builders.signed_terms(), EPOCH)
    poison = replace(check, code=BundleCode.POISON)
    judgement = judge_lanes([poison], terms=builders.terms(), void_from={}, counted_before={})
    assert judgement.lanes == ()


# --- receipts of a payee bundle -------------------------------------------------------------------


def test_receipt_of_another_network() -> None:
    bundle = builders.payee_bundle([builders.receipt(network_id=OTHER_NETWORK)])
    assert codes_of(bundle) == (ReceiptCode.WRONG_NETWORK,)


def test_receipt_of_another_epoch_than_its_bundle() -> None:
    bundle = builders.payee_bundle([builders.receipt(epoch=EPOCH - 1)])
    assert codes_of(bundle) == (ReceiptCode.WRONG_EPOCH,)


def test_receipt_for_another_payee_than_the_submitter() -> None:
    bundle = builders.payee_bundle([builders.receipt("other seeder")])
    assert codes_of(bundle) == (ReceiptCode.WRONG_PAYEE,)


def test_receipt_of_a_cdn_has_no_place_in_a_payee_bundle() -> None:
    bundle = builders.payee_bundle([builders.receipt(flags=FLAG_CDN)])
    assert codes_of(bundle) == (ReceiptCode.WRONG_PAYEE,)


@pytest.mark.parametrize(
    "bindings",
    [
        [],
        [builders.binding("other seeder")],
        [builders.binding("seeder", role=Role.ISSUING)],
        [builders.binding("seeder", network_id=OTHER_NETWORK)],
        [builders.binding("seeder", last_epoch=EPOCH - 1)],
        [builders.binding("seeder", first_epoch=EPOCH + 1)],
        [
            BINDING.sign(
                builders.binding("seeder").value,
                builders.seed_of("viewer"),
                builders.seed_of("seeder"),
            )
        ],
        [
            BINDING.sign(
                builders.binding("seeder").value,
                builders.seed_of("seeder account"),
                builders.seed_of("viewer"),
            )
        ],
    ],
    ids=["none", "other", "role", "network", "over", "not-yet", "account-unsigned", "key-unsigned"],
)
def test_payee_without_a_valid_binding(bindings: list[Signed[Binding]]) -> None:
    bundle = builders.payee_bundle([builders.receipt()], bindings=bindings)
    assert codes_of(bundle) == (ReceiptCode.UNBOUND_PAYEE,)


def test_newer_binding_revokes_an_older_one_and_a_forged_one_does_not() -> None:
    older = builders.binding("seeder", serial=1)
    revoked = builders.binding("seeder", serial=2, last_epoch=EPOCH - 1)
    moved = builders.binding("seeder", "new account", serial=3)
    forged = BINDING.parse(bytes(128) + builders.binding("seeder", "thief", serial=9).body)

    def account(*bindings: Signed[Binding]) -> bytes:
        bundle = builders.payee_bundle([], bindings=bindings)
        return check_bundle(bundle.raw, builders.signed_terms(), EPOCH).payee_account

    assert account(older) == builders.key_of("seeder account")
    assert account(older, revoked) == bytes(32)
    assert account(older, revoked, moved) == builders.key_of("new account")
    assert account(older, forged) == builders.key_of("seeder account")


def test_newer_binding_of_another_role_revokes_nothing() -> None:
    bindings = [builders.binding("seeder"), builders.binding("seeder", serial=2, role=Role.ISSUING)]
    bundle = builders.payee_bundle([builders.receipt()], bindings=bindings)
    assert codes_of(bundle) == (ReceiptCode.COUNTED,)


def test_session_key_is_not_its_own_payee() -> None:
    receipt = builders.receipt("viewer", "viewer")
    bundle = builders.payee_bundle([receipt], "viewer")
    assert codes_of(bundle) == (ReceiptCode.OWN_PAYEE,)


def test_receipt_without_its_entitlement() -> None:
    bundle = builders.payee_bundle([builders.receipt()], entitlements=[])
    assert codes_of(bundle) == (ReceiptCode.UNKNOWN_ENTITLEMENT,)


@pytest.mark.parametrize(
    "changes",
    [
        {"network_id": OTHER_NETWORK},
        {"broadcaster_account": builders.key_of("other")},
        {"payer_account": builders.key_of("other")},
        {"terms_digest": builders.digest_of("other terms")},
        {"issuing_key": builders.key_of("other")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_entitlement_for_something_else(changes: dict[str, bytes]) -> None:
    under = builders.entitlement(**changes)
    bundle = builders.payee_bundle([builders.receipt(under=under)], entitlements=[under])
    assert codes_of(bundle) == (ReceiptCode.BAD_ENTITLEMENT,)


@pytest.mark.parametrize("signer", ["viewer", "seeder", "broadcaster"])
def test_entitlement_not_signed_by_the_issuing_key(signer: str) -> None:
    under = ENTITLEMENT.sign(builders.entitlement().value, builders.seed_of(signer))
    bundle = builders.payee_bundle([builders.receipt(under=under)], entitlements=[under])
    assert codes_of(bundle) == (ReceiptCode.BAD_ENTITLEMENT,)


def test_entitlement_must_meet_the_epoch() -> None:
    terms = builders.terms()
    start, end = terms.epoch_start_s(EPOCH), terms.epoch_end_s(EPOCH)
    codes = []
    for first, last in ((0, start - 1), (0, start), (end - 1, end + 9), (end, end + 9)):
        under = builders.entitlement(not_before_s=first, not_after_s=last)
        bundle = builders.payee_bundle([builders.receipt(under=under)], entitlements=[under])
        codes.extend(codes_of(bundle))
    invalid, counted = ReceiptCode.ENTITLEMENT_NOT_VALID, ReceiptCode.COUNTED
    assert codes == [invalid, counted, counted, invalid]


def test_receipt_not_signed_by_the_session_key() -> None:
    value = builders.receipt().value
    for signed in (
        RECEIPT.sign(value, builders.seed_of("seeder")),
        RECEIPT.parse(bytes(64) + builders.receipt().body),
    ):
        assert codes_of(builders.payee_bundle([signed])) == (ReceiptCode.BAD_SIGNATURE,)


def test_each_receipt_is_judged_alone() -> None:
    good, bad = builders.receipt(nonce=1), builders.receipt(nonce=2, epoch=EPOCH - 1)
    bundle = builders.payee_bundle([good, bad])
    codes = dict(zip(bundle.value.receipts, codes_of(bundle), strict=True))
    assert codes == {good: ReceiptCode.COUNTED, bad: ReceiptCode.WRONG_EPOCH}


# --- receipts of a viewer bundle ------------------------------------------------------------------


def test_cdn_receipt_counts_without_a_binding() -> None:
    judgement = judge(builders.viewer_bundle([builders.receipt("cdn")]))
    (lane,) = judgement.lanes
    assert judgement.codes == ((ReceiptCode.COUNTED,),)
    assert (lane.is_cdn, lane.payee_account) == (True, bytes(32))


def test_lane_of_a_cdn_with_an_account_earns_for_it() -> None:
    account = builders.key_of("cdn account")
    terms = builders.signed_terms(cdns=(builders.cdn(account=account, price_stroops=1),))
    under = builders.entitlement(terms_digest=terms.digest)
    bundle = builders.viewer_bundle([builders.receipt("cdn", under=under)], entitlements=[under])
    (lane,) = judge_lanes(
        book_builders.checks_of([bundle], terms, EPOCH),
        terms=terms.value,
        void_from={},
        counted_before={},
    ).lanes
    assert lane.payee_account == account


@pytest.mark.parametrize(
    "receipt",
    [
        builders.receipt("cdn unknown"),
        builders.receipt("cdn", flags=0),
        builders.receipt("seeder"),
        builders.receipt("seeder", flags=FLAG_CDN),
    ],
    ids=["unknown-cdn", "unflagged", "peer", "peer-as-cdn"],
)
def test_viewer_bundle_holds_receipts_of_known_cdns_only(receipt: Signed[Receipt]) -> None:
    assert codes_of(builders.viewer_bundle([receipt])) == (ReceiptCode.WRONG_PAYEE,)


def test_viewer_cannot_bring_the_receipts_of_another_session() -> None:
    under = builders.entitlement("other viewer")
    receipt = builders.receipt("cdn", "other viewer", under=under)
    bundle = builders.viewer_bundle([receipt], entitlements=[under])
    assert codes_of(bundle) == (ReceiptCode.WRONG_SESSION,)


# --- lanes ----------------------------------------------------------------------------------------


def test_highest_sequence_counts_and_replaces_the_others() -> None:
    receipts = [builders.receipt(sequence=n, bytes_total=100 * n) for n in (1, 2, 3)]
    judgement = judge_receipts(*receipts)
    assert judgement.codes == ((ReceiptCode.SUPERSEDED,) * 2 + (ReceiptCode.COUNTED,),)
    assert totals(judgement) == [300]
    assert judgement.equivocations == ()


def test_lanes_of_other_nonces_add_up() -> None:
    receipts = [builders.receipt(nonce=n, bytes_total=100 + n) for n in (1, 2)]
    judgement = judge_receipts(*receipts)
    assert sorted(totals(judgement)) == [101, 102]
    digests = [lane.lane_digest for lane in judgement.lanes]
    assert digests == sorted(digests)


def test_same_receipt_in_two_bundles_counts_once() -> None:
    receipt = builders.receipt()
    judgement = judge(
        builders.payee_bundle([receipt], number=0), builders.payee_bundle([receipt], number=1)
    )
    assert judgement.codes == ((ReceiptCode.COUNTED,), (ReceiptCode.DUPLICATE,))
    assert totals(judgement) == [16_384]


def test_receipt_signed_anew_is_the_same_receipt() -> None:
    """Deduplication is by the body; signature bytes can be made at will by the signer."""
    receipt = builders.receipt()
    judgement = judge(
        builders.payee_bundle([receipt], number=0),
        builders.payee_bundle([RECEIPT.parse(bytes(64) + receipt.body)], number=1),
    )
    assert judgement.codes == ((ReceiptCode.COUNTED,), (ReceiptCode.BAD_SIGNATURE,))
    assert judgement.equivocations == ()


EQUIVOCATIONS = {
    "same sequence, other bytes": ((1, 500, 0), (1, 400, 0), 400),
    "same sequence, other media": ((1, 500, 5), (1, 500, 6), 500),
    "higher sequence, lower bytes": ((1, 500, 0), (2, 400, 0), 400),
    "higher sequence, lower media": ((1, 500, 9), (2, 600, 8), 500),
}


@pytest.mark.parametrize(
    ("first", "second", "counts"), EQUIVOCATIONS.values(), ids=EQUIVOCATIONS.keys()
)
def test_equivocation_counts_the_smaller_total_and_is_kept_as_evidence(
    first: tuple[int, int, int], second: tuple[int, int, int], counts: int
) -> None:
    pair = [
        builders.receipt(sequence=sequence, bytes_total=total, media_ms_total=media)
        for sequence, total, media in (first, second)
    ]
    judgement = judge(
        *(builders.payee_bundle([receipt], number=n) for n, receipt in enumerate(pair))
    )
    assert totals(judgement) == [counts]
    codes = sorted(code for row in judgement.codes for code in row)
    assert codes == [ReceiptCode.COUNTED, ReceiptCode.EQUIVOCATION]
    ((kept_first, kept_second),) = judgement.equivocations
    assert {kept_first, kept_second} == {receipt.raw for receipt in pair}
    assert judgement.voided == ((builders.entitlement().digest, EPOCH + 1),)


def test_entitlement_is_void_from_after_its_earliest_equivocation() -> None:
    bundles = [
        builders.payee_bundle(
            [builders.receipt(epoch=epoch, bytes_total=total) for total in (1, 2)], epoch=epoch
        )
        for epoch in (EPOCH, EPOCH - 2, EPOCH - 1)
    ]
    assert judge(*bundles).voided == ((builders.entitlement().digest, EPOCH - 1),)


def test_other_credit_root_at_the_same_sequence_is_equivocation() -> None:
    judgement = judge_receipts(builders.receipt(), builders.receipt(credit_root=bytes(32)))
    assert len(judgement.equivocations) == 1


def test_contradiction_below_an_honest_end_still_counts_the_smaller() -> None:
    judgement = judge_receipts(
        builders.receipt(sequence=1, bytes_total=100),
        builders.receipt(sequence=2, bytes_total=300),
        builders.receipt(sequence=3, bytes_total=200),
        builders.receipt(sequence=4, bytes_total=400),
    )
    assert totals(judgement) == [200]


def test_equal_totals_at_a_higher_sequence_are_honest() -> None:
    judgement = judge_receipts(builders.receipt(sequence=1), builders.receipt(sequence=2))
    assert judgement.equivocations == ()
    assert totals(judgement) == [16_384]


def test_void_entitlement_counts_no_more_from_its_epoch_on() -> None:
    digest = builders.entitlement().digest
    for first_epoch, code in (
        (EPOCH - 1, ReceiptCode.ENTITLEMENT_VOID),
        (EPOCH, ReceiptCode.ENTITLEMENT_VOID),
        (EPOCH + 1, ReceiptCode.COUNTED),
    ):
        judgement = judge_receipts(builders.receipt(), void_from={digest: first_epoch})
        assert judgement.codes == ((code,),)
        assert len(judgement.lanes) == (code == ReceiptCode.COUNTED)


def test_absurd_totals_of_one_entitlement_are_refused_and_leave_others_alone() -> None:
    """Σ of the epoch must fit its fields whatever two colluding keys sign."""
    honest = builders.entitlement("honest viewer")
    receipts = [builders.receipt(nonce=n, bytes_total=ENTITLEMENT_BYTES_MAX) for n in range(3)]
    receipts.append(builders.receipt("seeder", "honest viewer", under=honest, bytes_total=5))
    receipts.append(builders.receipt(nonce=9, bytes_total=2**63 - 1))
    bundle = builders.payee_bundle(receipts, entitlements=[builders.entitlement(), honest])
    judgement = judge(bundle)
    assert sorted(judgement.codes[0]) == [ReceiptCode.COUNTED] * 2 + [ReceiptCode.TOO_MUCH] * 3
    assert sorted(totals(judgement)) == [5, ENTITLEMENT_BYTES_MAX]


def test_entitlement_that_ends_beyond_every_epoch_number_is_judged() -> None:
    under = builders.entitlement(not_after_s=2**63 - 1)
    receipt = builders.receipt(under=under)
    (lane,) = judge(builders.payee_bundle([receipt], entitlements=[under])).lanes
    assert lane.entitlement_last_epoch == 2**32 - 1


# --- corrections ----------------------------------------------------------------------------------


def correct(before: LaneCount, *receipts: Signed[Receipt]) -> Judgement:
    lane = builders.receipt().value.lane_digest
    return judge(
        builders.payee_bundle(receipts), sealing_epoch=EPOCH + 1, counted_before={lane: before}
    )


def test_late_receipt_pays_new_minus_counted() -> None:
    judgement = correct(
        LaneCount(sequence=1, bytes_total=100), builders.receipt(sequence=2, bytes_total=350)
    )
    (lane,) = judgement.lanes
    assert (lane.bytes_before, lane.bytes_new, lane.count.bytes_total) == (100, 250, 350)


@pytest.mark.parametrize(("sequence", "total"), [(3, 100), (3, 900), (2, 900), (1, 50), (4, 99)])
def test_late_receipt_that_is_not_beyond_what_counted_changes_nothing(
    sequence: int, total: int
) -> None:
    receipt = builders.receipt(sequence=sequence, bytes_total=total)
    judgement = correct(LaneCount(sequence=3, bytes_total=100), receipt)
    assert judgement.codes == ((ReceiptCode.SUPERSEDED,),)
    assert judgement.lanes == ()


# --- order of arrival -----------------------------------------------------------------------------

receipts_of_a_lane = st.lists(
    st.tuples(
        st.integers(1, 2), st.integers(1, 4), st.sampled_from([100, 200, 300]), st.integers(0, 1)
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40)
@given(claims=receipts_of_a_lane, data=st.data())
def test_order_of_arrival_never_matters(
    claims: Sequence[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    bundles = [
        builders.payee_bundle(
            [builders.receipt(nonce=n, sequence=s, bytes_total=b, media_ms_total=m)], number=number
        )
        for number, (n, s, b, m) in enumerate(claims)
    ]
    judgement = judge(*bundles)
    assert judge(*data.draw(st.permutations(bundles))) == judgement
    # Every receipt has one final code, and a lane counts at most one receipt.
    codes = [code for row in judgement.codes for code in row]
    assert codes.count(ReceiptCode.COUNTED) == len(judgement.lanes) == len({c[0] for c in claims})
    for lane in judgement.lanes:
        assert lane.bytes_before == 0
    honest = not judgement.equivocations
    assert honest == (judgement.voided == ())
    if honest:
        best = {n: max(b for m, _, b, _ in claims if m == n) for n in {c[0] for c in claims}}
        assert sorted(totals(judgement)) == sorted(best.values())


@settings(max_examples=40)
@given(claims=receipts_of_a_lane, numbers=st.lists(st.integers(0, 7), min_size=8, max_size=8))
def test_how_receipts_are_spread_over_bundles_never_matters_to_lanes(
    claims: Sequence[tuple[int, int, int, int]], numbers: list[int]
) -> None:
    receipts = list(
        {
            receipt.body: receipt
            for n, s, b, m in claims
            for receipt in [builders.receipt(nonce=n, sequence=s, bytes_total=b, media_ms_total=m)]
        }.values()
    )
    spread: dict[int, list[Signed[Receipt]]] = {}
    for receipt, number in zip(receipts, numbers, strict=False):
        spread.setdefault(number, []).append(receipt)
    together = judge(builders.payee_bundle(receipts))
    apart = judge(*(builders.payee_bundle(part, number=number) for number, part in spread.items()))
    assert apart.lanes == together.lanes
    assert apart.equivocations == together.equivocations
    assert apart.voided == together.voided


# --- roots ----------------------------------------------------------------------------------------


def test_roots_are_over_canonical_entries() -> None:
    judgement = judge_receipts(builders.receipt(nonce=1), builders.receipt(nonce=2))
    entries = [format_lane_entry(lane.lane_digest, lane.count) for lane in judgement.lanes]
    assert lane_root_of(judgement.lanes) == root_hash(entries)
    assert entries[0][32:] == bytes.fromhex("0100000000000000 0040000000000000")
    assert lane_root_of([]) == codes_root_of([]) == EMPTY_ROOT
    assert codes_root_of([0, 300]) == root_hash([b"\0\0", b"\x2c\x01"])
