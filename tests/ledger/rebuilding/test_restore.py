"""A rebuilt ledger in an empty database: the same rows that matter, and production code goes on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from databases import copied_database
from shard_scene import ShardScene
from simulated_operator import key, seed
from survivors import EPOCHS, Survivors, bundles_of

from ledger.audit.trust import TrustedKey
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.terms import sign_terms
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.verification import verify_folder
from ledger.rebuilding.errors import RebuildError
from ledger.rebuilding.rebuild import survey_chain
from ledger.rebuilding.restore import open_restoring
from ledger.rebuilding.settler_archive import SettlerArchive
from ledger.sealing.publishing import log_folder
from ledger.stellar.settler_records import SettlerFolder
from ledger.store import settlement_store
from ledger.store.bundle_store import find_by_digest
from ledger.store.engine import SessionFactory, make_session_factory, open_engine
from ledger.store.epoch_store import (
    EpochState,
    list_checkpoints,
    list_epochs,
    load_closing_state,
    load_leaves,
)
from ledger.store.instruction_store import load_instructions
from ledger.store.lane_store import load_lanes
from ledger.store.shard_store import Shard, find_shard, parse_registration, register

pytestmark = pytest.mark.postgres


@pytest.fixture
def empty_url(postgres_cluster, template_database) -> Iterator[str]:
    with copied_database(postgres_cluster, template_database) as url:
        yield url


def restore(survivors: Survivors, url: str) -> None:
    rebuilding = survivors.rebuilding()
    with open_restoring(url, rebuilding) as restoring:
        rebuilding.run([restoring.take], lambda _done, _count, _text: None)
        restoring.finish()


@contextmanager
def restored(url: str) -> Iterator[tuple[SessionFactory, Shard]]:
    engine = open_engine(url)
    try:
        sessions = make_session_factory(engine)
        with sessions() as session:
            shard = find_shard(session, key("broadcaster"))
        yield sessions, shard
    finally:
        engine.dispose()


def everything(session, shard: Shard) -> list[object]:
    """What must be the same in the operator's database and in the restored one."""
    epochs = [one for one in list_epochs(session, shard) if one.state != EpochState.OPEN]
    batches = settlement_store.load_batches(session, shard.account)
    through = 1 << 31
    return [
        [(one.number, one.state, one.result_size, one.last_ledger_sequence) for one in epochs],
        load_leaves(session, shard),
        list_checkpoints(session, shard),
        [load_closing_state(session, shard, one.number) for one in epochs],
        [load_instructions(session, shard, one.number) for one in epochs],
        [load_lanes(session, shard, one.number) for one in epochs],
        [(one.leaf, one.state, one.attempt) for one in batches],
        [settlement_store.load_anchor(session, shard.account, one.number) for one in epochs],
        [settlement_store.epoch_ledger(session, shard.account, one.number) for one in epochs],
        settlement_store.load_facts(
            session, shard.account, after_sequence=0, through_sequence=through
        )[: -1],
    ]  # fmt: skip


def test_a_restored_database_holds_what_the_operators_did(survivors, empty_url) -> None:
    restore(survivors, empty_url)
    scene = survivors.scene
    with scene.sessions() as session:
        want = everything(session, scene.shard)
    with restored(empty_url) as (sessions, shard), sessions() as session:
        got = everything(session, shard)
        assert got[:9] == want[:9]
        assert set(got[9]) <= set(survivors.facts)
        stored = [find_by_digest(session, digest) for digest in survivors.evidence.bundles]
    with scene.sessions() as session:
        known = [find_by_digest(session, digest) for digest in survivors.evidence.bundles]
    assert [(one.code, one.receipt_codes) for one in stored] == [
        (one.code, one.receipt_codes) for one in known
    ]


def test_a_database_that_knows_somebody_is_left_alone(survivors, empty_url) -> None:
    restore(survivors, empty_url)
    with pytest.raises(RebuildError, match="want an empty one"):
        restore(survivors, empty_url)


