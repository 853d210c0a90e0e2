"""The epoch: leaves in their order, corrections, caps over time, and views that must agree."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import book_builders as books
import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.books import epoch as epoch_module
from ledger.books.epoch import Result, Seal, bundle_order, seal_epoch
from ledger.books.errors import ConservationError, UnknownTransactionError
from ledger.books.judgement import BundleCode, LaneCount, ReceiptCode, check_bundle
from ledger.books.state import State, format_state, parse_state, state_root
from ledger.books.transactions import format_fact
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.leaf import (
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    RESULT_LEAF,
    SEAL_LEAF,
    code_of_leaf,
    commit_to,
    commit_to_salt_key,
    parse_payout_leaf,
)
from ledger.evidence.merkle import EMPTY_ROOT, root_hash
from ledger.evidence.units import STROOPS_PER_TOKEN, charge_for

GIB = 1 << 30
SEEDER = builders.key_of("seeder account")


def run(opening: State, bundles: Sequence[Signed[Bundle]] = (), **more: Any) -> tuple[Seal, Result]:
    return books.run_epoch(books.epoch_inputs(opening, bundles, **more))


def funded(amount: int = 10**12) -> State:
    """A state after an epoch with channels and a deposit; opens epoch 1."""
    return run(books.genesis(), transactions=[*books.channel_creations(), books.deposit(amount)])[
        1
    ].closing


def traffic(epoch: int, total: int = GIB, **changes: Any) -> Signed[Bundle]:
    number = changes.pop("number", 0)
    receipt = builders.receipt(epoch=epoch, bytes_total=total, **changes)
    return builders.payee_bundle([receipt], epoch=epoch, number=number)


# --- money ----------------------------------------------------------------------------------------


def test_worked_example_300_gb_cost_three_tokens() -> None:
    """Unit 1 MiB, one token pays 102,400 units, fee 10 % from the payee."""
    _, result = run(funded(), [traffic(1, 300 * 1024 << 20)])
    head = result.closing.head
    assert head.charged_stroops == 3 * STROOPS_PER_TOKEN
    assert head.fees_stroops == 3 * STROOPS_PER_TOKEN // 10
    assert result.closing.payees[SEEDER].accrued_stroops == 27 * STROOPS_PER_TOKEN // 10
    funding, payments = result.payouts
    assert funding.total_stroops == payments.total_stroops == 27_000_000
    leaf = result.result_leaf
    assert (leaf.charged_stroops, leaf.fee_stroops) == (30_000_000, 3_000_000)
    assert (leaf.bytes_p2p_credited, leaf.sum_tree_bytes) == (300 * GIB, 300 * GIB)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 3 * GIB), min_size=1, max_size=5))
def test_sum_never_depends_on_how_time_is_cut(parts: list[int]) -> None:
    state = funded()
    for part in parts:
        epoch = state.head.next_epoch
        state = run(state, [traffic(epoch, part)])[1].closing
    _, whole = run(funded(), [traffic(1, sum(parts))])
    assert state.cumulative == whole.closing.cumulative
    assert state.head.charged_stroops == whole.closing.head.charged_stroops
    assert state.head.fees_stroops == whole.closing.head.fees_stroops
    accrued = {account: x.accrued_stroops for account, x in state.payees.items()}
    assert accrued == {a: x.accrued_stroops for a, x in whole.closing.payees.items()}


def test_entitlement_without_receipts_pays_nothing() -> None:
    _, result = run(funded(), [builders.payee_bundle([], epoch=1)])
    assert result.closing.head.charged_stroops == 0
    assert result.lines == ()
    assert result.payouts == ()


def test_cap_of_an_entitlement_holds_over_epochs_and_payees() -> None:
    under = builders.entitlement(max_bytes=100)

    def bundle(epoch: int, payee: str, total: int) -> Signed[Bundle]:
        receipt = builders.receipt(payee, under=under, epoch=epoch, bytes_total=total)
        return builders.payee_bundle([receipt], payee, entitlements=[under], epoch=epoch)

    _, first = run(funded(), [bundle(1, "seeder", 60)])
    _, second = run(first.closing, [bundle(2, "seeder", 30), bundle(2, "other", 30)])
    _, third = run(second.closing, [bundle(3, "other", 5)])
    credited = [r.result_leaf.bytes_p2p_credited for r in (first, second, third)]
    uncredited = [r.result_leaf.bytes_uncredited for r in (first, second, third)]
    assert (credited, uncredited) == ([60, 40, 0], [0, 20, 5])
    assert third.closing.cap_use[under.digest].credited_bytes == 100


def test_receipts_beyond_the_deposit_are_refused_and_count_once_it_is_there() -> None:
    bundle = traffic(1)
    seal, result = run(funded(amount=10), [bundle])
    assert seal.judgement.codes == ((ReceiptCode.NOT_COVERED,),)
    assert (result.closing.unspent_stroops, result.closing.carried_stroops) == (10, 0)
    assert result.payouts == ()
    _, later = run(result.closing, [bundle], transactions=[books.deposit(10**9, 2500)])
    assert later.payouts[-1].total_stroops == 90_000


def test_statement_line_of_a_payee_that_was_only_paid() -> None:
    _, first = run(funded(), [traffic(1)])
    decisions = [books.decision(leaf, 2100 + n) for n, leaf in enumerate(first.payouts)]
    _, second = run(first.closing, transactions=decisions)
    (line,) = second.lines
    assert (line.opening_stroops, line.paid_stroops, line.closing_stroops) == (90_000, 90_000, 0)
    assert second.sum_root.total_bytes == 0


def test_cdn_bytes_stand_on_a_line_of_their_key_though_nothing_is_charged() -> None:
    bundle = builders.viewer_bundle([builders.receipt("cdn", epoch=1)], epoch=1)
    _, result = run(funded(), [bundle])
    (line,) = result.lines
    assert (line.subject, line.bytes_cdn, line.charge_stroops) == (
        builders.key_of("cdn"), 16_384, 0,
    )  # fmt: skip
    assert result.result_leaf.bytes_cdn_credited == 16_384


# --- leaves ---------------------------------------------------------------------------------------


def busy_epoch() -> tuple[Seal, Result]:
    """Activation, two bundles, a correction, a payout; epoch 2 after traffic in epoch 1."""
    seal, first = run(funded(), [traffic(1)])
    (lane,) = seal.judgement.lanes
    bundles = [traffic(2, number=1), traffic(1, 2 * GIB, sequence=2, number=2)]
    return run(
        first.closing,
        bundles,
        activations=(builders.activation(first_epoch=2),),
        counted_before={lane.lane_digest: lane.count},
    )


def test_leaves_stand_in_the_one_defined_order() -> None:
    seal, result = busy_epoch()
    assert [code_of_leaf(leaf) for leaf in (*seal.leaves, *result.leaves)] == [
        RecordCode.LEAF_ACTIVATION,
        RecordCode.LEAF_BUNDLE,
        RecordCode.LEAF_BUNDLE,
        RecordCode.LEAF_CORRECTION,
        RecordCode.LEAF_SEAL,
        RecordCode.LEAF_RESULT,
        RecordCode.LEAF_PAYOUT,
        RecordCode.LEAF_PAYOUT,
    ]
    epochs = [BUNDLE_LEAF.parse_body(leaf).epoch for leaf in seal.leaves[1:3]]
    assert epochs == [1, 2]
    assert tuple(parse_payout_leaf(leaf) for leaf in result.leaves[1:]) == result.payouts


def test_leaves_name_no_viewer_and_no_session_key() -> None:
    seal, result = busy_epoch()
    hidden = [builders.key_of(name) for name in ("viewer", "seeder")]
    hidden += [builders.entitlement().digest, builders.digest_of("content")]
    hidden += [lane.lane_digest for lane in seal.judgement.lanes]
    for leaf in (*seal.leaves, *result.leaves):
        assert not any(secret in leaf for secret in hidden)
    for leaf in (*seal.leaves, result.leaves[0]):
        assert SEEDER not in leaf


def test_bundle_leaf_states_codes_counts_and_the_committed_submitter() -> None:
    receipts = [builders.receipt(epoch=1, nonce=n, bytes_total=10 * n) for n in (1, 2)]
    bad = builders.receipt(epoch=1, nonce=3, flags=1)
    inputs = books.epoch_inputs(funded(), [builders.payee_bundle([*receipts, bad], epoch=1)])
    leaf = BUNDLE_LEAF.parse_body(seal_epoch(inputs).leaves[0])
    (codes,) = seal_epoch(inputs).judgement.codes
    assert (leaf.code, leaf.receipts_counted, leaf.receipts_refused) == (0, 2, 1)
    assert leaf.bytes_counted == 30
    assert leaf.codes_root == root_hash([int(code).to_bytes(2, "little") for code in codes])
    assert leaf.submitter_commitment == commit_to(
        inputs.salt_key, RecordCode.LEAF_BUNDLE, builders.key_of("seeder")
    )


def test_refused_bundle_stands_in_the_log_with_its_code() -> None:
    forged = bytes(64) + traffic(1).body
    check = check_bundle(forged, builders.signed_terms(), 1)
    inputs = books.epoch_inputs(funded(), checks=(check,))
    seal, result = books.run_epoch(inputs)
    leaf = BUNDLE_LEAF.parse_body(seal.leaves[0])
    assert (leaf.code, leaf.receipts_counted) == (BundleCode.BAD_SIGNATURE, 0)
    assert leaf.receipts_refused == 1
    assert result.closing.head.charged_stroops == 0


def test_seal_leaf_fixes_every_input() -> None:
    transactions = [books.deposit(5, 1500), books.deposit(6, 1501)]
    inputs = books.epoch_inputs(funded(), [traffic(1)], transactions)
    leaf = SEAL_LEAF.parse_body(seal_epoch(inputs).leaves[-1])
    assert leaf.opening_state_root == state_root(inputs.opening)
    assert leaf.facts_root == root_hash([format_fact(fact) for fact in inputs.facts])
    assert (leaf.fact_count, leaf.bundle_count, leaf.correction_count) == (2, 1, 0)
    assert (leaf.terms_digest, leaf.rules_digest) == (inputs.terms.digest, inputs.rule.digest)
    assert leaf.salt_key_commitment == commit_to_salt_key(inputs.salt_key)
    assert (leaf.last_ledger_sequence, leaf.epoch) == (inputs.last_ledger_sequence, 1)


def test_result_leaf_closes_the_state_that_opens_the_next_epoch() -> None:
    _, first = run(funded(), [traffic(1)])
    seal, _ = run(first.closing)
    assert RESULT_LEAF.parse_body(first.leaves[0]).closing_state_root == (
        SEAL_LEAF.parse_body(seal.leaves[-1]).opening_state_root
    )


def test_empty_epoch_is_sealed_too() -> None:
    seal, result = run(books.genesis())
    assert len(seal.leaves) == len(result.leaves) == 1
    leaf = result.result_leaf
    assert (leaf.lane_count, leaf.lane_root, leaf.payout_count) == (0, EMPTY_ROOT, 0)
    assert result.closing == replace(
        books.genesis(),
        head=replace(
            books.genesis().head,
            next_epoch=1,
            last_ledger_sequence=1000,
            last_ledger_close_s=builders.GENESIS_S + 14,
        ),
    )


def test_rebuild_gives_the_same_bytes() -> None:
    assert busy_epoch() == busy_epoch()


@given(st.permutations(range(4)))
@settings(max_examples=10)
def test_order_of_arrival_gives_the_same_leaves(order: list[int]) -> None:
    bundles = [traffic(1, 100 + n, number=n, nonce=n % 2, sequence=1 + n) for n in range(4)]
    straight = run(funded(), bundles)
    shuffled = run(funded(), [bundles[place] for place in order])
    assert shuffled[0].leaves == straight[0].leaves
    assert shuffled[1].leaves == straight[1].leaves


def test_inputs_out_of_order_are_a_programming_error() -> None:
    bundles = [traffic(1, number=n) for n in range(2)]
    inputs = books.epoch_inputs(funded(), bundles, [books.deposit(1, 10), books.deposit(2, 11)])
    for wrong in (
        replace(inputs, checks=inputs.checks[::-1]),
        replace(inputs, facts=inputs.facts[::-1]),
        replace(inputs, facts=(inputs.facts[0],) * 2),
        replace(inputs, facts=inputs.facts[:1]),
    ):
        with pytest.raises(ValueError, match="order"):
            seal_epoch(wrong)


def test_bundle_that_does_not_parse_has_no_place_in_a_seal() -> None:
    with pytest.raises(ValueError, match="framed"):
        bundle_order(check_bundle(b"", builders.signed_terms(), 1))


def test_transaction_that_nobody_planned_stops_the_epoch() -> None:
    stolen = books.applied("escrow", books.movement("escrow", "thief", 1))
    with pytest.raises(UnknownTransactionError):
        run(funded(), transactions=[stolen])


def test_claims_near_the_limit_of_the_fields_do_not_stop_the_epoch() -> None:
    receipts = [builders.receipt(epoch=1, nonce=n, bytes_total=2**63 - 1) for n in range(3)]
    _, result = run(funded(), [builders.payee_bundle(receipts, epoch=1)])
    assert result.result_leaf.bytes_p2p_credited == 0


def test_entitlement_that_ends_in_the_far_future_does_not_stop_the_epoch() -> None:
    under = builders.entitlement(not_after_s=2**63 - 1)
    receipt = builders.receipt(under=under, epoch=1)
    bundle = builders.payee_bundle([receipt], entitlements=[under], epoch=1)
    _, result = run(funded(), [bundle])
    assert parse_state(format_state(result.closing)) == result.closing


# --- corrections and equivocation -----------------------------------------------------------------


def test_late_receipt_corrects_its_sealed_lane_and_a_later_one_corrects_again() -> None:
    seal, first = run(funded(), [traffic(1)])
    (lane,) = seal.judgement.lanes
    counted = {lane.lane_digest: lane.count}
    late = traffic(1, 3 * GIB, sequence=2, number=1)
    seal, second = run(first.closing, [late], counted_before=counted)
    leaf = CORRECTION_LEAF.parse_body(seal.leaves[1])
    assert (leaf.epoch, leaf.sealing_epoch) == (1, 2)
    assert (leaf.bytes_before, leaf.bytes_after) == (GIB, 3 * GIB)
    assert second.result_leaf.bytes_p2p_credited == 2 * GIB
    # The state now knows the newer count; evidence of the first seal is no longer the newest.
    later = traffic(1, 4 * GIB, sequence=3, number=2)
    seal, third = run(second.closing, [later], counted_before=counted)
    assert CORRECTION_LEAF.parse_body(seal.leaves[1]).bytes_before == 3 * GIB
    assert third.result_leaf.bytes_p2p_credited == GIB
    assert third.closing.head.charged_stroops == charge_for(10_000_000, 102_400 << 20, 4 * GIB)


def test_late_receipt_of_a_lane_never_seen_counts_whole() -> None:
    seal, result = run(run(funded())[1].closing, [traffic(1)])
    leaf = CORRECTION_LEAF.parse_body(seal.leaves[1])
    assert (leaf.bytes_before, leaf.bytes_after) == (0, GIB)
    assert result.result_leaf.bytes_p2p_credited == GIB


def test_receipt_counted_in_its_seal_does_not_count_again_when_sent_late() -> None:
    seal, first = run(funded(), [traffic(1)])
    (lane,) = seal.judgement.lanes
    again = traffic(1, number=1)
    seal, second = run(first.closing, [again], counted_before={lane.lane_digest: lane.count})
    assert seal.judgement.codes == ((ReceiptCode.SUPERSEDED,),)
    assert seal.corrections == ()
    assert second.closing.head.charged_stroops == first.closing.head.charged_stroops


def test_too_late_bundle_is_refused_and_changes_nothing() -> None:
    state = funded()
    for _ in range(4):
        state = run(state)[1].closing
    seal, result = run(state, [traffic(1)])
    assert BUNDLE_LEAF.parse_body(seal.leaves[0]).code == BundleCode.TOO_LATE
    assert result.closing.head.charged_stroops == 0


def test_equivocation_voids_the_entitlement_from_the_next_epoch() -> None:
    pair = [builders.receipt(epoch=1, bytes_total=total, sequence=5) for total in (GIB, 2 * GIB)]
    seal, first = run(funded(), [builders.payee_bundle(pair, epoch=1)])
    assert len(seal.judgement.equivocations) == 1
    assert first.result_leaf.bytes_p2p_credited == GIB
    assert first.closing.void_from == {builders.entitlement().digest: 2}
    seal, second = run(first.closing, [traffic(2), traffic(1, nonce=9, number=1)])
    codes = sorted(code for row in seal.judgement.codes for code in row)
    assert codes == [ReceiptCode.COUNTED, ReceiptCode.ENTITLEMENT_VOID]
    assert second.result_leaf.bytes_p2p_credited == GIB


def test_void_stays_at_the_earliest_epoch() -> None:
    digest = builders.entitlement().digest
    state = replace(run(funded())[1].closing, void_from={digest: 5})
    pair = [builders.receipt(epoch=2, bytes_total=total) for total in (1, 2)]
    _, result = run(state, [builders.payee_bundle(pair, epoch=2)])
    assert result.closing.void_from == {digest: 3}
    state = replace(state, void_from={digest: 3})
    pair = [builders.receipt(epoch=2, bytes_total=total) for total in (1, 2)]
    assert run(state, [builders.payee_bundle(pair, epoch=2)])[1].closing.void_from == {digest: 3}


def test_state_forgets_caps_and_corrections_once_no_receipt_can_touch_them() -> None:
    terms = builders.terms()
    under = builders.entitlement(not_after_s=terms.epoch_end_s(1) - 1)
    receipt = builders.receipt(under=under, epoch=1)
    bundle = builders.payee_bundle([receipt], entitlements=[under], epoch=1)
    state = run(run(funded())[1].closing, [bundle])[1].closing
    kept = []
    for _ in range(4):
        kept.append((len(state.cap_use), len(state.corrected_lanes)))
        state = run(state)[1].closing
    # Corrections of epoch 1 are accepted up to the seal of epoch 4.
    assert kept == [(1, 1), (1, 1), (0, 0), (0, 0)]
    assert check_bundle(bundle.raw, builders.signed_terms(), 4).code == BundleCode.ACCEPTED
    assert check_bundle(bundle.raw, builders.signed_terms(), 5).code == BundleCode.TOO_LATE


# --- views that must agree ------------------------------------------------------------------------


def check_views(result: Result, opening: State, **changes: Any) -> None:
    head_changes = changes.pop("head", {})
    closing = replace(result.closing, head=replace(result.closing.head, **head_changes), **changes)
    epoch_module._check_views(opening, closing, result.entries, result.lines, result.settlement)


@pytest.mark.parametrize(
    "name",
    [
        "deposited_stroops", "charged_stroops", "fees_stroops", "suspense_stroops",
        "escrow_stroops", "payout_stroops", "refunded_stroops",
        "lost_stroops",
    ],
)  # fmt: skip
def test_total_that_disagrees_with_the_journal_is_noticed(name: str) -> None:
    opening = funded()
    _, result = run(opening, [traffic(1)])
    check_views(result, opening)
    with pytest.raises(ConservationError):
        check_views(result, opening, head={name: getattr(result.closing.head, name) + 1})


def test_balance_that_disagrees_with_its_line_is_noticed() -> None:
    opening = funded()
    _, result = run(opening, [traffic(1)])
    payee = result.closing.payees[SEEDER]
    more = replace(payee, accrued_stroops=payee.accrued_stroops + 1)
    with pytest.raises(ConservationError, match="payee balances"):
        check_views(result, opening, payees={SEEDER: more})


@pytest.mark.parametrize("what", ["bytes", "charge"])
def test_lines_that_disagree_with_the_contract_are_noticed(what: str) -> None:
    opening = funded()
    _, result = run(opening, [traffic(1)])
    (line,) = result.lines
    changes = {
        "bytes": {"bytes_p2p": line.bytes_p2p + 1},
        "charge": {"charge_stroops": line.charge_stroops + 1, "fee_stroops": line.fee_stroops + 1},
    }
    wrong = replace(result, lines=(replace(line, **changes[what]),))
    with pytest.raises(ConservationError, match="statement"):
        check_views(wrong, opening)


def test_journal_without_an_entry_is_noticed() -> None:
    opening = funded()
    _, result = run(opening, [traffic(1)])
    with pytest.raises(ConservationError, match="journal"):
        check_views(replace(result, entries=result.entries[:-1]), opening)


def test_balances_that_do_not_cover_what_is_owed_are_noticed() -> None:
    opening = funded()
    _, result = run(opening, [traffic(1)])
    poorer = replace(opening, head=replace(opening.head, escrow_stroops=5))
    head = {"escrow_stroops": 5}
    with pytest.raises(ConservationError, match="escrow"):
        check_views(result, poorer, head=head)


def test_counts_in_evidence_are_used_for_late_lanes_only() -> None:
    lane = builders.receipt(epoch=1).value.lane_digest
    before = {lane: LaneCount(sequence=9, bytes_total=5)}
    seal, _ = run(run(funded())[1].closing, [traffic(1)], counted_before=before)
    assert seal.judgement.codes == ((ReceiptCode.SUPERSEDED,),)
