"""What is left when an operator is gone: a mirror, the parties' evidence and a chain's facts."""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    NETWORK,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)

from ledger.evidence.bundle import parse_bundle
from ledger.evidence.instruction import REFUND, Refund
from ledger.evidence.instruction_list import instruction_list_path, parse_instruction_list
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.mirror import mirror_log
from ledger.publiclog.source import FolderSource
from ledger.publiclog.verification import verify_folder
from ledger.rebuilding.evidence import Evidence
from ledger.rebuilding.rebuild import Rebuilding
from ledger.rebuilding.replay import RebuiltEpoch, Replay
from ledger.sealing.publishing import log_folder
from ledger.store.instruction_store import keep_instruction
from ledger.store.settlement_store import load_facts

EPOCHS = 3


@dataclass
class Survivors:
    """What is left when the operator is gone."""

    scene: ShardScene
    mirror: Path
    evidence: Evidence
    facts: tuple

    def copy_to(self, folder: Path) -> "Survivors":
        """Copy all that a test may change."""
        shutil.copytree(self.mirror, folder / "mirror")
        scene = copy.copy(self.scene)
        scene.operator = copy.copy(self.scene.operator)
        scene.log_dir = folder / "log"
        shutil.copytree(self.scene.log_dir, scene.log_dir)
        evidence = Evidence(
            broadcaster=self.evidence.broadcaster,
            bundles=dict(self.evidence.bundles),
            terms=dict(self.evidence.terms),
            bindings=list(self.evidence.bindings),
            instructions=dict(self.evidence.instructions),
        )
        return Survivors(scene, folder / "mirror", evidence, self.facts)

    def rebuilding(self) -> Rebuilding:
        return Rebuilding(self.mirror, self.scene.operator.trust, self.evidence, self.facts)

    def replay(self) -> list[RebuiltEpoch]:
        source = FolderSource(self.mirror)
        size = verify_folder(self.mirror, keys_of_trust(self.scene.operator.trust)).tree_size
        replay = Replay(TileReader(size, source.read), self.evidence, self.facts, NETWORK)
        return list(replay.epochs(0))


@contextmanager
def make_survivors(database_url: str, tmp_path: Path) -> Iterator[Survivors]:
    """Run an operator for some epochs; a mirror grows with each."""
    evidence = Evidence(broadcaster=key("broadcaster"))
    with make_shard_scene(database_url, tmp_path) as scene:
        scene.deposit(50_000_000_000, scene.terms.epoch_start_s(0) + 2)
        for epoch in range(EPOCHS):
            scene.reach_epoch(epoch)
            for raw in bundles_of(scene, epoch):
                scene.upload(raw)
                evidence.bundles[parse_bundle(raw).digest] = raw
            scene.judge_all()
            with scene.sessions.begin() as session:
                keep_instruction(session, scene.shard, refund(epoch))
            scene.end_epoch(epoch)
            scene.advance()
            scene.anchor(epoch, scene.terms.epoch_end_s(epoch) + 7)
            scene.advance()
            mirror_log(
                FolderSource(log_folder(scene.log_dir, scene.shard)),
                tmp_path / "mirror",
                keys_of_trust(scene.operator.trust),
            )
        for epoch in range(EPOCHS):
            path = tmp_path / "mirror" / instruction_list_path(epoch)
            evidence.add_instructions(epoch, parse_instruction_list(path.read_bytes()))
        evidence.add_terms(scene.operator.signed_terms.raw)
        evidence.add_binding(scene.operator.issuing_binding)
        with scene.sessions() as session:
            facts = load_facts(
                session, scene.shard.account, after_sequence=0, through_sequence=1 << 31
            )
        yield Survivors(scene, tmp_path / "mirror", evidence, facts)


def bundles_of(scene: ShardScene, epoch: int) -> list[bytes]:
    ann = make_entitlement(scene.operator, "ann")
    receipts = [make_receipt(ann, "ann", "seeder", epoch, 3_000_000 + epoch)]
    if epoch:
        # Late for the epoch before: a correction of what counted there.
        late = make_receipt(ann, "ann", "seeder", epoch - 1, 9_000_000, sequence=9)
        return [
            make_payee_bundle("seeder", epoch, [ann], receipts),
            make_payee_bundle("seeder", epoch - 1, [ann], [late], number=7),
        ]
    return [make_payee_bundle("seeder", epoch, [ann], receipts)]


def refund(serial: int):
    value = Refund(
        network_id=NETWORK,
        broadcaster_account=key("broadcaster"),
        serial=serial + 1,
        amount_stroops=1_000 + serial,
    )
    return REFUND.sign(value, seed("broadcaster"))
