"""A revoked issuing key: its entitlements count until the epoch it ends with, and no further."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from served_app import serve_app
from shard_scene import ShardScene, digest, make_shard_scene
from simulated_operator import (
    NETWORK,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)

from ledger.api.app import make_app
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.books.judgement import ReceiptCode
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.store.bundle_store import find_by_digest
from ledger.store.shard_store import add_issuing_binding, authentic_terms, issued_through

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def binding(last_epoch: int, serial: int = 2, **changes: object) -> Signed[Binding]:
    value = Binding(
        network_id=NETWORK,
        account=key("broadcaster"),
        key=key("issuing"),
        role=Role.ISSUING,
        first_epoch=0,
        last_epoch=last_epoch,
        serial=serial,
    )
    return BINDING.sign(replace(value, **changes), seed("broadcaster"), seed("issuing"))


def revoke(scene: ShardScene, last_epoch: int, **changes: object) -> None:
    with scene.sessions.begin() as session:
        add_issuing_binding(session, scene.shard, binding(last_epoch, **changes))


def bundle(scene: ShardScene, epoch: int) -> bytes:
    ann = make_entitlement(scene.operator, "ann")
    receipt = make_receipt(ann, "ann", "seeder", epoch, 999_983 + epoch)
    return make_payee_bundle("seeder", epoch, [ann], [receipt])


def run_epoch(scene: ShardScene, epoch: int) -> ReceiptCode:
    scene.reach_epoch(epoch)
    raw = bundle(scene, epoch)
    scene.upload(raw)
    scene.judge_all()
    scene.end_epoch(epoch)
    scene.advance()
    with scene.sessions.begin() as session:
        (code,) = find_by_digest(session, digest(raw)).receipt_codes
    scene.anchor(epoch, scene.terms.epoch_end_s(epoch) + scene.terms.grace_s + 1)
    scene.reach(scene.terms.epoch_end_s(epoch) + scene.terms.grace_s + 3)
    scene.advance()
    return ReceiptCode(code)


def audit(scene: ShardScene, epoch: int) -> Verdict:
    raw = (scene.audit_dir / f"epoch-{epoch}.audit").read_bytes()
    return verify_audit_file(raw, scene.operator.trust).verdict


def test_from_its_last_epoch_on_nothing_counts_and_the_audit_proves_it(scene):
    scene.deposit(10**9, scene.terms.genesis_s + 1)
    assert run_epoch(scene, 0) is ReceiptCode.COUNTED
    revoke(scene, last_epoch=1)
    assert run_epoch(scene, 1) is ReceiptCode.COUNTED
    assert run_epoch(scene, 2) is ReceiptCode.ISSUING_KEY_REVOKED
    assert [audit(scene, epoch) for epoch in (0, 1, 2)] == [Verdict.PROVEN] * 3
    with scene.sessions.begin() as session:
        authentic_terms(session, scene.shard)
        # What was sealed before says so for ever, whatever is signed later.
        assert issued_through(session, scene.shard, scene.terms, 1) == 10_000
        assert issued_through(session, scene.shard, scene.terms, 2) == 1


def test_a_revocation_cannot_reach_back_to_epochs_that_have_bundles(scene):
    scene.deposit(10**9, scene.terms.genesis_s + 1)
    run_epoch(scene, 0)
    scene.reach_epoch(1)
    scene.upload(bundle(scene, 1))
    with pytest.raises(MalformedRecordError, match="last_epoch"):
        revoke(scene, last_epoch=0)
    revoke(scene, last_epoch=1)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"account": key("ann account")}, "account"),
        ({"network_id": bytes(32)}, "network_id"),
        ({"role": Role.SESSION}, "role"),
        ({"serial": 1}, "serial"),
    ],
)
def test_a_binding_that_says_something_else_is_refused(scene, changes, field):
    with pytest.raises(MalformedRecordError, match=field):
        revoke(scene, last_epoch=5, **changes)


def test_a_binding_that_the_account_did_not_sign_is_refused(scene):
    value = binding(5).value
    forged = BINDING.sign(value, seed("issuing"), seed("issuing"))
    with scene.sessions.begin() as session, pytest.raises(BadSignatureError):
        add_issuing_binding(session, scene.shard, forged)


def test_the_newest_binding_and_the_coverage_are_public(scene):
    with serve_app(make_app(scene.api_parts())) as client:
        empty = client.get("/v1/coverage").json()
        assert (empty["epoch"], empty["held_stroops"], empty["ratio_ppm"]) == (None, 0, None)
        scene.deposit(10**9, scene.terms.genesis_s + 1)
        run_epoch(scene, 0)
        scene.reach_epoch(1)
        scene.upload(bundle(scene, 1))
        scene.judge_all()
        revoke(scene, last_epoch=7)
        raw = client.get("/v1/issuing-binding").content
        assert BINDING.parse(raw).value.last_epoch == 7
        unknown = client.get("/v1/issuing-binding", params={"key": "ab" * 32})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_key")
        answer = client.get("/v1/coverage").json()
        paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/coverage", "/v1/issuing-binding"} <= set(paths)
    assert answer["epoch"] == 0
    assert answer["held_stroops"] == 10**9
    terms = scene.terms
    charge = 999_983 * terms.price_stroops // terms.price_quantity_bytes
    assert answer["owed_stroops"] + answer["fees_stroops"] == charge
    assert answer["pending_bytes"] == 999_984
    pending = -(-999_984 * terms.price_stroops // terms.price_quantity_bytes)
    assert answer["liable_stroops"] == charge + pending
    assert answer["ratio_ppm"] == 10**9 * 1_000_000 // (charge + pending)
