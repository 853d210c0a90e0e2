"""The public log over HTTP: caching, proofs, documents, and lines for their parties alone."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from public_logs import LogMaker, make_trust, vkey
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    NETWORK,
    ORIGIN,
    address,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)

from ledger.api.app import make_app
from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.audit.trust import TrustedKey, format_trust
from ledger.evidence.keys import sign
from ledger.evidence.merkle import check_consistency, root_hash
from ledger.evidence.tlog_proof import check_tlog_proof, format_tlog_proof, parse_tlog_proof
from ledger.publiclog.command import main as log_command
from ledger.publiclog.line_file import check_line_file
from ledger.publiclog.line_request import format_line_request
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.mirror import mirror_log
from ledger.publiclog.source import WebSource
from ledger.publiclog.verification import verify_folder

pytestmark = pytest.mark.postgres

BASE = f"/log/{address('broadcaster')}"
EPOCHS = 3


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    """Three epochs, with bundles of a seeder in the last two."""
    with make_shard_scene(database_url, tmp_path) as made:
        made.deposit(10**9, made.terms.genesis_s + 1)
        for epoch in range(EPOCHS):
            made.reach_epoch(epoch)
            if epoch in {1, 2}:
                upload(made, epoch)
            made.judge_all()
            made.end_epoch(epoch)
            made.advance()
        yield made


def upload(scene: ShardScene, epoch: int) -> None:
    ann = make_entitlement(scene.operator, "ann")
    receipt = make_receipt(ann, "ann", "seeder", epoch, 999_983)
    scene.upload(make_payee_bundle("seeder", epoch, [ann], [receipt]))


@pytest.fixture
def client(scene: ShardScene) -> Iterator[httpx.Client]:
    with serve_app(make_app(scene.api_parts())) as made:
        yield made


@pytest.fixture
def log(database_url: str, tmp_path: Path) -> Iterator[tuple[LogMaker, Path, httpx.Client]]:
    """A log of made-up leaves, large enough for full tiles; its folder; a client."""
    with make_shard_scene(database_url, tmp_path) as made:
        leaves = LogMaker().close(300).close(40)
        folder = leaves.write(made.log_dir / address("broadcaster"))
        (folder / "log.vkey").write_text(vkey() + "\n")
        with serve_app(make_app(made.api_parts())) as client:
            yield leaves, folder, client


def url_of(client: httpx.Client, path: str = BASE) -> str:
    return str(client.base_url).rstrip("/") + path


def test_caching_follows_what_can_change(log) -> None:
    made, folder, client = log
    width = len(made.leaves) - 256
    rules = {
        f"{BASE}/checkpoint": ("no-cache", "text/plain; charset=utf-8"),
        f"{BASE}/log.vkey": ("no-cache", "text/plain; charset=utf-8"),
        f"{BASE}/tile/0/000": ("public, max-age=31536000, immutable", "application/octet-stream"),
        f"{BASE}/tile/0/001.p/{width}": ("public, max-age=300", "application/octet-stream"),
        f"{BASE}/tile/entries/001.p/{width}": ("public, max-age=300", "application/octet-stream"),
        "/checkpoint": ("no-cache", "text/plain; charset=utf-8"),
    }
    for path, (cache, media_type) in rules.items():
        answer = client.get(path)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, cache)
        assert answer.headers["content-type"] == media_type
        tag = answer.headers["etag"]
        for named in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = client.get(path, headers={"If-None-Match": named})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
        head = client.head(path)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
        assert head.headers["content-length"] == str(len(answer.content))
    before = client.get("/checkpoint").headers["etag"]
    os.utime(folder / "checkpoint", (1, 1))
    assert client.get("/checkpoint").headers["etag"] == before, "a tag is of the content"
    (folder / "checkpoint").write_bytes(made.notes[0])
    assert client.get("/checkpoint").headers["etag"] != before


def test_every_leaf_and_every_growth_has_a_proof_that_others_can_read(log) -> None:
    made, folder, client = log
    leaves, keys = made.leaves, make_trust().log_verifier_keys()
    size = len(leaves)
    for index in [*range(0, size, 17), 255, 256, size - 1]:
        proof = parse_tlog_proof(client.get(f"/v1/proofs/{index}.tlog-proof").content)
        verified = check_tlog_proof(proof, leaves[index], origin=ORIGIN, known_keys=keys)
        assert verified.checkpoint.tree_size == size
    beyond = client.get(f"/v1/proofs/{size}.tlog-proof")
    assert (beyond.status_code, beyond.json()["code"]) == (404, "unknown_leaf")
    for old in [*range(0, size, 19), 256, size]:
        answer = client.get("/v1/proofs/consistency", params={"old_size": old, "new_size": size})
        hashes = [bytes.fromhex(value) for value in answer.json()["hashes"]]
        check_consistency(old, root_hash(leaves[:old]), size, root_hash(leaves), hashes)
    wrong = client.get("/v1/proofs/consistency", params={"old_size": 3, "new_size": 2})
    assert (wrong.status_code, wrong.json()["code"]) == (404, "unknown_size")
    for tile in (folder / "tile").rglob("*"):
        if tile.is_file():
            tile.write_bytes(bytes(len(tile.read_bytes())))
    damaged = client.get("/v1/proofs/5.tlog-proof")
    assert (damaged.status_code, damaged.json()["code"]) == (503, "log_unwritten")
    growth = client.get("/v1/proofs/consistency", params={"old_size": 5, "new_size": size})
    assert (growth.status_code, growth.json()["code"]) == (503, "log_unwritten")


def test_documents_are_the_same_bytes_from_operator_mirror_and_rebuild(
    scene, client, tmp_path, capsysbinary
) -> None:
    (tmp_path / "trust.json").write_text(format_trust(scene.operator.trust))
    mirror = tmp_path / "mirror"
    with closing(WebSource(url_of(client))) as source:
        mirror_log(source, mirror, keys_of_trust(scene.operator.trust))
    assert verify_folder(mirror, keys_of_trust(scene.operator.trust)).last_epoch == EPOCHS - 1
    number = EPOCHS - 1
    served = client.get(f"/v1/epochs/{number}/document")
    assert "immutable" in served.headers["cache-control"]
    arguments = ["epoch", str(mirror), str(number), "--trust", str(tmp_path / "trust.json")]
    assert log_command(arguments) == 0
    # Beside lines of the server's own log, which a test has in the same process.
    assert capsysbinary.readouterr().out.splitlines(keepends=True)[-1] == served.content
    scene.anchor(number, scene.terms.epoch_end_s(number) + 7)
    scene.advance()
    assert client.get(f"/v1/epochs/{number}/document").content == served.content
    assert client.get(f"/v1/epochs/{number + 1}/document").status_code == 404
    assert client.get("/v1/epochs/1/document").json()["bundles"]["count"] == 1


def ask_line(client, *, by: str, account: str = "seeder account", epoch: int = 1, of=None):
    message = format_line_request(NETWORK, key("broadcaster"), key(of or account), epoch)
    headers = {
        "Swarmledger-Key": key(by).hex(),
        "Swarmledger-Signature": sign(seed(by), message).hex(),
    }
    return client.get(f"/v1/lines/{address(account)}/{epoch}.tlog-proof", headers=headers)


def test_a_party_alone_gets_its_line_and_proves_it(scene, client, tmp_path) -> None:
    trust = scene.operator.trust
    (tmp_path / "trust.json").write_text(format_trust(trust))
    for name, status in (("seeder", 0), ("viewer", 2)):
        seed_file = tmp_path / f"{name}.seed"
        seed_file.touch(mode=0o600)
        seed_file.write_text(seed(name).hex())
        arguments = ["my-line", url_of(client, ""), "--epoch", "1", "--key-file", str(seed_file)]
        arguments += ["--account", address("seeder account"), "--out", str(tmp_path / "line")]
        assert log_command([*arguments, "--trust", str(tmp_path / "trust.json")]) == status
    check = ["check-line", str(tmp_path / "line"), "--trust", str(tmp_path / "trust.json")]
    assert log_command(check) == 0
    for by in ("seeder account", "seeder"):
        for epoch in (1, 2):
            answer = ask_line(client, by=by, epoch=epoch)
            assert answer.status_code == 200
            assert "private" in answer.headers["cache-control"]
            proven = check_line_file(answer.content, trust)
            assert (proven.epoch, proven.line.subject) == (epoch, key("seeder account"))
            assert proven.line.credited_bytes == 999_983
            assert len(answer.content) < 4_096
    content = ask_line(client, by="seeder").content
    proof = parse_tlog_proof(content)
    for place in range(0, len(proof.extra), 7):
        extra = bytearray(proof.extra)
        extra[place] ^= 1
        changed = format_tlog_proof(replace(proof, extra=bytes(extra)))
        with pytest.raises((DisprovenError, UndecidableError)):
            check_line_file(changed, trust)
    moved = content.replace(f"index {proof.leaf_index}\n".encode(), b"index 0\n")
    with pytest.raises(DisprovenError):
        check_line_file(moved, trust)
    retired = (
        TrustedKey(key=key("log"), first_epoch=0),
        TrustedKey(key=key("log 2"), first_epoch=1),
    )
    with pytest.raises(DisprovenError, match="a key from before epoch 1"):
        check_line_file(content, replace(trust, log_keys=retired))
    assert ask_line(client, by="viewer").json()["code"] == "not_the_party"
    assert ask_line(client, by="seeder", of="another").status_code == 403
    url = f"/v1/lines/{address('seeder account')}/1.tlog-proof"
    assert client.get(url).status_code == 400
    stranger = ask_line(client, by="stranger", account="stranger")
    assert (stranger.status_code, stranger.json()["code"]) == (404, "no_line")
    assert ask_line(client, by="seeder", epoch=9).status_code == 404
