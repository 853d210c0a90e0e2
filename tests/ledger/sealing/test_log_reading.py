"""Audit files come out the same with and without the log's files, right or wrong."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import make_entitlement, make_payee_bundle, make_receipt

from ledger.audit.verify import Verdict, verify_audit_file
from ledger.sealing import log_reading
from ledger.sealing.audit_files import write_audit_file
from ledger.sealing.publishing import log_folder

EPOCHS = 3


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def settle(scene: ShardScene, epoch: int) -> bytes:
    """One bundle of the epoch, and one that is late, sealed, anchored and written down."""
    scene.reach_epoch(epoch)
    ann = make_entitlement(scene.operator, "ann")
    for of_epoch in {epoch, max(0, epoch - 1)}:
        receipt = make_receipt(
            ann, "ann", "seeder", of_epoch, 1_000_003 + epoch, sequence=epoch + 1
        )
        scene.upload(make_payee_bundle("seeder", of_epoch, [ann], [receipt], number=epoch))
    scene.judge_all()
    scene.end_epoch(epoch)
    scene.advance()
    scene.anchor(epoch, scene.terms.epoch_end_s(epoch) + 7)
    scene.advance()
    return (scene.audit_dir / f"epoch-{epoch}.audit").read_bytes()


def write_again(scene: ShardScene, epoch: int, *, with_log: bool = True) -> bytes:
    parts = replace(scene.sealing.audit, log_dir=scene.log_dir if with_log else None)
    return write_audit_file(scene.sessions, scene.shard, epoch, parts).read_bytes()


def test_log_is_read_out_of_its_tiles_and_else_out_of_the_database(
    scene: ShardScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.deposit(50_000_000_000, scene.terms.epoch_start_s(0) + 2)
    files = [settle(scene, epoch) for epoch in range(EPOCHS)]
    last = EPOCHS - 1
    assert verify_audit_file(files[last], scene.operator.trust).verdict == Verdict.PROVEN

    def read_whole(*_arguments: object, **_options: object) -> log_reading.LogView:
        raise AssertionError("the log was read as a whole")

    with monkeypatch.context() as patch:
        patch.setattr(log_reading, "LogView", read_whole)
        assert write_again(scene, last) == files[last]
        with pytest.raises(AssertionError, match="as a whole"):
            write_again(scene, last, with_log=False)
    assert write_again(scene, last, with_log=False) == files[last]
    tiles = sorted((log_folder(scene.log_dir, scene.shard) / "tile/0").rglob("*"))
    for tile in tiles:
        if tile.is_file():
            tile.write_bytes(bytes(tile.stat().st_size))
    assert write_again(scene, last) == files[last]
    for tile in tiles:
        if tile.is_file():
            tile.unlink()
    assert write_again(scene, last) == files[last]
