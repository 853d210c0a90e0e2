"""Every write on an epoch's way fails once, lost or kept; the next run goes on from there.

One row for each write, in the order of an undisturbed run: its name, and the epoch's state if the
process dies during the write and nothing of it is durable, or all of it is. Afterwards the same
code is run again, and what comes out is what an undisturbed run gives, byte for byte. A write that
has no row here fails the first test.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from databases import copied_database
from faulty_commits import Fate, FaultyCommits
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import make_entitlement, make_payee_bundle, make_receipt

from ledger.audit.verify import Verdict, verify_audit_file
from ledger.sealing import audit_files, publishing
from ledger.sealing.files import write_file
from ledger.simulation.turns import KilledError
from ledger.store import epoch_store
from ledger.store.epoch_store import EpochState, find_epoch, list_checkpoints

pytestmark = pytest.mark.postgres

OPEN, SEALING, SEALED, COMPUTED, SETTLED = EpochState


@dataclass(frozen=True)
class Row:
    """One write."""

    write: str
    if_lost: EpochState | None
    if_kept: EpochState | None


TABLE = [
    Row("_store", None, OPEN),
    Row("sweep_batches", OPEN, OPEN),
    Row("judge_bundles", OPEN, OPEN),
    Row("judge_bundles again", OPEN, OPEN),
    Row("_open", OPEN, OPEN),
    Row("close_to_bundles", OPEN, SEALING),
    Row("seal", SEALING, SEALED),
    Row("compute", SEALED, COMPUTED),
    Row("file log.vkey", COMPUTED, COMPUTED),
    Row("file tile/entries/000.p/6", COMPUTED, COMPUTED),
    Row("file tile/0/000.p/6", COMPUTED, COMPUTED),
    Row("file checkpoint", COMPUTED, COMPUTED),
    Row("publish", COMPUTED, COMPUTED),
    Row("settle", COMPUTED, SETTLED),
    Row("file epoch-0.audit", SETTLED, SETTLED),
    Row("write_audit_file", SETTLED, SETTLED),
]


class Disturbed:
    """A scene of which one write fails once."""

    def __init__(self, scene: ShardScene, row: Row | None, fate: Fate) -> None:
        self.scene, self.row, self.fate = scene, row, fate
        self.writes: list[str] = []
        self.is_watching = False
        self.faulty = FaultyCommits(scene.sessions, decide=self.note, counts_rows=True)
        scene.sessions = self.faulty
        scene.__post_init__()

    def note(self, name: str) -> Fate | None:
        """Note a write by its name; tell what becomes of it."""
        if not self.is_watching:
            return None
        if name in self.writes:
            name += " again"
        if name in self.writes:
            return None
        self.writes.append(name)
        if self.row is None or name != self.row.write:
            return None
        return self.fate

    def write_file(self, path: Path, content: bytes) -> None:
        """Write a file as `write_file` does, unless the process dies."""
        name = path.relative_to(self.scene.folder)
        named = [part for part in name.parts[1:] if not part.startswith("G")]
        fate = self.note("file " + "/".join(named))
        if fate == Fate.LOST:
            raise KilledError(f"before {name}")
        write_file(path, content)
        if fate == Fate.KEPT:
            raise KilledError(f"after {name}")

    def write_pieces(self, path: Path, pieces: Iterable[bytes]) -> None:
        """The same of a file that comes in pieces."""
        self.write_file(path, b"".join(pieces))

    def run(self) -> list[EpochState | None]:
        """Bring epoch 0 from its first bundle to its audit file.

        Returns:
            The epoch's state after each death; None while there is no such epoch.
        """
        scene, deaths = self.scene, []
        scene.deposit(50_000_000_000, scene.terms.epoch_start_s(0) + 2)
        scene.reach_epoch(0)
        raw = bundle(scene)
        steps: list[Callable[[], object]] = [
            lambda: scene.upload(raw),
            scene.judge_all,
            lambda: scene.end_epoch(0),
            scene.advance,
            lambda: scene.anchor(0, scene.terms.epoch_end_s(0) + 7),
            scene.advance,
        ]
        for step in steps:
            self.is_watching = step in steps[:2] or step == scene.advance
            try:
                step()
            except KilledError:
                self.is_watching = False
                deaths.append(self.state())
                step()
        self.is_watching = False
        return deaths

    def state(self) -> EpochState | None:
        with self.scene.sessions.begin() as session:
            epoch = find_epoch(session, self.scene.shard, 0)
        return None if epoch is None else epoch.state

    def read_documents(self) -> dict[str, bytes]:
        scene = self.scene
        with scene.sessions.begin() as session:
            found = {
                f"checkpoint {x.epoch}": x.note for x in list_checkpoints(session, scene.shard)
            }
        found |= {f"leaf {at}": leaf for at, leaf in enumerate(scene.leaves())}
        for path in scene.folder.rglob("*"):
            # Drafts of a dead process may lie about; nobody is shown them.
            if path.is_file() and not path.name.startswith("."):
                found[str(path.relative_to(scene.folder))] = path.read_bytes()
        return found


def bundle(scene: ShardScene) -> bytes:
    ann = make_entitlement(scene.operator, "ann")
    receipts = [
        make_receipt(ann, "ann", "seeder", 0, 7_919_001),
        make_receipt(ann, "ann", "seeder", 0, 7_950_001, sequence=2),
    ]
    return make_payee_bundle("seeder", 0, [ann], receipts)


@pytest.fixture
def disturb(postgres_cluster, template_database, tmp_path: Path, monkeypatch):
    # Salts are random; two runs can be compared only if they have the same.
    monkeypatch.setattr(epoch_store, "generate_seed", lambda: b"\7" * 32)
    folders = (tmp_path / str(number) for number in count())

    @contextmanager
    def make(row: Row | None = None, fate: Fate = Fate.LOST) -> Iterator[Disturbed]:
        with (
            copied_database(postgres_cluster, template_database) as url,
            make_shard_scene(url, next(folders)) as scene,
            monkeypatch.context() as patch,
        ):
            disturbed = Disturbed(scene, row, fate)
            patch.setattr(publishing, "write_file", disturbed.write_file)
            patch.setattr(audit_files, "write_pieces", disturbed.write_pieces)
            yield disturbed

    return make


def test_every_write_has_its_row_and_is_made_good_by_the_next_run(disturb):
    with disturb() as scenario:
        assert scenario.run() == []
        assert scenario.writes == [row.write for row in TABLE], scenario.writes
        data = (scenario.scene.audit_dir / "epoch-0.audit").read_bytes()
        report = verify_audit_file(data, scenario.scene.operator.trust)
        assert report.verdict == Verdict.PROVEN
        undisturbed = scenario.read_documents()
    for row in TABLE:
        for fate in Fate:
            with disturb(row, fate) as scenario:
                expected = row.if_lost if fate == Fate.LOST else row.if_kept
                assert scenario.run() == [expected], (row.write, fate)
                assert scenario.read_documents() == undisturbed, (row.write, fate)
