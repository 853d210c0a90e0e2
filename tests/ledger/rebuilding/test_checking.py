"""Checking in several processes: the same verdicts in the same order."""

import pytest
from simulated_operator import Operator, make_entitlement, make_payee_bundle, make_receipt

from ledger.books.codes import BundleCode
from ledger.rebuilding.checking import CHUNK, BundleChecker


@pytest.fixture
def operator() -> Operator:
    return Operator()


def test_several_processes_judge_as_one_does(operator: Operator) -> None:
    ann = make_entitlement(operator, "ann")
    good = make_payee_bundle("seeder", 0, [ann], [make_receipt(ann, "ann", "seeder", 0, 1_000)])
    forged = good[:-1] + bytes([good[-1] ^ 1])
    late = make_payee_bundle("seeder", 7, [ann], [make_receipt(ann, "ann", "seeder", 7, 1_000)])
    bundles = [good, forged, late, b"no bundle"] * (CHUNK // 2)
    with BundleChecker(2) as checker:
        several = list(checker.check(bundles, operator.signed_terms, 0, 10_000))
    with BundleChecker() as checker:
        alone = list(checker.check(bundles, operator.signed_terms, 0, 10_000))
    assert several == alone
    assert [check.raw for check in several] == bundles
    assert several[0].code == BundleCode.ACCEPTED
    assert len({check.code for check in several}) >= 3
