"""A DAO key that was replaced rules no more: nothing is sealed before its successor activates."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import key, make_entitlement, make_payee_bundle, make_receipt, seed

from ledger.audit.trust import TrustedKey
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.evidence.leaf import ACTIVATION
from ledger.store.epoch_store import EpochState, find_epoch
from ledger.store.shard_store import parse_registration, register

FIRST = 1
"""First epoch of the next DAO key."""


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def activate(scene: ShardScene, signer: str) -> None:
    operator = scene.operator
    value = replace(operator.activation.value, first_epoch=FIRST, dao_key=key(signer))
    registration = parse_registration(
        terms=operator.signed_terms.raw,
        binding=operator.issuing_binding,
        activation=ACTIVATION.sign(value, seed(signer)).raw,
    )
    with scene.sessions.begin() as session:
        register(session, registration)


@pytest.mark.postgres
def test_an_epoch_waits_for_the_activation_by_its_dao_key(scene: ShardScene) -> None:
    keys = (*scene.operator.trust.dao_keys, TrustedKey(key=key("dao 2"), first_epoch=FIRST))
    trust = replace(scene.operator.trust, dao_keys=keys)
    scene.sealing = replace(scene.sealing, audit=replace(scene.sealing.audit, trust=trust))
    for epoch in (0, FIRST):
        scene.end_epoch(epoch)
        scene.advance()
    with scene.sessions() as session:
        assert find_epoch(session, scene.shard, 0).state == EpochState.COMPUTED
        assert find_epoch(session, scene.shard, FIRST).state == EpochState.OPEN
    ann = make_entitlement(scene.operator, "ann")
    receipt = make_receipt(ann, "ann", "seeder", FIRST, 999_983)
    raw = make_payee_bundle("seeder", FIRST, [ann], [receipt])
    assert scene.upload(raw).value.sealing_epoch == FIRST
    scene.judge_all()
    activate(scene, "dao 2")
    scene.advance()
    for epoch in (0, FIRST):
        scene.anchor(epoch, scene.terms.epoch_end_s(FIRST) + 20 + epoch)
        scene.advance()
        data = (scene.audit_dir / f"epoch-{epoch}.audit").read_bytes()
        report = verify_audit_file(data, trust)
        assert report.verdict == Verdict.PROVEN, report.failed_step
