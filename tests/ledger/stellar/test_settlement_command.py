"""`swarmledger settlement` on a real devnet and database: look, cancel, go on, tend accounts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from settlement_scene import LOG_SEED, PASSPHRASE, Scene, register_broadcaster
from stellar_sdk import Keypair, TransactionEnvelope
from stellar_sdk.operation import ChangeTrust

from ledger.audit.address import format_account
from ledger.evidence.keys import public_key_of
from ledger.stellar.gateway import NATIVE
from ledger.stellar.settlement_command import main
from ledger.store import settlement_store as store
from ledger.store import stop_store

pytestmark = [pytest.mark.postgres, pytest.mark.process]

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(
    scene: Scene,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    log_key = tmp_path / "log.seed"
    log_key.write_text(LOG_SEED.hex())
    log_key.chmod(0o600)
    monkeypatch.setenv("SWARMLEDGER_DATABASE_URL", database_url)
    monkeypatch.setenv("SWARMLEDGER_GATEWAY_URL", scene.devnet.url)
    monkeypatch.setenv("SWARMLEDGER_NETWORK_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("SWARMLEDGER_LOG_KEY_FILE", str(log_key))

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = main([*arguments, "--json"])
        told = capsys.readouterr()
        return code, json.loads(told.out) if code != 1 else {"error": told.err}

    return call


def seed_file(folder: Path, name: str, seed: bytes) -> str:
    path = folder / f"{name}.seed"
    path.write_text(seed.hex())
    path.chmod(0o600)
    return str(path)


def test_batch_is_cancelled_by_command_and_a_halt_lifted(scene: Scene, run: Run) -> None:
    scene.plan({scene.payees[0]: 5})
    code, told = run("status")
    assert (code, told["batches"]["planned"], told["stops"]) == (0, 2, [])
    assert [line["batch"] for line in told["undecided"]] == [0, 1]
    assert run("cancel", "1", "--why", "a wrong price")[1]["state"] == "burning"
    scene.settle_all()
    assert scene.states() == ["paid", "burned"]
    assert scene.batches()[1].reason == "a wrong price"
    assert scene.paid() == {}
    assert "want an undecided one" in run("cancel", "1", "--why", "again")[1]["error"]
    with scene.sessions.begin() as session:
        stop_store.open_stop(
            session,
            scene.broadcaster,
            account=stop_store.DOMAIN,
            is_halt=True,
            cause="txINTERNAL_ERROR",
            reason="batch 9",
            ledger_sequence=7,
        )
    assert scene.settle().is_halted
    code, told = run("status")
    (stop,) = told["stops"]
    assert (code, stop["what"], stop["where"]) == (3, "halt", "everything")
    assert run("resume", str(stop["stop"]), "--why", "looked")[0] == 0
    assert run("resume", str(stop["stop"]), "--why", "looked")[0] == 1
    assert not scene.settle().is_halted
    assert told["sources"][0]["source"] == scene.devnet.url


def test_channels_are_rotated_by_terms_and_the_old_one_retired_last(
    scene: Scene, run: Run, tmp_path: Path
) -> None:
    issuer = seed_file(tmp_path, "issuer", scene.keys.issuer)
    (old, kept), new = scene.made.channels, Keypair.random()
    old_seed = next(seed for seed in scene.keys.channels if public_key_of(seed) == old)
    leaves = scene.plan({scene.payees[0]: 5}, {scene.payees[1]: 6})
    assert old in {leaf.channel_account for leaf in leaves}
    now = scene.gateway.latest_ledger()
    terms = replace(
        scene.domain.terms,
        channel_accounts=tuple(sorted((kept, new.raw_public_key()))),
        first_epoch=scene.domain.terms.epoch_at(now.close_time_s) + 1,
    )
    register_broadcaster(scene.sessions, terms, scene.keys.broadcaster)
    early = run("channels", "create", "--funder-seed-file", issuer)
    scene.devnet.client.post(
        "/devnet/close", json={"close_time": now.close_time_s + 30}
    ).raise_for_status()
    with scene.devnet.closing():
        code, told = run("channels", "create", "--funder-seed-file", issuer, "--xlm", "5")
    assert (early[0], code, told["created"]) == (1, 0, [new.public_key])
    retire = ("channels", "retire", "--seed-file", seed_file(tmp_path, "old", old_seed))
    to = ("--to", format_account(scene.made.issuer))
    assert "want them decided" in run(*retire, *to)[1]["error"]
    listed = {line["account"]: line for line in run("channels", "list")[1]["channels"]}
    assert listed[format_account(old)]["open_batches"]
    assert listed[new.public_key]["xlm_stroops"] == 5 * 10_000_000
    scene.domain = replace(scene.domain, terms=replace(terms, channel_accounts=(kept,)))
    scene.settle_all()
    assert scene.states() == ["paid", "paid", "paid"]
    with scene.devnet.closing():
        given = run("channels", "fund", "--funder-seed-file", issuer, "--xlm", "9")[1]
        assert run(*retire, *to)[0] == 0
    assert given["given_stroops"] == {new.public_key: 4 * 10_000_000}
    assert scene.gateway.account(old) is None


def test_channel_of_the_terms_in_force_is_not_retired(
    scene: Scene, run: Run, tmp_path: Path
) -> None:
    path = seed_file(tmp_path, "channel", scene.keys.channels[0])
    to = format_account(scene.made.issuer)
    told = run("channels", "retire", "--seed-file", path, "--to", to)[1]
    assert "still in the terms" in told["error"]


def test_account_is_created_within_the_budget_and_its_trustline_offered(
    scene: Scene, run: Run, tmp_path: Path
) -> None:
    funder = seed_file(tmp_path, "issuer", scene.keys.issuer)
    payees = [Keypair.random() for _ in range(3)]
    names = [payee.public_key for payee in payees]
    with scene.devnet.closing():
        code, told = run("sponsor", "--funder-seed-file", funder, "--budget", "3", *names)
    assert code == 0
    assert (told["created"], told["left_out"]) == (names[:2], names[2:])
    assert told["spent_stroops"] == 2 * 10_100_000
    offered = told["trustlines_to_sign"]
    assert set(offered) == set(names[:2])
    envelope = TransactionEnvelope.from_xdr(offered[names[0]], PASSPHRASE)
    assert isinstance(envelope.transaction.operations[1], ChangeTrust)
    # Good for nothing before the payee has signed it.
    half = envelope.to_xdr_object().to_xdr_bytes()
    assert scene.gateway.submit(half).code == "txBAD_AUTH"
    envelope.sign(payees[0])
    scene.gateway.submit(envelope.to_xdr_object().to_xdr_bytes())
    scene.devnet.close_ledgers()
    view = scene.gateway.account(payees[0].raw_public_key())
    assert view is not None
    assert (scene.made.asset_code, scene.made.issuer) in view.balances
    assert view.balances[NATIVE] == 10_100_000 - 300


def test_nothing_is_looked_at_before_the_first_epoch_is_computed(scene: Scene, run: Run) -> None:
    assert run("preflight") == (0, {"notes": 0, "not_ready": {}})
    with scene.sessions() as session:
        assert store.load_batches(session, scene.broadcaster) == ()
