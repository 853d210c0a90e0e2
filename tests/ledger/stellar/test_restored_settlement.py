"""A stranger restores a dead operator's database; M settlers' keys settle on from it."""

from pathlib import Path

import pytest
from simulated_operator import key, seed
from treasury_scene import PASSPHRASE, TreasuryScene, treasury_scene

from ledger.evidence.bundle import parse_bundle
from ledger.evidence.tile import growth_files_of
from ledger.rebuilding.evidence import Evidence
from ledger.rebuilding.rebuild import Rebuilding, Rebuilt, read_domain_facts
from ledger.rebuilding.restore import open_restoring
from ledger.stellar.domain import Policy, SettlementDomain
from ledger.stellar.gathering import TreasurySigner
from ledger.stellar.settlement import SettlementReport, settle
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
