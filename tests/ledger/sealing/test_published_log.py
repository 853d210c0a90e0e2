"""A database that is behind its own published log signs no second history."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import copied_database
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import make_entitlement, make_payee_bundle, make_receipt
from sqlalchemy import make_url

from ledger.sealing.publishing import log_folder
from ledger.store.engine import make_session_factory, open_engine
from ledger.store.epoch_store import EpochState, list_epochs
from ledger.store.errors import UnprovenError

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def run_epoch(scene: ShardScene, epoch: int, total: int) -> None:
    scene.reach_epoch(epoch)
    ann = make_entitlement(scene.operator, "ann")
    receipts = [make_receipt(ann, "ann", "seeder", epoch, total)]
    scene.upload(make_payee_bundle("seeder", epoch, [ann], receipts))
    scene.judge_all()
    scene.end_epoch(epoch)
    scene.advance()


def name_of(database_url: str) -> str:
    return str(make_url(database_url).database)


def checkpoint_file(scene: ShardScene) -> Path:
    return log_folder(scene.log_dir, scene.shard) / "checkpoint"


def states_of(scene: ShardScene) -> list[str]:
    with scene.sessions.begin() as session:
        return [epoch.state for epoch in list_epochs(session, scene.shard)]


def test_a_database_restored_from_before_the_last_checkpoint_seals_nothing(
    scene, postgres_cluster, database_url
):
    run_epoch(scene, 0, 7_919_001)
    scene.sessions.engine.dispose()
    with copied_database(postgres_cluster, name_of(database_url)) as backup:
        run_epoch(scene, 1, 999_983)
        published = checkpoint_file(scene).read_bytes()
        engine = open_engine(backup)
        scene.sessions = make_session_factory(engine)
        scene.__post_init__()
        # The bundle of epoch 1 came after the backup; without it the epoch would be another one.
        scene.end_epoch(1)
        with pytest.raises(UnprovenError, match="restored from too old a backup"):
            scene.advance()
        assert EpochState.SEALING not in states_of(scene)
        assert checkpoint_file(scene).read_bytes() == published
        engine.dispose()


def test_a_backup_that_holds_what_was_published_goes_on(scene, postgres_cluster, database_url):
    run_epoch(scene, 0, 7_919_001)
    scene.reach_epoch(1)
    scene.sessions.engine.dispose()
    with copied_database(postgres_cluster, name_of(database_url)) as backup:
        engine = open_engine(backup)
        scene.sessions = make_session_factory(engine)
        scene.__post_init__()
        run_epoch(scene, 1, 999_983)
        assert states_of(scene)[:2] == [EpochState.COMPUTED, EpochState.COMPUTED]
        engine.dispose()


def test_a_damaged_checkpoint_is_named_and_a_missing_one_is_written_again(scene):
    run_epoch(scene, 0, 7_919_001)
    file = checkpoint_file(scene)
    published = file.read_bytes()
    file.write_bytes(published[:40])
    with pytest.raises(UnprovenError, match="cannot be read"):
        scene.advance()
    file.unlink()
    scene.advance()
    assert file.read_bytes() == published
