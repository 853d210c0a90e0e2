"""`swarmledger instruct`: signs with a key file, sends, and prints what became of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import PASSPHRASE, key, seed
from typer.testing import CliRunner

from ledger.api.app import make_app
from ledger.api.instruct_command import app
from ledger.audit.trust import format_trust, parse_trust
from ledger.store.epoch_store import load_closing_state
from ledger.store.shard_store import activation_in_force, parse_registration, register

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(0)
        made.advance()
        yield made


@pytest.fixture
def api(scene: ShardScene) -> Iterator[str]:
    with serve_app(make_app(scene.api_parts())) as client:
        yield str(client.base_url)


@pytest.fixture(autouse=True)
def plain_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMLEDGER_PLAIN_KEYS", "allow")


def key_file(folder: Path, name: str) -> str:
    path = folder / f"{name.replace(' ', '-')}.seed"
    path.write_text(seed(name).hex())
    path.chmod(0o600)
    return str(path)


def answer_in(output: str) -> dict[str, Any]:
    """The command's one line; the server of the test logs beside it."""
    (line,) = (line for line in output.splitlines() if line.startswith("{"))
    return json.loads(line)


def test_a_refund_is_asked_for_looked_up_and_taken_back(
    scene: ShardScene, api: str, tmp_path: Path
) -> None:
    key = key_file(tmp_path, "broadcaster")
    asked = CliRunner().invoke(app, ["refund", "--key", key, "--api", api])
    assert asked.exit_code == 0, asked.output
    digest = answer_in(asked.stdout)["digest"]
    scene.end_epoch(0)
    scene.advance()
    shown = CliRunner().invoke(app, ["show", digest, "--api", api])
    assert answer_in(shown.stdout)["state"] == "applied"
    back = CliRunner().invoke(app, ["refund", "--key", key, "--api", api, "--amount-stroops", "0"])
    assert back.exit_code == 0, back.output
    scene.end_epoch(1)
    scene.advance()
    with scene.sessions.begin() as session:
        closing = load_closing_state(session, scene.shard, 1)
    assert closing is not None
    assert closing.refund is not None
    assert closing.refund.left_stroops == 0


def test_a_ruling_is_kept_and_others_keys_are_refused(
    scene: ShardScene, api: str, tmp_path: Path
) -> None:
    dao, mallory = key_file(tmp_path, "dao"), key_file(tmp_path, "mallory")
    ruled = CliRunner().invoke(app, ["rule", "07" * 32, "loss", "--key", dao, "--api", api])
    assert ruled.exit_code == 0, ruled.output
    assert answer_in(ruled.stdout)["subject"] == "07" * 32
    for arguments, words in (
        (["rule", "07" * 32, "loss", "--key", mallory, "--api", api], "wrong_signer"),
        (["refund", "--key", mallory, "--api", api], "key: got that of"),
        (["show", "08" * 32, "--api", api], "unknown_instruction"),
    ):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 1
        assert words in refused.stderr
    wrong = CliRunner().invoke(app, ["rule", "07", "loss", "--key", dao, "--api", api])
    assert wrong.exit_code == 2


def test_a_dao_puts_a_contract_in_force_and_says_whom_to_trust(
    scene: ShardScene, tmp_path: Path
) -> None:
    terms_file, out, trust_file = (tmp_path / name for name in ("terms", "activation", "trust"))
    terms_file.write_bytes(scene.operator.signed_terms.raw)
    arguments = ["activate", str(terms_file), "--key", key_file(tmp_path, "dao"), "--out", str(out)]
    arguments += ["--trust-out", str(trust_file), "--passphrase"]
    other = CliRunner().invoke(app, [*arguments, "another network"])
    assert other.exit_code == 2
    assert not out.exists()
    done = CliRunner().invoke(app, [*arguments, PASSPHRASE])
    assert done.exit_code == 0, done.output
    terms = scene.operator.terms
    assert answer_in(done.stdout)["rules_digest"] == terms.rules_digest.hex()
    registration = parse_registration(
        terms=terms_file.read_bytes(),
        binding=scene.operator.issuing_binding,
        activation=out.read_bytes(),
    )
    assert registration.terms.value == terms
    trust = parse_trust(trust_file.read_text())
    assert trust.broadcaster_account == terms.broadcaster_account
    assert [one.key for one in trust.dao_keys] == [key("dao")]
    again = CliRunner().invoke(app, [*arguments, PASSPHRASE])
    assert again.exit_code == 2


def test_another_dao_key_puts_the_contract_in_force_from_its_own_first_epoch(
    scene: ShardScene, tmp_path: Path
) -> None:
    terms_file, published = tmp_path / "terms", tmp_path / "trust"
    terms_file.write_bytes(scene.operator.signed_terms.raw)
    published.write_text(format_trust(scene.operator.trust))

    def activate(name: str, **options: object):
        named = {
            "key": key_file(tmp_path, name),
            "passphrase": PASSPHRASE,
            "out": tmp_path / "activation 2",
            "trust-out": tmp_path / "trust 2",
            "trust": published,
            **options,
        }
        words = [word for option, value in named.items() for word in (f"--{option}", str(value))]
        return CliRunner().invoke(app, ["activate", str(terms_file), *words])

    last = scene.operator.terms.last_epoch
    for epoch, words in ((0, "want one after 0"), (last + 1, f"want 0..{last}")):
        refused = activate("dao 2", **{"first-epoch": epoch})
        assert refused.exit_code == 2
        assert words in " ".join(refused.output.replace("│", " ").split())
    assert not (tmp_path / "activation 2").exists()
    done = activate("dao 2", **{"first-epoch": 2})
    assert done.exit_code == 0, done.output
    assert answer_in(done.stdout)["first_epoch"] == 2
    trust = parse_trust((tmp_path / "trust 2").read_text())
    assert (trust.dao_key_at(1), trust.dao_key_at(2)) == (key("dao"), key("dao 2"))
    assert trust.log_keys == scene.operator.trust.log_keys
    registration = parse_registration(
        terms=terms_file.read_bytes(),
        binding=scene.operator.issuing_binding,
        activation=(tmp_path / "activation 2").read_bytes(),
    )
    with scene.sessions.begin() as session:
        register(session, registration)
        assert activation_in_force(session, scene.shard, 2) == registration.activation
