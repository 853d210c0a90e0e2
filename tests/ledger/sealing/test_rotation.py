"""From a stated epoch another log key signs: checkpoints, promises, clock, audit files."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    ORIGIN,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)

from ledger.api.app import make_app
from ledger.api.collector import Collector
from ledger.audit.trust import Trust, TrustedKey
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.books.codes import BundleCode
from ledger.evidence.clock import CLOCK
from ledger.evidence.encoding import Signed
from ledger.evidence.note import VerifierKey, format_verifier_key
from ledger.evidence.promise import PROMISE
from ledger.evidence.terms import parse_terms, sign_terms
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.verification import verify_folder
from ledger.sealing.log_seeds import LogSeeds, next_seed_file, read_log_seeds
from ledger.sealing.publishing import log_folder
from ledger.store.bundle_store import find_by_digest
from ledger.store.shard_store import parse_registration, register

FIRST = 2
"""First epoch of the new key."""


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def rotate(scene: ShardScene) -> Trust:
    """Register terms from `FIRST` on that name the new key; give the operator its seed."""
    operator = scene.operator
    operator.terms = replace(operator.terms, log_key=key("log 2"), first_epoch=FIRST)
    operator.signed_terms = sign_terms(operator.terms, seed("issuing"))
    with scene.sessions.begin() as session:
        register(
            session,
            parse_registration(
                terms=operator.signed_terms.raw,
                binding=operator.issuing_binding,
                activation=operator.activation.raw,
            ),
        )
    trust = replace(
        operator.trust,
        log_keys=(
            TrustedKey(key=key("log"), first_epoch=0),
            TrustedKey(key=key("log 2"), first_epoch=FIRST),
        ),
    )
    scene.sealing = replace(
        scene.sealing,
        next_log_seed=seed("log 2"),
        audit=replace(scene.sealing.audit, trust=trust),
    )
    scene.collector = Collector(
        sessions=scene.sessions,
        ledger_time=scene.ledger_time,
        log_seed=seed("log"),
        next_log_seed=seed("log 2"),
    )
    return trust


def bundle(scene: ShardScene, epoch: int, number: int = 0, terms: Signed | None = None) -> bytes:
    digest = (terms or scene.operator.signed_terms).digest
    ann = make_entitlement(scene.operator, "ann", terms_digest=digest)
    receipt = make_receipt(ann, "ann", "seeder", epoch, 999_983 + number)
    return make_payee_bundle("seeder", epoch, [ann], [receipt], number)


@pytest.mark.postgres
def test_a_rotation_from_end_to_end(scene: ShardScene) -> None:
    old_terms = scene.operator.signed_terms
    trust, promises = None, []
    for epoch in range(4):
        scene.reach_epoch(epoch)
        if epoch == 1:
            trust = rotate(scene)
        promises.append(
            scene.upload(bundle(scene, epoch, terms=old_terms if epoch < FIRST else None))
        )
        if epoch == FIRST:
            late = scene.upload(bundle(scene, 1, number=1, terms=old_terms))
        scene.judge_all()
        scene.end_epoch(epoch)
        scene.advance()
        scene.anchor(epoch, scene.terms.epoch_end_s(epoch) + 7)
        scene.advance()
    names = ["log", "log", "log 2", "log 2"]
    for promise, name in zip(promises, names, strict=True):
        assert PROMISE.is_signed_by(promise, key(name))
    assert PROMISE.is_signed_by(late, key("log")), "its sender knows the key of its epoch's terms"
    assert late.value.sealing_epoch == FIRST
    with scene.sessions.begin() as session:
        assert find_by_digest(session, late.value.bundle_digest).code == BundleCode.TOO_LATE
    found = verify_folder(log_folder(scene.log_dir, scene.shard), keys_of_trust(trust))
    assert found.last_epoch == 3
    new_key = VerifierKey(name=ORIGIN, public_key=key("log 2"))
    vkey = (log_folder(scene.log_dir, scene.shard) / "log.vkey").read_text()
    assert vkey == format_verifier_key(new_key) + "\n"
    for epoch in range(1, 4):
        data = (scene.audit_dir / f"epoch-{epoch}.audit").read_bytes()
        report = verify_audit_file(data, trust)
        assert [step for step in report.steps if step.verdict != Verdict.PROVEN] == []
        wrong = replace(
            trust,
            log_keys=(
                TrustedKey(key=key("log 2"), first_epoch=0),
                TrustedKey(key=key("log"), first_epoch=FIRST),
            ),
        )
        assert verify_audit_file(data, wrong).verdict == Verdict.DISPROVEN


@pytest.mark.postgres
def test_the_clock_is_signed_by_the_key_that_the_asker_knows(scene: ShardScene) -> None:
    scene.reach_epoch(1)
    rotate(scene)
    parts = replace(scene.api_parts(), next_log_seed=seed("log 2"))
    with serve_app(make_app(parts)) as client:
        assert signer_of(client) == "log"
        assert parse_terms(client.get("/v1/terms").content).value.log_key == key("log")
        assert signer_of(client, "log 2") == "log 2"
        scene.reach_epoch(FIRST)
        assert signer_of(client) == "log 2"
        assert signer_of(client, "log") == "log"
        assert parse_terms(client.get("/v1/terms").content).value.log_key == key("log 2")


def signer_of(client: httpx.Client, asked: str | None = None) -> str:
    question = {"nonce": "0" * 32} | ({} if asked is None else {"log_key": key(asked).hex()})
    record = CLOCK.parse(client.get("/v1/clock", params=question).content)
    return next(name for name in ("log", "log 2") if CLOCK.is_signed_by(record, key(name)))


def test_the_next_seed_stands_beside_the_current_one(tmp_path: Path) -> None:
    path = tmp_path / "log.seed"
    for file, name in ((path, "log"), (next_seed_file(path), "log 2")):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, seed(name).hex().encode())
        os.close(descriptor)
        seeds = read_log_seeds(path)
        assert seeds.of_key(key(name)) == seed(name)
    assert seeds.of_key(key("log")) == seeds.of_key(key("thief")) == seed("log")
    assert seed("log").hex() not in repr(seeds)
    assert LogSeeds(current=seed("log")).of_key(key("log 2")) == seed("log")
