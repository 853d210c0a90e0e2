"""Nothing that a stranger can ask for names a viewer, a session key, a machine or a title."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from public_scan import forms_of, guesses, scan, viewer_secrets
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    address,
    key,
    make_entitlement,
    make_heartbeats,
    make_payee_bundle,
    make_receipt,
    make_viewer_bundle,
)

from ledger.api.app import make_app
from ledger.audit.file import AuditContents, parse_audit_file
from ledger.evidence.encoding import RecordCode
from ledger.evidence.leaf import BUNDLE_LEAF, BundleLeaf, code_of_leaf

pytestmark = pytest.mark.postgres

EPOCHS = 2


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    """Settled epochs in which the same people watch, and a bundle that waits."""
    with make_shard_scene(database_url, tmp_path) as made:
        made.deposit(50_000_000_000, made.terms.epoch_start_s(0) + 2)
        for epoch in range(EPOCHS):
            made.reach_epoch(epoch)
            for raw in bundles_of(made, epoch):
                made.upload(raw)
            made.judge_all()
            made.end_epoch(epoch)
            made.advance()
            made.anchor(epoch, made.terms.epoch_end_s(epoch) + 7)
            made.advance()
        made.reach_epoch(EPOCHS)
        made.upload(bundles_of(made, EPOCHS)[0])
        yield made


def bundles_of(scene: ShardScene, epoch: int) -> list[bytes]:
    ann, bob = (make_entitlement(scene.operator, name) for name in ("ann", "bob"))
    return [
        make_payee_bundle(
            "seeder",
            epoch,
            [ann, bob],
            [
                make_receipt(ann, "ann", "seeder", epoch, 7_919_001),
                make_receipt(bob, "bob", "seeder", epoch, 15_485_863),
            ],
        ),
        make_viewer_bundle(
            "ann",
            epoch,
            [ann],
            [make_receipt(ann, "ann", "cdn", epoch, 1_299_709)],
            heartbeats=make_heartbeats(scene.operator, ann, "ann", epoch, 3),
        ),
    ]


def audit_contents(scene: ShardScene) -> list[AuditContents]:
    paths = sorted(scene.audit_dir.glob("epoch-*.audit"))
    return [parse_audit_file(path.read_bytes()).contents for path in paths]


def bundle_leaves(scene: ShardScene) -> list[BundleLeaf]:
    return [
        BUNDLE_LEAF.parse_body(leaf)
        for leaf in scene.leaves()
        if code_of_leaf(leaf) == RecordCode.LEAF_BUNDLE
    ]


def public_answers(scene: ShardScene, client: httpx.Client) -> dict[str, bytes]:
    """Every GET of the API as a stranger can ask it, and every file of the log."""
    answers = {}
    log = scene.log_dir / address("broadcaster")
    files = [path.relative_to(log).as_posix() for path in log.rglob("*") if path.is_file()]
    digests = [leaf.bundle_digest.hex() for leaf in bundle_leaves(scene)]
    leaves = [str(index) for index in range(len(scene.leaves()))]
    epochs = [str(epoch) for epoch in range(EPOCHS + 2)]
    fillings = {
        "/log/{broadcaster}/{path}": [(address("broadcaster"), file) for file in files],
        "/v1/bundles/{digest}": [(digest,) for digest in digests],
        "/v1/epochs/{number}": [(epoch,) for epoch in epochs],
        "/v1/epochs/{number}/document": [(epoch,) for epoch in epochs],
        "/v1/proofs/{index}.tlog-proof": [(index,) for index in leaves],
    }
    for route, methods in make_app(scene.api_parts()).openapi()["paths"].items():
        if "get" not in methods:
            continue
        names = re.findall(r"\{(\w+)\}", route)
        for values in fillings.get(route, [("0" * 64,) * len(names)]):
            url = route
            for name, value in zip(names, values, strict=True):
                url = url.replace(f"{{{name}}}", value)
            answer = client.get(url, params={"old_size": "1", "new_size": "2", "nonce": "0" * 32})
            answers[url] = answer.content
            answers[f"{url} (headers)"] = str(sorted(answer.headers.items())).encode()
    return answers


# The collector's own address stands in the terms, which are public.
IS_PUBLIC = {"/v1/terms": "127.0.0.1"}


def test_no_public_answer_names_a_viewer_a_session_a_machine_or_a_title(scene) -> None:
    secrets = viewer_secrets(audit_contents(scene))
    assert {key("ann"), key("bob"), key("seeder")} <= set(secrets.values())
    with serve_app(make_app(scene.api_parts())) as client:
        answers = public_answers(scene, client)
        assert {"/metrics", "/checkpoint", "/v1/coverage", "/v1/epochs/1/document"} <= set(answers)
        found = scan(answers, secrets)
        assert [one for one in found if IS_PUBLIC.get(one.where) != one.what] == []
        # And it bites: one session key in the log's files, in any form, is found.
        entries = scene.log_dir / address("broadcaster") / "tile/entries"
        bundle = next(path for path in entries.rglob("*") if path.is_file())
        whole = bundle.read_bytes()
        for form, planted in forms_of(key("ann")).items():
            bundle.write_bytes(whole + b"x" + planted)
            path = bundle.relative_to(scene.log_dir).as_posix()
            answer = {path: client.get(f"/log/{path}").content}
            assert any("session key" in one.what for one in scan(answer, secrets)), form
        assert [one.what for one in scan({"log": b"from 192.0.2.7 and 2001:db8::7:1"}, {})] == [
            "192.0.2.7",
            "2001:db8::7:1",
        ]


def test_a_strangers_guesses_open_no_commitment(scene) -> None:
    """Whose bundle it was, and of which title, cannot be tried out without the epoch's salt key."""
    contents = audit_contents(scene)
    secrets = viewer_secrets(contents)
    titles = {value for name, value in secrets.items() if name.startswith("content id")}
    parties = {
        value for name, value in secrets.items() if name.startswith(("submitter", "session"))
    }
    parties |= {key("seeder account"), address("seeder account").encode()}
    tried = guesses(titles, parties, range(EPOCHS))
    log = b"".join(scene.leaves())
    assert len(tried) > 500
    assert [value.hex() for value in tried if value in log] == []
    by_epoch: dict[int, set[bytes]] = {}
    for leaf in bundle_leaves(scene):
        by_epoch.setdefault(leaf.sealing_epoch, set()).add(leaf.submitter_commitment)
    assert {len(commitments) for commitments in by_epoch.values()} == {2}
    assert len(set().union(*by_epoch.values())) == 2 * EPOCHS, "the same two, never the same"
