"""Expiry: partitions go once their audit file is good, and corrections still work without them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import key, make_entitlement, make_payee_bundle, make_receipt
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from ledger.audit.verify import Verdict, verify_audit_file
from ledger.sealing.expiry import EPOCHS_KEPT, expire
from ledger.store.bundle_store import find_by_digest
from ledger.store.engine import DatabaseUnavailableError
from ledger.store.expiry_store import drop_partitions, list_partitions, list_without_bytes
from ledger.store.raw_store import store_raw

pytestmark = pytest.mark.postgres

WINDOW = 4
"""Epochs in which a late receipt still counts."""


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path, correction_epochs=WINDOW) as made:
        made.deposit(50_000_000_000, made.terms.epoch_start_s(0) + 2)
        yield made


def upload(scene: ShardScene, epoch: int, total: int, *, sequence: int = 1, number: int = 0):
    ann = make_entitlement(scene.operator, "ann")
    receipt = make_receipt(ann, "ann", "seeder", epoch, total, sequence=sequence)
    return scene.upload(make_payee_bundle("seeder", epoch, [ann], [receipt], number)).value


def finish(scene: ShardScene, epoch: int) -> None:
    """Judge, seal, compute, anchor and file an epoch."""
    scene.judge_all()
    scene.end_epoch(epoch)
    scene.advance()
    scene.anchor(epoch, scene.terms.epoch_end_s(epoch) + 7)
    scene.advance()


def run(scene: ShardScene) -> int:
    return expire(scene.sessions, scene.shard, scene.audit_dir)


def partitions(scene: ShardScene) -> dict[str, list[int]]:
    with scene.sessions.begin() as session:
        return {
            parent: list_partitions(session, parent)
            for parent in ("bundle_raws", "receipts", "lanes")
        }


def epochs_with_bundles(scene: ShardScene, epochs: range) -> None:
    for epoch in epochs:
        scene.reach_epoch(epoch)
        upload(scene, epoch, 15_485_863 + epoch)
        finish(scene, epoch)


def test_bytes_go_after_the_epochs_kept_and_lanes_after_the_window(scene):
    epochs_with_bundles(scene, range(EPOCHS_KEPT))
    assert run(scene) == 0
    epochs_with_bundles(scene, range(EPOCHS_KEPT, WINDOW + 1))
    assert run(scene) == WINDOW + 1 - EPOCHS_KEPT + 1
    newest = list(range(WINDOW + 1 - EPOCHS_KEPT, WINDOW + 1))
    assert partitions(scene) == {
        "bundle_raws": newest,
        "receipts": newest,
        "lanes": list(range(1, WINDOW + 1)),
    }
    assert run(scene) == 0
    with scene.sessions.begin() as session:
        assert list_without_bytes(session, scene.shard) == list(range(newest[0]))


def test_late_receipt_of_an_epoch_whose_bytes_are_gone_is_still_a_correction(scene):
    epochs_with_bundles(scene, range(EPOCHS_KEPT + 1))
    assert run(scene) == 1
    late = EPOCHS_KEPT + 1
    scene.reach_epoch(late)
    promise = upload(scene, 0, 16_000_057, sequence=2, number=1)
    assert promise.sealing_epoch == late
    finish(scene, late)
    data = (scene.audit_dir / f"epoch-{late}.audit").read_bytes()
    assert verify_audit_file(data, scene.operator.trust).verdict == Verdict.PROVEN
    with scene.sessions.begin() as session:
        query = text("SELECT bytes_total FROM lanes WHERE epoch = 0 ORDER BY sealing_epoch")
        assert list(session.scalars(query)) == [15_485_863, 16_000_057]


def test_promise_is_answered_and_a_bundle_known_after_its_bytes_are_gone(scene):
    scene.reach_epoch(0)
    promise = upload(scene, 0, 15_485_863)
    finish(scene, 0)
    epochs_with_bundles(scene, range(1, EPOCHS_KEPT + 1))
    assert run(scene) == 1
    assert upload(scene, 0, 15_485_863) == promise
    with scene.sessions.begin() as session:
        assert find_by_digest(session, promise.bundle_digest).receipt_codes == (0,)


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_rows_stay_while_the_audit_file_is_not_whole(scene, damage):
    epochs_with_bundles(scene, range(EPOCHS_KEPT + 1))
    path = scene.audit_dir / "epoch-0.audit"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with capture_logs() as told:
        assert run(scene) == 0
    assert "audit_file_not_whole" in [entry["event"] for entry in told]
    path.write_bytes(data)
    assert run(scene) == 1


OTHERS_ROWS = """
INSERT INTO broadcasters (id, account, network_id, binding) VALUES (77, :other, :other, '');
INSERT INTO terms (broadcaster_id, digest, raw, first_epoch, last_epoch)
  VALUES (77, :other, :terms, 0, 99);
