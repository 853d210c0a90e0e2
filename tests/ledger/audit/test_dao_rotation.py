"""The DAO's key is replaced: each key activates rules in its own epochs, the old one no more."""

from dataclasses import replace

import pytest
from simulated_operator import Operator, key, seed

from ledger.audit.trust import TrustedKey
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.evidence.leaf import ACTIVATION


@pytest.mark.parametrize(
    ("signer", "verdict"), [("dao 2", Verdict.PROVEN), ("dao", Verdict.DISPROVEN)]
)
def test_from_its_first_epoch_on_the_next_dao_key_activates_rules(
    signer: str, verdict: Verdict
) -> None:
    operator = Operator()
    keys = (*operator.trust.dao_keys, TrustedKey(key=key("dao 2"), first_epoch=1))
    operator.trust = replace(operator.trust, dao_keys=keys)
    operator.set_up(10**9)
    assert verify_audit_file(operator.close(), operator.trust).verdict == Verdict.PROVEN
    value = replace(operator.activation.value, first_epoch=1, dao_key=key(signer))
    operator.activation = ACTIVATION.sign(value, seed(signer))
    operator.begun[1] = [operator.activation]
    report = verify_audit_file(operator.close(), operator.trust)
    assert report.verdict == verdict
    if report.failed_step is not None:
        assert report.failed_step.name == "rule"