def test_without_a_kept_checkpoint_nothing_is_restored(survivors, empty_url) -> None:
    min((survivors.mirror / "kept").iterdir(), key=lambda path: int(path.stem)).unlink()
    with pytest.raises(RebuildError, match="kept no checkpoint"):
        restore(survivors, empty_url)
    engine = open_engine(empty_url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM broadcasters").scalar() == 0
    engine.dispose()


def test_a_successor_seals_on_under_new_terms_with_a_new_log_key(
    survivors, empty_url, tmp_path: Path
) -> None:
    restore(survivors, empty_url)
    operator = survivors.scene.operator
    operator.terms = replace(operator.terms, log_key=key("second log"), first_epoch=EPOCHS)
    operator.signed_terms = sign_terms(operator.terms, seed("issuing"))
    operator.trust = replace(
        operator.trust,
        log_keys=(*operator.trust.log_keys, TrustedKey(key=key("second log"), first_epoch=EPOCHS)),
    )
    with restored(empty_url) as (sessions, shard):
        with sessions.begin() as session:
            register(
                session,
                parse_registration(
                    terms=operator.signed_terms.raw,
                    binding=operator.issuing_binding,
                    activation=operator.activation.raw,
                ),
            )
        scene = ShardScene(
            sessions=sessions, shard=shard, operator=operator, folder=tmp_path / "successor",
            log_seed=seed("second log"),
        )  # fmt: skip
        last_close_s = operator.terms.epoch_start_s(EPOCHS) + 1
        scene.reach(last_close_s)
        scene.advance()
        late, own = (parse_bundle(raw) for raw in bundles_of(scene, EPOCHS)[::-1])
        for bundle in (late, own):
            scene.upload(bundle.raw)
        scene.judge_all()
        scene.end_epoch(EPOCHS)
        scene.advance()
        scene.anchor(EPOCHS, operator.terms.epoch_end_s(EPOCHS) + 7)
        scene.advance()
        audit_file = (scene.audit_dir / f"epoch-{EPOCHS}.audit").read_bytes()
        report = verify_audit_file(audit_file, operator.trust)
        assert report.verdict == Verdict.PROVEN, report.failed_step
        log = verify_folder(log_folder(scene.log_dir, shard), keys_of_trust(operator.trust))
        assert (log.first_epoch, log.last_epoch) == (0, EPOCHS)


def test_a_settler_learns_the_epochs_without_audit_files(survivors, tmp_path: Path) -> None:
    rebuilding = survivors.rebuilding()
    folder = SettlerFolder(tmp_path / "settler")
    archive = SettlerArchive(folder, rebuilding)
    summary = rebuilding.run([archive.take], lambda _done, _count, _text: None)
    learned = folder.load_epochs(0)
    assert archive.written == len(learned) == EPOCHS - summary.unanchored
    planned = [leaf for one in learned for leaf in one.payouts]
    assert len(planned) == summary.batches
    assert summary.open_batches == summary.batches
    # What it has verified otherwise is not overwritten.
    path = tmp_path / "settler" / "verified" / "epoch-1.json"
    document = json.loads(path.read_text())
    document["tree_size"] += 1
    path.write_text(json.dumps(document))
    again = SettlerArchive(folder, rebuilding)
    with pytest.raises(RebuildError, match="has verified another one"):
        rebuilding.run([again.take], lambda _done, _count, _text: None)


def test_only_an_anchor_account_anchors_and_a_used_slot_is_not_open(survivors: Survivors) -> None:
    rebuilding = survivors.rebuilding()
    epochs = list(survivors.replay())
    anchored = rebuilding.find_anchor(epochs[0])
    assert anchored is not None
    strangers = {
        (key("stranger"), memo): found
        for (_account, memo), found in rebuilding.survey.memos.items()
    }
    rebuilding.survey = replace(rebuilding.survey, memos=strangers)
    assert rebuilding.find_anchor(epochs[0]) is None
    leaf = next(leaf for epoch in epochs for leaf in epoch.payouts)
    failed = survivors.scene.operator.apply_payout(leaf, code=-1)
    assert not rebuilding.survey.is_taken(leaf)
    assert survey_chain((*survivors.facts, failed)).is_taken(leaf)
