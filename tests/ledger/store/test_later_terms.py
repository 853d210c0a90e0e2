"""Later terms may name other keys and channels, and never what the books of the ledger stand on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import key, make_entitlement, make_payee_bundle, make_receipt, seed

from ledger.audit.trust import TrustedKey
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.leaf import ACTIVATION
from ledger.evidence.terms import sign_terms
from ledger.store.epoch_store import open_epochs
from ledger.store.errors import UnknownBroadcasterError
from ledger.store.shard_store import (
    activation_in_force,
    find_intake,
    find_shard,
    parse_registration,
    register,
    terms_in_force,
)

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def register_later(scene: ShardScene, **changes: object) -> None:
    operator = scene.operator
    terms = replace(operator.terms, **{"first_epoch": 3, **changes})  # type: ignore[arg-type]
    registration = parse_registration(
        terms=sign_terms(terms, seed("issuing")).raw,
        binding=operator.issuing_binding,
        activation=operator.activation.raw,
    )
    with scene.sessions.begin() as session:
        register(session, registration)


def reactivate(scene: ShardScene, activation: bytes) -> None:
    operator = scene.operator
    registration = parse_registration(
        terms=operator.signed_terms.raw, binding=operator.issuing_binding, activation=activation
    )
    with scene.sessions.begin() as session:
        register(session, registration)


CHANGES: tuple[dict[str, object], ...] = (
    {"escrow_account": key("another escrow")},
    {"payout_account": key("another payout")},
    {"anchor_account": key("another anchor")},
    {"asset_code": "OTHER"},
    {"asset_issuer": key("another issuer")},
    {"genesis_s": 60},
    {"epoch_length_s": 7200},
    {"grace_s": 60},
    {"log_origin": "log.example/another"},
)


def test_what_the_books_stand_on_is_refused(scene: ShardScene) -> None:
    for changes in CHANGES:
        (name,) = changes
        with pytest.raises(MalformedRecordError, match=rf"terms\.{name}: .* as before"):
            register_later(scene, **changes)
    with scene.sessions() as session:
        assert terms_in_force(session, scene.shard).value == scene.operator.terms


def test_other_keys_and_channels_are_taken(scene: ShardScene) -> None:
    channels = (key("another channel"),)
    register_later(scene, log_key=key("log 2"), channel_accounts=channels)
    with scene.sessions() as session:
        assert terms_in_force(session, scene.shard).value.channel_accounts == channels


def test_what_a_collector_asks_at_once_is_what_it_would_find_step_by_step(
    scene: ShardScene,
) -> None:
    register_later(scene, log_key=key("log 2"))
    account = scene.shard.account
    with scene.sessions.begin() as session:
        assert find_intake(session, account, 0).newest_epoch is None
        open_epochs(session, scene.shard, first=0, last=7)
        log_keys = []
        for epoch in range(5):
            intake = find_intake(session, account, epoch)
            assert intake.shard == find_shard(session, account)
            assert intake.terms == terms_in_force(session, intake.shard, epoch)
            assert intake.newest_epoch == 7
            log_keys.append(intake.terms.value.log_key)
        with pytest.raises(UnknownBroadcasterError):
            find_intake(session, key("nobody"), 0)
    assert log_keys == [key("log")] * 3 + [key("log 2")] * 2


def test_terms_begin_after_every_epoch_that_has_bundles_or_is_closed(scene: ShardScene) -> None:
    ann = make_entitlement(scene.operator, "ann")
    scene.reach_epoch(3)
    receipt = make_receipt(ann, "ann", "seeder", 3, 999_983)
    scene.upload(make_payee_bundle("seeder", 3, [ann], [receipt]))
    with pytest.raises(MalformedRecordError, match=r"terms\.first_epoch: got 3, want >= 4"):
        register_later(scene, channel_accounts=(key("another channel"),))
    with scene.sessions() as session:
        assert terms_in_force(session, scene.shard, 3).value == scene.operator.terms
    register_later(scene, channel_accounts=(key("another channel"),), first_epoch=4)
    # What is known is taken again at any time.
    scene.judge_all()
    scene.end_epoch(4)
    scene.advance()
    register_later(scene, channel_accounts=(key("another channel"),), first_epoch=4)
    with pytest.raises(MalformedRecordError, match=r"terms\.first_epoch: got 4, want >= 5"):
        register_later(scene, channel_accounts=(key("a third channel"),), first_epoch=4)


def test_activation_begins_after_every_epoch_that_is_closed(scene: ShardScene) -> None:
    keys = (*scene.operator.trust.dao_keys, TrustedKey(key=key("dao 2"), first_epoch=1))
    trust = replace(scene.operator.trust, dao_keys=keys)
    scene.sealing = replace(scene.sealing, audit=replace(scene.sealing.audit, trust=trust))
    scene.reach_epoch(1)
    scene.end_epoch(0)
    scene.advance()
    for first_epoch, want in ((0, "the one that is known"), (1, "")):
        activation = replace(scene.operator.activation.value, first_epoch=first_epoch)
        signed = ACTIVATION.sign(replace(activation, dao_key=key("dao 2")), seed("dao 2"))
        if want:
            with pytest.raises(MalformedRecordError, match=want):
                reactivate(scene, signed.raw)
        else:
            reactivate(scene, signed.raw)
    with scene.sessions() as session:
        assert activation_in_force(session, scene.shard, 0) == scene.operator.activation
        assert activation_in_force(session, scene.shard, 1).value.dao_key == key("dao 2")
    scene.end_epoch(2)
    scene.advance()
    late = replace(scene.operator.activation.value, first_epoch=2)
    with pytest.raises(MalformedRecordError, match=r"activation\.first_epoch: got 2, want >= 3"):
        reactivate(scene, ACTIVATION.sign(late, seed("dao")).raw)


def test_terms_of_later_epochs_change_nothing_where_none_are_on_offer(scene: ShardScene) -> None:
    last = scene.operator.terms.last_epoch
    register_later(scene, first_epoch=last + 5, last_epoch=last + 9, log_key=key("log 2"))
    with scene.sessions() as session:
        for epoch in (last, last + 1, last + 4):
            assert terms_in_force(session, scene.shard, epoch).value == scene.operator.terms
        for epoch in (last + 5, last + 10):
            assert terms_in_force(session, scene.shard, epoch).value.log_key == key("log 2")
