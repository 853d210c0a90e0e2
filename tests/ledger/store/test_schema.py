"""The schema: migrations and tables agree, and the database itself refuses what must not happen."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import key, make_entitlement, make_payee_bundle, make_receipt, seed
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from ledger.evidence.bundle import parse_bundle
from ledger.store.bundle_store import insert_bundle, lock_sealing_epoch
from ledger.store.command import main
from ledger.store.epoch_store import EpochState, begin_sealing, find_epoch
from ledger.store.expiry_store import list_partitions
from ledger.store.migrate import describe_drift, find_migrations, upgrade

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def bundle(scene: ShardScene, epoch: int = 0, total: int = 999_983, number: int = 0) -> bytes:
    ann = make_entitlement(scene.operator, "ann")
    receipts = [make_receipt(ann, "ann", "seeder", epoch, total)]
    return make_payee_bundle("seeder", epoch, [ann], receipts, number)


def seal_epoch_zero(scene: ShardScene) -> None:
    scene.deposit(10_000_000_000, scene.terms.epoch_start_s(0) + 2)
    scene.reach_epoch(0)
    scene.upload(bundle(scene))
    scene.judge_all()
    scene.end_epoch(0)
    scene.advance()


def test_upgrading_twice_changes_nothing_and_tables_agree_with_the_schema(database_url):
    upgrade(database_url)
    assert describe_drift(database_url) == ""


def test_drift_is_named(database_url, scene):
    with scene.sessions.begin() as session:
        session.execute(text("ALTER TABLE bundles ADD COLUMN stray bigint"))
    assert "stray" in describe_drift(database_url)


def test_two_upgrades_at_once_of_an_empty_database_both_succeed(postgres_cluster):
    import psycopg

    with psycopg.connect(postgres_cluster.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE two_upgrades")
    url = postgres_cluster.url("two_upgrades")
    code = "import sys; from ledger.store.migrate import upgrade; upgrade(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(2)]
    exits = [process.wait(60) for process in processes]
    drift = describe_drift(url)
    with psycopg.connect(postgres_cluster.conninfo(), autocommit=True) as connection:
        connection.execute("DROP DATABASE two_upgrades WITH (FORCE)")
    assert (exits, drift) == ([0, 0], "")


def test_downgrade_is_refused(database_url):
    from sqlalchemy import create_engine

    config = Config()
    config.set_main_option("script_location", str(find_migrations()))
    engine = create_engine(database_url)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(RuntimeError, match="want a restored backup"):
            command.downgrade(config, "0001")
    engine.dispose()


def test_the_command_registers_once_and_again(database_url, scene, tmp_path, monkeypatch, capsys):
    operator = scene.operator
    for name, content in [
        ("terms", operator.signed_terms.raw),
        ("binding", operator.issuing_binding),
        ("activation", operator.activation.raw),
    ]:
        (tmp_path / name).write_bytes(content)
        monkeypatch.setenv(f"SWARMLEDGER_{name.upper()}_FILE", str(tmp_path / name))
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["register"]) == 0
    assert main(["check"]) == 0
    assert key("broadcaster").hex() in capsys.readouterr().out


def test_checkpoints_of_before_get_the_frontiers_of_their_trees(postgres_cluster):
    import psycopg
    from sqlalchemy import create_engine, make_url

    from ledger.evidence.merkle import RootBuilder
    from ledger.store.engine import DRIVER

    sizes, hashes = [1, 6, 7], [bytes([n]) * 32 for n in range(7)]
    with psycopg.connect(postgres_cluster.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE without_frontiers")
    url = postgres_cluster.url("without_frontiers")
    config = Config()
    config.set_main_option("script_location", str(find_migrations()))
    engine = create_engine(make_url(url).set(drivername=DRIVER))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        leaf = text("INSERT INTO leaves VALUES (:of, :index, 0, 'x', :hash)")
        checkpoint = text("INSERT INTO checkpoints VALUES (:of, :size, :size, :hash, :hash, 'x')")
        for of in (1, 2):
            for index, value in enumerate(hashes):
                connection.execute(leaf, {"of": of, "index": index, "hash": value})
            for size in sizes:
                row = {"of": of, "size": size, "hash": bytes(32)}
                connection.execute(checkpoint, row)
    upgrade(url)
    query = text("SELECT frontier FROM checkpoints WHERE tree_size = :size")
    for size in sizes:
        log = RootBuilder()
        for value in hashes[:size]:
            log.append_hash(value)
        with engine.connect() as connection:
            assert set(connection.scalars(query, {"size": size})) == {log.export_state()}
    engine.dispose()
    with psycopg.connect(postgres_cluster.conninfo(), autocommit=True) as connection:
        connection.execute("DROP DATABASE without_frontiers WITH (FORCE)")


def test_a_missing_database_url_is_named(monkeypatch, capsys):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main(["upgrade"]) == 1
    assert "SWARMLEDGER_DATABASE_URL: got nothing" in capsys.readouterr().err


APPEND_ONLY = [
    "terms", "activations", "bundle_raws", "lanes", "leaves", "states", "results", "checkpoints",
]  # fmt: skip


CHANGES = ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0}"]


def test_append_only_tables_refuse_every_change(scene):
    seal_epoch_zero(scene)
    for table in APPEND_ONLY:
        column = "raw" if table in {"terms", "activations", "bundle_raws"} else "broadcaster_id"
        with scene.sessions.begin() as session:
            count = text(f"SELECT count(*) FROM {table}")  # noqa: S608 - our own table names
            assert session.scalar(count) > 0, table
        for change in CHANGES:
            refused = pytest.raises(IntegrityError, match="append-only")
            with refused, scene.sessions.begin() as session:
                session.execute(text(change.format(table, column)))


REFUSED_AFTER_THE_SEAL = [
    ("UPDATE bundles SET code = 1", "want no change after the seal"),
    ("UPDATE bundles SET final_codes = ''", "want no change after the seal"),
    ("UPDATE bundles SET sealing_epoch = 1", "want only a verdict"),
    ("DELETE FROM bundles", "a promise was given"),
    ("TRUNCATE bundles CASCADE", "append-only"),
    ("UPDATE epochs SET state = 'open' WHERE number = 0", "want the same or the next"),
    ("UPDATE epochs SET salt_key = decode(repeat('00', 32), 'hex')", "stored one"),
    ("UPDATE epochs SET sealed_size = 9 WHERE number = 0", "want the sealed ones"),
    ("DELETE FROM epochs", "want no change"),
]


def test_a_sealed_epoch_is_immutable(scene):
    seal_epoch_zero(scene)
    for change, match in REFUSED_AFTER_THE_SEAL:
        refused = pytest.raises(IntegrityError, match=match)
        with refused, scene.sessions.begin() as session:
            session.execute(text(change))


def test_a_bundle_cannot_be_inserted_into_a_sealed_epoch_by_any_path(scene):
    seal_epoch_zero(scene)
    late = parse_bundle(bundle(scene, number=1))
    with pytest.raises(IntegrityError, match="want an open one"), scene.sessions.begin() as session:
        insert_bundle(session, scene.shard, late, sealing_epoch=0, promise=b"")


def test_sealing_waits_for_an_insert_and_the_next_insert_goes_to_the_next_seal(scene):
    """The collector holds the epoch's row; sealing gets it after the commit, nothing slips in."""
    scene.reach_epoch(0)
    scene.advance()
    locked, sealed = threading.Event(), threading.Event()

    def begin() -> None:
        locked.wait(10)
        with scene.sessions.begin() as session:
            begin_sealing(session, scene.shard, 0)
        sealed.set()

    thread = threading.Thread(target=begin)
    thread.start()
    with scene.sessions.begin() as session:
        assert lock_sealing_epoch(session, scene.shard, 0) == 0
        locked.set()
        assert not sealed.wait(0.5)
        signed = parse_bundle(bundle(scene))
        assert insert_bundle(session, scene.shard, signed, sealing_epoch=0, promise=b"promise")
    thread.join()
    with scene.sessions.begin() as session:
        assert find_epoch(session, scene.shard, 0).state == EpochState.SEALING
        assert lock_sealing_epoch(session, scene.shard, 0) == 1