INSERT INTO epochs (broadcaster_id, number, salt_key) VALUES (77, 0, :other);
INSERT INTO bundles (broadcaster_id, submitter_key, epoch, kind, number, digest, size_bytes,
    promise, sealing_epoch) VALUES (77, :other, 0, 1, 0, :other, 1, '', 0)
"""


def another_broadcaster(scene: ShardScene) -> None:
    """Make one that has a bundle in the seal of epoch 0, on the same terms."""
    values = {"other": key("another"), "terms": scene.operator.signed_terms.raw}
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in OTHERS_ROWS.split(";"):
            session.execute(text(statement), values)


def file_epochs(scene: ShardScene, numbers: range) -> None:
    """Let epochs of the other broadcaster be filed."""
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        for number in numbers:
            session.execute(
                text(
                    "INSERT INTO epochs (broadcaster_id, number, salt_key, state, audit_digest,"
                    " opening_size, sealed_size, result_size, last_ledger_sequence,"
                    " last_ledger_close_s) VALUES (77, :number, :salt, 'settled', :salt, 0, 1, 2,"
                    " 1, 1) ON CONFLICT (broadcaster_id, number) DO UPDATE SET state = 'settled',"
                    " audit_digest = EXCLUDED.audit_digest, opening_size = 0, sealed_size = 1,"
                    " result_size = 2, last_ledger_sequence = 1, last_ledger_close_s = 1"
                ),
                {"number": number, "salt": bytes(32)},
            )


def test_partitions_stay_until_every_broadcaster_in_them_is_done(scene):
    epochs_with_bundles(scene, range(WINDOW + 1))
    another_broadcaster(scene)
    # Epochs 1 and 2 are this broadcaster's alone.
    assert run(scene) == 2
    file_epochs(scene, range(EPOCHS_KEPT))
    assert run(scene) == 0
    file_epochs(scene, range(EPOCHS_KEPT, EPOCHS_KEPT + 1))
    assert run(scene) == 1
    assert 0 not in partitions(scene)["bundle_raws"]
    # A late receipt of the other's epoch 0 is counted against these lanes.
    assert 0 in partitions(scene)["lanes"]
    file_epochs(scene, range(EPOCHS_KEPT + 1, WINDOW + 1))
    assert run(scene) == 1
    assert 0 not in partitions(scene)["lanes"]


def test_broadcaster_that_comes_to_a_number_later_finds_its_partitions_again(scene):
    epochs_with_bundles(scene, range(EPOCHS_KEPT + 1))
    assert run(scene) == 1
    assert 0 not in partitions(scene)["bundle_raws"]
    another_broadcaster(scene)
    with scene.sessions.begin() as session:
        # The trigger's work for a bundle, with what follows it in the same transaction.
        session.execute(text("SELECT make_partitions(0)"))
        store_raw(session, 0, 1 << 40, b"bytes of the other's bundle")
    found = partitions(scene)
    assert all(0 in found[parent] for parent in found)
    with scene.sessions.begin() as session:
        assert list_without_bytes(session, scene.shard) == [0]


def test_drop_that_would_have_to_wait_is_put_off(scene, monkeypatch):
    monkeypatch.setattr("ledger.store.expiry_store.LOCK_TIMEOUT", "100ms")
    epochs_with_bundles(scene, range(EPOCHS_KEPT + 1))
    with scene.sessions.begin() as reader:
        reader.execute(text("SELECT count(*) FROM bundle_raws"))
        refused = pytest.raises(DatabaseUnavailableError)
        with refused, scene.sessions.begin() as session:
            drop_partitions(session, ["bundle_raws"], 0)
        assert run(scene) == 0
    assert run(scene) == 1


def test_no_row_of_a_partition_can_be_changed_before_it_goes(scene):
    epochs_with_bundles(scene, range(1))
    for change in (
        "DELETE FROM bundle_raws_e0",
        "TRUNCATE bundle_raws_e0",
        "UPDATE bundle_raws_e0 SET raw = ''",
        "DELETE FROM receipts_e0",
        "TRUNCATE receipts_e0",
        "UPDATE receipts_e0 SET bytes_total = bytes_total + 1",
        "UPDATE receipts SET epoch = 9, sequence = sequence + 1",
        "UPDATE lanes_e0 SET bytes_total = 0",
        "TRUNCATE lanes_e0",
    ):
        refused = pytest.raises(IntegrityError, match=r"append-only|want a receipt that replaces")
        with refused, scene.sessions.begin() as session:
            session.execute(text(change))
