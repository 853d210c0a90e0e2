"""A filled epoch holds the rows of real receipts; short-lived partitions are left to themselves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from sqlalchemy import text

from ledger.store.synthetic_rows import fill_epoch

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        with made.sessions.begin() as session:
            session.execute(text("SELECT make_partitions(0)"))
        yield made


def test_filled_epoch_has_a_lane_a_receipt_and_the_pages_of_their_bundles(scene):
    with scene.sessions.begin() as session:
        fill_epoch(session, 0, 2_500)
        lanes, bundles = session.execute(
            text("SELECT count(DISTINCT lane), count(DISTINCT bundle_id) FROM receipts_e0")
        ).one()
        pages = session.scalar(text("SELECT count(*) FROM bundle_raws_e0"))
    assert (lanes, bundles, pages) == (2_500, 3, 3 * 77)


def test_partitions_that_go_with_a_drop_are_not_vacuumed_and_lanes_are(scene):
    with scene.sessions.begin() as session:
        options = dict(
            session.execute(
                text("SELECT relname, reloptions FROM pg_class WHERE relname LIKE '%\\_e0'")
            ).all()
        )
    assert options["receipts_e0"] == options["bundle_raws_e0"] == ["autovacuum_enabled=false"]
    assert options["lanes_e0"] is None
