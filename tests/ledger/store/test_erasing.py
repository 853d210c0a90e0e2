"""After an erasure nothing of the viewer is left, and everything public verifies as before."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_scene import ShardScene, digest, make_shard_scene
from simulated_operator import (
    address,
    key,
    make_entitlement,
    make_heartbeats,
    make_payee_bundle,
    make_receipt,
    make_viewer_bundle,
    seed,
)
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from ledger.api.answers import RefusedError
from ledger.api.line_answers import LineAsker, answer_line
from ledger.api.log_routes import make_epoch_document
from ledger.audit.trust import format_trust
from ledger.embedded.postgres_binaries import find_binaries
from ledger.evidence.keys import sign
from ledger.publiclog.line_file import check_line_file
from ledger.publiclog.line_request import format_line_request
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.verification import verify_folder
from ledger.sealing.publishing import log_folder, publish
from ledger.store.bundle_store import find_by_digest
from ledger.store.command import main
from ledger.store.erasing import erase_older, erase_viewer
from ledger.store.erasure_store import NO_SALT_KEY, Reason, erase_epoch, list_erased
from ledger.store.errors import EpochOrderError

pytestmark = pytest.mark.postgres

WINDOW = 1


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    """Epoch 0 with ann and bob, epochs 1 to 4 with bob alone; all settled, all with audit files.

    In epoch 2 other bytes that name zoe come under the key of the seeder's bundle.
    """
    with make_shard_scene(database_url, tmp_path, correction_epochs=WINDOW) as made:
        made.deposit(50_000_000_000, made.terms.epoch_start_s(0) + 2)
        made.raws = []
        for epoch in range(5):
            made.reach_epoch(epoch)
            for raw in bundles_of(made, epoch):
                made.upload(raw)
                made.raws.append(raw)
            if epoch == 2:
                with pytest.raises(RefusedError, match="same key"):
                    made.upload(conflicting_bundle(made, epoch))
            made.judge_all()
            made.end_epoch(epoch)
            made.advance()
            made.anchor(epoch, made.terms.epoch_end_s(epoch) + 7)
            made.advance()
        yield made


def ann_of(scene: ShardScene):
    # Over by the first epoch's end, so that no later state speaks of it.
    return make_entitlement(scene.operator, "ann", not_after_s=scene.terms.epoch_end_s(0) - 1)


def bundles_of(scene: ShardScene, epoch: int) -> list[bytes]:
    bob = make_entitlement(scene.operator, "bob")
    paid = [make_receipt(bob, "bob", "seeder", epoch, 15_485_863)]
    if epoch:
        return [make_payee_bundle("seeder", epoch, [bob], paid)]
    ann = ann_of(scene)
    eve = make_entitlement(scene.operator, "eve")
    stranger = make_entitlement(scene.operator, "ann", terms_digest=bytes(32))
    return [
        make_payee_bundle(
            "seeder",
            epoch,
            [ann, bob, eve, stranger],
            [
                *paid,
                make_receipt(ann, "ann", "seeder", epoch, 7_919_001),
                make_receipt(ann, "ann", "seeder", epoch, 8_000_000, sequence=2),
                make_receipt(eve, "eve", "seeder", epoch, 7_919_001),
                make_receipt(eve, "eve", "seeder", epoch, 7_000_000, sequence=2),
                make_receipt(stranger, "ann", "seeder", epoch, 1_000),
            ],
        ),
        make_viewer_bundle(
            "ann",
            epoch,
            [ann],
            [make_receipt(ann, "ann", "cdn", epoch, 1_299_709)],
            heartbeats=make_heartbeats(scene.operator, ann, "ann", epoch, 4),
        ),
    ]


def conflicting_bundle(scene: ShardScene, epoch: int) -> bytes:
    zoe = make_entitlement(scene.operator, "zoe")
    return make_payee_bundle(
        "seeder", epoch, [zoe], [make_receipt(zoe, "zoe", "seeder", epoch, 7_000)]
    )


def dump(database_url: str) -> str:
    url = make_url(database_url).set(drivername="postgresql")
    return subprocess.run(
        [
            find_binaries().program("pg_dump"),
            "--data-only",
            url.render_as_string(hide_password=False),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def traces(dumped: str, *values: bytes) -> list[str]:
    """Forms in which a value stands in a dump: hexadecimal inside any longer value, or base64."""
    forms = [form for value in values for form in (value.hex(), base64.b64encode(value).decode())]
    return [form for form in forms if form in dumped]


def viewer_values(scene: ShardScene) -> list[bytes]:
    ann = ann_of(scene)
    receipt = make_receipt(ann, "ann", "seeder", 0, 7_919_001).value
    beat = make_heartbeats(scene.operator, ann, "ann", 0, 1)[0].value
    return [key("ann"), ann.raw[:64], receipt.lane_digest, ann.value.serial, beat.session_id]


def test_nothing_of_the_viewer_is_left_and_proofs_verify(scene, database_url, tmp_path) -> None:
    values = viewer_values(scene)
    assert len(traces(dump(database_url), *values)) >= 4, "the search finds what is there"
    with scene.sessions.begin() as session:
        documents = [make_epoch_document(session, scene.shard, epoch) for epoch in range(5)]
    done = erase_viewer(scene.sessions, scene.shard, key("ann"), scene.audit_dir)
    assert (done.epochs, done.waiting, done.bundles) == ((0,), (), 2)
    assert done.audit_files == ("epoch-0.audit",)
    assert traces(dump(database_url), *values) == []
    for path in scene.folder.rglob("*"):
        if path.is_file():
            assert not any(value in path.read_bytes() for value in values), path
    keys = keys_of_trust(scene.operator.trust)
    folder = log_folder(scene.log_dir, scene.shard)
    assert verify_folder(folder, keys).last_epoch == 4
    shutil.rmtree(folder)
    publish(scene.sessions, scene.shard, scene.log_dir)
    assert verify_folder(folder, keys).last_epoch == 4
    with scene.sessions.begin() as session:
        again = [make_epoch_document(session, scene.shard, epoch) for epoch in range(5)]
        assert again == documents
        for epoch in (0, 1):
            message = format_line_request(
                scene.shard.network_id, scene.shard.account, key("seeder account"), epoch
            )
            asker = LineAsker(
                account=address("seeder account"),
                epoch=epoch,
                key=key("seeder account").hex(),
                signature=sign(seed("seeder account"), message).hex(),
            )
            content = answer_line(session, scene.shard, asker, scene.log_dir)
            assert check_line_file(content, scene.operator.trust).epoch == epoch
        assert find_by_digest(session, digest(scene.raws[0])) is None
        row = session.execute(text("SELECT salt_key FROM epochs WHERE number = 0")).one()
        assert row.salt_key == NO_SALT_KEY
        assert list_erased(session, scene.shard) == [0]
    # A state names an entitlement by its digest, as long as a receipt can still use it.
    digest_of_ann = ann_of(scene).digest
    assert traces(dump(database_url), digest_of_ann) != []
    erase_older(scene.sessions, scene.shard, 1, scene.audit_dir)
    assert traces(dump(database_url), digest_of_ann, *values) == []


def test_a_viewer_that_only_a_conflict_names_is_erased_with_its_epoch(scene, database_url) -> None:
    assert traces(dump(database_url), key("zoe")) != []
    done = erase_viewer(scene.sessions, scene.shard, key("zoe"), None)
    assert (done.epochs, done.waiting) == ((2,), ())
    assert traces(dump(database_url), key("zoe")) == []


def test_a_key_that_only_an_equivocation_names_is_erased_with_its_epoch(
    scene, database_url
) -> None:
    insert = text(
        "INSERT INTO equivocations (broadcaster_id, sealing_epoch, first_receipt, second_receipt)"
        " VALUES (:of, :epoch, :first, :second)"
    )
    bob = make_entitlement(scene.operator, "bob")
    for epoch, payees in ((1, ("zed", "cdn")), (3, ("cdn", "zed")), (4, ("cdn", "cdn"))):
        first, second = (make_receipt(bob, "bob", payee, epoch, 5).raw for payee in payees)
        with scene.sessions.begin() as session:
            values = {"of": scene.shard.id, "epoch": epoch, "first": first, "second": second}
            session.execute(insert, values)
    done = erase_viewer(scene.sessions, scene.shard, key("zed"), None)
    assert (done.epochs, done.waiting) == ((1, 3), ())
    assert traces(dump(database_url), key("zed")) == []


def test_the_ledger_goes_on_after_an_erasure(scene) -> None:
    erase_viewer(scene.sessions, scene.shard, key("ann"), scene.audit_dir)
    scene.reach_epoch(5)
    for raw in bundles_of(scene, 5):
        scene.upload(raw)
    scene.judge_all()
    scene.end_epoch(5)
    scene.advance()
    scene.anchor(5, scene.terms.epoch_end_s(5) + 7)
    scene.advance()
    assert (scene.audit_dir / "epoch-5.audit").is_file()
    assert not (scene.audit_dir / "epoch-0.audit").exists()
    with pytest.raises(RefusedError) as caught:
        scene.upload(scene.raws[0])
    assert caught.value.code == "too_late"


def test_retention_keeps_epochs_and_never_less_than_the_window(scene) -> None:
    for keep, erased in ((5, 0), (3, 2), (1, 4), (0, 4)):
        erase_older(scene.sessions, scene.shard, keep, scene.audit_dir)
        with scene.sessions.begin() as session:
            assert list_erased(session, scene.shard) == list(range(erased))
        files = {path.name for path in scene.audit_dir.iterdir()}
        assert files == {f"epoch-{epoch}.audit" for epoch in range(erased, 5)}


FORBIDDEN = [
    "DELETE FROM bundles WHERE sealing_epoch = 1",
    "DELETE FROM bundle_raws WHERE sealing_epoch = 1",
    "DELETE FROM receipts WHERE sealing_epoch = 1",
    "DELETE FROM lanes WHERE sealing_epoch = 1",
    "DELETE FROM states WHERE epoch = 1",
    "UPDATE states SET closing = '' WHERE epoch = 1",
    "UPDATE states SET closing = 'x' WHERE epoch = 0",
    "UPDATE lanes SET bytes_total = 0 WHERE sealing_epoch = 1",
    "UPDATE epochs SET salt_key = decode(repeat('00', 32), 'hex') WHERE number = 1",
    "UPDATE epochs SET salt_key = decode(repeat('01', 32), 'hex') WHERE number = 0",
    "DELETE FROM erasures",
    "UPDATE erasures SET epoch = 1",
    "DELETE FROM leaves",
    "DELETE FROM checkpoints",
]


def test_an_erasure_opens_no_other_epoch(scene) -> None:
    erase_viewer(scene.sessions, scene.shard, key("ann"), None)
    for statement in FORBIDDEN:
        with scene.sessions() as session, pytest.raises(DBAPIError):
            session.execute(text(statement))
    with scene.sessions.begin() as session, pytest.raises(EpochOrderError):
        erase_epoch(session, scene.shard, 4, window_epochs=WINDOW, reason=Reason.VIEWER)
    insert = text(
        "INSERT INTO erasures (broadcaster_id, epoch, window_epochs, reason, bundle_count)"
        " VALUES (:of, 4, 1, 'viewer', 0)"
    )
    with scene.sessions() as session, pytest.raises(DBAPIError, match="settled epochs"):
        session.execute(insert, {"of": scene.shard.id})


def test_the_commands_do_the_same(scene, database_url, tmp_path, monkeypatch, capsys) -> None:
    trust = tmp_path / "trust.json"
    trust.write_text(format_trust(scene.operator.trust))
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SWARMLEDGER_TRUST_FILE", os.fspath(trust))
    monkeypatch.setenv("SWARMLEDGER_AUDIT_DIR", os.fspath(scene.audit_dir))
    assert main(["erase", "--viewer", key("ann").hex(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["epochs"] == [0]
    for epochs in ([1, 2, 3], []):
        assert main(["erase", "--viewer", key("bob").hex(), "--json"]) == 1, "4 is not due"
        done = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (done["epochs"], done["waiting"]) == (epochs, [4])
    assert main(["retention", "--keep-epochs", "9"]) == 0
    assert main(["erase", "--viewer", "nobody"]) == 1
    assert main(["check"]) == 0
