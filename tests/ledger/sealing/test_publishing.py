"""A grown log is written from its new leaves, whatever became of the old files."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import ORIGIN, seed
from sqlalchemy import event, text

from ledger.evidence.checkpoint import Checkpoint, sign_checkpoint
from ledger.evidence.merkle import RootBuilder, leaf_hash
from ledger.evidence.note import format_note
from ledger.evidence.tile import check_tiles, read_leaves
from ledger.sealing.files import write_file
from ledger.sealing.publishing import log_folder, publish
from ledger.store.epoch_store import EpochState, open_epochs, store_checkpoint
from ledger.store.tables import EpochRow, LeafRow

pytestmark = pytest.mark.postgres

SIZES = [3, 255, 256, 300, 700, 701]


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    """A shard whose log has grown to each of the sizes, none of them published."""
    with make_shard_scene(database_url, tmp_path) as made:
        grow(made)
        yield made


def grow(scene: ShardScene) -> None:
    log = RootBuilder()
    with scene.sessions.begin() as session:
        open_epochs(session, scene.shard, first=0, last=len(SIZES))
    for epoch, size in enumerate(SIZES):
        with scene.sessions.begin() as session:
            for index in range(log.size, size):
                data = b"leaf %d" % index
                log.append(data)
                row = {"leaf_index": index, "data": data, "leaf_hash": leaf_hash(data)}
                session.add(LeafRow(broadcaster_id=scene.shard.id, epoch=epoch, **row))
            session.flush()
            head = Checkpoint(origin=ORIGIN, tree_size=size, root_hash=log.root())
            note = format_note(sign_checkpoint(head, seed("log")))
            frontier = log.export_state()
            store_checkpoint(session, scene.shard, epoch, head, note=note, frontier=frontier)


def compute_epoch(scene: ShardScene, epoch: int) -> None:
    """Let an epoch count as computed: its checkpoint is to be published."""
    for state in (EpochState.SEALING, EpochState.SEALED, EpochState.COMPUTED):
        with scene.sessions.begin() as session:
            row = session.get(EpochRow, (scene.shard.id, epoch))
            row.state = state.value
            if state == EpochState.SEALED:
                row.opening_size, row.sealed_size = 0, 1
                row.last_ledger_sequence, row.last_ledger_close_s = 1, 1
            if state == EpochState.COMPUTED:
                row.result_size = SIZES[epoch]


def require_log(scene: ShardScene, size: int) -> None:
    folder = log_folder(scene.log_dir, scene.shard)

    def read_file(path: str) -> bytes | None:
        file = folder / path
        return file.read_bytes() if file.is_file() else None

    leaves = list(read_leaves(size, read_file))
    assert leaves == [b"leaf %d" % index for index in range(size)]
    check_tiles(leaves, read_file)
    assert (folder / "checkpoint").read_text().splitlines()[1] == str(size)


def files_of(scene: ShardScene) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in scene.log_dir.rglob("*") if p.is_file()}


def test_growth_gives_the_files_that_a_whole_writing_gives(scene: ShardScene) -> None:
    for epoch, size in enumerate(SIZES):
        compute_epoch(scene, epoch)
        assert publish(scene.sessions, scene.shard, scene.log_dir) == 1
        require_log(scene, size)
    grown = files_of(scene)
    assert publish(scene.sessions, scene.shard, scene.log_dir) == 0
    for path in grown:
        path.unlink()
    assert publish(scene.sessions, scene.shard, scene.log_dir) == len(SIZES)
    assert files_of(scene) == grown


def test_folder_of_an_older_copy_is_filled_before_its_checkpoint_grows(
    scene: ShardScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the folder after 300 leaves comes back when 700 were published."""
    compute_epoch(scene, 0)
    publish(scene.sessions, scene.shard, scene.log_dir)
    for epoch in (1, 2, 3):
        compute_epoch(scene, epoch)
    publish(scene.sessions, scene.shard, scene.log_dir)
    older = files_of(scene)
    compute_epoch(scene, 4)
    publish(scene.sessions, scene.shard, scene.log_dir)
    whole = files_of(scene)
    for path in whole.keys() - older.keys():
        path.unlink()
    for path, content in older.items():
        path.write_bytes(content)
    # Lost without a trace at the edge: the first tile, too.
    (log_folder(scene.log_dir, scene.shard) / "tile/entries/000").unlink()
    shown: list[bytes] = []

    def write_and_note(path: Path, content: bytes) -> None:
        write_file(path, content)
        if path.name == "checkpoint":
            shown.append(content)

    monkeypatch.setattr("ledger.sealing.publishing.write_file", write_and_note)
    assert publish(scene.sessions, scene.shard, scene.log_dir) == 5
    assert files_of(scene) == whole
    assert [note.splitlines()[1] for note in shown] == [b"700"]
    require_log(scene, 700)
    # A restored database does not know what was published; the folder's readers do.
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE epochs SET published_at = NULL"))
    assert publish(scene.sessions, scene.shard, scene.log_dir) == 5
    assert [note.splitlines()[1] for note in shown] == [b"700", b"700"]
    assert files_of(scene) == whole


@pytest.mark.parametrize("damage", ["missing", "changed hash", "changed leaf", "short"])
def test_damaged_old_files_are_not_built_on(scene: ShardScene, damage: str) -> None:
    for epoch in range(4):
        compute_epoch(scene, epoch)
    publish(scene.sessions, scene.shard, scene.log_dir)
    folder = log_folder(scene.log_dir, scene.shard)
    tile, bundle = folder / "tile/0/001.p/44", folder / "tile/entries/001.p/44"
    if damage == "missing":
        tile.unlink()
    elif damage == "changed hash":
        tile.write_bytes(bytes(32) + tile.read_bytes()[32:])
    elif damage == "short":
        tile.write_bytes(tile.read_bytes()[:-1])
    else:
        bundle.write_bytes(bundle.read_bytes().replace(b"leaf", b"LEAF"))
    if damage != "changed leaf":
        # Only the hashes at the edge are looked at; what is lost before them comes back with them.
        (folder / "tile/entries/000").unlink()
    compute_epoch(scene, 4)
    publish(scene.sessions, scene.shard, scene.log_dir)
    require_log(scene, SIZES[4])


def test_growth_reads_the_new_leaves_and_one_bundle_at_most(scene: ShardScene) -> None:
    for epoch in range(5):
        compute_epoch(scene, epoch)
    publish(scene.sessions, scene.shard, scene.log_dir)
    compute_epoch(scene, 5)
    read: list[int] = []

    def count_rows(_connection, cursor, statement, *_rest) -> None:
        if "FROM leaves" in statement:
            read.append(cursor.rowcount)

    engine = scene.sessions.engine
    event.listen(engine, "after_cursor_execute", count_rows)
    publish(scene.sessions, scene.shard, scene.log_dir)
    # 700 leaves stood in two full bundles and 188 leaves of a third one; one was new.
    assert read == [189]
    require_log(scene, 701)
