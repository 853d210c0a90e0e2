"""Bundles' bytes in pages: any length comes back as it went in, and only what was asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from sqlalchemy import text

from ledger.store.raw_store import PAGE_BYTES, load_raws, store_raw

pytestmark = pytest.mark.postgres

SIZES = [1, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES + 7]


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        with made.sessions.begin() as session:
            session.execute(text("SELECT make_partitions(0), make_partitions(1)"))
        yield made


def test_bytes_come_back_whatever_their_length(scene):
    raws = {number: bytes([number + 1]) * size for number, size in enumerate(SIZES)}
    with scene.sessions.begin() as session:
        for number, raw in raws.items():
            store_raw(session, number % 2, number, raw)
    keys = {(number % 2, number) for number in raws}
    with scene.sessions.begin() as session:
        assert load_raws(session, keys) == raws
        assert load_raws(session, [(0, 2)]) == {2: raws[2]}
        assert load_raws(session, [(1, 2), (0, 99), (5, 1)]) == {}


def test_page_fills_a_page_of_the_server_and_none_is_stored_apart(scene):
    with scene.sessions.begin() as session:
        store_raw(session, 0, 1, bytes(range(256)) * (PAGE_BYTES // 8))
    with scene.sessions.begin() as session:
        size = session.scalar(text("SELECT pg_relation_size('bundle_raws_e0')"))
        apart = session.scalar(
            text(
                "SELECT coalesce(pg_relation_size(reltoastrelid), 0) FROM pg_class"
                " WHERE relname = 'bundle_raws_e0'"
            )
        )
    assert (size, apart) == (32 * 8_192, 0)
