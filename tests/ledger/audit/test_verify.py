"""The verifier proves honest epochs and names the step that fails for every kind of change."""

import random
from dataclasses import replace

import pytest
from simulated_operator import (
    Operator,
    key,
    make_entitlement,
    make_heartbeats,
    make_payee_bundle,
    make_receipt,
    make_viewer_bundle,
    seed,
)

from ledger.audit.file import build_audit_file, parse_audit_file
from ledger.audit.verify import Verdict, verify_audit_file


def busy_bundles(operator: Operator, epoch: int) -> list[bytes]:
    ann = make_entitlement(operator, "ann")
    bob = make_entitlement(operator, "bob")
    return [
        make_payee_bundle(
            "seeder",
            epoch,
            [ann, bob],
            [
                make_receipt(ann, "ann", "seeder", epoch, 7_919_001 + epoch),
                make_receipt(bob, "bob", "seeder", epoch, 104_729),
            ],
        ),
        make_payee_bundle(
            "ann", epoch, [bob], [make_receipt(bob, "bob", "ann", epoch, 15_485_863)]
        ),
        make_viewer_bundle(
            "bob", epoch, [bob], [make_receipt(bob, "bob", "cdn", epoch, 1_299_709)]
        ),
    ]


@pytest.fixture
def history() -> tuple[Operator, list[bytes]]:
    """Four epochs: traffic twice, payouts applied, then quiet."""
    operator = Operator()
    operator.set_up(10**12)
    files = [operator.close(busy_bundles(operator, 0))]
    for _ in range(3):
        for payout in operator.result.payouts:
            operator.apply_payout(payout)
        epoch = operator.epoch
        files.append(operator.close(busy_bundles(operator, epoch) if epoch == 1 else []))
    return operator, files


def test_every_epoch_of_an_honest_history_is_proven(history):
    operator, files = history
    for epoch, data in enumerate(files):
        report = verify_audit_file(data, operator.trust)
        assert report.verdict == Verdict.PROVEN, report.failed_step
        assert (len(report.steps), report.epoch) == (21, epoch)
    head = operator.state.head
    assert operator.state.carried_stroops == 0
    assert operator.state.batches == {}
    assert operator.state.paid_stroops == head.charged_stroops - head.fees_stroops > 0


def test_late_receipts_correct_a_sealed_lane_and_are_proven():
    operator = Operator()
    operator.set_up(10**12)
    ann = make_entitlement(operator, "ann")
    first = make_receipt(ann, "ann", "seeder", 0, 1_000_003)
    operator.close([make_payee_bundle("seeder", 0, [ann], [first])])
    more = make_receipt(ann, "ann", "seeder", 0, 3_000_009, sequence=2)
    unseen = make_receipt(ann, "ann", "seeder", 0, 500, nonce=7)
    data = operator.close([make_payee_bundle("seeder", 0, [ann], [more, unseen], number=1)])
    report = verify_audit_file(data, operator.trust)
    assert report.verdict == Verdict.PROVEN, report.failed_step
    leaf = operator.result.result_leaf
    assert leaf.bytes_p2p_credited == 2_000_006 + 500
    again = make_receipt(ann, "ann", "seeder", 0, 4_000_000, sequence=3)
    data = operator.close([make_payee_bundle("seeder", 0, [ann], [again], number=2)])
    assert verify_audit_file(data, operator.trust).verdict == Verdict.PROVEN
    assert operator.result.result_leaf.bytes_p2p_credited == 999_991


def test_without_trust_the_verdict_is_cannot_tell(history):
    _, files = history
    report = verify_audit_file(files[0], None)
    assert report.verdict == Verdict.UNDECIDED
    assert report.failed_step.name == "trust"


