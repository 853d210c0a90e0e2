"""The DAO's key is replaced: each key activates rules in its own epochs, the old one no more."""

from dataclasses import replace

import pytest
from simulated_operator import Operator, key, seed

from ledger.audit.trust import TrustedKey
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.evidence.leaf import ACTIVATION


def rotate(operator: Operator, first_epoch: int) -> None:
    """The reader's trust names another DAO key from an epoch on."""
    keys = (*operator.trust.dao_keys, TrustedKey(key=key("dao 2"), first_epoch=first_epoch))
    operator.trust = replace(operator.trust, dao_keys=keys)


def reactivate(operator: Operator, signer: str = "dao 2") -> None:
    """The same rule, activated again from the current epoch on."""
    value = replace(operator.activation.value, first_epoch=operator.epoch, dao_key=key(signer))
    operator.activation = ACTIVATION.sign(value, seed(signer))
    operator.begun[operator.epoch] = [operator.activation]


@pytest.mark.parametrize(
    ("signer", "verdict"), [("dao 2", Verdict.PROVEN), ("dao", Verdict.DISPROVEN)]
)
def test_from_its_first_epoch_on_the_next_dao_key_activates_rules(
    signer: str, verdict: Verdict
) -> None:
    operator = Operator()
    rotate(operator, 1)
    operator.set_up(10**9)
    assert verify_audit_file(operator.close(), operator.trust).verdict == Verdict.PROVEN
    reactivate(operator, signer)
    report = verify_audit_file(operator.close(), operator.trust)
    assert report.verdict == verdict
    if report.failed_step is not None:
        assert report.failed_step.name == "rule"


def test_after_a_rotation_the_new_key_rules_in_every_epoch() -> None:
    operator = Operator()
    rotate(operator, 1)
    operator.set_up(10**9)
    operator.close()
    reactivate(operator)
    for _ in range(3):
        report = verify_audit_file(operator.close(), operator.trust)
        assert report.verdict == Verdict.PROVEN, report.failed_step


def test_rotation_without_an_activation_by_the_new_key_ends_what_can_be_proven() -> None:
    operator = Operator()
    rotate(operator, 1)
    operator.set_up(10**9)
    assert verify_audit_file(operator.close(), operator.trust).verdict == Verdict.PROVEN
    report = verify_audit_file(operator.close(), operator.trust)
    assert report.failed_step is not None
    assert report.failed_step.detail.startswith("DAO key in force")
