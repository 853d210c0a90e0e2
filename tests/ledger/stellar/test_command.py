"""The command `swarmledger stellar` on a devnet, and the seed files it writes."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from settlement_scene import PASSPHRASE, DevnetProcess

from ledger.audit.address import parse_account
from ledger.evidence.keys import public_key_of
from ledger.stellar.command import main
from ledger.stellar.domain import DomainKeys
from ledger.stellar.errors import SeedFileError
from ledger.stellar.seed_files import load_or_make_seed, load_seeds, read_seed

pytestmark = pytest.mark.process


def run(
    devnet: DevnetProcess, capsys: pytest.CaptureFixture[str], command: str, *arguments: str
) -> dict[str, Any]:
    options = ["--gateway", devnet.url, "--passphrase", PASSPHRASE, "--json"]
    with devnet.closing():
        assert main([command, *options, *arguments]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_setup_makes_a_funded_domain_in_a_few_ledgers(
    devnet: DevnetProcess, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = tmp_path / "payees"
    names.write_text("".join(f"peer-{number}\n" for number in range(45)))
    arguments = ["--keys-dir", str(tmp_path / "keys"), "--payees", str(names)]
    made = run(devnet, capsys, "setup", *arguments, "--channels", "3", "--deposit", "1000.5")
    accounts, asset = made["accounts"], f"USD:{made['asset']['issuer']}"
    assert accounts["channels"] == sorted(accounts["channels"], key=parse_account)
    assert len(accounts["payees"]) == 45
    everybody = [accounts["escrow"], accounts["payout"], *accounts["payees"].values()]
    shown = run(devnet, capsys, "balances", *everybody)["accounts"]
    assert shown[accounts["escrow"]][asset] == 10_005_000_000
    assert all(shown[text][asset] == 0 for text in everybody[1:])

    seed_file = tmp_path / "keys" / "broadcaster.seed"
    more = ["--seed-file", str(seed_file), "--escrow", accounts["escrow"]]
    issuer = ["--issuer", made["asset"]["issuer"], "--amount", "0.0000001"]
    assert run(devnet, capsys, "deposit", *more, *issuer)["stroops"] == 1
    paid = run(devnet, capsys, "payments", "--account", accounts["broadcaster"])
    assert paid["totals_stroops"] == {asset: 10_005_000_001}
    assert [payment["account"] for payment in paid["payments"]] == 2 * [accounts["escrow"]]

    again = run(devnet, capsys, "setup", *arguments, "--channels", "3")
    assert again["accounts"] == accounts
    assert set(load_seeds(tmp_path / "keys" / "operator")) == {
        parse_account(text) for text in (accounts["escrow"], accounts["payout"], accounts["anchor"])
    } | {parse_account(text) for text in accounts["channels"]}
    seeds = list((tmp_path / "keys").rglob("*.seed"))
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in seeds)


@pytest.mark.parametrize("gone", [["escrow"], ["payout"], ["escrow", "payout"]])
def test_setup_does_not_make_deleted_treasury_keys_anew(tmp_path: Path, gone: list[str]) -> None:
    """Settlers sign by then; other accounts than the terms' would take the next deposit."""
    DomainKeys.load_or_make(tmp_path, 1, [])
    for name in gone:
        (tmp_path / "operator" / f"{name}.seed").unlink()
    with pytest.raises(SeedFileError, match=f"no {gone[0]}.seed"):
        DomainKeys.load_or_make(tmp_path, 2, [])
    assert not any((tmp_path / "operator" / f"{name}.seed").exists() for name in gone)


def test_setup_that_was_cut_off_after_the_first_keys_goes_on(tmp_path: Path) -> None:
    keys = DomainKeys.load_or_make(tmp_path, 1, [])
    for name in ("anchor", "channel-0", "payout"):
        (tmp_path / "operator" / f"{name}.seed").unlink()
    assert DomainKeys.load_or_make(tmp_path, 1, []).escrow == keys.escrow


def test_channel_accounts_have_used_no_sequence_number_after_setup(
    devnet: DevnetProcess, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = run(devnet, capsys, "setup", "--keys-dir", str(tmp_path / "k"), "--deposit", "1")
    for text in made["accounts"]["channels"]:
        account = devnet.client.get(f"/accounts/{text}").json()
        assert int(account["sequence"]) & 0xFFFFFFFF == 0


def test_setup_takes_an_asset_that_somebody_else_has_issued(
    devnet: DevnetProcess, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = run(devnet, capsys, "setup", "--keys-dir", str(tmp_path / "other"))["accounts"]
    made = run(
        devnet, capsys, "setup", "--keys-dir", str(tmp_path / "k"), "--asset",
        f"USD:{other['issuer']}",
    )  # fmt: skip
    accounts, asset = made["accounts"], f"USD:{other['issuer']}"
    assert made["asset"] == {"code": "USD", "issuer": other["issuer"]}
    trusting = [accounts[name] for name in ("broadcaster", "escrow", "payout")]
    shown = run(devnet, capsys, "balances", *trusting)["accounts"]
    assert [shown[text][asset] for text in trusting] == [0, 0, 0]


def test_wrong_network_is_refused(
    devnet: DevnetProcess, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--gateway", devnet.url, "--passphrase", "another network"]
    assert main(["setup", *options, "--keys-dir", str(tmp_path / "k")]) == 1
    assert "want the configured one" in capsys.readouterr().err
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["--channels", "17"], "channels: got 17, want 1 to 16"),
        (["--deposit", "1.23456789"], "amount"),
        (["--deposit", "-1"], "amount: got -10000000, want 0 or more"),
        (["--payees", "/no/such/file"], "No such file"),
    ],
)
def test_bad_setup_argument_says_what_is_wanted(
    devnet: DevnetProcess,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    want: str,
) -> None:
    options = ["--gateway", devnet.url, "--passphrase", PASSPHRASE]
    assert main(["setup", *options, "--keys-dir", str(tmp_path / "k"), *arguments]) == 1
    assert want in capsys.readouterr().err


def test_seed_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.seed"
    seed = load_or_make_seed(path)
    assert load_or_make_seed(path) == seed == read_seed(path)
    assert len(public_key_of(seed)) == 32
    path.chmod(0o640)
    with pytest.raises(SeedFileError, match="want mode 0600"):
        read_seed(path)


@pytest.mark.parametrize("content", ["", "00", "g" * 64, "SAAA", "\xff"])
def test_file_without_a_seed_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.seed"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(SeedFileError, match="want 64 hexadecimal digits"):
        read_seed(path)


def test_stellar_secret_key_is_a_seed(tmp_path: Path) -> None:
    path = tmp_path / "x.seed"
    path.write_text("SCZANGBA5YHTNYVVV4C3U252E2B6P6F5T3U6MM63WBSBZATAQI3EBTQ4\n")
    path.chmod(0o600)
    # The example of SEP-23's predecessor, the Stellar documentation's root of many keys.
    assert len(read_seed(path)) == 32


def test_missing_keys_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedFileError, match="got no seed file"):
        load_seeds(tmp_path)