def test_an_insert_that_waited_for_sealing_goes_to_the_next_seal(scene):
    scene.reach_epoch(0)
    scene.advance()
    numbers: list[int | None] = []

    def insert() -> None:
        with scene.sessions.begin() as session:
            numbers.append(lock_sealing_epoch(session, scene.shard, 0))

    with scene.sessions.begin() as session:
        begin_sealing(session, scene.shard, 0)
        thread = threading.Thread(target=insert)
        thread.start()
        thread.join(0.5)
        assert numbers == []
    thread.join()
    assert numbers == [1]


def test_uploads_against_sealing_stand_in_the_seal_that_was_promised(scene):
    """Many threads upload while the epoch ends: every promise is kept, none is doubled."""
    scene.reach_epoch(0)
    scene.advance()
    promises: list[tuple[bytes, int]] = []

    def upload(thread_number: int) -> None:
        for number in range(4):
            raw = bundle(scene, total=1_000_003 + number, number=4 * thread_number + number)
            promise = scene.upload(raw).value
            promises.append((promise.bundle_digest, promise.sealing_epoch))

    threads = [threading.Thread(target=upload, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    scene.end_epoch(0)
    scene.advance()
    for thread in threads:
        thread.join()
    scene.judge_all()
    scene.end_epoch(1)
    scene.advance()
    with scene.sessions.begin() as session:
        stored = session.execute(text("SELECT digest, sealing_epoch FROM bundles")).all()
        leaf_count = session.scalar(text("SELECT sum(sealed_size - opening_size) FROM epochs"))
    assert sorted(promises) == sorted((row.digest, row.sealing_epoch) for row in stored)
    assert len(stored) == 12
    # 12 bundles, the activation, two seals, and a correction if the lane moved after seal 0.
    assert leaf_count in {15, 16}


def test_a_promise_is_signed_by_the_log_key(scene):
    from ledger.evidence.keys import public_key_of
    from ledger.evidence.promise import PROMISE

    scene.reach_epoch(0)
    promise = scene.upload(bundle(scene))
    assert PROMISE.is_signed_by(promise, public_key_of(seed("log")))


def test_many_that_come_first_to_an_epoch_make_its_partitions_once(scene):
    threads_count, epochs = 6, range(100, 125)
    together = threading.Barrier(threads_count)
    faults: list[Exception] = []

    def make() -> None:
        for epoch in epochs:
            together.wait(60)
            try:
                with scene.sessions.begin() as session:
                    session.execute(text("SELECT make_partitions(:epoch)"), {"epoch": epoch})
            except DBAPIError as error:
                faults.append(error)

    threads = [threading.Thread(target=make) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with scene.sessions.begin() as session:
        for parent in ("bundle_raws", "receipts", "lanes"):
            assert set(epochs) <= set(list_partitions(session, parent))
