"""A stranger restores a dead operator's database; M settlers' keys settle on from it."""

import json
import shutil
from pathlib import Path

import pytest
from simulated_operator import key, seed
from treasury_scene import PASSPHRASE, TreasuryScene, treasury_scene

from ledger.audit.trust import format_trust
from ledger.embedded.drill_parties import Party
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.tile import growth_files_of
from ledger.rebuilding.command import main
from ledger.rebuilding.evidence import Evidence
from ledger.rebuilding.rebuild import Rebuilding, Rebuilt, read_domain_facts
from ledger.rebuilding.restore import open_restoring
from ledger.stellar.domain import Policy, SettlementDomain
from ledger.stellar.gathering import TreasurySigner
from ledger.stellar.settlement import SettlementReport, settle
from ledger.stellar.settler_records import SettlerFolder
from ledger.stellar.signing import SeedKeys
from ledger.store import settlement_store
from ledger.store.engine import SessionFactory, make_session_factory, open_engine

pytestmark = [pytest.mark.postgres, pytest.mark.process]

ROUNDS_MAX = 60


class Mirror:
    """A mirror that kept every checkpoint, and the payee's own bundles."""

    def __init__(self, scene: TreasuryScene, folder: Path) -> None:
        self.scene, self.folder = scene, folder
        self.evidence = Evidence(broadcaster=key("broadcaster"))
        self.evidence.add_terms(scene.operator.signed_terms.raw)
        self.evidence.add_binding(scene.operator.issuing_binding)
        (folder / "kept").mkdir(parents=True)

    def close_epoch(self, bytes_total: int) -> None:
        operator = self.scene.operator
        raw = operator.owe(bytes_total)
        self.evidence.bundles[parse_bundle(raw).digest] = raw
        operator.close([raw])
        for path, content in growth_files_of(operator.leaves, 0):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(content)
        kept = self.folder / "kept" / f"{len(operator.leaves)}.checkpoint"
        for path in (kept, self.folder / "checkpoint"):
            path.write_bytes(operator.checkpoint)

    def restore(self, url: str) -> Rebuilt:
        facts = read_domain_facts([self.scene.gateway], self.evidence)
        rebuilding = Rebuilding(self.folder, self.scene.operator.trust, self.evidence, facts)
        with open_restoring(url, rebuilding) as restoring:
            rebuilt = rebuilding.run([restoring.take], lambda _done, _count, _text: None)
            restoring.finish()
        return rebuilt


def tick(scene: TreasuryScene, sessions: SessionFactory, names: list[str]) -> SettlementReport:
    keys = SeedKeys({key(name): seed(name) for name in names})
    domain = SettlementDomain(
        terms=scene.operator.terms,
        passphrase=PASSPHRASE,
        signer=TreasurySigner(sessions, scene.gateway, scene.operator.terms, keys),
        policy=Policy(margin_ledgers=1, room_ledgers=3, room_s=6),
    )
    scene.devnet.close_ledgers()
    return settle(sessions, (scene.gateway,), domain)


def states(sessions: SessionFactory) -> list[str]:
    with sessions() as session:
        batches = settlement_store.load_batches(session, key("broadcaster"))
    return [str(batch.state) for batch in batches]


def test_a_restored_database_pays_what_is_open_and_nothing_twice(
    database_url: str, tmp_path: Path
) -> None:
    engine = open_engine(database_url)
    sessions = make_session_factory(engine)
    with treasury_scene(tmp_path) as scene:
        mirror = Mirror(scene, tmp_path / "mirror")
        mirror.close_epoch(999_983)
        first = scene.operator.plans[0]
        for leaf in first:
            # Before it died the operator had these paid: the restored database learns of it.
            envelope = scene.assemble(leaf, scene.gather(leaf, "settler a", "settler b"))
            assert scene.gateway.submit(envelope.envelope).status == "pending"
            scene.devnet.close_ledgers()
        before = scene.balance("seeder account")
        assert before == sum(leaf.total_stroops for leaf in first[1:]) > 0
        mirror.close_epoch(1_999_983)
        rebuilt = mirror.restore(database_url)
        assert rebuilt.state_root == scene.operator.result.result_leaf.closing_state_root
        assert (rebuilt.open_batches, rebuilt.batches) == (2, 4)
        assert states(sessions) == ["planned"] * 4
        # One settler of two that must agree: what was paid is seen, nothing more happens.
        tick(scene, sessions, ["settler b"])
        assert states(sessions) == ["paid", "paid", "planned", "planned"]
        assert scene.balance("seeder account") == before
        for _ in range(ROUNDS_MAX):
            report = tick(scene, sessions, ["settler b", "settler c"])
            assert not report.is_halted, report
            if not report.undecided:
                break
        assert states(sessions) == ["paid"] * 4
        planned = [leaf for plan in scene.operator.plans.values() for leaf in plan]
        owed = sum(leaf.total_stroops for leaf in planned if leaf.source_account == key("payout"))
        assert scene.balance("seeder account") == owed == rebuilt.planned_stroops
    engine.dispose()


def command_line(scene: TreasuryScene, mirror: Mirror, folder: Path) -> list[str]:
    operator = scene.operator
    spool = Party(name="seeder", account_seed=seed("seeder account"), folder=folder, number=0)
    for raw in mirror.evidence.bundles.values():
        spool.keep(raw, None)
    folder.mkdir(exist_ok=True)
    papers = {
        "terms": operator.signed_terms.raw,
        "binding": operator.issuing_binding,
        "trust": format_trust(operator.trust).encode(),
    }
    arguments = ["--mirror", str(mirror.folder), "--spools", str(folder), "--json"]
    arguments += ["--gateway", f"horizon:{scene.devnet.url}"]
    for name, content in papers.items():
        (folder / name).write_bytes(content)
        arguments += [f"--{name}", str(folder / name)]
    return arguments


def test_command_tells_rebuilt_from_different_from_unknown(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> tuple[int, dict]:
        status = main([*line, *more])
        return status, json.loads(capsys.readouterr().out)

    with treasury_scene(tmp_path) as scene:
        mirror = Mirror(scene, tmp_path / "mirror")
        for epoch in range(2):
            mirror.close_epoch(999_983 + epoch)
        line = command_line(scene, mirror, tmp_path / "parties")
        settler = tmp_path / "a-settler"
        status, told = run("--settler", str(settler), "--database", database_url)
        assert (status, told["verdict"], told["restored"]) == (0, "rebuilt", True)
        root = scene.operator.result.result_leaf.closing_state_root
        assert (told["state_hash"], told["epochs"], told["payouts"]) == (root.hex(), 2, 2)
        learned = SettlerFolder(settler).load_epochs(0)
        assert [one.payouts for one in learned] == list(scene.operator.plans.values())
        # A database that is not empty, another log than was mirrored, a bundle that nobody has.
        status, told = run("--database", database_url)
        assert (status, told["verdict"]) == (1, "disproven")
        entries = mirror.folder / "tile" / "entries"
        (bundle,) = entries.rglob(str(len(scene.operator.leaves)))
        content = bundle.read_bytes()
        bundle.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        status, told = run()
        assert (status, told["verdict"]) == (1, "disproven")
        bundle.write_bytes(content)
        assert run()[0] == 0
        shutil.rmtree(tmp_path / "parties")
        line = command_line(scene, Mirror(scene, tmp_path / "nothing"), tmp_path / "parties")
        line[1] = str(mirror.folder)
        status, told = run()
        assert (status, told["verdict"]) == (2, "cannot tell")
        assert "want it from a party" in told["reason"]