def test_any_flipped_bit_is_noticed(history):
    operator, files = history
    data = files[1]
    generator = random.Random(7)
    places = {0, 63, 64, len(data) - 1, *(generator.randrange(len(data)) for _ in range(400))}
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.randrange(8)
        report = verify_audit_file(bytes(damaged), operator.trust)
        assert report.verdict == Verdict.DISPROVEN, place


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda c: replace(c, trust_digest=bytes(32)), "trust"),
        (lambda c: replace(c, broadcaster_account=key("mallory")), "trust"),
        (lambda c: replace(c, issuing_binding=bytes(len(c.issuing_binding))), "terms"),
        (lambda c: replace(c, checkpoint=c.previous_checkpoint), "log"),
        (lambda c: replace(c, leaves=c.leaves[:-1]), "log"),
        (lambda c: replace(c, rule=c.rule + b"\n"), "rule"),
        (lambda c: replace(c, opening_state=c.closing_state), "opening state"),
        (lambda c: replace(c, bundles=c.bundles[::-1]), "bundles"),
        (lambda c: replace(c, facts=c.facts[::-1]), "network facts"),
        (lambda c: replace(c, counts=(b"",)), "counts before"),
        (lambda c: replace(c, bundles=c.bundles[1:], codes=c.codes[1:]), "lanes and seal"),
        (lambda c: replace(c, facts=c.facts[1:]), "lanes and seal"),
        (lambda c: replace(c, salt_key=bytes(32)), "lanes and seal"),
        (lambda c: replace(c, codes=c.codes[::-1]), "lanes and seal"),
        (lambda c: replace(c, journal=bytes(4)), "journal"),
        (lambda c: replace(c, statements=bytes(4)), "statements"),
        (lambda c: replace(c, closing_state=c.opening_state), "closing state"),
        (lambda c: replace(c, anchor=c.facts[0]), "anchor"),
    ],
)
def test_a_file_signed_anew_after_a_change_fails_at_the_changed_step(history, change, step):
    """Even the operator, signing again, cannot make another story of the same log."""
    operator, files = history
    contents = change(parse_audit_file(files[1]).contents)
    report = verify_audit_file(build_audit_file(contents, seed("log")), operator.trust)
    assert report.verdict == Verdict.DISPROVEN
    assert report.failed_step.name == step, report.failed_step


def test_a_file_of_another_signer_fails_at_trust(history):
    operator, files = history
    contents = parse_audit_file(files[1]).contents
    report = verify_audit_file(build_audit_file(contents, seed("mallory")), operator.trust)
    assert report.failed_step.name == "trust"


def test_every_single_flipped_bit_of_a_file_is_noticed():
    """All of them: in signature, header, digest table and every section."""
    operator = Operator()
    operator.set_up(10**12)
    ann = make_entitlement(operator, "ann")
    receipt = make_receipt(ann, "ann", "seeder", 0, 7_919)
    data = bytearray(operator.close([make_payee_bundle("seeder", 0, [ann], [receipt])]))
    assert verify_audit_file(bytes(data), operator.trust).verdict == Verdict.PROVEN
    unnoticed = []
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        if verify_audit_file(bytes(data), operator.trust).verdict == Verdict.PROVEN:
            unnoticed.append(bit)
        data[bit // 8] ^= 1 << bit % 8
    assert unnoticed == []


def test_heartbeats_in_viewers_bundles_are_verified_and_counted():
    operator = Operator()
    operator.set_up(10**12)
    epoch = operator.epoch
    ann, bob = make_entitlement(operator, "ann"), make_entitlement(operator, "bob")
    honest = make_heartbeats(operator, ann, "ann", epoch, 5)
    skewed = make_heartbeats(operator, bob, "bob", epoch, 4)
    forged = make_heartbeats(operator, bob, "ann", epoch, 4)[3]
    data = operator.close(
        [
            make_viewer_bundle("ann", epoch, [ann], [], heartbeats=honest),
            make_viewer_bundle("bob", epoch, [bob], [], heartbeats=[*skewed[:3], forged]),
        ]
    )
    report = verify_audit_file(data, operator.trust)
    assert report.verdict == Verdict.PROVEN, report.failed_step
    detail = next(step.detail for step in report.steps if step.name == "bundles")
    assert detail.endswith("; 8 heartbeats of 2 viewers verified, 1 refused")
